"""`iptc check`: find out whether a text of iptables-save could be restored."""

from __future__ import annotations

from .arguments import add_command, wait_of
from .sources import Progress, add_source, sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any


def add(commands: Any) -> None:
    """Describe the command."""
    check = add_command(
        commands,
        "check",
        run,
        both=True,
        help="find out whether a file could be restored",
        description="Read FILE as `restore' would, change nothing, and say what is wrong with it, if anything is.",
    )
    check.add_argument(
        "--syntax", action="store_true", help="look at the lines alone: needs no privilege and no kernel table"
    )
    add_source(check, "look at the counters of the file too", "for a file that is added to the rules that are there")


def run(options: Namespace) -> int:
    """Run the command. Return the exit status."""
    from .. import ruleset

    for ipv6, source in sources(options):
        with Progress(source) as progress:
            settings = {"table": options.table, "progress": progress}
            if options.syntax:
                ruleset.parse(source, ipv6, options.counters, not options.noflush, **settings)
            else:
                settings |= {"wait": wait_of(options), "netns": options.netns}
                ruleset.check(source, ipv6, options.counters, not options.noflush, **settings)
    return 0
