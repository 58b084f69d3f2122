"""Which counters are wanted: families, tables, chains, comments, rules."""

from __future__ import annotations

import fnmatch
import re

from ..errors import ParameterError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..counters import ChainCounters, RuleInfo, Snapshot


class Selection:
    """What is wanted of the tables of a host.

    *tables* are names; None: those that are in use at the moment. *chains* and *comments* are patterns of the shell,
    *rules* are regular expressions, looked for in the text of a rule; one of each kind must fit, and a kind without any
    fits all.
    """

    def __init__(
        self,
        tables: Iterable[str] | None = None,
        chains: Iterable[str] = (),
        comments: Iterable[str] = (),
        rules: Iterable[str] = (),
        families: Iterable[bool] = (False,),
    ) -> None:
        self.tables = None if tables is None else tuple(dict.fromkeys(tables))
        self.families = tuple(families)
        self._chains = _globs(chains)
        self._comments = _globs(comments)
        self._rules = [_expression(rule) for rule in rules]

    @property
    def looks_at_rules(self) -> bool:
        """Whether what a rule says decides if it is wanted."""
        return bool(self._comments or self._rules)

    def wants_chain(self, name: str) -> bool:
        """Whether the rules of a chain are wanted."""
        return not self._chains or any(fits(name) for fits in self._chains)

    def wants_rule(self, text: str, comment: str | None) -> bool:
        """Whether a rule of a chain that is wanted is wanted too."""
        if self._comments and (comment is None or not any(fits(comment) for fits in self._comments)):
            return False
        return not self._rules or any(rule.search(text) for rule in self._rules)

    def chains_of(self, snapshot: Snapshot) -> list[ChainCounters]:
        """The chains of *snapshot* that are wanted."""
        return [chain for chain in snapshot.chains if self.wants_chain(chain.name)]

    def rules_of(self, snapshot: Snapshot, chain: ChainCounters) -> list[RuleInfo]:
        """The rules of a chain of *snapshot* that are wanted."""
        rules = snapshot.rules[chain.slots.start : chain.slots.stop]
        if not self.looks_at_rules:
            return list(rules)
        return [rule for rule in rules if self.wants_rule(rule.text, rule.comment)]


def _globs(patterns: Iterable[str]) -> list[Callable[[str], object]]:
    return [re.compile(fnmatch.translate(pattern)).fullmatch for pattern in patterns]


def _expression(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ParameterError(f"no regular expression: {text!r}: {error}") from None
