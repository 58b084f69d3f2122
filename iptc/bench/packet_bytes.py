"""Builds packets: IPv4 and IPv6 with TCP, UDP, ICMP, or a payload that is given as bytes."""

from __future__ import annotations

import ipaddress
import socket
import struct

from ..errors import ParameterError, ParameterTypeError
from ..protocols import PROTOCOL_NAMES
from ..tracing.headers import ICMP, ICMPV6, TCP, UDP, Header, read_packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TTL = 64
"""The default TTL, or hop limit."""

ANY = {4: "0.0.0.0", 6: "::"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}

SOURCE_PORTS = range(40000, 60000)
"""The default source ports. Each packet has another one, and so belongs to a connection of its own."""

_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ECE": 64, "CWR": 128, "ALL": 63, "NONE": 0}

_ICMP_TYPES = {
    4: {
        "echo-reply": (0, 0),
        "destination-unreachable": (3, 0),
        "host-unreachable": (3, 1),
        "port-unreachable": (3, 3),
        "fragmentation-needed": (3, 4),
        "redirect": (5, 0),
        "echo-request": (8, 0),
        "time-exceeded": (11, 0),
        "parameter-problem": (12, 0),
        "timestamp-request": (13, 0),
    },
    6: {
        "destination-unreachable": (1, 0),
        "port-unreachable": (1, 4),
        "packet-too-big": (2, 0),
        "time-exceeded": (3, 0),
        "parameter-problem": (4, 0),
        "echo-request": (128, 0),
        "echo-reply": (129, 0),
        "router-solicitation": (133, 0),
        "router-advertisement": (134, 0),
        "neighbour-solicitation": (135, 0),
        "neighbor-solicitation": (135, 0),
        "neighbour-advertisement": (136, 0),
        "neighbor-advertisement": (136, 0),
        "redirect": (137, 0),
    },
}


class Made:
    """A packet to be sent: its bytes, its family, its addresses and its protocol."""

    __slots__ = ("data", "version", "src", "dst", "protocol")

    def __init__(self, data: bytes, version: int, src: str, dst: str, protocol: int) -> None:
        self.data = data
        self.version = version
        self.src = src
        self.dst = dst
        self.protocol = protocol


def address(text: Any) -> Any:
    """Return an address as an object of `ipaddress`."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ParameterError(f"no address: {text!r}") from None


def flags_of(flags: Any) -> int:
    """Return the bits of TCP's flags; the default is SYN."""
    if flags is None:
        return _FLAGS["SYN"]
    if not isinstance(flags, (int, str, list, tuple, set, frozenset)) or isinstance(flags, bool):
        kind = type(flags).__name__
        raise ParameterTypeError(f"flags must be an integer, a string or a list of strings, not {kind}")
    if isinstance(flags, int):
        return flags & 0xFF
    bits = 0
    for word in flags.replace(",", " ").split() if isinstance(flags, str) else flags:
        if not isinstance(word, str) or word.upper() not in _FLAGS:
            raise ParameterError(f"no flag of TCP: {word!r}")
        bits |= _FLAGS[word.upper()]
    return bits


def icmp_of(icmp: Any, version: int) -> tuple[int, int]:
    """Return (type, code), given a number, a name as in iptables, "type/code", a pair, or True for an echo request."""
    types = _ICMP_TYPES[version]
    if icmp is True:
        return types["echo-request"]
    if isinstance(icmp, int):
        return _octet(icmp, "a type of ICMP"), 0
    if isinstance(icmp, str):
        if icmp in types:
            return types[icmp]
        if icmp == "ping":
            return types["echo-request"]
        kind, _, code = icmp.partition("/")
        if kind.isdigit() and (code.isdigit() or not code):
            return _octet(int(kind), "a type of ICMP"), _octet(int(code or 0), "a code of ICMP")
    elif isinstance(icmp, (tuple, list)) and len(icmp) == 2:
        return _octet(icmp[0], "a type of ICMP"), _octet(icmp[1], "a code of ICMP")
    raise ParameterError(f"no type of ICMP{'' if version == 4 else 'v6'}: {icmp!r}; {', '.join(types)} are")


def _octet(value: Any, what: str) -> int:
    if not isinstance(value, int) or not 0 <= value <= 255:
        raise ParameterError(f"{what} must be from 0 to 255, not {value!r}")
    return int(value)


def port_of(value: Any) -> int:
    """Return the number of a port, given by number or by the name of its service."""
    if isinstance(value, str) and not value.isdigit():
        try:
            return socket.getservbyname(value)
        except OSError:
            raise ParameterError(f"no service: {value!r}") from None
    try:
        port = int(value)
    except (TypeError, ValueError):
        raise ParameterTypeError(f"a port must be a number, not {value!r}") from None
    if not 0 <= port <= 65535:
        raise ParameterError(f"a port must be from 0 to 65535, not {value!r}")
    return port


def protocol_of(value: Any) -> int:
    """Return the number of a protocol."""
    if isinstance(value, str) and not value.isdigit():
        for number, name in PROTOCOL_NAMES.items():
            if name == value.lower():
                return number
        try:
            return socket.getprotobyname(value)
        except OSError:
            raise ParameterError(f"no protocol: {value!r}") from None
    return _octet(int(value), "a protocol")


def checksum(data: bytes) -> int:
    """Return the Internet checksum of *data* (RFC 1071)."""
    if len(data) & 1:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _checked(protocol: int, pseudo: bytes, data: bytes, at: int) -> bytes:
    """Return *data* with its checksum at offset *at*."""
    value = checksum(pseudo + data)
    if protocol == UDP and not value:
        value = 0xFFFF
    return data[:at] + struct.pack("!H", value) + data[at + 2 :]


def packet(
    src: Any,
    dst: Any,
    *,
    ident: int,
    tcp: Any = None,
    udp: Any = None,
    icmp: Any = None,
    raw: bytes | None = None,
    protocol: Any = None,
    sport: Any = None,
    flags: Any = None,
    ttl: int | None = None,
    tos: int = 0,
    payload: bytes = b"",
    seq: int = 1000,
    ack: int = 0,
    echo: tuple[int, int] | None = None,
) -> Made:
    """Build a packet. Give one of *tcp*, *udp* (a port), *icmp* (a type), *protocol* (a number or name, with *payload*
    after the IP header), or *raw* (a whole packet, into which *ident* is written).

    *ident*: the identification of IPv4, or the flow label of IPv6. No rule changes it.
    """
    if raw is not None:
        return _raw(raw, ident)
    source, target = address(src), address(dst)
    if source.version != target.version:
        raise ParameterError(f"{source} and {target} are not of one family")
    version = target.version
    if sum(each is not None for each in (tcp, udp, icmp, protocol)) != 1:
        raise ParameterError("a packet needs one of tcp=, udp=, icmp=, protocol= and raw=")
    if isinstance(payload, str):
        payload = payload.encode()
    ports = (0, 0)
    if tcp is not None or udp is not None:
        ports = (
            port_of(SOURCE_PORTS[ident % len(SOURCE_PORTS)] if sport is None else sport),
            port_of(tcp if udp is None else udp),
        )
    elif sport is not None:
        raise ParameterError("only packets of TCP and UDP come from a port")
    if flags is not None and tcp is None:
        raise ParameterError("only packets of TCP have flags")
    if tcp is not None:
        number, at = TCP, 16
        data = struct.pack("!HHIIBBHHH", *ports, seq, ack, 0x50, flags_of(flags), 65535, 0, 0) + payload
    elif udp is not None:
        number, at = UDP, 6
        data = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    elif icmp is not None:
        number, at = ICMP if version == 4 else ICMPV6, 2
        data = struct.pack("!BBHHH", *icmp_of(icmp, version), 0, *(echo or (ident, 1))) + payload
    else:
        number, at = protocol_of(protocol), -1
        data = payload
    packed = source.packed + target.packed
    if at >= 0:
        if version == 6:
            pseudo = packed + struct.pack("!II", len(data), number)
        else:
            pseudo = packed + struct.pack("!HH", number, len(data)) if number != ICMP else b""
        data = _checked(number, pseudo, data, at)
    hops = TTL if ttl is None else _octet(ttl, "a TTL")
    tos = _octet(tos, "a TOS")
    if version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, tos, 20 + len(data), ident, 0, hops, number, 0) + packed
        head = _checked(0, b"", head, 10)
    else:
        head = struct.pack("!IHBB", 6 << 28 | tos << 20 | ident, len(data), number, hops) + packed
    return Made(head + data, version, str(source), str(target), number)


def _raw(data: bytes, ident: int) -> Made:
    """Return a packet that was given as a whole."""
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 20 and len(data) >= (data[0] & 15) * 4 >= 20:
        size = (data[0] & 15) * 4
        head = data[:4] + struct.pack("!H", ident) + data[6:size]
        right = checksum(data[:size]) == 0
        head = _checked(0, b"", head[:10] + b"\0\0" + head[12:], 10) if right else head
        src, dst = (socket.inet_ntop(socket.AF_INET, data[at : at + 4]) for at in (12, 16))
        return Made(head + data[size:], 4, src, dst, data[9])
    if version == 6 and len(data) >= 40:
        first = struct.unpack_from("!I", data)[0] & ~0xFFFFF | ident
        src, dst = (socket.inet_ntop(socket.AF_INET6, data[at : at + 16]) for at in (8, 24))
        return Made(struct.pack("!I", first) + data[4:], 6, src, dst, data[6])
    raise ParameterError("raw= must be a whole packet of IPv4 or IPv6, which begins with its header")


def ident_of(data: bytes) -> int:
    """Return the *ident* of a packet that `packet` has built."""
    if data[0] >> 4 == 4:
        return int.from_bytes(data[4:6], "big")
    return int.from_bytes(data[1:4], "big") & 0xFFFFF


def header_of(made: Made) -> Header | None:
    """Return the `Header` of a packet that `packet` has built."""
    return read_packet(made.data)
