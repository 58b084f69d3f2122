"""`iptc guard`: keep the rules of a name in their place."""

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
    from typing import Any

    from ..owning.guard import Guard, Heal
    from ..owning.owned import Owned


def add(commands: Any) -> None:
    """Describe the command."""
    guard = add_command(
        commands,
        "guard",
        run,
        both=True,
        family=None,
        help="keep the rules of a name in their place",
        description="Put the rules that FILE says in their place, and put them back whenever somebody breaks them, "
        "until it is ended; they stay then. FILE is as for `iptc owned'; its owner is --name, or `owner' in "
        "a file of TOML. NAME instead of a file: the rules of that name as they are now.",
        epilog="Exit status: 0 when it is ended by SIGTERM; else as of other commands.",
    )
    guard.add_argument("what", metavar="FILE|NAME", help="a file where there is one of that name")
    guard.add_argument("--name", help="whose the rules of FILE are")
    guard.add_argument("--comment", metavar="TEXT", help="what the comments of the rules begin with (NAME:)")
    guard.add_argument(
        "--limit", metavar="N/SECONDS", default="100/10", help="after so many heals let a fight be for a while (100/10)"
    )
    add_compare(guard)
    guard.add_argument("--textfile", metavar="PATH", help="write metrics there, for node_exporter's textfile collector")
    guard.add_argument("-q", "--quiet", action="store_true", help="do not print what was put back")
    add_own_table(guard)
    add_wait(guard, True, "wait for the xtables lock this long only (for ever)")


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
