"""A socket in a network namespace on which netfilter reports events. It is read without waiting."""

from __future__ import annotations

import errno
import socket
import struct

from ..errors import kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..namespace import Place

_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_ADD_MEMBERSHIP, _NO_ENOBUFS = 1, 5
_SO_RCVBUFFORCE, _SO_MEMINFO = 33, 55
_DROPS = 8
"""The index in SO_MEMINFO of the number of lost messages."""

_ROOM = 1 << 26
"""Bytes of messages that may wait in the kernel: enough for a restore of a hundred thousand rules."""

_HEAD = struct.Struct("=IHHII")
_GENERAL = 20
"""The bytes before the attributes: `struct nlmsghdr` and `struct nfgenmsg`."""

_KIND = 0x3FFF
"""The bits of an attribute's type without its flags (NLA_TYPE_MASK)."""


class MessagesLost(Exception):
    """There were more messages than the kernel keeps (ENOBUFS)."""


class Listener:
    """A socket that receives the messages of the multicast *groups* of netfilter. *what* is the beginning of errors.

    Raises `AccessDenied` without CAP_NET_ADMIN. With *counting*, `read` does not raise for lost messages; `lost` counts
    them.
    """

    def __init__(self, place: Place, groups: tuple[int, ...], what: str, counting: bool = False) -> None:
        self._what = what
        with place.open() as there:
            place.check(there.cookie()) if place.netns is None else None
            self._socket = socket.socket(
                fileno=there.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            )
        try:
            self._socket.setblocking(False)
            self._make_room()
            self._socket.bind((0, 0))
            if counting:
                self._socket.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError as error:
            self._socket.close()
            raise self._failed(error) from None

    def _make_room(self) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        except OSError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)

    def _failed(self, error: OSError) -> Exception:
        return kernel_error(self._what, error.errno, error.strerror)

    def fileno(self) -> int:
        """Return the descriptor, which becomes readable when there is a message."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    @property
    def lost(self) -> int:
        """The number of messages that were lost."""
        try:
            numbers = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
        except OSError:
            return 0
        return int(struct.unpack_from("=I", numbers, 4 * _DROPS)[0]) if len(numbers) >= 4 * (_DROPS + 1) else 0

    def datagrams(self) -> Iterator[bytes]:
        """Yield the datagrams since the last call. Raises `MessagesLost` if some were lost; the next call yields the
        later ones."""
        while True:
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                return
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise self._failed(error) from None
                raise MessagesLost from None
            yield data

    def skip(self) -> None:
        """Drop the messages that were not read."""
        while True:
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.ENOBUFS, errno.EINTR):
                    return


def messages_of_datagram(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (subsystem and kind, family, message) of a datagram. The attributes follow the first 20 bytes of a
    message."""
    at = 0
    while at + _GENERAL <= len(data):
        length, kind, _, _, _ = _HEAD.unpack_from(data, at)
        if length < _GENERAL or at + length > len(data):
            break
        yield kind, data[at + 16], data[at : at + length]
        at += (length + 3) & ~3


def fields(data: bytes, at: int = 0) -> dict[int, bytes]:
    """Return {kind: value} of the netlink attributes in *data* from offset *at* on."""
    found = {}
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & _KIND] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found
