"""Interfaces, addresses and routes of a network namespace: reads and creates them by netlink."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct

from .._netlink import attribute, attributes
from ..errors import KernelError, ParameterError, kernel_error
from ..exchange import ACK, CREATE, DUMP, EXCL, REPLACE, Exchange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from .._netns import Namespace

_NETLINK_ROUTE = 0
_NEWLINK, _GETLINK, _NEWADDR, _GETADDR, _NEWROUTE, _GETROUTE = 16, 18, 20, 22, 24, 26  # RTM_*
_IFNAME = 3  # IFLA_IFNAME
_HARDWARE, _LINKINFO, _INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 18, 1, 2, 1  # IFLA_*, VETH_INFO_PEER
_NESTED = 0x8000  # NLA_F_NESTED
_UP, _NOARP = 1, 0x80  # IFF_*
_ADDRESS, _LOCAL, _FLAGS = 1, 2, 8  # IFA_*
_NODAD = 2  # IFA_F_NODAD
_ROUTES_OF_IPV6 = 1 << 10  # RTMGRP_IPV6_ROUTE
_DST, _SRC, _IIF, _OIF, _GATEWAY, _PREFSRC, _TABLE, _MARK = 1, 2, 3, 4, 5, 7, 15, 16  # RTA_*
_MAIN, _KERNEL, _STATIC, _UNIVERSE, _LINK = 254, 2, 4, 0, 253  # RT_TABLE_MAIN, RTPROT_*, RT_SCOPE_*
_ONLINK = 4  # RTNH_F_ONLINK
_UNICAST, _LOCAL_TYPE = 1, 2  # RTN_*
_TYPES = {"unicast": 1, "local": 2, "blackhole": 6, "unreachable": 7, "prohibit": 8}


class Route:
    """A route: its destination (None is the default route), gateway, interface and source address.

    *kind* is "unicast", "blackhole", "unreachable" or "prohibit".
    """

    __slots__ = ("network", "via", "device", "source", "kind", "onlink", "by_kernel")

    def __init__(
        self,
        network: Any,
        via: Any = None,
        device: str | None = None,
        source: Any = None,
        kind: str = "unicast",
    ) -> None:
        self.network = network
        self.via = via
        self.device = device
        self.source = source
        self.kind = kind
        self.onlink = False
        self.by_kernel = False

    @classmethod
    def read(cls, text: str) -> Route:
        """Return the route in a text as after `ip route add`: `[TYPE] NETWORK|default [via ADDRESS] [dev NAME] [src
        ADDRESS]`."""
        words = text.split()
        kind = words.pop(0) if words and words[0] in _TYPES else "unicast"
        if not words:
            raise ParameterError(f"no route: {text!r}")
        target = words.pop(0)
        given: dict[str, str] = {}
        onlink = "onlink" in words
        if onlink:
            words.remove("onlink")
        while words:
            key = words.pop(0)
            if key not in ("via", "dev", "src", "metric", "proto", "scope") or not words:
                raise ParameterError(f"no route: {text!r}; NETWORK [via ADDRESS] [dev NAME] [src ADDRESS] is one")
            given[key] = words.pop(0)
        try:
            via = ipaddress.ip_address(given["via"]) if "via" in given else None
            source = ipaddress.ip_address(given["src"]) if "src" in given else None
            if target in ("default", "default6"):
                six = target == "default6" or any(each is not None and each.version == 6 for each in (via, source))
                network: Any = ipaddress.ip_network("::/0" if six else "0.0.0.0/0")
            else:
                network = ipaddress.ip_network(target, strict=False)
        except ValueError as error:
            raise ParameterError(f"no route: {text!r}: {error}") from None
        route = cls(network, via, given.get("dev"), source, kind)
        route.onlink = onlink
        return route

    def __str__(self) -> str:
        words = [] if self.kind == "unicast" else [self.kind]
        words.append(str(self.network) if self.network.prefixlen else "default")
        for key, value in (("via", self.via), ("dev", self.device), ("src", self.source)):
            words += [key, str(value)] if value is not None else []
        return " ".join(words)


class Links:
    """A rtnetlink socket in the namespace *there*."""

    def __init__(self, there: Namespace) -> None:
        self._kernel = Exchange(
            socket.socket(fileno=there.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE))
        )
        self._there = there
        self._indices: dict[str, int] = {}

    def close(self) -> None:
        """Close the socket."""
        self._kernel.close()

    # messages

    def _do(self, what: str, kind: int, flags: int, body: bytes) -> None:
        try:
            list(self._kernel.ask(kind, flags | ACK, body))
        except OSError as error:
            number = error.errno or errno.EIO
            raise kernel_error(f"can't {what}", number, os.strerror(number)) from None

    # interfaces

    def links(self) -> dict[int, tuple[str, bool]]:
        """Return {number: (name, whether it is up)} of the interfaces."""
        found = {}
        for _, message in self._kernel.ask(_GETLINK, DUMP, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
            index, flags = struct.unpack_from("=4xiI", message)
            name = dict(attributes(message[16:])).get(_IFNAME, b"").rstrip(b"\0").decode("utf-8", "surrogateescape")
            found[index] = name, bool(flags & _UP)
        self._indices = {name: index for index, (name, _) in found.items()}
        return found

    def index(self, name: str) -> int:
        """Return the number of an interface."""
        if name not in self._indices:
            self.links()
        if name not in self._indices:
            raise ParameterError(f"there is no interface {name}")
        return self._indices[name]

    def add_pair(self, name: str, address: bytes, peer: str, other: bytes) -> None:
        """Create two connected interfaces (veth) with the hardware addresses *address* and *other*. They look for no
        neighbours (IFF_NOARP)."""
        head = struct.pack("=BxHiII", 0, 0, 0, _NOARP, _NOARP)
        ends = [head + attribute(_IFNAME, os.fsencode(end) + b"\0") for end in (name, peer)]
        ends = [end + attribute(_HARDWARE, packed) for end, packed in zip(ends, (address, other))]
        data = attribute(_INFO_DATA | _NESTED, attribute(_VETH_PEER | _NESTED, ends[1]))
        info = attribute(_LINKINFO | _NESTED, attribute(_INFO_KIND, b"veth") + data)
        self._do(f"make the interface {name}", _NEWLINK, CREATE | EXCL, ends[0] + info)
        self._indices.clear()

    def set_up(self, name: str) -> None:
        """Set an interface up."""
        self._do(f"set {name} up", _NEWLINK, 0, struct.pack("=BxHiII", 0, 0, self.index(name), _UP, _UP))

    def addresses(self) -> list[tuple[str, Any]]:
        """Return [(interface, address with its network)]; the addresses are `ipaddress.ip_interface` objects."""
        names = self.links()
        found = []
        for _, message in self._kernel.ask(_GETADDR, DUMP, struct.pack("=BBBBi", 0, 0, 0, 0, 0)):
            length, index = struct.unpack_from("=xBxxi", message)
            said = dict(attributes(message[8:]))
            packed = said.get(_LOCAL) or said.get(_ADDRESS)
            if packed and index in names:
                found.append((names[index][0], ipaddress.ip_interface((packed, length))))
        return found

    def add_address(self, name: str, address: Any) -> None:
        """Add an address (`ipaddress.ip_interface`) to an interface, without duplicate address detection."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        body = struct.pack("=BBBBi", family, address.network.prefixlen, _NODAD, 0, self.index(name))
        body += attribute(_LOCAL, address.packed) + attribute(_ADDRESS, address.packed)
        self._do(f"give {name} the address {address}", _NEWADDR, CREATE | REPLACE, body)

    def settle(self, addresses: Iterable[Any], patience: float) -> None:
        """Wait until the kernel accepts packets for all *addresses* (IPv6). It does so a moment after they were
        added."""
        left = [address for address in addresses if address.version == 6]

        def is_done() -> bool:
            while left and self._is_own(left[-1]):
                left.pop()
            return not left

        self._wait(is_done, _ROUTES_OF_IPV6, patience, "an address does not come into use")

    def _wait(self, is_done: Callable[[], bool], group: int, patience: float, what: str) -> None:
        """Wait until *is_done* says so, which is asked again whenever the kernel reports something in *group*."""
        with socket.socket(fileno=self._there.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)) as news:
            news.bind((0, group))
            news.settimeout(patience)
            while not is_done():
                try:
                    news.recv(1 << 16)
                except TimeoutError:
                    raise KernelError(what, errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None

    def _is_own(self, address: Any) -> bool:
        try:
            return self.way(str(address.ip))[0] is None
        except OSError:
            return False

    # routes

    def add_route(self, route: Route) -> None:
        """Add a route."""
        version = route.network.version
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        scope = _LINK if version == 4 and route.via is None and route.kind == "unicast" else _UNIVERSE
        kind = _TYPES[route.kind]
        flags = _ONLINK if route.onlink else 0
        body = struct.pack("=BBBBBBBBI", family, route.network.prefixlen, 0, 0, _MAIN, _STATIC, scope, kind, flags)
        if route.network.prefixlen:
            body += attribute(_DST, route.network.network_address.packed)
        if route.device is not None:
            body += attribute(_OIF, struct.pack("=i", self.index(route.device)))
        if route.via is not None:
            body += attribute(_GATEWAY, route.via.packed)
        if route.source is not None:
            body += attribute(_PREFSRC, route.source.packed)
        self._do(f"add the route {route}", _NEWROUTE, CREATE | REPLACE, body)

    def routes(self) -> Iterator[Route]:
        """Yield the routes of the main table."""
        names = self.links()
        kinds = {number: name for name, number in _TYPES.items()}
        for family in (socket.AF_INET, socket.AF_INET6):
            for _, message in self._kernel.ask(_GETROUTE, DUMP, struct.pack("=BBBBBBBBI", family, *[0] * 8)):
                length, table, protocol, kind, flags = struct.unpack_from("=xBxxBBxBI", message)
                said = dict(attributes(message[12:]))
                if table != _MAIN or kind not in kinds or kind == _LOCAL_TYPE:
                    continue
                packed = said.get(_DST, bytes(4 if family == socket.AF_INET else 16))
                device = names.get(struct.unpack("=i", said[_OIF])[0], (None, False))[0] if _OIF in said else None
                route = Route(
                    ipaddress.ip_network((packed, length)),
                    ipaddress.ip_address(said[_GATEWAY]) if _GATEWAY in said else None,
                    device,
                    ipaddress.ip_address(said[_PREFSRC]) if _PREFSRC in said else None,
                    kinds[kind],
                )
                route.onlink = bool(flags & _ONLINK)
                route.by_kernel = protocol == _KERNEL
                yield route

    def way(self, dst: str, src: str | None = None, iif: str | None = None, mark: int = 0) -> tuple[str | None, str]:
        """Return (interface, source) of the route that a packet to *dst* takes; the interface is None for the host
        itself.

        Raises `OSError` with the kernel's errno if there is no route.
        """
        target = ipaddress.ip_address(dst)
        four = target.version == 4
        family, size = (socket.AF_INET, 32) if four else (socket.AF_INET6, 128)
        body = struct.pack("=BBBBBBBBI", family, size, size if src and iif else 0, 0, 0, 0, 0, 0, 0)
        body += attribute(_DST, target.packed)
        if src:
            body += attribute(_SRC, ipaddress.ip_address(src).packed)
        if iif:
            body += attribute(_IIF, struct.pack("=i", self.index(iif)))
        if mark:
            body += attribute(_MARK, struct.pack("=I", mark))
        _, message = next(self._kernel.ask(_GETROUTE, 0, body))
        said = dict(attributes(message[12:]))
        kind = message[7]
        if kind not in (_UNICAST, _LOCAL_TYPE):
            errors = {6: errno.EINVAL, 7: errno.EHOSTUNREACH, 8: errno.EACCES, 3: 0, 4: 0, 5: 0}
            code = errors.get(kind, errno.EINVAL)
            if code:
                raise OSError(code, os.strerror(code))
        source = str(ipaddress.ip_address(said[_PREFSRC])) if _PREFSRC in said else ""
        if kind != _UNICAST or _OIF not in said:
            return None, source
        (index,) = struct.unpack("=i", said[_OIF])
        names = {number: name for name, number in self._indices.items()}
        if index not in names:
            names = {number: name for number, (name, _) in self.links().items()}
        return names.get(index), source
