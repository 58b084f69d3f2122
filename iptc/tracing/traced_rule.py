"""A rule that a report means, as it was found: with what must be said of it."""

from __future__ import annotations

from .. import _core
from ..language.comments import comment_of
from ..rule import Rule, Rule6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._types import Family

_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
"""What nf_tables calls the families of tables."""

ADDED = "the rule was added meanwhile"
CHANGED = "the rule was changed meanwhile"
MOVED = "the rule was moved meanwhile"
REMOVED = "the rule was removed meanwhile"
UNKNOWN = "the rules were changed meanwhile: which one it was is not known"


def family_name(family: int) -> str:
    """What nf_tables calls a family of tables."""
    return _FAMILIES.get(family, str(family))


class Found:
    """A rule that was looked for.

    It has the `Rule`, None where it can't be had; its number, None where it is not sure; its text for people; its
    comment; and a note, which must be said of it. `rejects` says that it refuses packets, and answers.
    """

    __slots__ = ("rule", "number", "text", "comment", "note", "rejects")

    def __init__(self, rule: Rule | None, number: int | None, text: str, comment: str | None, note: str | None) -> None:
        self.rule = rule
        self.number = number
        self.text = text
        self.comment = comment
        self.note = note
        self.rejects = False

    def noted(self, note: str, number: int | None = None) -> Found:
        """The same with another note, and another number."""
        found = Found(self.rule, number, self.text, self.comment, note)
        found.rejects = self.rejects
        return found


NOT_KNOWN = Found(None, None, "?", None, UNKNOWN)


def rule_of(nfproto: Family, entry: bytes) -> Rule:
    """The `Rule` of an entry."""
    return _core.load_rules(Rule if nfproto == _core.IPV4 else Rule6, nfproto, [entry], None)[0]


def found_of(nfproto: Family, entry: bytes, number: int | None) -> Found:
    """What is found in an entry."""
    rule = rule_of(nfproto, entry)
    return Found(rule, number, rule._shown(), comment_of(nfproto, entry) or None, None)
