"""Keeps the rules of an owner in place: puts them back when another program has broken them, and tells which one
did."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque

from ..errors import Conflict, IPTCError, ParameterError
from ..watching.watch import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Protocol, Self

    from .._types import LockFile, Wait
    from ..managing.planning import Plan
    from ..managing.ruleset_value import Ruleset
    from ..watching.nft_events import Process

    class _Guarded(Protocol):
        """The part of `Owned` that a guard uses."""

        @property
        def name(self) -> str: ...
        @property
        def netns(self) -> str | int | None: ...
        def backend(self) -> str: ...
        def plan_for(self, live: Ruleset | None, yielding: bool = False) -> Plan: ...


_PAUSE_FIRST, _PAUSE_MOST = 1.0, 60.0
_logger = logging.getLogger("iptc")
_logger.addHandler(logging.NullHandler())


class Heal:
    """One event of a guard: it has put rules back, or pauses, or has failed.

    `when` is the time, `by` the process that had broken the rules (None: not known), `plan` the `Plan` that was
    applied. `pause` is 0, or the seconds for which the guard lets the rules be, because one process breaks them again
    and again; then there is no plan. `error` is the exception because of which they could not be put back; the next
    attempt is after `pause` seconds.
    """

    __slots__ = ("by", "error", "pause", "plan", "when")

    def __init__(
        self,
        by: Process | None,
        plan: Plan | None,
        pause: float = 0.0,
        error: BaseException | None = None,
    ) -> None:
        self.when = time.time()
        self.by = by
        self.plan = plan
        self.pause = pause
        self.error = error

    def __repr__(self) -> str:
        return f"<iptc.Heal {self}>"

    def __str__(self) -> str:
        by = "somebody" if self.by is None else str(self.by)
        if self.error is not None:
            return f"can't be put back, tried again in {self.pause:g} s: {self.error}"
        if self.pause:
            return f"{by} breaks them again and again: let be for {self.pause:g} s"
        return f"broken by {by}, put back: {'nothing' if self.plan is None else self.plan.difference.summary()}"


class _Fight:
    """How often rules were put back that one process had broken."""

    __slots__ = ("ended", "pause", "times")

    def __init__(self) -> None:
        self.times: deque[float] = deque()
        self.pause = 0.0
        self.ended = 0.0


class Guard:
    """Keeps the rules of an `Owned` in place during a `with` statement, in a thread of its own. See `Owned.guard`.

    `heals` counts how often the rules were put back, `pauses` how often the guard paused. `last_offender` is the
    process that has broken them last.
    """

    def __init__(
        self,
        owned: _Guarded,
        limit: tuple[int, float],
        callback: Callable[[Heal], object] | None,
        compare: float,
        wait: Wait,
        lock_file: LockFile,
    ) -> None:
        try:
            count, seconds = limit
            valid = int(count) == count and count > 0 and 0 < seconds < 1e9
        except (TypeError, ValueError):
            valid = False
        if not valid:
            raise ParameterError(f"limit must be (how many times, in how many seconds), not {limit!r}")
        if callback is not None and not callable(callback):
            raise ParameterError(f"callback must be a function, not {callback!r}")
        self._owned = owned
        self._limit = int(limit[0]), float(limit[1])
        self._callback = callback
        self._compare = compare
        self._wait = wait
        self._lock_file: LockFile = lock_file
        self._fights: dict[str | None, _Fight] = {}
        self._watch: Watch | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._names = False
        """Whether it is always known which process has changed the rules."""
        self._suspect: Process | None = None
        """The process that changed the tables last, since the rules were put back."""
        self._again = False
        """Whether to check the rules without waiting for a change."""
        self.heals = 0
        self.pauses = 0
        self.last_offender: Process | None = None
        self.last_heal: float | None = None

    def __repr__(self) -> str:
        return f"<iptc.Guard of {self._owned.name}: {self.heals} heals, {self.pauses} pauses>"

    # ------------------------------------------------------------ beginning, end

    def open(self) -> None:
        """Put the rules in place, and start to watch."""
        if self._watch is not None:
            raise ParameterError("this guard is open already")
        self._stop.clear()
        self._names = self._owned.backend() == "nft"
        self._watch = Watch("nft" if self._names else "legacy", self._owned.netns, self._compare, self._lock_file)
        try:
            self._heal(first=True)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop. The rules stay as they are. A change that has begun is finished."""
        self._stop.set()
        if self._watch is not None:
            self._watch.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = self._watch = None

    def __enter__(self) -> Self:
        self.open()
        self._thread = threading.Thread(target=self.run, name=f"iptc guard {self._owned.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------- healing

    def run(self) -> None:
        """Put rules back until `close` is called."""
        watch, pause = self._watch, 0.0
        while watch is not None and not self._stop.is_set():
            try:
                # wait for a change only if nothing is left to check: rules may have been broken again while they were
                # put back
                if not self._again:
                    watch.sleep()
                self._again = False
                self._heal()
                pause = 0.0
            except (IPTCError, OSError, MemoryError, ValueError) as error:
                if self._stop.is_set():
                    return
                pause = min(max(2 * pause, _PAUSE_FIRST), _PAUSE_MOST)
                self._tell(Heal(self._suspect, None, pause, error))
                self._stop.wait(pause)
                self._again = True

    def _heal(self, first: bool = False) -> None:
        """Put missing rules back, unless one process has broken them too often."""
        while not self._stop.is_set():
            plan = self._planned(first)
            if not plan:
                self._suspect = None
                return
            if not first:
                by = self._suspect
                pause = self._pause_for(by)
                if pause:
                    self.pauses += 1
                    self._tell(Heal(by, None, pause))
                    self._stop.wait(pause)
                    if self._stop.is_set():
                        return
                    plan = self._planned(False)
                    self._fight_of(by).ended = time.monotonic()
            try:
                plan.apply(self._wait, self._lock_file)
            except Conflict:
                continue
            if plan and not first:
                by, self._suspect = self._suspect, None
                self.heals += 1
                self.last_offender = by
                self.last_heal = time.time()
                self._fight_of(by).times.append(time.monotonic())
                self._tell(Heal(by, plan))
            return

    def _planned(self, first: bool) -> Plan:
        """Return the plan for the tables as they are known now. Remember who changed them, unless it was this
        process."""
        watch = self._watch
        if watch is None:
            return self._owned.plan_for(None, yielding=not first)
        for change in watch.read():
            if change.by is None or change.by.pid != os.getpid():
                self._suspect = change.by
        (ruleset,) = watch.rulesets().values()
        return self._owned.plan_for(ruleset, yielding=not first)

    def _fight_of(self, by: Process | None) -> _Fight:
        """Return the count for process *by*. For legacy tables the process is not always known, so one count is
        used."""
        return self._fights.setdefault(by.name if by is not None and self._names else None, _Fight())

    def _pause_for(self, by: Process | None) -> float:
        """Return how many seconds to pause: 0 unless *by* has broken the rules too often."""
        most, seconds = self._limit
        fight, now = self._fight_of(by), time.monotonic()
        while fight.times and fight.times[0] < now - seconds:
            fight.times.popleft()
        if len(fight.times) < most:
            return 0.0
        if now - fight.ended > _PAUSE_MOST + seconds:
            fight.pause = 0.0
        fight.pause = min(2 * fight.pause or _PAUSE_FIRST, _PAUSE_MOST)
        fight.times.clear()
        return fight.pause

    def _tell(self, heal: Heal) -> None:
        level = logging.ERROR if heal.error is not None else logging.WARNING
        _logger.log(level, "rules of %s: %s", self._owned.name, heal)
        if self._callback is not None:
            try:
                self._callback(heal)
            except Exception:
                _logger.exception("the function that is told of heals failed")
