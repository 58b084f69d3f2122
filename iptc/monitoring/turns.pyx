# cython: freethreading_compatible=False
"""Whose turn it is to poll: that of the thread, or of the consumer that waits for the next sample.

It costs more to wake another thread than to poll quickly. So a consumer that waits polls by itself when the poll is
due. Meanwhile the thread sleeps: its alarm is one interval later. If the consumer is not back in time for the next
poll, the thread wakes then, and polls.

Only the thread can look at everything. The consumer wakes it if that is necessary.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport strerror
from posix.time cimport CLOCK_MONOTONIC, itimerspec, timespec
from posix.unistd cimport close

from .._linux cimport errno_now
from .._pace cimport BILLION, LOOK, Pace, now
from .quick cimport QuickPoller

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <limits.h>
    #include <linux/futex.h>
    #include <poll.h>
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <sys/timerfd.h>
    #include <time.h>
    #include <unistd.h>

    /* Sleep until *when* of CLOCK_MONOTONIC at the latest, or until `wake_all`; not at all if *word is not *seen*. */
    static void sleep_until(uint32_t *word, uint32_t seen, const struct timespec *when)
    {
        syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, seen, when, NULL, FUTEX_BITSET_MATCH_ANY);
    }

    static void wake_all(uint32_t *word)
    {
        syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
    }

    /* Sleep until the timer of a descriptor has run out, or a signal comes. Two seconds at most: the program may have
       closed the descriptor, and another file may have its number. */
    static void sleep_until_alarm(int fd)
    {
        struct pollfd one = { .fd = fd, .events = POLLIN };
        poll(&one, 1, 2000);
    }
    """
    enum:
        TFD_CLOEXEC
        TFD_TIMER_ABSTIME
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *value, itimerspec *old)
    void sleep_until(uint32_t *word, uint32_t seen, const timespec *when)
    void wake_all(uint32_t *word)
    void sleep_until_alarm(int fd)


cdef class Turns:
    """Whose turn it is to poll, in one run of a `Sampler`. What is set here is set while the GIL is held."""

    cdef QuickPoller poller
    cdef Pace pace
    cdef int alarm                   # a timer's descriptor, at which the thread wakes; -1: there is none any more
    cdef uint32_t rings              # how often the consumer that waits was to be woken
    cdef readonly bint led           # a consumer waits until the poll is due
    cdef bint polling                # the thread polls
    cdef bint ended
    cdef readonly int64_t by_consumers   # how many polls consumers did

    def __cinit__(self):
        self.alarm = -1

    def __dealloc__(self):
        self._close()

    def __init__(self, QuickPoller poller not None, Pace pace not None):
        """Raises `OSError` if no timer can be had."""
        self._close()
        self.poller, self.pace = poller, pace
        self.alarm = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)
        if self.alarm < 0:
            raise OSError(errno_now, strerror(errno_now).decode())

    cdef void _close(self) noexcept:
        if self.alarm >= 0:
            close(self.alarm)
        self.alarm = -1

    cdef bint _set(self, int64_t when) noexcept:
        """Let the thread wake at *when*. Return whether that was possible: the program may have closed all descriptors.
        """
        cdef itimerspec value
        value.it_interval.tv_sec = value.it_interval.tv_nsec = 0
        value.it_value.tv_sec, value.it_value.tv_nsec = when // BILLION, when % BILLION
        return self.alarm >= 0 and timerfd_settime(self.alarm, TFD_TIMER_ABSTIME, &value, NULL) == 0

    # ------------------------------------------------------------------ the thread

    def wait(self):
        """Wait until the thread has to poll, and return True. False: wait once more, unless the run has ended. None:
        that is impossible, since the program has closed the timer."""
        cdef int alarm = self.alarm
        self.polling = False
        if self.ended:
            return False
        if not self._set(self.pace.due + (self.pace.interval if self.led else 0)):
            self._give_up()
            return None
        with nogil:
            sleep_until_alarm(alarm)
        if self.ended or now() < self.pace.due:
            return False
        self.polling = True
        return True

    cdef void _give_up(self) noexcept:
        """Leave all polls to the thread. The number of the descriptor may belong to another file by now."""
        self.alarm = -1
        self.wake()

    cpdef void wake(self) noexcept:
        """Wake the consumer that waits for its turn: there is a sample."""
        self.rings += 1
        if self.led:
            wake_all(&self.rings)

    def end(self):
        """Wake the thread and the consumer: the run has ended."""
        self.ended = True
        self._set(1)
        self.wake()

    def close(self):
        """Close the timer, after the end; or in the child of a fork, which has no thread."""
        self.ended = True
        self.led = False
        self._close()
        self.poller = None

    # ---------------------------------------------------------------- the consumer

    cpdef object lead(self):
        """Wait until the poll is due, and do it, if that is a consumer's turn. Return the sample, or None: look again
        what is there. False: it is the thread's turn."""
        cdef int64_t due = self.pace.due, began = now(), until
        cdef uint32_t seen = self.rings
        cdef timespec when
        if self.led or self.polling or self.ended or self.poller.steady is None:
            return False
        if began < due:
            if not self._set(due + self.pace.interval):
                return False
            until = min(due, began + LOOK)
            when.tv_sec, when.tv_nsec = until // BILLION, until % BILLION
            self.led = True
            with nogil:
                sleep_until(&self.rings, seen, &when)
            self.led = False
            if self.ended or self.polling or self.pace.due != due:
                return None
            if now() < due:
                # a signal has come: its handler may take long, so the thread must be on time
                self._set(due)
                return None
        sample = self.poller.poll_quickly()
        if sample is not None:
            self.pace.go_on(now())
            self.by_consumers += 1
            return sample
        if self.ended or self.polling or self.pace.due != due:
            return None
        self._set(1)
        return False


cdef class Consumer:
    """The base class of `sampler.Samples`: an iterator that takes its turn, and leaves all else to `_next`."""

    cdef Turns turns                 # None: the thread does every poll
    cdef list box                    # what the thread has polled
    cdef list behind                 # the consumers that wait for the thread
    cdef list waiters                # the tasks that do

    def _takes(self, Turns turns, list box not None, list behind not None, list waiters not None):
        """Take turns with the thread, while the lists are empty."""
        self.turns, self.box, self.behind, self.waiters = turns, box, behind, waiters

    def __next__(self):
        while self.turns is not None and not self.box and not self.behind and not self.waiters:
            sample = self.turns.lead()
            if sample is False:
                break
            if sample is not None:
                return sample
            PyErr_CheckSignals()
        return self._next()
