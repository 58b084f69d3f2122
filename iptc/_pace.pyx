# cython: freethreading_compatible=False
"""Does something again and again at a steady pace.

The waiting is C code. A process that does it a thousand times a second saves a twentieth of what sleeping costs it.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from .errors import ParameterError, ParameterTypeError

cdef extern from "<time.h>" nogil:
    enum: TIMER_ABSTIME
    int clock_nanosleep(int clock, int flags, const timespec *when, timespec *left)


def checked_interval(object interval):
    """Return *interval*. Raises `ParameterTypeError` or `ParameterError` if it is not a number of seconds."""
    if isinstance(interval, bool) or not isinstance(interval, (int, float)):
        raise ParameterTypeError(f"an interval must be seconds, not {interval!r}")
    if not 0 < interval < 1e9:
        raise ParameterError(f"an interval must be seconds, more than none, not {interval!r}")
    return interval


cdef int64_t now() noexcept nogil:
    """Return the time of CLOCK_MONOTONIC, as all times here, in nanoseconds."""
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <int64_t> time.tv_sec * BILLION + time.tv_nsec


cdef class Pace:
    """The times `start + n * interval`. A time that has passed meanwhile is left out."""

    def __init__(self, double interval, int64_t start):
        """*interval* in seconds, *start* in nanoseconds."""
        self.interval = max(<int64_t> 1, <int64_t> round(interval * BILLION))
        self.start = start
        self.due = start + self.interval

    cpdef void go_on(self, int64_t now) noexcept:
        """Set `due` to the first of these times that is after *now* and after the last one."""
        cdef int64_t done = max(now, self.due) - self.start
        self.due = self.start + (done // self.interval + 1) * self.interval


cdef class Polls:
    """An iterator over the results of a function that is called at a steady pace, the first time at once.

    The time of a call that would come too late is left out. If the function raises, or the handler of a signal, then
    `next` raises that; the iteration can go on.
    """

    cdef object read
    cdef Pace pace                   # None before the first call
    cdef readonly object interval    # in seconds

    def __init__(self, object read, object interval):
        """Call *read* every *interval* seconds."""
        self.read = read
        self.pace = None
        self.interval = checked_interval(interval)

    def __iter__(self):
        return self

    def __next__(self):
        cdef Pace pace = self.pace
        cdef timespec when
        cdef int64_t due, until, time = now()
        if pace is None:
            self.pace = Pace(self.interval, time)
            return self.read()
        due = pace.due               # another thread may call this too, and changes it
        while time < due:
            until = min(due, time + LOOK)
            when.tv_sec, when.tv_nsec = until // BILLION, until % BILLION
            with nogil:
                clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL)
                time = now()
            if time < due:
                PyErr_CheckSignals()
        pace.go_on(time)
        return self.read()

    def __repr__(self):
        return f"<iptc polls every {self.interval} s>"
