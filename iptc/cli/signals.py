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
"""If the exception of a signal was lost, it is raised once more after this many seconds."""


class Stopped(KeyboardInterrupt):
    """Raised when signal `number` asks the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stoppable() -> Iterator[Any]:
    """Return a context manager in which a signal that would end the process raises `Stopped`.

    A signal that is ignored, or that has a handler, keeps its effect.
    """
    plain = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in _ENDING}
    ours = [number for number in _ENDING if before[number] in plain]

    def stop(number: int, frame: FrameType | None) -> None:
        # only once: a second signal must not interrupt the clean-up
        for other in ours:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    def unraisable(lost: Any) -> None:
        # the signal came during a callback or `__del__`, where Python prints an exception and drops it
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
        # this is not the main thread, so no signal handler runs here
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
