# cython: freethreading_compatible=False
"""Does a restored text to the draft of a legacy table: each command as iptables does it, refused in iptables' words."""

import warnings

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport E2BIG, EEXIST, EINVAL, EMLINK, ENOENT, ENOTEMPTY
from libc.stdint cimport int32_t, uint16_t, uint32_t
from libc.string cimport memcmp, strcmp

from .._linux cimport IFNAMSIZ
from .._core cimport NF_INET_NUMHOOKS, Family, next_offset, os_decode, target_offset, xt_counters, xt_entry_match
from .blob cimport shorten
from .draft cimport (
    EXTENSION, FALL_THROUGH, NOWHERE, VERDICT, Draft, DraftChain, RuleRow,
)
from ..language.options cimport (
    APPEND, CHECK, DELETE, DELETE_CHAIN, DELETE_NUM, FLUSH, INSERT, NEW_CHAIN, RENAME, REPLACE, SET_POLICY, ZERO, ZERO_NUM,
)
from ..language.plugins cimport PAYLOAD_HEADER
from ..language.program cimport DECLARE, HAS_EXTENSION, ONLY_JUMP, Program, Record
from .._rope cimport rope_free
from .._core import standard_target
from ..language.plugins import XTablesWarning
from ..language.program import refused
from ..errors import IPTCError, Missing, kernel_error

cdef dict _REASONS = {
    (INSERT, E2BIG): "Index of insertion too big", (REPLACE, E2BIG): "Index of replacement too big",
    (DELETE_NUM, E2BIG): "Index of deletion too big", (ZERO_NUM, E2BIG): "Index of counter too big",
    (DELETE, ENOENT): "Bad rule (does a matching rule exist in that chain?)",
    (CHECK, ENOENT): "Bad rule (does a matching rule exist in that chain?)",
    (NEW_CHAIN, EEXIST): "Chain already exists", (DELETE_CHAIN, EINVAL): "Can't delete built-in chain",
    (DELETE_CHAIN, EMLINK): "Can't delete chain with references left", (DELETE_CHAIN, ENOTEMPTY): "Chain is not empty",
    (SET_POLICY, ENOENT): "Bad built-in chain name", (SET_POLICY, EINVAL): "Bad policy name",
}


class TableDraft(Draft):
    """A draft of a table to which restored texts are done too."""

    def restore(self, program):
        """Do what *program* says; where that raises, the draft is not to be sent."""
        run(program, self)


def run(Program program not None, Draft draft not None):
    """Do what *program* says to *draft*; when it raises, the draft is not to be sent.

    `KernelError` (`NotFound`, …) with the number of the line as `line` where the table does not allow it.
    """
    cdef size_t at = 0
    cdef Record *record
    if program.flush:
        _flush_all(draft)
    # rows point into the program
    draft.kept.append(program)
    draft.changed = True
    while at < program.used:
        record = <Record *> (program.memory + at)
        try:
            _do(program, draft, record)
        except OSError as error:
            if isinstance(error, IPTCError):
                raise
            reason = _REASONS.get((record.command, error.errno))
            if reason is None:
                reason = "No chain/target/match by that name" if error.errno == ENOENT else error.strerror
            failed = kernel_error(f"line {record.line} failed", error.errno, reason)
            failed.line = record.line
            raise failed from None
        at += record.size


cdef int _flush_all(Draft draft) except -1:
    """Empty all chains, and take away the user chains."""
    cdef DraftChain chain
    for chain in draft.chains:
        if chain is not None:
            rope_free(&chain.rules)
            chain.references = 0
    for chain in list(draft.by_name.values()):
        if chain.hook == NF_INET_NUMHOOKS:
            del draft.by_name[chain.name]
            draft.chains[chain.number] = None
    return 0


cdef DraftChain _last_chain = None       # the one found last: commands of a chain follow each other


cdef DraftChain _chain_of(Draft draft, const char *name):
    global _last_chain
    cdef DraftChain chain = _last_chain
    if chain is not None and strcmp(PyBytes_AS_STRING(chain.label), name) == 0 and draft.by_name.get(chain.name) is chain:
        return chain
    _last_chain = draft._find(os_decode(name))
    return _last_chain


cdef int _do(Program program, Draft draft, Record *record) except -1:
    """One command; `OSError` where the table does not allow it."""
    cdef uint32_t command = record.command
    cdef DraftChain chain
    cdef RuleRow row
    cdef size_t position
    if command == APPEND:
        # the target first: of two names that are not there iptables reports that
        _fill(draft, &row, record)
        chain = _chain_of(draft, record.chain)
        chain.make_room(chain.rules.count)[0] = row
        return 0
    if command == DECLARE:
        return _declare(program, draft, record)
    if command == ONLY_JUMP:
        _fill(draft, &row, record)
        return draft._let_go(&row)
    if command in (FLUSH, ZERO, DELETE_CHAIN):
        return _do_to_chains(draft, record)
    name = os_decode(record.chain)
    if command == NEW_CHAIN:
        _create(draft, name)
    elif command == RENAME:
        if os_decode(record.other) in _VERDICTS:
            raise OSError(EEXIST, "File exists")
        draft.rename_chain(name, os_decode(record.other))
    elif command == SET_POLICY:
        draft.set_policy(name, os_decode(record.other),
                         (record.counters.pcnt, record.counters.bcnt) if record.counted else None)
    elif command == DELETE_NUM:
        draft.delete(name, record.number - 1)
    elif command == ZERO_NUM:
        chain = draft._find(name)
        if not 0 < record.number <= chain.rules.count:
            raise OSError(E2BIG, "no such position")
        draft.zero_row(chain.row(record.number - 1))
    else:
        _fill(draft, &row, record)
        chain = draft._find(name)
        if command == INSERT:
            if record.number - 1 > chain.rules.count:
                draft._let_go(&row)
                raise OSError(E2BIG, "no such position")
            chain.make_room(record.number - 1)[0] = row
        elif command == REPLACE:
            if record.number - 1 >= chain.rules.count:
                draft._let_go(&row)
                raise OSError(E2BIG, "no such position")
            draft._let_go(chain.row(record.number - 1))
            chain.row(record.number - 1)[0] = row
        else:
            # DELETE and CHECK only compare
            draft._let_go(&row)
            position = _find_same(draft.family, chain, &row, record)
            if position == chain.rules.count:
                raise OSError(ENOENT, "no such rule")
            if command == DELETE:
                draft.delete(name, position)
    return 0


cdef int _do_to_chains(Draft draft, Record *record) except -1:
    """`-F`, `-Z` and `-X`, of one chain or of all that there are."""
    cdef DraftChain chain
    cdef list names = []
    if record.chain[0]:
        names.append(os_decode(record.chain))
    else:
        for chain in draft.by_name.values():
            if record.command != DELETE_CHAIN or chain.hook == NF_INET_NUMHOOKS:
                names.append(chain.name)
    for name in names:
        if record.command == FLUSH:
            draft.flush(name)
        elif record.command == ZERO:
            draft.zero(name)
        else:
            draft.delete_chain(name)
    return 0


cdef int _create(Draft draft, str name) except -1:
    if name in draft.by_name or name in _VERDICTS:
        raise OSError(EEXIST, "Chain already exists")
    draft._new_chain(name)
    return 0


cdef int _declare(Program program, Draft draft, Record *record) except -1:
    """`:CHAIN POLICY`: a new chain, or the policy of a builtin one; one that is there is emptied, where the table is not."""
    cdef str name = os_decode(record.chain)
    cdef DraftChain chain = draft.by_name.get(name)
    if chain is None or chain.hook == NF_INET_NUMHOOKS:
        if chain is not None and not program.flush:
            draft.flush(name)
        elif chain is not None or name in _VERDICTS:
            raise refused(record.line, f"error creating chain '{name}':File exists")
        else:
            draft._new_chain(name)
    if strcmp(record.other, b"-"):
        try:
            draft.set_policy(name, os_decode(record.other), (record.counters.pcnt, record.counters.bcnt))
        except OSError as error:
            reason = _REASONS[SET_POLICY, error.errno]
            raise refused(record.line,
                          f"Can't set policy `{os_decode(record.other)}' on `{name}' line {record.line}: {reason}",
                          IPTCError.status) from None
    return 0


cdef int _fill(Draft draft, RuleRow *row, Record *record) except -1:
    """Make *row* the rule of *record*, which brings its own counters."""
    cdef const char *entry = <const char *> (record + 1)
    cdef const char *name = record.other
    cdef bint extension = record.counted == HAS_EXTENSION
    cdef DraftChain chain
    if extension:
        shorten(draft.family, <char *> entry)
    row.entry = entry
    row.jump = FALL_THROUGH
    row.verdict = 0
    row.counters.base = (<const xt_counters *> (entry + draft.family.counters))[0]
    row.counters.place = NOWHERE
    if not name[0]:
        return 0
    if not extension and _verdict_number(name, &row.verdict):
        if entry[draft.family.flags] & draft.family.goto_flag:
            raise refused(record.line, f"goto '{os_decode(name)}' is not a chain")
        row.jump = VERDICT
        return 0
    chain = draft.by_name.get(os_decode(name))
    if chain is None:
        if extension:
            row.jump = EXTENSION
            return 0
        if entry[draft.family.flags] & draft.family.goto_flag:
            raise refused(record.line, f"goto '{os_decode(name)}' is not a chain", kind=Missing)
        raise refused(record.line, f"Couldn't load target `{os_decode(name)}':No such file or directory", kind=Missing)
    if chain.hook != NF_INET_NUMHOOKS:
        raise OSError(EINVAL, "Invalid argument")
    if extension:
        row.entry = _as_jump(draft, entry, name)
    row.jump = chain.number
    chain.references += 1
    return 0


cdef frozenset _VERDICTS = frozenset(("ACCEPT", "DROP", "QUEUE", "RETURN"))


cdef bint _verdict_number(const char *name, int32_t *verdict) noexcept:
    if strcmp(name, b"ACCEPT") == 0:
        verdict[0] = -2
    elif strcmp(name, b"DROP") == 0:
        verdict[0] = -1
    elif strcmp(name, b"RETURN") == 0:
        verdict[0] = -5
    elif strcmp(name, b"QUEUE") == 0:
        verdict[0] = -4
    else:
        return False
    return True


cdef const char *_as_jump(Draft draft, const char *entry, const char *name) except NULL:
    """*entry* with its target, an extension, replaced by the chain of the same name: iptables prefers the chain, and says so."""
    cdef size_t target_at = target_offset(draft.family, entry)
    cdef bytes jump = entry[:target_at] + standard_target(os_decode(name))
    (<uint16_t *> (PyBytes_AS_STRING(jump) + draft.family.offsets))[1] = PyBytes_GET_SIZE(jump)
    draft.kept.append(jump)
    warnings.warn(f"Warning: using chain {os_decode(name)}, not extension", XTablesWarning, stacklevel=2)
    return PyBytes_AS_STRING(jump)


# -------------------------------------------------------- rules that are the same

cdef size_t _find_same(Family *family, DraftChain chain, const RuleRow *wanted, const Record *record) noexcept nogil:
    """The position of the first rule that `iptables -D` would find, or the number of rules."""
    cdef const char *mask = <const char *> (record + 1) + record.entry_size
    cdef size_t i
    for i in range(chain.rules.count):
        if _is_same(family, chain.row(i), wanted, mask):
            return i
    return chain.rules.count


cdef bint _is_same(Family *family, const RuleRow *row, const RuleRow *wanted, const char *mask) noexcept nogil:
    """As libiptc compares: addresses, interfaces under their masks, protocol and flags, then each payload under *mask*."""
    cdef const char *one = row.entry
    cdef const char *other = wanted.entry
    cdef size_t at = 4 * family.address, i, size
    cdef size_t target_at = target_offset(family, one)
    if row.jump != wanted.jump or row.verdict != wanted.verdict and row.jump == VERDICT:
        return False
    if target_at != target_offset(family, other) or memcmp(one, other, at):
        return False
    if row.jump == EXTENSION and next_offset(family, one) != next_offset(family, other):
        return False
    for i in range(at, at + 2 * IFNAMSIZ):
        if one[i + 2 * IFNAMSIZ] != other[i + 2 * IFNAMSIZ] or (one[i] ^ other[i]) & one[i + 2 * IFNAMSIZ]:
            return False
    if memcmp(one + family.proto, other + family.proto, family.flags + 2 - family.proto):
        return False
    at = family.header
    while at < target_at:
        size = (<const xt_entry_match *> (one + at)).u.match_size
        if not _is_same_payload(one + at, other + at, mask + at, size):
            return False
        at += size
    if row.jump != EXTENSION:
        return True
    return _is_same_payload(one + at, other + at, mask + at, next_offset(family, one) - at)


cdef bint _is_same_payload(const char *one, const char *other, const char *mask, size_t size) noexcept nogil:
    """Size, name up to its NUL, revision, and what the plugin says of itself."""
    cdef const xt_entry_match *payload = <const xt_entry_match *> one
    cdef const xt_entry_match *wanted = <const xt_entry_match *> other
    cdef size_t i
    if wanted.u.match_size != size or payload.u.user.revision != wanted.u.user.revision:
        return False
    if strcmp(payload.u.user.name, wanted.u.user.name):
        return False
    for i in range(PAYLOAD_HEADER, size):
        if (one[i] ^ other[i]) & mask[i]:
            return False
    return True
