"""A terminal as a screen of its own: its size, its keys, and how it was before."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty

from .output import is_terminal, put

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J"
_LEAVE = "\x1b[?25h\x1b[?1049l"
_SEQUENCES = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1b[5~": "page up", b"\x1b[6~": "page down", b"\x1b[H": "home"}
_SEQUENCES |= {b"\x1bOA": "up", b"\x1bOB": "down", b"\x1bOH": "home", b"\x1b[1~": "home"}


class Terminal:
    """The terminal of this process as a context manager. Inside it, keys can be read."""

    def __init__(self) -> None:
        self._before: list[Any] | None = None
        self._bell: tuple[int, int] | None = None  # the two ends of a pipe
        self._handlers: dict[int, Any] = {}
        self._has_keys = is_terminal(sys.stdin)

    def __enter__(self) -> Self:
        self._bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            for number, handler in (signal.SIGWINCH, self._ring), (signal.SIGTSTP, self._pause):
                self._handlers[number] = signal.signal(number, handler)
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._give_back()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._handlers = {}
            bell, self._bell = self._bell, None
            for descriptor in bell or ():
                os.close(descriptor)

    def _take(self) -> None:
        if self._has_keys:
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        put(sys.stdout, _ENTER, raw=True)

    def _give_back(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        # if the terminal is gone, there is nothing to restore
        with contextlib.suppress(OSError):
            put(sys.stdout, _LEAVE, raw=True)

    def _ring(self, *_: object) -> None:
        if self._bell is not None:
            with contextlib.suppress(OSError):
                os.write(self._bell[1], b"!")

    def _pause(self, *_: object) -> None:
        """Handle Ctrl-Z: restore the screen of the shell, and stop."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()
        self._ring()

    def size(self) -> tuple[int, int]:
        """Return (columns, lines)."""
        try:
            columns, lines = os.get_terminal_size(sys.stdout.fileno())
        except OSError:
            columns = lines = 0
        # a terminal that does not know its size reports 0
        return columns or 80, lines or 24

    def show(self, text: str) -> None:
        """Write *text* to the terminal, control characters included."""
        put(sys.stdout, text, raw=True)

    def keys(self, seconds: float) -> list[str]:
        """Wait at most *seconds* for keys. Return a list of them, which is empty too if the terminal changed its
        size."""
        bells = () if self._bell is None else self._bell[:1]
        watched = [*bells, *([sys.stdin.fileno()] if self._has_keys else [])]
        ready, _, _ = select.select(watched, [], [], max(0, seconds))
        for bell in bells:
            if bell in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(bell, 4096)
        if sys.stdin is not None and self._has_keys and sys.stdin.fileno() in ready:
            return self._decoded(os.read(sys.stdin.fileno(), 1024))
        return []

    def _decoded(self, typed: bytes) -> list[str]:
        if not typed:
            # end of file: the keyboard is gone
            self._has_keys = False
            return ["q"]
        found = []
        while typed:
            sequence = next((known for known in _SEQUENCES if typed.startswith(known)), None)
            if sequence is not None:
                found.append(_SEQUENCES[sequence])
                typed = typed[len(sequence) :]
            elif typed[:1] == b"\x1b":
                found.append("escape")
                # the rest is the sequence of a key that has no meaning here
                typed = b"" if typed[1:2] in (b"[", b"O") else typed[1:]
            else:
                length = next((n for n in range(1, 5) if _is_text(typed[:n])), 1)
                found.append(typed[:length].decode("utf-8", "replace"))
                typed = typed[length:]
        return found


def _is_text(typed: bytes) -> bool:
    try:
        typed.decode()
    except UnicodeDecodeError:
        return False
    return True
