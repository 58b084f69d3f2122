"""The xtables lock: while a writer holds it, no other writer can change a table."""

from __future__ import annotations

import errno
import os
import time
from _thread import RLock, get_ident  # those of threading and weakref, without the weight of these modules
from _weakref import ref

from ._core import environment
from ._lockfile import Holder, LockFile
from .errors import AccessDenied, KernelError, LockTimeout, ParameterError, ParameterTypeError, TransactionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._types import LockFile as LockFilePath
    from ._types import Mutex, Wait

_LOCK_FILE = "/run/xtables.lock"

UNSET: Any = object()
"""The default of a setting that was not given, where None is a value of its own."""

_held: set[ref[XTablesLock]] = set()
"""Weak references to the locks that this process holds or waits for. After a fork the child closes its copies."""


def _held_locks() -> list[XTablesLock]:
    # a list first: garbage may be collected between any two steps, and then the set changes
    return [lock for reference in list(_held) if (lock := reference()) is not None]


def checked_wait(wait: Wait) -> Wait:
    """Return *wait*: seconds, None (for ever) or False (not at all). Raises `ParameterTypeError` for anything else."""
    if wait is None or wait is False:
        return wait
    if isinstance(wait, bool) or not isinstance(wait, (int, float)):
        raise ParameterTypeError(f"wait must be seconds, None or False, not {wait!r}")
    if not wait >= 0:
        raise ParameterError(f"wait must be seconds, not negative, not {wait!r}")
    return wait


def checked_lock_file(path: LockFilePath) -> LockFilePath:
    """Return *path*: a path, None (the host's lock file) or False (no lock). Raises `ParameterTypeError` otherwise."""
    if path is None or path is False:
        return path
    try:
        path = os.fspath(path)
    except TypeError:
        raise ParameterTypeError(f"a lock file must be a path, None or False, not {path!r}") from None
    if not path or "\0" in os.fsdecode(path):
        raise ParameterError(f"no path of a lock file: {path!r}")
    return path


def lock_path(path: LockFilePath = None) -> str | None:
    """Return the path of the lock file: *path*, `XTABLES_LOCKFILE` or /run/xtables.lock; None stands for no lock."""
    if path is False:
        return None
    return os.fsdecode(path) if path else host_lock_path()


def host_lock_path() -> str:
    """Return the path of the lock file that the tools of this host use: `XTABLES_LOCKFILE` or /run/xtables.lock."""
    return os.fsdecode(environment("XTABLES_LOCKFILE") or _LOCK_FILE)


class XTablesLock(Holder):
    """The lock that every iptables writer takes (`XTABLES_LOCKFILE`, else /run/xtables.lock), as a context manager.

    *wait*: how many seconds to wait; None waits for ever, False not at all. Raises `LockTimeout` if it is not obtained.
    *shared*: other readers can hold the lock at the same time, but no writer.
    *path*: the path of another lock file; False takes no lock.

    One object can be used by one thread at a time.
    """

    def __init__(self, wait: Wait = None, shared: bool = False, path: LockFilePath = None) -> None:
        self.wait = wait
        self.path: LockFilePath = path
        self._shared = shared
        self._file: LockFile | None = None
        self._thread: int | None = None

    def __enter__(self) -> XTablesLock:
        # what an interrupted exit left
        self._drop()
        path = lock_path(self.path)
        if path is None:
            return self
        # first of all, before anything is open: an interrupt may come between any two steps
        _held.add(ref(self, _held.discard))
        self._thread = get_ident()
        try:
            try:
                self._file = _opened(os.fsencode(path))
            except OSError as error:
                kind = AccessDenied if error.errno in (errno.EACCES, errno.EPERM) else KernelError
                raise kind(f"can't open lock file {path}: {error.strerror}", error.errno, error.strerror) from None
            self._obtain(path, self._file)
        except BaseException:
            self._drop()
            raise
        return self

    def seize(self) -> bool:
        """Take the lock if it is free. Return whether it was. Raises `OSError` if the lock file cannot be opened."""
        self.release()
        path = lock_path(self.path)
        if path is None:
            return True
        _held.add(ref(self, _held.discard))
        self._thread = get_ident()
        self._file = LockFile(os.fsencode(path))
        return self._file.take(self._shared, False)

    def release(self) -> None:
        """Release the lock if `seize` took it."""
        self.__exit__()

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
        try:
            _held.discard(ref(self))
        except MemoryError:
            # it stays in the list until it is closed
            pass

    def _obtain(self, path: str, file: LockFile) -> None:
        try:
            if file.take(self._shared, False):
                return
            self._check_not_ours(path, file)
            if self.wait is None:
                # flock() puts waiters into a queue; a signal handler runs while this waits, and may end it
                file.take(self._shared, True)
                return
            deadline, pause = time.monotonic() + self.wait, 0.0002
            while (left := deadline - time.monotonic()) > 0:
                time.sleep(min(pause, left))
                if file.take(self._shared, False):
                    return
                pause = min(pause * 2, 0.005)
        except OSError as error:
            raise KernelError(f"can't take lock {path}: {error.strerror}", error.errno, error.strerror) from None
        by_whom = holders(file.fileno())
        by = ", ".join(f"{name} (pid {pid})" for pid, name in by_whom)
        raise LockTimeout(
            f"Another app is currently holding the xtables lock {path}" + (f": {by}" if by else ""), by_whom
        )

    def _check_not_ours(self, path: str, mine: LockFile) -> None:
        """Raise `TransactionError` if this thread has the lock already: it would wait for itself."""
        for other in _held_locks():
            file = other._file
            if other._thread == self._thread and file is not None and file.locked and file.file == mine.file:
                raise TransactionError(
                    f"this thread holds the xtables lock {path} already: a call from within a call, such as from the "
                    "handler of a signal"
                )


def mutex() -> Mutex:
    """Return a new lock for threads (`threading.RLock`): the thread that holds it may take it again."""
    try:
        lock: Any = RLock()  # type checkers do not know its method `_is_owned`
    except RuntimeError:
        # that is the only reason for which it can fail
        raise MemoryError from None
    made: Mutex = lock
    return made


def _opened(path: bytes) -> LockFile:
    """Return the lock file, opened; it is created if it does not exist."""
    for _ in range(8):
        try:
            return LockFile(path)
        except FileNotFoundError:
            LockFile(path, True).close()
    return LockFile(path)


class Locks(Holder):
    """A context manager of several locks. Everybody takes them in the same order, so nobody waits in a circle."""

    def __init__(self, locks: list[XTablesLock]) -> None:
        self._locks = sorted(locks, key=lambda lock: lock_path(lock.path) or "")

    def __enter__(self) -> Locks:
        try:
            for lock in self._locks:
                lock.__enter__()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _drop(self) -> None:
        for lock in self._locks:
            lock._drop()


def _mounted_device(fd: int) -> int:
    """Return the device number of the file system that *fd* is on. `fstat` is not enough: on an overlay it returns the
    number of a layer."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        mount = next((line.split()[1] for line in file if line.startswith("mnt_id:")), "")
    with open("/proc/self/mountinfo") as file:
        numbers = next((line.split()[2] for line in file if line.split(" ", 1)[0] == mount), "0:0")
    return os.makedev(*map(int, numbers.split(":")))


def holders(fd: int) -> list[tuple[int, str]]:
    """Return [(process id, name)] of the processes that hold the lock on the file of *fd*, from /proc/locks."""
    found = []
    try:
        status = os.fstat(fd)
        files = {
            f"{os.major(device):02x}:{os.minor(device):02x}:{status.st_ino}"
            for device in (status.st_dev, _mounted_device(fd))
        }
        with open("/proc/locks") as file:
            for line in file:
                words = line.split()
                # a line is `1: FLOCK ADVISORY WRITE 1234 00:19:567 0 EOF`; a waiter has `->` behind the first number
                if len(words) < 6 or words[1] != "FLOCK" or words[5] not in files:
                    continue
                pid = int(words[4])
                if pid > 0:
                    found.append((pid, process_name(pid)))
    except (OSError, ValueError):
        return []
    return found


def process_name(pid: int) -> str:
    """Return the name of a process, as `ps` shows it, or "?" if it is gone."""
    try:
        with open(f"/proc/{pid}/comm", errors="surrogateescape") as file:
            return file.read().rstrip("\n")
    except OSError:
        return "?"


def _let_go_in_child() -> None:
    """After a fork, close the child's copies of the lock files. The parent's locks stay held."""
    for lock in _held_locks():
        lock._drop()


os.register_at_fork(after_in_child=_let_go_in_child)
