# A network namespace in the kernel's memory.

from libc.stdint cimport uint32_t, uint64_t

from .window cimport Window

cdef class Net:
    cdef Window window
    cdef readonly uint64_t address
    cdef uint32_t generic            # offset in struct net of the pointer to its slots for parts of the kernel
    cdef uint32_t count_at, slots_at  # offsets in struct net_generic

    cdef uint32_t slots(self) noexcept nogil
    cdef uint64_t slot(self, uint32_t number) noexcept nogil
    cdef int life(self, uint64_t *alive, uint64_t *cookie_at, uint64_t *cookie) except -1
