"""The base class of `Watch` and `Trace`: events are taken by `for`, by `async for` or by waiting; any thread can close
it."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # it loads faster than `signal`
import contextlib
import errno
import os
import select
import time
from _thread import RLock
from collections import deque
from io import FileIO

from ..errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any, Self


@contextlib.contextmanager
def _signals_written_to(descriptor: int) -> Iterator[None]:
    """Let each signal that has a handler of Python write a byte to *descriptor*.

    Python runs the handler in the main thread, and only when a system call of that thread has returned. A signal that
    comes just before the call, or to another thread, does not make it return.
    """
    before = None
    try:
        with contextlib.suppress(ValueError):  # raised in other threads than the main one: no handler runs there
            before = _signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
            if before != -1:  # another part of the program, such as asyncio, is told of signals
                _signal.set_wakeup_fd(before)
        yield
    finally:
        if before == -1:
            _signal.set_wakeup_fd(-1)


class Stream:
    """An iterator over events. One loop at a time can use it, in the process that opened it.

    A subclass registers its descriptors in `_poll`. Its `_look` puts new events into `_found`, and its
    `_close_sources` closes the descriptors.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._found: deque[Any] = deque()
        self._closed = self._waiting = False
        self._ending = RLock()
        """Held while it is decided whether a thread waits on the descriptors. A signal handler may call `close`
        meanwhile."""
        self._poll = select.epoll()
        self._woken, self._wake = (FileIO(end, mode) for end, mode in zip(os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK), "rw"))
        """The two ends of a pipe: who writes a byte into it ends a wait on the descriptors."""
        self._poll.register(self._woken.fileno(), select.EPOLLIN)

    def _look(self) -> None:
        """Put the events since the last call into `_found`, without waiting."""

    def _pause(self) -> float:
        """Return the seconds after which `_look` must be called, or -1 if only an event makes it necessary."""
        return -1

    def _close_sources(self) -> None:
        """Close the descriptors of the subclass."""

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when something may have come. Then call `read()`."""
        return self._poll.fileno()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Close all descriptors. A loop that waits in another thread ends."""
        if self._closed or self._pid != os.getpid():
            return
        with self._ending:
            self._closed = True
            if self._waiting:
                self._rouse()
            else:
                self._release()

    def _sleep(self, pause: float) -> None:
        """Wait on the descriptors for *pause* seconds; -1 is for ever."""
        with self._ending:
            if self._closed:
                return
            self._waiting = True
        try:
            with _signals_written_to(self._wake.fileno()):
                self._poll.poll(pause if pause >= 0 else None)
            # empty the pipe
            self._woken.read()
        finally:
            with self._ending:
                self._waiting = False
                if self._closed:
                    self._release()

    def _rouse(self) -> None:
        """Wake the thread that waits on the descriptors."""
        self._wake.write(b"\0")

    def _release(self) -> None:
        """Close the descriptors, once no thread waits on them."""
        if self._wake.closed or self._pid != os.getpid():
            return
        self._wake.close()
        try:
            self._close_sources()
        finally:
            self._poll.close()
            self._woken.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def read(self) -> list[Any]:
        """Return what came since the last call, without waiting."""
        self._check()
        self._look()
        found = list(self._found)
        self._found.clear()
        return found

    def _check(self) -> None:
        self._check_process()
        if self._closed:
            raise KernelError("this is closed", errno.EBADF, os.strerror(errno.EBADF))

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise KernelError("this was opened by another process", errno.EBADF, os.strerror(errno.EBADF))

    def wait(self, timeout: float | None = None) -> list[Any]:
        """Wait at most *timeout* seconds (None: for ever) for events, and return them. Return [] if none came, or if it
        was closed meanwhile."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._closed:
            found = self.read()
            if found:
                return found
            pause = self._pause()
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return []
                pause = left if pause < 0 else min(pause, left)
            self._sleep(pause)
        return []

    def sleep(self) -> None:
        """Wait until something may have come, or there is something to do, or it is closed."""
        self._sleep(self._pause())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        self._check_process()
        while not self._found:
            if self._closed:
                raise StopIteration
            self._found.extend(self.wait())
        return self._found.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        import asyncio

        self._check_process()
        loop = asyncio.get_running_loop()
        while not self._found:
            if self._closed:
                raise StopAsyncIteration
            self._look()
            if self._found:
                break
            ready = loop.create_future()
            loop.add_reader(self.fileno(), _set, ready)
            pause = self._pause()
            timer = loop.call_later(pause, _set, ready) if pause >= 0 else None
            try:
                await ready
            finally:
                loop.remove_reader(self.fileno())
                if timer is not None:
                    timer.cancel()
        return self._found.popleft()


def _set(future: Any) -> None:
    if not future.done():
        future.set_result(None)
