"""Owned: the rules of an owner among rules of other programs. It defines them, puts them in place, and deletes them."""

from __future__ import annotations

from collections.abc import Iterable

from .. import _core, state
from .._applied import telling_methods
from ..errors import NotFound, ParameterError, ParameterTypeError, Unsupported
from ..language.specification import refuse_meaningless
from ..managing.planning import Plan, Scope, apply_anew
from ..managing.ruleset_value import ChainValue, Ruleset, TableValue, ip_version, plain_table, read_live
from ..model.edits import check_new_name
from ..namespace import Place
from ..nft.reader import BUILTIN_CHAINS
from ..rule import Rule
from .families import said_for, words_in
from .marks import OwnerMark, comments_with, rule_class
from .own_table import OwnTable, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .._types import Family, LockFile, Netns, Wait
    from .guard import Guard, Heal

    # in the class `set` is a method
    _Names = set[str]
    _Places = set[int]

_FAMILIES = {"ipv4": [_core.IPV4], "ipv6": [_core.IPV6], "both": [_core.IPV4, _core.IPV6]}
_PLACES = ("first", "last", "before", "after")
_COMMENT = "comment:"
"""The prefix of an anchor that is a comment."""


class _Block:
    """The rules of the owner in one chain, and their place among the rules of others."""

    __slots__ = ("anchor", "marked", "place", "rules")

    def __init__(self, rules: list[Rule], place: str, anchor: Any, marked: bool = False) -> None:
        self.rules = rules
        self.place = place
        self.anchor = anchor
        self.marked = marked
        """Whether the rules have the mark already."""

    def entries(self, mark: OwnerMark, nfproto: Family, chain: str, own: bool) -> list[bytes]:
        """Return the rules as bytes with the mark, as they are sent."""
        if self.marked:
            return [rule._whole() for rule in self.rules]
        made = [mark.put_on(rule, chain, own)._whole() for rule in self.rules]
        return made or ([mark.alone(nfproto, chain)] if own else [])


class _Exactly(Scope):
    """A scope of exactly these chains: {(table, chain)}."""

    def __init__(self, chains: set[tuple[str, str]]) -> None:
        super().__init__()
        self._chains = chains
        self._tables = {table for table, _ in chains}

    def covers(self, table: str, chain: str) -> bool:
        return (table, chain) in self._chains

    def may_cover(self, table: str) -> bool:
        return table in self._tables


@telling_methods
class Owned:
    """The rules that belong to *name*, in any chain of any table, among rules of other programs.

    `set` defines the rules, and changes nothing in the kernel. `plan()` returns the edits that put them in place, and
    `apply()` makes these edits. Rules of others are never changed. `remove()` deletes all rules that belong to the
    name.

    The owner of a rule stands in its comment: `web:` and then the rule's own comment. *comment* replaces `web:` by
    another text. So the rules are found again after a restart, and by other programs.

    With *own_table* the rules stand in a table of their own (nf_tables, Linux 6.9 and later). No other process can
    change it while this object exists. After that the table stays and goes on to filter. ACCEPT ends the evaluation of
    that table only, DROP is final. The rules must be first or last in their chains, and nf_tables must have expressions
    for all their matches and targets; otherwise `Unsupported` is raised.

    A user chain that does not exist is created, and belongs to the name. It is deleted when it is not wanted any more,
    no other program has a rule in it, and no rule jumps to it. A chain without rules gets one rule without effect,
    which carries the comment.
    """

    def __init__(
        self,
        name: str,
        *,
        comment: str | None = None,
        own_table: bool = False,
        backend: str | None = None,
        netns: Netns = None,
    ) -> None:
        self._mark = OwnerMark(name, comment)
        self._place = Place(netns)
        self._backend = backend
        self._own_table: OwnTable | None = None
        if own_table:
            if self.backend() != "nft":
                raise Unsupported("a table of its own is for nf_tables alone")
            self._own_table = OwnTable(name, self._place)
        self._blocks: dict[tuple[Family, str, str], _Block] = {}

    @property
    def name(self) -> str:
        """The name of the owner."""
        return self._mark.owner

    def __repr__(self) -> str:
        return f"<iptc.Owned {self.name}: {sum(len(block.rules) for block in self._blocks.values())} rules>"

    @property
    def netns(self) -> str | int | None:
        """The network namespace that was given, or None."""
        return self._place.netns

    def backend(self) -> str:
        """Return the name of the back end in use."""
        return state.side_at(self._place, self._backend)

    # ------------------------------------------------------------ the wanted rules

    def set(
        self,
        table: str,
        chain: str,
        rules: Iterable[Rule | str | Iterable[str]],
        place: str = "first",
        anchor: Rule | str | None = None,
        family: str | None = None,
    ) -> None:
        """Define the rules of the owner in *chain*, in place of an earlier definition for this chain.

        *rules*: each a `Rule`, or a specification as after `iptables -A CHAIN`, as text or words.
        *place*: "first" or "last" in the chain, or directly "before" or "after" the rule *anchor*.
        *anchor*: a rule of another program, as a `Rule`, a specification, or "comment:TEXT" for the first rule with
            that comment.
        *family*: "ipv4" (the default), "ipv6" or "both". With "both", text is translated for each family (ICMP,
            REJECT), and a rule with addresses of one family is made for that family only. A `Rule6` is for IPv6.

        Raises `ParameterError` if no rule can be made of a specification.
        """
        if place not in _PLACES:
            raise ParameterError(f"place must be one of {', '.join(_PLACES)}, not {place!r}")
        if (anchor is not None) != (place in ("before", "after")):
            raise ParameterError(f'place "{place}" {"takes no" if anchor is not None else "needs an"} anchor')
        if family is not None and family not in _FAMILIES:
            raise ParameterError(f"family must be one of {', '.join(_FAMILIES)}, not {family!r}")
        if isinstance(rules, (str, bytes, Rule)) or not isinstance(rules, Iterable):
            raise ParameterTypeError(f"rules must be several Rules or texts, not {type(rules).__name__}")
        rules = list(rules)
        if family is None:
            family = (
                "ipv6"
                if rules and all(isinstance(rule, Rule) and rule.nfproto == _core.IPV6 for rule in rules)
                else "ipv4"
            )
        blocks = {}
        for nfproto in _FAMILIES[family]:
            plain_table(nfproto, table)
            if not _is_builtin(table, chain):
                if not chain:
                    raise ParameterError("a chain has a name")
                check_new_name(nfproto, chain)
            block = _Block(
                self._made(nfproto, rules, family == "both"), place, _anchor(nfproto, anchor, family == "both")
            )
            # a rule that is impossible with its comment is refused here, and not later by `apply`
            for entry in block.entries(self._mark, nfproto, chain, not _is_builtin(table, chain)):
                refuse_meaningless(nfproto, chain, entry)
            blocks[nfproto, table, chain] = block
        self._blocks.update(blocks)

    def adopt(self) -> int:
        """Define the rules of the name that the kernel has now as the wanted ones, in their places. Return how many
        they are."""
        count = 0
        for table in self._live().tables:
            for chain in table:
                positions = self._mark.positions(chain)
                if positions:
                    self._blocks[table.nfproto, table.name, chain.name] = _adopted(self._mark, chain, positions)
                    count += len(positions)
        return count

    def forget(self, table: str, chain: str, family: str = "both") -> None:
        """Remove the definition that `set` made for *chain*: no rules are wanted there any more."""
        for nfproto in _FAMILIES[family]:
            self._blocks.pop((nfproto, table, chain), None)

    def _made(self, nfproto: Family, rules: list[Any], both: bool) -> list[Rule]:
        made: list[Rule] = []
        for rule in rules:
            found = _rule_for(nfproto, rule, both)
            if found is not None:
                made += found.expand()
        return made

    # ------------------------------------------------------------- the rules in the kernel

    def _live(self, keys: Any = None) -> Ruleset:
        return read_live(_FAMILIES["both"], self._place, self._backend, keys)

    @property
    def rules(self) -> list[Rule]:
        """The rules of the name that the kernel has now, of all tables in their order. Each is a copy."""
        return [rule for _, _, rule in self.rows()]

    def rows(self) -> list[tuple[str, str, Rule]]:
        """Return [(table, chain, rule)] for each rule of the name that the kernel has now."""
        if self._own_table is not None:
            return [
                (table, chain, _core.load_rules(rule_class(nfproto), nfproto, [entry], None)[0])
                for nfproto, table, chain, entry in self._own_table.rows()
            ]
        return [
            (table.name, chain.name, rule)
            for table in self._live().tables
            for chain in table
            for rule in _core.load_rules(
                rule_class(table.nfproto),
                table.nfproto,
                [chain.entries[position] for position in self._mark.positions(chain)],
                None,
            )
        ]

    # -------------------------------------------------------------- changes

    def plan(self) -> Plan:
        """Return the `Plan` that puts the wanted rules in place; it is false if there is nothing to do. Nothing is
        changed.

        Raises `NotFound` if there is no anchor rule.
        """
        return self.plan_for(None)

    def apply(self, wait: Wait = None, lock_file: LockFile = None) -> Plan:
        """Put the wanted rules in place, and return the `Plan` that was applied; it is false if nothing was changed.

        There is one commit for each table, or one for all tables on nf_tables. Rules of the name that are not wanted
        any more are deleted. *wait* and *lock_file* are as for `Table`. Raises `Conflict` if other programs change the
        same chains each time.
        """
        return self._do(self._blocks, wait, lock_file)

    def remove(self, wait: Wait = None, lock_file: LockFile = None) -> Plan:
        """Delete all rules and chains of the name, also those that another program has added, and return the `Plan`.

        The definitions made by `set` stay.
        """
        return self._do({}, wait, lock_file)

    def plan_for(self, live: Ruleset | None, yielding: bool = False) -> Plan:
        """Return the plan for tables that were read already. *yielding*: if there is no anchor, the rules stay where
        they are, or become the first ones."""
        if self._own_table is not None:
            return self._own_table.plan(self._for_own_table(self._blocks))
        return self._plan(self._live() if live is None else live, self._blocks, yielding)

    def _for_own_table(self, blocks: dict[tuple[Family, str, str], _Block]) -> dict[Any, tuple[str, list[bytes]]]:
        """Return the argument of `OwnTable.plan`."""
        wanted = {}
        for (nfproto, table, chain), block in blocks.items():
            if block.anchor is not None:
                raise Unsupported(
                    f'in a table of its own there is nothing to stand {block.place}: say "first" or "last"'
                )
            entries = block.entries(self._mark, nfproto, chain, False)
            if not entries and not _is_builtin(table, chain):
                entries = [self._mark.alone(nfproto, chain)]
            for entry in entries:
                encode(nfproto, entry)
            if entries:
                wanted[nfproto, table, chain] = block.place, entries
        return wanted

    def guard(
        self,
        limit: tuple[int, float] = (100, 10.0),
        callback: Callable[[Heal], object] | None = None,
        *,
        compare: float = 60.0,
        wait: Wait = None,
        lock_file: LockFile = None,
    ) -> Guard:
        """Return a `Guard`. In a `with` statement it puts the rules in place, and again whenever another program breaks
        them.

        *limit*: (heals, seconds). After so many heals against the same process, the guard pauses for 1 second, then 2,
            4 and so on up to 60, and then puts the rules back.
        *callback*: called with a `Heal` each time, in the guard's thread. The logger "iptc" gets a line too.
        *compare*: as for `iptc.watch`. *wait* and *lock_file*: as for `Table`.

        If there is no anchor rule, the rules stay where they are, or become the first ones.
        """
        from .guard import Guard

        return Guard(self, limit, callback, compare, wait, lock_file)

    def _do(self, blocks: dict[tuple[Family, str, str], _Block], wait: Wait, lock_file: LockFile) -> Plan:
        if self._own_table is not None:
            plan = self._own_table.plan(self._for_own_table(blocks))
            plan.apply()
            return plan
        return apply_anew(lambda: self._plan(self._live(), blocks), wait, lock_file)

    def _plan(self, live: Ruleset, blocks: dict[tuple[Family, str, str], _Block], yielding: bool = False) -> Plan:
        """Return the `Plan` for *blocks*. *yielding*: if there is no anchor, the rules stay where they are, or become
        the first ones."""
        tables, touched = [], set()
        keys = dict.fromkeys((table.nfproto, table.name) for table in live.tables)
        keys.update(dict.fromkeys((nfproto, name) for nfproto, name, _ in blocks))
        for nfproto, name in keys:
            wanted = {
                chain: block for (family, table, chain), block in blocks.items() if (family, table) == (nfproto, name)
            }
            there = live.table(nfproto, name)
            if there is None and not any(block.rules or not _is_builtin(name, c) for c, block in wanted.items()):
                continue
            spare = {chain for _, table, chain in self._blocks.keys() - blocks.keys() if table == name}
            table, names = self._arranged(there or plain_table(nfproto, name), wanted, spare, yielding)
            tables.append(table)
            touched |= {(name, chain) for chain in names}
        return Plan(live, Ruleset(tables, live.backend, live.generation), _Exactly(touched), self._place)

    def _arranged(
        self, live: TableValue, blocks: dict[str, _Block], spare: _Names, yielding: bool
    ) -> tuple[TableValue, _Names]:
        """Return (*live* with the rules of the name arranged as *blocks* define, the chains that differ by that).

        Chains of the name that are empty and in *spare* are left out.
        """
        chains, touched = [], set()
        for chain in live:
            block = blocks.get(chain.name)
            positions = self._mark.positions(chain)
            if block is None and not positions:
                if (
                    chain.name in spare
                    and not len(chain)
                    and chain.policy is None
                    and self._mark.is_name_ours(chain.name)
                ):
                    # another program has deleted its rules
                    touched.add(chain.name)
                else:
                    chains.append(chain)
                continue
            own = self._mark.is_chain_ours(chain, positions)
            touched.add(chain.name)
            if own and block is None and len(positions) == len(chain):
                # left out; a plan keeps it if other rules jump to it
                continue
            chains.append(self._with_block(live, chain, block, positions, own, yielding))
        for name, block in blocks.items():
            if name not in live:
                touched.add(name)
                entries = block.entries(self._mark, live.nfproto, name, not _is_builtin(live.name, name))
                chains.append(ChainValue(live.nfproto, name, None, (0, 0), entries))
        return TableValue(live.nfproto, live.name, chains), touched

    def _with_block(
        self,
        table: TableValue,
        chain: ChainValue,
        block: _Block | None,
        positions: list[int],
        own: bool,
        yielding: bool,
    ) -> ChainValue:
        """Return *chain* with the rules of *block* in their place, and no other rules of the name."""
        mine = set(positions)
        others = [entry for position, entry in enumerate(chain.entries) if position not in mine]
        entries = others
        if block is not None:
            at = self._at(table, chain, block, positions, mine, yielding)
            entries = [*others[:at], *block.entries(self._mark, chain.nfproto, chain.name, own), *others[at:]]
        return ChainValue(chain.nfproto, chain.name, chain.policy, chain.counters, entries, absent=chain.absent)

    def _at(
        self, table: TableValue, chain: ChainValue, block: _Block, positions: list[int], mine: _Places, yielding: bool
    ) -> int:
        """Return the position among the rules of others before which *block* stands."""
        others = len(chain) - len(positions)
        if block.place == "first":
            return 0
        if block.place == "last":
            return others
        place = 0
        for position, entry in enumerate(chain.entries):
            if position in mine:
                continue
            if block.anchor(chain, position, entry):
                return place + (block.place == "after")
            place += 1
        if yielding:
            return sum(1 for position in range(positions[0]) if position not in mine) if positions else 0
        raise NotFound(
            f"there is no rule {block.anchor.said} in chain {chain.name} of IPv{ip_version(table.nfproto)} table "
            f"{table.name}, {block.place} which the rules of {self.name} are to stand"
        )


def _is_builtin(table: str, chain: str) -> bool:
    return any(chain == _core.HOOKS[hook] for hook, *_ in BUILTIN_CHAINS[table])


def _rule_for(nfproto: Family, rule: Any, both: bool) -> Rule | None:
    """Return *rule*, an argument of `set`, as a rule of *nfproto*; None if it is for the other family only."""
    kind = rule_class(nfproto)
    if isinstance(rule, Rule):
        if rule.nfproto == nfproto:
            rule.final_check()
            return rule
        if not both:
            raise ParameterTypeError(f"a rule of this family must be a {kind.__name__}, not {type(rule).__name__}")
        rule = str(rule)
    if not isinstance(rule, (str, list, tuple)):
        raise ParameterTypeError(f"a rule must be a Rule, a text or words, not {type(rule).__name__}")
    words: Any = rule
    if both:
        words = said_for(nfproto, words_in(rule))
        if words is None:
            return None
    return kind.from_args(words)


def _adopted(mark: OwnerMark, chain: ChainValue, positions: list[int]) -> _Block:
    """Return the rules of the name in *chain*, with the place of the first of them."""
    rules = _core.load_rules(
        rule_class(chain.nfproto), chain.nfproto, [chain.entries[position] for position in positions], None
    )
    first = positions[0]
    if first == 0:
        return _Block(rules, "first", None, True)
    if positions == list(range(len(chain) - len(positions), len(chain))):
        return _Block(rules, "last", None, True)
    before = chain.rule(first - 1)
    return _Block(rules, "after", _Anchor(f"`{before}'", [before], None), True)


class _Anchor:
    """Decides whether a rule of a chain is the anchor."""

    __slots__ = ("said", "_keys", "_comment")

    def __init__(self, said: str, keys: list[str], comment: bytes | None) -> None:
        self.said = said
        self._keys = keys
        self._comment = comment

    def __call__(self, chain: ChainValue, position: int, entry: bytes) -> bool:
        if self._comment is not None:
            return self._comment in comments_with(self._comment, chain.nfproto, entry)
        return chain.rule(position) in self._keys


def _anchor(nfproto: Family, anchor: Rule | str | None, both: bool) -> _Anchor | None:
    if anchor is None:
        return None
    if isinstance(anchor, str) and anchor.startswith(_COMMENT):
        comment = _core.text_bytes(anchor[len(_COMMENT) :], "a comment")
        return _Anchor(f"with the comment {anchor[len(_COMMENT) :]!r}", [], comment)
    rule = _rule_for(nfproto, anchor, both)
    keys = [] if rule is None else [str(one) for one in rule.expand()]
    return _Anchor(f"`{anchor}'", keys, None)
