"""Plays both sides of a connection, so that connection tracking sees a real one, for rules with ESTABLISHED and
RELATED."""

from __future__ import annotations

import struct

from ..errors import ParameterError, TransactionError
from . import packet_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..tracing.headers import Header
    from .verdict import Left, Verdict

_HOST = "host"


class _End:
    """One side: the interface that its packets come in by (None for the host), and what it sees of the connection."""

    __slots__ = ("interface", "src", "dst", "sport", "dport", "seq", "ack")

    def __init__(self, interface: str | None, header: Header, seq: int) -> None:
        self.interface = interface
        self.src, self.dst, self.sport, self.dport = header.src, header.dst, header.sport, header.dport
        self.seq, self.ack = seq, 0


class Flow:
    """A connection through a bench, or to or from its host.

    `Bench.flow` makes it, and sends its first packet. With TCP the handshake follows, if the first packet was accepted.
    `verdict` is the verdict of the last packet, and `verdicts` has those of all. `is_open`: whether each side has
    received a packet of the other. `send` sends data from the side that began, `answer` from the other side. `related`
    sends an error of ICMP about the connection from the other side.
    """

    def __init__(self, bench: Any, interface: str | None, packet: dict[str, Any]) -> None:
        self._bench: Any = bench
        self.verdicts: list[Verdict] = []
        self._number = next((name for name in ("tcp", "udp", "icmp") if packet.get(name) is not None), None)
        if self._number is None:
            raise ParameterError("a flow is one of tcp=, udp= or icmp=")
        self.is_open = False
        self._last: bytes | None = None
        self._other: _End | None = None
        first = bench.make(interface, **packet)
        self._data = first.data
        header = packet_bytes.header_of(first)
        assert header is not None
        self._one = _End(interface, header, 1000)
        self._note(bench.judge(interface, first, packet.get("mark", 0), quietly=True))
        if self.verdict.verdict != "ACCEPT":
            return
        self._other = self._opposite()
        if self._number == "tcp":
            self._shake_hands()

    @property
    def verdict(self) -> Verdict:
        """The verdict of the last packet."""
        return self.verdicts[-1]

    def _note(self, verdict: Verdict) -> Verdict:
        self.verdicts.append(verdict)
        return verdict

    def _opposite(self) -> _End:
        """The other side, as it sees the connection: behind NAT."""
        verdict = self.verdict
        last = verdict.packets[-1]
        header = last.after
        interface: str | None = None
        if verdict.to != _HOST:
            interface = verdict.to
            left: Left = verdict.out[0]
            header = left.header
            self._last = left.data
        assert header is not None
        end = _End(interface, header, 5000)
        end.src, end.dst, end.sport, end.dport = header.dst, header.src, header.dport, header.sport
        return end

    def _shake_hands(self) -> None:
        one, other = self._one, self._other
        assert other is not None
        one.seq, other.ack = 1001, 1001
        if not self._packet(other, "SYN,ACK", b""):
            return
        other.seq, one.ack = 5001, 5001
        self.is_open = self._packet(one, "ACK", b"")

    def _packet(self, end: _End, flags: str, payload: bytes) -> bool:
        """Send a packet from one side. Return whether it arrived."""
        bench = self._bench
        words: dict[str, Any] = {"src": end.src, "dst": end.dst, "payload": payload}
        if self._number == "icmp":
            words["icmp"] = "echo-request" if end is self._one else "echo-reply"
            words["echo"] = struct.unpack_from("!HH", self._data[20 if ":" not in end.src else 40 :], 4)
        else:
            words[str(self._number)], words["sport"] = end.dport, end.sport
        if self._number == "tcp":
            words.update(flags=flags, seq=end.seq, ack=end.ack)
        made = bench.make(end.interface, **words)
        self._note(bench.judge(end.interface, made, quietly=True))
        return self.verdict.verdict == "ACCEPT"

    def send(self, payload: bytes = b"data") -> Verdict:
        """Send data as the side that began. Return the `Verdict`."""
        return self._talk(self._one, self._other, payload)

    def answer(self, payload: bytes = b"data") -> Verdict:
        """Send data as the side that was asked. Return the `Verdict`."""
        if self._other is None:
            raise TransactionError(f"there is nobody to answer: the first packet did not arrive: {self.verdict}")
        return self._talk(self._other, self._one, payload)

    def _talk(self, end: _End, peer: _End | None, payload: bytes) -> Verdict:
        arrived = self._packet(end, "PSH,ACK", payload)
        if self._number == "tcp":
            end.seq += len(payload)
            if arrived and peer is not None:
                peer.ack = end.seq
        elif arrived and end is self._other:
            self.is_open = True
        return self.verdict

    def related(self, icmp: Any = "port-unreachable", src: str | None = None) -> Verdict:
        """Send an error of ICMP about the first packet, from the side that was asked, or from a router *src*."""
        if self._other is None:
            raise TransactionError(f"there is nobody to answer: the first packet did not arrive: {self.verdict}")
        about = self._last if self._last is not None else self._data
        end = self._other
        words = {"src": src or end.src, "dst": end.dst, "icmp": icmp, "payload": about[:128], "echo": (0, 0)}
        made = self._bench.make(end.interface, **words)
        return self._note(self._bench.judge(end.interface, made, quietly=True))

    def close(self) -> None:
        """End the connection from the side that began it, if it is a TCP connection."""
        if self._number == "tcp" and self.is_open:
            self._packet(self._one, "FIN,ACK", b"")
            self._one.seq += 1
            self.is_open = False
