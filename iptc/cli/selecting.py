"""The arguments of the commands that watch counters: which tables, chains and rules."""

from __future__ import annotations

from .arguments import FAMILIES
from .output import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable
    from typing import Any


def add_selection(command: ArgumentParser, tables: Any) -> None:
    """Add the arguments that select tables, chains and rules. *tables* names the tables that are watched without
    `-t`."""
    command.add_argument(
        "-t", "--table", action="append", metavar="TABLE", help=f"only this table; can be repeated. Default: {tables}"
    )
    command.add_argument(
        "--chain", action="append", default=[], metavar="GLOB", help="only chains whose name matches; can be repeated"
    )
    command.add_argument(
        "--comment",
        action="append",
        default=[],
        metavar="GLOB",
        help="only rules whose comment matches; can be repeated",
    )
    command.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="REGEX",
        help="only rules whose text, as iptables-save prints it, contains a match; can be repeated",
    )
    command.add_argument(
        "--source",
        choices=("socket", "bpf", "auto"),
        default="socket",
        help="how the counters are read. socket: with the calls of the firewall; bpf: with eBPF; auto: "
        "with eBPF where that is possible. Default: socket",
    )


def sources_of(options: Namespace, lock: bool = False) -> Any:
    """Return the `Sources` that *options* select."""
    from ..monitoring.selection import Selection
    from ..monitoring.sources import Sources

    selection = Selection(options.table, options.chain, options.comment, options.rule, FAMILIES[options.family])
    return Sources(selection, options.netns, options.all_netns, options.backend, lock, options.source)


class Reasons:
    """Tells the user once why a table is read in another way than asked for."""

    def __init__(self) -> None:
        self._said: dict[tuple[str | None, bool, str], str] = {}

    def tell(self, tables: Iterable[Any]) -> None:
        """Write to standard error what *tables*, readings or samples, say that was not said before."""
        for text in self.new(tables):
            complain(text)

    def new(self, tables: Iterable[Any]) -> list[str]:
        """Return what *tables* say that was not said before."""
        texts = []
        for its in tables:
            key = getattr(its, "netns", None), its.ipv6, its.table
            if its.source_reason and its.source_reason != self._said.get(key):
                where = "" if key[0] is None else f" of network namespace {key[0]}"
                family = "IPv6" if its.ipv6 else "IPv4"
                texts.append(f"{family} table {its.table}{where}: source {its.source}: {its.source_reason}")
            self._said[key] = its.source_reason or ""
        return texts
