"""The rule that a report of the kernel names, with a note if it is not certain."""

from __future__ import annotations

from .. import _core
from ..language.comments import comment_of
from ..rule import Rule, Rule6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._types import Family

_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
"""The names that nf_tables has for the families of tables."""

ADDED = "the rule was added meanwhile"
CHANGED = "the rule was changed meanwhile"
MOVED = "the rule was moved meanwhile"
REMOVED = "the rule was removed meanwhile"
UNKNOWN = "the rules were changed meanwhile: which one it was is not known"


def family_name(family: int) -> str:
    """Return the name that nf_tables has for a family of tables."""
    return _FAMILIES.get(family, str(family))


class Found:
    """The result of looking for a rule.

    `rule` is the `Rule`, or None if it cannot be read. `number` is its number, or None if that is not certain. `text`
    is its text for people, `comment` its comment. `note` is a remark that is shown with it, such as that it has changed
    since. `rejects`: whether it refuses packets with an answer.
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
        """Return a copy with this note and this number."""
        found = Found(self.rule, number, self.text, self.comment, note)
        found.rejects = self.rejects
        return found


NOT_KNOWN = Found(None, None, "?", None, UNKNOWN)


def rule_of(nfproto: Family, entry: bytes) -> Rule:
    """Return the `Rule` with the bytes *entry*."""
    return _core.load_rules(Rule if nfproto == _core.IPV4 else Rule6, nfproto, [entry], None)[0]


def found_of(nfproto: Family, entry: bytes, number: int | None) -> Found:
    """Return the `Found` for the bytes *entry*."""
    rule = rule_of(nfproto, entry)
    return Found(rule, number, rule._shown(), comment_of(nfproto, entry) or None, None)
