# The base class of the finders: each back end derives a class that finds where its counters are in the kernel's memory.

from libc.stdint cimport uint32_t, uint64_t

from .copies cimport Marks, format
from .net cimport Net

cdef class Finder:
    cdef format rule
    cdef format policy
    cdef uint32_t slack              # how many bytes between two counters may be copied together with them
    cdef readonly uint64_t sequence  # per-CPU address of a count that is odd during changes; 0: none
    cdef Py_ssize_t rules            # how many rules were found
    cdef Net home                    # the network namespace of the table
    cdef bint compares               # the marks also change when other tables change; then `is_known` decides
    cdef bint has_marks              # False: there is no table yet, and so there are no marks

    cdef int mark(self, Marks *marks) except -1
    cdef int find(self, const Marks *marks) except -1
    cdef bint is_known(self, const Marks *marks) except -1
    cdef int keep(self, const Marks *marks) except -1
    cdef bytes addresses(self)
    cdef bytes owners(self)
    cdef tuple follow(self, object scan, Marks *marks, bytearray asked)
    cdef bint may_read(self, object scan) except -1
    cdef bytes places(self, object scan, Marks *marks)
