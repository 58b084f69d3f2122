# cython: freethreading_compatible=False
"""The series of a table: their labels as text that is ready to be printed, and which rule counts in which of them.

Labels are made once for each ruleset. A scrape adds numbers to them, and nothing else.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from .._counts cimport Counts
from ..errors import ParameterError

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* Write *number* in decimal, at most 20 digits. Return the end. */
    static inline __attribute__((unused)) char *series_put_number(char *at, uint64_t number)
    {
        char digits[20];
        int first = 20;

        do {
            digits[--first] = (char)('0' + number % 10);
            number /= 10;
        } while (number);
        memcpy(at, digits + first, (size_t)(20 - first));
        return at + (20 - first);
    }
    """
    char *series_put_number(char *at, uint64_t number) nogil

cdef enum:
    PACKETS = 0
    BYTES = 1


cdef inline uint64_t _plus(uint64_t a, uint64_t b) noexcept nogil:
    """Return the sum, or the largest number if the sum is larger."""
    return a + b if a + b >= a else <uint64_t> 0xffffffffffffffff


cdef class Series:
    """The series of a table. `len()` is their number.

    *labels*: for each series, the bytes after the name of the metric. *places*: an int32 for each of *slots* rules, the
    number of its series or -1. None means that each rule has its own series.
    """

    cdef char *text              # all labels, one after the other
    cdef size_t *ends            # where each label ends; ends[0] is 0
    cdef Py_ssize_t count
    cdef Py_ssize_t slots
    cdef bytes places
    cdef readonly list labels    # a list of bytes

    def __dealloc__(self):
        free(self.text)
        free(self.ends)

    def __init__(self, list labels not None, bytes places, Py_ssize_t slots):
        cdef size_t length = 0
        cdef Py_ssize_t i
        cdef bytes label
        cdef const int32_t *place
        if self.text != NULL:
            raise ParameterError("these series are made")
        self.labels, self.places, self.count, self.slots = labels, places, len(labels), slots
        if places is None:
            if slots != self.count:
                raise ParameterError("there are as many series as rules, or it is said which is which")
        else:
            place = <const int32_t *> PyBytes_AS_STRING(places)
            if PyBytes_GET_SIZE(places) != 4 * slots:
                raise ParameterError("there is a place for each rule")
            for i in range(slots):
                if place[i] >= self.count:
                    raise ParameterError("there is no such series")
        for label in labels:
            length += PyBytes_GET_SIZE(label)
        self.text = <char *> malloc(length + 1)
        self.ends = <size_t *> malloc((self.count + 1) * sizeof(size_t))
        if self.text == NULL or self.ends == NULL:
            raise MemoryError
        length = 0
        self.ends[0] = 0
        for i in range(self.count):
            label = labels[i]
            memcpy(self.text + length, PyBytes_AS_STRING(label), PyBytes_GET_SIZE(label))
            length += PyBytes_GET_SIZE(label)
            self.ends[i + 1] = length

    def __len__(self):
        return self.count

    def sums(self, Counts counts not None, Counts before=None):
        """Return the `Counts` of the series: the sums over their rules in *counts*, plus *before*, their earlier
        `Counts`."""
        cdef Counts sums
        cdef Py_ssize_t i, j
        cdef const int32_t *place
        if counts.rules != self.slots or before is not None and before.rules != self.count:
            raise ParameterError("these counters are not of this ruleset")
        if self.places is None and before is None:
            return counts
        sums = Counts.__new__(Counts)
        sums._allocate(self.count)
        if before is None:
            memset(sums.packet_row, 0, self.count * sizeof(uint64_t))
            memset(sums.byte_row, 0, self.count * sizeof(uint64_t))
        else:
            memcpy(sums.packet_row, before.packet_row, self.count * sizeof(uint64_t))
            memcpy(sums.byte_row, before.byte_row, self.count * sizeof(uint64_t))
        place = NULL
        if self.places is not None:
            place = <const int32_t *> PyBytes_AS_STRING(self.places)
        with nogil:
            for i in range(self.slots):
                j = i if place == NULL else place[i]
                if j >= 0:
                    sums.packet_row[j] = _plus(sums.packet_row[j], counts.packet_row[i])
                    sums.byte_row[j] = _plus(sums.byte_row[j], counts.byte_row[i])
        return sums

    def write(self, bytes name not None, Counts values not None, int row):
        r"""Return a line for each series: *name*, its labels, a space, its packets (*row* 0) or bytes (1), and `\n`."""
        cdef size_t width = PyBytes_GET_SIZE(name)
        cdef Py_ssize_t i
        cdef const char *head = PyBytes_AS_STRING(name)
        cdef const uint64_t *numbers
        cdef char *at
        cdef size_t size
        cdef bytes written
        if values.rules != self.count or row not in (PACKETS, BYTES):
            raise ParameterError("these are not the numbers of these series")
        numbers = values.packet_row if row == PACKETS else values.byte_row
        with nogil:
            size = self.ends[self.count]
            for i in range(self.count):
                size += width + 2 + _digits(numbers[i])
        written = PyBytes_FromStringAndSize(NULL, size)
        at = PyBytes_AS_STRING(written)
        with nogil:
            for i in range(self.count):
                memcpy(at, head, width)
                at += width
                size = self.ends[i + 1] - self.ends[i]
                memcpy(at, self.text + self.ends[i], size)
                at += size
                at[0] = b" "
                at = series_put_number(at + 1, numbers[i])
                at[0] = b"\n"
                at += 1
        return written


cdef inline size_t _digits(uint64_t number) noexcept nogil:
    cdef size_t digits = 1
    while number >= 10:
        number //= 10
        digits += 1
    return digits


def counts_of(list pairs not None):
    """Return the `Counts` of a list of (packets, bytes)."""
    cdef Counts counts = Counts.__new__(Counts)
    cdef Py_ssize_t i
    cdef uint64_t packets, sizes
    counts._allocate(len(pairs))
    for i in range(len(pairs)):
        packets, sizes = pairs[i]
        counts.packet_row[i], counts.byte_row[i] = packets, sizes
    return counts
