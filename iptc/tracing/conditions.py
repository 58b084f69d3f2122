"""Turns a rule specification into conditions: `mark` marks the packets that fulfil them, to be traced."""

from __future__ import annotations

from .. import _core
from .._netlink import attribute, attributes
from ..errors import ParameterError, ParameterTypeError, Unsupported
from ..nft import codec
from ..rule import Rule, Rule6
from .mark import OUTPUT, PREROUTING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._types import Condition, Family

_NESTED = 0x8000  # NLA_F_NESTED
_RULE_EXPRESSIONS, _RULE_COMPAT = 4, 5  # NFTA_RULE_*
_ELEMENT = 1  # NFTA_LIST_ELEM
_NAME = 1  # NFTA_EXPR_NAME

_TOO_EARLY = frozenset({"conntrack", "state", "connmark", "connbytes", "connlimit", "connlabel", "helper", "cluster"})
"""Matches that ask for the connection of a packet. It is not known yet where packets are marked."""

_SHARED = frozenset({"recent", "hashlimit", "nfacct", "quota", "rateest"})
"""Matches with a state that other rules share. Choosing packets by them would change that state."""

_ONE_HOOK = {"owner": OUTPUT, "mac": PREROUTING, "rpfilter": PREROUTING}
_HOOKS = {PREROUTING: "where they come in", OUTPUT: "where they are made"}
_FAMILIES = {"-4": _core.IPV4, "--ipv4": _core.IPV4, "-6": _core.IPV6, "--ipv6": _core.IPV6}


def conditions_of(specification: str | Iterable[str], ipv6: bool | None = None) -> list[Condition]:
    """Return the conditions of *specification*, such as `-p tcp --dport 22 -s 198.51.100.0/24`.

    They are for both families if the specification makes sense in both, or for the one that *ipv6* selects. With `-i`
    they choose packets that come in, with `-o` packets that this host makes, without either both kinds. Raises
    `Unsupported` if the kernel cannot know of a packet at that place what the specification asks.
    """
    words = _words(specification)
    families = [_core.IPV4, _core.IPV6] if ipv6 is None else [_core.IPV6 if ipv6 else _core.IPV4]
    given = {_FAMILIES[word] for word in words if word in _FAMILIES}
    if given:
        families = [family for family in families if family in given]
        words = [word for word in words if word not in _FAMILIES]
    if not families:
        raise ParameterError("the specification is of another family than was asked for")
    found: list[Condition] = []
    refused: Exception | None = None
    for family in families:
        try:
            rule = (Rule if family == _core.IPV4 else Rule6).from_args(words)
        except ParameterError as error:
            if refused is not None:
                # both families refused it: raise the refusal of the family that its addresses have
                raise (error if any(":" in word for word in words) else refused) from None
            refused = error
            continue
        for one in rule.expand():
            found += _conditions(family, one)
    if not found and refused is not None:
        raise refused
    return found


def _words(specification: str | Iterable[str]) -> list[str]:
    if isinstance(specification, str):
        rule = _core.text_bytes(specification, "a rule specification")
        from ..language.words import split_words

        return [word.decode("utf-8", "surrogateescape") for word, _ in split_words(rule)]
    words = list(specification)
    if not all(isinstance(word, str) for word in words):
        raise ParameterTypeError("a rule specification is a string, or the words of one")
    return words


def _conditions(family: Family, rule: Rule) -> list[Condition]:
    if rule.target is not None and rule.target.name:
        raise ParameterError(f"packets are chosen by matches alone, without a target: -j {rule.target.name}")
    hooks = {PREROUTING, OUTPUT}
    if rule.in_interface is not None:
        hooks.discard(OUTPUT)
    if rule.out_interface is not None:
        hooks.discard(PREROUTING)
    if not hooks:
        raise Unsupported(
            "-i and -o together choose packets that are forwarded, and where these come in it is not known yet where "
            "they go: choose them by -i alone"
        )
    for match in rule.matches:
        if match.name in _TOO_EARLY:
            raise Unsupported(
                f"-m {match.name} can't choose packets: what it asks for is not known yet where they come in"
            )
        if match.name in _SHARED:
            raise Unsupported(f"-m {match.name} can't choose packets: it would change what rules count with it")
        if match.name in _ONE_HOOK:
            hooks &= {_ONE_HOOK[match.name]}
            if not hooks:
                where = _HOOKS[_ONE_HOOK[match.name]]
                raise Unsupported(f"-m {match.name} chooses packets {where}, and the interface says otherwise")
    expressions, compat = _encoded(family, rule)
    return [(family, hook, expressions, compat) for hook in sorted(hooks)]


def _encoded(family: Family, rule: Rule) -> tuple[bytes, bytes]:
    """Return (the attributes of a rule's expressions, the attributes that the rule needs beside them)."""
    said = dict(attributes(codec.encode(family, rule._whole())))
    kept = b""
    for _, element in attributes(said.get(_RULE_EXPRESSIONS, b"")):
        if dict(attributes(element)).get(_NAME) != b"counter\0":
            kept += attribute(_ELEMENT | _NESTED, element)
    return kept, attribute(_RULE_COMPAT | _NESTED, said[_RULE_COMPAT]) if _RULE_COMPAT in said else b""
