# Tells which per-CPU memory the kernel has freed.

from libc.stdint cimport uint64_t

from .kernel cimport Map, TracepointLink

cdef class Frees:
    cdef object __weakref__
    cdef Map log
    cdef TracepointLink link

    cdef uint64_t count(self) noexcept nogil
    cdef bytes after(self, uint64_t first)

cdef Frees shared_frees()
