"""Shared by the commands that compare rulesets: reads each ruleset from where it is, and shows the differences."""

from __future__ import annotations

import functools
import os
import sys

from ..errors import IPTCError
from .output import complain, is_terminal, printable, write
from .sources import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable
    from typing import Any, TypeVar

    from ..managing.difference import Difference
    from ..managing.planning import Plan

    _Run = TypeVar("_Run", bound=Callable[[Namespace], int])


SAME, DIFFERENT, TROUBLE = 0, 1, 2
"""The exit statuses, as those of `diff`."""


def add_format(command: ArgumentParser) -> None:
    """Add the arguments for the format in which differences are shown."""
    command.add_argument(
        "--format",
        choices=["text", "json"],
        default="text",
        help="text: a unified diff; json: one JSON object. Default: text",
    )
    command.add_argument(
        "-U",
        "--context",
        type=_number,
        default=3,
        metavar="N",
        help="print N rules before and after each difference. Default: 3",
    )
    command.add_argument("-q", "--quiet", action="store_true", help="print nothing; the exit status is the answer")
    command.add_argument(
        "--color",
        choices=["auto", "always", "never"],
        default="auto",
        help="whether the output has colours. Default: auto, which means on a terminal",
    )


def add_scope(command: ArgumentParser) -> None:
    """Add the arguments that limit which chains a plan may touch."""
    command.add_argument(
        "--only", action="append", default=[], metavar="TABLE[:CHAIN]", help="change nothing but this; can be repeated"
    )
    command.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="GLOB",
        help="leave chains with such a name as they are; can be repeated",
    )


def _number(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def trouble_is(status: int) -> Callable[[_Run], _Run]:
    """Return a decorator: a function that runs a command returns *status* if the command fails."""

    def decorate(run: _Run) -> _Run:
        @functools.wraps(run)
        def tried(options: Namespace) -> int:
            try:
                return run(options)
            except BrokenPipeError:
                raise
            except (IPTCError, OSError, UnicodeError, MemoryError) as error:
                complain(str(error) or "out of memory")
                return status

        return tried  # type: ignore[return-value]  # it takes what *run* takes

    return decorate


def ruleset_of(options: Namespace, path: str, netns: Any = None) -> Any:
    """Return the `Ruleset` of a file, or of the kernel, for the families that were asked for."""
    from ..managing import ruleset_value

    text = read_text(path)
    if options.family == "both":
        ruleset_value.require_headings(text)
    return ruleset_value.Ruleset.read(text, family_of(options), netns=netns)


def family_of(options: Namespace) -> bool | None:
    """Return whether IPv6 was asked for. None means both families, or those of the text."""
    return None if options.family in (None, "both") else options.family == "6"


def show(options: Namespace, difference: Difference | Plan, names: Any) -> None:
    """Print a `Difference` or a `Plan` in the format that *options* name."""
    if options.quiet:
        return
    if options.format == "json":
        import json

        write(json.dumps(difference.as_dict()) + "\n")
        return
    wanted = is_terminal(sys.stdout) and not os.environ.get("NO_COLOR")
    if options.color == "always" or options.color == "auto" and wanted:
        # only our colours reach the terminal: control characters inside a rule are escaped by `printable`
        write(difference.text(names, options.context, printable), raw=True)
    else:
        write(difference.text(names, options.context))
