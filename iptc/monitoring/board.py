"""The state of a live view: the rates of rules, policies and chains, the last minute of each, and their order."""

from __future__ import annotations

import fnmatch
import heapq
import re
from collections import deque

from .events import Event, rule_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..counters import Snapshot
    from ..layout import RuleInfo
    from .samples import Sample, TableSample
    from .selection import Selection

    _Rates = tuple[float, float]

MINUTE = 60.0
_MARK_FOR = 5  # samples
_MOST_KEPT = 240  # of the last minute, however short the interval is
_DROPPING = {"DROP", "REJECT"}

SORTS = ("packets", "bytes", "place")
"""The orders of a view: by packets or by bytes per second, or as the rules stand in the table."""

NEW, RESET, MOVED = "N", "R", "M"
_MARKS = {Event.APPEARED: NEW, Event.RESET: RESET, Event.MOVED: MOVED}


class BoardRow:
    """One line of the view: a rule, the policy of a chain, or the sum of a chain.

    `packets` and `bytes` are rates per second. `trend` has the packets per second of the last minute, the oldest first.
    `mark` is `NEW`, `RESET`, `MOVED` or "". `position` is the position of a rule in its chain, from 0, or None.
    """

    __slots__ = ("ipv6", "table", "chain", "position", "text", "packets", "bytes", "trend", "mark", "drops")

    def __init__(
        self,
        line: _Line,
        text: str,
        mark: str,
        drops: bool,
    ) -> None:
        self.ipv6 = line.ipv6
        self.table = line.table
        self.chain = line.chain
        self.position = line.position
        self.packets, self.bytes = line.rates
        self.trend = list(line.trend)
        self.text = text
        self.mark = mark
        self.drops = drops


class _Line:
    """The history of a rule, policy or chain."""

    __slots__ = ("ipv6", "table", "chain", "position", "rule", "policy", "rates", "trend", "mark", "marked")

    def __init__(self, ipv6: bool, table: str, chain: str, most: int) -> None:
        self.ipv6 = ipv6
        self.table = table
        self.chain = chain
        self.position: int | None = None
        self.rule: RuleInfo | None = None
        self.policy: str | None = None
        self.rates: _Rates = (0.0, 0.0)
        self.trend: deque[float] = deque(maxlen=most)
        self.mark = ""
        self.marked = 0

    def add(self, rates: _Rates) -> None:
        self.rates = rates
        self.trend.append(rates[0])
        if self.marked:
            self.marked -= 1
            self.mark = self.mark if self.marked else ""

    @property
    def text(self) -> str:
        if self.rule is not None:
            return rule_text(self.rule) or "(every packet)"
        return "(all rules)" if self.policy is None else f"(policy {self.policy})"

    @property
    def drops(self) -> bool:
        return self.policy == "DROP" or self.rule is not None and self.rule.target in _DROPPING


class _BoardTable:
    """The lines of one table."""

    def __init__(self, ipv6: bool, name: str, most: int) -> None:
        self._most = most
        self.ipv6 = ipv6
        self.name = name
        self.snapshot: Snapshot | None = None
        self.rules: list[_Line] = []
        self.policies: dict[str, _Line] = {}
        self.chains: dict[str, _Line] = {}

    def add(self, sample: TableSample) -> None:
        self._place(sample.snapshot)
        rates = sample.rates
        for line, rate in zip(self.rules, rates):
            line.add(rate)
        self._add_policies(sample)
        sums = {
            chain.name: (
                sum(rate[0] for rate in rates[chain.slots.start : chain.slots.stop]),
                sum(rate[1] for rate in rates[chain.slots.start : chain.slots.stop]),
            )
            for chain in sample.snapshot.chains
        }
        self.chains = {name: self.chains.get(name) or self._line(name) for name in sums}
        for name, line in self.chains.items():
            line.add(sums[name])
        self.snapshot = sample.snapshot

    def _line(self, chain: str) -> _Line:
        return _Line(self.ipv6, self.name, chain, self._most)

    def _place(self, snapshot: Snapshot) -> None:
        """Give each rule of *snapshot* the line that it had before."""
        if self.snapshot is not None and snapshot.generation == self.snapshot.generation:
            return
        places = None if self.snapshot is None else snapshot.places_in(self.snapshot)
        known = range(len(self.rules)) if places is None else memoryview(places).cast("i")
        before = self.rules
        rules = snapshot.rules
        self.rules = []
        for chain in snapshot.chains:
            for slot in chain.slots:
                place = known[slot] if slot < len(known) else -1
                line = before[place] if place >= 0 else self._line(chain.name)
                line.position, line.rule = slot - chain.slots.start, rules[slot]
                self.rules.append(line)

    def _add_policies(self, sample: TableSample) -> None:
        """Add the counters of policies, which the delta does not have."""
        chains = [] if sample.before is None else sample.before.chains
        last = {chain.name: chain.policy_counters for chain in chains}
        seconds = sample.delta.seconds
        there: dict[str, _Line] = {}
        for chain in sample.snapshot.chains:
            if chain.policy is None or chain.policy_counters is None:
                continue
            line = there[chain.name] = self.policies.get(chain.name) or self._line(chain.name)
            line.policy = chain.policy
            before, now = last.get(chain.name), chain.policy_counters
            if before is None or seconds <= 0:
                line.add((0.0, 0.0))
                continue
            reset = now[0] < before[0] or now[1] < before[1]
            packets, size = now if reset else (now[0] - before[0], now[1] - before[1])
            line.add((packets / seconds, size / seconds))
        self.policies = there


class Board:
    """The state of a live view. `add` takes each `Sample`, and `rows` returns the lines.

    `sort` is one of `SORTS`. `drops_first` shows rules and policies that drop packets first. `by_chain` shows the sums
    of chains instead of rules. `idle` also shows what counts nothing. `expression` (a regular expression) and `chain`
    (a pattern as in a shell) select rules.
    """

    def __init__(self, selection: Selection, interval: float, sort: str = "packets") -> None:
        self._selection = selection
        self._most = min(_MOST_KEPT, max(1, round(MINUTE / interval)))
        self._tables: dict[tuple[bool, str], _BoardTable] = {}
        self.sort = sort
        self.drops_first = False
        self.by_chain = False
        self.idle = True
        self.sample: Sample | None = None
        self._expression: re.Pattern[str] | None = None
        self.chain = ""

    @property
    def expression(self) -> str:
        """The regular expression that is searched in the text of a rule; "" selects all rules."""
        return "" if self._expression is None else self._expression.pattern

    @expression.setter
    def expression(self, text: str) -> None:
        self._expression = re.compile(text) if text else None

    def add(self, sample: Sample) -> None:
        """Add the counters of one interval."""
        self.sample = sample
        there = {(table.ipv6, table.table) for table in sample.tables}
        if not sample.errors:
            self._tables = {key: table for key, table in self._tables.items() if key in there}
        for part in sample.tables:
            key = part.ipv6, part.table
            if key not in self._tables:
                self._tables[key] = _BoardTable(*key, self._most)
            self._tables[key].add(part)
        for event in sample.events:
            self._mark(event)

    def _mark(self, event: Event) -> None:
        table = self._tables.get((event.ipv6, event.table))
        if table is None or table.snapshot is None or event.kind not in _MARKS or event.position is None:
            return
        first = next(chain.slots.start for chain in table.snapshot.chains if chain.name == event.chain)
        line = table.rules[first + event.position]
        line.mark, line.marked = _MARKS[event.kind], _MARK_FOR

    @property
    def count(self) -> int:
        """The number of rules."""
        return sum(len(table.rules) for table in self._tables.values())

    @property
    def families(self) -> list[str]:
        """The families of the tables."""
        return ["IPv6" if ipv6 else "IPv4" for ipv6 in sorted({ipv6 for ipv6, _ in self._tables})]

    def total(self) -> _Rates:
        """Return (packets, bytes) per second, summed over all rules and policies of builtin chains."""
        lines = [line for table in self._tables.values() for line in (*table.rules, *table.policies.values())]
        return sum(line.rates[0] for line in lines), sum(line.rates[1] for line in lines)

    def rows(self, most: int | None = None, start: int = 0) -> tuple[list[BoardRow], int]:
        """Return (at most *most* rows, beginning with number *start*; the number of all rows)."""
        lines = list(self._wanted())
        if self.sort == "place":
            if self.drops_first:
                lines.sort(key=lambda line: not line.drops)
            chosen = lines
        else:
            value = 0 if self.sort == "packets" else 1
            other = 1 - value

            def key(line: _Line) -> tuple[bool, float, float]:
                return self.drops_first and line.drops, line.rates[value], line.rates[other]

            if most is None or start + most >= len(lines):
                chosen = sorted(lines, key=key, reverse=True)
            else:
                chosen = heapq.nlargest(start + most, lines, key=key)
        end = None if most is None else start + most
        return [BoardRow(line, line.text, line.mark, line.drops) for line in chosen[start:end]], len(lines)

    def _wanted(self) -> Iterator[_Line]:
        fits = re.compile(fnmatch.translate(self.chain)).fullmatch if self.chain else None
        for table in self._tables.values():
            for line in self._lines_of(table):
                if not self.idle and not any(line.rates):
                    continue
                if not self._selection.wants_chain(line.chain) or fits is not None and not fits(line.chain):
                    continue
                if self._selection.looks_at_rules and not self._is_selected(line):
                    continue
                if self._expression is not None and not self._expression.search(line.text):
                    continue
                yield line

    def _is_selected(self, line: _Line) -> bool:
        """Whether a rule is selected. If rules are selected by text or comment, no policies and chains are shown."""
        return line.rule is not None and self._selection.wants_rule(line.rule.text, line.rule.comment)

    def _lines_of(self, table: _BoardTable) -> Iterable[_Line]:
        if self.by_chain:
            yield from table.chains.values()
            return
        if self.sort != "place":
            yield from table.rules
            yield from table.policies.values()
            return
        rules = iter(table.rules)
        line = next(rules, None)
        for name in table.chains:
            while line is not None and line.chain == name:
                yield line
                line = next(rules, None)
            if name in table.policies:
                yield table.policies[name]
