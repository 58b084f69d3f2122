# cython: freethreading_compatible=False
"""The counters of all rules at one moment: two rows of uint64, with one slot for each rule.

The reader of a back end fills a `Counts`. Programs see its rows as memoryviews, as lists of pairs, and as differences
between two.
"""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_WRITABLE, Py_buffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF
from libc.errno cimport ENOMEM
from libc.stdint cimport int32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from ._core cimport room_for
from .errors import ParameterError, TransactionError

cdef extern from "Python.h":
    int PyGC_Disable()
    int PyGC_Enable()
    void PyObject_GC_UnTrack(void *object)


cdef enum:
    RESET = 1
    NEW = 2

cdef uint64_t UNKNOWN = 0xffffffffffffffff      # it is not known how much a writer has put aside


cdef class Numbers:
    """uint64 numbers that never change, as an object with the buffer protocol."""

    cdef object keeper           # the object that owns the memory
    cdef const uint64_t *first
    cdef Py_ssize_t shape
    cdef Py_ssize_t stride

    def __getbuffer__(self, Py_buffer *view, int flags):
        if flags & PyBUF_WRITABLE == PyBUF_WRITABLE:
            raise BufferError("counters that were read do not change")
        view.buf = <void *> self.first
        view.obj = self
        view.len = self.shape * sizeof(uint64_t)
        view.itemsize = sizeof(uint64_t)
        view.readonly = 1
        view.ndim = 1
        view.format = NULL
        if flags & PyBUF_FORMAT:
            view.format = "Q"
        view.shape = &self.shape if flags & PyBUF_ND else NULL
        self.stride = sizeof(uint64_t)
        view.strides = &self.stride
        view.suboffsets = NULL
        view.internal = NULL


cdef class Reading:
    # inspect.signature reads the arguments from the first line
    """Reading(counts, layout, policies, monotonic, wall, reader=None)\n--\n
    The result of one reading of a table: the base class of `counters.Snapshot`."""

    def __init__(self, Counts counts not None, object layout, list policies not None, double monotonic, double wall,
                 object reader=None):
        """*policies*: (packets, bytes) of each. *layout*: the `Layout` of the ruleset. *reader*: the `CounterReader`
        that has the bytes of the rules."""
        self._counts, self._layout, self._policies, self._reader = counts, layout, policies, reader
        self.monotonic, self.wall = monotonic, wall

    @property
    def time(self):
        """The time of the reading: (monotonic clock, wall clock), in seconds."""
        return self.monotonic, self.wall


cdef inline const int32_t *_places(bytes slots) noexcept:
    if slots is None:
        return NULL
    return <const int32_t *> PyBytes_AS_STRING(slots)


cdef class Counts:
    """The packet and byte counters of all rules of a table at one moment: two rows of uint64 with a slot for each
    rule."""

    def __dealloc__(self):
        free(self.packet_row)
        free(self.aside)

    cdef int _allocate(self, size_t rules) except -1:
        # one slot more than there are rules: a walk over a legacy table stores the counters of the last entry of a
        # chain in the slot of the next rule, before that rule comes
        self.packet_row = <uint64_t *> malloc(2 * (rules + 1) * sizeof(uint64_t))
        if self.packet_row == NULL:
            raise MemoryError
        self.byte_row = self.packet_row + rules + 1
        self.rules = rules
        return 0

    cdef object _numbers(self, const uint64_t *row, Py_ssize_t start, Py_ssize_t stop):
        cdef Numbers numbers = Numbers.__new__(Numbers)
        if not 0 <= start <= stop <= self.rules:
            raise IndexError("no such slots")
        numbers.keeper = self
        numbers.first = row + start
        numbers.shape = stop - start
        return memoryview(numbers)

    def packets(self, Py_ssize_t start, Py_ssize_t stop):
        """Return the packets of the slots from *start* to *stop*, as a memoryview of uint64."""
        return self._numbers(self.packet_row, start, stop)

    def bytes(self, Py_ssize_t start, Py_ssize_t stop):
        """Return the bytes of the slots from *start* to *stop*, as a memoryview of uint64."""
        return self._numbers(self.byte_row, start, stop)

    cpdef list pairs(self, Py_ssize_t start, Py_ssize_t stop):
        """Return a list of (packets, bytes) for the slots from *start* to *stop*."""
        cdef Py_ssize_t i
        cdef list result
        cdef tuple pair
        if not 0 <= start <= stop <= self.rules:
            raise IndexError("no such slots")
        result = PyList_New(stop - start)
        # tuples of integers form no cycles. The collector is off, since so many new objects would start it again and
        # again
        cdef int collecting = PyGC_Disable()
        try:
            for i in range(start, stop):
                pair = (self.packet_row[i], self.byte_row[i])
                PyObject_GC_UnTrack(<void *> pair)
                Py_INCREF(pair)
                PyList_SET_ITEM(result, i - start, pair)
        finally:
            if collecting:
                PyGC_Enable()
        return result

    def by_chain(self, tuple chains not None):
        """Return {chain: [(packets, bytes), …]} for *chains*, which are given as in `Scan.chains`."""
        return {chain[0]: self.pairs(chain[2], chain[3]) for chain in chains}

    def sum(self, Py_ssize_t start, Py_ssize_t stop):
        """Return (packets, bytes), summed over the slots from *start* to *stop*."""
        if not 0 <= start <= stop <= self.rules:
            raise IndexError("no such slots")
        return _sum(self.packet_row, start, stop), _sum(self.byte_row, start, stop)

    cdef int _check(self, Counts before, bytes slots) except -1:
        """Raise unless *slots* fits these counters and *before*: an int32 for each slot, or None if no slot has
        changed.

        The int32 is the slot of the rule in *before*, or -1 if *before* does not have the rule.
        """
        cdef Py_ssize_t i
        cdef const int32_t *place = _places(slots)
        cdef bint sound = before.rules == self.rules if place == NULL else PyBytes_GET_SIZE(slots) == 4 * self.rules
        if place != NULL and sound:
            for i in range(self.rules):
                sound &= place[i] < before.rules
        if not sound:
            raise ParameterError("these counters are not of one ruleset")
        return 0

    cdef int judge(self, Counts before, bytes slots) except -1:
        """Compare with *before*. Return `FELL`, `HAD_COUNTED`, both or 0. *slots* is as for `since`."""
        cdef Py_ssize_t i, j
        cdef const uint64_t *now = self.packet_row
        cdef const uint64_t *old = before.packet_row
        cdef const uint64_t *size_now = self.byte_row
        cdef const uint64_t *size_old = before.byte_row
        cdef uint64_t fell = 0, counted = 0
        cdef const int32_t *place = _places(slots)
        self._check(before, slots)
        if place == NULL:
            for i in range(self.rules):
                fell |= (now[i] < old[i]) | (size_now[i] < size_old[i])
                counted |= old[i]
        else:
            for i in range(self.rules):
                j = place[i]
                if j >= 0:
                    fell |= (now[i] < old[j]) | (size_now[i] < size_old[j])
                    counted |= old[j]
        return (FELL if fell else 0) | (HAD_COUNTED if counted else 0)

    def with_aside(self, Counts before, bytes slots):
        """Return these counters plus those of *before*, which a writer has put aside and will add itself.

        *before* None: it is not known what was put aside, and nothing is added. *slots* is as for `since`.
        """
        cdef Counts whole = Counts.__new__(Counts)
        cdef const int32_t *place = _places(slots)
        cdef Py_ssize_t i, j
        if before is not None:
            self._check(before, slots)
        whole._allocate(self.rules)
        whole.aside = <uint64_t *> malloc(2 * room_for(self.rules + 1, self.rules) * sizeof(uint64_t))
        if whole.aside == NULL:
            raise MemoryError
        for i in range(self.rules):
            j = -1 if before is None else i if place == NULL else place[i]
            whole.packet_row[i], whole.byte_row[i] = self.packet_row[i], self.byte_row[i]
            if j < 0:
                whole.aside[2 * i] = whole.aside[2 * i + 1] = UNKNOWN
            else:
                whole.aside[2 * i], whole.aside[2 * i + 1] = before.packet_row[j], before.byte_row[j]
                whole.packet_row[i] += before.packet_row[j]
                whole.byte_row[i] += before.byte_row[j]
        return whole

    def since(self, Counts before not None, bytes slots):
        """Return (a `Counts` of what was counted since *before*, flags: a byte for each slot).

        A flag is 1 if a counter of the rule was reset, 2 if *before* does not have the rule, and else 0. *slots* has an
        int32 for each slot: the slot of the rule in *before*, or -1. None means that no slot has changed.
        """
        cdef Counts added = Counts.__new__(Counts)
        cdef Py_ssize_t i, j
        cdef uint64_t packets, sizes, packets_before, sizes_before
        cdef const int32_t *place = _places(slots)
        self._check(before, slots)
        added._allocate(self.rules)
        cdef bytes flags = PyBytes_FromStringAndSize(NULL, self.rules)
        cdef char *flag = PyBytes_AS_STRING(flags)
        for i in range(self.rules):
            j = i if place == NULL else place[i]
            packets, sizes = self.packet_row[i], self.byte_row[i]
            flag[i] = 0
            if j < 0:
                flag[i] = NEW
            else:
                packets_before, sizes_before = before.packet_row[j], before.byte_row[j]
                if before.aside != NULL and before.aside[2 * j] == UNKNOWN:
                    flag[i] = NEW
                if packets < packets_before or sizes < sizes_before:
                    flag[i] = RESET      # only what was counted after the reset is known
                    if before.aside != NULL and before.aside[2 * j] != UNKNOWN:
                        # the counters that were put aside were lost. What was counted before that has been reported
                        # already
                        packets_before -= before.aside[2 * j]
                        sizes_before -= before.aside[2 * j + 1]
                if packets >= packets_before and sizes >= sizes_before:
                    packets -= packets_before
                    sizes -= sizes_before
            added.packet_row[i] = packets
            added.byte_row[i] = sizes
        return added, flags

    def __reduce__(self):
        cdef bytes aside = None
        if self.aside != NULL:
            aside = PyBytes_FromStringAndSize(<char *> self.aside, 16 * self.rules)
        return _restore_counts, (PyBytes_FromStringAndSize(<char *> self.packet_row, 8 * self.rules),
                                 PyBytes_FromStringAndSize(<char *> self.byte_row, 8 * self.rules), aside)


def _restore_counts(bytes packets not None, bytes sizes not None, bytes aside=None):
    cdef Counts counts = Counts.__new__(Counts)
    if (PyBytes_GET_SIZE(packets) % 8 or PyBytes_GET_SIZE(packets) != PyBytes_GET_SIZE(sizes)
            or aside is not None and PyBytes_GET_SIZE(aside) != 2 * PyBytes_GET_SIZE(packets)):
        raise ParameterError("these are no counters")
    counts._allocate(PyBytes_GET_SIZE(packets) // 8)
    memcpy(counts.packet_row, PyBytes_AS_STRING(packets), PyBytes_GET_SIZE(packets))
    memcpy(counts.byte_row, PyBytes_AS_STRING(sizes), PyBytes_GET_SIZE(sizes))
    if aside is not None:
        counts.aside = <uint64_t *> malloc(room_for(PyBytes_GET_SIZE(aside) + 1, PyBytes_GET_SIZE(aside)))
        if counts.aside == NULL:
            raise MemoryError
        memcpy(counts.aside, PyBytes_AS_STRING(aside), PyBytes_GET_SIZE(aside))
    return counts


cdef object _sum(const uint64_t *row, Py_ssize_t start, Py_ssize_t stop):
    cdef uint64_t low = 0, high = 0
    cdef Py_ssize_t i
    for i in range(start, stop):
        low += row[i]
        high += low < row[i]
    return (int(high) << 64) + low if high else low


# ---------------------------------------------------------------- which rule is which

cdef struct KeyPlace:
    uint64_t key
    int32_t first            # the first free slot with that key, or -1


cdef inline size_t _find(const KeyPlace *places, size_t mask, uint64_t key) noexcept nogil:
    """Return the index of *key*, or of the free place where it belongs."""
    cdef size_t at = digest_mix(key, 0x9e3779b97f4a7c15u) & mask
    while places[at].key and places[at].key != key:
        at = (at + 1) & mask
    return at


cdef inline uint64_t _key(object chain, uint64_t identity) except? 0:
    """Return a key for a rule, made of its identity and its chain."""
    return (identity ^ (<uint64_t> <Py_ssize_t> hash(chain)) * 0xbf58476d1ce4e5b9u) | 1


cdef class Scan:
    """Reads the counters of one table again and again. Each back end has one of its own, which is derived from this.

    While one of its methods runs, a finalizer or the handler of a signal may call another one: that is refused, and
    `close` is put off until the method has ended.
    """

    cdef int _begin(self) except -1:
        """Begin a method; raise if another one is running."""
        if self.busy:
            raise TransactionError("a read from within a read of the same reader")
        self.busy = True
        self.to_close = False
        return 0

    cdef void _end(self) noexcept:
        """End a method, and close if that was put off."""
        self.busy = False
        if self.to_close:
            self._free()

    cdef void _free(self) noexcept:
        """Close the socket and free the memory, if there are any."""

    cdef tuple _read(self):
        """Do the work of `read`, after `_begin`."""

    cdef list _entries(self, uint64_t digest):
        """Do the work of `entries`, after `_begin`."""

    def close(self):
        """Close the socket and free the memory. If another method is running, that happens when it ends."""
        if self.busy:
            self.to_close = True
        else:
            self._free()

    def read(self):
        """Return (`Counts`, digest of the ruleset, [(packets, bytes) of the policies, in the order of their hooks])."""
        self._begin()
        try:
            return self._read()
        finally:
            self._end()

    def quick(self, object reader, type kind not None):
        """Return a reading of the class *kind*, derived from `Reading`, if only counters can have changed and they can
        be read without waiting. Otherwise return None: then call `read`. Most scans always return None."""

    def remember(self, Counts counts not None, list policies not None):
        """Take note of counters of the ruleset that was read last, which somebody has read in another way since."""

    def entries(self, uint64_t digest):
        """Return the rules of the ruleset with *digest* as bytes, in the order of their slots.

        Raises `Conflict` if the ruleset is another one by now.
        """
        self._begin()
        try:
            return self._entries(digest)
        finally:
            self._end()


cdef int handle_index(HandleIndex *index, const void *rules, size_t size, size_t count) noexcept nogil:
    """Make an index of *count* rules of *size* bytes each, instead of the one that *index* has. Return 0 or ENOMEM."""
    cdef size_t number, room = 16
    cdef uint64_t handle
    while room < 2 * count:
        room *= 2
    free(index.places)
    index.places = <uint32_t *> calloc(room, sizeof(uint32_t))
    if index.places == NULL:
        return ENOMEM
    index.mask, index.rules, index.size = room - 1, <const char *> rules, size
    for number in range(count):
        handle = (<const uint64_t *> (index.rules + size * number))[0]
        index.places[handle_place(index, handle)] = <uint32_t> number + 1
    return 0


cpdef bytes place_slots(tuple chains, bytes identities, tuple chains_before, bytes identities_before):
    """Return the earlier slot of each rule: an int32 for each slot, -1 for a new rule; None if all slots are the same.

    A rule is recognized by its chain and its identity. Rules that are equal in both are taken in their order. *chains*
    and *identities* are as in `Scan`.
    """
    if identities == identities_before and chains == chains_before:
        return None
    cdef Py_ssize_t count = PyBytes_GET_SIZE(identities) // 8, old = PyBytes_GET_SIZE(identities_before) // 8
    cdef Py_ssize_t slot, first, end
    cdef const uint64_t *identity = <const uint64_t *> PyBytes_AS_STRING(identities_before)
    cdef bytes placed = PyBytes_FromStringAndSize(NULL, 4 * count)
    cdef int32_t *place = <int32_t *> PyBytes_AS_STRING(placed)
    cdef size_t room = 16, at
    cdef KeyPlace *places
    cdef int32_t *following      # the next slot with the same key
    while room < 2 * <size_t> old:
        room *= 2
    places = <KeyPlace *> malloc(room * sizeof(KeyPlace) + old * sizeof(int32_t))
    if places == NULL:
        raise MemoryError
    memset(places, 0, room * sizeof(KeyPlace))
    memset(place, 0xff, 4 * count)
    following = <int32_t *> (places + room)
    try:
        # from the last slot to the first, so that the list of each key begins with its first slot
        for name, _, first, end in reversed(chains_before):
            if not 0 <= first <= end <= old:
                raise ParameterError("these chains have other rules")
            for slot in range(end - 1, first - 1, -1):
                at = _find(places, room - 1, _key(name, identity[slot]))
                following[slot] = places[at].first if places[at].key else -1
                places[at].key = _key(name, identity[slot])
                places[at].first = <int32_t> slot
        identity = <const uint64_t *> PyBytes_AS_STRING(identities)
        for name, _, first, end in chains:
            if not 0 <= first <= end <= count:
                raise ParameterError("these chains have other rules")
            for slot in range(first, end):
                at = _find(places, room - 1, _key(name, identity[slot]))
                place[slot] = places[at].first if places[at].key else -1
                if place[slot] >= 0:
                    places[at].first = following[place[slot]]
    finally:
        free(places)
    return placed
