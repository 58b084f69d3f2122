"""The arguments that several commands have."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable
    from typing import Any

    from .._types import Wait

    _Commands = argparse._SubParsersAction[ArgumentParser]
    """What the parsers of the commands are added to."""


FAMILIES = {"4": [False], "6": [True], "both": [False, True]}
"""option (-4, -6 or -a) -> a list with one entry for each family: whether it is IPv6."""

HEADINGS = {False: "# IPv4", True: "# IPv6"}
"""whether it is IPv6 -> the heading before the rules of that family, in a text of both families."""


def add_command(
    commands: _Commands,
    name: str,
    run: Callable[[Namespace], int],
    both: bool = False,
    many: bool = False,
    headings: bool = True,
    live: bool = True,
    family: str | None = "4",
    **words: Any,
) -> ArgumentParser:
    """Add the command *name* with the options that all commands have. run(options) carries it out.

    *both*: the command can work on both families at once. *many*: it can work on several network namespaces at once.
    *headings*: a text of both families, which it reads or prints, has a heading before each family. *live*: it uses the
    rules of a network namespace, and not only files. *family*: the default, a key of FAMILIES; None: the file decides.
    *words* are further arguments of the parser, such as `help` and `description`.
    """
    command = commands.add_parser(name, **words)
    default = {family: " (default)"}
    families = command.add_mutually_exclusive_group()
    families.add_argument(
        "-4", "--ipv4", dest="family", action="store_const", const="4", help=f"IPv4{default.get('4', '')}"
    )
    families.add_argument("-6", "--ipv6", dest="family", action="store_const", const="6", help="IPv6")
    if both:
        text = "both families"
        if headings and not many:
            text += f", under the headings `{HEADINGS[False]}' and `{HEADINGS[True]}'"
        text += default.get("both", "")
        families.add_argument("-a", "--both", dest="family", action="store_const", const="both", help=text)
    text = "the network namespace: a name, a path or a process id"
    if many:
        command.add_argument(
            "--netns", metavar="NAME", type=netns, action="append", default=[], help=f"{text}; can be repeated"
        )
        command.add_argument("--all-netns", action="store_true", help="read all network namespaces that have a name")
    elif live:
        command.add_argument("--netns", metavar="NAME", type=netns, help=text)
    text = (
        "legacy: legacy xtables; nft: nf_tables; libiptc: legacy xtables through the library libiptc. "
        "Default: IPTC_BACKEND; without it, the one that this host uses"
    )
    command.add_argument("--backend", choices=["legacy", "nft", "libiptc"], help=text)
    command.set_defaults(run=run, family=family)
    return command


def add_compare(command: argparse.ArgumentParser) -> None:
    """Add `--compare` to a command that watches changes."""
    command.add_argument(
        "--compare",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="compare legacy tables every SECONDS, because a program may change them without the xtables "
        "lock. Default: 60",
    )


def add_wait(command: ArgumentParser, default: float | bool, text: str) -> None:
    """Add `-w`. Without a number it means to wait for ever."""
    command.add_argument(
        "-w", "--wait", nargs="?", type=seconds, const=True, default=default, metavar="SECONDS", help=text
    )


def wait_of(options: Namespace) -> Wait:
    """Return the value of `-w` as the library takes it: None means for ever."""
    wait: Wait = None if options.wait is True else options.wait
    return wait


def seconds(text: str) -> float:
    """Return the number of seconds that *text* gives."""
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError("must be a number of seconds, not negative")
    return value


def positive(text: str) -> int:
    """Return the whole number, at least 1, that *text* gives."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def netns(text: str) -> int | str:
    """Return the network namespace that *text* names: a process id, a name or a path."""
    return int(text) if text.isdigit() else text
