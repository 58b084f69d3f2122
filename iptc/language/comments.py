"""Reads the comments of a rule from its bytes. No plugin is needed for that."""

from __future__ import annotations

from .. import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._types import Family

_TEXT = slice(32, 32 + 256)
"""The offset of the text in the payload of match `comment` (struct xt_comment_info), after that header."""


def string_of(field: bytes) -> bytes:
    """Return the bytes of a C string, up to its NUL."""
    return field.partition(b"\0")[0]


def comments_of(nfproto: Family, entry: bytes) -> list[bytes]:
    """Return the texts of all matches `comment` of a rule, in their order."""
    if b"comment\0" not in entry:
        return []
    matches = _core.split_entry(nfproto, entry)[1][:-1]
    return [string_of(match[_TEXT]) for match in matches if _core.payload_name(match) == b"comment"]


def comment_of(nfproto: Family, entry: bytes) -> str | None:
    """Return the text of the first match `comment` of a rule, or None if it has none."""
    found = comments_of(nfproto, entry)
    return found[0].decode("utf-8", "surrogateescape") if found else None
