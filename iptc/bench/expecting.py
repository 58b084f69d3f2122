"""Compares what the kernel did with a packet with what was expected."""

from __future__ import annotations

from ..errors import ParameterError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .verdict import Verdict

VERDICTS = ("ACCEPT", "DROP", "REJECT", "QUEUE", "LOST")

PACKET = frozenset(
    {
        "src",
        "dst",
        "tcp",
        "udp",
        "icmp",
        "protocol",
        "sport",
        "flags",
        "mark",
        "ttl",
        "tos",
        "payload",
        "raw",
        "version",
    }
)
"""The arguments of `Bench.send` that describe the packet."""

BESIDES = frozenset({"rule", "reject", "out", "to", "source"})
"""What can be expected besides the verdict: a part of the rule's text or place, the kind of answer, the interface by
which the packet leaves, and its destination and source when it leaves."""


def verdict_word(text: Any) -> str:
    """Return a verdict in capitals, or raise if it is none."""
    word = str(text).upper()
    if word not in VERDICTS:
        raise ParameterError(f"no verdict: {text!r}; {', '.join(VERDICTS)} are")
    return word


def complaints(verdict: Verdict, expected: str | None, besides: Mapping[str, Any]) -> list[str]:
    """Return sentences about what differs from what was expected, or [] if nothing does."""
    found = []
    if expected is not None and verdict.verdict != expected:
        found.append(f"{expected} was expected, and it is {verdict}")
    for what in besides:
        wanted = besides[what]
        if wanted is None:
            continue
        if what == "rule" and str(wanted) not in str(verdict.step or ""):
            found.append(f"the rule {wanted!r} was expected, and it is {verdict.by}")
        elif what == "reject" and verdict.reject != wanted:
            found.append(f"the answer {wanted} was expected, and it is {verdict.reject or 'none'}")
        elif what == "out" and verdict.to != wanted:
            found.append(f"it should leave by {wanted}, and " + (f"goes to {verdict.to}" if verdict.to else "does not"))
        elif what in ("to", "source"):
            found += _end_complaints(verdict, what, str(wanted))
    return found


def _end_complaints(verdict: Verdict, what: str, wanted: str) -> list[str]:
    """Return what differs at one end of the packet from *wanted*: ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT."""
    name = "destination" if what == "to" else "source"
    last = verdict.packets[-1].after if verdict.packets else None
    if last is None:
        return [f"the {name} {wanted} was expected, and there is no packet"]
    address, port = (last.dst, last.dport) if what == "to" else (last.src, last.sport)
    for left in verdict.out[:1] if verdict.verdict == "ACCEPT" and verdict.to != "host" else ():
        address, port = (left.dst, left.dport) if what == "to" else (left.src, left.sport)
    if wanted in (address, f"{address}:{port}", f"[{address}]:{port}"):
        return []
    return [f"the {name} {wanted} was expected, and it is {address}{'' if port is None else f' port {port}'}"]
