# cython: freethreading_compatible=False
"""Reads the counters of a table by descriptors that another process has handed over: without rights, and no socket.

The other process is not trusted. All numbers in its memfd are checked, so that none leads to memory that does not
belong to the copies. The numbers in the shared memory are counters: they are added up, and used for nothing else.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, malloc
from libc.string cimport memcpy, memset

from .._counts cimport Counts, Scan
from .copies cimport CHANGED, FINE, SHARED, Copies, format, plan, sheet, spot
from .kernel cimport Descriptor, Map, Program, TracepointLink
from .window cimport BANK, BANK_PAGES, PAGE, SET_AT, Window, copy, poll

from ..errors import Conflict, IPTCError, KernelError, ParameterError, ParameterTypeError, Unsupported
from . import kernel, parcel
from .reasons import why_not_run

import errno

cdef extern from "program.h" nogil:
    struct pair:
        uint32_t copy
        uint64_t set

cdef enum:
    MOST_PROCESSORS = 1 << 14
    MOST_DESCRIPTORS = 64
    ATTEMPTS = 64                    # how often to read again if another process reads at the same time, or on signals

NOT_COMPARED = "handed over: what eBPF reads is not compared with what the socket says"


cdef class HandedScan(Scan):
    """Reads the counters that another process has handed over.

    `source` is "bpf"; `source_reason` says that they are not compared.
    """

    cdef Copies copies
    cdef Counts last
    cdef list last_policies
    cdef str ended                   # why nothing can be read any more, or None
    cdef readonly str source
    cdef readonly str source_reason

    def __init__(self, object said not None, Map given not None, Program polling not None, Program pairing not None,
                 TracepointLink trace):
        """Read by the programs *polling* and *pairing*, which write into *given*. *said* is the `Parcel`. *trace* lets
        the program run that counts freed blocks, if the table needs one."""
        self.source, self.source_reason = "bpf", NOT_COMPARED
        self.chains, self.identities, self.digest, self.doubt = said.chains, said.identities, said.generation, 0
        self.copies = _copies(said, given, polling, pairing)
        self.copies.window.trace = trace
        _check_set(self.copies, said.set)

    @property
    def closed(self):
        """Whether it was closed."""
        return self.copies is None or self.to_close

    cdef void _free(self) noexcept:
        self.copies = None

    cdef tuple _read(self):
        cdef int status = FINE, _attempt
        if self.copies is None:
            raise KernelError("this reader is closed", 9, "Bad file descriptor")
        if self.ended is not None:
            raise Unsupported(self.ended)
        for _attempt in range(ATTEMPTS):
            with nogil:
                status = self.copies.read()
            if status == FINE:
                break
            if status not in (SHARED, -EAGAIN, -EINTR):
                self._end_of_it(status)
            PyErr_CheckSignals()
        if status == SHARED:
            raise Conflict("another process reads with the same descriptors all the time: ask for some for each")
        if status != FINE:
            self._end_of_it(status)
        if self.copies.is_new or self.last is None:
            self.last_policies = []
            self.last = self.copies.counted(self.last_policies)
        return self.last, self.digest, list(self.last_policies)

    cdef int _end_of_it(self, int status) except -1:
        """Raise `Unsupported` with the reason. If it is final, each later reading raises it again."""
        if status < 0:
            raise Unsupported(f"can't read counters that were handed over: {why_not_run(-status)}")
        if status == CHANGED:
            self.ended = ("the ruleset was changed, or its network namespace has ended, since its counters were handed "
                          "over, and this process may not look for them: ask for them again")
        else:
            self.ended = "memory of the kernel that has counters cannot be read"
        raise Unsupported(self.ended)

    cdef list _entries(self, uint64_t digest):
        raise Unsupported("of rules that were handed over there are only the texts")


# ------------------------------------------------------------------ what was handed over

cdef int _check_set(Copies copies, uint64_t number) except -1:
    """Raise `ParameterError` unless the programs and the memory were handed over together."""
    cdef poll request
    cdef pair other
    cdef uint32_t result
    cdef uint64_t there
    cdef int failed
    memset(&request, 0, sizeof(request))
    memset(&other, 0, sizeof(other))
    other.copy = 0xffffffff
    failed = copies.polling.run_in(&request, sizeof(request), &result)
    if not failed:
        failed = copies.pairing.run_in(&other, sizeof(other), &result)
    if failed:
        raise Unsupported(f"can't read counters that were handed over: {why_not_run(-failed)}")
    memcpy(&there, copies.page_map.memory + SET_AT, sizeof(there))
    if request.set != number or other.set != number or there != number:
        raise ParameterError("these descriptors were not handed over together")
    return 0


cdef format _format(tuple said):
    cdef format its
    its.size, its.packets, its.bytes = said
    return its


cdef Copies _copies(object said, Map given, Program polling, Program pairing):
    """Return the `Copies` that the parcel describes."""
    cdef Window window = Window.__new__(Window)
    cdef Copies made = Copies(window)
    cdef plan *its = &made.its
    cdef bytes spots = said.spots, sheets = said.sheets, pieces = said.pieces
    cdef const uint16_t *piece = <const uint16_t *> PyBytes_AS_STRING(pieces)
    cdef size_t i, pages
    if (PyBytes_GET_SIZE(spots) % sizeof(spot) or PyBytes_GET_SIZE(sheets) % sizeof(sheet)
            or PyBytes_GET_SIZE(pieces) % 4):
        raise _damaged("a part of another length")
    if not PyBytes_GET_SIZE(sheets) or not 0 < <int> said.cpus <= MOST_PROCESSORS:
        raise _damaged("no pages, or no processors")
    window.cpus = said.cpus
    made.stride, made.kept = said.stride, said.kept
    its.slots, its.rules = said.slots, said.rules
    its.rule, its.policy = _format(said.rule), _format(said.policy)
    its.spot_count = PyBytes_GET_SIZE(spots) // sizeof(spot)
    its.sheet_count = PyBytes_GET_SIZE(sheets) // sizeof(sheet) - 1
    its.copy_count = PyBytes_GET_SIZE(pieces) // 4
    pages = 2 * <size_t> window.cpus * made.stride
    if given.value_size != BANK or given.memory == NULL or pages > <size_t> given.entries * BANK_PAGES or (
            not given.entries) or its.sheet_count > made.stride and (made.kept or not made.stride):
        raise _damaged("there are fewer pages than it says")
    its.spots = <spot *> malloc(PyBytes_GET_SIZE(spots) + 1)
    its.sheets = <sheet *> malloc(PyBytes_GET_SIZE(sheets))
    its.copies = <copy *> calloc(<size_t> its.copy_count + 1, sizeof(copy))
    made.packets = <uint64_t *> calloc(2 * (<size_t> its.slots + 1), sizeof(uint64_t))
    made.dirty = <unsigned char *> calloc(<size_t> its.sheet_count + 1, 1)
    if (its.spots == NULL or its.sheets == NULL or its.copies == NULL or made.packets == NULL or made.dirty == NULL):
        raise MemoryError
    made.bytes = made.packets + its.slots + 1
    memcpy(its.spots, PyBytes_AS_STRING(spots), PyBytes_GET_SIZE(spots))
    memcpy(its.sheets, PyBytes_AS_STRING(sheets), PyBytes_GET_SIZE(sheets))
    for i in range(its.copy_count):
        its.copies[i].begin, its.copies[i].size = piece[2 * i], piece[2 * i + 1]
    if not _is_sound(its):
        raise _damaged("counters are where there is nothing")
    memset(&made.marks, 0, sizeof(made.marks))      # the program compares the marks itself
    made.page_map, made.polling, made.pairing = given, polling, pairing
    made.fresh = made.is_new = made.handed = True
    made.turn, made.set = made.given_turn(), said.set
    return made


cdef bint _is_sound(const plan *its) noexcept nogil:
    """Whether each sheet, spot and copy lies within the pages, and each slot within the slots."""
    cdef uint32_t number, k, size, count
    cdef const sheet *here
    cdef const sheet *following
    if its.sheets[0].first or its.sheets[0].copy:
        return False
    for number in range(its.sheet_count):
        here, following = &its.sheets[number], &its.sheets[number + 1]
        if (following.first < here.first or following.first > its.spot_count or following.copy < here.copy
                or following.copy > its.copy_count or here.used > PAGE):
            return False
        count = following.first - here.first
        if count and following.copy == here.copy:
            return False
        for k in range(here.first, following.first):
            if its.spots[k].slot >= its.slots or its.spots[k].at // PAGE != number:
                return False
            size = its.rule.size if its.spots[k].slot < its.rules else its.policy.size
            if its.spots[k].at % PAGE + size > PAGE:
                return False
        # a plain sheet: counters of 16 bytes from the beginning of the page on, for consecutive slots
        if here.plain and (not count or its.rule.size != 16 or 16 * <uint64_t> count > PAGE
                           or its.spots[here.first].slot + <uint64_t> count > its.slots):
            return False
    return its.sheets[its.sheet_count].first == its.spot_count and its.sheets[its.sheet_count].copy == its.copy_count


cdef object _damaged(str why):
    return ParameterError(f"the description of the counters is damaged: {why}")


def take_over(object descriptors):
    """Return (a scan that reads by *descriptors*, the `Parcel`). *descriptors* are those of `hand_over`, in any order.
    They are copied: the caller still owns them."""
    cdef dict found = {}
    cdef list others = []
    cdef list numbers
    try:
        numbers = list(descriptors)
    except TypeError:
        raise ParameterTypeError(f"descriptors are several integers, not {descriptors!r}") from None
    numbers = list(map(_number, numbers))
    if len(numbers) > MOST_DESCRIPTORS:
        raise ParameterError(f"{len(numbers)} descriptors are more than fds() gives")
    cdef list copied = list(map(_copied, numbers))
    for number, each in zip(numbers, copied):
        name = _name_of(each, number)
        if name == "trace":
            others.append(kernel.TracepointLink.from_descriptor((<Descriptor> each).held.fd))
        elif found.setdefault(name, each) is not each:
            raise ParameterError(f"descriptor {number} is a second one of a kind of which fds() gives one")
    for name, what in _KINDS.items():
        if name not in found:
            raise ParameterError(f"among the descriptors there must be {what}")
    said = parcel.read(found["parcel"].fileno())
    if len(others) != said.traced:
        raise ParameterError("among the descriptors there must be exactly one that counts freed blocks"
                             if said.traced else "one of the descriptors is none that fds() gives")
    scan = HandedScan(said, kernel.Map.from_descriptor(found["iptc_given"].fileno()),
                      kernel.Program.from_descriptor(found["hand"].fileno()),
                      kernel.Program.from_descriptor(found["hand_pair"].fileno()), others[0] if others else None)
    return scan, said


_KINDS = {
    "parcel": "the memfd with the description of the counters",
    "iptc_given": "the map with the counters",
    "hand": "the program that reads the counters",
    "hand_pair": "the program that reads a single counter",
}


def _number(object descriptor):
    if type(descriptor) is not int:
        raise ParameterTypeError(f"a descriptor is an integer, not {descriptor!r}")
    if not 0 <= descriptor < 1 << 31:
        raise ParameterError(f"{descriptor} is no descriptor")
    return descriptor


def _copied(int number):
    try:
        return Descriptor.of(number)
    except IPTCError as error:
        if error.errno == errno.EBADF:
            raise ParameterError(f"{number} is no open descriptor") from None
        raise


cdef str _name_of(Descriptor each, int number):
    """Return which of the descriptors this one is: a key of `_KINDS`, or "trace"."""
    if parcel.seals_of(each.held.fd) is not None:
        return "parcel"
    kind, of_map, of_program = each.names()
    if kind == kernel.ARRAY and of_map == "iptc_given":
        return of_map
    if kind == kernel.SYSCALL and of_program in _KINDS:
        return of_program
    if kind == kernel.RAW_TRACEPOINT_LINK:
        return "trace"
    raise ParameterError(f"descriptor {number} is none that fds() gives")
