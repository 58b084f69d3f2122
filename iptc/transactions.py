"""Transactions: the edits of one or several tables, sent together or not at all."""

from __future__ import annotations

import os
from _thread import RLock

from . import state as state_module
from ._applied import telling_methods
from .errors import ParameterError, ParameterTypeError, TransactionError
from .lock import UNSET, checked_wait
from .model.recording import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator
    from types import TracebackType

    from iptc import Table

    from ._types import Wait
    from .state import TableState

    _Steps = Generator[object, bool, None]


class _Turn:
    """A lock that lets one transaction run at a time in this process. So no two can wait for each other's tables."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.busy = False


_turn = _Turn()


def _renew_turn() -> None:
    global _turn
    _turn = _Turn()


os.register_at_fork(after_in_child=_renew_turn)


@telling_methods
class _Gathering:
    """A context manager around a generator that stops at one `yield`. The `yield` returns whether to send the edits.

    The generator holds the locks in `with` statements. Only this object refers to the generator, so the locks are
    released whatever interrupts it.
    """

    _begin: Callable[[], _Steps]

    def __enter__(self) -> object:
        self._steps = self._begin()
        try:
            return next(self._steps)
        except BaseException:
            self._steps.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._steps.send(kind is None)
        except StopIteration:
            pass
        finally:
            self._steps.close()


def _gather(face: object, states: list[TableState], wait: Wait) -> Generator[object, bool, bool]:
    """Collect the edits of the tables *states*, whose locks the caller holds, until *face* yields. Return whether there
    were any."""
    session = Session()
    try:
        for state in states:
            state.begin(session)
        if (yield face):
            parts = [(state, state.take()) for state in states]
            session.open = False
            state_module.transmit(parts, wait)
            return any(operations for _, operations in parts)
        return False
    finally:
        session.open = False


class Outcome:
    """The result of `with table.transaction() as outcome`: after the end, `changed` says whether anything was sent."""

    def __init__(self) -> None:
        self.changed = False


@telling_methods
class Transaction(_Gathering):
    """Sends all edits made inside a `with` statement together at its end: one replacement for each table, one lock.

    If an exception leaves the `with` statement, nothing is sent. Inside, `chains` and `rules` show the edits, and other
    threads that use these tables wait. Edits that were collected with `autocommit=False` must be committed before.
    """

    if TYPE_CHECKING:

        def __enter__(self) -> Outcome: ...

    def __init__(self, tables: Collection[Table], wait: Wait = UNSET) -> None:
        if not tables:
            raise ParameterError("a transaction needs a table")
        if any(not hasattr(table, "_state") for table in tables):
            raise ParameterTypeError("a transaction is one of tables")
        self._tables = sorted({id(table): table for table in tables}.values(), key=lambda table: table._state.order)
        self._wait = wait if wait is UNSET else checked_wait(wait)

    def _begin(self) -> _Steps:
        self._pid = os.getpid()
        return _in_turn(_turn, self._tables, self._wait)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pid != os.getpid():
            self._steps.close()
            if kind is None:
                raise TransactionError("this transaction was begun in another process, which ends it")
            return
        try:
            super().__exit__(kind, error, traceback)
        except MemoryError:
            # if `__exit__` could not even begin, the lock is released here, so that no thread waits for ever
            self._steps.close()
            raise


def _in_turn(turn: _Turn, tables: list[Table], wait: Wait) -> _Steps:
    with turn.lock:
        if turn.busy:
            raise TransactionError("a transaction inside another: name all tables in one iptc.transaction(table, ...)")
        yield from _with_locks(turn, tables, wait, tables)


def _with_locks(turn: _Turn, tables: list[Table], wait: Wait, left: list[Table]) -> _Steps:
    if left:
        with left[0]._state.lock:
            yield from _with_locks(turn, tables, wait, left[1:])
        return
    for table in tables:
        if table._state.gathering:
            raise TransactionError(f"a transaction of {table!r} inside a batch of it")
        table._flush_pending()
        if table._state.pending:
            raise TransactionError(f"{table!r} has changes that are not committed: commit() or refresh() first")
    outcome = Outcome()
    try:
        turn.busy = True
        outcome.changed = yield from _gather(outcome, [table._state for table in tables], wait)
    finally:
        turn.busy = False


def transaction(*tables: Table, wait: Wait = UNSET) -> Transaction:
    """Return a `Transaction` of *tables*, of both families if you like, for a `with` statement.

    *wait* is as for `Table`, and counts for this commit alone.
    """
    return Transaction(tables, wait)


class EditGroup(_Gathering):
    """Edits of one table that belong together. Inside a transaction they become part of it; otherwise they are sent.

    If an exception leaves the `with` statement, these edits are dropped, and only these. Other threads wait.
    """

    if TYPE_CHECKING:

        def __enter__(self) -> Table: ...

    def __init__(self, table: Table) -> None:
        self._table = table

    def _begin(self) -> _Steps:
        return _batch(self._table, self._table._state)


def _batch(table: Table, state: TableState) -> _Steps:
    with state.lock:
        table._flush_pending()
        if table.autocommit and not state.gathering:
            yield from _gather(table, [state], UNSET)
            return
        mark = state.mark()
        good = False
        try:
            good = yield table
        finally:
            if not good:
                state.rollback(mark)
