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
    from .._counts import Counts
    from .blob import TableScan

    _Reading = tuple[Counts, int, list[tuple[int, int]]]


_WITHOUT_LOCK = 0.05
"""After so many seconds, counters that fell are taken for reset. A writer that takes no lock is done long before."""

_FOR_LOCK = 0.5
"""Seconds to wait for a writer that holds the lock."""

_FREE, _BUSY, _ABSENT = "free", "busy", "absent"

_LOOKS = {_FREE: 3, _ABSENT: 10}
"""How many times a table is read if no earlier reading is there to compare it with. If no counter rises meanwhile, none
had been put aside by a writer. With the lock, that can only be a writer that takes no lock."""


class Settling:
    """Reads a table again whose counters are in doubt, under the xtables lock if it is free and may be taken."""

    def __init__(self, scan: TableScan) -> None:
        self._scan = scan
        self._lock = XTablesLock(shared=True)
        self._given_up = False

    def settle(self, reading: _Reading) -> _Reading:
        """Return a reading that can be relied on. *reading* is what `TableScan.read` has just returned, with a doubt.

        If a writer holds the lock and does not finish, the last reading is returned with the earlier counters added.
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

    def _look(self) -> tuple[str, _Reading]:
        # an interrupt between any two of these steps must not leave the lock taken
        try:
            try:
                lock = _FREE if self._lock.seize() else _BUSY
            except OSError:
                lock = _ABSENT
            return lock, self._scan.read()
        finally:
            self._lock.release()

    def _given(self, counts: Counts, digest: int, policies: list[tuple[int, int]]) -> _Reading:
        """Return the reading to use while the lock cannot be taken. Until it can, no later read waits for it again."""
        self._given_up = True
        if self._scan.doubt != FALLEN:
            self._scan.rely_on(None)
        counts, policies = self._scan.with_aside(counts, policies)
        return counts, digest, policies
