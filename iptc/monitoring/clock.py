"""The clock by which the Sampler and `iptc top` poll."""

from __future__ import annotations

import time

from .turns import Turns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._pace import Pace
    from .quick import QuickPoller

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

    def turns(self, poller: QuickPoller, pace: Pace) -> Turns | None:
        """Return the `Turns` of a run, or None: then its thread does every poll, and waits with `wait`."""
        return None


class AlarmClock(Clock):
    """The monotonic clock, with timers by which a thread and a consumer take turns."""

    def turns(self, poller: QuickPoller, pace: Pace) -> Turns | None:
        """Return the `Turns` of a run, or None if no timer can be had."""
        try:
            return Turns(poller, pace)
        except OSError:
            return None
