"""Interfaces for hosts without /dev/net/tun: one end of a veth pair has the name, and packets are written and read at
the other end.

The other end accepts no packets itself, so no rule sees them there. A packet may wait in a queue of the processor. A
frame of an unknown protocol is sent after it; when that frame comes out, the packet has been processed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time

from ..errors import KernelError
from .devices import checked_name
from .private_namespace import write_setting

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
_TRY_AGAIN = 0.01
"""Seconds after which a marker is taken for dropped, while a pair begins."""


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

    __slots__ = ("name", "_inner", "_outer", "_address", "_other", "_count")

    def __init__(self, there: Namespace, links: Links, name: str, number: int, patience: float) -> None:
        self.name = checked_name(name)
        peer = f"iptc-{number}"
        self._address = struct.pack("!HI", 0x0200, number)
        self._other = struct.pack("!HI", 0x0201, number)
        links.add_pair(name, self._address, peer, self._other)
        write_setting(there, f"net/ipv6/conf/{peer}/disable_ipv6", "1")
        for end in (peer, name):
            links.set_up(end)
        self._count = 0
        self._inner = _tap(there, name, _MARKER, patience)
        try:
            self._outer = _tap(there, peer, _EVERYTHING, patience)
            try:
                self._begin(patience)
            except BaseException:
                self._outer.close()
                raise
        except BaseException:
            self._inner.close()
            raise

    def _begin(self, patience: float) -> None:
        """Try both directions until frames pass: the kernel drops them until it has noticed that both ends are up."""
        ends = (
            (self._outer, self._inner, self._address + self._other),
            (
                self._inner,
                self._outer,
                self._other + self._address,
            ),
        )
        for sender, receiver, addresses in ends:
            receiver.settimeout(_TRY_AGAIN)
            end = time.monotonic() + patience
            while True:
                with contextlib.suppress(TimeoutError):
                    self._pass(sender, receiver, addresses)
                    break
                if time.monotonic() > end:
                    raise KernelError(
                        f"the interface {self.name} does not start", errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)
                    )
            receiver.settimeout(patience)

    def _pass(self, sender: socket.socket, receiver: socket.socket, addresses: bytes) -> list[bytes]:
        """Send a marker, and return the packets that come out before it."""
        self._count += 1
        marker = addresses + struct.pack("!HQ38x", _MARKER, self._count)
        sender.send(marker)
        found: list[bytes] = []
        while True:
            data, where = receiver.recvfrom(_MOST)
            if where[2] == _OUTGOING:
                continue
            if data[: len(marker)] == marker:
                return found
            if int.from_bytes(data[12:14], "big") in _PROTOCOLS.values():
                found.append(data[_HEAD:])

    def close(self) -> None:
        """Close the sockets. The interface is deleted with its namespace. A second call does nothing."""
        self._inner.close()
        self._outer.close()

    def put(self, data: bytes) -> None:
        """Let a packet come in. When this returns, the kernel has processed it, on one processor."""
        self._outer.send(self._address + self._other + struct.pack("!H", _PROTOCOLS[data[0] >> 4]) + data)
        self._pass(self._outer, self._inner, self._address + self._other)

    def taken(self) -> list[bytes]:
        """Return the packets that left since the last call."""
        return self._pass(self._inner, self._outer, self._other + self._address)


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
