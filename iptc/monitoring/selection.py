"""Which counters are wanted: families, tables, chains, comments, rules."""

from __future__ import annotations

import fnmatch
import re

from ..errors import ParameterError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..counters import ChainCounters, Snapshot
    from ..layout import RuleInfo


class Selection:
    """Which tables, chains and rules of a host are wanted.

    *tables*: names; None means those in use at the moment. *chains* and *comments*: patterns as in a shell. *rules*:
        regular expressions, searched in the text of a rule. One of each kind must match; a kind without any matches
        everything.
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
        """Whether rules are selected by their text or comment."""
        return bool(self._comments or self._rules)

    def wants_chain(self, name: str) -> bool:
        """Whether the rules of a chain are wanted."""
        return not self._chains or any(fits(name) for fits in self._chains)

    def wants_rule(self, text: str, comment: str | None) -> bool:
        """Whether a rule of a wanted chain is wanted too."""
        if self._comments and (comment is None or not any(fits(comment) for fits in self._comments)):
            return False
        return not self._rules or any(rule.search(text) for rule in self._rules)

    def chains_of(self, snapshot: Snapshot) -> list[ChainCounters]:
        """Return the wanted chains of *snapshot*."""
        return [chain for chain in snapshot.chains if self.wants_chain(chain.name)]

    def rules_of(self, snapshot: Snapshot, chain: ChainCounters) -> list[RuleInfo]:
        """Return the wanted rules of a chain of *snapshot*."""
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
