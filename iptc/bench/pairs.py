"""Interfaces whose other end is this process, where /dev/net/tun can't be had: one end of a pair (veth) has the name,
and packets come and go at its other end.

The other end hears nothing that is meant for it, so no rule sees a packet there. A pair lets a packet wait in a queue
of the processor; a frame of no protocol that is sent behind it comes out when the packet has been dealt with.
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
_MARKER = 0x88B5  # of no protocol: for experiments
_PROTOCOLS = {4: 0x0800, 6: 0x86DD}
_OUTGOING = 4  # PACKET_OUTGOING
_MOST = 65536 + 14
_HEAD = 14


@contextlib.contextmanager
def on_one_processor() -> Iterator[None]:
    """Keep this thread on one processor: what it sends stands in one queue."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usual)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


class Pair:
    """An interface *name* in the namespace *there*; *number* is another one for each."""

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
        """Close its sockets: the interface is gone with its namespace. Again does nothing."""
        self._inner.close()
        self._outer.close()

    def put(self, data: bytes) -> None:
        """Let a packet come in. The kernel has dealt with it when this returns, on one processor."""
        self._outer.send(self._address + self._other + struct.pack("!H", _PROTOCOLS[data[0] >> 4]) + data)
        self._outer.send(self._address + self._other + struct.pack("!H", _MARKER) + bytes(46))
        while self._inner.recvfrom(_MOST)[1][2] == _OUTGOING:
            pass

    def taken(self) -> list[bytes]:
        """The packets that left since it was last asked."""
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
    """A socket that frames of *protocol* are sent and received by at an interface."""
    made = socket.socket(fileno=there.open_socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    try:
        made.settimeout(patience)
        made.bind((name, protocol))
    except BaseException:
        made.close()
        raise
    return made
