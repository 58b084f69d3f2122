# A network namespace in the kernel's memory.

from libc.stdint cimport uint32_t, uint64_t

from .window cimport Window

cdef class Net:
    cdef Window window
    cdef readonly uint64_t address
    cdef uint32_t generic            # of struct net: where it has what parts of the kernel keep for it
    cdef uint32_t count_at, slots_at

    cdef uint32_t slots(self) noexcept nogil
    cdef uint64_t slot(self, uint32_t number) noexcept nogil
    cdef int life(self, uint64_t *alive, uint64_t *cookie_at, uint64_t *cookie) except -1
