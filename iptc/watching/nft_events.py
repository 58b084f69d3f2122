"""What nf_tables tells of each commit: its messages, and which process made it."""

from __future__ import annotations

import struct

from .multicast import Listener, MessagesLost, fields, messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..namespace import Place

_GROUP_NFTABLES = 7  # NFNLGRP_NFTABLES
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_GENERATION = struct.Struct("!I")
_GEN_ID, _GEN_PID, _GEN_NAME = 1, 2, 3  # NFTA_GEN_*
_NEWGEN = 15  # NFT_MSG_NEWGEN


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


class NftEvents(Listener):
    """A socket on which the kernel tells of each commit of nf_tables in a network namespace.

    `AccessDenied` without CAP_NET_ADMIN. It is read without waiting.
    """

    def __init__(self, place: Place) -> None:
        self._begun: list[tuple[int, int, bytes]] = []
        super().__init__(place, (_GROUP_NFTABLES,), "can't watch nf_tables")

    def read(self) -> list[Commit]:
        """The commits that were told of since; `MessagesLost` where some were not, after which the next call goes
        on."""
        commits: list[Commit] = []
        try:
            for data in self.datagrams():
                commits += self._take(data)
        except MessagesLost:
            self.skip()
            raise
        return commits

    def skip(self) -> None:
        """Drop what waits to be read."""
        self._begun = []
        super().skip()

    def _take(self, data: bytes) -> list[Commit]:
        """Sort out the messages of one datagram; a commit ends with `NFT_MSG_NEWGEN`."""
        commits = []
        for kind, nfproto, message in messages(data):
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
