# cython: freethreading_compatible=False
"""Counters at one moment: two rows of uint64, one slot a rule.

A back end's reader fills a `Counts`. Programs see its rows as memoryviews, as lists of pairs, and as differences.
"""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_WRITABLE, Py_buffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from .errors import ParameterError

cdef extern from "Python.h":
    int PyGC_Disable()
    int PyGC_Enable()
    void PyObject_GC_UnTrack(void *object)


cdef class Numbers:
    """uint64 numbers that never change, through the buffer protocol."""

    cdef object keeper           # what owns the memory
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


cdef class Counts:
    """The packets and bytes of all rules of a table at one moment: two rows of uint64, one slot a rule."""

    def __dealloc__(self):
        free(self.packet_row)

    cdef int _allocate(self, size_t rules) except -1:
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
        """The packets of the slots from *start* to *stop*, as a memoryview of uint64."""
        return self._numbers(self.packet_row, start, stop)

    def bytes(self, Py_ssize_t start, Py_ssize_t stop):
        """The bytes of the slots from *start* to *stop*, as a memoryview of uint64."""
        return self._numbers(self.byte_row, start, stop)

    cpdef list pairs(self, Py_ssize_t start, Py_ssize_t stop):
        """A list of (packets, bytes) for the slots from *start* to *stop*."""
        cdef Py_ssize_t i
        cdef list result
        cdef tuple pair
        if not 0 <= start <= stop <= self.rules:
            raise IndexError("no such slots")
        result = PyList_New(stop - start)
        # numbers refer to nothing: the collector need not look at them, nor run because there are many
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
        """Return {chain: [(packets, bytes), …]} for *chains*, as `TableScan.chains` has them."""
        return {chain[0]: self.pairs(chain[2], chain[3]) for chain in chains}

    def sum(self, Py_ssize_t start, Py_ssize_t stop):
        """(packets, bytes) over the slots from *start* to *stop*."""
        cdef Py_ssize_t i
        cdef uint64_t packets = 0, sizes = 0
        if not 0 <= start <= stop <= self.rules:
            raise IndexError("no such slots")
        for i in range(start, stop):
            packets += self.packet_row[i]
            sizes += self.byte_row[i]
        return packets, sizes

    def since(self, Counts before not None, bytes slots):
        """Return (Counts of what was added, bytes that are 1 where a counter was reset and 2 where there was none).

        *slots*, an int32 for each, says where a slot stood in *before*, -1 for nowhere; None: where it stands now.
        """
        cdef Counts added = Counts.__new__(Counts)
        cdef Py_ssize_t i, j
        cdef uint64_t packets, sizes
        cdef bint mapped = slots is not None
        cdef const int32_t *place = <const int32_t *> PyBytes_AS_STRING(slots) if mapped else NULL
        if (mapped and PyBytes_GET_SIZE(slots) != 4 * self.rules) or (not mapped and before.rules != self.rules):
            raise ParameterError("these counters are not of one ruleset")
        added._allocate(self.rules)
        cdef bytes flags = PyBytes_FromStringAndSize(NULL, self.rules)
        cdef char *flag = PyBytes_AS_STRING(flags)
        for i in range(self.rules):
            j = place[i] if mapped else i
            packets, sizes = self.packet_row[i], self.byte_row[i]
            flag[i] = 0
            if j < 0:
                flag[i] = 2
            elif j >= before.rules:
                raise ParameterError("these counters are not of one ruleset")
            elif packets < before.packet_row[j] or sizes < before.byte_row[j]:
                flag[i] = 1          # reset since: what it counted after that is all that is known
            else:
                packets -= before.packet_row[j]
                sizes -= before.byte_row[j]
            added.packet_row[i] = packets
            added.byte_row[i] = sizes
        return added, flags

    def __reduce__(self):
        return _restore_counts, (PyBytes_FromStringAndSize(<char *> self.packet_row, 8 * self.rules),
                                 PyBytes_FromStringAndSize(<char *> self.byte_row, 8 * self.rules))


def _restore_counts(bytes packets not None, bytes sizes not None):
    cdef Counts counts = Counts.__new__(Counts)
    if PyBytes_GET_SIZE(packets) % 8 or PyBytes_GET_SIZE(packets) != PyBytes_GET_SIZE(sizes):
        raise ParameterError("these are no counters")
    counts._allocate(PyBytes_GET_SIZE(packets) // 8)
    memcpy(counts.packet_row, PyBytes_AS_STRING(packets), PyBytes_GET_SIZE(packets))
    memcpy(counts.byte_row, PyBytes_AS_STRING(sizes), PyBytes_GET_SIZE(sizes))
    return counts
