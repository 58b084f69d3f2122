"""`iptc log`: what a journal says of changes."""

from __future__ import annotations

import time

from .arguments import add_command
from .output import write
from .watch import change_text, family_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any


def add(commands: Any) -> None:
    """Describe the command."""
    log = add_command(
        commands,
        "log",
        run,
        both=True,
        family="both",
        help="the changes that a journal has noted",
        description="Print the changes that `iptc watch --log DIR' has noted: what, when and by whom.",
    )
    add_folder(log)
    log.add_argument("--since", metavar="TIME", help="from then on: 1h, 30m, 2d ago, or 2026-11-27T10:00")
    log.add_argument("--until", metavar="TIME", help="up to then")
    log.add_argument("-t", "--table", action="append", default=[], help="only this table; repeatable")
    log.add_argument("--json", action="store_true", help="one object a line")


def add_folder(command: ArgumentParser) -> None:
    """Add the argument that names the journal."""
    from ..watching.journal import DEFAULT

    command.add_argument("folder", nargs="?", metavar="DIR", help=f"the folder of the journal ({DEFAULT})")
    command.add_argument("--log", dest="log", metavar="DIR", help="the same")


def folder_of(options: Namespace) -> str:
    """Return the folder of the journal."""
    from ..watching.journal import DEFAULT

    return options.log or options.folder or DEFAULT


def run(options: Namespace) -> int:
    """Run the command. Return the exit status."""
    import json

    from ..watching import journal

    now = time.time()
    since = None if options.since is None else journal.moment(options.since, now)
    until = None if options.until is None else journal.moment(options.until, now)
    families = family_names(options)
    for said in journal.read(folder_of(options), since, until):
        if not said.get("unwatched") and (
            said["family"] not in families
            or options.backend not in (None, said["backend"])
            or options.table
            and said["table"] not in options.table
        ):
            continue
        write(json.dumps(said) + "\n" if options.json else change_text(said))
    return 0
