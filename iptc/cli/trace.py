"""`iptc trace`: prints packets as they arrive, and the rules that matched them."""

from __future__ import annotations

import os
import signal
import time

from .arguments import add_command, positive, seconds
from .output import complain, write
from .signals import Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from ..tracing.steps import Packet
    from ..tracing.trace import Trace
    from .arguments import _Commands

_OPTIONS = {
    "--netns": 1,
    "--backend": 1,
    "--json": 0,
    "--count": 1,
    "--timeout": 1,
    "--limit": 1,
    "-v": 0,
    "--verbose": 0,
    "-4": 0,
    "--ipv4": 0,
    "-6": 0,
    "--ipv6": 0,
    "-a": 0,
    "--both": 0,
    "-h": 0,
    "--help": 0,
}
"""option of the command -> how many words follow it. The specification begins after these options."""

_ANYWHERE = frozenset({"--netns", "--backend", "--json", "--count", "--timeout", "-v", "--verbose"})
"""The options that may also stand within or after the specification, since iptables has no options of these names."""


def add(commands: _Commands) -> None:
    """Describe the command."""
    trace = add_command(
        commands,
        "trace",
        run,
        both=True,
        headings=False,
        family="both",
        help="print packets as they arrive, and the rules that matched them",
        usage="iptc trace [options] [SPECIFICATION]",
        description="Print packets as they arrive, with the rules and policies that matched them, and the "
        "verdict. SPECIFICATION selects the packets. It is a rule of iptables without a target, such "
        "as `-p tcp --dport 22 -i eth0'. The tables of iptables are not changed.",
        epilog="Exit status: 0 if a packet was printed, or SIGTERM ended it; 1 if --timeout ended it before "
        "the first packet; else as of other commands.",
    )
    trace.set_defaults(specification=[])
    trace.add_argument("--json", action="store_true", help="print one JSON object per line")
    trace.add_argument("--count", type=positive, metavar="N", help="end after N packets")
    trace.add_argument("--timeout", type=seconds, metavar="SECONDS", help="end after SECONDS")
    trace.add_argument(
        "--limit", type=limit, metavar="N", help="print at most N packets per second; 0 means all. Default: 100"
    )
    trace.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="print also policies that accept, and where a chain ends without a verdict",
    )
    split_specification(trace)


def limit(text: str) -> int:
    """Return the whole number that `--limit` gives."""
    value = int(text)
    if not 0 <= value < 1 << 32:
        raise ValueError(text)
    return value


def split_specification(parser: Any) -> None:
    """Let *parser* put all words that are not options of the command into `specification`."""
    plain = parser.parse_known_args

    def parse(words: Any = None, namespace: Any = None) -> Any:
        ours, specification = _split(list(words or []))
        namespace, rest = plain(ours, namespace)
        namespace.specification = [*specification, *rest]
        return namespace, []

    parser.parse_known_args = parse


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Return (the options of the command, the words of the specification)."""
    ours: list[str] = []
    specification: list[str] = []
    while words:
        word = words.pop(0)
        name, equals, _ = word.partition("=")
        if word == "--":
            return ours, [*specification, *words]
        if name in _OPTIONS and (not specification or name in _ANYWHERE):
            ours.append(word)
            if not equals:
                follow, words = words[: _OPTIONS[name]], words[_OPTIONS[name] :]
                ours += follow
        elif not specification and " " in word:
            # one word with all of it
            specification += _words(word)
        else:
            specification.append(word)
    return ours, specification


def _words(text: str) -> list[str]:
    from ..language.words import split_words

    return [word.decode("utf-8", "surrogateescape") for word, _ in split_words(os.fsencode(text))]


def run(options: Namespace) -> int:
    """Trace the packets that *options* select. Return the exit status."""
    from ..tracing.trace import Trace

    backend = os.environ.get("IPTC_BACKEND") if options.backend else None
    ipv6 = {"4": False, "6": True, "both": None}[options.family]
    most = 100 if options.limit is None else options.limit or None
    try:
        with Trace(
            options.specification, options.netns, "legacy" if backend == "libiptc" else backend, most, ipv6=ipv6
        ) as packets:
            try:
                return print_packets(options, packets)
            finally:
                if packets.lost:
                    complain(f"{packets.lost} reports came faster than they were read, and are lost")
    except Stopped as stop:
        if stop.number == signal.SIGTERM:
            return 0
        raise


def print_packets(options: Namespace, packets: Trace) -> int:
    """Print the packets until the count or the time of *options* is reached. Return the exit status."""
    end = None if options.timeout is None else time.monotonic() + options.timeout
    done = 0
    while True:
        left = None if end is None else end - time.monotonic()
        for packet in packets.wait(left if left is None else max(left, 0.0)):
            write(_said(options, packet))
            done += 1
            if done == options.count:
                return 0
        if left is not None and left <= 0:
            return 0 if done else 1


def _said(options: Namespace, packet: Packet) -> str:
    if options.json:
        import json

        return json.dumps(packet.as_dict()) + "\n"
    return packet_text(packet, options.verbose)


def packet_text(packet: Packet, verbose: bool) -> str:
    """Return a packet and its way as lines for people."""
    interfaces = "".join(
        f"{word} {name} "
        for word, name in (("in", packet.in_interface), ("out", packet.out_interface))
        if name is not None
    )
    lines = [f"{packet.time} {interfaces}{packet.before}: {_verdict(packet)}"]
    deciding = packet.step
    header = packet.before
    for step in packet.path:
        if step.header is not None and header is not None and step.header.addresses != header.addresses:
            header = step.header
            lines.append(f"  {'':11} now {header}")
        plain = step.kind != "rule" and step.verdict in ("ACCEPT", "RETURN") and step is not deciding
        if verbose or not plain:
            mark = f"  (mark {step.mark:#x})" if verbose and step.mark else ""
            lines.append(f"  {step.hook or '':11} {step}{mark}")
    if packet.after is not None and header is not None and packet.after.addresses != header.addresses:
        lines.append(f"  {'':11} now {packet.after}")
    if not packet.sure:
        lines.append(f"  {'':11} not sure: other packets looked the same at that time")
    return "".join(f"{line}\n" for line in lines)


def _verdict(packet: Packet) -> str:
    return packet.verdict if packet.reason is None else f"{packet.verdict}: {packet.reason}"
