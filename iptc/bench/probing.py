"""Makes up a packet that a rule would match, and sends it through a bench."""

from __future__ import annotations

import ipaddress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..rule import Rule
    from .bench import Bench
    from .verdict import Verdict

_FLAGS = {"syn": "SYN"}
_HERE = ("OUTPUT",)


class Unmakeable(Exception):
    """No packet could be made up for a rule."""


def probe(bench: Bench, hook: str, rules: list[Rule]) -> tuple[str, Verdict]:
    """Make up a packet that all of *rules* match and that comes to *hook*, and send it. Return (the packet as text, its
    verdict). Raises `Unmakeable` with the reason if no such packet can be made up."""
    asked: dict[str, Any] = {}
    interface: str | None = None
    version = 4 if rules[-1].nfproto == 2 else 6
    for rule in rules:
        for name, network in (("src", rule.src), ("dst", rule.dst)):
            address = _address(network)
            if address is not None:
                asked[name] = address
        if rule.in_interface is not None:
            interface = _named(bench, rule.in_interface)
        if rule.protocol not in ("ip", "0", "all"):
            _protocol(asked, rule)
        for match in rule.matches:
            _match(asked, match.name, match.parameters)
    first = next(iter(bench.layout.interfaces))
    if hook in _HERE:
        interface = None
    elif interface is None:
        interface = first
    if "tcp" not in asked and "udp" not in asked and "icmp" not in asked and "protocol" not in asked:
        asked["udp"] = 9
    out = next((rule.out_interface for rule in rules if rule.out_interface is not None), None)
    if out is not None and "dst" not in asked:
        asked["dst"] = bench.layout.neighbour(_named(bench, out), version)
    if "dst" not in asked and hook in ("FORWARD", "POSTROUTING"):
        asked["dst"] = "192.0.2.99" if version == 4 else "2001:db8:99::9"
    if "src" not in asked and version == 6 and interface is not None:
        asked["src"] = bench.layout.neighbour(interface, 6)
    verdict = bench.send(interface, **asked)
    return f"{'' if interface is None else f'in {interface} '}{verdict.sent}", verdict


def _address(network: str) -> str | None:
    """Return an address in a network, or None if any address will do."""
    if network.startswith("!"):
        raise Unmakeable("an address that is negated")
    try:
        net = ipaddress.ip_network(network, strict=False)
    except ValueError:
        raise Unmakeable("a mask that is no prefix") from None
    if net.prefixlen == 0:
        return None
    return str(net[1] if net.num_addresses > 2 else net[0])


def _named(bench: Bench, pattern: str) -> str:
    if not pattern.startswith("!"):
        for name in bench.layout.interfaces:
            if name == pattern or pattern.endswith("+") and name.startswith(pattern[:-1]):
                return name
    raise Unmakeable(f"no interface {pattern}")


def _protocol(asked: dict[str, Any], rule: Rule) -> None:
    name = rule.protocol
    if name in ("tcp", "udp"):
        asked.setdefault(name, 9)
    elif name in ("icmp", "ipv6-icmp", "icmpv6"):
        asked.setdefault("icmp", True)
    elif name.startswith("!"):
        raise Unmakeable("a protocol that is negated")
    else:
        asked.update(protocol=name, payload=bytes(16))


def _match(asked: dict[str, Any], name: str, parameters: dict[str, Any]) -> None:
    """Add to *asked*, the arguments of `Bench.send`, what a match requires."""
    if name in ("comment", "pkttype", "addrtype"):
        return
    if name in ("conntrack", "state") and "NEW" in str(parameters.get("ctstate", parameters.get("state", ""))):
        return
    if name in ("tcp", "udp"):
        for option, value in parameters.items():
            text = str(value)
            if "!" in text:
                raise Unmakeable(f"{option} that is negated")
            if option == "dport":
                asked[name] = int(text.partition(":")[0] or 1)
            elif option == "sport":
                asked["sport"] = int(text.partition(":")[0] or 1)
            elif option in _FLAGS:
                asked["flags"] = _FLAGS[option]
            elif option == "tcp_flags" and isinstance(value, (list, tuple)):
                asked["flags"] = value[1]
            else:
                raise Unmakeable(f"--{option.replace('_', '-')}")
        return
    if name == "multiport":
        ports = str(parameters.get("dports") or parameters.get("ports") or "")
        if len(parameters) == 1 and ports and "!" not in ports:
            number = int(ports.split(",")[0].partition(":")[0])
            for protocol in ("tcp", "udp"):
                if protocol in asked:
                    asked[protocol] = number
            return
    if name in ("icmp", "icmp6"):
        kind = str(parameters.get("icmp_type", parameters.get("icmpv6_type", "any")))
        if "!" not in kind:
            asked["icmp"] = True if kind == "any" else kind
            return
    raise Unmakeable(f"-m {name}")
