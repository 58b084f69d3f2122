"""Decides whether counters that fell were reset, or are about to be given back by a writer.

A writer of legacy tables first replaces the table by one whose counters are zero, and adds the old counters in a second
step. A reader in between sees only what was counted after the first step. Only another look can tell this from a reset
(`iptables -Z`). A reader that takes no lock needs this.
"""

from __future__ import annotations

import time

from ..lock import XTablesLock
from .blob import FALLEN, UNSURE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._counts import Counts


_WITHOUT_LOCK = 0.05
"""Seconds for which counters stay fallen before they are taken for set back: there are writers that take no lock."""

_FOR_LOCK = 0.5
"""Seconds to wait for a writer that holds the lock."""

_FREE, _BUSY, _ABSENT = "free", "busy", "absent"

_LOOKS = {_FREE: 5, _ABSENT: 10}
"""How many looks at a table that there is nothing to compare with: what is never seen to rise was not fallen."""


class Settling:
    """Looks again at a table whose counters are in doubt, under the lock where that is free and may be taken."""

    def __init__(self, scan: Any) -> None:
        self._scan = scan
        self._lock = XTablesLock(shared=True)
        self._given_up = False

    def settle(self, reading: Any) -> Any:
        """Return a reading to rely on in place of *reading*, which `TableScan.read` has just returned and does doubt.

        Where a writer holds the lock and does not go on, that is the last one with what was known before added to it.
        """
        scan = self._scan
        begin = time.monotonic()
        pause = 0.0002
        unsure = scan.doubt == UNSURE
        looks, lock = 0, ""  # no look at the lock yet
        wanted = _LOOKS[_ABSENT] + 1  # until the lock was had once, or is known not to be there
        while True:
            if scan.doubt != FALLEN:
                scan.rely_on(reading[0])
                looks += 1
                wanted = min(wanted, _LOOKS.get(lock, wanted))
                if not unsure or looks >= wanted and lock != _BUSY:
                    break
            elif lock in _LOOKS and time.monotonic() - begin >= _WITHOUT_LOCK:
                scan.rely_on(reading[0])
                break
            if lock == _BUSY and (self._given_up or time.monotonic() - begin >= _FOR_LOCK):
                return self._given(*reading)
            if lock is not None:
                time.sleep(pause)
                pause = min(pause * 2, 0.005)
            lock, reading = self._look()
        self._given_up = False
        return reading

    def _look(self) -> Any:
        # an interrupt between any two of these must not leave the lock with us
        try:
            try:
                lock = _FREE if self._lock.seize() else _BUSY
            except OSError:
                lock = _ABSENT
            return lock, self._scan.read()
        finally:
            self._lock.release()

    def _given(self, counts: Counts, digest: int, policies: list[tuple[int, int]]) -> Any:
        """What to return while the lock cannot be had; nobody waits for it again before it can."""
        self._given_up = True
        if self._scan.doubt != FALLEN:
            self._scan.rely_on(None)
        counts, policies = self._scan.with_aside(counts, policies)
        return counts, digest, policies
