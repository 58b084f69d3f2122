"""What the kernel did with a packet of the bench."""

from __future__ import annotations

import shlex

from .. import _core
from ..tracing.headers import ICMP, ICMPV6, Header, read_packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..rule import Rule
    from ..tracing.steps import Packet, Step

_KINDS = {
    (ICMP, 3, 0): "icmp-net-unreachable",
    (ICMP, 3, 1): "icmp-host-unreachable",
    (ICMP, 3, 2): "icmp-proto-unreachable",
    (ICMP, 3, 3): "icmp-port-unreachable",
    (ICMP, 3, 9): "icmp-net-prohibited",
    (ICMP, 3, 10): "icmp-host-prohibited",
    (ICMP, 3, 13): "icmp-admin-prohibited",
    (ICMPV6, 1, 0): "icmp6-no-route",
    (ICMPV6, 1, 1): "icmp6-adm-prohibited",
    (ICMPV6, 1, 3): "icmp6-addr-unreachable",
    (ICMPV6, 1, 4): "icmp6-port-unreachable",
    (ICMPV6, 1, 5): "icmp6-policy-fail",
    (ICMPV6, 1, 6): "icmp6-reject-route",
}
"""The ICMP answers, by their names in `-j REJECT --reject-with`."""


class Left:
    """A packet that has left: its `interface`, its `header`, and its bytes (`data`)."""

    __slots__ = ("interface", "data", "_header")

    def __init__(self, interface: str, data: bytes) -> None:
        self.interface = interface
        self.data = data
        self._header: Header | None = None

    @property
    def header(self) -> Header:
        """The `Header` of the packet."""
        if self._header is None:
            self._header = read_packet(self.data)
            assert self._header is not None
        return self._header

    @property
    def src(self) -> str:
        """The source address."""
        return self.header.src

    @property
    def dst(self) -> str:
        """The destination address."""
        return self.header.dst

    @property
    def sport(self) -> int | None:
        """The source port, or None."""
        return self.header.sport

    @property
    def dport(self) -> int | None:
        """The destination port, or None."""
        return self.header.dport

    def __str__(self) -> str:
        return f"out {self.interface}: {self.header}"

    def __repr__(self) -> str:
        return f"<iptc packet {self}>"

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        return {"interface": self.interface, **self.header.as_dict()}


class Verdict:
    """What the kernel did with a packet.

    `verdict` is ACCEPT, DROP, REJECT, QUEUE, or LOST for a packet that no rule dropped and that did not arrive; then
    `reason` says why. `reject` is the kind of answer of a REJECT, as in `--reject-with`. `rule` is the `Rule` that
    dropped or rejected the packet, or for ACCEPT the rule of table filter; None if a policy did. `path` is the list of
    its `Step`s, and `nat` has the steps of NAT. `out` are the packets that have left because of it: the packet itself,
    and answers. `to` is where it has arrived: the name of an interface, or "host". `answers` are the packets that the
    host itself has made.
    """

    __slots__ = ("packets", "verdict", "reason", "reject", "step", "path", "out", "answers", "to", "sent")

    def __init__(
        self,
        sent: Header | None,
        packets: list[Packet],
        out: list[Left],
        answers: list[Packet],
        reason: str | None = None,
    ) -> None:
        self.sent = sent
        self.packets = packets
        self.out = out
        self.answers = answers
        self.path: list[Step] = [step for packet in packets for step in packet.path]
        last = packets[-1] if packets else None
        self.verdict = "LOST" if last is None else last.verdict
        self.reason = reason or (None if last is None else last.reason)
        self.step: Step | None = None
        for packet in packets:
            self.step = packet.step or self.step
        if last is not None and self.verdict not in ("ACCEPT", "LOST"):
            self.step = last.step
        self.reject = self._reject_kind() if self.verdict == "REJECT" else None
        self.to: str | None = None
        if self.verdict == "ACCEPT" and last is not None:
            self.to = last.out_interface if last.hook == "POSTROUTING" else "host"

    @property
    def rule(self) -> Rule | None:
        """The rule that gave the verdict; None if a policy did, or nothing."""
        return None if self.step is None else self.step.rule

    @property
    def nat(self) -> list[Step]:
        """The steps in tables `nat`."""
        return [step for packet in self.packets for step in packet.nat]

    @property
    def by(self) -> str:
        """What gave the verdict, in words."""
        if self.step is not None:
            return str(self.step)
        return self.reason or "no rule of filter"

    def _reject_kind(self) -> str | None:
        text = self.step.text if self.step is not None else None
        words = shlex.split(text) if text else []
        if "REJECT" in words:
            if "--reject-with" in words:
                return words[words.index("--reject-with") + 1]
            four = self.packets[-1].nfproto == _core.IPV4
            return "icmp-port-unreachable" if four else "icmp6-port-unreachable"
        for left in self.out:
            header = left.header
            if header.icmp is not None and (header.number, *header.icmp) in _KINDS:
                return _KINDS[header.number, *header.icmp]
            if "RST" in header.flags:
                return "tcp-reset"
        return None

    def __str__(self) -> str:
        kind = f" ({self.reject})" if self.reject else ""
        return f"{self.verdict}{kind}: {self.by}"

    def __repr__(self) -> str:
        return f"<iptc verdict {self}>"

    def way(self) -> str:
        """Return several lines: the packet, each step, and what has left."""
        lines = [f"packet  {self.sent}"] if self.sent is not None else []
        for packet in self.packets:
            ends = [f"in {packet.in_interface}"] if packet.in_interface else ["from this host"]
            ends += [f"out {packet.out_interface}"] if packet.out_interface else []
            lines.append(f"        {' '.join(ends)}{f' mark {packet.mark:#x}' if packet.mark else ''}")
            hook = None
            for step in packet.path:
                lines.append(f"  {step.hook if step.hook != hook else '':<12}{step}")
                hook = step.hook
        lines.append(f"verdict {self}")
        lines += [f"        {left}" for left in self.out]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        return {
            "schema": 1,
            "verdict": self.verdict,
            "reject": self.reject,
            "reason": self.reason,
            "rule": None if self.step is None else self.step.as_dict(),
            "to": self.to,
            "sent": None if self.sent is None else self.sent.as_dict(),
            "out": [left.as_dict() for left in self.out],
            "path": [step.as_dict() for step in self.path],
        }
