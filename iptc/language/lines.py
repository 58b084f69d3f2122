"""Takes a line of iptables-save apart: the counters at its beginning, the command, and the rule specification."""

from __future__ import annotations

from .. import _core
from ..errors import ParameterError
from .words import split_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._types import Pair

_OTHER_COMMANDS = ("-I", "-D", "-R", "-C", "--insert", "--delete", "--replace", "--check")
BEGIN_OF_LINE = ("[", "-A", "--append", "-t", "--table", *_OTHER_COMMANDS)
"""The words with which a line of iptables-save, or a command, can begin."""


def without_command(specification: str | Iterable[str]) -> tuple[str | Iterable[str], Pair | None]:
    """Return (specification, counters or None) for a line `[packets:bytes] -A CHAIN SPECIFICATION`.

    A specification alone, as text or as words, is returned as it is, with None. Raises `ParameterError` for any other
    command.
    """
    if isinstance(specification, str):
        text = _core.text_bytes(specification, "a rule specification")
        if b"\0" in text:
            return specification, None
        words = [word.decode("utf-8", "surrogateescape") for word, _ in split_words(text)]
    else:
        try:
            words = list(specification)
        except TypeError:
            return specification, None
        if not all(isinstance(word, str) for word in words):
            return words, None
    first = words[0] if words else ""
    counts = first[1:-1].split(":") if first[:1] == "[" and first[-1:] == "]" else []
    counters = (int(counts[0]), int(counts[1])) if len(counts) == 2 and all(map(str.isdecimal, counts)) else None
    rest = words[1:] if counters else words
    if rest[:1] in (["-t"], ["--table"]):
        rest = rest[2:]
    command, chain = [*rest[:2], "", ""][:2]
    if len(command) > 2 and command[:2] == "-A":
        command, chain, rest = "-A", command[2:], [command, *rest]
    if command in _OTHER_COMMANDS:
        raise ParameterError(f"a rule is made of a specification, or of a line with -A, not of the command {command}")
    if command not in ("-A", "--append"):
        return words, None
    _core.chain_label(chain)
    if chain[0] in "-!" or any(char.isspace() for char in chain):
        raise ParameterError(f"Invalid chain name `{chain}'")
    return rest[2:], counters
