"""Rules that belong to a name among rules of others: said once, put in their place, looked after, and taken away."""

from __future__ import annotations

from collections.abc import Iterable

from .. import _core, state
from .._applied import telling_methods
from ..errors import NotFound, ParameterError, ParameterTypeError, Unsupported
from ..language.specification import refuse_meaningless
from ..managing.planning import Plan, Scope, apply_anew
from ..managing.value import ChainValue, Ruleset, TableValue, ip_version, plain_table, read_live
from ..model.edits import check_new_name
from ..namespace import Place
from ..nft.reader import BUILTIN_CHAINS
from ..rule import Rule
from .families import said_for, words_of
from .marks import Mark, comments_with, rule_class
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
"""What an anchor begins with that is a comment."""


class _Block:
    """The rules of the owner in one chain, and where they stand among those of others."""

    __slots__ = ("anchor", "marked", "place", "rules")

    def __init__(self, rules: list[Rule], place: str, anchor: Any, marked: bool = False) -> None:
        self.rules = rules
        self.place = place
        self.anchor = anchor
        self.marked = marked
        """Whether the rules say already whose they are."""

    def entries(self, mark: Mark, nfproto: Family, chain: str, own: bool) -> list[bytes]:
        """The rules as they are sent, with whose they are."""
        if self.marked:
            return [rule._whole() for rule in self.rules]
        made = [mark.put_on(rule, chain, own)._whole() for rule in self.rules]
        return made or ([mark.alone(nfproto, chain)] if own else [])


class _Exactly(Scope):
    """A plan may touch these chains, {(table, chain)}, and no other."""

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
    """The rules that belong to *name*, in any chain of any table, among rules of others.

    `set` says what they are; nothing is done. `plan()` says what must be done for them to be there, once, in their
    place, and `apply()` does it: nothing of others is touched. `remove()` takes away whatever belongs to the name.

    Whose a rule is stands in its comment: `web:` and then the comment that it had; *comment* says another word for
    `web:`. So a program that starts again, or another one, finds the rules of before.

    With *own_table* the rules stand in a table of their own (nf_tables, Linux 6.9), which nobody else can change as
    long as this object lives; afterwards it stays and goes on to filter. ACCEPT is final for that table alone, DROP is
    final everywhere. It takes rules with a native form alone, in chains that are first or last: `Unsupported` names
    what has none.

    A user chain that is not there is made, and belongs to the name; it goes when it is not wanted any more and nobody
    else has a rule in it or jumps to it. A chain without rules gets one that does nothing, and says whose it is.
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
        self._mark = Mark(name, comment)
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
        """The name."""
        return self._mark.owner

    def __repr__(self) -> str:
        return f"<iptc.Owned {self.name}: {sum(len(block.rules) for block in self._blocks.values())} rules>"

    @property
    def netns(self) -> str | int | None:
        """The network namespace that was named, or None."""
        return self._place.netns

    def backend(self) -> str:
        """The name of the back end in use."""
        return state.side_at(self._place, self._backend)

    # ------------------------------------------------------------ what is wanted

    def set(
        self,
        table: str,
        chain: str,
        rules: Iterable[Rule | str | Iterable[str]],
        place: str = "first",
        anchor: Rule | str | None = None,
        family: str | None = None,
    ) -> None:
        """Say what the rules of *chain* are from now on, in the place of what was said before for this chain.

        A rule is a `Rule`, or a specification as `iptables -A CHAIN` takes it, text or words. They stand together:
        "first" or "last" in the chain, or right "before" or "after" the rule *anchor* of somebody else: a `Rule`, a
        specification, or "comment:TEXT" for the first rule with that comment. *family* is "ipv4" (as without it),
        "ipv6" or "both": then a text is said for each family in its own words (ICMP, REJECT), and one with addresses
        of a family is for that one alone. `Rule6`s are of IPv6. `ParameterError` for what makes no rule.
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
            # what makes no rule with its comment is refused now
            for entry in block.entries(self._mark, nfproto, chain, not _is_builtin(table, chain)):
                refuse_meaningless(nfproto, chain, entry)
            blocks[nfproto, table, chain] = block
        self._blocks.update(blocks)

    def adopt(self) -> int:
        """Take what is there now of the name for what is wanted, each chain's rules where they stand; return how many
        rules that are."""
        count = 0
        for table in self._live().tables:
            for chain in table:
                positions = self._mark.positions(chain)
                if positions:
                    self._blocks[table.nfproto, table.name, chain.name] = _adopted(self._mark, chain, positions)
                    count += len(positions)
        return count

    def forget(self, table: str, chain: str, family: str = "both") -> None:
        """Say that nothing is wanted in *chain* any more: what `set` said for it is as if never said."""
        for nfproto in _FAMILIES[family]:
            self._blocks.pop((nfproto, table, chain), None)

    def _made(self, nfproto: Family, rules: list[Any], both: bool) -> list[Rule]:
        made: list[Rule] = []
        for rule in rules:
            found = _rule_for(nfproto, rule, both)
            if found is not None:
                made += found.expand()
        return made

    # ------------------------------------------------------------- what is there

    def _live(self, keys: Any = None) -> Ruleset:
        return read_live(_FAMILIES["both"], self._place, self._backend, keys)

    @property
    def rules(self) -> list[Rule]:
        """The rules of the name that are there now, of all tables, in their order: each an own copy."""
        return [rule for _, _, rule in self.rows()]

    def rows(self) -> list[tuple[str, str, Rule]]:
        """(table, chain, rule) of each rule of the name that is there now."""
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

    # -------------------------------------------------------------- what is done

    def plan(self) -> Plan:
        """Return the `Plan` that leads from what is there to what was said with `set`; false where there is nothing to
        do. Nothing is changed. `NotFound` where an anchor is not there."""
        return self.plan_for(None)

    def apply(self, wait: Wait = None, lock_file: LockFile = None) -> Plan:
        """Do it, in one commit for each table, or one for all on nf_tables, and return the `Plan` that was done: what
        changed, false where nothing did.

        Rules of the name that are not wanted any more go. *wait* and *lock_file* are as for `Table`. `Conflict` where
        others never stop changing the same chains.
        """
        return self._do(self._blocks, wait, lock_file)

    def remove(self, wait: Wait = None, lock_file: LockFile = None) -> Plan:
        """Take away all rules and chains of the name, also those that another program has put there; what was said with
        `set` stays said. Return the `Plan` that was done."""
        return self._do({}, wait, lock_file)

    def plan_for(self, live: Ruleset | None, yielding: bool = False) -> Plan:
        """As `plan`, for tables that were read already. *yielding*: where an anchor is not there, the rules stay where
        they are, or stand first."""
        if self._own_table is not None:
            return self._own_table.plan(self._for_own_table(self._blocks))
        return self._plan(self._live() if live is None else live, self._blocks, yielding)

    def _for_own_table(self, blocks: dict[tuple[Family, str, str], _Block]) -> dict[Any, tuple[str, list[bytes]]]:
        """What `OwnTable.plan` takes."""
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
        """Return a `Guard`: in a `with` statement the rules are put in their place, and put back whenever somebody
        breaks them, as soon as it is told.

        After *limit* (heals, seconds) against the same program the guard lets them be for 1 second, then 2, 4 and so on
        up to 60, and says so; then it puts them back. *callback* gets a `Heal` each time, in the guard's thread; the
        logger "iptc" is told too. Where an anchor is not there, the rules stay where they are, or stand first.
        *compare* is as for `iptc.watch`, *wait* and *lock_file* as for `Table`.
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
        """The `Plan` for *blocks*. *yielding*: where an anchor is not there, the rules stay where they are, or stand
        first."""
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
        """*live* with the rules of the name as *blocks* say, without those of its chains in *spare* that are empty; and
        which chains are others by that."""
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
                    # somebody has emptied it
                    touched.add(chain.name)
                else:
                    chains.append(chain)
                continue
            own = self._mark.is_chain_ours(chain, positions)
            touched.add(chain.name)
            if own and block is None and len(positions) == len(chain):
                # taken away; a plan keeps what others jump to
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
        """*chain* with the rules of *block* in their place, and none else of the name."""
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
        """Before which of the rules of others *block* stands."""
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
    """*rule*, of `set`, as a rule of *nfproto*; None where it is of the other family alone."""
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
        words = said_for(nfproto, words_of(rule))
        if words is None:
            return None
    return kind.from_args(words)


def _adopted(mark: Mark, chain: ChainValue, positions: list[int]) -> _Block:
    """The rules of the name in *chain*, and the place where the first of them stands."""
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
    """Says of a rule of a chain whether it is the one that is meant."""

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
