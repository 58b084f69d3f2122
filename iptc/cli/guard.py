"""`iptc guard`: puts the rules of an owner back whenever another program breaks them."""

from __future__ import annotations

import os
import signal

from ..errors import ParameterError
from .arguments import add_command, add_compare, add_wait, wait_of
from .output import write
from .owned import add_own_table
from .signals import Stopped
from .sources import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from ..owning.guard import Guard, Heal
    from ..owning.owned import Owned
    from .arguments import _Commands


def add(commands: _Commands) -> None:
    """Describe the command."""
    guard = add_command(
        commands,
        "guard",
        run,
        both=True,
        family=None,
        help="put the rules of an owner back whenever another program breaks them",
        description="Put the rules of an owner in their place, and put them back whenever another program has "
        "broken them. It runs until it is ended; the rules stay. FILE defines the rules, as for `iptc "
        "owned'. The owner is --name, or `owner' in a TOML file. If NAME is given instead of a file, "
        "the rules of this owner are kept as they are now.",
        epilog="Exit status: 0 if SIGTERM ended it; else as of other commands.",
    )
    guard.add_argument("what", metavar="FILE|NAME", help="a file; if there is no file of this name, an owner")
    guard.add_argument("--name", help="the owner of the rules in FILE")
    guard.add_argument(
        "--comment", metavar="TEXT", help="the comments of the owner's rules begin with TEXT. Default: NAME:"
    )
    guard.add_argument(
        "--limit",
        metavar="N/SECONDS",
        default="100/10",
        help="if the rules were put back N times within SECONDS, pause for a while. Default: 100/10",
    )
    add_compare(guard)
    guard.add_argument(
        "--textfile", metavar="PATH", help="write metrics to this file, for the textfile collector of node_exporter"
    )
    guard.add_argument("-q", "--quiet", action="store_true", help="do not print what was put back")
    add_own_table(guard)
    add_wait(guard, True, "wait at most SECONDS for the xtables lock. Default: wait for ever")


def run(options: Namespace) -> int:
    """Run the command. Return the exit status."""
    owned = _owned(options)

    def tell(heal: Heal) -> None:
        _write_metrics(options, owned, guard)
        if not options.quiet:
            write(f"{owned.name}: {heal}\n")

    guard = owned.guard(_limit(options.limit), tell, compare=options.compare or 60.0, wait=wait_of(options))
    try:
        guard.open()
        _write_metrics(options, owned, guard)
        guard.run()
    except Stopped as stop:
        if stop.number != signal.SIGTERM:
            raise
    finally:
        guard.close()
    return 0


def _owned(options: Namespace) -> Owned:
    from ..owning.owned import Owned
    from ..owning.wanted import owner_of, set_from

    if options.what == "-" or os.path.exists(options.what):
        text = read_text(options.what)
        name = options.name or owner_of(text)
        if name is None:
            raise ParameterError(f"whose are the rules of {options.what}? Say --name NAME, or `owner' in the file")
        owned = Owned(name, comment=options.comment, own_table=options.own_table, netns=options.netns)
        set_from(owned, text, None if options.family == "both" else options.family == "6")
        return owned
    if "/" in options.what:
        raise ParameterError(f"there is no file {options.what}")
    owned = Owned(
        options.name or options.what, comment=options.comment, own_table=options.own_table, netns=options.netns
    )
    if not owned.adopt():
        raise ParameterError(f"there is no file {options.what}, and no rule that belongs to {owned.name}")
    return owned


def _limit(text: str) -> tuple[int, float]:
    count, slash, length = text.partition("/")
    try:
        return int(count), float(length if slash else "10")
    except ValueError:
        raise ParameterError(f"--limit must be N/SECONDS, not {text!r}") from None


def _write_metrics(options: Namespace, owned: Owned, guard: Guard) -> None:
    if options.textfile is None:
        return
    from ..owning.metrics import metrics_of
    from .files import PUBLIC, write_file

    write_file(options.textfile, metrics_of(owned.name, guard).decode(), PUBLIC)
