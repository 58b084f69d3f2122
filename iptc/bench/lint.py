"""Finds useless rules and chains, and costly chains, in a ruleset. Each finding says why, and how sure it is."""

from __future__ import annotations

import contextlib
import time

from .. import _core
from ..errors import IPTCError
from ..managing.ruleset_value import ip_version
from ..tracing.traced_rule import rule_of
from . import covering
from .bench import Bench
from .probing import Unmakeable, probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .._types import Path
    from ..managing.ruleset_value import ChainValue, Ruleset, TableValue
    from ..rule import Rule

SHOWN = "shown: the kernel was given such a packet"
FOLLOWS = "it follows from what the rules say"
COUNTED = "as the counters say"

_COSTLY = 50
"""A chain is costly if a packet is compared with so many of its rules on average."""

_SCAN_MOST = 4000
"""In a chain with up to so many rules, each rule is compared with all rules before it. In a longer chain it is compared
only with rules that have no matches."""


class Finding:
    """One thing that was found.

    `kind` is "unreachable", "duplicate", "empty" (a jump to an empty chain), "unused" (a chain), "unhit" or "costly".
    `number` is None for a chain. `rule` is the text of the rule. `why` is a sentence, and `sure` says how sure it is.
    """

    __slots__ = ("kind", "family", "table", "chain", "number", "rule", "why", "sure")

    def __init__(self, kind: str, chain: ChainValue, table: str, number: int | None, why: str, sure: str) -> None:
        self.kind = kind
        self.family = f"ipv{ip_version(chain.nfproto)}"
        self.table = table
        self.chain = chain.name
        self.number = number
        self.rule = None if number is None else chain.rule(number - 1)
        self.why = why
        self.sure = sure

    def __str__(self) -> str:
        family = "" if self.family == "ipv4" else "IPv6 "
        which = "" if self.number is None else f" rule {self.number}: {self.rule}"
        return f"{family}{self.table} {self.chain}{which}\n    {self.kind}: {self.why} ({self.sure})"

    def __repr__(self) -> str:
        return f"<iptc finding {self.kind} {self.table} {self.chain} {self.number or ''}>"

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def lint(ruleset: Ruleset, bench: Bench | None, since: Since | None = None) -> list[Finding]:
    """Return what is found in *ruleset*.

    *bench* has the same rules, to try packets; None tries none. *since* says from when on the counters count; None
    leaves out what only counters say.
    """
    found: list[Finding] = []
    with contextlib.nullcontext() if bench is None else bench.asking():
        for table in ruleset.tables:
            found += _TableLint(table, bench).look()
            if since is not None:
                found += _counted(table, since)
    return found


class Since:
    """Tells since when a live rule has been counting: since the host started, or since the rule was added. The latter
    is looked up in the journal in the folder *journal*."""

    def __init__(self, journal: Path | None = None) -> None:
        self._added: dict[tuple[str, str, str, str], str] = {}
        if journal is not None:
            from ..watching.journal import read

            for change in read(journal):
                for row in change.get("added", ()):
                    self._added[change["family"], change["table"], row["chain"], row["rule"]] = change["when"]

    def of(self, chain: ChainValue, table: str, text: str = "") -> str:
        """Return since when a rule or a chain counts, as the end of a sentence."""
        when = self._added.get((f"ipv{ip_version(chain.nfproto)}", table, chain.name, text))
        if when is not None:
            return f"since it was added at {when}"
        hours = int(time.clock_gettime(time.CLOCK_BOOTTIME)) // 3600
        return f"since the host started {hours} hours ago, or its counter was set back"


class _TableLint:
    """Looks for findings in one table."""

    def __init__(self, table: TableValue, bench: Bench | None) -> None:
        self._table = table
        self._bench = bench
        self._rules = {chain.name: [rule_of(chain.nfproto, entry) for entry in chain.entries] for chain in table}
        self._jumps = {name: [self._jump(rule) for rule in rules] for name, rules in self._rules.items()}
        self._ways = self._find_ways()

    def _jump(self, rule: Rule) -> str | None:
        name = _core.jump_of(rule.nfproto, rule._whole()).decode("utf-8", "surrogateescape")
        return name if name in self._rules else None

    def _find_ways(self) -> dict[str, tuple[str, list[Rule]]]:
        """Return {chain: (a builtin chain, the jumps by which a packet comes from there to the chain)}."""
        ways: dict[str, tuple[str, list[Rule]]] = {
            chain.name: (chain.name, []) for chain in self._table if chain.policy is not None
        }
        queue = list(ways)
        while queue:
            name = queue.pop(0)
            hook, way = ways[name]
            for rule, to in zip(self._rules[name], self._jumps[name]):
                if to is not None and to not in ways:
                    ways[to] = hook, [*way, rule]
                    queue.append(to)
        return ways

    def look(self) -> Iterator[Finding]:
        """Yield the findings."""
        for chain in self._table:
            if chain.name not in self._ways:
                yield self._unused(chain)
            for number, to in enumerate(self._jumps[chain.name], 1):
                if to is not None and not self._rules[to]:
                    yield self._empty(chain, number, to)
            yield from self._useless(chain)

    def _empty(self, chain: ChainValue, number: int, to: str) -> Finding:
        target = self._rules[chain.name][number - 1].target
        does = "the packet leaves this chain" if target is not None and target.goto else "the jump does nothing"
        return Finding("empty", chain, self._table.name, number, f"chain {to} has no rules: {does}", FOLLOWS)

    def _unused(self, chain: ChainValue) -> Finding:
        named = any(to == chain.name for jumps in self._jumps.values() for to in jumps)
        why = "only chains that no packet comes to jump to it" if named else "no rule jumps to it"
        return Finding("unused", chain, self._table.name, None, why, FOLLOWS)

    def _useless(self, chain: ChainValue) -> Iterator[Finding]:
        """Yield findings about rules of a chain that other rules make useless."""
        rules = [covering.Said(rule) for rule in self._rules[chain.name]]
        finals = [at for at, rule in enumerate(rules) if rule.final]
        if len(rules) > _SCAN_MOST:
            finals = [at for at in finals if not rules[at].matches]
        changes = [0]
        for rule in rules:
            changes.append(changes[-1] + (not rule.harmless))
        first: dict[str, int] = {}
        for later, rule in enumerate(rules):
            same = first.setdefault(chain.rule(later), later)
            for earlier in finals:
                if earlier >= later:
                    break
                if covering.covers(rules[earlier], rule, changes[earlier] == changes[later]):
                    finding = self._never_reached(chain, earlier, later, earlier == same)
                    if finding is not None:
                        yield finding
                    break
            else:
                earlier = later
            if earlier >= later and same < later and not rules[same].final:
                yield Finding(
                    "duplicate", chain, self._table.name, later + 1, f"rule {same + 1} says the same", FOLLOWS
                )

    def _never_reached(self, chain: ChainValue, earlier: int, later: int, same: bool) -> Finding | None:
        """Return the finding that *earlier* takes all packets of *later*, or None if a packet in the bench disproves
        it."""
        sure = FOLLOWS
        if self._bench is not None and chain.name in self._ways:
            hook, way = self._ways[chain.name]
            try:
                packet, verdict = probe(self._bench, hook, [*way, self._rules[chain.name][later]])
            except (Unmakeable, IPTCError, ValueError) as error:
                sure = f"{FOLLOWS}; no packet was tried: {error}"
            else:
                hit = {
                    step.number
                    for step in verdict.path
                    if (step.table, step.chain, step.kind) == (self._table.name, chain.name, "rule")
                }
                if later + 1 in hit:
                    return None
                if earlier + 1 in hit:
                    sure = f"{SHOWN}, {packet}: rule {earlier + 1} took it"
                else:
                    sure = f"{FOLLOWS}; a packet that was tried, {packet}, came to neither of the two"
        says = "says the same, and takes" if same else "takes"
        why = f"rule {earlier + 1} ({chain.rule(earlier)}) {says} each packet that this rule could take"
        return Finding("duplicate" if same else "unreachable", chain, self._table.name, later + 1, why, sure)


# ---------------------------------------------------------------------- counters


def _counted(table: TableValue, since: Since) -> Iterator[Finding]:
    """Yield the findings that follow from the counters of a table."""
    entered = _entered(table)
    for chain in table:
        packets = [_core.counters_of(chain.nfproto, entry)[0] for entry in chain.entries]
        for number, count in enumerate(packets, 1):
            if not count and entered.get(chain.name):
                why = (
                    f"no packet has hit it {since.of(chain, table.name, chain.rule(number - 1))}; "
                    f"{entered[chain.name]} came to the chain"
                )
                yield Finding("unhit", chain, table.name, number, why, COUNTED)
        left = came = entered.get(chain.name, 0)
        compared = 0
        for entry, count in zip(chain.entries, packets):
            compared += left
            if covering.Said(rule_of(chain.nfproto, entry)).final:
                left = max(0, left - count)
        if came and compared / came >= _COSTLY:
            why = f"a packet is compared with {compared // came} rules on average; {came} packets came "
            why += since.of(chain, table.name)
            yield Finding("costly", chain, table.name, None, why, f"{COUNTED}, if none was set back alone")


def _entered(table: TableValue) -> dict[str, int]:
    """Return {chain: how many packets came to it}."""
    found: dict[str, int] = {}
    for chain in table:
        for entry in chain.entries:
            to = _core.jump_of(chain.nfproto, entry).decode("utf-8", "surrogateescape")
            if to:
                found[to] = found.get(to, 0) + _core.counters_of(chain.nfproto, entry)[0]
    for chain in table:
        if chain.policy is not None:
            final = sum(
                _core.counters_of(chain.nfproto, entry)[0]
                for entry in chain.entries
                if covering.Said(rule_of(chain.nfproto, entry)).final
            )
            found[chain.name] = final + (chain.counters or (0, 0))[0]
    return found
