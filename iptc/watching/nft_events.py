"""What nf_tables tells of each commit: its messages, and which process made it."""

from __future__ import annotations

import errno
import socket
import struct

from ..errors import kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..namespace import Place

_NETLINK_NETFILTER = 12
_GROUP_NFTABLES = 7  # NFNLGRP_NFTABLES
_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_SO_RCVBUFFORCE = 33
_ROOM = 1 << 26
"""Bytes that may wait in the kernel: the messages of a restore of a hundred thousand rules."""

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_HEAD = struct.Struct("=IHHII")
_GENERATION = struct.Struct("!I")
_GEN_ID, _GEN_PID, _GEN_NAME = 1, 2, 3  # NFTA_GEN_*
_NEWGEN = 15  # NFT_MSG_NEWGEN

_KIND = 0x3FFF
"""The bits of an attribute's type that are its kind (NLA_TYPE_MASK)."""


class MessagesLost(Exception):
    """More messages came than the kernel keeps (ENOBUFS): what was changed meanwhile is not known."""


class Process:
    """A process that has changed rules: its id, as the first namespace of processes counts, and its name."""

    __slots__ = ("pid", "name")

    def __init__(self, pid: int, name: str) -> None:
        self.pid = pid
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Process) and (self.pid, self.name) == (other.pid, other.name)

    def __hash__(self) -> int:
        return hash((self.pid, self.name))

    def __repr__(self) -> str:
        return f"{self.name} ({self.pid})"

    def as_dict(self) -> dict[str, int | str]:
        """It as JSON has it."""
        return {"pid": self.pid, "name": self.name}


class Commit:
    """What one commit of nf_tables changed: its number, who made it, and its messages as (kind, family, message)."""

    __slots__ = ("generation", "by", "messages")

    def __init__(self, generation: int, by: Process | None, messages: list[tuple[int, int, bytes]]) -> None:
        self.generation = generation
        self.by = by
        self.messages = messages


class NftEvents:
    """A socket on which the kernel tells of each commit of nf_tables in a network namespace.

    `AccessDenied` without CAP_NET_ADMIN. It is read without waiting.
    """

    def __init__(self, place: Place) -> None:
        with place.open() as there:
            place.check(there.cookie()) if place.netns is None else None
            self._socket = socket.socket(
                fileno=there.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            )
        try:
            self._socket.setblocking(False)
            self._make_room()
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES)
        except OSError as error:
            self._socket.close()
            raise kernel_error("can't watch nf_tables", error.errno, error.strerror) from None
        self._begun: list[tuple[int, int, bytes]] = []

    def _make_room(self) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        except OSError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)

    def fileno(self) -> int:
        """The descriptor, which is readable when something was committed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def read(self) -> list[Commit]:
        """The commits that were told of since; `MessagesLost` where some were not, after which the next call goes
        on."""
        commits: list[Commit] = []
        while True:
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                return commits
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise kernel_error("can't watch nf_tables", error.errno, error.strerror) from None
                self.skip()
                raise MessagesLost from None
            commits += self._take(data)

    def skip(self) -> None:
        """Drop what waits to be read."""
        self._begun = []
        while True:
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.ENOBUFS, errno.EINTR):
                    return

    def _take(self, data: bytes) -> list[Commit]:
        """Sort out the messages of one datagram; a commit ends with `NFT_MSG_NEWGEN`."""
        commits, at = [], 0
        while at + 20 <= len(data):
            length, kind, _, _, _ = _HEAD.unpack_from(data, at)
            if length < 20 or at + length > len(data):
                break
            if kind >> 8 == _SUBSYSTEM:
                if kind & 255 == _NEWGEN:
                    messages, self._begun = self._begun, []
                    commits.append(_commit(data[at + 20 : at + length], messages))
                else:
                    self._begun.append((kind & 255, data[at + 16], data[at : at + length]))
            at += (length + 3) & ~3
        return commits


def fields(data: bytes) -> dict[int, bytes]:
    """{kind: value} of netlink attributes."""
    found, at = {}, 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & _KIND] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def _commit(data: bytes, messages: list[tuple[int, int, bytes]]) -> Commit:
    said = fields(data)
    (generation,) = _GENERATION.unpack(said[_GEN_ID])
    by = None
    if _GEN_PID in said:
        (pid,) = _GENERATION.unpack(said[_GEN_PID])
        by = Process(pid, said.get(_GEN_NAME, b"").partition(b"\0")[0].decode("utf-8", "replace"))
    return Commit(generation, by, messages)
