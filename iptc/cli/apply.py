"""`iptc apply`: make the tables what a file says, with the fewest edits; for good, or until it is confirmed."""

from __future__ import annotations

import os
import signal
import sys

from ..errors import ParameterError
from .arguments import add_command, add_wait, seconds, wait_of
from .confirm import add_state_dir, keep
from .output import complain, is_terminal, write
from .plan import show_plan, wanted
from .rulesets import TROUBLE, add_format, add_scope, show, trouble_is

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable
    from typing import Any

    from .arguments import _Commands


ROLLED_BACK = 255
"""The exit status, as of iptables-apply, when the change was not confirmed and was taken back."""

NOT_DONE = 1
"""The exit status when a change that was to be confirmed could not be made."""


def add(commands: _Commands) -> None:
    """Describe the command."""
    apply = add_command(
        commands,
        "apply",
        run,
        both=True,
        family=None,
        help="change the rules to those of a file, with as few edits as possible",
        description="Change the tables to what FILE says. All tables are changed, or none. Rules that FILE has "
        "already stay, and keep their counters. FILE has the format of iptables-save, and one family, "
        "or both under the lines `# IPv4' and `# IPv6'. With --timeout the old rules come back unless "
        "you confirm the change: at the prompt, by a command that succeeds (--check), or by `iptc "
        "confirm' in another session. They also come back if this program is killed, or if its "
        "terminal is closed.",
        epilog="Exit status: as of `iptc restore'. With --timeout: 0 confirmed or nothing to do, 1 error, "
        "255 the old rules are back. With --check alone: 0 nothing to do, 1 there are changes, 2 "
        "error.",
    )
    apply.add_argument(
        "file", metavar="FILE", nargs="?", help="a file in the format of iptables-save; - means standard input"
    )
    apply.add_argument(
        "--check",
        nargs="?",
        const=True,
        metavar="CMD",
        help="without CMD: print what would be changed, and change nothing. With --timeout: run CMD after "
        "the change, and confirm the change if CMD succeeds",
    )
    apply.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="bring the old rules back after SECONDS, unless the change is confirmed before",
    )
    apply.add_argument(
        "--save",
        metavar="FILE",
        help="after the change, or after its confirmation, write the rules to FILE as `iptc save' does",
    )
    add_state_dir(apply)
    add_scope(apply)
    add_format(apply)
    add_wait(apply, True, "wait at most SECONDS for the xtables lock. Default: wait for ever")


def run(options: Namespace) -> int:
    """Apply the file that *options* name. Return the exit status."""
    command = options.check if isinstance(options.check, str) else None
    if command is not None and options.file is None and options.timeout is None:
        # `--check FILE`
        options.check, options.file, command = True, command, None
    if options.file is None:
        raise ParameterError("which FILE is to be applied?")
    if command is not None and options.timeout is None:
        raise ParameterError("a command that confirms needs --timeout")
    if options.check is True:
        return trouble_is(TROUBLE)(show_plan)(options)
    options.save = options.save and os.path.abspath(options.save)
    if options.timeout is None:
        return _for_good(options)
    tried: Callable[[Namespace], int] = trouble_is(NOT_DONE)(lambda options: _until_confirmed(options, command))
    return tried(options)


def _for_good(options: Namespace) -> int:
    from ..managing import planning

    text, settings = wanted(options)
    found = planning.apply(text, wait=wait_of(options), **settings)
    _tell(options, found)
    if found:
        _tell_flows(options, found)
    keep(options.save, {table.ip_version for table in found.target.tables}, options.netns)
    return 0


def _tell(options: Namespace, change: Any) -> None:
    if options.format == "json":
        show(options, change.difference, None)
    elif not options.quiet:
        write(f"{change.difference.summary() or 'nothing to do'}\n")


def _tell_flows(options: Namespace, change: Any) -> None:
    """Print how many flows go on that only deleted rules had accepted."""
    from ..managing import flows

    if not options.quiet and options.format == "text":
        told = flows.report(change, options.netns)
        if told:
            write(f"{told}\n")


def _until_confirmed(options: Namespace, command: str | None) -> Any:
    from ..managing import rollback

    text, settings = wanted(options)
    if options.timeout == 0:
        raise ParameterError("--timeout must be more than 0")
    by = f"iptc apply {options.file}"
    with rollback.start(
        text, options.timeout, wait=wait_of(options), directory=options.state_dir, by=by, save=options.save, **settings
    ) as change:
        try:
            change.begin()
            _tell(options, change)
            if change:
                _decide(options, change, command)
        except KeyboardInterrupt as stop:
            if getattr(stop, "number", signal.SIGINT) != signal.SIGINT:
                # the terminal is gone, so nothing can be printed: the change can still be confirmed from another
                # session
                raise
            change.roll_back()
        if change:
            if change.state != "confirmed":
                complain("not confirmed: the rules are what they were")
                return ROLLED_BACK
            if change.by != f"process {os.getpid()}":
                _say(options, f"confirmed by {change.by}")
                return 0
            _say(options, "confirmed")
        keep(options.save, {table.ip_version for table in change.target.tables}, options.netns)
    return 0


def _say(options: Namespace, text: str) -> None:
    if not options.quiet and options.format == "text":
        write(f"{text}\n")


def _decide(options: Namespace, change: Any, command: str | None) -> None:
    """Wait until the command, the answer at the prompt, or another process confirms *change* or takes it back."""
    from ..errors import RolledBack
    from ..managing import rollback

    _tell_flows(options, change)
    try:
        if command is not None:
            if rollback.run_check(command, change):
                change.confirm()
            else:
                change.roll_back()
        elif is_terminal(sys.stdin):
            _ask(options, change)
        else:
            _say(options, f"rolled back in {options.timeout:g} s unless `iptc confirm' is run in another session")
        change.wait()
    except RolledBack:
        # too late: the change was taken back already
        pass


def _ask(options: Namespace, change: Any) -> None:
    """Ask at the terminal whether to keep *change*. No answer means no."""
    from ..managing import pending

    write(
        f"Can you establish a NEW connection to this host? Else the old rules are back in {options.timeout:g} s. (y/N) "
    )
    number = sys.stdin.fileno()
    while change.look() == "pending":
        if number not in pending.wait_readable([number, change]):
            continue
        try:
            answer = os.read(number, 1024)
        except OSError:
            answer = b""
        if not answer:
            # the terminal is gone: whoever logs in again can confirm
            return
        if answer.strip().lower() in (b"y", b"yes"):
            change.confirm()
        else:
            change.roll_back()
    write("\n")
