"""What happened to the rules of a table between two snapshots."""

from __future__ import annotations

from bisect import bisect_left
from struct import unpack

from ..counters import Delta
from ..errors import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..counters import Snapshot
    from ..layout import RuleInfo


class Event:
    """Something that happened to a rule, or to a whole table.

    `kind` of a rule is `APPEARED`, `DISAPPEARED`, `MOVED` (past rules that stayed) or `RESET` (its counters went back).
    `kind` of a table is `GONE` or `BACK` (also if it is new); then `chain` and `rule` are None. `position` is the
    rule's position in its chain now, and `before` the earlier one, from 0; None if the rule is not there.
    """

    __slots__ = ("kind", "table", "ipv6", "chain", "rule", "position", "before")

    APPEARED = "appeared"
    DISAPPEARED = "disappeared"
    MOVED = "moved"
    RESET = "reset"
    GONE = "gone"
    BACK = "back"

    def __init__(
        self,
        kind: str,
        table: str,
        ipv6: bool,
        rule: RuleInfo | None = None,
        position: int | None = None,
        before: int | None = None,
    ) -> None:
        self.kind = kind
        self.table = table
        self.ipv6 = ipv6
        self.chain = None if rule is None else rule.chain
        self.rule = rule
        self.position = position
        self.before = before

    def __str__(self) -> str:
        family = "IPv6" if self.ipv6 else "IPv4"
        if self.rule is None:
            return f"{family} table {self.table} {self.kind}"
        return f"{family} {self.table} {self.chain} {self.kind}: {rule_text(self.rule)}"

    def __repr__(self) -> str:
        return f"<iptc.Event {self}>"


def rule_text(rule: RuleInfo) -> str:
    """Return the text of a rule; if there is no libxtables to print it, its target."""
    try:
        return rule.text
    except Unsupported:
        return f"(cannot be printed here) -j {rule.target}"


def events_between(table: str, ipv6: bool, before: Snapshot, now: Snapshot, flags: bytes) -> Iterator[Event]:
    """Yield an `Event` for each rule of a table that has changed. *flags* are those of the `Delta` between the
    snapshots."""
    resets = [slot for slot, flag in enumerate(flags) if flag == Delta.RESET] if Delta.RESET in flags else []
    slots = now.places_in(before)
    if slots is not None:
        yield from _changes(table, ipv6, before, now, unpack(f"={len(slots) // 4}i", slots))
    if resets:
        starts = _starts(now)
        for slot in resets:
            rule = now.rules[slot]
            yield Event(Event.RESET, table, ipv6, rule, slot - starts[rule.chain])


def _changes(table: str, ipv6: bool, before: Snapshot, now: Snapshot, places: tuple[int, ...]) -> Iterator[Event]:
    """Yield the events of rules. *places* has the earlier slot of each rule, or -1."""
    starts_before, starts = _starts(before), _starts(now)
    gone = set(range(len(before))).difference(places)
    for slot in sorted(gone):
        rule = before.rules[slot]
        yield Event(Event.DISAPPEARED, table, ipv6, rule, None, slot - starts_before[rule.chain])
    for chain in now.chains:
        there = [(slot, places[slot]) for slot in chain.slots]
        stayed = _longest_rising([place for _, place in there if place >= 0])
        for slot, place in there:
            if place in stayed:
                continue
            rule, position = now.rules[slot], slot - starts[chain.name]
            if place < 0:
                yield Event(Event.APPEARED, table, ipv6, rule, position)
            else:
                yield Event(Event.MOVED, table, ipv6, rule, position, place - starts_before[chain.name])


def _starts(snapshot: Snapshot) -> dict[str, int]:
    """Return {chain: the slot of its first rule}."""
    return {chain.name: chain.slots.start for chain in snapshot.chains}


def _longest_rising(numbers: Iterable[int]) -> set[int]:
    """Return the longest rising subsequence of these different numbers, as a set: the rules that did not move."""
    ends: list[int] = []  # for each length, the smallest last number of a rising subsequence
    previous: dict[int, int | None] = {}
    for number in numbers:
        at = bisect_left(ends, number)
        previous[number] = ends[at - 1] if at else None
        ends[at : at + 1] = [number]
    found = set()
    last = ends[-1] if ends else None
    while last is not None:
        found.add(last)
        last = previous[last]
    return found
