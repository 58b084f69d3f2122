"""`iptc check`: find out whether a text of iptables-save could be restored."""

from __future__ import annotations

from .arguments import add_command, wait_of
from .sources import Progress, add_source, sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from .arguments import _Commands


def add(commands: _Commands) -> None:
    """Describe the command."""
    check = add_command(
        commands,
        "check",
        run,
        both=True,
        help="check whether `iptc restore' would accept a file",
        description="Check whether `iptc restore' would accept FILE. Nothing is changed. If FILE has a mistake, "
        "print its line and what is wrong.",
    )
    check.add_argument(
        "--syntax",
        action="store_true",
        help="check only the syntax of the lines. This needs no privilege, and reads no table of the kernel",
    )
    add_source(
        check,
        "check the counters in FILE too",
        "check FILE as `iptc restore --noflush' reads it: its rules are added to the present ones",
    )


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
