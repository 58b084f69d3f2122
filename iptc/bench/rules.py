"""Reads the rules that a bench is given, and finds the interfaces that they name."""

from __future__ import annotations

import shlex

from .. import _core
from ..managing.ruleset_value import Ruleset, parts_of
from ..model.restoring import pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._types import Family

_IN = ("-i", "--in-interface", "-o", "--out-interface", "--physdev-in", "--physdev-out")
_SETS = ("--match-set", "--add-set", "--del-set", "--map-set")


def texts_of(rules: Any, rules6: Any = None, ipv6: bool | None = None) -> list[tuple[Family, bytes]]:
    """Return [(family, text)] for *rules*, and for *rules6* of IPv6; see `Bench`."""
    found: list[tuple[Family, bytes]] = []
    if isinstance(rules, Ruleset):
        families: list[Family] = sorted({table.nfproto for table in rules.tables})
        for nfproto in families:
            names = [(table.nfproto, table.name) for table in rules.tables if table.nfproto == nfproto]
            found.append((nfproto, rules.only(names).text().encode("utf-8", "surrogateescape")))
    elif rules is not None:
        found += parts_of(b"".join(pieces(rules)), ipv6)
    if rules6 is not None:
        found = [part for part in found if part[0] != _core.IPV6]
        if isinstance(rules6, Ruleset):
            found += texts_of(rules6)
        else:
            found.append((_core.IPV6, b"".join(pieces(rules6))))
    return found


def interfaces_in(text: bytes) -> list[str]:
    """Return the names of interfaces in a text, in order, without patterns that stand for several."""
    return [word for word in _words_after(text, _IN) if not word.endswith("+") and word not in ("lo", "!")]


def sets_in(text: bytes) -> list[str]:
    """Return the names of sets in a text, in order."""
    return _words_after(text, _SETS)


def _words_after(text: bytes, options: tuple[str, ...]) -> list[str]:
    """Return the words that follow any of *options* in the lines of a text, each once."""
    found: dict[str, None] = {}
    for line in text.decode("utf-8", "surrogateescape").splitlines():
        if not any(option in line for option in options):
            continue
        try:
            words = shlex.split(line)
        except ValueError:
            continue
        for option, word in zip(words, words[1:]):
            if option in options:
                found[word] = None
    return list(found)
