"""Finds how two rulesets differ: chain by chain, with the fewest edits."""

from __future__ import annotations

from collections import defaultdict, namedtuple
from itertools import pairwise

from . import lcs, numbering
from .ruleset_value import ChainValue, ip_version, plain_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Literal, NamedTuple

    from .._types import Family
    from .ruleset_value import Ruleset, TableValue

_COMPARED = 2500
"""In one hunk, at most this many pairs of rules are compared word by word."""

if TYPE_CHECKING:

    class Change(NamedTuple):
        kind: str
        ip_version: Literal[4, 6]
        table: str
        chain: str
        number: int | None
        old_number: int | None
        rule: str | None
        old_rule: str | None
else:
    Change = namedtuple("Change", "kind ip_version table chain number old_number rule old_rule")
"""One difference.

`kind` is "added", "removed", "moved", "changed" (the same place, other options), "policy" (`rule` and `old_rule` are
the policies), "chain added" or "chain removed". Positions count from 1, as in `iptables -L --line-numbers`; None means
that there is none.
"""


class ChainDifference:
    """The differences of one chain. It is false if the chain is the same in both rulesets.

    *old* and *new* are `ChainValue`s, or None if that ruleset does not have the chain. *hunks* are the parts that
    differ, as (start, end, new start, new end). *moved* and *changed* map a position in *new* to the position in *old*.
    *added* and *removed* are lists of positions.
    """

    __slots__ = ("nfproto", "table", "name", "old", "new", "hunks", "moved", "changed", "added", "removed")

    def __init__(self, nfproto: Family, table: str, name: str, old: ChainValue | None, new: ChainValue | None) -> None:
        self.nfproto = nfproto
        self.table = table
        self.name = name
        self.old: Any = old  # or None, as `created` and `deleted` say
        self.new: Any = new
        self.moved: dict[int, int] = {}
        self.changed: dict[int, int] = {}
        self.added: list[int] = []
        self.removed: list[int] = []
        before, after = old.entries if old else [], new.entries if new else []
        self.hunks = []
        if before != after:
            numbers = numbering.number(nfproto, list(before), list(after))
            self.hunks = _hunks(*numbers)
            self._sort_out(*numbers)

    def __bool__(self) -> bool:
        return bool(self.hunks or self.created or self.deleted or self.policy)

    def __repr__(self) -> str:
        return f"<difference of chain {self.name} of IPv{self.ip_version} table {self.table}>"

    @property
    def ip_version(self) -> Literal[4, 6]:
        """4 or 6."""
        return ip_version(self.nfproto)

    @property
    def created(self) -> bool:
        """Whether only the new ruleset has the chain."""
        return self.old is None

    @property
    def deleted(self) -> bool:
        """Whether only the old ruleset has the chain."""
        return self.new is None

    @property
    def policy(self) -> tuple[str | None, str | None] | None:
        """(old policy, new policy) if they differ, or None."""
        if self.created or self.deleted:
            return None
        policies = self.old.policy, self.new.policy
        return None if policies[0] == policies[1] or "-" in policies else policies

    def _sort_out(self, before: memoryview, after: memoryview) -> None:
        """Sort the rules of the hunks: which have moved, which have changed in their place, which are added or
        removed."""
        gone = defaultdict(list)
        for start, end, _, _ in reversed(self.hunks):
            for position in range(end - 1, start - 1, -1):
                gone[before[position]].append(position)
        for _, _, start, end in self.hunks:
            for position in range(start, end):
                if gone.get(after[position]):
                    self.moved[position] = gone[after[position]].pop()
        left = set(self.moved.values())
        for start, end, new_start, new_end in self.hunks:
            removed = [position for position in range(start, end) if position not in left]
            added = [position for position in range(new_start, new_end) if position not in self.moved]
            pairs = _paired(removed, added, self.old.rule, self.new.rule) if removed and added else ()
            self.changed.update((position, was) for was, position in pairs)
            paired = {was for was, _ in pairs}
            self.removed += [position for position in removed if position not in paired]
            self.added += [position for position in added if position not in self.changed]

    def changes(self) -> Iterator[Change]:
        """Yield each difference as a `Change`."""

        def change(
            kind: str,
            position: int | None,
            old_position: int | None,
            rule: str | None,
            old_rule: str | None,
        ) -> Change:
            number, old_number = (None if place is None else place + 1 for place in (position, old_position))
            return Change(kind, self.ip_version, self.table, self.name, number, old_number, rule, old_rule)

        if self.created:
            yield change("chain added", None, None, None, None)
        if self.policy:
            yield change("policy", None, None, self.policy[1], self.policy[0])
        for position in self.removed:
            yield change("removed", None, position, None, self.old.rule(position))
        rows: list[tuple[str, int, int | None]] = [("added", position, None) for position in self.added]
        rows += [("moved", *pair) for pair in self.moved.items()]
        rows += [("changed", *pair) for pair in self.changed.items()]
        for kind, position, was in sorted(rows, key=lambda row: row[1]):
            yield change(kind, position, was, self.new.rule(position), None if was is None else self.old.rule(was))
        if self.deleted:
            yield change("chain removed", None, None, None, None)


def _hunks(before: memoryview, after: memoryview) -> list[tuple[int, int, int, int]]:
    """Return [(start, end, new start, new end)]: the parts that the two sequences do not have in common."""
    hunks, start, new_start = [], 0, 0
    for place, new_place, length in [*lcs.blocks(before, after), (len(before), len(after), 0)]:
        if place > start or new_place > new_start:
            hunks.append((start, place, new_start, new_place))
        start, new_start = place + length, new_place + length
    return hunks


def _paired(
    removed: list[int],
    added: list[int],
    before: Callable[[int], str],
    after: Callable[[int], str],
) -> list[tuple[int, int]]:
    """Return [(old position, new position)]: as many pairs as possible in order, with the most words in common."""
    if len(removed) == len(added):
        return list(zip(removed, added))
    if len(removed) * len(added) > _COMPARED:
        return list(zip(removed, added))
    if len(removed) > len(added):
        return [(one, other) for other, one in _paired_each(added, removed, after, before)]
    return _paired_each(removed, added, before, after)


def _paired_each(
    few: list[int],
    many: list[int],
    few_rules: Callable[[int], str],
    many_rules: Callable[[int], str],
) -> list[tuple[int, int]]:
    """Return a pair for each of *few*, with a partner among *many*."""
    words = [set(many_rules(position).split()) for position in many]
    spare = len(many) - len(few)
    # best[i][k]: the most words that the first i of *few* have in common with partners, if k of *many* are left out so
    # far
    best, came = [[0] * (spare + 1)], []
    for i, position in enumerate(few):
        own = set(few_rules(position).split())
        row: list[int] = []
        choice: list[int] = []
        for k in range(spare + 1):
            value = best[i][k] + len(own & words[i + k])
            if row and row[-1] >= value:
                row.append(row[-1])
                choice.append(choice[-1])
            else:
                row.append(value)
                choice.append(k)
        best.append(row)
        came.append(choice)
    k, pairs = spare, []
    for i in reversed(range(len(few))):
        k = came[i][k]
        pairs.append((few[i], many[i + k]))
    return pairs[::-1]


class Difference:
    """The difference of two rulesets. It is false if they are equal. It yields `Change`s, and `str()` is a unified
    diff."""

    def __init__(self, chains: Iterable[ChainDifference]) -> None:
        self.chains = [chain for chain in chains if chain]

    def __bool__(self) -> bool:
        return bool(self.chains)

    def __iter__(self) -> Iterator[Change]:
        for chain in self.chains:
            yield from chain.changes()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<iptc.Difference: {self.summary() or 'none'}>"

    def __str__(self) -> str:
        return self.text()

    def _of(self, kind: str) -> list[Change]:
        return [change for change in self if change.kind == kind]

    @property
    def added(self) -> list[Change]:
        """The rules that only the new ruleset has."""
        return self._of("added")

    @property
    def removed(self) -> list[Change]:
        """The rules that only the old ruleset has."""
        return self._of("removed")

    @property
    def moved(self) -> list[Change]:
        """The rules that stand in another order."""
        return self._of("moved")

    @property
    def changed(self) -> list[Change]:
        """The rules that have other options in the same place."""
        return self._of("changed")

    @property
    def policies(self) -> list[Change]:
        """The policies that differ."""
        return self._of("policy")

    def counts(self) -> dict[str, int]:
        """Return {kind: how many}, without the kinds that do not occur."""
        counts: dict[str, int] = {}
        for change in self:
            counts[change.kind] = counts.get(change.kind, 0) + 1
        return counts

    def summary(self) -> str:
        """Return one line that says how many rules, policies and chains differ, or "" if none does."""
        counts = self.counts()
        words = {
            "policy": ("policy changed", "policies changed"),
            "chain added": ("chain added", "chains added"),
            "chain removed": ("chain removed", "chains removed"),
        }
        parts = []
        for kind in ("chain added", "chain removed", "policy", "added", "removed", "changed", "moved"):
            if count := counts.get(kind):
                one, many = words.get(kind, (f"rule {kind}", f"rules {kind}"))
                parts.append(f"{count} {one if count == 1 else many}")
        return ", ".join(parts)

    def text(
        self,
        names: tuple[str, str] = ("a", "b"),
        context: int = 3,
        colour: bool | Callable[[str], str] | None = None,
    ) -> str:
        """Return a unified diff of what `iptables-save` prints, with *context* lines around each difference.

        *colour*: True adds the colours of a terminal. A function does that too, and each line goes through it first, to
            escape control characters.
        """
        if not self.chains:
            return ""
        lines = [("name", f"--- {names[0]}"), ("name", f"+++ {names[1]}")]
        for chain in self.chains:
            lines += _lines_of(chain, context)
        if not colour:
            return "".join([f"{line}\n" for _, line in lines])
        return "".join([_painted(kind, colour(line) if callable(colour) else line) for kind, line in lines])

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON: `{"schema": 1, "same": …, "chains": […]}`."""
        return {"schema": 1, "same": not self, "chains": [_described(chain) for chain in self.chains]}


_COLOURS = {"name": 1, "@": 36, "-": 31, "+": 32, "moved": 33}


def _painted(kind: str, line: str) -> str:
    return f"\x1b[{_COLOURS[kind]}m{line}\x1b[0m\n" if kind in _COLOURS else f"{line}\n"


def _lines_of(chain: ChainDifference, context: int) -> Iterator[tuple[str, str]]:
    """Yield (kind, line) for the differences of a chain."""
    where = f"IPv{chain.ip_version} {chain.table} {chain.name}"
    declared = []
    if chain.deleted or chain.policy:
        declared.append(("-", f"-:{chain.name} {chain.old.policy or '-'}"))
    if chain.created or chain.policy:
        declared.append(("+", f"+:{chain.name} {chain.new.policy or '-'}"))
    if declared:
        yield "@", f"@@ {where} @@"
        yield from declared
    length = len(chain.old) if chain.old else 0
    gone = set(chain.moved.values())
    for group in _grouped(chain.hunks, context):
        start, new_start = max(group[0][0] - context, 0), max(group[0][2] - context, 0)
        start, new_start = (
            max(start, group[0][0] - min(context, group[0][2])),
            max(new_start, group[0][2] - min(context, group[0][0])),
        )
        end = min(group[-1][1] + context, length)
        new_end = group[-1][3] + end - group[-1][1]
        numbers = f"-{_span(start, end)} +{_span(new_start, new_end)}"
        yield "@", f"@@ {numbers} @@ {where}"
        at = start
        for first, last, new_first, new_last in group:
            for position in range(at, first):
                yield " ", f" {_rule_line(chain, chain.old.rule(position))}"
            for position in range(first, last):
                yield "moved" if position in gone else "-", f"-{_rule_line(chain, chain.old.rule(position))}"
            for position in range(new_first, new_last):
                yield "moved" if position in chain.moved else "+", f"+{_rule_line(chain, chain.new.rule(position))}"
            at = last
        for position in range(at, end):
            yield " ", f" {_rule_line(chain, chain.old.rule(position))}"


def _grouped(hunks: list[tuple[int, int, int, int]], context: int) -> list[list[tuple[int, int, int, int]]]:
    """Return lists of hunks. Hunks whose context lines touch are in one list."""
    if not hunks:
        return []
    groups = [[hunks[0]]]
    for one, other in pairwise(hunks):
        if other[0] - one[1] <= 2 * context:
            groups[-1].append(other)
        else:
            groups.append([other])
    return groups


def _span(start: int, end: int) -> str:
    """Return a range of lines in the form of a unified diff."""
    return f"{start + 1},{end - start}" if end > start else f"{start},0"


def _rule_line(chain: ChainDifference, rule: str) -> str:
    return f"-A {chain.name} {rule}".rstrip(" ")


def _described(chain: ChainDifference) -> dict[str, Any]:
    described: dict[str, Any] = {
        "ip_version": chain.ip_version,
        "table": chain.table,
        "chain": chain.name,
        "state": "added" if chain.created else "removed" if chain.deleted else "there",
        "policy": None,
        "added": [],
        "removed": [],
        "moved": [],
        "changed": [],
    }
    for change in chain.changes():
        if change.kind == "policy":
            described["policy"] = {"from": change.old_rule, "to": change.rule}
        elif change.kind == "added":
            described["added"].append({"number": change.number, "rule": change.rule})
        elif change.kind == "removed":
            described["removed"].append({"number": change.old_number, "rule": change.old_rule})
        elif change.kind == "moved":
            described["moved"].append({"number": change.number, "from": change.old_number, "rule": change.rule})
        elif change.kind == "changed":
            described["changed"].append(
                {"number": change.number, "from": change.old_number, "rule": change.rule, "old_rule": change.old_rule}
            )
    return described


def diff(old: Ruleset, new: Ruleset) -> Difference:
    """Return the `Difference` that leads from one `Ruleset` to another.

    A table that a ruleset does not have counts as empty: its builtin chains have no rules and the policy ACCEPT.
    """
    return Difference(
        [chain for key in _keys_of(old, new) for chain in diff_tables(old.table(*key), new.table(*key), *key)]
    )


def _keys_of(old: Ruleset, new: Ruleset) -> list[tuple[Family, str]]:
    keys = {(table.nfproto, table.name): None for table in [*old.tables, *new.tables]}
    return sorted(keys, key=lambda key: key[0])


def diff_tables(old: TableValue | None, new: TableValue | None, nfproto: Family, name: str) -> list[ChainDifference]:
    """Return the `ChainDifference`s of two `TableValue`s; one of them may be None.

    Builtin chains come first, and then user chains in the order of *new*.
    """
    old = plain_table(nfproto, name) if old is None else old
    new = plain_table(nfproto, name) if new is None else new
    names = dict.fromkeys(chain.name for chain in old if chain.policy is not None)
    names.update(dict.fromkeys(chain.name for chain in [*new, *old]))
    return [ChainDifference(nfproto, name, chain, *_both(nfproto, chain, old, new)) for chain in names]


def _both(nfproto: Family, name: str, old: TableValue, new: TableValue) -> tuple[ChainValue | None, ChainValue | None]:
    """Yield the `ChainValue` of a chain in both tables. Both have all builtin chains."""
    sides = old.chains.get(name), new.chains.get(name)
    for number, side in enumerate(sides):
        other = sides[1 - number]
        if side is None and other is not None and other.policy is not None:
            plain = ChainValue(nfproto, name, "-")
            return (plain, other) if number == 0 else (other, plain)
    return sides
