# A lock file, its descriptor and its lock.

from ._netns cimport Held

cdef class LockFile:
    cdef Held held
    cdef bint _locked


cdef class Holder:
    cdef public LockFile _file
    cdef public list _locks

    cdef int _let_go(self) except -1
