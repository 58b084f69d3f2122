"""`iptc why`: prints what the rules do with a packet, and which rule decides."""

from __future__ import annotations

import json

from .arguments import add_command
from .layouts import FIRST, add_layout, interfaces_of
from .output import complain, write
from .rulesets import TROUBLE, trouble_is

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from .arguments import _Commands

_PORTS = ("tcp", "udp")
_ICMP = ("icmp", "icmpv6", "ipv6-icmp")


def add(commands: _Commands) -> None:
    """Describe the command."""
    why = add_command(
        commands,
        "why",
        run,
        help="print what the rules do with a packet, and which rule decides",
        description="Print what the rules do with a packet, and which rule decides. One packet is sent through a "
        "copy of the live rules, or through RULES, in a private network namespace that is like this "
        "host. No packet leaves it, and nothing on this host is changed. With RULES this needs no "
        "root.",
        epilog="Exit status: 0 for any answer, 2 error.",
    )
    why.add_argument(
        "rules", nargs="?", metavar="RULES", help="a file in the format of iptables-save. Default: the live rules"
    )
    why.add_argument("-p", "--protocol", default="tcp", help="tcp, udp, icmp, icmpv6 or another protocol. Default: tcp")
    why.add_argument(
        "-s",
        "--source",
        metavar="ADDRESS",
        help="the source address. Default: an address in the network of the interface",
    )
    why.add_argument("-d", "--destination", metavar="ADDRESS", help="the destination address. Default: this host")
    why.add_argument("--sport", metavar="PORT", help="the source port. Default: 40001")
    why.add_argument("--dport", metavar="PORT", help="the destination port; TCP and UDP need one")
    why.add_argument(
        "-i",
        "--in-interface",
        metavar="NAME",
        help="the interface at which the packet comes in. Default: this host sends the packet",
    )
    why.add_argument(
        "--icmp-type", default="echo-request", metavar="TYPE", help="a name or TYPE/CODE. Default: echo-request"
    )
    why.add_argument("--tcp-flags", metavar="FLAGS", help="such as SYN,ACK. Default: SYN")
    why.add_argument("--ttl", type=int, metavar="N", help="TTL or hop limit. Default: 64")
    why.add_argument("--tos", type=_number, default=0, metavar="N", help="TOS or traffic class. Default: 0")
    why.add_argument(
        "--mark", type=_number, default=0, metavar="N", help="the mark of a packet that this host sends. Default: 0"
    )
    add_layout(why, "those of this host", f"those of this host; with --interface, {FIRST}")
    why.add_argument("-v", "--verbose", action="store_true", help="print all rules and policies that the packet meets")
    why.add_argument("--json", action="store_true", help="print one JSON object")
    why.add_argument(
        "--live", action="store_true", help="wait for real packets of this kind on this host, as `iptc trace' does"
    )


def _number(text: str) -> int:
    return int(text, 0)


@trouble_is(TROUBLE)
def run(options: Namespace) -> int:
    """Print what the rules do with the packet that *options* describe. Return the exit status."""
    if options.live:
        return _trace(options)
    from ..bench.like_host import living_bench

    packet = _packet(options)
    bench, notes = living_bench(
        options.rules,
        netns=options.netns,
        interfaces=interfaces_of(options),
        routes=options.route,
        rules6=options.rules6,
        backend=options.backend,
        ipv6=_is_ipv6(options),
        named=[options.in_interface] if options.in_interface else [],
    )
    with bench:
        verdict = bench.send(options.in_interface, **packet)
    for note in [*notes, *bench.lacking]:
        complain(f"note: {note}")
    if options.json:
        write(json.dumps(verdict.as_dict()) + "\n")
    elif options.verbose:
        write(f"{verdict.way()}\n")
    else:
        write("".join(f"{line}\n" for line in [verdict, *verdict.nat, *verdict.out]))
    return 0


def _is_ipv6(options: Namespace) -> bool:
    return options.family == "6" or any(":" in (end or "") for end in (options.source, options.destination))


def _packet(options: Namespace) -> dict[str, Any]:
    """The packet, as `Bench.send` takes it."""
    from ..errors import ParameterError

    protocol = options.protocol.lower()
    said: dict[str, Any] = {"src": options.source, "dst": options.destination, "ttl": options.ttl, "tos": options.tos}
    said["mark"] = options.mark
    if protocol in _PORTS:
        if options.dport is None:
            raise ParameterError(f"a packet of {protocol} goes to a port: --dport")
        said[protocol] = options.dport
        said["sport"] = options.sport
        said["flags"] = options.tcp_flags
    elif options.dport is not None or options.sport is not None:
        raise ParameterError(f"a packet of {protocol} has no ports")
    elif protocol in _ICMP:
        said["icmp"] = options.icmp_type
    else:
        said["protocol"] = protocol
    if _is_ipv6(options) and said["src"] is None and said["dst"] is None:
        said["version"] = 6
    return said


def _trace(options: Namespace) -> int:
    """Wait for such packets, as `iptc trace` does."""
    from . import trace

    words: list[str] = ["-p", options.protocol]
    for option, value in (
        ("-s", options.source),
        ("-d", options.destination),
        ("--sport", options.sport),
        ("--dport", options.dport),
        ("-i", options.in_interface),
    ):
        words += [option, value] if value is not None else []
    options.specification = words
    options.family = "6" if _is_ipv6(options) else "4"
    options.count, options.timeout, options.limit = None, None, None
    return trace.run(options)
