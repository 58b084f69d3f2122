"""Tells when a writer of legacy tables has had the xtables lock, and who it was."""

from __future__ import annotations

import errno
import os

from ..errors import kernel_error
from ..lock import holders, lock_path
from .inotify import CLOSED, GONE, LOST, MADE, OPENED, Inotify
from .nft_events import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._types import LockFile


class LockEvents:
    """Watches the lock file. A program that does not take the lock is not seen.

    If the lock file does not exist yet, its folder is watched until it does.
    """

    def __init__(self, lock_file: LockFile = None) -> None:
        self._path = lock_path(lock_file) or ""
        self._folder = os.path.dirname(self._path) or "."
        self._inotify = Inotify()
        self._number = self._in_folder = -1
        self._openers: set[Process | None] = set()
        self._opened = 0
        if self._path:
            self._look()

    def fileno(self) -> int:
        """Return the descriptor, which becomes readable when the lock file was opened or closed."""
        return self._inotify.fileno()

    def close(self) -> None:
        """Close the descriptor."""
        self._inotify.close()

    def _look(self) -> None:
        try:
            self._number = self._inotify.add(os.fsencode(self._path), OPENED | CLOSED | GONE)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise kernel_error(f"can't watch lock file {self._path}", error.errno, error.strerror) from None
            self._number = -1
            try:
                if self._in_folder >= 0:
                    return
                self._in_folder = self._inotify.add(os.fsencode(self._folder), MADE)
            except OSError as error:
                raise kernel_error(f"can't watch {self._folder}", error.errno, error.strerror) from None
            # the file may have been created between the two calls
            self._look()

    def read(self) -> tuple[bool, Process | None]:
        """Return (whether a process has closed the lock file since the last call, the process that had the lock).

        The process is None if it is not known: it held the lock too shortly to be seen, or there were several.
        """
        closed = doubted = False
        for number, mask, name in self._inotify.read():
            if mask & LOST:
                closed = True
                self._openers.add(None)
            elif number == self._number:
                if mask & OPENED:
                    self._opened += 1
                    self._openers.add(self._holder())
                closed |= bool(mask & CLOSED)
                if mask & GONE:
                    self._look()
                    doubted = True
            elif number == self._in_folder and self._number < 0 and name == os.fsencode(os.path.basename(self._path)):
                # the process that created the file may have closed it already
                self._look()
                self._opened += 1
                self._openers.add(self._holder())
                doubted = True
        if not closed:
            return doubted, None
        by = self._openers.pop() if len(self._openers) == 1 and self._opened < 2 else None
        self._openers.clear()
        self._opened = 0
        return True, by

    def _holder(self) -> Process | None:
        """Return the process that has the lock now, or None."""
        try:
            descriptor = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            found = list(holders(descriptor))
        finally:
            os.close(descriptor)
        return Process(*found[0]) if len(found) == 1 else None
