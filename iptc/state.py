"""The tables that are open in this process: where each one is, its pending edits, and what is committed together under
which lock.
"""

from __future__ import annotations

import errno
import os
import weakref
from _thread import get_ident  # threading's own, without the weight of that module

from . import backends
from .errors import KernelError, TransactionError, Unsupported
from .lock import UNSET, Locks, XTablesLock, lock_path, mutex
from .model.saved import text_of_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ._types import LockFile, Wait
    from .namespace import Place


class Session:
    """A stretch in which edits of one or several tables gather; once `open` is False they are as if never made."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open = True


class _Notes:
    """Edits that are not sent, and the table with them as far as it was read: all of it, or the heads of its chains."""

    __slots__ = ("session", "pending", "view", "heads")

    def __init__(self, session: Session | None = None) -> None:
        self.session = session
        self.pending: list[Any] = []
        self.view: Any = None
        self.heads: dict[str, Any] | None = None

    def forget(self) -> None:
        """Drop what was read."""
        self.view = None
        self.heads = None


class TableState:
    """One open table: what was read, and the edits that are not committed yet. Its users hold `lock` while they
    edit."""

    def __init__(self, table: Any, restoring: Any, trial: Any) -> None:
        self._table = table
        self.restoring = restoring
        self._trial = trial
        self._own = _Notes()
        self._of_session: _Notes | None = None
        self._closed = False
        self.wait: Wait = None
        self.lock_file: LockFile = None
        self.lock = mutex()
        self.look()

    @property
    def _notes(self) -> _Notes:
        """What is noted now: one assignment, to `open`, ends a session for all its tables, whatever interrupts it."""
        notes = self._of_session
        return notes if notes is not None and notes.session is not None and notes.session.open else self._own

    @property
    def gathering(self) -> bool:
        """Whether edits gather in a session."""
        return self._notes is not self._own

    @property
    def pending(self) -> Any:
        """Whether there are edits that are not committed."""
        return bool(self._notes.pending)

    @property
    def closed(self) -> bool:
        """Whether the table was closed."""
        return self._closed

    @property
    def backend(self) -> str:
        """The name of the table's back end."""
        return str(self._table.backend)

    @property
    def place(self) -> Place:
        """The `Place` that the table is bound to."""
        place: Place = self._table.place
        return place

    @property
    def order(self) -> Any:
        """What several tables are ordered by, whoever names them."""
        return self._table.place.cookie, self._table.nfproto, self._table.name

    def is_of(self, table: Any) -> bool:
        """Whether this is the state of *table*, as `table_at` gives it."""
        return bool(self.order == (table.place.cookie, table.nfproto, table.name))

    def load(self) -> Any:
        """Return the table with its pending edits, as a `View`. It is read from the kernel if it is not known yet."""
        self._check_open()
        notes = self._notes
        # another thread may drop it meanwhile
        view = notes.view
        if view is None:
            view = self._table.read()
            for operation in notes.pending:
                operation.apply(view)
            notes.view = view
        return view

    def look(self) -> None:
        """See that the table can be read, with as little of it as the back end can."""
        self._known_heads()

    def find_chain(self, name: str) -> Any:
        """The `ChainView` or `ChainHead` of a chain, or None; rules are not read for it where the back end can do
        without."""
        heads = self._known_heads()
        return self.load().chains.get(name) if heads is None else heads.get(name)

    def list_chains(self) -> Any:
        """Those of all chains, in order."""
        heads = self._known_heads()
        return self.load().in_order() if heads is None else heads.values()

    def _known_heads(self) -> Any:
        """The heads of the chains by name; None where the view is there to be asked."""
        self._check_open()
        notes = self._notes
        heads = notes.heads
        if notes.view is not None or notes.pending:
            return None
        if heads is None:
            heads = self._table.read_heads()
            if heads is None:
                self.load()
                return None
            heads = notes.heads = {head.name: head for head in heads}
        return heads

    def has_user_chain(self, name: str, look_again: bool) -> bool:
        """Whether there is a user chain *name*: as far as was read, or, with *look_again*, now; without the pending
        edits where another thread is at it."""
        if not look_again:
            notes = self._notes
            view, heads = notes.view, notes.heads
            chain = view.chains.get(name) if view is not None else heads.get(name) if heads else None
        elif not self.lock.acquire(blocking=False):
            heads = self._table.read_heads() or self._table.read().chains.values()
            chain = next((head for head in heads if head.name == name), None)
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
        """Let edits gather in *session*, on the table as it will be read next."""
        self._check_open()
        self._own.forget()
        self._of_session = _Notes(session)

    def record(self, operation: Any) -> None:
        """Apply *operation* to the view and keep it for `commit`."""
        notes = self._notes
        view = notes.view or self.load()
        if operation.binds:
            operation.bind(view)
        operation.apply(view)
        notes.pending.append(operation)

    def execute(self, operation: Any) -> None:
        """Commit *operation* alone; it names its rule by what was last read, where anything was."""
        self._check_open()
        if operation.binds and self._own.view is not None:
            operation.bind(self._own.view)
        transmit([(self, [operation])])

    def save(self, counters: bool) -> str:
        """The table as `iptables-save` writes it, with its pending edits."""
        self._check_open()
        if self._notes.pending:
            return text_of_view(self._table.name, self.load(), counters)
        return str(self._table.save(counters))

    def rehearse(self, operation: Any) -> None:
        """Find out whether *operation* could be committed now, behind the pending edits."""
        self._check_open()
        rehearse(self._table, [*self._notes.pending, operation], self.wait, self.lock_file)

    def name_rule(self, error: KernelError, program: Any) -> None:
        """Say in *error*, which came of sending *program*, which rule it is about, where the kernel does not."""
        self._trial.name_rule(error, self._table, program)

    def mark(self) -> int:
        """Where the pending edits stand now, for `rollback`."""
        return len(self._notes.pending)

    def rollback(self, mark: int) -> None:
        """Drop the pending edits that came after *mark*."""
        del self._notes.pending[mark:]
        self._notes.forget()

    def take(self) -> Any:
        """Return the pending edits, which are pending no more."""
        self._check_open()
        notes = self._notes
        pending, notes.pending = notes.pending, []
        notes.forget()
        return pending

    def table_to_send(self) -> Any:
        """The back end's table; what was read of it is dropped."""
        self._notes.forget()
        return self._table

    def forget(self) -> None:
        """Drop what was read; the next look reads again."""
        self._check_open()
        self._notes.forget()

    def discard(self) -> None:
        """Drop the pending edits and what was read."""
        self._own = _Notes()
        self._of_session = None

    def close(self) -> None:
        """Drop what is pending and known; use after this raises."""
        self.discard()
        self._closed = True
        self._table.close()

    def reopen(self) -> None:
        """Open the table again after `close`."""
        self.discard()
        self._closed = False
        self.look()

    def renew_in_child(self) -> None:
        """After a fork: what the parent gathered is the parent's, and so are the locks that its threads hold."""
        self.discard()
        self.lock = mutex()


_sending: dict[int, Session] = {}
"""thread -> the `Session` of what it is sending."""


def commit(states: Iterable[TableState], wait: Wait = UNSET) -> None:
    """Send the pending edits of several tables, as `transmit` does; either way they are pending no more."""
    transmit([(state, state.take()) for state in states], wait)


def transmit(parts: list[tuple[TableState, Any]], wait: Wait = UNSET) -> None:
    """Send [(state, edits)] of several tables under the xtables lock; when that fails, nothing is changed.

    *wait* is for this commit alone; else the strictest of the tables' own.
    """
    parts = [(state, operations) for state, operations in parts if operations]
    if not parts:
        return
    _alone(lambda: _transmit(parts, wait))


def _alone(work: Callable[[], Any]) -> Any:
    """Return work(), which sends; from within such work of the same thread nothing else can be sent."""
    busy = _sending.get(get_ident())
    if busy is not None and busy.open:
        raise TransactionError(
            "an edit from within an edit, such as the function that delete_rules was given, or the handler of a signal"
        )
    busy = Session()
    try:
        _sending[get_ident()] = busy
        return work()
    finally:
        busy.open = False
        _sending.pop(get_ident(), None)


def _transmit(parts: list[tuple[TableState, Any]], wait: Wait) -> None:
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
        # what was looked at from within, by a function of the caller's, was the table before
        for state in states:
            state.table_to_send()


def _stricter(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def table_at(nfproto: int, name: str, place: Place, backend: str | None = None) -> Any:
    """The back end's table *name* of *place*; nothing is read yet."""
    return backends.open_table(nfproto, name, place, side_at(place, backend))


def side_at(place: Place, backend: str | None = None) -> str:
    """The name of the back end in use at *place*, or *backend* if that is given."""
    with place.open() as there:
        return backends.side_in(there, backend)


def send(table: Any, operations: Any, wait: Wait = None, lock_file: LockFile = None) -> None:
    """Commit *operations* to a table of `table_at`, under the xtables lock; what was read of it before is dropped."""
    send_together([(table, operations)], wait, lock_file)


def send_together(parts: Any, wait: Wait = None, lock_file: LockFile = None) -> None:
    """Commit several [(table of `table_at`, operations)] of one back end, as `send` does: all of them or none."""
    _alone(lambda: parts[0][0].commit_together(parts, XTablesLock(wait=wait, path=lock_file)))
    for state in list(_open_tables):
        if not state.closed and any(state.is_of(table) for table, _ in parts):
            state.forget()


def rehearse(table: Any, operations: Any, wait: Wait = None, lock_file: LockFile = None) -> None:
    """Do as `send` does, and send nothing."""
    _alone(lambda: table.rehearse(operations, XTablesLock(wait=wait, path=lock_file)))


def tables_in_use(nfproto: int, place: Place, backend: str | None = None) -> list[str]:
    """The names of the tables that there are, in the order in which iptables-save has them; looking creates none."""
    with place.open() as there:
        return backends.tables_in_use(nfproto, backends.side_in(there, backend), there)


def builtin_chains() -> dict[str, list[str]]:
    """{table: its builtin chains} of all tables that there can be."""
    return backends.builtin_chains()


_open_tables: weakref.WeakSet[TableState] = weakref.WeakSet()
"""The `TableState`s that this process has open."""

_opening = mutex()
"""Guards what decides that a table is open already."""


def _renew_locks() -> None:
    """A lock that another thread held at the time of the fork is never released in the child."""
    global _opening
    _opening = mutex()
    _sending.clear()
    for state in list(_open_tables):
        state.renew_in_child()


os.register_at_fork(after_in_child=_renew_locks)


def opening() -> Any:
    """The lock under which it is decided that a table is open already."""
    return _opening


def open_table(nfproto: int, name: str, place: Place, backend: str) -> TableState:
    """Return the `TableState` of a table of *place*; `IPTCError` if the kernel has no such table or does not let us."""
    # with the first table and not when it is needed: at the end of the interpreter nothing can be imported
    from . import trial
    from .model import restoring

    state = TableState(table_at(nfproto, name, place, backend), restoring, trial)
    _open_tables.add(state)
    return state


def is_user_chain(nfproto: int, name: str, look_again: bool = False) -> bool:
    """Whether any table known here has a user chain *name*; with *look_again* the kernel is asked anew.

    Nothing is created by looking.
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
