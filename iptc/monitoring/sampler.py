"""Sampler: the rates of all rules at each interval, and what happened to the rules meanwhile.

One thread polls on time. A sample waits in one place until the consumer takes it. If it is not taken in time, the next
sample is added to it. So a slow consumer delays no poll, and no queue grows.
"""

from __future__ import annotations

import atexit
import errno
import os
import time
import weakref
from _thread import allocate_lock, start_new_thread

from .. import _core, backends
from .._pace import Pace, checked_interval
from ..counters import Snapshot, checked_source
from ..errors import KernelError, ParameterTypeError, is_absent
from ..namespace import open_namespace
from .events import Event, events_between
from .pace import Clock
from .quick import QuickPoller, Span
from .selection import Selection
from .sources import Sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Coroutine, Iterable, Iterator
    from types import TracebackType
    from typing import Any

    from .._types import Netns
    from ..counters import CounterReader, Delta
    from ..layout import RuleInfo
    from .sources import TableReading

    _Key = tuple[bool, str]

_PATIENCE = 1.0
"""How many seconds the end of the interpreter waits for a reading that has begun."""


class TableSample:
    """The counters of one table: `table`, `ipv6`, its `snapshot` now, and the `delta` since the last sample.

    `before` is the snapshot of the last sample, or None if the table is new. `source` and `source_reason` tell how the
    numbers were read, as for `CounterReader`.
    """

    __slots__ = ("table", "ipv6", "snapshot", "delta", "before", "source", "source_reason")

    def __init__(
        self,
        table: str,
        ipv6: bool,
        snapshot: Snapshot,
        delta: Delta,
        before: Snapshot | None,
        source: str = "socket",
        source_reason: str = "",
    ) -> None:
        self.table = table
        self.ipv6 = ipv6
        self.snapshot = snapshot
        self.delta = delta
        self.before = before
        self.source = source
        self.source_reason = source_reason

    @property
    def rules(self) -> tuple[RuleInfo, ...]:
        """A tuple of `RuleInfo`, one for each rule."""
        return self.snapshot.rules

    @property
    def rates(self) -> list[tuple[float, float]]:
        """A list of (packets per second, bytes per second), one for each rule."""
        return self.delta.rates

    def __iter__(self) -> Iterator[tuple[RuleInfo, float, float]]:
        """Yield (rule, packets per second, bytes per second) for each rule."""
        return iter([(rule, packets, size) for rule, (packets, size) in zip(self.rules, self.rates)])

    def __len__(self) -> int:
        return len(self.delta)

    def __repr__(self) -> str:
        return f"<iptc.TableSample {'IPv6' if self.ipv6 else 'IPv4'} {self.table} {len(self)} rules>"


def _events(span: Span, table: str, ipv6: bool) -> Iterator[Event]:
    """Yield the events of one table."""
    if span.gone and span.before is not None:
        yield Event(Event.GONE, table, ipv6)
    if span.now is None:
        return
    if span.gone or span.before is None:
        yield Event(Event.BACK, table, ipv6)
    elif span.delta is not None:
        yield from events_between(table, ipv6, span.before, span.now, span.delta.flags)


class Sample:
    """The counters of one interval.

    `tables`: the `TableSample`s of the tables that could be read. `time`: (monotonic clock, wall clock) of the poll.
    `seconds`: the time since the last sample. `polls`: 1, or more if earlier samples were not taken in time and are
        included. `errors`: the exceptions of tables that could not be read this time.
    """

    # `Poller.quick` makes samples too, and sets what has no default here
    polls = 1
    _events: tuple[Event, ...] | None = None

    def __init__(
        self, spans: dict[_Key, Span], errors: dict[Any, BaseException], now: tuple[float, float], seconds: float
    ) -> None:
        self._spans = spans
        self._errors = errors
        self.time = now
        self.seconds = seconds

    def _followed_by(self, later: Sample) -> Sample:
        spans = dict(self._spans)
        for key, span in later._spans.items():
            spans[key] = spans[key].followed_by(span) if key in spans else span
        both = Sample(spans, later._errors, later.time, self.seconds + later.seconds)
        both.polls = self.polls + later.polls
        return both

    @property
    def tables(self) -> tuple[TableSample, ...]:
        """The tables, those of IPv4 first."""
        return tuple(
            [
                TableSample(key[1], key[0], span.now, span.delta, None if span.gone else span.before, *span.source)
                for key, span in self._spans.items()
                if span.now is not None and span.delta is not None
            ]
        )

    @property
    def errors(self) -> tuple[BaseException, ...]:
        """Why tables could not be read this time. What they count meanwhile is included in the next sample."""
        return tuple(self._errors.values())

    @property
    def events(self) -> tuple[Event, ...]:
        """The `Event`s since the last sample. They are computed when they are first asked for."""
        if self._events is None:
            self._events = tuple(
                [event for (ipv6, table), span in self._spans.items() for event in _events(span, table, ipv6)]
            )
        return self._events

    def __getitem__(self, key: str | tuple[str, bool]) -> TableSample:
        """Return the `TableSample` of a table: `sample["filter"]` for IPv4, `sample["filter", True]` for IPv6.

        Raises `KeyError` if it is not in the sample.
        """
        name, ipv6 = (key, False) if isinstance(key, str) else key
        for table in self.tables:
            if (table.table, table.ipv6) == (name, ipv6):
                return table
        raise KeyError(key)

    def __iter__(self) -> Iterator[TableSample]:
        return iter(self.tables)

    def __len__(self) -> int:
        return len(self.tables)

    def __repr__(self) -> str:
        return f"<iptc.Sample {len(self)} tables over {self.seconds:.3f} s>"


class Poller(QuickPoller):
    """What is known of the tables between polls."""

    def __init__(self, sources: Sources, netns: Netns, strict: Iterable[str]) -> None:
        self._makes(Sample, Snapshot)
        self._sources = sources
        self._netns = netns
        self._time = time.monotonic()
        for reading in sources.poll():
            if reading.error is not None:
                if not is_absent(reading.error) or reading.table is None or reading.table in strict:
                    raise reading.error
            elif self._is_there(reading):
                self._keep(reading)

    def _is_there(self, reading: TableReading) -> bool:
        """Whether the table existed. On nf_tables a table that does not exist reads as one without rules."""
        if reading.snapshot is None or reading.table is None:
            return False
        if len(reading.snapshot) or reading.backend != "nft":
            return True
        nfproto = _core.IPV6 if reading.ipv6 else _core.IPV4
        with open_namespace(self._netns) as there:
            return reading.table in backends.tables_in_use(nfproto, "nft", there)

    def _keep(self, reading: TableReading) -> Snapshot | None:
        """Return the snapshot of *reading* with its rules decoded: the reader forgets them when it reads other
        rules."""
        snapshot = reading.snapshot
        if snapshot is not None and reading.table is not None:
            snapshot.rules  # noqa: B018 - decoded here, before the ruleset changes
            self._last[reading.ipv6, reading.table] = snapshot
        return snapshot

    def poll(self) -> Sample:
        """Read all tables once."""
        sample = self.quick()
        return self._whole_poll() if sample is None else sample

    def _whole_poll(self) -> Sample:
        """Look which tables there are, and read them."""
        self._stays(None)
        readings = self._sources.poll()
        spans: dict[_Key, Span] = {}
        errors: dict[Any, BaseException] = {}
        unknown: set[_Key] = set()
        steady: list[tuple[_Key | None, CounterReader, tuple[str, str]]] = []
        for reading in readings:
            if reading.error is not None and not is_absent(reading.error):
                errors[reading.key] = reading.error
                unknown.update(key for key in self._last if key[0] == reading.ipv6 and reading.table in (key[1], None))
            source = reading.source or "socket", reading.source_reason or ""
            key = None
            if reading.table is not None and self._is_there(reading):
                key = reading.ipv6, reading.table
                before = self._last.get(key)
                spans[key] = Span(before, self._keep(reading), reading.reopened and before is not None, source)
            if reading.reader is not None:
                steady.append((key, reading.reader, source))
        for key in [key for key in self._last if key not in spans and key not in unknown]:
            spans[key] = Span(self._last.pop(key), None, True)
        _log(spans, errors)
        if self._sources.stay(readings):
            self._stays(steady)
        then, self._time = self._time, time.monotonic()
        return Sample(spans, errors, (self._time, time.time()), self._time - then)

    def close(self) -> None:
        """Close all readers."""
        self._sources.close()


def _log(spans: dict[_Key, Span], errors: dict[Any, BaseException]) -> None:
    """Log the errors and other events to the logger `iptc`."""
    gone = [f"{'IPv6' if ipv6 else 'IPv4'} table {table} is gone" for (ipv6, table), span in spans.items() if span.gone]
    if gone or errors:
        import logging  # seldom needed

        logger = logging.getLogger("iptc")
        for text in gone:
            logger.info("sampler: %s", text)
        for error in errors.values():
            logger.warning("sampler: a table could not be read: %s", error)


_LOOK = 0.5
"""After so many seconds a waiting thread checks for signals: one that comes right before the wait is seen only then."""


class _Mail:
    """Passes samples from the thread that polls to the threads and tasks that take them.

    No method waits for anything that a signal handler, or a thread that does not exist after a fork, may hold.
    """

    def __init__(self) -> None:
        self.box: list[Sample] = []
        self.waiters: list[tuple[AbstractEventLoop, Future[None]]] = []
        self.error: BaseException | None = None
        self.ended = False
        self.gate = _locked()
        self.bell = _locked()
        self.done = _locked()

    def put(self, sample: Sample) -> None:
        """Add a sample to the one that was not taken yet."""
        try:
            sample = self.box.pop()._followed_by(sample)
        except IndexError:
            pass
        self.box.append(sample)
        self.wake()

    def take(self) -> Sample | None:
        """Return the sample that waits, or None."""
        try:
            return self.box.pop()
        except IndexError:
            return None

    def wake(self) -> None:
        """Wake everybody who waits for a sample."""
        _open(self.gate)
        while self.waiters:
            loop, waiter = self.waiters.pop()
            try:
                loop.call_soon_threadsafe(_settle, waiter)
            except RuntimeError:
                # the event loop is closed
                pass

    def raise_error(self) -> None:
        """Raise the exception that has ended the thread, once."""
        error, self.error = self.error, None
        if error is not None:
            raise error

    def end(self) -> None:
        """Let the thread end, and wake everybody who waits."""
        self.ended = True
        _open(self.bell)
        self.wake()


async def _received(mail: _Mail) -> Sample:
    """Wait for the next sample, and return it."""
    from asyncio import get_running_loop

    loop = get_running_loop()
    while True:
        waiter = loop.create_future()
        entry = loop, waiter
        # registered before looking, so that a sample that comes after the look wakes this
        mail.waiters.append(entry)
        try:
            sample = mail.take()
            if sample is not None:
                return sample
            if mail.ended:
                mail.raise_error()
                raise StopAsyncIteration
            await waiter
        finally:
            if entry in mail.waiters:
                mail.waiters.remove(entry)


def _settle(waiter: Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _locked() -> Any:
    lock = allocate_lock()
    lock.acquire()
    return lock


def _open(lock: Any) -> None:
    try:
        lock.release()
    except RuntimeError:
        # it is open already
        pass


def _work(mail: _Mail, poller: Poller, clock: Clock, pace: Pace) -> None:
    """Run in the thread. It knows the mail but not its reader, so that it does not keep the reader alive."""
    try:
        while not mail.ended and not clock.wait(mail.bell, pace.due):
            mail.put(poller.poll())
            pace.go_on(clock.now())
    except BaseException as error:
        mail.error = error.with_traceback(None)
    finally:
        poller.close()
        mail.end()
        _open(mail.done)


class Samples:
    """One run of a `Sampler`: an iterator for `for` and `async for`. `close()`, or deleting it, ends its thread."""

    def __init__(self, poller: Poller, clock: Clock, interval: float) -> None:
        self._mail = _Mail()
        _running.add(self._mail)
        try:
            start_new_thread(_work, (self._mail, poller, clock, Pace(interval, clock.now())))
        except BaseException as error:
            _running.discard(self._mail)
            poller.close()
            if isinstance(error, RuntimeError):
                raise KernelError(f"can't start a thread: {error}", errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
            raise

    def close(self) -> None:
        """End the run. Whoever waits for a sample gets the end of the iteration."""
        self._mail.end()

    def __iter__(self) -> Samples:
        return self

    def __next__(self) -> Sample:
        mail = self._mail
        # a traceback would keep this object alive, and so its thread
        del self
        while True:
            sample = mail.take()
            if sample is not None:
                return sample
            if mail.ended:
                _open(mail.gate)  # for other threads that wait
                mail.raise_error()
                raise StopIteration
            mail.gate.acquire(timeout=_LOOK)

    def __aiter__(self) -> Samples:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Sample]:
        return _received(self._mail)

    def __del__(self) -> None:
        if hasattr(self, "_mail"):
            self._mail.end()


class Sampler:
    """Reads counters every *interval* seconds, and yields what was counted meanwhile: a `Sample` after each interval.

    >>> for sample in Sampler(1.0):                        # doctest: +SKIP
    ...     for rule, packets, size in sample["filter"]:
    ...         print(f"{packets:.0f}/s", rule.chain, rule.text)
    ...     for event in sample.events:
    ...         print(event)

    *tables*: names of tables; None means those that are in use at each poll.
    *ipv6*: False for IPv4 and True for IPv6; None means both. *netns*: a network namespace, as for `Table`.
    *backend*: "legacy" or "nft"; None takes what `iptc.backend()` returns. *source*: how counters are read, as for
        `CounterReader`: "socket", "bpf" or "auto".

    Each `for` or `async for` starts a run of its own, with a thread that ends with the loop. `next(sampler)` and
    `anext(sampler)` share one run, which `close()` or the end of a `with` statement ends. A fork ends all runs in the
    child.
    """

    _clock = Clock()

    def __init__(
        self,
        interval: float = 1.0,
        tables: Iterable[str] | None = None,
        netns: Netns = None,
        ipv6: bool | None = None,
        backend: str | None = None,
        source: str = "socket",
    ) -> None:
        if isinstance(tables, str):
            raise ParameterTypeError(f"tables must be several names, not {tables!r}")
        self.interval = checked_interval(interval)
        self.tables = None if tables is None else tuple(tables)
        self.netns = netns
        self.ipv6 = ipv6
        self.backend = backend
        self.source = checked_source(source)
        self._own: Samples | None = None
        self._runs: weakref.WeakSet[Samples] = weakref.WeakSet()

    def __iter__(self) -> Samples:
        run = Samples(self.poller(), self._clock, self.interval)
        self._runs.add(run)
        return run

    def poller(self) -> Poller:
        """Read everything once, and return the `Poller` that continues from there, for programs that poll by
        themselves."""
        families = (False, True) if self.ipv6 is None else (bool(self.ipv6),)
        selection = Selection(self.tables, families=families)
        netns = [] if self.netns is None else [self.netns]
        sources = Sources(selection, netns, backend=self.backend, source=self.source)
        known = backends.builtin_chains()
        try:
            return Poller(sources, self.netns, [name for name in self.tables or () if name not in known])
        except BaseException:
            sources.close()
            raise

    def __aiter__(self) -> Samples:
        return self.__iter__()

    def __next__(self) -> Sample:
        return next(self._kept())

    def __anext__(self) -> Coroutine[Any, Any, Sample]:
        return self._kept().__anext__()

    def _kept(self) -> Samples:
        if self._own is None:
            self._own = self.__iter__()
        return self._own

    def close(self) -> None:
        """End all runs."""
        for run in list(self._runs):
            run.close()
        self._own = None

    def __enter__(self) -> Sampler:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<iptc.Sampler every {self.interval} s>"


_running: weakref.WeakSet[_Mail] = weakref.WeakSet()
"""The runs whose threads have not ended."""


def _end_all() -> None:
    """End all threads when the interpreter ends, before it removes what they use."""
    there = list(_running)
    for mail in there:
        mail.end()
    for mail in there:
        mail.done.acquire(timeout=_PATIENCE)


def _forget_in_child() -> None:
    """Forget all runs in the child of a fork: their threads are in the parent only."""
    for mail in list(_running):
        mail.ended = True
        mail.box.clear()
        mail.waiters.clear()
        mail.gate = _locked()
        _open(mail.gate)
        mail.done = allocate_lock()
    _running.clear()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_forget_in_child)
