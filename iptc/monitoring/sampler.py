"""Sampler: the rates of all rules at each interval, and what happened to the rules meanwhile.

One thread polls on time, unless a consumer that waits does it (`turns`). A sample waits in one place until the consumer
takes it (`mail`). If it is not taken in time, the next sample is added to it. So a slow consumer delays no poll, and no
queue grows.
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
from .clock import AlarmClock, Clock
from .mail import Mail, locked_lock, open_lock, received
from .quick import QuickPoller, Span
from .samples import Sample
from .selection import Selection
from .sources import Sources
from .turns import Consumer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from types import TracebackType
    from typing import Any

    from .._types import Netns
    from ..counters import CounterReader
    from .sources import TableReading

    _Key = tuple[bool, str]

_PATIENCE = 1.0
"""How many seconds the end of the interpreter waits for a reading that has begun."""


class Poller(QuickPoller):
    """What is known of the tables between polls."""

    def __init__(self, sources: Sources, netns: Netns, strict: Iterable[str]) -> None:
        self._makes(Sample, Snapshot)
        self._sources = sources
        self._netns = netns
        self._time = time.monotonic()
        readings = sources.poll()
        for reading in readings:
            if reading.error is not None:
                if not is_absent(reading.error) or reading.table is None or reading.table in strict:
                    raise reading.error
            elif self._is_there(reading):
                self._keep(reading)
        self._note(readings)

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

    def _note(self, readings: list[TableReading]) -> None:
        """Take note of whether the next poll has to look at everything."""
        if self._sources.stay(readings):
            steady: list[tuple[_Key | None, CounterReader, tuple[str, str]]] = []
            for reading in readings:
                if reading.table is not None and reading.reader is not None:
                    key = reading.ipv6, reading.table
                    steady.append((key if key in self._last else None, reading.reader, _source(reading)))
            self._stays(steady)

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
        for reading in readings:
            if reading.error is not None and not is_absent(reading.error):
                errors[reading.key] = reading.error
                unknown.update(key for key in self._last if key[0] == reading.ipv6 and reading.table in (key[1], None))
            if reading.table is None or not self._is_there(reading):
                continue
            key = reading.ipv6, reading.table
            before = self._last.get(key)
            spans[key] = Span(before, self._keep(reading), reading.reopened and before is not None, _source(reading))
        for key in [key for key in self._last if key not in spans and key not in unknown]:
            spans[key] = Span(self._last.pop(key), None, True)
        _log(spans, errors)
        self._note(readings)
        then, self._time = self._time, time.monotonic()
        return Sample(spans, errors, (self._time, time.time()), self._time - then)

    def close(self) -> None:
        """Close all readers."""
        self._sources.close()


def _source(reading: TableReading) -> tuple[str, str]:
    """Return how the table was read, and why."""
    return reading.source or "socket", reading.source_reason or ""


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


def _work(mail: Mail, poller: Poller, clock: Clock, pace: Pace) -> None:
    """Run in the thread. It knows the mail but not its reader, so that it does not keep the reader alive."""
    try:
        while not mail.ended:
            turns = mail.turns
            if turns is None:
                if clock.wait(mail.bell, pace.due):
                    break
            else:
                due = turns.wait()
                if due is None:
                    mail.turns = None
                if not due:
                    continue
            mail.put(poller.poll())
            pace.go_on(clock.now())
    except BaseException as error:
        mail.error = error.with_traceback(None)
    finally:
        poller.close()
        mail.end()
        if mail.turns is not None:
            mail.turns.close()
        open_lock(mail.done)


class Samples(Consumer):
    """One run of a `Sampler`: an iterator for `for` and `async for`. `close()`, or deleting it, ends its thread."""

    def __init__(self, poller: Poller, clock: Clock, interval: float) -> None:
        self._mail = Mail()
        _running.add(self._mail)
        try:
            pace = Pace(interval, clock.now())
            self._mail.turns = clock.turns(poller, pace)
            self._takes(self._mail.turns, self._mail.box, self._mail.behind, self._mail.waiters)
            start_new_thread(_work, (self._mail, poller, clock, pace))
        except BaseException as error:
            _running.discard(self._mail)
            if self._mail.turns is not None:
                self._mail.turns.close()
            poller.close()
            if isinstance(error, RuntimeError):
                raise KernelError(f"can't start a thread: {error}", errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
            raise

    def close(self) -> None:
        """End the run. Whoever waits for a sample gets the end of the iteration."""
        self._mail.end()

    def __iter__(self) -> Samples:
        return self

    def _next(self) -> Sample:
        mail = self._mail
        # a traceback would keep this object alive, and so its thread
        del self
        while True:
            sample = mail.take()
            if sample is not None:
                return sample
            if mail.ended:
                open_lock(mail.gate)  # for other threads that wait
                mail.raise_error()
                raise StopIteration
            mail.wait()

    def __aiter__(self) -> Samples:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Sample]:
        return received(self._mail)

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

    _clock: Clock = AlarmClock()

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


_running: weakref.WeakSet[Mail] = weakref.WeakSet()
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
        if mail.turns is not None:
            mail.turns.close()
        mail.box.clear()
        mail.waiters.clear()
        mail.gate = locked_lock()
        open_lock(mail.gate)
        mail.done = allocate_lock()
    _running.clear()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_forget_in_child)
