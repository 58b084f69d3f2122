"""`iptc top`: the rates of rules and chains, live."""

from __future__ import annotations

import argparse
import json
import locale
import sys
import time

from .arguments import FAMILIES, add_command, positive
from .output import is_terminal, printable, write
from .selecting import Reasons, add_selection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from .._pace import Pace
    from ..monitoring.board import Board
    from ..monitoring.clock import Clock
    from ..monitoring.sampler import Poller
    from ..monitoring.samples import Sample
    from .arguments import _Commands

SCHEMA = 1


def add(commands: _Commands) -> None:
    """Describe the command."""
    top = add_command(
        commands,
        "top",
        run,
        both=True,
        headings=False,
        family="both",
        help="show the packets and bytes per second of each rule, live",
        description="Show the packets and bytes per second of each rule and policy, live. Without a terminal, or "
        "with --once, the output is plain text. A rule is marked with N if it is new, R if its "
        "counters were reset, and M if it was moved.",
    )
    add_selection(top, "the tables in use")
    top.add_argument(
        "--interval", type=_interval, default=1.0, metavar="SECONDS", help="the time between two readings. Default: 1"
    )
    top.add_argument(
        "--sort",
        choices=["packets", "bytes", "place"],
        default="packets",
        help="sort by packets, by bytes, or as in the table. Default: packets",
    )
    top.add_argument("--drops", action="store_true", help="show rules and policies that drop packets first")
    top.add_argument("--by-chain", action="store_true", help="show the sum of each chain instead of its rules")
    top.add_argument("--no-idle", action="store_true", help="hide rules that count nothing")
    top.add_argument("--once", action="store_true", help="print one interval as plain text, and end")
    top.add_argument("--count", type=positive, metavar="N", help="end after N intervals")
    top.add_argument("--json", action="store_true", help="print one JSON object per interval, each on a line")
    top.add_argument(
        "--width",
        type=positive,
        metavar="COLUMNS",
        help="the width of plain text. Default: as wide as the longest rule",
    )


def run(options: Namespace) -> int:
    """Run the command. Return the exit status."""
    from .._pace import Pace
    from ..monitoring.board import Board
    from ..monitoring.clock import Clock
    from ..monitoring.sampler import Sampler
    from ..monitoring.selection import Selection

    families = FAMILIES[options.family]
    selection = Selection(options.table, options.chain, options.comment, options.rule, families)
    board = Board(selection, options.interval, options.sort)
    board.drops_first, board.by_chain, board.idle = options.drops, options.by_chain, not options.no_idle
    ipv6 = None if len(families) > 1 else families[0]
    sampler = Sampler(options.interval, options.table, options.netns, ipv6, options.backend, options.source)
    clock = Clock()
    poller = sampler.poller()
    try:
        pace = Pace(options.interval, clock.now())
        if options.once or options.json or not is_terminal(sys.stdout):
            return _as_text(options, board, poller, clock, pace)
        from .viewing import LiveView

        return LiveView(options, board, poller, clock, pace).run()
    finally:
        poller.close()


def title_of(options: Namespace) -> str:
    """Return the beginning of the first line."""
    place = "" if options.netns is None else f" {options.netns}"
    return f"iptc top{place}"


def bars() -> str:
    """Return the characters of the trend that can be printed in this locale."""
    from ..monitoring import drawing

    return drawing.BARS if "utf" in locale.getpreferredencoding(False).lower() else drawing.ASCII_BARS


def _interval(text: str) -> float:
    value = float(text)
    if not 0.01 <= value < 1e6:
        raise argparse.ArgumentTypeError("must be at least 0.01 seconds")
    return value


def _as_text(options: Namespace, board: Board, poller: Poller, clock: Clock, pace: Pace) -> int:
    done = 0
    reasons = Reasons()
    while True:
        time.sleep(max(0, pace.due - clock.now()) / 1e9)
        sample = poller.poll()
        pace.go_on(clock.now())
        board.add(sample)
        reasons.tell(sample)
        write(_as_json(board, sample) if options.json else _as_table(options, board))
        done += 1
        if options.once or done == options.count:
            return 0


def _as_table(options: Namespace, board: Board) -> str:
    """Return unrounded numbers and whole rules, for programs."""
    rows, _ = board.rows()
    cells = [[f"{row.packets:.1f}", f"{row.bytes:.1f}"] for row in rows]
    heads = ["pkt/s", "bytes/s"]
    widths = [max(8, len(head), *(len(row[i]) for row in cells)) for i, head in enumerate(heads)]
    chain = max([5, *(len(row.chain) for row in rows)])
    lines = [f"- {heads[0]:>{widths[0]}} {heads[1]:>{widths[1]}} ip table    {'chain':{chain}} rule"]
    for row, (packets, size) in zip(rows, cells):
        ip = "6" if row.ipv6 else "4"
        numbers = f"{row.mark or '-'} {packets:>{widths[0]}} {size:>{widths[1]}}"
        text = row.text.replace("\n", "\\n")
        lines.append(f"{numbers} {ip:2} {row.table:8} {row.chain:{chain}} {text}")
    if options.width is not None:
        from ..monitoring.drawing import fitted

        lines = [fitted(line, options.width).rstrip() for line in lines]
    return "".join(f"{line}\n" for line in lines) + ("" if options.once else "\n")


def _as_json(board: Board, sample: Sample) -> str:
    rows, _ = board.rows()
    return (
        json.dumps(
            {
                "schema": SCHEMA,
                "time": sample.time[1],
                "seconds": sample.seconds,
                "rows": [
                    {
                        "ip_version": 6 if row.ipv6 else 4,
                        "table": row.table,
                        "chain": row.chain,
                        "position": row.position,
                        "rule": row.text,
                        "packets_per_second": row.packets,
                        "bytes_per_second": row.bytes,
                        "mark": row.mark,
                    }
                    for row in rows
                ],
                "events": [str(event) for event in sample.events],
                "errors": [str(error) for error in sample.errors],
                "sources": [
                    {
                        "ip_version": 6 if table.ipv6 else 4,
                        "table": table.table,
                        "source": table.source,
                        "source_reason": table.source_reason,
                    }
                    for table in sample
                ],
            }
        )
        + "\n"
    )


def safe(text: str) -> str:
    """Return *text* as one line, with control characters escaped."""
    return printable(text).replace("\n", "\\n")
