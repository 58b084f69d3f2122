# cython: freethreading_compatible=False
"""Reads a legacy table: two system calls fill a buffer, and one walk over it finds chains, rules and counters.

`TableBlob` reads a table once, for its rules. `TableScan` reads the counters of a table again and again, into one
buffer that it keeps. Neither uses libiptc or libxtables. Each offset is checked, so nothing outside the buffer is read.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EACCES, EAGAIN, EEXIST, EINVAL, ENOENT, ENOMEM, ENOPROTOOPT, EPERM
from libc.stdint cimport int32_t, uint16_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset, strerror, strlen
from posix.unistd cimport close

from .._linux cimport AF_INET, AF_INET6, IPPROTO_RAW, SOCK_CLOEXEC, SOCK_RAW, errno_now, getsockopt, socklen_t, strnlen
from .._core cimport (
    ERROR_SIZE, NF_INET_NUMHOOKS, NFPROTO_IPV4, STANDARD_SIZE, PAYLOAD_HEADER, NFLOG_PREFIX, NFLOG_ROOM, NFLOG_SIZE,
    Family, Payloads, c_text, family_of, ipt_get_entries, ipt_getinfo, is_entry, is_long_nflog, mark_verdict,
    next_offset, next_payload, os_decode, os_encode, payloads_of, payloads_ok, room_for, target_offset, xt_entry_match,
)
from .._counts cimport (
    FELL, Counts, Digest, Scan, digest_absorb, digest_absorb_head, digest_begin, digest_finish, place_slots,
)
from .._netns cimport Held, Namespace, cookie_of_socket, held_close, held_is_ours, held_set, socket_in
from .._core import HOOKS
from .._verdicts cimport Verdict, verdict_numbered
from ..errors import Conflict, KernelError, ParameterError, kernel_error

cdef enum:
    ATTEMPTS = 64
    SPARE_MOST = 0x100000

cdef uint32_t NOT_ENDED = 0xffffffff     # the foot of a chain that goes on

cdef enum:
    IS_SOUND
    IS_UNSURE
    IS_FALLEN

# Whether a reading of the counters can be relied on. SOUND: it can. UNSURE: there is no earlier reading to compare it
# with. FALLEN: a counter is lower than it was.
SOUND, UNSURE, FALLEN = IS_SOUND, IS_UNSURE, IS_FALLEN


def table_strerror(int error):
    """Return libiptc's message for the errno *error* of opening a table."""
    if error == ENOENT or error == ENOPROTOOPT:
        return "Table does not exist (do you need to insmod?)"
    if error == EPERM:
        return "Permission denied (you must be root) without CAP_NET_ADMIN and CAP_NET_RAW"
    return strerror(error).decode()


# ---------------------------------------------------------------- the system calls

cdef int _get_info(Family *family, int fd, const char *table, ipt_getinfo *info) noexcept nogil:
    """Call `IPT_SO_GET_INFO`. Return 0 or an errno."""
    cdef int _attempt
    cdef socklen_t length
    for _attempt in range(ATTEMPTS):
        length = sizeof(info[0])
        memset(info, 0, sizeof(info[0]))
        memcpy(info.name, table, strlen(table))
        if getsockopt(fd, family.level, family.so_get_info, info, &length) == 0:
            return 0
        if errno_now != EEXIST:      # EEXIST: the table was not there, and somebody else created it while we did
            break
    return errno_now


cdef int _fetch(Family *family, int fd, const char *table, ipt_getinfo *info, Buffer *buffer) noexcept nogil:
    """Call `IPT_SO_GET_INFO`, and `IPT_SO_GET_ENTRIES` into *buffer*, which grows if needed. Return 0 or an errno."""
    cdef int _attempt, failed
    cdef socklen_t length
    cdef ipt_get_entries *request
    for _attempt in range(ATTEMPTS):
        failed = _get_info(family, fd, table, info)
        if failed:
            return failed
        if buffer.room < ENTRIES_HEAD + info.size:
            _grow(buffer, ENTRIES_HEAD + info.size)
            if buffer.memory == NULL:
                return ENOMEM
        request = <ipt_get_entries *> buffer.memory
        memset(request, 0, ENTRIES_HEAD)
        memcpy(request.name, table, strlen(table))
        request.size = info.size
        length = ENTRIES_HEAD + info.size
        if getsockopt(fd, family.level, family.so_get_entries, request, &length) == 0:
            return 0
        if errno_now != EAGAIN:      # EAGAIN: the table changed its size between the two calls
            return errno_now
    return EAGAIN


# Memory that is returned to the system costs a page fault for each page when it is allocated again. So two buffers of
# ordinary size are kept for the next table. The GIL guards them.
cdef Buffer _spare[2]


cdef void take_buffer(Buffer *buffer, size_t size) noexcept:
    """Give *buffer*, which has no memory, at least *size* bytes: a kept buffer or new memory. NULL: there is none."""
    cdef int i
    for i in range(2):
        if _spare[i].memory != NULL and _spare[i].room >= size:
            buffer[0] = _spare[i]
            memset(&_spare[i], 0, sizeof(_spare[i]))
            return
    if size:
        _grow(buffer, size)


cdef void _grow(Buffer *buffer, size_t size) noexcept nogil:
    # some more for tables of ordinary size: they may have a few rules more next time
    if size < SPARE_MOST:
        size = room_for((size + 0xffff) & ~<size_t> 0xffff, size)
    # not realloc: the old content need not be copied
    free(buffer.memory)
    buffer.memory = <char *> malloc(size)
    buffer.room = size if buffer.memory != NULL else 0


cdef void give_back(Buffer *buffer) noexcept:
    """Keep the memory of *buffer* instead of a smaller kept one, or free it."""
    cdef int smaller = 0 if _spare[0].room <= _spare[1].room else 1
    if buffer.room > _spare[smaller].room and buffer.room <= room_for(SPARE_MOST, 0):
        free(_spare[smaller].memory)
        _spare[smaller] = buffer[0]
    else:
        free(buffer.memory)
    memset(buffer, 0, sizeof(buffer[0]))


cdef int open_socket(Family *family, int netns, int *fd) noexcept nogil:
    """Open a socket in the network namespace of descriptor *netns*, or with -1 in that of this thread. Return what
    `socket_in` returns."""
    return socket_in(netns, AF_INET if family.nfproto == NFPROTO_IPV4 else AF_INET6, SOCK_RAW | SOCK_CLOEXEC,
                     IPPROTO_RAW, fd)


cdef bytes table_label(str table):
    cdef bytes label = c_text(table, "a table name")
    if not 0 < PyBytes_GET_SIZE(label) < 32:
        raise kernel_error(f"can't initialize {table}", ENOENT, table_strerror(ENOENT))
    return label


# ------------------------------------------------- what a legacy table has no room for

cdef bint shorten(Family *family, char *entry) noexcept:
    """Cut the prefix of NFLOG to 63 bytes, as iptables-legacy does: only nf_tables has room for 127. Return whether
    that was needed."""
    cdef xt_entry_match *target = <xt_entry_match *> (entry + target_offset(family, entry))
    if not is_long_nflog(target):
        return False
    target.u.match_size = NFLOG_SIZE
    memset(<char *> target.data + NFLOG_PREFIX + NFLOG_ROOM - 1, 0,
           NFLOG_SIZE - PAYLOAD_HEADER - NFLOG_PREFIX - NFLOG_ROOM + 1)
    (<uint16_t *> (entry + family.offsets))[1] = target_offset(family, entry) + NFLOG_SIZE
    return True


cpdef bytes stored(int nfproto, bytes entry):
    """Return *entry* as a legacy table stores it. Whoever looks for a rule must look for that."""
    cdef Family *family = family_of(nfproto)
    cdef const char *raw = PyBytes_AS_STRING(entry)
    cdef bytes cut
    if (not is_entry(family, raw, PyBytes_GET_SIZE(entry))
            or not is_long_nflog(<const xt_entry_match *> (raw + target_offset(family, raw)))):
        return entry
    cut = PyBytes_FromStringAndSize(raw, PyBytes_GET_SIZE(entry))
    shorten(family, PyBytes_AS_STRING(cut))
    return cut[:next_offset(family, PyBytes_AS_STRING(cut))]


# ------------------------------------------------------------------------ the walk

cdef inline void _absorb_payload(Digest *digest, const char *payload, uint32_t length) noexcept nogil:
    """Add a match or target of *length* bytes to the digest. Of a comment only the text is added, not the room
    behind."""
    digest_absorb_head(digest, payload)
    if length == 288 and memcmp(payload + 2, b"comment", 8) == 0:
        length = (PAYLOAD_HEADER + strnlen(payload + PAYLOAD_HEADER, 256) + 8) & ~7
    digest_absorb(digest, payload + PAYLOAD_HEADER, length - PAYLOAD_HEADER)


cdef inline bint _absorb_entry(Digest *digest, Family *family, const char *entry) noexcept nogil:
    """Take an entry into the digest: its base part without the kernel's scratch and the counters, and all payloads.
    Return False if the payloads do not add up."""
    cdef Payloads payloads
    digest_absorb(digest, entry, family.offsets - 4)
    digest_absorb(digest, entry + family.offsets, 4)
    payloads = payloads_of(family, entry)
    while next_payload(&payloads):
        _absorb_payload(digest, <const char *> payloads.payload, payloads.size)
    return not payloads.broken


cdef inline uint32_t _hooks_at(const ipt_getinfo *info, uint32_t at, uint32_t end, int *opened,
                               bint *is_policy) noexcept nogil:
    """Find out whether a builtin chain begins at offset *at* (*opened* is its hook), and whether a policy stands there.

    Return the next offset at which one of the two can be.
    """
    cdef uint32_t mark = end
    cdef int hook
    for hook in range(NF_INET_NUMHOOKS):
        if info.valid_hooks & (1 << hook):
            if info.hook_entry[hook] == at:
                opened[0] = hook
            elif at < info.hook_entry[hook] < mark:
                mark = info.hook_entry[hook]
            if info.underflow[hook] == at:
                is_policy[0] = True
            elif at < info.underflow[hook] < mark:
                mark = info.underflow[hook]
    return mark


cdef inline bint _end_chain(BlobChain *chain, uint32_t last, size_t slot) noexcept nogil:
    """End *chain*, since another one begins. *last* is the offset of the entry before, and *slot* the number of rules.
    Return False if that does not add up."""
    if chain.name == NULL:
        return chain.foot != NOT_ENDED       # its policy has ended it
    if last < chain.first:
        return False
    chain.foot = last
    chain.rules = slot - chain.slot
    return True


cdef inline BlobChain *_new_chain(Walk *walk, int hook, size_t slot) noexcept nogil:
    """Return a new chain of *walk* whose first rule is the one of number *slot*, or NULL if there is no memory."""
    cdef BlobChain *chain
    if walk.chain_count == walk.chain_room:
        walk.chain_room = room_for(walk.chain_room * 2 + 8, walk.chain_room + 1)
        chain = <BlobChain *> realloc(walk.chains, walk.chain_room * sizeof(BlobChain))
        if chain == NULL:
            return NULL
        walk.chains = chain
    chain = &walk.chains[walk.chain_count]
    walk.chain_count += 1
    memset(chain, 0, sizeof(chain[0]))
    chain.slot = slot
    chain.foot = NOT_ENDED
    chain.hook = hook
    return chain


cdef int _walk(Family *family, const char *blob, uint32_t end, const ipt_getinfo *info, Walk *walk,
               uint64_t *packets, uint64_t *sizes, size_t room) noexcept nogil:
    """Find chains, counters and digest in one walk. *packets* and *sizes* have room for *room* counters, or are NULL.

    Return 0, ENOMEM, or EINVAL; then `walk.broken` is the offset at which the blob does not add up.
    """
    cdef uint32_t at = 0, size, target_at, previous = 0
    cdef size_t slot = 0
    cdef Digest digest
    cdef uint32_t mark = 0       # where the next builtin chain or policy is, or nearer
    cdef const char *entry
    cdef const char *target
    cdef const xt_counters *counters
    cdef BlobChain *chain = NULL
    cdef int opened
    cdef bint is_policy
    walk.chain_count = 0
    digest_begin(&digest, end)
    # a rule may have the same bytes as a policy, so the entries do not tell which chain it is in
    digest_absorb(&digest, <const char *> info.hook_entry, sizeof(info.hook_entry))
    digest_absorb(&digest, <const char *> info.underflow, sizeof(info.underflow))
    while at < end:
        walk.broken = at
        entry = blob + at
        if end - at < family.header + PAYLOAD_HEADER:
            return EINVAL
        size = next_offset(family, entry)
        target_at = target_offset(family, entry)
        if (size & 7 or size > end - at or target_at < family.header or target_at & 7
                or target_at + PAYLOAD_HEADER > size):
            return EINVAL
        target = entry + target_at
        if not _absorb_entry(&digest, family, entry):
            return EINVAL
        opened = -1
        is_policy = False
        if at >= mark:
            mark = _hooks_at(info, at, end, &opened, &is_policy)
        if target_at == family.header and memcmp(target + 2, b"ERROR", 6) == 0:
            if size != family.header + ERROR_SIZE:
                return EINVAL
            opened = NF_INET_NUMHOOKS
        if opened >= 0:
            if chain != NULL:
                # the entry before the head of a chain is the last one of the user chain before, and no rule
                slot -= chain.name != NULL
                if not _end_chain(chain, previous, slot):
                    return EINVAL
            chain = _new_chain(walk, opened, slot)
            if chain == NULL:
                return ENOMEM
            if opened == NF_INET_NUMHOOKS:
                chain.name = target + PAYLOAD_HEADER
                chain.first = at + size
                previous = at
                at += size
                continue
            chain.first = at
        if chain == NULL or chain.name == NULL and chain.foot != NOT_ENDED:
            return EINVAL            # the rule is in no chain
        counters = <const xt_counters *> (entry + family.counters)
        if is_policy and chain.name == NULL:
            chain.foot = at
            chain.rules = slot - chain.slot
            chain.policy = counters[0]
        else:
            if packets != NULL:
                if slot > room:          # one more than there are rules: the foot of a chain is written there first
                    return EINVAL
                packets[slot] = counters.pcnt
                sizes[slot] = counters.bcnt
            slot += 1
        previous = at
        at += size
    # the last entry of a blob is an ERROR target that begins no chain
    if chain == NULL or chain.name == NULL or chain.first != end:
        return EINVAL
    walk.chain_count -= 1
    walk.rules = slot
    walk.digest = digest_finish(&digest)
    return 0


cdef int _raise_walk(int failed, Walk *walk) except -1:
    if failed == ENOMEM:
        raise MemoryError
    raise KernelError(f"the table that the kernel returned does not add up at offset {walk.broken}", EINVAL,
                      "Invalid argument")


cdef str _chain_name(const BlobChain *chain):
    cdef size_t length = 0
    if chain.name == NULL:
        return HOOKS[chain.hook]
    while length < 30 and chain.name[length]:
        length += 1
    return os_decode(chain.name[:length])


cdef str _verdict_name(Family *family, const char *blob, uint32_t at, dict heads):
    """Return the name of the verdict or chain that the standard target of the entry at *at* stands for.

    *heads*: {offset of the first rule: name of the chain}.
    """
    cdef const char *entry = blob + at
    cdef uint32_t target_at = target_offset(family, entry)
    cdef int32_t verdict
    cdef const Verdict *named
    if next_offset(family, entry) - target_at == STANDARD_SIZE:
        verdict = (<const int32_t *> (entry + target_at + PAYLOAD_HEADER))[0]
        if verdict == <int32_t> (at + next_offset(family, entry)):
            return ""
        if verdict < 0:
            named = verdict_numbered(verdict)
            if named != NULL:
                return named.name.decode()
        elif verdict in heads:
            return heads[verdict]
    raise KernelError(f"the table that the kernel returned does not add up at offset {at}", EINVAL, "Invalid argument")


cdef bytes entry_of(Family *family, const char *entry, const char *target):
    """Return the kernel's *entry* as bytes. *target* is the name of its verdict or chain, or NULL for an extension.

    Bytes that the kernel and libiptc use for themselves are zero in the result.
    """
    cdef size_t size = next_offset(family, entry), named
    cdef Payloads at
    cdef bytes copy = PyBytes_FromStringAndSize(entry, size)
    cdef char *raw = PyBytes_AS_STRING(copy)
    if target != NULL:
        mark_verdict(raw + target_offset(family, raw), target)
    at = payloads_of(family, raw)
    while next_payload(&at):
        # behind the NUL of the name are bytes that nobody has set
        named = strnlen(at.payload.u.user.name, 29)
        memset(<char *> at.payload.u.user.name + named, 0, 29 - named)
    memset(raw + family.offsets - 4, 0, 4)
    memset(raw + family.offsets + 4, 0, 4)
    return copy


cdef list _entries(Family *family, const char *blob, uint32_t limit, uint32_t first, uint32_t end, dict heads):
    """Return the rules from offset *first* to *end* as bytes, with targets by name. *limit* is the size of the blob."""
    cdef list result = []
    cdef bytes label
    cdef const char *target
    while first < end:
        if (end > limit or first & 7 or limit - first < family.header + PAYLOAD_HEADER
                or next_offset(family, blob + first) > limit - first or not payloads_ok(family, blob + first)):
            raise KernelError(f"the rule at offset {first} of the table does not add up", EINVAL, "Invalid argument")
        target = NULL
        if blob[first + target_offset(family, blob + first) + 2] == 0:
            label = os_encode(_verdict_name(family, blob, first, heads))
            target = PyBytes_AS_STRING(label)
        result.append(entry_of(family, blob + first, target))
        first += next_offset(family, blob + first)
    return result


# ------------------------------------------------------------- a table read once

cdef class TableBlob:
    """A table that was read once: its chains, policies and rules. Rules are made into bytes when they are needed."""

    def __cinit__(self):
        self.family = family_of(NFPROTO_IPV4)

    def __dealloc__(self):
        give_back(&self.buffer)

    def __init__(self, int nfproto, str table not None, Namespace there=None):
        """Read the table in the network namespace *there*, or without it in that of this thread."""
        cdef bytes label = table_label(table)
        cdef const char *name = label
        cdef Walk walk
        cdef int fd = -1, failed, netns = -1 if there is None else there.where()
        if self.buffer.memory != NULL:
            raise ParameterError("a table that was read is read once")
        memset(&walk, 0, sizeof(walk))
        self.family = family_of(nfproto)
        self.name = table
        take_buffer(&self.buffer, 0)
        with nogil:
            failed = open_socket(self.family, netns, &fd)
            if not failed:
                self.cookie = cookie_of_socket(fd, netns)
                failed = _fetch(self.family, fd, name, &self.info, &self.buffer)
                close(fd)
        if failed:
            if failed < 0:
                there.check(failed, "")
            raise kernel_error(f"can't initialize {table}", failed, table_strerror(failed))
        try:
            with nogil:
                failed = _walk(self.family, self.buffer.memory + ENTRIES_HEAD, self.info.size, &self.info, &walk,
                               NULL, NULL, 0)
            if failed:
                _raise_walk(failed, &walk)
            self._collect(&walk)
        finally:
            free(walk.chains)

    cdef int _collect(self, Walk *walk) except -1:
        cdef BlobChain *chain
        cdef size_t i
        cdef str name
        cdef list users = []
        self.chains = []
        self.heads = {}
        for i in range(walk.chain_count):
            chain = &walk.chains[i]
            name = _chain_name(chain)
            self.heads[chain.first] = name
            if chain.name != NULL:
                users.append((name, None, None, chain.first, chain.foot))
                continue
            policy = _verdict_name(self.family, self.buffer.memory + ENTRIES_HEAD, chain.foot, self.heads)
            self.chains.append((name, policy, (chain.policy.pcnt, chain.policy.bcnt), chain.first, chain.foot))
        # libiptc sorts user chains by name, whatever their order in the kernel
        users.sort(key=_by_name)
        self.chains += users
        return 0

    def chain_entries(self, uint32_t first, uint32_t end):
        """Return the rules from *first* to *end* (offsets in `chains`) as bytes, with targets by name."""
        return _entries(self.family, self.buffer.memory + ENTRIES_HEAD, self.info.size, first, end, self.heads)

    def entries_like(self, uint32_t first, uint32_t end, bytes entry not None):
        """Return [(position, entry), ...] of those of these rules that have the same addresses and protocol as *entry*.
        Only they can be the same rule."""
        cdef Family *family = self.family
        cdef const char *blob = self.buffer.memory + ENTRIES_HEAD
        cdef const char *wanted = PyBytes_AS_STRING(entry)
        cdef list found = []
        cdef Py_ssize_t position = 0
        cdef uint32_t size
        if PyBytes_GET_SIZE(entry) < <Py_ssize_t> family.header:
            return found
        while first < end:
            size = next_offset(family, blob + first) if first + family.header <= self.info.size else 0
            if size < family.header or size > self.info.size - first:
                raise KernelError(f"the rule at offset {first} of the table does not add up", EINVAL,
                                  "Invalid argument")
            if (memcmp(blob + first, wanted, 4 * family.address) == 0
                    and memcmp(blob + first + family.proto, wanted + family.proto, 2) == 0):
                found.append((position, self.chain_entries(first, first + size)[0]))
            position += 1
            first += size
        return found


def _by_name(tuple chain):
    return os_encode(chain[0])


# --------------------------------------------------- counters, read again and again

cdef class TableScan(Scan):
    """Reads the counters of a legacy table with one socket and one buffer, which it keeps."""

    cdef Family *family
    cdef bytes label
    cdef Buffer buffer
    cdef Walk walk
    cdef ipt_getinfo info
    cdef Held held
    cdef uint32_t entry_count        # how many entries the table had in which `walk` found `walk.rules` rules
    # the last reading that can be relied on, or None, and the ruleset it belongs to
    cdef Counts known
    cdef uint64_t known_digest
    cdef tuple known_chains
    cdef bytes known_identities
    cdef xt_counters known_policies[NF_INET_NUMHOOKS]

    def __cinit__(self):
        self.held.fd = -1
        self.family = family_of(NFPROTO_IPV4)

    def __dealloc__(self):
        self._free()

    cdef void _free(self) noexcept:
        held_close(&self.held)
        free(self.buffer.memory)
        free(self.walk.chains)
        memset(&self.buffer, 0, sizeof(self.buffer))
        memset(&self.walk, 0, sizeof(self.walk))
        self.digest = 0

    def __init__(self, int nfproto, str table not None, Namespace there=None):
        """Open the socket in the network namespace *there*, else in that of this thread."""
        cdef int fd = -1, failed, netns = -1 if there is None else there.where()
        self._begin()
        try:
            self._free()
            self.family = family_of(nfproto)
            self.label = table_label(table)
            failed = open_socket(self.family, netns, &fd)
            held_set(&self.held, fd)
            if not failed:
                failed = _get_info(self.family, fd, PyBytes_AS_STRING(self.label), &self.info)
            if failed:
                self._free()
                if failed < 0:
                    there.check(failed, "")
                raise kernel_error(f"can't initialize {table}", failed, table_strerror(failed))
        finally:
            self._end()

    @property
    def closed(self):
        """Whether it was closed."""
        return self.held.fd < 0 or self.to_close

    def fileno(self):
        """Return the descriptor of the socket. -1: it was closed, by this process perhaps with all its descriptors."""
        return -1 if self.closed or not held_is_ours(&self.held) else self.held.fd

    def may_read(self):
        """Whether the kernel lets this thread read the table now: it may have given up its rights since it opened the
        socket."""
        cdef ipt_getinfo info
        cdef const char *name = PyBytes_AS_STRING(self.label)
        if not held_is_ours(&self.held):
            return True              # then a reading says what is wrong
        return _get_info(self.family, self.held.fd, name, &info) not in (EPERM, EACCES)

    def outline(self):
        """Return where everything was in the table that was read last, by offsets in its bytes: (their number, the size
        of each entry as bytes of uint16, [(first rule, end of the rules, whether it is a builtin chain)...]).

        At the end of the rules of a builtin chain is its policy.
        """
        cdef const char *blob = self.buffer.memory + ENTRIES_HEAD
        cdef bytes lengths = PyBytes_FromStringAndSize(NULL, sizeof(uint16_t) * <Py_ssize_t> self.info.num_entries)
        cdef uint16_t *length = <uint16_t *> PyBytes_AS_STRING(lengths)
        cdef uint32_t at = 0, number = 0
        cdef list rows = []
        cdef size_t i
        while at < self.info.size and number < self.info.num_entries:
            length[number] = next_offset(self.family, blob + at)
            at += length[number]
            number += 1
        for i in range(self.walk.chain_count):
            rows.append((self.walk.chains[i].first, self.walk.chains[i].foot, self.walk.chains[i].name == NULL))
        return at, lengths[:sizeof(uint16_t) * <Py_ssize_t> number], rows

    @property
    def is_bare(self):
        """Whether the table had no rules and no user chains when it was opened or last read."""
        cdef int hook
        cdef unsigned int bare = 1
        for hook in range(NF_INET_NUMHOOKS):
            bare += self.info.valid_hooks >> hook & 1
        return self.info.num_entries == bare

    cdef tuple _read(self):
        cdef const char *name
        cdef Counts counts
        cdef uint64_t before = self.digest
        cdef int failed
        cdef size_t i
        if not held_is_ours(&self.held):
            raise KernelError("this reader is closed", 9, "Bad file descriptor")
        name = PyBytes_AS_STRING(self.label)
        self.digest = 0
        with nogil:
            failed = _fetch(self.family, self.held.fd, name, &self.info, &self.buffer)
        if failed:
            self.chains = None
            raise kernel_error(f"can't read {self.label.decode()}", failed, table_strerror(failed))
        counts = self._scan(self.info.size)
        if self.walk.digest != before or self.chains is None:
            self._describe()
        self.digest = self.walk.digest
        policies = []
        for i in range(self.walk.chain_count):
            if self.walk.chains[i].name == NULL:
                policies.append((self.walk.chains[i].policy.pcnt, self.walk.chains[i].policy.bcnt))
        self.doubt = self._judge(counts)
        if self.doubt == IS_SOUND:
            self.rely_on(counts)
        return counts, self.digest, policies

    cdef int _judge(self, Counts counts) except -1:
        """Return whether *counts*, which were just read, can be relied on, by comparing them with the last known ones.

        The kernel replaces a table by one whose counters are all zero. The writer adds the old counters in a second
        step. A read between the two steps shows only what was counted after the first one. If no counter is lower than
        before, and at least one had counted something, this read was not between the two steps.
        """
        cdef int found
        cdef BlobChain *chain
        cdef xt_counters *before
        cdef bint fell = False, had_counted = False
        cdef size_t i
        if self.known is None:
            return IS_UNSURE
        found = counts.judge(self.known, None if self.digest == self.known_digest else self._places())
        if found:
            return IS_FALLEN if found & FELL else IS_SOUND
        # no rule had counted anything, so the policies must decide. They are not used otherwise: iptables-legacy zeroes
        # them with each commit.
        for i in range(self.walk.chain_count):
            chain = &self.walk.chains[i]
            if chain.name == NULL:
                before = &self.known_policies[chain.hook]
                fell |= chain.policy.pcnt < before.pcnt or chain.policy.bcnt < before.bcnt
                had_counted |= before.pcnt != 0
        if fell or not had_counted and self.digest != self.known_digest:
            return IS_UNSURE
        return IS_SOUND

    cdef bytes _places(self):
        return place_slots(self.chains, self.identities, self.known_chains, self.known_identities)

    def rely_on(self, Counts counts):
        """Compare later readings with *counts*, which `read` returned last. None: with nothing."""
        cdef size_t i
        self.known = counts
        self.known_digest = self.digest
        self.known_chains = self.chains
        self.known_identities = self.identities
        memset(self.known_policies, 0, sizeof(self.known_policies))
        for i in range(self.walk.chain_count):
            if self.walk.chains[i].name == NULL:
                self.known_policies[self.walk.chains[i].hook] = self.walk.chains[i].policy

    def remember(self, Counts counts not None, list policies not None):
        """Compare later readings with counters of the ruleset that was read last, which somebody has read in another
        way since."""
        cdef size_t i
        cdef Py_ssize_t number = 0
        self.rely_on(counts)
        for i in range(self.walk.chain_count):
            if self.walk.chains[i].name == NULL:
                (self.known_policies[self.walk.chains[i].hook].pcnt,
                 self.known_policies[self.walk.chains[i].hook].bcnt) = policies[number]
                number += 1

    def with_aside(self, Counts counts not None, list policies not None):
        """Return *counts* and *policies*, which `read` returned last, with the last known counters added.

        A writer has put those aside, and is going to add them itself.
        """
        cdef list whole = []
        cdef size_t i
        # busy: a finalizer that the garbage collector runs may close us
        self._begin()
        try:
            if self.known is None:
                return counts.with_aside(None, None), policies
            for i in range(self.walk.chain_count):
                if self.walk.chains[i].name == NULL:
                    packets, size = policies[len(whole)]
                    whole.append((packets + self.known_policies[self.walk.chains[i].hook].pcnt,
                                  size + self.known_policies[self.walk.chains[i].hook].bcnt))
            return counts.with_aside(self.known, self._places()), whole
        finally:
            self._end()

    cdef Counts _scan(self, uint32_t size):
        """Walk over the table in the buffer, and return its counters."""
        cdef Counts counts = Counts.__new__(Counts)
        # the heads and feet of chains are entries too. If the number of entries is the same as before, so is probably
        # the number of rules; otherwise there is room for all entries
        cdef bint known = self.info.num_entries == self.entry_count
        cdef size_t room = self.walk.rules if known else self.info.num_entries
        cdef int failed = self._count(counts, size, room)
        if known and (failed or self.walk.rules != room):
            room = self.info.num_entries
            failed = self._count(counts, size, room)
        if failed:
            self.chains = None
            self.entry_count = 0
            _raise_walk(failed, &self.walk)
        self.entry_count = self.info.num_entries
        if self.walk.rules != room:
            self._count(counts, size, self.walk.rules)
        return counts

    cdef int _count(self, Counts counts, uint32_t size, size_t room) except -1:
        """Walk over the buffer, and fill *counts*, which get room for *room* rules. Return 0 or an errno."""
        cdef int failed
        free(counts.packet_row)
        counts.packet_row = NULL
        counts._allocate(room)
        with nogil:
            failed = _walk(self.family, self.buffer.memory + ENTRIES_HEAD, size, &self.info, &self.walk,
                           counts.packet_row, counts.byte_row, room)
        return failed

    cdef int _describe(self) except -1:
        """Set `chains` and `identities`. This is done once for each ruleset."""
        cdef Family *family = self.family
        cdef const char *blob = self.buffer.memory + ENTRIES_HEAD
        cdef BlobChain *chain
        cdef size_t i, slot = 0
        cdef uint32_t at
        cdef dict heads = {}
        cdef list chains = []
        cdef bytes identities = PyBytes_FromStringAndSize(NULL, self.walk.rules * 8)
        cdef uint64_t *identity = <uint64_t *> PyBytes_AS_STRING(identities)
        for i in range(self.walk.chain_count):
            chain = &self.walk.chains[i]
            heads[chain.first] = _chain_name(chain)
        for i in range(self.walk.chain_count):
            chain = &self.walk.chains[i]
            policy = None
            if chain.name == NULL:
                policy = _verdict_name(family, blob, chain.foot, heads)
            chains.append((heads[chain.first], policy, chain.slot, chain.slot + chain.rules))
            at = chain.first
            while at < chain.foot:
                identity[slot] = _identity(family, blob, at, heads)
                slot += 1
                at += next_offset(family, blob + at)
        self.chains = tuple(chains)
        self.identities = identities
        return 0

    cdef list _entries(self, uint64_t digest):
        cdef list entries = []
        cdef dict heads = {}
        cdef size_t i
        if self.digest != digest or not digest:
            raise Conflict("the rules of this snapshot were not looked at before the ruleset changed")
        for i in range(self.walk.chain_count):
            heads[self.walk.chains[i].first] = _chain_name(&self.walk.chains[i])
        for i in range(self.walk.chain_count):
            entries += _entries(self.family, self.buffer.memory + ENTRIES_HEAD, self.info.size,
                                self.walk.chains[i].first, self.walk.chains[i].foot, heads)
        return entries


cdef uint64_t _identity(Family *family, const char *blob, uint32_t at, dict heads) except 0:
    """Return a number for what a rule says, wherever it stands. A jump counts by the name of its chain."""
    cdef const char *entry = blob + at
    cdef Payloads payloads = payloads_of(family, entry)
    cdef Digest digest
    cdef bytes label
    digest_begin(&digest, 0)
    digest_absorb(&digest, entry, family.offsets - 4)
    while next_payload(&payloads):
        if payloads.is_target and not payloads.payload.u.user.name[0]:
            label = os_encode(_verdict_name(family, blob, at, heads)) + b"\0\0\0\0"
            digest_absorb(&digest, PyBytes_AS_STRING(label), PyBytes_GET_SIZE(label) & ~3)
        else:
            _absorb_payload(&digest, <const char *> payloads.payload, payloads.size)
    return digest_finish(&digest)


def scan_bytes(int nfproto, bytes info not None, bytes blob not None):
    """Walk over *blob* with *info* (`struct ipt_getinfo`) as `TableScan.read` does. A fuzzer calls this."""
    cdef TableScan scan = TableScan.__new__(TableScan)
    cdef Counts counts
    if PyBytes_GET_SIZE(info) != sizeof(ipt_getinfo):
        raise ParameterError(f"struct ipt_getinfo has {sizeof(ipt_getinfo)} bytes")
    scan.family = family_of(nfproto)
    memcpy(&scan.info, PyBytes_AS_STRING(info), sizeof(ipt_getinfo))
    scan.info.num_entries = min(scan.info.num_entries, PyBytes_GET_SIZE(blob) // 32 + 1)
    scan.buffer.room = ENTRIES_HEAD + PyBytes_GET_SIZE(blob)
    scan.buffer.memory = <char *> malloc(scan.buffer.room)
    if scan.buffer.memory == NULL:
        raise MemoryError
    memcpy(scan.buffer.memory + ENTRIES_HEAD, PyBytes_AS_STRING(blob), PyBytes_GET_SIZE(blob))
    scan.info.size = PyBytes_GET_SIZE(blob)
    counts = scan._scan(scan.info.size)
    scan._describe()
    scan.digest = scan.walk.digest
    return counts, scan.chains, scan.entries(scan.digest)
