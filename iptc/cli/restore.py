"""`iptc restore`: make the tables of a host what a text of iptables-save says."""

from __future__ import annotations

from .arguments import add_command, wait_of
from .sources import Progress, add_source, sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from .arguments import _Commands


def add(commands: _Commands) -> None:
    """Describe the command."""
    restore = add_command(
        commands,
        "restore",
        run,
        both=True,
        help="replace the rules by those of a file, as iptables-restore does",
        description="Replace the rules by those of FILE, which has the format of iptables-save. Each table is "
        "replaced in one step, one table after the other.",
    )
    restore.add_argument(
        "-t", "--test", action="store_true", help="check FILE as iptables-restore --test does, and change nothing"
    )
    add_source(restore, "set the counters to those in FILE", "keep the present rules, and add those of FILE")


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
