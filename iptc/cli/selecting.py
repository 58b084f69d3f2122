"""The arguments of the commands that watch counters: which tables, chains and rules."""

from __future__ import annotations

from .arguments import FAMILIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any


def add_selection(command: ArgumentParser, tables: Any) -> None:
    """Add the arguments that select tables, chains and rules. *tables* names the tables that are watched without
    `-t`."""
    command.add_argument(
        "-t", "--table", action="append", metavar="TABLE", help=f"only this table; repeatable ({tables})"
    )
    command.add_argument(
        "--chain", action="append", default=[], metavar="GLOB", help="only chains of such a name; repeatable"
    )
    command.add_argument(
        "--comment", action="append", default=[], metavar="GLOB", help="only rules with such a comment; repeatable"
    )
    command.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="REGEX",
        help="only rules whose text, as iptables-save prints it, has a part like this; repeatable",
    )
    command.add_argument(
        "--source",
        choices=("socket", "bpf", "auto"),
        default="socket",
        help="how counters are read: by socket, by eBPF, or by eBPF where that can be (socket)",
    )


def sources_of(options: Namespace, lock: bool = False) -> Any:
    """Return the `Sources` that *options* select."""
    from ..monitoring.selection import Selection
    from ..monitoring.sources import Sources

    selection = Selection(options.table, options.chain, options.comment, options.rule, FAMILIES[options.family])
    return Sources(selection, options.netns, options.all_netns, options.backend, lock, options.source)
