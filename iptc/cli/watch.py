"""`iptc watch`: print changes of the rules as they happen, and keep a journal of them."""

from __future__ import annotations

import os
import signal

from .arguments import add_command, add_compare, positive
from .output import write
from .signals import Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping
    from typing import Any

    from ..watching.journal import Journal
    from ..watching.watch import TableChange, Watch
    from .arguments import _Commands


def add(commands: _Commands) -> None:
    """Describe the command."""
    watch = add_command(
        commands,
        "watch",
        run,
        both=True,
        headings=False,
        family="both",
        help="print changes of the rules as they happen, and which process made them",
        description="Print changes of the rules as they happen: which rules were added, removed or moved, and "
        "which process did it, if that is known. Only the tables of iptables are watched. With --log "
        "the changes are also recorded in a journal, which `iptc log' and `iptc show' read. Nothing "
        "is changed.",
        epilog="Exit status: 0 if SIGTERM ended it; else as of other commands.",
    )
    watch.add_argument("-t", "--table", action="append", default=[], help="only this table; can be repeated")
    watch.add_argument("--json", action="store_true", help="print one JSON object per line")
    watch.add_argument("--count", type=positive, metavar="N", help="end after N changes")
    add_compare(watch)
    watch.add_argument("--log", metavar="DIR", help="record all changes in a journal in this folder")
    watch.add_argument("-q", "--quiet", action="store_true", help="print nothing")


def run(options: Namespace) -> int:
    """Run the command. Return the exit status."""
    from ..watching.watch import Watch

    backend = os.environ.get("IPTC_BACKEND") if options.backend else None
    try:
        with Watch("legacy" if backend == "libiptc" else backend, options.netns, options.compare or 60.0) as changes:
            if options.log is None:
                return _print_all(options, changes, None)
            from ..watching.journal import Journal

            with Journal(options.log) as journal:
                journal.begin(changes.rulesets())
                return _print_all(options, changes, journal)
    except Stopped as stop:
        if stop.number == signal.SIGTERM:
            return 0
        raise


def _print_all(options: Namespace, changes: Watch, journal: Journal | None) -> int:
    done = 0
    while True:
        found = changes.wait()
        if journal is not None:
            journal.write(found, changes.rulesets())
        for change in found:
            if not _is_asked_for(options, change):
                continue
            if not options.quiet:
                write(_said(options, change))
            done += 1
            if done == options.count:
                return 0


def family_names(options: Namespace) -> tuple[str, ...]:
    """Return the families that were asked for, as "ip" and "ip6"."""
    return {"4": ("ipv4",), "6": ("ipv6",), "both": ("ipv4", "ipv6")}[options.family]


def _is_asked_for(options: Namespace, change: TableChange) -> bool:
    return change.family in family_names(options) and (not options.table or change.table in options.table)


def _said(options: Namespace, change: TableChange) -> str:
    if options.json:
        import json

        return json.dumps(change.as_dict()) + "\n"
    return change_text(change.as_dict())


def change_text(said: Mapping[str, Any]) -> str:
    """Return a change, given as for JSON, as lines for people."""
    if said.get("unwatched"):
        return f"{said['when']} the rules were changed while nobody watched\n"
    by = "somebody" if said["by"] is None else f"{said['by']['name']} ({said['by']['pid']})"
    several = ", several changes" if said["several"] else ""
    lines = [f"{said['when']} {said['backend']} {said['family']} {said['table']} by {by}{several}"]
    lines += [f"  -P {row['chain']} {row['to']}    # was {row['from']}" for row in said["policy"]]
    lines += [f"  -N {row['chain']}" for row in said["chains_added"]]
    lines += [_row("-", row["chain"], row["rule"], f"was {row['number']}") for row in said["removed"]]
    lines += [_row("+", row["chain"], row["rule"], f"is {row['number']}") for row in said["added"]]
    for row in said["changed"]:
        lines.append(_row("-", row["chain"], row["old_rule"], f"was {row['from']}"))
        lines.append(_row("+", row["chain"], row["rule"], f"is {row['number']}"))
    lines += [_row(" ", row["chain"], row["rule"], f"{row['from']} is {row['number']}") for row in said["moved"]]
    lines += [f"  -X {row['chain']}" for row in said["chains_removed"]]
    return "".join(f"{line}\n" for line in lines)


def _row(sign: str, chain: str, rule: str, note: str) -> str:
    return f"{sign} -A {chain} {rule}".rstrip() + f"    # {note}"
