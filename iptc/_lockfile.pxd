# A lock file, its descriptor and its lock.

from ._netns cimport Held

cdef class LockFile:
    cdef Held held
    cdef bint _locked
