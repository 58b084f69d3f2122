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
"""Targets that leave everything of a packet as it is which a match could look at."""

_FIXED = frozenset(
    "ah addrtype comment cpu dccp devgroup esp icmp icmp6 iprange length mac multiport owner physdev pkttype policy "
    "rpfilter sctp string tcp udp udplite u32".split()
)
"""Matches that say the same of a packet in each rule of a chain."""

_CHANGEABLE = frozenset("connmark conntrack dscp ecn hl mark set state tos ttl".split())
"""Matches that say the same in each rule, as long as no rule between has changed the packet or its connection."""

_PORTS = ("sport", "dport")


class Said:
    """What a rule says, read once: it is compared with many."""

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
        """Whether it leaves a packet that goes on to the next rule as it is."""


def covers(earlier: Said, later: Said, unchanged: bool) -> bool:
    """Whether *earlier* matches each packet that *later* matches. *unchanged* is true if no rule between them, and not
    *earlier*, changes packets. False where that is not certain."""
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
    """(its text, a network), without the network where it is negated, or its mask is no prefix."""
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
    # what narrow has besides makes it stricter only where each option is a condition of its own
    return set(narrow) - set(wide) <= {*_PORTS, "tcp_flags", "syn", "tcp_option"}


def _ports(wide: str, narrow: str) -> bool:
    """Whether one range of ports has the other in it."""
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
