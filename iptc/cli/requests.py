"""Waits to be asked, as telegraf asks a program that its `execd` plugin runs: by a line, or by a signal."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


SIGNALS = ("none", "STDIN", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""The values of `--execd`: the ways in which telegraf's `execd` plugin can ask."""


def requests_of(how: str) -> Iterator[None]:
    """Return an iterator that gives one item for each request. If *how* is standard input, it ends at the end of
    that."""
    if how == "STDIN":
        return _by_lines()
    number = signal.Signals[how]
    # blocked at once, since the signal would end the process. While one request is answered, the next signal is pending
    return _by_signal(number, signal.pthread_sigmask(signal.SIG_BLOCK, {number}))


def _by_lines() -> Iterator[None]:
    while piece := os.read(0, 65536):
        for _ in range(piece.count(b"\n")):
            yield


def _by_signal(number: int, before: set[signal.Signals | int]) -> Iterator[None]:
    try:
        while True:
            signal.sigwaitinfo({number})
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
