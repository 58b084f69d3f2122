"""Copies the flow that a packet belongs to from connection tracking of the host into that of a bench."""

from __future__ import annotations

import socket
import struct

from .._netlink import attribute, attributes
from ..exchange import ACK, CREATE, EXCL, Exchange
from ..tracing.headers import ICMP, ICMPV6, WITH_PORTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._netns import Namespace
    from ..tracing.headers import Header

_NETLINK_NETFILTER = 12
_NEW, _GET = 0x100, 0x101  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_*
_NESTED = 0x8000

# CTA_*
_ORIGINAL, _REPLY, _STATUS, _PROTOCOL_STATE, _HELPER, _NAT_SRC, _TIMEOUT, _MARK, _NAT_DST = 1, 2, 3, 4, 5, 6, 7, 8, 13
_LABELS = 22
_TAKEN = (_PROTOCOL_STATE, _HELPER, _TIMEOUT, _MARK, _LABELS)
_IP, _PROTO = 1, 2  # CTA_TUPLE_*
_PROTO_NUM, _SRC_PORT, _DST_PORT = 1, 2, 3  # CTA_PROTO_*
_ICMP_ID, _ICMP_TYPE, _ICMP_CODE = (4, 7), (5, 8), (6, 9)
_STATUS_TAKEN = 0x0E  # SEEN_REPLY, ASSURED, CONFIRMED; the bits of NAT are left out, since NAT sets them again


def copy_flow(here: Namespace, there: Namespace, header: Header, payload: bytes) -> bool:
    """Copy the flow of a packet from the namespace *here* into *there*. Return whether there is such a flow. *payload*
    is the packet after its IP header."""
    family = socket.AF_INET if header.version == 4 else socket.AF_INET6
    with _exchange(here) as source:
        found = _asked(source, _GET, 0, family, attribute(_ORIGINAL | _NESTED, _tuple(header, payload)))
    if found is None:
        return False
    said = dict(attributes(found))
    original, reply = (_ends(said.get(kind, b"")) for kind in (_ORIGINAL, _REPLY))
    if original is None or reply is None:
        return False
    body = attribute(_ORIGINAL | _NESTED, said[_ORIGINAL])
    body += attribute(_REPLY | _NESTED, _turned(said[_ORIGINAL], said[_REPLY]))
    for kind, one, other in ((_NAT_SRC, original[0], reply[1]), (_NAT_DST, original[1], reply[0])):
        if one != other:
            body += attribute(kind | _NESTED, _manipulated(*other))
    if _STATUS in said:
        body += attribute(_STATUS, struct.pack("!I", struct.unpack("!I", said[_STATUS])[0] & _STATUS_TAKEN))
    for kind in _TAKEN:
        if kind in said:
            nested = _NESTED if kind in (_PROTOCOL_STATE, _HELPER) else 0
            body += attribute(kind | nested, said[kind])
    with _exchange(there) as target:
        _asked(target, _NEW, CREATE | EXCL | ACK, family, body)
    return True


def _exchange(there: Namespace) -> Exchange:
    return Exchange(socket.socket(fileno=there.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)))


def _asked(kernel: Exchange, kind: int, flags: int, family: int, body: bytes) -> bytes | None:
    """Ask ctnetlink. Return the attributes of the answer, or None if there is no such flow."""
    try:
        answers = [answer for _, answer in kernel.ask(kind, flags, struct.pack("!BBH", family, 0, 0) + body)]
    except FileNotFoundError:
        return None
    return answers[0][4:] if answers else None


def _tuple(header: Header, payload: bytes) -> bytes:
    family = socket.AF_INET if header.version == 4 else socket.AF_INET6
    first = 1 if header.version == 4 else 3
    ends = [socket.inet_pton(family, end) for end in (header.src, header.dst)]
    addresses = b"".join(attribute(first + at, packed) for at, packed in enumerate(ends))
    said = attribute(_PROTO_NUM, struct.pack("B", header.number))
    if header.number in WITH_PORTS:
        said += attribute(_SRC_PORT, payload[:2]) + attribute(_DST_PORT, payload[2:4])
    elif header.number in (ICMP, ICMPV6) and len(payload) >= 6:
        at = 0 if header.number == ICMP else 1
        said += attribute(_ICMP_ID[at], payload[4:6])
        said += attribute(_ICMP_TYPE[at], payload[:1]) + attribute(_ICMP_CODE[at], payload[1:2])
    return attribute(_IP | _NESTED, addresses) + attribute(_PROTO | _NESTED, said)


def _ends(data: bytes) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]] | None:
    """Return ((source, its port), (destination, its port)) of a tuple. For ICMP, its identifier takes the place of both
    ports."""
    said = dict(attributes(data))
    addresses, protocol = dict(attributes(said.get(_IP, b""))), dict(attributes(said.get(_PROTO, b"")))
    ends = [addresses.get(kind, addresses.get(kind + 2)) for kind in (1, 2)]
    if None in ends:
        return None
    ident = protocol.get(_ICMP_ID[0], protocol.get(_ICMP_ID[1], b""))
    ports = [protocol.get(kind, ident) for kind in (_SRC_PORT, _DST_PORT)]
    return (ends[0] or b"", ports[0]), (ends[1] or b"", ports[1])


def _turned(original: bytes, reply: bytes) -> bytes:
    """Return the tuple that answers would have without NAT."""
    ends = _ends(original)
    assert ends is not None
    said = dict(attributes(reply))
    addresses, protocol = dict(attributes(said[_IP])), dict(attributes(said[_PROTO]))
    first = 1 if 1 in addresses else 3
    addresses = {first: ends[1][0], first + 1: ends[0][0]}
    if _SRC_PORT in protocol:
        protocol[_SRC_PORT], protocol[_DST_PORT] = ends[1][1], ends[0][1]
    else:
        for kind in _ICMP_ID:
            if kind in protocol:
                protocol[kind] = ends[0][1]
    return b"".join(
        attribute(kind | _NESTED, b"".join(attribute(*pair) for pair in part.items()))
        for kind, part in ((_IP, addresses), (_PROTO, protocol))
    )


def _manipulated(packed: bytes, port: bytes) -> bytes:
    """Return the attributes that tell NAT the new address (CTA_NAT_V4_MINIP or CTA_NAT_V6_MINIP) and port of one
    end."""
    kinds = (1, 2) if len(packed) == 4 else (4, 5)
    body = attribute(kinds[0], packed) + attribute(kinds[1], packed)
    if port:
        body += attribute(3 | _NESTED, attribute(1, port) + attribute(2, port))
    return body
