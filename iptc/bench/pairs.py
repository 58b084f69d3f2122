"""Interfaces for hosts without /dev/net/tun: one end of a veth pair has the name, and packets are written and read at
the other end.

The other end accepts no packets itself, so no rule sees them there. A packet may wait in a queue of the processor. A
frame of an unknown protocol is sent after it; when that frame comes out, the packet has been processed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from .devices import checked_name
from .place import write_setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._netns import Namespace
    from .links import Links

_EVERYTHING = 3  # ETH_P_ALL
_MARKER = 0x88B5  # a protocol number for experiments, which no program uses
_PROTOCOLS = {4: 0x0800, 6: 0x86DD}
_OUTGOING = 4  # PACKET_OUTGOING
_MOST = 65536 + 14
_HEAD = 14


@contextlib.contextmanager
def on_one_processor() -> Iterator[None]:
    """Keep this thread on one processor, so that all that it sends goes through one queue."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usual)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


class Pair:
    """An interface *name* in the namespace *there*. *number* must differ for each interface."""

    __slots__ = ("name", "_inner", "_outer", "_address", "_other")

    def __init__(self, there: Namespace, links: Links, name: str, number: int, patience: float) -> None:
        self.name = checked_name(name)
        peer = f"iptc-{number}"
        self._address = struct.pack("!HI", 0x0200, number)
        self._other = struct.pack("!HI", 0x0201, number)
        links.add_pair(name, self._address, peer, self._other)
        write_setting(there, f"net/ipv6/conf/{peer}/disable_ipv6", "1")
        for end in (peer, name):
            links.set_up(end)
        self._inner = _tap(there, name, _MARKER, patience)
        try:
            self._outer = _tap(there, peer, _EVERYTHING, patience)
        except BaseException:
            self._inner.close()
            raise

    def close(self) -> None:
        """Close the sockets. The interface is deleted with its namespace. A second call does nothing."""
        self._inner.close()
        self._outer.close()

    def put(self, data: bytes) -> None:
        """Let a packet come in. When this returns, the kernel has processed it, if the thread stays on one
        processor."""
        self._outer.send(self._address + self._other + struct.pack("!H", _PROTOCOLS[data[0] >> 4]) + data)
        self._outer.send(self._address + self._other + struct.pack("!H", _MARKER) + bytes(46))
        while self._inner.recvfrom(_MOST)[1][2] == _OUTGOING:
            pass

    def taken(self) -> list[bytes]:
        """Return the packets that have left since the last call."""
        found: list[bytes] = []
        self._inner.send(self._other + self._address + struct.pack("!H", _MARKER) + bytes(46))
        while True:
            data, where = self._outer.recvfrom(_MOST)
            kind = int.from_bytes(data[12:14], "big")
            if where[2] == _OUTGOING:
                continue
            if kind == _MARKER:
                return found
            if kind in _PROTOCOLS.values():
                found.append(data[_HEAD:])


def _tap(there: Namespace, name: str, protocol: int, patience: float) -> socket.socket:
    """Return a socket that sends and receives frames of *protocol* at an interface."""
    made = socket.socket(fileno=there.open_socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    try:
        made.settimeout(patience)
        made.bind((name, protocol))
    except BaseException:
        made.close()
        raise
    return made
