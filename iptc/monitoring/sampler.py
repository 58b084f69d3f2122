"""Sampler: the rates of all rules again and again, with what happened to the rules between.

One thread polls on time. What it has found waits in one place for whoever takes it; what is not taken in time is added
to what comes next. So a slow consumer delays no poll, and nothing grows.
"""

from __future__ import annotations

import atexit
import errno
import os
import time
import weakref
from _thread import allocate_lock, start_new_thread

from .. import _core, backends
from ..errors import KernelError, ParameterError, ParameterTypeError, is_absent
from ..namespace import open_namespace
from .events import Event, events_between
from .pace import Clock, Pace
from .selection import Selection
from .sources import Sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Coroutine, Iterable, Iterator
    from types import TracebackType
    from typing import Any

    from .._types import Netns
    from ..counters import Delta, RuleInfo, Snapshot
    from .sources import Reading

    _Key = tuple[bool, str]

_PATIENCE = 1.0
"""How many seconds the end of the interpreter waits for a read that is under way."""


class TableSample:
    """What was counted in one table: `table`, `ipv6`, its `snapshot` now, and the `delta` since the last sample.

    `before` is its snapshot then, None where it has come since.
    """

    __slots__ = ("table", "ipv6", "snapshot", "delta", "before")

    def __init__(self, table: str, ipv6: bool, snapshot: Snapshot, delta: Delta, before: Snapshot | None) -> None:
        self.table = table
        self.ipv6 = ipv6
        self.snapshot = snapshot
        self.delta = delta
        self.before = before

    @property
    def rules(self) -> tuple[RuleInfo, ...]:
        """A tuple of `RuleInfo`, one for each rule."""
        return self.snapshot.rules

    @property
    def rates(self) -> list[tuple[float, float]]:
        """A list of (packets per second, bytes per second), one for each rule."""
        return self.delta.rates

    def __iter__(self) -> Iterator[tuple[RuleInfo, float, float]]:
        """(rule, packets per second, bytes per second) of each rule."""
        return iter([(rule, packets, size) for rule, (packets, size) in zip(self.rules, self.rates)])

    def __len__(self) -> int:
        return len(self.delta)

    def __repr__(self) -> str:
        return f"<iptc.TableSample {'IPv6' if self.ipv6 else 'IPv4'} {self.table} {len(self)} rules>"


class _Span:
    """What is known of one table since the last sample that was taken: how it was then and is now, and whether it was
    gone meanwhile."""

    __slots__ = ("before", "now", "delta", "gone")

    def __init__(self, before: Snapshot | None, now: Snapshot | None, gone: bool = False) -> None:
        self.before = before
        self.now = now
        self.gone = gone
        self.delta: Delta | None = None
        if now is not None:
            # of a table that has just come nothing is known to have been counted
            self.delta = now.since(now if before is None or gone else before)

    def followed_by(self, later: _Span) -> _Span:
        """This and what came after it, as one."""
        both = _Span.__new__(_Span)
        both.before, both.now = self.before, later.now
        both.gone = self.gone or later.gone
        both.delta = later.delta
        if later.delta is not None and self.delta is not None and not later.gone:
            both.delta = later.delta.after(self.delta)
        return both

    def events(self, table: str, ipv6: bool) -> Iterator[Event]:
        if self.gone and self.before is not None:
            yield Event(Event.GONE, table, ipv6)
        if self.now is None:
            return
        if self.gone or self.before is None:
            yield Event(Event.BACK, table, ipv6)
        elif self.delta is not None:
            yield from events_between(table, ipv6, self.before, self.now, self.delta.flags)


class Sample:
    """What one interval brought.

    `tables` are the `TableSample`s of the tables that could be read; `time` is (monotonic, wall clock) of the poll, and
    `seconds` how long it is since the last sample; `polls` is 1, or more where earlier ones were not taken in time and
    are in this one too; `errors` are the exceptions of tables that could not be read this time.
    """

    def __init__(
        self, spans: dict[_Key, _Span], errors: dict[Any, BaseException], now: tuple[float, float], seconds: float
    ) -> None:
        self._spans = spans
        self._errors = errors
        self.time = now
        self.seconds = seconds
        self.polls = 1
        self._events: tuple[Event, ...] | None = None

    def _followed_by(self, later: Sample) -> Sample:
        spans = dict(self._spans)
        for key, span in later._spans.items():
            spans[key] = spans[key].followed_by(span) if key in spans else span
        both = Sample(spans, later._errors, later.time, self.seconds + later.seconds)
        both.polls = self.polls + later.polls
        return both

    @property
    def tables(self) -> tuple[TableSample, ...]:
        """The tables that there are, IPv4 first."""
        return tuple(
            [
                TableSample(key[1], key[0], span.now, span.delta, None if span.gone else span.before)
                for key, span in self._spans.items()
                if span.now is not None and span.delta is not None
            ]
        )

    @property
    def errors(self) -> tuple[BaseException, ...]:
        """Why tables could not be read this time; what they count meanwhile is in the next sample."""
        return tuple(self._errors.values())

    @property
    def events(self) -> tuple[Event, ...]:
        """The `Event`s since the last sample; found out when they are first asked for."""
        if self._events is None:
            self._events = tuple(
                [event for (ipv6, table), span in self._spans.items() for event in span.events(table, ipv6)]
            )
        return self._events

    def __getitem__(self, key: str | tuple[str, bool]) -> TableSample:
        """The `TableSample` of a table: `sample["filter"]` for IPv4, `sample["filter", True]` for IPv6; `KeyError` if
        it is not there."""
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


class Watch:
    """What is known of the tables from poll to poll."""

    def __init__(self, sources: Sources, netns: Netns, strict: Iterable[str]) -> None:
        self._sources = sources
        self._netns = netns
        self._last: dict[_Key, Snapshot] = {}
        self._time = time.monotonic()
        for reading in sources.poll():
            if reading.error is not None:
                if not is_absent(reading.error) or reading.table is None or reading.table in strict:
                    raise reading.error
            elif self._is_there(reading):
                self._keep(reading)

    def _is_there(self, reading: Reading) -> bool:
        """Whether the table was there: on nf_tables one that is not reads as one without rules."""
        if reading.snapshot is None or reading.table is None:
            return False
        if len(reading.snapshot) or reading.backend != "nft":
            return True
        nfproto = _core.IPV6 if reading.ipv6 else _core.IPV4
        with open_namespace(self._netns) as there:
            return reading.table in backends.tables_in_use(nfproto, "nft", there)

    def _keep(self, reading: Reading) -> Snapshot | None:
        """The snapshot of *reading*, with its rules: the reader forgets them when it reads others."""
        snapshot = reading.snapshot
        if snapshot is not None and reading.table is not None:
            snapshot.rules  # noqa: B018
            self._last[reading.ipv6, reading.table] = snapshot
        return snapshot

    def poll(self) -> Sample:
        """Read all tables once."""
        readings = self._sources.poll()
        spans: dict[_Key, _Span] = {}
        errors: dict[Any, BaseException] = {}
        unknown: set[_Key] = set()
        for reading in readings:
            if reading.error is not None and not is_absent(reading.error):
                errors[reading.key] = reading.error
                unknown.update(key for key in self._last if key[0] == reading.ipv6 and reading.table in (key[1], None))
            if reading.table is None or not self._is_there(reading):
                continue
            key = reading.ipv6, reading.table
            before = self._last.get(key)
            spans[key] = _Span(before, self._keep(reading), reading.reopened and before is not None)
        for key in [key for key in self._last if key not in spans and key not in unknown]:
            spans[key] = _Span(self._last.pop(key), None, True)
        _log(spans, errors)
        then, self._time = self._time, time.monotonic()
        return Sample(spans, errors, (self._time, time.time()), self._time - then)

    def close(self) -> None:
        """Close all readers."""
        self._sources.close()


def _log(spans: dict[_Key, _Span], errors: dict[Any, BaseException]) -> None:
    """Tell the logger `iptc` what went on behind the scenes."""
    gone = [f"{'IPv6' if ipv6 else 'IPv4'} table {table} is gone" for (ipv6, table), span in spans.items() if span.gone]
    if gone or errors:
        import logging  # seldom needed

        logger = logging.getLogger("iptc")
        for text in gone:
            logger.info("sampler: %s", text)
        for error in errors.values():
            logger.warning("sampler: a table could not be read: %s", error)


_LOOK = 0.5
"""So often whoever waits looks up, in seconds: Python sees a signal that came right before the wait only after it."""


class _Mail:
    """Between the thread that polls and whoever takes the samples. Nothing here waits for anything that a handler of a
    signal, or a thread that is not there after a fork, could hold."""

    def __init__(self) -> None:
        self.box: list[Sample] = []
        self.waiters: list[tuple[AbstractEventLoop, Future[None]]] = []
        self.error: BaseException | None = None
        self.ended = False
        self.gate = _locked()
        self.bell = _locked()
        self.done = _locked()

    def put(self, sample: Sample) -> None:
        """Leave a sample, together with one that was not taken."""
        try:
            sample = self.box.pop()._followed_by(sample)
        except IndexError:
            pass
        self.box.append(sample)
        self.wake()

    def take(self) -> Sample | None:
        """The sample that waits, or None."""
        try:
            return self.box.pop()
        except IndexError:
            return None

    def wake(self) -> None:
        """Let go on whoever waits for a sample."""
        _open(self.gate)
        while self.waiters:
            loop, waiter = self.waiters.pop()
            try:
                loop.call_soon_threadsafe(_settle, waiter)
            except RuntimeError:
                # the loop is closed
                pass

    def raise_error(self) -> None:
        """Raise what ended the thread, once."""
        error, self.error = self.error, None
        if error is not None:
            raise error

    def end(self) -> None:
        """Have the thread end, and nobody wait."""
        self.ended = True
        _open(self.bell)
        self.wake()


async def _received(mail: _Mail) -> Sample:
    """The next sample."""
    from asyncio import get_running_loop

    loop = get_running_loop()
    while True:
        waiter = loop.create_future()
        entry = loop, waiter
        # before looking: what comes after that wakes us
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


def _work(mail: _Mail, watch: Watch, clock: Clock, pace: Pace) -> None:
    """What the thread does; it knows the mail, and not who reads it, so that it does not keep that one alive."""
    try:
        while not mail.ended and not clock.wait(mail.bell, pace.due):
            mail.put(watch.poll())
            pace.go_on(clock.now())
    except BaseException as error:
        mail.error = error.with_traceback(None)
    finally:
        watch.close()
        mail.end()
        _open(mail.done)


class Samples:
    """One run of a `Sampler`: an iterator, and an `async for` iterator. `close()`, or letting go of it, ends its
    thread."""

    def __init__(self, watch: Watch, clock: Clock, interval: float) -> None:
        self._mail = _Mail()
        _running.add(self._mail)
        try:
            start_new_thread(_work, (self._mail, watch, clock, Pace(interval, clock.now())))
        except BaseException as error:
            _running.discard(self._mail)
            watch.close()
            if isinstance(error, RuntimeError):
                raise KernelError(f"can't start a thread: {error}", errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
            raise

    def close(self) -> None:
        """End it; whoever waits for a sample is told that there is none."""
        self._mail.end()

    def __iter__(self) -> Samples:
        return self

    def __next__(self) -> Sample:
        mail = self._mail
        # a traceback would keep it alive, and its thread with it
        del self
        while True:
            sample = mail.take()
            if sample is not None:
                return sample
            if mail.ended:
                _open(mail.gate)  # for others that wait
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
    """Polls counters every *interval* seconds, and gives what was added: a `Sample` each time, the first one after one
    interval.

    >>> for sample in Sampler(1.0):                        # doctest: +SKIP
    ...     for rule, packets, size in sample["filter"]:
    ...         print(f"{packets:.0f}/s", rule.chain, rule.text)
    ...     for event in sample.events:
    ...         print(event)

    *tables* are names; without them those that are in use at each poll. *netns* is a network namespace, *ipv6* one
    family instead of both, *backend* "legacy" or "nft", else what `iptc.backend()` says. `for` and `async for` start a
    run of their own each: one thread, which ends with the loop. `next(sampler)` and `anext(sampler)` share one, which
    `close()` or the end of a `with` statement ends. In a child of `fork` a run has ended.
    """

    _clock = Clock()

    def __init__(
        self,
        interval: float = 1.0,
        tables: Iterable[str] | None = None,
        netns: Netns = None,
        ipv6: bool | None = None,
        backend: str | None = None,
    ) -> None:
        if isinstance(interval, bool) or not isinstance(interval, (int, float)):
            raise ParameterTypeError(f"an interval must be seconds, not {interval!r}")
        if not 0 < interval < 1e9:
            raise ParameterError(f"an interval must be seconds, more than none, not {interval!r}")
        if isinstance(tables, str):
            raise ParameterTypeError(f"tables must be several names, not {tables!r}")
        self.interval = interval
        self.tables = None if tables is None else tuple(tables)
        self.netns = netns
        self.ipv6 = ipv6
        self.backend = backend
        self._own: Samples | None = None
        self._runs: weakref.WeakSet[Samples] = weakref.WeakSet()

    def __iter__(self) -> Samples:
        run = Samples(self.watch(), self._clock, self.interval)
        self._runs.add(run)
        return run

    def watch(self) -> Watch:
        """Read everything once, and return the `Watch` that goes on from there, for whoever polls himself."""
        families = (False, True) if self.ipv6 is None else (bool(self.ipv6),)
        selection = Selection(self.tables, families=families)
        sources = Sources(selection, [] if self.netns is None else [self.netns], backend=self.backend)
        known = backends.builtin_chains()
        try:
            return Watch(sources, self.netns, [name for name in self.tables or () if name not in known])
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
"""The runs whose thread goes on."""


def _end_all() -> None:
    """The interpreter ends: so do the threads, before it takes away what they use."""
    there = list(_running)
    for mail in there:
        mail.end()
    for mail in there:
        mail.done.acquire(timeout=_PATIENCE)


def _forget_in_child() -> None:
    """The threads are in the parent only."""
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
