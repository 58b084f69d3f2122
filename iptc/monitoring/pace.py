"""When to poll next: at multiples of the interval, however long each poll takes."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BILLION = 1_000_000_000


class Clock:
    """The monotonic clock, and waiting by it."""

    def now(self) -> int:
        """Nanoseconds since some moment."""
        return time.monotonic_ns()

    def wait(self, bell: Any, due: int) -> bool:
        """Wait until *due*, or until somebody releases the lock *bell*: whether that was it."""
        rung: bool = bell.acquire(timeout=max(0, due - self.now()) / _BILLION)
        return rung


class Pace:
    """The moments `start + n * interval`: one that has passed while something else was done is left out."""

    def __init__(self, interval: float, start: int) -> None:
        self._interval = max(1, round(interval * _BILLION))
        self._start = start
        self.due = start + self._interval

    def go_on(self, now: int) -> None:
        """Set `due` to the first moment after *now* that is later than the last one."""
        done = max(now, self.due) - self._start
        self.due = self._start + (done // self._interval + 1) * self._interval
