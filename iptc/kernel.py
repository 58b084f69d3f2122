"""Where a table is: the back end, the xtables lock, and the tables that are open in this process."""

import errno
import fcntl
import os
import time
from _thread import RLock  # threading's own, without the weight of that module

from . import _blob, _core
from .errors import AccessDenied, KernelError, LockTimeout, NotFound
from .legacy import LegacyTable

_LOCK_FILE = "/run/xtables.lock"


class XTablesLock:
    """The lock that every iptables writer takes (`XTABLES_LOCKFILE`, else /run/xtables.lock), as a context manager.

    *wait* is how many seconds to wait, None for ever, False not at all; `LockTimeout` says that it was in vain. *shared*
    lets other readers in, and no writer. One object serves one thread at a time.
    """

    def __init__(self, wait=None, shared=False):
        self.wait = wait
        self._kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._fd = -1

    def __enter__(self):
        path = os.environ.get("XTABLES_LOCKFILE") or _LOCK_FILE
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            kind = AccessDenied if error.errno in (errno.EACCES, errno.EPERM) else KernelError
            raise kind(f"can't open lock file {path}: {error.strerror}", error.errno, error.strerror) from None
        try:
            self._obtain(fd, path)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return self

    def __exit__(self, *exc):
        fd, self._fd = self._fd, -1
        # a child that was forked meanwhile holds a copy of the descriptor: closing ours alone would not unlock
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    def _obtain(self, fd, path):
        deadline = None if self.wait is None else time.monotonic() + (self.wait or 0)
        pause = 0.0002
        while True:
            try:
                fcntl.flock(fd, self._kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pass
            if deadline is not None and time.monotonic() >= deadline:
                raise LockTimeout(f"another app is currently holding the xtables lock {path}")
            time.sleep(pause)
            pause = min(pause * 2, 0.02)


class TableState:
    """One open table: what was read, and the edits that are not committed yet. Its users hold `lock` while they edit."""

    def __init__(self, nfproto, name):
        self._table = LegacyTable(nfproto, name)
        self._view = None
        self._pending = []
        self._closed = False
        self.lock = RLock()
        self.view

    @property
    def pending(self):
        """Whether there are edits that are not committed."""
        return bool(self._pending)

    @property
    def closed(self):
        """Whether the table was closed."""
        return self._closed

    @property
    def view(self):
        """The table with its pending edits; read from the kernel if nothing is known yet."""
        self._check_open()
        # another thread may drop it meanwhile
        view = self._view
        if view is None:
            view = self._table.read()
            for operation in self._pending:
                operation.apply(view)
            self._view = view
        return view

    def _check_open(self):
        if self._closed:
            raise KernelError(f"table {self._table.name} is closed", errno.EBADF, "Bad file descriptor")

    def record(self, operation):
        """Apply *operation* to the view and keep it for `commit`."""
        view = self._view or self.view
        if operation.binds:
            operation.bind(view)
        operation.apply(view)
        self._pending.append(operation)

    def execute(self, operation):
        """Commit *operation* alone; it names its rule by what was last read, where anything was."""
        self._check_open()
        if operation.binds and self._view is not None:
            operation.bind(self._view)
        self._send([operation])

    def commit(self):
        """Send the pending edits; when that fails, nothing is changed and they are pending no more."""
        self._check_open()
        pending, self._pending = self._pending, []
        if pending:
            self._send(pending)

    def _send(self, operations):
        self._view = None
        self._table.commit(operations, XTablesLock())

    def mark(self):
        """Where the pending edits stand now, for `rollback`."""
        return len(self._pending)

    def rollback(self, mark):
        """Drop the pending edits that came after *mark*."""
        del self._pending[mark:]
        self._view = None

    def forget(self):
        """Drop what was read; the next look reads again."""
        self._check_open()
        self._view = None

    def discard(self):
        """Drop the pending edits and what was read."""
        self._pending = []
        self._view = None

    def close(self):
        """Drop what is pending and known; use after this raises."""
        self.discard()
        self._closed = True

    def reopen(self):
        """Open the table again after `close`."""
        self.discard()
        self._closed = False
        self.view


_open_tables = {}
"""(nfproto, name) -> TableState: the tables that this process has open."""


def _renew_locks():
    """A lock that another thread held at the time of the fork is never released in the child."""
    for state in _open_tables.values():
        state.lock = RLock()


os.register_at_fork(after_in_child=_renew_locks)

_PROC_NAMES = {_core.IPV4: "/proc/net/ip_tables_names", _core.IPV6: "/proc/net/ip6_tables_names"}


def open_table(nfproto, name):
    """Return the `TableState` of a table; `IPTCError` if the kernel has no such table or does not let us."""
    state = TableState(nfproto, name)
    _open_tables[nfproto, name] = state
    return state


def is_user_chain(nfproto, name, look_again=False):
    """Whether any table known here has a user chain *name*; with *look_again* the kernel is asked anew.

    Only tables that are in use are looked at: opening a legacy table creates it.
    """
    for (family, _), state in list(_open_tables.items()):
        if family != nfproto or state.closed:
            continue
        if look_again:
            state.forget()
        chain = state.view.chains.get(name)
        if chain is not None and chain.policy is None:
            return True
    if not look_again:
        return False
    try:
        with open(_PROC_NAMES[nfproto]) as file:
            names = file.read().split()
    except OSError:
        return False
    for table in names:
        if (nfproto, table) in _open_tables:
            continue
        try:
            chains = _blob.TableBlob(nfproto, table).chains
        except (AccessDenied, NotFound):
            continue
        if any(chain[0] == name and chain[1] is None for chain in chains):
            return True
    return False
