"""The share of one owner in a ruleset, and a ruleset without the shares of some owners."""

from __future__ import annotations

from ..managing.ruleset_value import ChainValue, Ruleset, TableValue
from .marks import OwnerMark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def only(ruleset: Ruleset, owner: str, comment: str | None = None) -> Ruleset:
    """Return the share of *owner*: its rules and chains, in the tables and chains where it has any."""
    mark = OwnerMark(owner, comment)
    tables = []
    for table in ruleset.tables:
        chains = []
        for chain in table:
            positions = mark.positions(chain)
            if positions:
                chains.append(_with(chain, [chain.entries[position] for position in positions]))
        if chains:
            tables.append(TableValue(table.nfproto, table.name, chains))
    return Ruleset(tables, ruleset.backend)


def share_text(ruleset: Ruleset, counters: bool = False) -> str:
    """Return the share of an owner in the format of iptables-save. `iptables-restore --noflush` adds it to a table.

    Builtin chains are not declared, since no owner owns their policies.
    """
    builtin = {f":{chain.name} {chain.policy} " for table in ruleset.tables for chain in table if chain.policy}
    return "".join(
        line
        for line in ruleset.text(counters).splitlines(keepends=True)
        if not line.startswith(tuple(builtin) or ("\0",))
    )


def without(ruleset: Ruleset, owners: Iterable[str]) -> Ruleset:
    """Return *ruleset* without the rules of *owners*, and without the chains that were created for them."""
    marks = [OwnerMark(owner) for owner in owners]
    tables = []
    for table in ruleset.tables:
        chains = []
        for chain in table:
            gone: set[int] = set()
            ours = False
            for mark in marks:
                positions = mark.positions(chain)
                gone.update(positions)
                ours |= mark.is_chain_ours(chain, positions)
            if ours and len(gone) == len(chain):
                continue
            if gone:
                chain = _with(chain, [entry for place, entry in enumerate(chain.entries) if place not in gone])
            chains.append(chain)
        tables.append(TableValue(table.nfproto, table.name, chains))
    return Ruleset(tables, ruleset.backend)


def _with(chain: ChainValue, entries: list[bytes]) -> ChainValue:
    return ChainValue(chain.nfproto, chain.name, chain.policy, chain.counters, entries)
