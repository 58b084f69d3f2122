"""`iptc restore`: make the tables of a host what a text of iptables-save says."""

from __future__ import annotations

from .arguments import add_command, wait_of
from .sources import Progress, add_source, sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any


def add(commands: Any) -> None:
    """Describe the command."""
    restore = add_command(
        commands,
        "restore",
        run,
        both=True,
        help="make the rules what a file says, as iptables-restore does",
        description="Make the rules what FILE, in the format of iptables-save, says: table by table, each at once.",
    )
    restore.add_argument("-t", "--test", action="store_true", help="change nothing")
    add_source(restore, "set the counters of the file too", "keep the rules that are there")


def run(options: Namespace) -> int:
    """Run the command. Return the exit status."""
    from .. import ruleset

    settings = {"wait": wait_of(options), "netns": options.netns, "table": options.table}
    found = sources(options)
    if options.family == "both" and not options.test:
        # if one of the two families cannot be restored, neither is
        for ipv6, source in found:
            ruleset.check(source, ipv6, options.counters, not options.noflush, **settings)
    for ipv6, source in found:
        with Progress(source) as progress:
            ruleset.restore(
                source, ipv6, options.counters, not options.noflush, options.test, progress=progress, **settings
            )
    return 0
