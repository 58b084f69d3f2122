"""What was counted in one interval, and what happened to the rules meanwhile."""

from __future__ import annotations

from .events import Event, events_between

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..counters import Delta, Snapshot
    from ..layout import RuleInfo
    from .quick import Span

    _Key = tuple[bool, str]


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
