# cython: freethreading_compatible=False
"""Carries out a restored text on the draft of a legacy table, after checking that rules can jump where they do."""

import warnings

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EINVAL, ENOENT
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport strcmp

from .._core cimport (
    NF_INET_NUMHOOKS, Family, is_verdict_name, os_decode, target_offset, xt_counters,
)
from .blob cimport shorten
from .draft cimport (
    EXTENSION, FALL_THROUGH, NEW_RULE, VERDICT, Draft, DraftChain, RuleRow,
)
from ..language.comparing cimport same_under_mask
from ..language.restored_text cimport HAS_EXTENSION, RestoredTable, Record, Run, first_record
from .._rope cimport rope_free
from .._verdicts cimport Verdict, verdict_named
from .._core import standard_target
from ..language.plugins import XTablesWarning
from ..model.arranging import ArrangesAtOnce
from ..errors import Missing, ParameterError


class TableDraft(Draft, ArrangesAtOnce):
    """A draft with the verbs that restored texts use (see `model.commands`)."""

    line = None
    """The line of the restored text that is being carried out, or None."""

    def begin(self, RestoredTable restored not None):
        """Delete all rules and all user chains, unless *restored* keeps them."""
        if restored.flush:
            _flush_all(self)
        _keep(self, restored)

    def take(self, Run rule not None):
        """Return the bytes of a rule. Raises if it cannot jump where it does."""
        return _checked(rule.restored.family, first_record(rule), self.policy_of)

    def append_run(self, Run run not None):
        """Append the rules of commands `-A` that follow each other."""
        cdef uint32_t line = 0
        try:
            _append_run(self, run, &line)
        finally:
            self.line = line

    def locate(self, name, Run rule not None):
        """Return the position of the first rule that is the same as *rule* (`iptables -D`), or raise `OSError`
        (ENOENT)."""
        cdef Draft draft = self
        cdef const Record *record = first_record(rule)
        cdef RuleRow row
        cdef DraftChain chain
        cdef size_t position
        _fill(draft, &row, record)
        draft._let_go(&row)
        chain = draft._find(name)
        position = _find_same(draft.family, chain, &row, record)
        if position == chain.rules.count:
            raise OSError(ENOENT, "no such rule")
        return position


cdef int _keep(Draft draft, RestoredTable restored) except -1:
    """Keep *restored* as long as the draft: rows point into its memory."""
    draft.kept.append(restored)
    draft.changed = True
    return 0


cdef int _flush_all(Draft draft) except -1:
    """Delete all rules, and all user chains."""
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


cdef int _append_run(Draft draft, Run run, uint32_t *line) except -1:
    """Append the rules of *run*. *line* is set to the line of each rule before the rule is read."""
    cdef DraftChain chain = None
    cdef const Record *record
    cdef RuleRow row
    cdef size_t at = run.start
    while at < run.end:
        record = <const Record *> (run.restored.memory + at)
        line[0] = record.line
        # the target first: if neither target nor chain exists, iptables reports the target
        _fill(draft, &row, record)
        if chain is None or strcmp(PyBytes_AS_STRING(chain.label), record.chain):
            chain = draft._find(os_decode(record.chain))
        chain.make_room(chain.rules.count)[0] = row
        at += record.size
    return 0


cdef int _fill(Draft draft, RuleRow *row, const Record *record) except -1:
    """Make *row* the rule of *record*, with the counters of the text."""
    cdef const char *entry = <const char *> (record + 1)
    cdef bint extension = record.counted == HAS_EXTENSION
    cdef const Verdict *verdict
    cdef DraftChain chain
    if extension:
        shorten(draft.family, <char *> entry)
    row.entry = entry
    row.jump = FALL_THROUGH
    row.verdict = 0
    row.counters.base = (<const xt_counters *> (entry + draft.family.counters))[0]
    row.counters.place = NEW_RULE
    if not record.other[0]:
        return 0
    if not extension and not _is_goto(draft.family, entry):
        verdict = verdict_named(record.other)
        if verdict != NULL:
            row.jump = VERDICT
            row.verdict = verdict.number
            return 0
    chain = draft.by_name.get(os_decode(record.other))
    if chain is None and extension:
        row.jump = EXTENSION
        return 0
    if chain is None or chain.hook != NF_INET_NUMHOOKS or extension:
        jump = _checked(draft.family, record, draft.policy_of)
        draft.kept.append(jump)
        row.entry = PyBytes_AS_STRING(jump)
    row.jump = chain.number
    chain.references += 1
    return 0


# ------------------------------------------------------- whether a rule can jump there

def checked(Run rule not None, policy_of):
    """Return the bytes of *rule*, after checking that it can jump where it does.

    policy_of(chain) returns the policy of a chain, "" for a user chain, None if there is no such chain. Raises what
    iptables says.
    """
    return _checked(rule.restored.family, first_record(rule), policy_of)


cdef bytes _checked(Family *family, const Record *record, policy_of):
    cdef bytes entry = PyBytes_FromStringAndSize(<const char *> (record + 1), record.entry_size)
    cdef bint extension = record.counted == HAS_EXTENSION
    cdef bint goto = _is_goto(family, PyBytes_AS_STRING(entry))
    if not record.other[0] or not extension and not goto and is_verdict_name(record.other):
        return entry
    name = os_decode(record.other)
    if not extension and is_verdict_name(record.other):
        raise ParameterError(f"goto '{name}' is not a chain")
    policy = policy_of(name)
    if policy:
        raise OSError(EINVAL, "a jump to a builtin chain")
    if policy is not None:
        return _as_jump(family, entry, name) if extension else entry
    if extension:
        return entry
    raise Missing(f"goto '{name}' is not a chain" if goto
                  else f"Couldn't load target `{name}':No such file or directory")


cdef inline bint _is_goto(Family *family, const char *entry) noexcept nogil:
    return entry[family.flags] & family.goto_flag


cdef bytes _as_jump(Family *family, bytes entry, str name):
    """Return *entry* with a jump to chain *name*, in place of the target extension of the same name. iptables prefers
    the chain too, and prints this warning."""
    cdef bytes jump = entry[:target_offset(family, PyBytes_AS_STRING(entry))] + standard_target(name)
    (<uint16_t *> (PyBytes_AS_STRING(jump) + family.offsets))[1] = PyBytes_GET_SIZE(jump)
    warnings.warn(f"Warning: using chain {name}, not extension", XTablesWarning, stacklevel=2)
    return jump


# -------------------------------------------------------------- finding the same rule

cdef size_t _find_same(Family *family, DraftChain chain, const RuleRow *wanted, const Record *record) noexcept nogil:
    """Return the position of the first rule that `iptables -D` would find, or the number of rules if there is none."""
    cdef const char *mask = <const char *> (record + 1) + record.entry_size
    cdef size_t i
    for i in range(chain.rules.count):
        if _is_same(family, chain.row(i), wanted, mask):
            return i
    return chain.rules.count


cdef bint _is_same(Family *family, const RuleRow *row, const RuleRow *wanted, const char *mask) noexcept nogil:
    """Whether `iptables -D` takes two rules for the same: they go to the same place, and say the same under *mask*."""
    if row.jump != wanted.jump or row.verdict != wanted.verdict and row.jump == VERDICT:
        return False
    return same_under_mask(family, row.entry, wanted.entry, mask, row.jump == EXTENSION)
