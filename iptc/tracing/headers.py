"""Reads the headers of a packet: IPv4, IPv6, and the fields of TCP, UDP and ICMP that identify a packet."""

from __future__ import annotations

import socket
import struct

from ..protocols import PROTOCOL_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

ICMP, TCP, UDP, DCCP, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 33, 58, 132, 136  # IPPROTO_*
WITH_PORTS = frozenset({TCP, UDP, DCCP, SCTP, UDPLITE})
"""The protocols whose headers begin with two ports."""

TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")
"""The flags of TCP as iptables names them, from the lowest bit on."""

_EXTENSIONS = frozenset({0, 43, 60, 135, 139, 140})
"""The extension headers of IPv6 that contain their length, in units of eight bytes."""

_FRAGMENT, _AUTHENTICATION = 44, 51


class Header:
    """The headers of a packet.

    `version` is 4 or 6. `src` and `dst` are addresses as text. `protocol` is a name as in `Rule.protocol`, and `number`
    its number. `sport` and `dport` are None if the protocol has no ports. `icmp` is (type, code) or None. `flags` are
    the names of TCP's flags. `ttl` is the TTL, or the hop limit of IPv6. `ident` is the identification of IPv4, or the
    flow label of IPv6. `length` is the length of the whole packet according to its header. `sequence` is (sequence
    number, acknowledgment number) of TCP.
    """

    __slots__ = (
        "version",
        "src",
        "dst",
        "number",
        "sport",
        "dport",
        "icmp",
        "flags",
        "ttl",
        "tos",
        "ident",
        "length",
        "sequence",
        "fragment",
    )

    def __init__(self, version: Literal[4, 6], src: str, dst: str, number: int) -> None:
        self.version = version
        self.src = src
        self.dst = dst
        self.number = number
        self.sport: int | None = None
        self.dport: int | None = None
        self.icmp: tuple[int, int] | None = None
        self.flags: tuple[str, ...] = ()
        self.ttl = self.tos = self.ident = self.length = self.fragment = 0
        self.sequence: tuple[int, int] | None = None

    @property
    def protocol(self) -> str:
        """The name of the protocol, or its number if it has no common name."""
        return PROTOCOL_NAMES.get(self.number, str(self.number)) if self.number else "0"

    @property
    def addresses(self) -> tuple[str, int | None, str, int | None]:
        """(source, its port, destination, its port): the part that NAT changes."""
        return self.src, self.sport, self.dst, self.dport

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """The part that identifies this packet, and that no NAT changes."""
        return self.version, self.number, self.ident, self.length, self.sequence, self.fragment

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Header):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash((self.fingerprint, self.addresses))

    def __str__(self) -> str:
        words = [self.protocol, _end(self.src, self.sport, self.version), ">", _end(self.dst, self.dport, self.version)]
        if self.icmp is not None:
            words.append(f"type {self.icmp[0]}/{self.icmp[1]}")
        if self.flags:
            words.append(",".join(self.flags))
        return " ".join(words)

    def __repr__(self) -> str:
        return f"<iptc header {self}>"

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        said: dict[str, Any] = {"src": self.src, "dst": self.dst, "protocol": self.protocol}
        if self.sport is not None:
            said.update({"sport": self.sport, "dport": self.dport})
        if self.icmp is not None:
            said.update({"icmp_type": self.icmp[0], "icmp_code": self.icmp[1]})
        if self.number == TCP:
            said["flags"] = list(self.flags)
        said.update({"ttl": self.ttl, "tos": self.tos, "length": self.length})
        return said


def _end(address: str, port: int | None, version: int) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if version == 6 else f"{address}:{port}"


def read_packet(packet: bytes) -> Header | None:
    """Return the headers of a packet or of its beginning; None if it is neither IPv4 nor IPv6."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        return read_headers(packet, packet[(packet[0] & 15) * 4 :])
    if version == 6:
        return read_headers(packet, None)
    return None


def read_headers(network: bytes, transport: bytes | None) -> Header | None:
    """Return the headers, given the bytes of the network header and of the transport header.

    If *transport* is None, the transport header of IPv6 is looked for in *network*.
    """
    version = network[0] >> 4 if network else 0
    if version == 4 and len(network) >= 20:
        return _read_ipv4(network, transport)
    if version == 6 and len(network) >= 40:
        return _read_ipv6(network, transport)
    return None


def _read_ipv4(network: bytes, transport: bytes | None) -> Header:
    tos, length, ident, offset, ttl, number = struct.unpack_from("!xBHHHBB", network)
    header = Header(4, socket.inet_ntop(socket.AF_INET, network[12:16]), socket.inet_ntop(2, network[16:20]), number)
    header.tos, header.length, header.ident, header.ttl = tos, length, ident, ttl
    header.fragment = (offset & 0x1FFF) * 8
    if not header.fragment and transport:
        _read_transport(header, transport)
    return header


def _read_ipv6(network: bytes, transport: bytes | None) -> Header:
    first, length, number, ttl = struct.unpack_from("!IHBB", network)
    family = socket.AF_INET6
    header = Header(6, socket.inet_ntop(family, network[8:24]), socket.inet_ntop(family, network[24:40]), number)
    header.tos, header.ident = first >> 20 & 0xFF, first & 0xFFFFF
    header.length, header.ttl = length + 40, ttl
    if transport is None:
        header.number, transport = _behind_extensions(header, number, network[40:])
    if not header.fragment and transport:
        _read_transport(header, transport)
    return header


def _behind_extensions(header: Header, number: int, data: bytes) -> tuple[int, bytes]:
    """Return (protocol, its header), after the extension headers."""
    while len(data) >= 8:
        if number in _EXTENSIONS:
            size = data[1] * 8 + 8
        elif number == _AUTHENTICATION:
            size = data[1] * 4 + 8
        elif number == _FRAGMENT:
            size = 8
            header.fragment = struct.unpack_from("!H", data, 2)[0] & 0xFFF8
        else:
            break
        number, data = data[0], data[size:]
    return number, data


def _read_transport(header: Header, data: bytes) -> None:
    if header.number in WITH_PORTS and len(data) >= 4:
        header.sport, header.dport = struct.unpack_from("!HH", data)
        if header.number == TCP and len(data) >= 14:
            header.sequence = struct.unpack_from("!II", data, 4)
            header.flags = tuple(name for bit, name in enumerate(TCP_FLAGS) if data[13] >> bit & 1)
    elif header.number in (ICMP, ICMPV6) and len(data) >= 2:
        header.icmp = data[0], data[1]
