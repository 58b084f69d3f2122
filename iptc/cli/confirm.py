"""`iptc confirm`: keep the change that waits for it, or show what waits."""

from __future__ import annotations

import time

from .arguments import HEADINGS, add_command
from .files import write_file
from .output import complain, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any

    from .arguments import _Commands


NOTHING = 1
"""The exit status if no change waits to be confirmed."""


def add(commands: _Commands) -> None:
    """Describe the command."""
    confirm = add_command(
        commands,
        "confirm",
        run,
        both=True,
        headings=False,
        help="confirm the change of `iptc apply --timeout', so that it stays",
        description="Confirm the change that `iptc apply --timeout' has made, so that the new rules stay. Run it "
        "in a session that you have opened after the change: this proves that you can still log in. A "
        "change is always confirmed for both families; -4, -6 and -a have no effect.",
        epilog="Exit status: 0 confirmed (with --status: a change waits), 1 no change waits, or error.",
    )
    confirm.add_argument(
        "--status", action="store_true", help="confirm nothing; print which change waits, or how the last one ended"
    )
    confirm.add_argument("--format", choices=["text", "json"], default="text", help="json: one JSON object")
    add_state_dir(confirm)


def add_state_dir(command: ArgumentParser) -> None:
    """Add the argument for the folder that records which change waits to be confirmed."""
    command.add_argument(
        "--state-dir",
        metavar="DIR",
        help="the folder that records which change waits to be confirmed. Default: IPTC_STATE_DIR; without "
        "it /run/iptc, or $XDG_RUNTIME_DIR/iptc for users other than root",
    )


def run(options: Namespace) -> int:
    """Confirm the change that waits, or show it. Return the exit status."""
    from ..managing import pending

    if options.status:
        return _show(options, pending.status(options.netns, options.state_dir))
    note = pending.confirm(options.netns, options.state_dir)
    doubt = pending.proves_nothing(pending.session_of(), note)
    if doubt:
        complain(f"warning: {doubt}: that it goes on does not prove that one can still log in")
    if options.format == "text":
        write(f"confirmed: {note['summary']}\n")
    else:
        _show(options, note)
    keep(note["save"], note["families"], options.netns)
    return 0


def _show(options: Namespace, note: Any) -> int:
    waits = note is not None and note["state"] == "pending"
    if options.format == "json":
        import json

        shown = {
            key: value
            for key, value in (note or {"schema": 1, "state": "none"}).items()
            if key not in ("session", "ticks")
        }
        write(json.dumps(shown) + "\n")
    elif note is None:
        write("nothing waits to be confirmed\n")
    elif waits:
        left = max(0, note["until"] - time.time())
        write(f"pending: {note['summary']}; rolled back in {left:.0f} s unless confirmed; made by {_maker(note)}\n")
    elif note["state"] == "unwatched":
        write(f"not confirmed, and nobody is left to take it back: {note['summary']}; made by {_maker(note)}\n")
    else:
        write(f"nothing waits to be confirmed; the last change ({note['summary']}): {note['state']}\n")
    return 0 if waits else NOTHING


def _maker(note: Any) -> Any:
    return note["by"] or "a program"


def keep(path: str, versions: Any, netns: Any) -> None:
    """Save the rules of the families *versions* (4, 6) to the file *path*, two families under headings. None: do
    nothing."""
    if path is None:
        return
    from .. import ruleset

    text = ""
    for version in sorted(versions):
        if len(versions) > 1:
            text += f"{HEADINGS[version == 6]}\n"
        text += ruleset.save(version == 6, netns=netns)
    write_file(path, text)
