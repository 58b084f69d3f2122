"""Passes samples from the thread that polls to the threads and tasks that take them."""

from __future__ import annotations

from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from typing import Any

    from .samples import Sample
    from .turns import Turns

_LOOK = 0.5
"""After so many seconds a waiting thread checks for signals: one that comes right before the wait is seen only then."""


class Mail:
    """Passes samples from the thread that polls to the threads and tasks that take them.

    No method waits for anything that a signal handler, or a thread that does not exist after a fork, may hold.
    """

    def __init__(self) -> None:
        self.box: list[Sample] = []
        self.waiters: list[tuple[AbstractEventLoop, Future[None]]] = []
        self.error: BaseException | None = None
        self.ended = False
        self.gate = locked_lock()
        self.bell = locked_lock()
        self.done = locked_lock()
        self.turns: Turns | None = None
        self.behind: list[object] = []

    def put(self, sample: Sample) -> None:
        """Add a sample to the one that was not taken yet."""
        try:
            sample = self.box.pop()._followed_by(sample)
        except IndexError:
            pass
        self.box.append(sample)
        self.wake()

    def take(self) -> Sample | None:
        """Return the sample that waits, or None."""
        try:
            return self.box.pop()
        except IndexError:
            return None

    def wake(self) -> None:
        """Wake everybody who waits for a sample."""
        open_lock(self.gate)
        if self.turns is not None:
            self.turns.wake()
        while self.waiters:
            loop, waiter = self.waiters.pop()
            try:
                loop.call_soon_threadsafe(_settle, waiter)
            except RuntimeError:
                # the event loop is closed
                pass

    def wait(self) -> None:
        """Wait until a sample may be there, which `take` returns."""
        entry = object()
        try:
            # while others wait, no consumer polls by itself, so that each has its chance
            self.behind.append(entry)
            self.gate.acquire(timeout=_LOOK)
        finally:
            if entry in self.behind:
                self.behind.remove(entry)

    def raise_error(self) -> None:
        """Raise the exception that has ended the thread, once."""
        error, self.error = self.error, None
        if error is not None:
            raise error

    def end(self) -> None:
        """Let the thread end, and wake everybody who waits."""
        self.ended = True
        open_lock(self.bell)
        if self.turns is not None:
            self.turns.end()
        self.wake()


async def received(mail: Mail) -> Sample:
    """Wait for the next sample, and return it."""
    from asyncio import get_running_loop

    loop = get_running_loop()
    while True:
        waiter = loop.create_future()
        entry = loop, waiter
        # registered before looking, so that a sample that comes after the look wakes this
        mail.waiters.append(entry)
        try:
            sample = mail.take()
            if sample is not None:
                return sample
            if mail.ended:
                mail.raise_error()
                raise StopAsyncIteration
            await waiter
        finally:
            if entry in mail.waiters:
                mail.waiters.remove(entry)


def _settle(waiter: Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def locked_lock() -> Any:
    """Return a new lock that is locked."""
    lock = allocate_lock()
    lock.acquire()
    return lock


def open_lock(lock: Any) -> None:
    """Unlock a lock, whoever has locked it."""
    try:
        lock.release()
    except RuntimeError:
        # it is open already
        pass
