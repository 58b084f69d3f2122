"""Turns signals that end a command into exceptions, so that the command tidies up before it ends."""

from __future__ import annotations

import contextlib
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN = 0.01
"""After so many seconds a signal is taken once more, if its exception got lost."""


class Stopped(KeyboardInterrupt):
    """The signal `number` asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stoppable() -> Iterator[Any]:
    """Within this, a signal that ends programs raises `Stopped`; one that is ignored, or that has a handler, is left
    alone."""
    plain = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in _ENDING}
    ours = [number for number in _ENDING if before[number] in plain]

    def stop(number: int, frame: FrameType | None) -> None:
        # once: what tidies up is not to be stopped by a second one
        for other in ours:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    def unraisable(lost: Any) -> None:
        # it arrived in a callback or a `__del__`, out of which no exception comes
        if isinstance(lost.exc_value, Stopped):
            number = lost.exc_value.number
            signal.signal(signal.SIGALRM, lambda *_: stop(number, None))
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            hook(lost)

    try:
        for number in ours:
            signal.signal(number, stop)
    except ValueError:
        # not the main thread: no signal arrives here
        ours = []
    hook, alarm = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number in ours:
            signal.signal(number, before[number])
        if signal.getsignal(signal.SIGALRM) is not alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
