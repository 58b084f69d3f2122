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
    """Write *text* to standard output at once, as the bytes that it stands for; a terminal gets no control
    characters, or with *raw* all that is in it."""
    try:
        put(sys.stdout, text, raw)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise IPTCError(f"can't write to standard output: {error.strerror}") from error


def is_terminal(stream: Any) -> bool:
    """Whether a standard stream is open, and a terminal."""
    return stream is not None and stream.isatty()


def complain(text: str, prefix: str = "iptc") -> None:
    """Write *text* as one line behind *prefix* to standard error; there is nobody to tell where that cannot be done."""
    try:
        put(sys.stderr, f"{prefix}: {printable(text.rstrip()).replace(chr(10), ' ')}\n")
    except OSError:
        pass


def hold_standard_streams() -> None:
    """Open the null device where a standard stream is closed, so that no file or socket gets its number and is written
    to."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def put(stream: Any, text: str, raw: bool = False) -> None:
    """Write *text* to a standard stream, all of it; OSError where that fails, and where the stream was closed from the
    start.

    With *raw* a terminal may obey it.
    """
    if stream is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        # a stream that is only in memory
        stream.write(text)
        return
    stream.flush()
    write_all(number, text, raw)


def write_all(number: int, text: str, raw: bool = False) -> None:
    """Write *text* to the descriptor *number*; it waits where the descriptor takes nothing now and does not wait
    itself."""
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
    """The bytes of *text*: UTF-8, and bytes that are none as they were read."""
    return text.encode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    r"""*text* with everything that a terminal could obey, or could not show, written as `\r`, `\x1b` or `\u202e`."""
    if _ALWAYS_PLAIN.fullmatch(text):
        return text
    return "".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        # a byte that is no UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
