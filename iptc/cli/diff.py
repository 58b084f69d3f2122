"""`iptc diff`: shows how two rulesets differ."""

from __future__ import annotations

from .arguments import add_command
from .rulesets import DIFFERENT, SAME, TROUBLE, add_format, family_of, ruleset_of, show, trouble_is

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from .arguments import _Commands


def add(commands: _Commands) -> None:
    """Describe the command."""
    diff = add_command(
        commands,
        "diff",
        run,
        both=True,
        family=None,
        help="print the differences between two rulesets",
        description="Print which changes lead from ruleset A to ruleset B. Each is a file in the format of "
        "iptables-save, `-' for standard input, `live' for the rules in the kernel, or `live:NETNS' "
        "for those of another network namespace. If one is a file, only the tables of the file are "
        "compared.",
        epilog="Exit status: 0 A and B are equal, 1 they differ, 2 error.",
    )
    diff.add_argument("a", metavar="A", help="a file, - or live[:NETNS]")
    diff.add_argument("b", metavar="B", help="a file, - or live[:NETNS]")
    add_format(diff)


@trouble_is(TROUBLE)
def run(options: Namespace) -> int:
    """Run the command. Return the exit status: 0 if the rulesets are equal, 1 if they differ."""
    from ..errors import ParameterError
    from ..managing.difference import diff

    if options.a == options.b == "-":
        raise ParameterError("standard input can be read only once")
    names = options.a, options.b
    sides: list[Any] = [None if _is_live(name) else ruleset_of(options, name, options.netns) for name in names]
    for number, name in enumerate(names):
        if sides[number] is None:
            sides[number] = _live(options, name, sides[1 - number] if not _is_live(names[1 - number]) else None)
    found = diff(*sides)
    show(options, found, names)
    return DIFFERENT if found else SAME


def _is_live(name: Any) -> Any:
    return name == "live" or name.startswith("live:")


def _live(options: Namespace, name: Any, beside: Any) -> Any:
    """Return the `Ruleset` of the kernel. If *beside* is the ruleset of a file, only the tables of that file are
    read."""
    from ..managing.ruleset_value import Ruleset
    from .arguments import netns

    place = netns(name.partition(":")[2]) if ":" in name else options.netns
    live = Ruleset.live(family_of(options), netns=place)
    return live if beside is None else live.only([(table.nfproto, table.name) for table in beside.tables])
