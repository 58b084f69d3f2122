"""Which rules no packet has hit: read from the kernel's counters, which begin at zero in a bench."""

from __future__ import annotations

from .. import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ..managing.ruleset_value import Ruleset


class Coverage:
    """How often each rule was hit in all benches that were added. Rules of the same file are added up.

    `rules` is {(source, family, table, chain, number): [text, packets]}.
    """

    def __init__(self) -> None:
        self.rules: dict[tuple[str, str, str, str, int], list[Any]] = {}

    def add(self, value: Ruleset, source: str = "") -> None:
        """Add the counters of a ruleset. *source* is the name of its file."""
        for table in value.tables:
            family = "ipv4" if table.nfproto == _core.IPV4 else "ipv6"
            for chain in table:
                for number, (text, entry) in enumerate(zip(chain.rules, chain.entries), 1):
                    packets = _core.counters_of(chain.nfproto, entry)[0]
                    self.note((source, family, table.name, chain.name, number), text, packets)

    def note(self, key: tuple[str, str, str, str, int], text: str, packets: int) -> None:
        """Add *packets* to a rule."""
        row = self.rules.setdefault(key, [text, 0])
        row[1] += packets

    def merge(self, rows: Iterable[Any]) -> None:
        """Add the result of `rows` of another `Coverage`."""
        for *key, text, packets in rows:
            source, family, table, chain, number = key
            self.note((source, family, table, chain, number), text, packets)

    def rows(self) -> list[list[Any]]:
        """Return everything in a form for JSON."""
        return [[*key, *row] for key, row in self.rules.items()]

    @property
    def percent(self) -> float:
        """The percentage of rules that were hit; 100 if there are no rules."""
        if not self.rules:
            return 100.0
        return 100.0 * sum(1 for _, packets in self.rules.values() if packets) / len(self.rules)

    @property
    def missed(self) -> list[str]:
        """The rules that no packet has hit, as `iptables -A` takes them."""
        found = []
        for (_, family, table, chain, number), (text, packets) in self.rules.items():
            if not packets:
                found.append(f"{_place(family, table)} {chain} rule {number}: {text}")
        return found

    def table(self) -> str:
        """Return a table of the chains with the numbers of the rules that were not hit, and these rules below it."""
        chains: dict[tuple[str, str, str, str], list[tuple[int, int]]] = {}
        for (source, family, table, chain, number), (_, packets) in self.rules.items():
            chains.setdefault((source, family, table, chain), []).append((number, packets))
        sources = {key[0] for key in chains}
        rows = [("chain", "rules", "hit", "", "not hit")]
        for (source, family, table, chain), numbers in chains.items():
            hit = sum(1 for _, packets in numbers if packets)
            name = f"{source + ': ' if len(sources) > 1 else ''}{_place(family, table)} {chain}"
            missed = ", ".join(_ranges([number for number, packets in numbers if not packets]))
            rows.append((name, str(len(numbers)), str(hit), _percent(hit, len(numbers)), missed))
        hit = sum(1 for _, packets in self.rules.values() if packets)
        rows.append(("all", str(len(self.rules)), str(hit), _percent(hit, len(self.rules)), ""))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(row[at].rjust(widths[at]) for at in (1, 2, 3)), row[4]]).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *(f"  {rule}" for rule in self.missed)])


def _place(family: str, table: str) -> str:
    return table if family == "ipv4" else f"IPv6 {table}"


def _percent(hit: int, count: int) -> str:
    return f"{100 * hit // count if count else 100}%"


def _ranges(numbers: list[int]) -> list[str]:
    """Return ranges of numbers: 1, 2, 3, 7 as 1-3 and 7."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][-1] == number - 1:
            found[-1].append(number)
        else:
            found.append([number])
    return [str(one[0]) if len(one) == 1 else f"{one[0]}-{one[-1]}" for one in found]
