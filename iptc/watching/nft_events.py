"""The commits of nf_tables as the kernel reports them: the messages of each, and the process that made it."""

from __future__ import annotations

import struct

from .multicast import Listener, MessagesLost, fields, messages_of_datagram

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..namespace import Place

_GROUP_NFTABLES = 7  # NFNLGRP_NFTABLES
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_GENERATION = struct.Struct("!I")
_GEN_ID, _GEN_PID, _GEN_NAME = 1, 2, 3  # NFTA_GEN_*
_NEWGEN = 15  # NFT_MSG_NEWGEN


class Process:
    """A process that has changed rules: its id in the initial process namespace, and its name."""

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
        """Return a dict for JSON."""
        return {"pid": self.pid, "name": self.name}


class Commit:
    """One commit of nf_tables: its generation, the process that made it, its messages as (kind, family, message)."""

    __slots__ = ("generation", "by", "messages")

    def __init__(self, generation: int, by: Process | None, messages: list[tuple[int, int, bytes]]) -> None:
        self.generation = generation
        self.by = by
        self.messages = messages


class NftEvents(Listener):
    """A socket on which the kernel reports each commit of nf_tables in a network namespace (`NFNLGRP_NFTABLES`).

    It is read without waiting. Raises `AccessDenied` without CAP_NET_ADMIN.
    """

    def __init__(self, place: Place) -> None:
        self._begun: list[tuple[int, int, bytes]] = []
        super().__init__(place, (_GROUP_NFTABLES,), "can't watch nf_tables")

    def read(self) -> list[Commit]:
        """Return the commits since the last call. Raises `MessagesLost` if some were lost; the next call returns the
        later ones."""
        commits: list[Commit] = []
        try:
            for data in self.datagrams():
                commits += self._take(data)
        except MessagesLost:
            self.skip()
            raise
        return commits

    def skip(self) -> None:
        """Drop the messages that were not read."""
        self._begun = []
        super().skip()

    def _take(self, data: bytes) -> list[Commit]:
        """Read the messages of one datagram, and return the commits that end in it. A commit ends with
        `NFT_MSG_NEWGEN`."""
        commits = []
        for kind, nfproto, message in messages_of_datagram(data):
            if kind >> 8 != _SUBSYSTEM:
                continue
            if kind & 255 == _NEWGEN:
                told, self._begun = self._begun, []
                commits.append(_commit(message[20:], told))
            else:
                self._begun.append((kind & 255, nfproto, message))
        return commits


def _commit(data: bytes, told: list[tuple[int, int, bytes]]) -> Commit:
    said = fields(data)
    (generation,) = _GENERATION.unpack(said[_GEN_ID])
    by = None
    if _GEN_PID in said:
        (pid,) = _GENERATION.unpack(said[_GEN_PID])
        by = Process(pid, said.get(_GEN_NAME, b"").partition(b"\0")[0].decode("utf-8", "replace"))
    return Commit(generation, by, told)
