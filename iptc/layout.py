"""The chains and rules of one ruleset, which all snapshots of that ruleset share."""

from __future__ import annotations

import errno

from . import _core
from ._counts import place_slots
from .errors import Conflict, Unsupported, kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from ._types import Chains, Family, HasEntries
    from .bpf.parcel import Parcel
    from .rule import Rule


class Layout:
    """The chains and rules of one ruleset. All snapshots of that ruleset share it.

    A reader keeps the last one, so it refers to no reader itself.
    """

    __slots__ = ("nfproto", "generation", "chains", "identities", "_rules", "_by_name")

    def __init__(
        self,
        nfproto: Family,
        generation: int,
        chains: Chains,
        identities: bytes,
        rules: tuple[RuleInfo, ...] | None = None,
    ) -> None:
        self.nfproto = nfproto
        self.generation = generation
        self.chains = chains
        self.identities = identities
        self._rules = rules
        self._by_name: dict[str, int] | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return Layout, (self.nfproto, self.generation, self.chains, self.identities, self._rules)

    def number_of(self, name: str) -> int:
        """Return the number of the chain of this name. Raises `NotFound`."""
        if self._by_name is None:
            self._by_name = {chain[0]: number for number, chain in enumerate(self.chains)}
        number = self._by_name.get(name)
        if number is None:
            why = "No chain/target/match by that name"
            raise kernel_error(f"can't find chain {name} in a snapshot", errno.ENOENT, why)
        return number

    def entries(self, reader: HasEntries | None) -> list[bytes]:
        """Return the rules as bytes, from *reader*. Raises `Conflict` if it has read another ruleset since."""
        if reader is None:
            raise Conflict("the rules of this snapshot were not looked at before it was pickled")
        return reader._entries(self.generation)

    def rules(self, reader: HasEntries | None) -> tuple[RuleInfo, ...]:
        """Return a `RuleInfo` for each slot. The first call reads the bytes of the rules from *reader*, as `entries`
        does."""
        if self._rules is None:
            names = [name for name, _, first, end in self.chains for _ in range(first, end)]
            self._rules = tuple(self._described(names, reader))
        return self._rules

    def _described(self, names: list[str], reader: HasEntries | None) -> list[RuleInfo]:
        """The rules; *names* are those of the chain of each."""
        entries = self.entries(reader)
        rules = _core.load_rules(_rule_class(self.nfproto), self.nfproto, entries, None)
        return [RuleInfo(slot, name, rule) for slot, (name, rule) in enumerate(zip(names, rules))]

    def slots_in(self, before: Layout) -> bytes | None:
        """Return the slot that each rule had in the layout *before*, in the form that `Counts.since` takes."""
        return place_slots(self.chains, self.identities, before.chains, before.identities)


class ToldLayout(Layout):
    """The chains and rules of a ruleset that another process has read: it has told what the rules say."""

    __slots__ = ("_parcel",)

    def __init__(self, nfproto: Family, parcel: Parcel) -> None:
        super().__init__(nfproto, parcel.generation, parcel.chains, parcel.identities)
        self._parcel = parcel

    def entries(self, reader: HasEntries | None) -> list[bytes]:
        """Raise: there are only the texts."""
        raise Unsupported("of rules that were handed over there are only the texts")

    def _described(self, names: list[str], reader: HasEntries | None) -> list[RuleInfo]:
        told = self._parcel.texts()
        return [ToldRule(slot, name, self.nfproto, *texts) for slot, (name, texts) in enumerate(zip(names, told))]

    def __reduce__(self) -> tuple[object, ...]:
        return Layout, (self.nfproto, self.generation, self.chains, self.identities, self.rules(None))


def _rule_class(nfproto: Family) -> type[Rule]:
    from .rule import Rule, Rule6  # imported here: a program that only reads counters need not load libxtables

    return Rule if nfproto == _core.IPV4 else Rule6


class RuleInfo:
    """One rule of a snapshot: its slot, its chain, its text and its parts."""

    __slots__ = ("slot", "chain", "_rule", "_text", "_comment")

    def __init__(self, slot: int, chain: str, rule: Rule) -> None:
        self.slot = slot
        self.chain = chain
        self._rule = rule
        self._text: str | None = None
        self._comment: str | None | Literal[False] = False  # not looked for yet

    @property
    def text(self) -> str:
        """The rule as `iptables-save` prints it, without `-A CHAIN`; where no extensions are installed, as far as
        can be without them."""
        text = self._text
        if text is None:
            text = self._text = self.rule._shown()
        return text

    @property
    def comment(self) -> str | None:
        """The text of its match `comment`, or None if it has none."""
        if self._comment is False:
            from .language.comments import comment_of  # reading counters needs no language

            self._comment = comment_of(self.rule.nfproto, self.rule._whole())
        return self._comment

    @property
    def target(self) -> str:
        """The name of its target, "" if it has none."""
        target = self.rule.target
        return target.name if target is not None else ""

    @property
    def rule(self) -> Rule:
        """The `Rule`. Its counters are those of the moment at which it was decoded."""
        return self._rule

    def __repr__(self) -> str:
        return f"<{self.chain} {self.text}>"


class ToldRule(RuleInfo):
    """One rule of a snapshot whose counters were handed over: its text comes from the other process."""

    __slots__ = ("_nfproto", "_target")

    def __init__(self, slot: int, chain: str, nfproto: Family, text: str, comment: str | None, target: str) -> None:
        self.slot = slot
        self.chain = chain
        self._text = text
        self._comment = comment
        self._nfproto = nfproto
        self._target = target

    @property
    def target(self) -> str:
        """The name of its target, "" if it has none."""
        return self._target

    @property
    def rule(self) -> Rule:
        """The `Rule` that its text says, with counters of zero. Raises if it is none that iptables can write."""
        if not hasattr(self, "_rule"):
            self._rule = _rule_class(self._nfproto).from_args(self.text)
        return self._rule
