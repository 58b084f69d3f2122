"""`iptc log`: prints the changes that a journal has recorded."""

from __future__ import annotations

import time

from .arguments import add_command
from .output import write
from .watch import change_text, family_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from .arguments import _Commands


def add(commands: _Commands) -> None:
    """Describe the command."""
    log = add_command(
        commands,
        "log",
        run,
        live=False,
        both=True,
        headings=False,
        family="both",
        help="print the changes that a journal has recorded",
        description="Print the changes that a journal has recorded: what changed, when, and which process did it. "
        "`iptc watch --log DIR' writes the journal.",
    )
    add_folder(log)
    log.add_argument(
        "--since", metavar="TIME", help="only changes after TIME: 1h, 30m or 2d for that long ago, or 2026-11-27T10:00"
    )
    log.add_argument("--until", metavar="TIME", help="only changes before TIME")
    log.add_argument("-t", "--table", action="append", default=[], help="only this table; can be repeated")
    log.add_argument("--json", action="store_true", help="print one JSON object per line")


def add_folder(command: ArgumentParser) -> None:
    """Add the argument that names the journal."""
    from ..watching.journal import DEFAULT

    command.add_argument("folder", nargs="?", metavar="DIR", help=f"the folder of the journal. Default: {DEFAULT}")
    command.add_argument("--log", dest="log", metavar="DIR", help="the same as DIR")


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
            or options.backend not in (None, said["backend"], "libiptc" if said["backend"] == "legacy" else None)
            or options.table
            and said["table"] not in options.table
        ):
            continue
        write(json.dumps(said) + "\n" if options.json else change_text(said))
    return 0
