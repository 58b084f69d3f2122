# Finds where the counters of a table are. Each back end has a class of its own, derived from this.

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
    cdef bint compares               # False: marks that have changed are always those of another ruleset
    cdef bint has_marks              # False: there is no table yet, and so no word that changes with it

    cdef int mark(self, Marks *marks) except -1
    cdef int find(self) except -1
    cdef bint is_known(self) except -1
    cdef int keep(self) except -1
    cdef bytes addresses(self)
    cdef bytes owners(self)
    cdef bytes places(self, object scan, Marks *marks)
