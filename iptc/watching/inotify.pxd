"""What `watching.inotify` is to other compiled modules."""

from libc.stdint cimport uint32_t

from .._netns cimport Held


cdef class Inotify:
    cdef Held held
