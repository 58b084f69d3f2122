"""What a command prints: to standard output, and errors in one line to standard error.

Bytes are written to the descriptor itself. So an error is found where it happens, and nothing is left in a buffer that
Python would try to write once more when it ends.
"""

from __future__ import annotations

import errno
import os
import re
import sys

from ..errors import IPTCError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_ALWAYS_PLAIN = re.compile(r"[\n\x20-\x7e]*")


def write(text: str, raw: bool = False) -> None:
    """Write *text* to standard output at once. If that is a terminal, control characters are escaped unless *raw*."""
    try:
        put(sys.stdout, text, raw)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise IPTCError(f"can't write to standard output: {error.strerror}") from error


def is_terminal(stream: Any) -> bool:
    """Whether a standard stream is open and is a terminal."""
    return stream is not None and stream.isatty()


def complain(text: str, prefix: str = "iptc") -> None:
    """Write *text* to standard error, as one line behind *prefix*. If that fails, nothing more can be done."""
    try:
        put(sys.stderr, f"{prefix}: {printable(text.rstrip()).replace(chr(10), ' ')}\n")
    except OSError:
        pass


def hold_standard_streams() -> None:
    """Open /dev/null in the place of each standard stream that is closed.

    Otherwise a file or socket gets that number, and our output is written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def put(stream: Any, text: str, raw: bool = False) -> None:
    """Write all of *text* to a standard stream. Raises `OSError` if that fails, or if the stream was closed at the
    start.

    With *raw*, control characters are written to a terminal as they are.
    """
    if stream is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        # a stream in memory, without a descriptor
        stream.write(text)
        return
    stream.flush()
    write_all(number, text, raw)


def write_all(number: int, text: str, raw: bool = False) -> None:
    """Write *text* to the descriptor *number*. If the descriptor is non-blocking and full, wait for it."""
    if not raw and os.isatty(number):
        text = printable(text)
    rest = memoryview(encoded(text))
    while rest:
        try:
            rest = rest[os.write(number, rest) :]
        except BlockingIOError:
            import select

            waiting = select.poll()
            waiting.register(number, select.POLLOUT)
            waiting.poll()


def encoded(text: str) -> Any:
    """Return *text* as UTF-8. Bytes that were read as surrogates, because they are no UTF-8, become those bytes
    again."""
    return text.encode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    r"""Return *text* with each character that would control a terminal, or cannot be shown, as `\r`, `\x1b`,
    `\u202e`."""
    if _ALWAYS_PLAIN.fullmatch(text):
        return text
    return "".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        # a byte that is not UTF-8, read as a surrogate
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
