"""Which interfaces, addresses and routes a bench has: the given ones, or others that suit the rules."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from ..errors import ParameterError, ParameterTypeError
from .links import Route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

FAR = {4: "198.51.100.9", 6: "2001:db8:9::9"}
"""The default source and destination of a packet if no network is near."""

_MADE_UP = 200
"""The most interfaces that are invented."""


class Layout:
    """`interfaces` is {name: [address with its network]}; `routes` is a list of `Route`s."""

    def __init__(self, interfaces: Mapping[str, list[Any]], routes: list[Route]) -> None:
        self.interfaces = dict(interfaces)
        self.routes = routes

    @classmethod
    def told(
        cls, interfaces: Mapping[str, Any] | Iterable[str] | None, routes: Iterable[Any] | None, named: list[str]
    ) -> Layout:
        """Return the layout for the arguments of a bench. *named* are the interfaces that the rules name."""
        if interfaces is None:
            found = _made_up(named)
        elif isinstance(interfaces, str):
            raise ParameterTypeError("interfaces must be a dict of names and addresses, not a string")
        elif isinstance(interfaces, Mapping):
            found = {name: _addresses(name, given) for name, given in interfaces.items()}
        else:
            found = {name: _made_up([name], number)[name] for number, name in enumerate(interfaces)}
        if not found:
            raise ParameterError("a bench needs an interface at least")
        if routes is None:
            ways = _default_routes(found)
        else:
            ways = [route if isinstance(route, Route) else Route.read(route) for route in routes]
        return cls(found, ways)

    def neighbour(self, name: str, version: int) -> str:
        """Return an address in the network of an interface that is not the host's own."""
        for address in self.interfaces.get(name, []):
            if address.version == version:
                for host in (9, 10, 2, 1):
                    near = address.network.network_address + host
                    if near in address.network and near not in (address.ip, address.network.broadcast_address):
                        return str(near)
        return FAR[version]

    def own(self, name: str | None, version: int) -> str | None:
        """Return the host's own address at an interface, or at any of them."""
        for one in [name] if name in self.interfaces else self.interfaces:
            for address in self.interfaces[str(one)]:
                if address.version == version:
                    return str(address.ip)
        return None


def _addresses(name: str, given: Any) -> list[Any]:
    if given is None or given == "":
        return []
    found = []
    for text in given.replace(",", " ").split() if isinstance(given, str) else given:
        try:
            found.append(ipaddress.ip_interface(text))
        except ValueError:
            raise ParameterError(f"no address of interface {name}: {text!r}; 203.0.113.1/24 is one") from None
    return found


def _made_up(names: list[str], start: int = 0) -> dict[str, list[Any]]:
    """Invent addresses for interfaces that only have names."""
    found = {}
    for number, name in enumerate(names or ["eth0"], start):
        if number >= _MADE_UP:
            break
        four = "203.0.113.1/24" if not number else f"10.{number}.0.1/24"
        found[name] = [ipaddress.ip_interface(four), ipaddress.ip_interface(f"2001:db8:{number:x}::1/64")]
    return found


def _default_routes(interfaces: Mapping[str, list[Any]]) -> list[Route]:
    """Return the default routes of both families, by the first interface."""
    first = next(iter(interfaces))
    versions = {address.version for addresses in interfaces.values() for address in addresses}
    return [
        Route(ipaddress.ip_network(network), None, first)
        for version, network in ((4, "0.0.0.0/0"), (6, "::/0"))
        if version in versions
    ]
