"""Waits to be asked, as telegraf asks a program that its `execd` plugin runs: by a line, or by a signal."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


SIGNALS = ("none", "STDIN", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""What telegraf can be set to."""


def asking(how: Any) -> Any:
    """Return what is gone through once for each time that somebody asks; it ends with standard input, if that is
    *how*."""
    if how == "STDIN":
        return _by_lines()
    number = signal.Signals[how]
    # at once, since it would end a process that does not wait for it; one that comes while others are answered waits
    return _by_signal(number, signal.pthread_sigmask(signal.SIG_BLOCK, {number}))


def _by_lines() -> Iterator[Any]:
    while piece := os.read(0, 65536):
        for _ in range(piece.count(b"\n")):
            yield


def _by_signal(number: int, before: Any) -> Iterator[Any]:
    try:
        while True:
            signal.sigwaitinfo({number})
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
