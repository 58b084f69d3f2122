"""Runs one command: finds its module, parses its arguments, and turns errors into exit statuses."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from importlib import import_module

from .. import __version__
from ..errors import IPTCError
from .output import complain, hold_standard_streams, write
from .signals import stoppable
from .status import BAD_USAGE, status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import NoReturn, TextIO


# Each command is a module of this folder with the name of the command. Its `add(commands)` describes the arguments, and
# names the function that runs the command and returns the exit status.
COMMANDS = (
    "save",
    "restore",
    "check",
    "list",
    "counters",
    "exporter",
    "diff",
    "plan",
    "apply",
    "confirm",
    "owned",
    "guard",
    "watch",
    "log",
    "show",
    "doctor",
    "top",
    "test",
    "trace",
    "lint",
    "why",
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command with *arguments* (`sys.argv`) and return its exit status."""
    hold_standard_streams()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        with stoppable(), warnings.catch_warnings():
            warnings.showwarning = _warn
            options = parser_of(words).parse_args(words)
            if options.backend is not None:
                os.environ["IPTC_BACKEND"] = options.backend
            status: int = options.run(options)
            return status
    except BrokenPipeError:
        # the program that reads our output has closed the pipe
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as stop:
        for note in getattr(stop, "__notes__", ()):
            complain(note)
        return 128 + int(getattr(stop, "number", signal.SIGINT))
    except (IPTCError, OSError, UnicodeError, MemoryError) as error:
        complain(str(error) or "out of memory")
        return status_of(error)


class _Parser(argparse.ArgumentParser):
    """A parser that prints its help as the commands print: if the help cannot be written, the command fails."""

    def print_help(self, file: object = None) -> None:
        """Print the help to standard output."""
        write(self.format_help())

    def error(self, message: str) -> NoReturn:
        """Print the usage of the command and one line with *message*, and end with status 2."""
        complain(message, f"{self.format_usage()}{self.prog}")
        self.exit(BAD_USAGE)


class _Version(argparse.Action):
    """`--version`: print the release and end."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: object, option_string: str | None = None
    ) -> None:
        write(f"{parser.prog} {__version__}\n")
        parser.exit()


def parser_of(words: list[str]) -> ArgumentParser:
    """Return the parser of the command that *words* begin with, or the parser of all commands."""
    parser = _Parser(prog="iptc", description="Read and change the rules of the Linux firewall, and read its counters.")
    parser.add_argument("--version", nargs=0, action=_Version, help="print the version of iptc, and end")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in words[:1] if words and words[0] in COMMANDS else COMMANDS:
        import_module(f".{name}", __package__).add(commands)
    return parser


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning in one line, without the place in the program that raised it."""
    complain(f"warning: {message}")
