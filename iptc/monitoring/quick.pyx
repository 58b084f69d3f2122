# cython: freethreading_compatible=False
"""Polls that only read counters, since nothing else can have changed. They run no Python code.

After a wait, neither code nor data are in the processor's caches. So a poll by Python code takes several times as long
as the reading.
"""

from .._core cimport made_of
from .._counts cimport Reading
from .._pace cimport now as monotonic_now

cdef enum:
    WHOLE = 1            # after so many seconds, everything is looked at again


cdef class Span:
    """One table since the last sample that was taken: its snapshot then and now, and whether it was gone meanwhile.

    *source*: how it was read, and why: (`source`, `source_reason`).
    """

    cdef readonly object before      # None: the table is new
    cdef readonly object now         # None: there is no table any more
    cdef readonly bint gone
    cdef readonly tuple source
    cdef object difference           # None: not asked for yet

    def __init__(self, object before, object now, bint gone=False, tuple source=("socket", ""),
                 object difference=None):
        self.before, self.now, self.gone, self.source, self.difference = before, now, gone, source, difference

    @property
    def delta(self):
        """The `Delta` of this span; None if there is no table any more. It is computed when it is first asked for."""
        if self.difference is None and self.now is not None:
            # if the table is new, it is not known what it has counted in the interval
            self.difference = self.now.since(self.now if self.before is None or self.gone else self.before)
        return self.difference

    def followed_by(self, Span later not None):
        """Return this span and the *later* one as one span."""
        delta = later.delta
        if delta is not None and self.now is not None and not later.gone:
            delta = delta.after(self.delta)
        return Span(self.before, later.now, self.gone or later.gone, later.source, delta)

    def __reduce__(self):
        return Span, (self.before, self.now, self.gone, self.source, self.difference)


cdef class QuickPoller:
    """The base class of `sampler.Poller`: what is known of the tables, and polls that only read their counters."""

    def __cinit__(self, *_, **__):
        self._last = {}
        self.polls = 0
        self.steady = None

    def _makes(self, type sample not None, type snapshot not None):
        """Make samples and snapshots of these classes."""
        self.sample, self.snapshot = sample, snapshot

    def _stays(self, list steady):
        """Take note of what every poll finds, as long as its readers can be read quickly: (key, reader, source) of each
        table. The key is None for a table that was asked for and does not exist. None: that is not known."""
        self.steady = steady
        self.until = monotonic_now() * 1e-9 + WHOLE

    def quick(self):
        """Poll once, if only counters can have changed, and return the sample. Otherwise return None."""
        return self.poll_quickly()

    cdef object poll_quickly(self):
        """Do the work of `quick`.

        While memory is allocated, the handler of a signal or a finalizer may run, and poll too. Then None is returned.
        """
        cdef list steady = self.steady
        cdef size_t polls = self.polls
        cdef dict spans = {}
        cdef Reading reading = None
        cdef double time = 0
        if steady is None:
            return None
        for key, reader, source in steady:
            reading = reader._scan.quick(reader, self.snapshot)
            if reading is None:
                self.steady = None
                return None
            if key is not None:
                spans[key] = Span(self._last[key], reading, False, source)
        if reading is None or reading.monotonic >= self.until:
            return None
        time = reading.monotonic
        sample = made_of(self.sample)
        sample._spans, sample._errors = spans, {}
        sample.time, sample.seconds = (time, reading.wall), time - self._time
        if self.polls != polls or self.steady is not steady:
            return None
        self.polls += 1
        self._time = time
        for key in spans:
            self._last[key] = (<Span> spans[key]).now
        return sample
