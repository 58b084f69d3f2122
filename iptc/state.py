"""The tables that are open in this process: what was read of each, its pending edits, and how they are committed."""

from __future__ import annotations

import errno
import os
import weakref
from _thread import get_ident  # threading's own, without the weight of that module

from . import backends
from .errors import KernelError, TransactionError, Unsupported
from .lock import UNSET, Locks, XTablesLock, lock_path, mutex
from .model.recording import Recorder, Session
from .model.saved import text_of_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from types import ModuleType

    from ._types import Lock, LockFile, Wait
    from .language.restored_text import RestoredTable
    from .model.backend_table import BackEndTable
    from .model.edits import Operation
    from .model.views import ChainHead, ChainView, View
    from .namespace import Place


class TableState(Recorder):
    """One open table: what was read of it, and the edits that are not committed yet. Whoever edits it holds `lock`."""

    def __init__(self, table: BackEndTable, restoring: ModuleType, trial: ModuleType) -> None:
        self._table = table
        self.restoring = restoring
        self._trial = trial
        self._closed = False
        self.wait: Wait = None
        self.lock_file: LockFile = None
        self.lock = mutex()
        self.look()

    @property
    def closed(self) -> bool:
        """Whether the table was closed."""
        return self._closed

    @property
    def backend(self) -> str:
        """The name of the table's back end."""
        return self._table.backend

    @property
    def place(self) -> Place:
        """The `Place` that the table is bound to."""
        return self._table.place

    @property
    def order(self) -> tuple[int, int, str]:
        """The key by which several tables are sorted: all threads lock them in this order."""
        return self._table.place.cookie, self._table.nfproto, self._table.name

    def is_of(self, table: BackEndTable) -> bool:
        """Whether this is the state of *table*, as `table_at` gives it."""
        return self.order == (table.place.cookie, table.nfproto, table.name)

    def load(self) -> View:
        """Return the table with its pending edits, as a `View`. It is read from the kernel if it is not known yet."""
        self._check_open()
        notes = self._notes
        # another thread may drop the view meanwhile
        view = notes.view
        if view is None:
            view = self._table.read()
            for operation in notes.pending:
                operation.apply(view)
            notes.view = view
        return view

    def look(self) -> None:
        """Raise if the table cannot be read. No rules are read for that if the back end can do without."""
        self._known_heads()

    def find_chain(self, name: str) -> ChainView | ChainHead | None:
        """Return the `ChainView` or `ChainHead` of a chain, or None. Rules are read only if the back end must."""
        heads = self._known_heads()
        return self.load().chains.get(name) if heads is None else heads.get(name)

    def list_chains(self) -> Collection[ChainView | ChainHead]:
        """Return the `ChainView` or `ChainHead` of each chain, in their order."""
        heads = self._known_heads()
        return self.load().in_order() if heads is None else heads.values()

    def _known_heads(self) -> dict[str, ChainHead] | None:
        """Return {name: `ChainHead`}, or None if the whole table is known: then the view is to be asked."""
        self._check_open()
        notes = self._notes
        heads = notes.heads
        if notes.view is not None or notes.pending:
            return None
        if heads is None:
            found = self._table.read_heads()
            if found is None:
                self.load()
                return None
            heads = notes.heads = {head.name: head for head in found}
        return heads

    def has_user_chain(self, name: str, look_again: bool) -> bool:
        """Whether the table has a user chain *name*, as far as it was read. With *look_again* it is read again.

        If another thread is editing the table, the pending edits are left out.
        """
        if not look_again:
            notes = self._notes
            view, heads = notes.view, notes.heads
            chain: ChainView | ChainHead | None
            chain = view.chains.get(name) if view is not None else heads.get(name) if heads else None
        elif not self.lock.acquire(blocking=False):
            found = self._table.read_heads() or self._table.read().chains.values()
            chain = next((head for head in found if head.name == name), None)
        else:
            try:
                self.forget()
                chain = self.find_chain(name)
            finally:
                self.lock.release()
        return chain is not None and chain.policy is None

    def _check_open(self) -> None:
        if self._closed:
            raise KernelError(f"table {self._table.name} is closed", errno.EBADF, "Bad file descriptor")

    def begin(self, session: Session | None) -> None:
        """Collect edits in *session* from now on. The table is read anew for them."""
        self._check_open()
        self._own.forget()
        self.note_in(session)

    def execute(self, operation: Operation) -> None:
        """Commit *operation* alone. If the table was read before, that says which rule a position means."""
        self._check_open()
        if operation.binds and self._own.view is not None:
            operation.bind(self._own.view)
        transmit([(self, [operation])])

    def save(self, counters: bool) -> str:
        """Return the table with its pending edits as text, as `iptables-save` prints it."""
        self._check_open()
        if self._notes.pending:
            return text_of_view(self._table.name, self.load(), counters)
        return str(self._table.save(counters))

    def rehearse(self, operation: Operation) -> None:
        """Raise if *operation* could not be committed now, after the pending edits. Nothing is sent."""
        self._check_open()
        rehearse(self._table, [*self._notes.pending, operation], self.wait, self.lock_file)

    def name_rule(self, error: KernelError, restored: RestoredTable) -> None:
        """Add to *error*, with which the kernel refused *restored*, the rule that is the reason for it."""
        self._trial.name_rule(error, self._table, restored)

    def mark(self) -> int:
        """Return how many edits are pending, for `rollback`."""
        return len(self._notes.pending)

    def rollback(self, mark: int) -> None:
        """Drop the pending edits that came after *mark*."""
        del self._notes.pending[mark:]
        self._notes.forget()

    def take(self) -> list[Operation]:
        """Return the pending edits, and forget them."""
        self._check_open()
        notes = self._notes
        pending = notes.take()
        notes.forget()
        return pending

    def table_to_send(self) -> BackEndTable:
        """Return the back end's table, and forget what was read of it."""
        self._notes.forget()
        return self._table

    def forget(self) -> None:
        """Forget what was read: the next use reads again."""
        self._check_open()
        self._notes.forget()

    def close(self) -> None:
        """Forget the pending edits and what was read. Using the table raises `KernelError` from now on."""
        self.discard()
        self._closed = True
        self._table.close()

    def reopen(self) -> None:
        """Open the table again after `close`."""
        self.discard()
        self._closed = False
        self.look()

    def renew_in_child(self) -> None:
        """After a fork, in the child: forget the parent's pending edits, and replace the lock, which another thread of
        the parent may hold."""
        self.discard()
        self.lock = mutex()


_sending: dict[int, Session] = {}
"""thread -> the `Session` of the commit that it is doing."""


def commit(states: Iterable[TableState], wait: Wait = UNSET) -> None:
    """Send the pending edits of several tables, as `transmit` does. They are forgotten, also if this raises."""
    transmit([(state, state.take()) for state in states], wait)


def transmit(parts: list[tuple[TableState, list[Operation]]], wait: Wait = UNSET) -> None:
    """Send [(state, edits)] of several tables under the xtables lock: all of them, or none if this raises.

    *wait* counts for this commit alone. Without it, the shortest *wait* of the tables counts.
    """
    parts = [(state, operations) for state, operations in parts if operations]
    if not parts:
        return
    _alone(lambda: _transmit(parts, wait))


def _alone(work: Callable[[], None]) -> None:
    """Call work(), which sends something. Raises `TransactionError` if this thread is sending something already."""
    busy = _sending.get(get_ident())
    if busy is not None and busy.open:
        raise TransactionError(
            "an edit from within an edit, such as the function that delete_rules was given, or the handler of a signal"
        )
    busy = Session()
    try:
        _sending[get_ident()] = busy
        work()
    finally:
        busy.open = False
        _sending.pop(get_ident(), None)


def _transmit(parts: list[tuple[TableState, list[Operation]]], wait: Wait) -> None:
    locks: dict[str | None, XTablesLock] = {}
    for state, _ in parts:
        lock = locks.setdefault(lock_path(state.lock_file), XTablesLock(path=state.lock_file))
        lock.wait = _stricter(lock.wait, state.wait) if wait is UNSET else wait
    states = [state for state, _ in parts]
    to_send = [(state.table_to_send(), operations) for state, operations in parts]
    if len({table.backend for table, _ in to_send}) > 1:
        raise Unsupported("one transaction cannot span tables of several back ends")
    try:
        to_send[0][0].commit_together(to_send, Locks(list(locks.values())))
    finally:
        # a function of the caller that ran during the commit may have read the table as it was before
        for state in states:
            state.table_to_send()


def _stricter(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def table_at(nfproto: int, name: str, place: Place, backend: str | None = None) -> BackEndTable:
    """Return the back end's table *name* of *place*. Nothing is read yet."""
    return backends.open_table(nfproto, name, place, side_at(place, backend))


def side_at(place: Place, backend: str | None = None) -> str:
    """Return *backend* if it is given, or else the name of the back end that is in use at *place*."""
    with place.open() as there:
        return backends.side_in(there, backend)


def send(table: BackEndTable, operations: list[Operation], wait: Wait = None, lock_file: LockFile = None) -> None:
    """Commit *operations* to a table of `table_at` under the xtables lock. What was read of it is forgotten."""
    send_together([(table, operations)], wait, lock_file)


def send_together(
    parts: list[tuple[BackEndTable, list[Operation]]], wait: Wait = None, lock_file: LockFile = None
) -> None:
    """Commit [(table of `table_at`, operations)] of one back end as `send` does: all of them or none."""
    _alone(lambda: parts[0][0].commit_together(parts, XTablesLock(wait=wait, path=lock_file)))
    for state in list(_open_tables):
        if not state.closed and any(state.is_of(table) for table, _ in parts):
            state.forget()


def rehearse(table: BackEndTable, operations: list[Operation], wait: Wait = None, lock_file: LockFile = None) -> None:
    """Do everything that `send` does, except to change the table. Raises what `send` would raise."""
    _alone(lambda: table.rehearse(operations, XTablesLock(wait=wait, path=lock_file)))


def tables_in_use(nfproto: int, place: Place, backend: str | None = None) -> list[str]:
    """Return the names of the tables that are in use, in the order of iptables-save. None is created by looking."""
    with place.open() as there:
        return backends.tables_in_use(nfproto, backends.side_in(there, backend), there)


def builtin_chains() -> dict[str, list[str]]:
    """Return {table: the names of its builtin chains} for all tables that iptables knows."""
    return backends.builtin_chains()


_open_tables: weakref.WeakSet[TableState] = weakref.WeakSet()
"""The `TableState`s that this process has open."""

_opening: Lock = mutex()
"""Held while it is looked up whether a table is open, so that two threads do not open it twice."""


def _renew_locks() -> None:
    """After a fork, replace all locks in the child: no thread is there to release one that was held."""
    global _opening
    _opening = mutex()
    _sending.clear()
    for state in list(_open_tables):
        state.renew_in_child()


os.register_at_fork(after_in_child=_renew_locks)


def opening() -> Lock:
    """Return the lock to be held while it is looked up whether a table is open."""
    return _opening


def open_state(nfproto: int, name: str, place: Place, backend: str) -> TableState:
    """Return a new `TableState` for a table of *place*. Raises `IPTCError` if it cannot be opened."""
    # imported with the first table, not when they are needed: while the interpreter ends, nothing can be imported
    from . import trial
    from .model import restoring

    state = TableState(table_at(nfproto, name, place, backend), restoring, trial)
    _open_tables.add(state)
    return state


def is_user_chain(nfproto: int, name: str, look_again: bool = False) -> bool:
    """Whether an open table has a user chain *name*. With *look_again* the kernel is asked again, also about tables
    that are not open. No table is created by looking.
    """
    here = backends.HERE.cookie() if look_again else None
    for state in list(_open_tables):
        cookie, family, _ = state.order
        if family != nfproto or state.closed:
            continue
        if look_again and state.place.netns is None and cookie != here:
            continue
        if state.has_user_chain(name, look_again):
            return True
    return look_again and backends.has_user_chain(nfproto, name)
