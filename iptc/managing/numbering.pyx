# cython: freethreading_compatible=False
"""Gives the rules of two chains numbers: two rules have the same number if they say the same.

Rules of the same bytes, counters aside, have the same text. So only few rules must be printed: those that only one side
has, and those that have the addresses and the protocol of one of these, since they may say the same in other bytes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from .._core cimport Family, family_of, room_for
from ..errors import ParameterError
from ..language import comparing, printing

# What is compared at first: all bytes except the counters, or only addresses and protocol.
cdef enum:
    WHOLE
    ADDRESSES

    COUNTERS_SIZE = 16

cdef struct Rows:
    Family *family
    const char **data
    uint32_t *sizes
    uint32_t count
    uint32_t *slots          # a hash table with the numbers of rows, counting from 1
    uint32_t mask


def number(int nfproto, list one not None, list other not None):
    """Return two memoryviews of uint32: the numbers of the rules of both lists, given as entries.

    Equal rules have the same number. The numbers are smaller than the lengths of both lists together.
    """
    cdef Rows rows
    cdef uint32_t split = len(one), i, first
    cdef uint32_t *numbers = NULL
    cdef char *sides = NULL
    cdef dict same
    rows.family = family_of(nfproto)
    rows.count = len(one) + len(other)
    rows.mask = 1
    while rows.mask < 2 * rows.count:
        rows.mask *= 2
    rows.data = <const char **> malloc(room_for(rows.count + 1, rows.count) * sizeof(const char *))
    rows.sizes = <uint32_t *> malloc(room_for(rows.count + 1, rows.count) * sizeof(uint32_t))
    rows.slots = <uint32_t *> calloc(rows.mask, sizeof(uint32_t))
    numbers = <uint32_t *> malloc(room_for(rows.count + 1, rows.count) * sizeof(uint32_t))
    sides = <char *> calloc(room_for(rows.count + 1, rows.count), 1)
    rows.mask -= 1
    try:
        if rows.data == NULL or rows.sizes == NULL or rows.slots == NULL or numbers == NULL or sides == NULL:
            raise MemoryError
        _take(&rows, one, 0)
        _take(&rows, other, split)
        with nogil:
            for i in range(rows.count):
                # the number of a rule is the index of the first equal one
                first = _found(&rows, i, WHOLE, True)
                numbers[i] = first
                sides[first] |= 1 if i < split else 2
        same = _same_texts(&rows, one, other, numbers, sides)
        if same:
            for i in range(rows.count):
                numbers[i] = same.get(numbers[i], numbers[i])
        return _as_numbers(numbers, split), _as_numbers(numbers + split, rows.count - split)
    finally:
        free(rows.data)
        free(rows.sizes)
        free(rows.slots)
        free(numbers)
        free(sides)


cdef int _take(Rows *rows, list entries, uint32_t start) except -1:
    cdef uint32_t i
    cdef bytes entry
    for i in range(<uint32_t> len(entries)):
        entry = entries[i]
        if PyBytes_GET_SIZE(entry) < <Py_ssize_t> rows.family.header:
            raise ParameterError("not an entry of this family: it is too short")
        rows.data[start + i] = PyBytes_AS_STRING(entry)
        rows.sizes[start + i] = PyBytes_GET_SIZE(entry)
    return 0


cdef object _as_numbers(const uint32_t *numbers, uint32_t count):
    return memoryview(PyBytes_FromStringAndSize(<const char *> numbers, count * sizeof(uint32_t))).cast("I")


cdef dict _same_texts(Rows *rows, list one, list other, const uint32_t *numbers, const char *sides):
    """Return {number: the smallest number of the rules with the same text}."""
    cdef uint32_t i, found
    cdef bint any_alone = False
    cdef dict texts = {}, same = {}
    with nogil:
        for i in range(rows.mask + 1):
            rows.slots[i] = 0
        for i in range(rows.count):
            if numbers[i] == i and sides[i] != 3:
                any_alone = True
                _found(rows, i, ADDRESSES, True)
    if not any_alone:
        return same
    for i in range(rows.count):
        if numbers[i] != i:
            continue
        with nogil:
            found = _found(rows, i, ADDRESSES, False)
        if found == rows.count:
            continue
        entry = one[i] if i < <uint32_t> len(one) else other[i - len(one)]
        text = printing.render(rows.family.nfproto, entry)
        if "unknown data]" in text and not comparing.is_readable(rows.family.nfproto, entry):
            # the text does not show everything
            continue
        first = texts.setdefault(text, i)
        if first != i:
            same[i] = first
    return same


# ------------------------------------------------------------------------ hashing


cdef uint32_t _found(Rows *rows, uint32_t row, int what, bint put) noexcept nogil:
    """Return the index of the first row that is equal to *row* in *what*, or the number of rows. *put*: add the row."""
    cdef uint32_t at = _hash(rows, row, what) & rows.mask
    while rows.slots[at]:
        if _is_same(rows, rows.slots[at] - 1, row, what):
            return rows.slots[at] - 1
        at = (at + 1) & rows.mask
    if not put:
        return rows.count
    rows.slots[at] = row + 1
    return row


cdef bint _is_same(const Rows *rows, uint32_t one, uint32_t other, int what) noexcept nogil:
    cdef const Family *family = rows.family
    cdef const char *a = rows.data[one]
    cdef const char *b = rows.data[other]
    cdef size_t behind = family.counters + COUNTERS_SIZE
    if what == ADDRESSES:
        return memcmp(a, b, 4 * family.address) == 0 and memcmp(a + family.proto, b + family.proto, 2) == 0
    return (rows.sizes[one] == rows.sizes[other] and memcmp(a, b, family.counters) == 0
            and memcmp(a + behind, b + behind, rows.sizes[one] - behind) == 0)


cdef uint64_t _hash(const Rows *rows, uint32_t row, int what) noexcept nogil:
    cdef const Family *family = rows.family
    cdef const char *data = rows.data[row]
    cdef size_t behind = family.counters + COUNTERS_SIZE
    cdef uint64_t state = rows.sizes[row] if what == WHOLE else 0
    if what == ADDRESSES:
        return _mixed(data, 4 * family.address, _mixed(data + family.proto, 2, state))
    return _mixed(data + behind, rows.sizes[row] - behind, _mixed(data, family.counters, state))


cdef uint64_t _mixed(const char *data, size_t length, uint64_t state) noexcept nogil:
    cdef uint64_t part
    cdef size_t size
    while length:
        part = 0
        size = 8 if length > 8 else length
        memcpy(&part, data, size)
        state = (state ^ part) * <uint64_t> 0x9E3779B97F4A7C15
        state ^= state >> 29
        data += size
        length -= size
    return state
