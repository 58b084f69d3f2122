"""Finds rules that take every packet which a later rule of their chain could take."""

from __future__ import annotations

import ipaddress

from .. import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ..rule import Rule

    _Network = tuple[str, Any]

_FINAL = frozenset({"ACCEPT", "DROP", "REJECT", "RETURN", "DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"})
"""Targets after which no rule of the chain sees the packet any more."""

_HARMLESS = frozenset({"", "ACCEPT", "DROP", "REJECT", "RETURN", "LOG", "NFLOG"})
"""Targets that change nothing that a match could test."""

_FIXED = frozenset(
    "ah addrtype comment cpu dccp devgroup esp icmp icmp6 iprange length mac multiport owner physdev pkttype policy "
    "rpfilter sctp string tcp udp udplite u32".split()
)
"""Matches that give the same answer for a packet in each rule of a chain."""

_CHANGEABLE = frozenset("connmark conntrack dscp ecn hl mark set state tos ttl".split())
"""Matches that give the same answer in each rule, unless a rule between changes the packet or its connection."""

_PORTS = ("sport", "dport")


class Said:
    """The parts of a rule that are compared. They are read once, since a rule is compared with many others."""

    __slots__ = ("src", "dst", "in_interface", "out_interface", "protocol", "fragment", "matches", "final", "harmless")

    def __init__(self, rule: Rule) -> None:
        self.src, self.dst = _read(rule.src), _read(rule.dst)
        self.in_interface, self.out_interface = rule.in_interface, rule.out_interface
        self.protocol = rule.protocol
        self.fragment = rule.nfproto == _core.IPV4 and rule.fragment
        self.matches: list[tuple[str, Mapping[str, Any] | None]] = [
            (match.name, None if match.opaque else match.parameters)
            for match in rule.matches
            if match.name != "comment"
        ]
        target = rule.target
        self.final = target is not None and (target.goto or target.name in _FINAL)
        """Whether no later rule of the chain sees a packet that this rule matches."""
        self.harmless = target is None or target.name in _HARMLESS
        """Whether the rule leaves packets that go on to the next rule unchanged."""


def covers(earlier: Said, later: Said, unchanged: bool) -> bool:
    """Whether *earlier* surely matches each packet that *later* matches. *unchanged*: neither *earlier* nor a rule
    between the two changes packets."""
    return (
        earlier.protocol in ("ip", "0", "all", later.protocol)
        and _interface(earlier.in_interface, later.in_interface)
        and _interface(earlier.out_interface, later.out_interface)
        and earlier.fragment in (False, later.fragment)
        and _network(earlier.src, later.src)
        and _network(earlier.dst, later.dst)
        and all(_is_among(name, parameters, later, unchanged) for name, parameters in earlier.matches)
    )


def _network(wide: _Network, narrow: _Network) -> bool:
    if wide[0] == narrow[0]:
        return True
    outer, inner = wide[1], narrow[1]
    if outer is None or outer.prefixlen == 0:
        return outer is not None
    return inner is not None and inner.subnet_of(outer)


def _read(text: str) -> _Network:
    """Return (the text, its network). The network is None if the text is negated, or its mask is no prefix."""
    try:
        return text, None if text.startswith("!") else ipaddress.ip_network(text, strict=False)
    except ValueError:
        return text, None


def _interface(wide: str | None, narrow: str | None) -> bool:
    if wide is None or wide == narrow:
        return True
    if narrow is None or "!" in (wide[0], narrow[0]):
        return False
    return wide.endswith("+") and narrow.startswith(wide[:-1])


def _is_among(name: str, parameters: Mapping[str, Any] | None, later: Said, unchanged: bool) -> bool:
    """Whether one of the matches of *later* is at least as strict as that of *name* and *parameters*."""
    if parameters is None or name not in _FIXED and not (unchanged and name in _CHANGEABLE):
        return False
    if name == "set" and len(parameters) != 1:
        return False
    return any(
        other == name and others is not None and _is_stricter(parameters, others) for other, others in later.matches
    )


def _is_stricter(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    if wide == narrow:
        return True
    for name, value in wide.items():
        if name not in narrow:
            return False
        if value != narrow[name] and not (name in _PORTS and _ports(str(value), str(narrow[name]))):
            return False
    # more options make a match stricter only if each option is a condition of its own
    return set(narrow) - set(wide) <= {*_PORTS, "tcp_flags", "syn", "tcp_option"}


def _ports(wide: str, narrow: str) -> bool:
    """Whether the range of ports *wide* contains the range *narrow*."""
    if "!" in wide + narrow:
        return False
    low, high = _range(wide)
    from_, to = _range(narrow)
    return low <= from_ and to <= high


def _range(text: str) -> tuple[int, int]:
    low, colon, high = text.partition(":")
    try:
        first = int(low or 0)
        return first, int(high or 65535) if colon else first
    except ValueError:
        return 1, 0 if colon else 0
