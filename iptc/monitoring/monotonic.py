"""Totals that only grow, also if the kernel's counters are reset, or a rule or table is deleted and comes back."""

from __future__ import annotations

from .series import counts_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._counts import Counts
    from .._types import Pair
    from ..counters import Snapshot
    from .series import Series

_MOST_KEPT = 200_000
"""How many deleted rules and series are remembered for each table, in case they come back."""

_NONE = (0, 0)


class Totals:
    """The totals of the rules, chains and policies of one table."""

    def __init__(self) -> None:
        self._previous: Snapshot | None = None
        self._gone: dict[tuple[str, bytes], list[Pair]] = {}
        self._rules = _Growing()
        self._chains = _Growing()
        self._policies: dict[str, tuple[Pair, Pair]] = {}

    def forget_counters(self) -> None:
        """Forget the last snapshot: the counters of the next one have nothing to do with it."""
        self._previous = None
        self._gone.clear()
        self._policies = {name: (_NONE, total) for name, (_, total) in self._policies.items()}

    def advance(self, snapshot: Snapshot, rules: Series, chains: Series) -> tuple[Counts, Counts, dict[str, Pair]]:
        """Add what *snapshot* has counted since the last one. Return the totals of *rules*, of *chains*, and of the
        policies."""
        added = self._added(snapshot)
        self._previous = snapshot
        for chain in snapshot.chains:
            if chain.policy_counters is not None:
                now = chain.policy_counters.packets, chain.policy_counters.bytes
                before, total = self._policies.get(chain.name, (_NONE, _NONE))
                self._policies[chain.name] = now, _sum(total, _difference(now, before))
        policies = {name: total for name, (_, total) in self._policies.items()}
        return self._rules.advance(rules, added), self._chains.advance(chains, added), policies

    def _added(self, snapshot: Snapshot) -> Counts:
        """Return what each rule has counted since the last snapshot."""
        previous = self._previous
        if previous is None:
            return snapshot._counts
        delta = snapshot.since(previous)
        if snapshot._layout is previous._layout:
            return delta._counts
        found = _keys(snapshot)
        came = [slot for slot, flag in enumerate(delta.flags) if flag == delta.NEW and found[slot] in self._gone]
        self._note_gone(previous, snapshot)
        if not came:
            return delta._counts
        # a rule that comes back with at least its old counters has counted only the difference
        pairs = list(delta)
        for slot in came:
            if found[slot] in self._gone:
                pairs[slot] = _difference(pairs[slot], self._gone[found[slot]].pop(0))
                if not self._gone[found[slot]]:
                    del self._gone[found[slot]]
        return counts_of(pairs)

    def _note_gone(self, previous: Snapshot, snapshot: Snapshot) -> None:
        places = previous._layout.slots_in(snapshot._layout)
        if places is None:
            return
        keys = _keys(previous)
        for slot, place in enumerate(memoryview(places).cast("i")):
            if place < 0:
                self._gone.setdefault(keys[slot], []).append((previous[slot].packets, previous[slot].bytes))
        _shrink(self._gone)


class _Growing:
    """The totals of the series of one kind. Those of deleted series are kept, in case they come back."""

    def __init__(self) -> None:
        self._series: Series | None = None
        self._totals: Counts | None = None
        self._gone: dict[bytes, Pair] = {}

    def advance(self, series: Series, added: Counts) -> Counts:
        """Add to the totals of *series* what their rules have counted, and return them."""
        if self._series is not series:
            if self._series is not None and self._totals is not None:
                self._gone.update(zip(self._series.labels, self._totals.pairs(0, self._totals.rules)))
            self._totals = counts_of([self._gone.pop(label, _NONE) for label in series.labels])
            self._series = series
            _shrink(self._gone)
        self._totals = series.sums(added, self._totals)
        return self._totals


def _keys(snapshot: Snapshot) -> list[tuple[str, bytes]]:
    """Return (name of the chain, identity of the rule) for each slot."""
    layout = snapshot._layout
    return [
        (name, layout.identities[8 * slot : 8 * slot + 8])
        for name, _, first, end in layout.chains
        for slot in range(first, end)
    ]


def _difference(now: Pair, before: Pair) -> Pair:
    """Return what was counted between *before* and *now*; if a counter was reset, all of *now*."""
    if now[0] < before[0] or now[1] < before[1]:
        return now
    return now[0] - before[0], now[1] - before[1]


def _sum(a: Pair, b: Pair) -> Pair:
    return a[0] + b[0], a[1] + b[1]


def _shrink(kept: dict[Any, Any]) -> None:
    """Remove the oldest entries, if there are too many."""
    while len(kept) > _MOST_KEPT:
        del kept[next(iter(kept))]
