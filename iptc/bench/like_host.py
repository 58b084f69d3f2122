"""Makes a bench that is like this host: it copies interfaces, addresses, routes and settings. The host is only read."""

from __future__ import annotations

from ..namespace import Place
from .bench import Bench, asking, own_side
from .links import Links
from .private_namespace import read_setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .._netns import Namespace
    from .links import Route

_SETTINGS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/all/accept_local",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/conf/all/src_valid_mark",
    "net/ipv6/conf/all/forwarding",
    "net/ipv4/ip_default_ttl",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "net/netfilter/nf_conntrack_tcp_loose",
    "net/netfilter/nf_conntrack_helper",
)
"""Settings of the host that decide what happens to packets."""

_OF_INTERFACE = (
    "net/ipv4/conf/{}/rp_filter",
    "net/ipv4/conf/{}/forwarding",
    "net/ipv4/conf/{}/accept_local",
    "net/ipv4/conf/{}/route_localnet",
    "net/ipv6/conf/{}/forwarding",
)

_MOST = 250
"""How many interfaces a bench has at most. Those with addresses, and those that rules name, come first."""


class Host:
    """`interfaces`, `routes` and `sysctls` for a bench that is like the host; `notes` are sentences about what it
    lacks."""

    def __init__(self, there: Namespace, named: Iterable[str] = ()) -> None:
        self.notes: list[str] = []
        self.sysctls = {name: value for name in _SETTINGS if (value := read_setting(there, name)) is not None}
        links = Links(there)
        try:
            self._read(there, links, dict.fromkeys(named))
        finally:
            links.close()

    def _read(self, there: Namespace, links: Links, named: dict[str, Any]) -> None:
        up = {name: is_up for name, is_up in links.links().values() if name != "lo"}
        addresses: dict[str, list[Any]] = {}
        loopback: list[Any] = []
        for name, address in links.addresses():
            if name == "lo":
                if not address.ip.is_loopback:
                    loopback.append(address)
            elif up.get(name) or name in named:
                addresses.setdefault(name, []).append(address)
        routes = list(links.routes())
        by_route = {route.device for route in routes}
        wanted = [*named, *addresses, *(name for name in up if name in by_route), *(name for name in up if up[name])]
        chosen = [name for name in dict.fromkeys(wanted) if name in up or name in named]
        if len(chosen) > _MOST:
            self.notes.append(f"the host has {len(chosen)} interfaces; the bench has {_MOST} of them")
            chosen = chosen[:_MOST]
        # without link-local addresses: nobody sends to them by address, and their network is the same everywhere
        self.interfaces = {
            name: [one for one in addresses.get(name, []) if not one.ip.is_link_local] for name in chosen
        }
        if loopback:
            self.interfaces["lo"] = loopback
        self.routes: list[Route] = [
            route
            for route in sorted(routes, key=lambda route: route.via is not None)
            if not route.by_kernel and (route.device is None or route.device in self.interfaces or route.device == "lo")
        ]
        left_out = sum(1 for route in routes if not route.by_kernel) - len(self.routes)
        if left_out:
            self.notes.append(f"{left_out} routes of the host are left out")
        for name in chosen:
            for pattern in _OF_INTERFACE:
                setting = pattern.format(name.replace("/", "."))
                value = read_setting(there, setting)
                if value is not None:
                    self.sysctls[setting] = value


def living_bench(
    rules: Any = None,
    *,
    netns: Any = None,
    interfaces: dict[str, str] | None = None,
    routes: list[str] | None = None,
    rules6: Any = None,
    backend: str | None = None,
    ipv6: bool = False,
    named: Iterable[str] = (),
) -> tuple[Bench, list[str]]:
    """Return (a `Bench` that is like this host, sentences about what it lacks).

    It has the live rules of the network namespace *netns*, or *rules*. *interfaces* and *routes* replace those of the
    host if they are given."""
    from ..managing.ruleset_value import Ruleset

    place = Place(netns)
    with place.open() as there:
        side = own_side(backend, there) if rules is None else backend
        host = None if interfaces else Host(there, named)
        if rules is None:
            with asking(there):
                # printed in this namespace, since the sets that rules name are here
                rules = Ruleset.live(backend=side, netns=netns)
                rules.text()
    notes = [] if host is None else host.notes
    options: dict[str, Any] = {"rules6": rules6, "backend": side, "ipv6": ipv6 or None}
    if host is None:
        bench = Bench(rules, interfaces, routes=routes, **options)
        bench.like = place
        return bench, notes
    bench = Bench(
        rules,
        host.interfaces or None,
        routes=host.routes if routes is None else routes,
        sysctls=host.sysctls,
        **options,
    )
    bench.like = place
    return bench, notes
