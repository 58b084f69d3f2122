"""The clock by which the Sampler and `iptc top` poll."""

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
