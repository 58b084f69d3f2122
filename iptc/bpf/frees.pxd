# Tells which per-CPU memory the kernel has freed.

from libc.stdint cimport uint64_t

from .kernel cimport Map, TracepointLink

# A set of addresses, by hashing. `places` is NULL if it is empty.
cdef struct Addresses:
    uint64_t *places
    size_t mask

cdef inline size_t address_place(const Addresses *its, uint64_t address) noexcept nogil:
    """The place of an address in the set, or the free place where it belongs. It is never 0."""
    cdef size_t place = (address * <uint64_t> 0x9e3779b97f4a7c15) >> 40 & its.mask
    while its.places[place] and its.places[place] != address:
        place = (place + 1) & its.mask
    return place

cdef inline bint address_in(const Addresses *its, uint64_t address) noexcept nogil:
    return its.places != NULL and its.places[address_place(its, address)] != 0

cdef class Frees:
    cdef object __weakref__
    cdef Map log
    cdef TracepointLink link

    cdef uint64_t count(self) noexcept nogil
    cdef bint gather(self, uint64_t since, Addresses *into) except -1

cdef Frees shared_frees()
