# cython: freethreading_compatible=False
"""Writes a legacy table: edits a private copy, sends it as a whole, and gives the rules their counters back.

The kernel replaces a whole table (`IPT_SO_SET_REPLACE`). It returns the last counters of the old table, and the
counters of the new one start at zero. `IPT_SO_SET_ADD_COUNTERS` then adds the old counters of the rules that stay. No
packet is lost: the returned counters are exact, and the kernel adds them to what the new rules have counted by then.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport E2BIG, EBADF, EEXIST, EINVAL, EMLINK, ENOENT, ENOMEM, ENOTEMPTY
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset, strerror
from posix.unistd cimport close

from .._linux cimport errno_now, setsockopt
from .blob cimport ENTRIES_HEAD, TableBlob, give_back, open_socket, stored, take_buffer
from .._core cimport (
    ERROR_SIZE, NF_INET_NUMHOOKS, NFPROTO_IPV4, STANDARD_SIZE, PAYLOAD_HEADER, XT_RETURN, check_entry, family_of,
    is_verdict, next_offset, os_decode, target_offset, xt_counters, xt_entry_match,
)
from .._applied cimport APPLIED, NOTHING, Mark
from .._netns cimport Namespace
from .._verdicts cimport Verdict, verdict_named
from .._rope cimport rope_at, rope_delete, rope_free, rope_insert, rope_move
from .blob import table_strerror
from .._core import HOOKS, chain_label
from .._core import VERDICT_NUMBERS as _VERDICT_NUMBERS
from ..errors import KernelError, kernel_error

cdef enum:
    ADD_ATTEMPTS = 16

cdef dict _VERDICTS = _VERDICT_NUMBERS

cdef class DraftChain:
    """One chain of a draft. Its rules are rows that point at their bytes."""

    def __cinit__(self):
        self.rules.item = sizeof(RuleRow)

    def __dealloc__(self):
        rope_free(&self.rules)

    cdef RuleRow *row(self, size_t position) noexcept nogil:
        """Return the row at *position*, which must exist."""
        return <RuleRow *> rope_at(&self.rules, position)

    cdef RuleRow *make_room(self, size_t position) except NULL:
        """Move the rules from *position* on by one, and return the empty row in between."""
        cdef RuleRow *row = <RuleRow *> rope_insert(&self.rules, position)
        if row == NULL:
            raise MemoryError
        return row

    cdef void take_rules(self, DraftChain other) noexcept:
        """Take all rules of *other*, which is empty then."""
        rope_move(&self.rules, &other.rules)


cdef class Draft:
    """A private copy of the table that *blob* was read from. It is edited, and sent with `commit`.

    It is one of the kinds of handles that `model.edits` describes. Chains are named by `str`. Entries are bytes that
    have the name of a verdict or chain in the target. Positions count from 0. A verb that fails raises `OSError`.
    """

    def __cinit__(self):
        self.fd = -1
        self.mark = Mark()
        self.family = family_of(NFPROTO_IPV4)

    def __dealloc__(self):
        self._free()

    cdef void _free(self) noexcept:
        if self.fd >= 0:
            close(self.fd)
        self.fd = -1
        give_back(&self.buffer)
        free(self.origins)
        free(self.last)
        free(self.added)
        self.request = NULL
        self.origins = NULL
        self.last = NULL
        self.added = NULL
        self.committed = False

    def __init__(self, TableBlob blob not None, Namespace there=None):
        """Open the socket in the network namespace *there*, or without it in that of this thread."""
        cdef int failed, netns = -1 if there is None else there.where()
        self._free()
        self.blob = blob
        self.family = blob.family
        self.by_name = {}
        self.chains = []
        self.kept = []
        self.changed = False
        self._collect()
        with nogil:
            failed = open_socket(self.family, netns, &self.fd)
        if failed < 0:
            there.check(failed, "")
        if failed:
            raise kernel_error(f"can't initialize {blob.name}", failed, table_strerror(failed))

    def close(self):
        """Close the socket, and free what `undo` needs."""
        self._free()

    cdef int _collect(self) except -1:
        """Make the chains of the blob, with a row for each rule."""
        cdef const char *entries = self.blob.buffer.memory + ENTRIES_HEAD
        cdef DraftChain chain
        cdef uint32_t at = 0, first, foot, place = 0
        cdef dict by_offset = {}
        order = sorted(self.blob.chains, key=_by_offset)
        for name, policy, counters, first, _foot in order:
            chain = self._new_chain(name)
            by_offset[first] = chain
            if policy is not None:
                chain.hook = HOOKS.index(name)
                chain.verdict = _VERDICTS[policy]
                chain.policy_read.pcnt, chain.policy_read.bcnt = counters
        for _name, _policy, _counters, first, foot in order:
            chain = by_offset[first]
            while at < first:        # the head of a user chain
                place += 1
                at += next_offset(self.family, entries + at)
            while at < foot:
                self._read_row(chain, entries, at, place, by_offset)
                place += 1
                at += next_offset(self.family, entries + at)
            chain.policy.place = place
            place += 1
            at += next_offset(self.family, entries + at)
        return 0

    cdef int _read_row(self, DraftChain chain, const char *entries, uint32_t at, uint32_t place,
                       dict by_offset) except -1:
        cdef const char *entry = entries + at
        cdef const char *target = entry + target_offset(self.family, entry)
        cdef RuleRow *row = chain.make_room(chain.rules.count)
        cdef DraftChain other
        row.entry = entry
        row.jump = EXTENSION
        row.verdict = 0
        memset(&row.counters, 0, sizeof(row.counters))
        row.counters.place = place
        if target[2]:
            return 0
        row.verdict = (<const int32_t *> (target + PAYLOAD_HEADER))[0]
        if row.verdict < 0:
            row.jump = VERDICT
        elif row.verdict == <int32_t> (at + next_offset(self.family, entry)):
            row.jump = FALL_THROUGH
        else:
            other = by_offset.get(row.verdict)
            if other is None:
                raise KernelError(f"the table that the kernel returned does not add up at offset {at}", EINVAL,
                                  "Invalid argument")
            row.jump = other.number
            other.references += 1
        return 0

    cdef DraftChain _new_chain(self, str name):
        cdef DraftChain chain = DraftChain.__new__(DraftChain)
        chain.name = name
        chain.label = chain_label(name) if name else b""
        chain.number = len(self.chains)
        chain.hook = NF_INET_NUMHOOKS
        chain.verdict = XT_RETURN
        chain.policy.place = NEW_RULE
        self.chains.append(chain)
        self.by_name[name] = chain
        return chain

    # edits

    cdef DraftChain _find(self, name):
        cdef DraftChain chain = self.by_name.get(name)
        if chain is None:
            raise OSError(ENOENT, "no such chain")
        return chain

    cdef int _let_go(self, RuleRow *row) except -1:
        """Count one jump less to the chain that *row* jumps to."""
        cdef DraftChain chain
        if row.jump >= 0:
            chain = self.chains[row.jump]
            chain.references -= 1
        return 0

    cdef int _fill(self, RuleRow *row, bytes entry) except -1:
        """Make *row* the rule *entry*, with the counters in it."""
        entry = stored(self.family.nfproto, entry)
        cdef const char *raw = PyBytes_AS_STRING(entry)
        cdef const char *target
        cdef const Verdict *verdict
        cdef DraftChain chain
        check_entry(self.family, entry)
        target = raw + target_offset(self.family, raw)
        row.entry = raw
        row.jump = EXTENSION
        row.verdict = 0
        row.counters.base = (<const xt_counters *> (raw + self.family.counters))[0]
        row.counters.place = NEW_RULE
        if is_verdict(<const xt_entry_match *> target):
            verdict = verdict_named(target + 2)
            chain = None
            if verdict != NULL:
                row.jump = VERDICT
                row.verdict = verdict.number
            elif not target[2]:
                row.jump = FALL_THROUGH
            else:
                chain = self.by_name.get(os_decode(target[2:31].partition(b"\0")[0]))
            if chain is not None:
                if chain.hook != NF_INET_NUMHOOKS:
                    raise OSError(EINVAL, "a jump to a builtin chain")
                row.jump = chain.number
                chain.references += 1
        self.kept.append(entry)
        self.changed = True
        return 0

    def append(self, chain, bytes entry not None):
        """Add *entry* at the end of *chain*."""
        cdef DraftChain found = self._find(chain)
        cdef RuleRow row
        self._fill(&row, entry)
        found.make_room(found.rules.count)[0] = row

    def insert(self, chain, bytes entry not None, unsigned int position):
        """Add *entry* to *chain* before the rule at *position*."""
        cdef DraftChain found = self._find(chain)
        cdef RuleRow row
        if position > found.rules.count:
            raise OSError(E2BIG, "no such position")
        self._fill(&row, entry)
        found.make_room(position)[0] = row

    def replace(self, chain, bytes entry not None, unsigned int position):
        """Replace the rule of *chain* at *position* by *entry*."""
        cdef DraftChain found = self._find(chain)
        cdef RuleRow row
        if position >= found.rules.count:
            raise OSError(E2BIG, "no such position")
        self._fill(&row, entry)
        self._let_go(found.row(position))
        found.row(position)[0] = row

    def delete(self, chain, unsigned int position):
        """Delete the rule of *chain* at *position*."""
        cdef DraftChain found = self._find(chain)
        if position >= found.rules.count:
            raise OSError(E2BIG, "no such position")
        self._let_go(found.row(position))
        rope_delete(&found.rules, position)
        self.changed = True

    def flush(self, chain):
        """Delete all rules of *chain*."""
        cdef DraftChain found = self._find(chain)
        cdef size_t i
        for i in range(found.rules.count):
            self._let_go(found.row(i))
        rope_free(&found.rules)
        self.changed = True

    def arrange(self, chain, list order not None):
        """Give *chain* the rules of *order*: an integer is the position of an existing rule, which keeps its counters;
        bytes are a new rule. Rules that are not named are deleted. None may be named twice."""
        cdef DraftChain found = self._find(chain)
        cdef DraftChain arranged = DraftChain.__new__(DraftChain)
        cdef char *taken = <char *> calloc(found.rules.count + 1, 1)
        cdef RuleRow row
        cdef size_t position
        if taken == NULL:
            raise MemoryError
        try:
            for place in order:
                if isinstance(place, bytes):
                    self._fill(&row, <bytes> place)
                    arranged.make_room(arranged.rules.count)[0] = row
                    continue
                position = place
                if position >= found.rules.count or taken[position]:
                    raise OSError(E2BIG, "no such position")
                taken[position] = True
                arranged.make_room(arranged.rules.count)[0] = found.row(position)[0]
            for position in range(found.rules.count):
                if not taken[position]:
                    self._let_go(found.row(position))
            found.take_rules(arranged)
        finally:
            free(taken)
        self.changed = True

    def zero(self, chain):
        """Zero the counters of *chain*, its rules and its policy. Packets that are counted from now on are kept."""
        cdef DraftChain found = self._find(chain)
        cdef size_t i
        for i in range(found.rules.count):
            self.zero_row(found.row(i))
        if found.hook != NF_INET_NUMHOOKS:
            self._zero(&found.policy, &found.policy_read)
        self.changed = True

    def zero_rule(self, chain, unsigned int position):
        """Zero the counters of the rule of *chain* at *position*. Packets that are counted from now on are kept."""
        cdef DraftChain found = self._find(chain)
        if position >= found.rules.count:
            raise OSError(E2BIG, "no such position")
        self.zero_row(found.row(position))
        self.changed = True

    cdef void zero_row(self, RuleRow *row) noexcept:
        self._zero(&row.counters, <const xt_counters *> (row.entry + self.family.counters))

    cdef void _zero(self, Origin *counters, const xt_counters *read) noexcept:
        counters.base.pcnt = counters.base.bcnt = 0
        if counters.place != NEW_RULE:
            # the counters that were read are subtracted from those that the kernel will return; both are unsigned
            counters.base.pcnt -= read.pcnt
            counters.base.bcnt -= read.bcnt

    cdef int _check_new(self, chain) except -1:
        if chain in self.by_name or chain in _VERDICTS:
            raise OSError(EEXIST, "there is such a chain or verdict")
        return 0

    def create_chain(self, chain):
        """Create a user chain."""
        chain_label(chain)
        self._check_new(chain)
        self._new_chain(chain)
        self.changed = True

    def delete_chain(self, chain):
        """Delete a user chain. It must be empty, and no rule may jump to it."""
        cdef DraftChain found = self._find(chain)
        if found.hook != NF_INET_NUMHOOKS:
            raise OSError(EINVAL, "a builtin chain")
        if found.references:
            raise OSError(EMLINK, "rules jump there")
        if found.rules.count:
            raise OSError(ENOTEMPTY, "it has rules")
        del self.by_name[chain]
        self.chains[found.number] = None
        self.changed = True

    def rename_chain(self, chain, new):
        """Rename a user chain. Rules that jump to it jump to the new name then."""
        cdef bytes label = chain_label(new)
        self._check_new(new)
        cdef DraftChain found = self._find(chain)
        if found.hook != NF_INET_NUMHOOKS:
            raise OSError(ENOENT, "a builtin chain")
        del self.by_name[chain]
        found.name, found.label = new, label
        self.by_name[new] = found
        self.changed = True

    def set_policy(self, chain, policy, counters=None):
        """Set the policy of a builtin chain, and its counters if *counters* is a (packets, bytes) pair. Return whether
        any of them differed."""
        cdef DraftChain found = self._find(chain)
        cdef xt_counters now
        cdef bint differs
        if found.hook == NF_INET_NUMHOOKS:
            raise OSError(ENOENT, "no builtin chain")
        if policy not in ("ACCEPT", "DROP"):
            raise OSError(EINVAL, "no policy")
        differs = found.verdict != _VERDICTS[policy]
        found.verdict = _VERDICTS[policy]
        if counters is not None:
            now = found.policy.base
            if found.policy.place != NEW_RULE:
                now.pcnt += found.policy_read.pcnt
                now.bcnt += found.policy_read.bcnt
            differs = differs or (now.pcnt, now.bcnt) != tuple(counters)
            found.policy.base.pcnt, found.policy.base.bcnt = counters
            found.policy.place = NEW_RULE
        self.changed = True
        return differs

    # looking

    def policy_of(self, chain):
        """Return the policy of a chain, "" for a user chain, None if there is no such chain."""
        cdef DraftChain found = self.by_name.get(chain)
        if found is None or found.hook == NF_INET_NUMHOOKS:
            return None if found is None else ""
        return "ACCEPT" if found.verdict == _VERDICTS["ACCEPT"] else "DROP"

    def chain_names(self, of_users):
        """Return the names of all chains, or with *of_users* of the user chains, in the order that they are sent in."""
        cdef DraftChain found
        return [found.name for found in self._in_order() if not of_users or found.hook == NF_INET_NUMHOOKS]

    cdef list _in_order(self):
        return sorted(filter(None, self.chains), key=_by_place)

    # sending

    cdef list _lay_out(self, uint32_t *entries, uint64_t *size):
        """Return the chains in their order, each with its offset set. *entries* and *size* get the number of all
        entries and their size in bytes."""
        cdef DraftChain chain
        cdef size_t i
        cdef list order = self._in_order()
        entries[0] = 0
        size[0] = 0
        for chain in order:
            if chain.hook == NF_INET_NUMHOOKS:
                entries[0] += 1
                size[0] += self.family.header + ERROR_SIZE
            chain.first = size[0]
            for i in range(chain.rules.count):
                size[0] += next_offset(self.family, chain.row(i).entry)
            entries[0] += chain.rules.count + 1
            size[0] += self.family.header + STANDARD_SIZE
        entries[0] += 1
        size[0] += self.family.header + ERROR_SIZE
        return order

    cdef int _compile(self) except -1:
        """Make the request (`struct ipt_replace` and the entries), and note where each entry's counters come from."""
        cdef uint32_t entries = 0, at = 0, place = 0
        cdef uint64_t size = 0
        cdef list order = self._lay_out(&entries, &size)
        cdef Replace *request
        cdef DraftChain chain
        cdef RuleRow *row
        cdef char *blob
        cdef size_t i
        if size > 0x7fff0000:
            raise KernelError("can't commit: the table is too big", ENOMEM, commit_strerror(ENOMEM))
        take_buffer(&self.buffer, sizeof(Replace) + size)
        self.request = self.buffer.memory
        self.origins = <Origin *> calloc(entries, sizeof(Origin))
        self.last = <xt_counters *> calloc(self.blob.info.num_entries, sizeof(xt_counters))
        self.added = <char *> calloc(1, sizeof(AddCounters) + entries * sizeof(xt_counters))
        if self.request == NULL or self.origins == NULL or self.last == NULL or self.added == NULL:
            raise MemoryError
        request = <Replace *> self.request
        self._begin(request, entries, size, self.blob.info.num_entries, self.last)
        blob = self.request + sizeof(Replace)
        for chain in order:
            if chain.hook == NF_INET_NUMHOOKS:
                at += self._write_error(blob + at, PyBytes_AS_STRING(chain.label), PyBytes_GET_SIZE(chain.label))
                self.origins[place].place = NEW_RULE
                place += 1
            else:
                request.hook_entry[chain.hook] = at
            for i in range(chain.rules.count):
                row = chain.row(i)
                at += self._write_rule(blob, at, row)
                self.origins[place] = row.counters
                place += 1
            if chain.hook != NF_INET_NUMHOOKS:
                request.underflow[chain.hook] = at
            at += self._write_foot(blob + at, chain.verdict)
            self.origins[place] = chain.policy
            place += 1
        self._write_error(blob + at, b"ERROR", 5)
        self.origins[place].place = NEW_RULE
        return 0

    cdef uint32_t _write_rule(self, char *blob, uint32_t at, const RuleRow *row) except 0:
        cdef char *entry = blob + at
        cdef uint32_t size = next_offset(self.family, row.entry)
        cdef DraftChain chain
        cdef int32_t verdict = row.verdict
        memcpy(entry, row.entry, size)
        if row.jump == EXTENSION:
            return size
        if row.jump == FALL_THROUGH:
            verdict = at + size
        elif row.jump >= 0:
            chain = self.chains[row.jump]
            verdict = chain.first
        self._write_standard(entry + target_offset(self.family, entry), verdict)
        return size

    cdef void _write_standard(self, char *target, int32_t verdict) noexcept:
        memset(target, 0, STANDARD_SIZE)
        (<xt_entry_match *> target).u.match_size = STANDARD_SIZE
        (<int32_t *> (target + PAYLOAD_HEADER))[0] = verdict

    cdef char *_write_head(self, char *entry, uint32_t target_size) noexcept:
        """Write an entry that matches everything, up to its target, and return where the target begins."""
        memset(entry, 0, self.family.header + target_size)
        (<unsigned short *> (entry + self.family.offsets))[0] = self.family.header
        (<unsigned short *> (entry + self.family.offsets))[1] = self.family.header + target_size
        (<xt_entry_match *> (entry + self.family.header)).u.match_size = target_size
        return entry + self.family.header

    cdef uint32_t _write_foot(self, char *entry, int32_t verdict) noexcept:
        self._write_standard(self._write_head(entry, STANDARD_SIZE), verdict)
        return self.family.header + STANDARD_SIZE

    cdef uint32_t _write_error(self, char *entry, const char *label, size_t length) noexcept:
        """Write an entry with an ERROR target: the head of a user chain, or the end of the table. Return its size."""
        cdef char *target = self._write_head(entry, ERROR_SIZE)
        memcpy(target + 2, b"ERROR", 5)
        memcpy(target + PAYLOAD_HEADER, label, length)
        return self.family.header + ERROR_SIZE

    def commit(self):
        """Send the table. A draft can be sent once.

        If this raises, the table may be replaced already, and only its counters refused: `undo` puts it back then.
        """
        self._prepare()
        failed = self._send()
        if failed:
            raise self._refusal(failed, "can't commit")

    def undo(self):
        """After `commit`, put the table back as it was read, with all that its rules have counted until now."""
        failed = self._put_back()
        if failed:
            raise self._refusal(failed, f"can't put table {self.blob.name} back")

    cdef int _prepare(self) except -1:
        """Make the request that `_send` sends."""
        if not self.changed:
            return 0
        if self.fd < 0 or self.request != NULL:
            raise KernelError(f"this draft of table {self.blob.name} is used up", EBADF, "Bad file descriptor")
        self._compile()
        return 0

    cdef int _send(self) noexcept:
        """Send the request. Return 0, or an errno if nothing was changed, or minus an errno if the table was replaced
        and its counters were refused."""
        cdef int failed
        if not self.changed:
            return 0
        with nogil:
            failed = self._commit()
        self.committed = failed <= 0
        if self.committed:
            self.mark.state = APPLIED
        return failed

    cdef int _commit(self) noexcept nogil:
        cdef AddCounters *add = <AddCounters *> self.added
        cdef uint32_t i
        if not self._replace(<Replace *> self.request):
            return errno_now
        for i in range((<Replace *> self.request).num_entries):
            add.counters[i] = self.origins[i].base
            if self.origins[i].place != NEW_RULE:
                add.counters[i].pcnt += self.last[self.origins[i].place].pcnt
                add.counters[i].bcnt += self.last[self.origins[i].place].bcnt
        i = self._add_counters(add, (<Replace *> self.request).num_entries)
        if i:
            memset(add.counters, 0, (<Replace *> self.request).num_entries * sizeof(xt_counters))
        return -<int> i

    cdef int _put_back(self) noexcept:
        """After `_send`, put the table back as it was read, with all that its rules have counted. Return what `_send`
        returns."""
        if not self.committed:
            return 0
        cdef uint32_t before = self.blob.info.num_entries, now = (<Replace *> self.request).num_entries
        cdef Replace *request = <Replace *> malloc(sizeof(Replace) + self.blob.info.size)
        cdef xt_counters *last = <xt_counters *> calloc(now + 1, sizeof(xt_counters))
        cdef AddCounters *add = <AddCounters *> calloc(1, sizeof(AddCounters) + before * sizeof(xt_counters))
        cdef int failed = ENOMEM
        if request != NULL and last != NULL and add != NULL:
            self._begin(request, before, self.blob.info.size, now, last)
            memcpy(request.hook_entry, self.blob.info.hook_entry, sizeof(request.hook_entry))
            memcpy(request.underflow, self.blob.info.underflow, sizeof(request.underflow))
            memcpy(<char *> request + sizeof(Replace), self.blob.buffer.memory + ENTRIES_HEAD, self.blob.info.size)
            with nogil:
                failed = self._undo(request, last, add)
        free(request)
        free(last)
        free(add)
        self.committed = failed > 0
        if not failed:
            self.mark.state = NOTHING
        return failed

    cdef int _undo(self, Replace *request, const xt_counters *last, AddCounters *add) noexcept nogil:
        cdef const xt_counters *given = (<AddCounters *> self.added).counters
        cdef uint32_t i, place
        if not self._replace(request):
            return errno_now
        memcpy(add.counters, self.last, request.num_entries * sizeof(xt_counters))
        for i in range(request.num_counters):
            place = self.origins[i].place
            if place != NEW_RULE:
                add.counters[place].pcnt += last[i].pcnt - given[i].pcnt
                add.counters[place].bcnt += last[i].bcnt - given[i].bcnt
        return -self._add_counters(add, request.num_entries)

    cdef void _begin(self, Replace *request, uint32_t entries, uint32_t size, uint32_t counters,
                     xt_counters *last) noexcept:
        memset(request, 0, sizeof(Replace))
        memcpy(request.name, self.blob.info.name, sizeof(request.name))
        request.valid_hooks = self.blob.info.valid_hooks
        request.num_entries = entries
        request.size = size
        request.num_counters = counters
        request.counters = last

    cdef bint _replace(self, const Replace *request) noexcept nogil:
        return setsockopt(self.fd, self.family.level, self.family.so_set_replace, request, sizeof(Replace)
                          + request.size) == 0

    cdef int _add_counters(self, AddCounters *add, uint32_t entries) noexcept nogil:
        """Add the counters to the new table (`IPT_SO_SET_ADD_COUNTERS`). Return 0 or an errno.

        The table is replaced already, so a failure is not final: it is tried up to 16 times.
        """
        cdef int _attempt
        memcpy(add.name, self.blob.info.name, sizeof(add.name))
        add.num_counters = entries
        for _attempt in range(ADD_ATTEMPTS):
            if setsockopt(self.fd, self.family.level, self.family.so_set_add_counters, add,
                          sizeof(AddCounters) + entries * sizeof(xt_counters)) == 0:
                return 0
        return errno_now

    cdef object _refusal(self, int failed, str what):
        """Return the exception for what `_send` or `_put_back` returned."""
        if failed > 0:
            return kernel_error(what, failed, commit_strerror(failed))
        words = strerror(-failed).decode()
        return KernelError(f"{what}: the counters of table {self.blob.name} are not put back: {words}", -failed, words)


def send_together(list drafts not None):
    """Send *drafts*, each with one replacement. If the kernel refuses one, those before it are put back.

    Return None, or (exception, [(number of a draft, exception)…]): why the kernel refused, and which drafts could not
    be put back, and why.
    """
    cdef Draft draft
    cdef Py_ssize_t number
    cdef int failed
    cdef list problems = []
    for each in drafts:
        (<Draft?> each)._prepare()
    # no Python code runs from here until everything that was done is noted: so no handler of a signal can run in
    # between
    for number in range(len(drafts)):
        draft = drafts[number]
        failed = draft._send()
        if failed:
            break
    else:
        return None
    cdef Py_ssize_t refused = number
    cdef int *left = <int *> calloc(refused + 1, sizeof(int))
    for number in range(refused, -1, -1):
        draft = drafts[number]
        if left != NULL:
            left[number] = draft._put_back()
        else:
            draft._put_back()
    try:
        for number in range(refused, -1, -1):
            draft = drafts[number]
            if draft.mark.state != NOTHING:
                problems.append((number, draft._refusal(left[number] if left != NULL else ENOMEM,
                                                        f"can't put table {draft.blob.name} back")))
        draft = drafts[refused]
        return draft._refusal(failed, "can't commit"), problems
    finally:
        free(left)


def _by_offset(tuple chain):
    return chain[3]


def _by_place(DraftChain chain):
    """The key by which chains are sorted: builtin chains by their hooks, then user chains by name."""
    return chain.hook, chain.label if chain.hook == NF_INET_NUMHOOKS else b""


def commit_strerror(int error):
    """Return iptables' message for the errno *error* of a commit."""
    if error == ENOENT:
        return "No chain/target/match by that name"
    if error == ENOMEM:
        return "Memory allocation problem"
    return strerror(error).decode()
