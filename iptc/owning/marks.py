"""The comment that names the owner of a rule: adds it to a rule, and finds it in the rules of the kernel."""

from __future__ import annotations

import copy

from .. import _core
from ..errors import ParameterError, ParameterTypeError
from ..language.comments import comments_of
from ..rule import Rule, Rule6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._types import Family
    from ..managing.ruleset_value import ChainValue

_COMMENT_MOST = 255
"""The longest comment in bytes (XT_MAX_COMMENT_LEN), without its NUL."""

_OWN_CHAIN = "own chain"
"""A word in the comments of a chain that was created for the owner, and whose name does not begin with its name."""


def rule_class(nfproto: Family) -> type[Rule]:
    """Return `Rule` or `Rule6`."""
    return Rule if nfproto == _core.IPV4 else Rule6


def comments_with(text: bytes, nfproto: Family, entry: bytes) -> list[bytes]:
    """Return the whole comments of a rule, or [] if *text* is not in the rule."""
    return comments_of(nfproto, entry) if text in entry else []


class OwnerMark:
    """The mark of one owner: the text with which the comments of its rules begin."""

    __slots__ = ("owner", "text", "_bytes")

    def __init__(self, owner: str, text: str | None = None) -> None:
        said = [("the name of an owner", owner)]
        if text is not None:
            said.append(("a comment", text))
        for what, value in said:
            if not isinstance(value, str):
                raise ParameterTypeError(f"{what} must be a string, not {type(value).__name__}")
            if not value or value != value.strip() or not value.isprintable():
                raise ParameterError(f"{what} must be printable, and have no space around it: {value!r}")
        if ":" in owner:
            raise ParameterError(f"the name of an owner has no colon: {owner!r}")
        self.owner = owner
        self.text = f"{owner}:" if text is None else text
        self._bytes = _core.text_bytes(self.text, "a comment")
        if len(self._bytes) > _COMMENT_MOST:
            raise ParameterError(f"the comment is longer than {_COMMENT_MOST} bytes: {self.text!r}")

    def _of(self, comment: bytes) -> bool:
        return comment == self._bytes or comment.startswith(self._bytes + b" ")

    def is_on(self, nfproto: Family, entry: bytes) -> bool:
        """Whether the rule belongs to the owner."""
        return any(map(self._of, comments_with(self._bytes, nfproto, entry)))

    def positions(self, chain: ChainValue) -> list[int]:
        """Return the positions of the owner's rules in *chain*."""
        return [position for position, entry in enumerate(chain.entries) if self.is_on(chain.nfproto, entry)]

    def is_name_ours(self, chain: str) -> bool:
        """Whether the name of *chain* begins with the owner's name, so that its comments need no further word."""
        return chain.lower().startswith(self.owner.lower())

    def is_chain_ours(self, chain: ChainValue, positions: list[int]) -> bool:
        """Whether *chain* was created for the owner. *positions* are those of the owner's rules in it."""
        if chain.policy is not None or not positions:
            return False
        if self.is_name_ours(chain.name):
            return True
        word = self._bytes + b" " + _OWN_CHAIN.encode()
        return any(
            comment == word or comment.startswith(word + b":")
            for position in positions
            for comment in comments_with(self._bytes, chain.nfproto, chain.entries[position])
        )

    def put_on(self, rule: Rule, chain: str, own_chain: bool) -> Rule:
        """Return a copy of *rule* with the mark, for *chain*. *own_chain*: the chain was created for the owner."""
        marked = copy.deepcopy(rule)
        comment = next((match for match in marked.matches if match.name == "comment"), None)
        said = comment.comment if comment is not None else None
        words = [self.text]
        own = own_chain and not self.is_name_ours(chain)
        if own:
            words.append(_OWN_CHAIN + (":" if said else ""))
        if said:
            words.append(str(said))
        text = " ".join(words)
        if len(_core.text_bytes(text, "a comment")) > _COMMENT_MOST:
            raise ParameterError(f"the comment is longer than {_COMMENT_MOST} bytes with whose it is: {text!r}")
        if comment is None:
            comment = marked.create_match("comment")
        comment.comment = text
        return marked

    def alone(self, nfproto: Family, chain: str) -> bytes:
        """Return a rule without effect, which carries the mark in a chain that has no other rules."""
        return self.put_on(rule_class(nfproto)(), chain, True)._whole()
