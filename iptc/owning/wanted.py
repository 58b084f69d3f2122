"""Reads the wanted rules of an owner from a file: TOML, or the format of iptables-save."""

from __future__ import annotations

import tomllib

from .. import _core
from ..errors import ParameterError
from ..language.words import split_words
from ..managing.ruleset_value import parts_of
from .owned import Owned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KEYS = {"table", "chain", "rules", "place", "anchor", "family"}


def owner_of(text: bytes) -> str | None:
    """Return the name of the owner in a TOML file (`owner = "web"`), or None."""
    return None if _is_saved(text) else _toml(text).get("owner")


def set_from(owned: Owned, text: bytes, ipv6: bool | None = None) -> None:
    """Call `owned.set` for the rules in *text*. *ipv6* is the family of chains that give none; None is both.

    TOML has a `[[chain]]` for each chain, with the arguments of `Owned.set`: `chain`, `rules`, and if they are not the
    defaults, `table`, `place`, `anchor` and `family`. A file of iptables-save has the rules of each chain, which become
    the first ones; policies are ignored. Raises `ParameterError` for any other text.
    """
    if _is_saved(text):
        _set_saved(owned, text, ipv6)
    else:
        _set_toml(owned, text, ipv6)


def _is_saved(text: bytes) -> bool:
    for line in text.split(b"\n"):
        line = line.strip()
        if line and not line.startswith(b"#"):
            return line.startswith(b"*")
    return False


def _toml(text: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(f"neither TOML nor the format of iptables-save: {error}") from None


def _set_toml(owned: Owned, text: bytes, ipv6: bool | None) -> None:
    said = _toml(text)
    unknown = set(said) - {"owner", "comment", "chain"}
    if unknown:
        raise ParameterError(f"there is no key {sorted(unknown)[0]!r}; a file has owner, comment and [[chain]]")
    chains = said.get("chain", [])
    if not isinstance(chains, list) or not all(isinstance(chain, dict) for chain in chains):
        raise ParameterError("the chains are to be written as [[chain]]")
    for number, chain in enumerate(chains, 1):
        unknown = set(chain) - _KEYS
        if unknown:
            raise ParameterError(f"[[chain]] number {number} has a key {sorted(unknown)[0]!r}, which there is not")
        for key, value in chain.items():
            if key == "rules":
                if not isinstance(value, list) or not all(isinstance(rule, str) for rule in value):
                    raise ParameterError(f"rules of [[chain]] number {number} must be a list of texts")
            elif not isinstance(value, str):
                raise ParameterError(f"{key} of [[chain]] number {number} must be a text")
        if "chain" not in chain or "rules" not in chain:
            raise ParameterError(f"[[chain]] number {number} lacks chain or rules")
        family = chain.get("family", "both" if ipv6 is None else "ipv6" if ipv6 else "ipv4")
        try:
            owned.set(
                chain.get("table", "filter"),
                chain["chain"],
                chain["rules"],
                chain.get("place", "first"),
                chain.get("anchor"),
                family,
            )
        except ParameterError as error:
            raise ParameterError(f"[[chain]] number {number}: {error}") from None


def _set_saved(owned: Owned, text: bytes, ipv6: bool | None) -> None:
    for nfproto, part in parts_of(text, ipv6):
        table = ""
        chains: dict[str, list[list[str]]] = {}
        for number, line in enumerate(part.split(b"\n"), 1):
            said = line.strip().decode("utf-8", "surrogateescape")
            if not said or said.startswith("#"):
                continue
            if said.startswith("*"):
                table, chains = said[1:].strip(), {}
            elif said.startswith(":"):
                name, _, rest = said[1:].partition(" ")
                if rest.split(" ")[0] == "-":
                    chains[name] = []
            elif said == "COMMIT":
                for chain, rules in chains.items():
                    owned.set(table, chain, rules, family="ipv4" if nfproto == _core.IPV4 else "ipv6")
            elif table:
                _add_line(chains, said, number)
            else:
                raise ParameterError(f"line {number} stands in no table: {said}")


def _add_line(chains: dict[str, list[list[str]]], line: str, number: int) -> None:
    """Add the rule of a line `-A CHAIN …`, which may begin with counters."""
    words = [word.decode("utf-8", "surrogateescape") for word, _ in split_words(_core.text_bytes(line, "a line"))]
    if words and words[0].startswith("["):
        del words[0]
    if len(words) < 2 or words[0] not in ("-A", "--append"):
        raise ParameterError(f"line {number} adds no rule: {line}")
    chains.setdefault(words[1], []).append(words[2:])
