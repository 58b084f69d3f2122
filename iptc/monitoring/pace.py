"""When to poll next: at multiples of the interval, however long each poll takes."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BILLION = 1_000_000_000


class Clock:
    """The monotonic clock, and a wait that uses it."""

    def now(self) -> int:
        """Return the time in nanoseconds."""
        return time.monotonic_ns()

    def wait(self, bell: Any, due: int) -> bool:
        """Wait until *due*, or until another thread releases the lock *bell*. Return whether it was released."""
        rung: bool = bell.acquire(timeout=max(0, due - self.now()) / _BILLION)
        return rung


class Pace:
    """The times `start + n * interval`. A time that has passed meanwhile is left out."""

    def __init__(self, interval: float, start: int) -> None:
        self._interval = max(1, round(interval * _BILLION))
        self._start = start
        self.due = start + self._interval

    def go_on(self, now: int) -> None:
        """Set `due` to the first of these times that is after *now* and after the last one."""
        done = max(now, self.due) - self._start
        self.due = self._start + (done // self._interval + 1) * self._interval
