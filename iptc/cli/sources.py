"""Where the text of a ruleset comes from: a file or standard input, of one family or both."""

from __future__ import annotations

import errno
import os
import sys
import time

from ..errors import IPTCError
from ..model import restoring
from .arguments import add_wait
from .both_families import Both
from .output import is_terminal, put

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable
    from typing import Any, BinaryIO

    from .._types import Readable


def add_source(command: ArgumentParser, counters: str, noflush: str) -> None:
    """Add the arguments that say what is read and how it is restored."""
    command.add_argument("file", nargs="?", metavar="FILE", help="the file to read. Default: standard input")
    command.add_argument("-T", "--table", help="only this table")
    command.add_argument("-c", "--counters", action="store_true", help=counters)
    command.add_argument("-n", "--noflush", action="store_true", help=noflush)
    add_wait(command, True, "wait at most SECONDS for the xtables lock. Default: wait for ever")


def sources(options: Namespace) -> Iterable[tuple[bool, Readable]]:
    """Return (ipv6, source) for each family that was asked for. If that is both, the result can be iterated twice."""
    source = _standard_input() if options.file in (None, "-") else _opened(options.file)
    if options.family != "both":
        return [(options.family == "6", source)]
    return Both(source)


def read_text(path: str) -> bytes:
    """Return the content of a file as bytes; `-` is standard input."""
    return b"".join(restoring.pieces(_standard_input() if path == "-" else _opened(path)))


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise IPTCError(f"can't read standard input: {os.strerror(errno.EBADF)}")
    return sys.stdin.buffer


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise IPTCError(f"Can't open {path}: {error.strerror}") from None


class Progress:
    """A progress bar on standard error while a text is read. It is shown on a terminal, and only if reading takes
    long."""

    def __init__(self, source: Any) -> None:
        self._done = 0
        self._started = time.monotonic()
        self._shown = False
        try:
            self._size = os.fstat(source.fileno()).st_size
        except (AttributeError, OSError, ValueError):
            self._size = 0

    def __enter__(self) -> Progress | None:
        return self if is_terminal(sys.stderr) else None

    def __call__(self, size: int) -> None:
        """Count *size* more bytes as read, and redraw the bar."""
        self._done += size
        if time.monotonic() - self._started < 0.5:
            return
        self._shown = True
        share = min(1, self._done / self._size) if self._size else 0
        bar = "#" * int(30 * share)
        self._show(f"\r[{bar:30}] {share:4.0%} {self._done / 1e6:.0f} MB")

    def __exit__(self, *exc: object) -> None:
        if self._shown:
            self._show("\r\x1b[K")

    @staticmethod
    def _show(text: str) -> None:
        try:
            put(sys.stderr, text, raw=True)
        except OSError:
            # the terminal is gone, which is no reason to stop
            pass
