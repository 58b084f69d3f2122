# The times at which something is done at a steady pace.

from libc.stdint cimport int64_t

cdef enum:
    BILLION = 1_000_000_000
    LOOK = 500_000_000               # a signal that comes right before a wait is seen after so many nanoseconds

# The time of CLOCK_MONOTONIC in nanoseconds.
cdef int64_t now() noexcept nogil

cdef class Pace:
    cdef readonly int64_t interval   # in nanoseconds, as all times here
    cdef int64_t start
    cdef readonly int64_t due        # the next of these times

    cpdef void go_on(self, int64_t now) noexcept
