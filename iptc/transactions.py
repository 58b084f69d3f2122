"""Transactions: the edits of one or several tables, sent together or not at all."""

from __future__ import annotations

import os
from _thread import RLock

from . import state as state_module
from ._applied import telling_methods
from .errors import ParameterError, ParameterTypeError, TransactionError
from .lock import UNSET, checked_wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator
    from types import TracebackType
    from typing import Any

    from iptc import Table

    from ._types import Wait
    from .state import TableState

    _Steps = Generator[Any, Any, Any]


class _Turn:
    """Whose turn it is: one transaction at a time in a process, so that no two wait for each other's tables."""

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
    """A context manager over a generator that stops at one `yield`, which returns whether to send what was gathered
    there.

    The generator holds the locks by `with` statements, and nothing but this object holds the generator: whatever
    interrupts it, they are let go.
    """

    _begin: Callable[[], _Steps]

    def __enter__(self) -> Any:
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


def _gather(face: Any, states: list[TableState], wait: Wait) -> _Steps:
    """Let edits gather in *states*, whose locks are held, until the `yield` of *face*; return whether there were
    any."""
    session = state_module.Session()
    try:
        for state in states:
            state.begin(session)
        if (yield face):
            parts = [(state, state.take()) for state in states]
            session.open = False
            state_module.transmit(parts, wait)
            return any(operations for _, operations in parts)
    finally:
        session.open = False


class Outcome:
    """What `with table.transaction() as outcome` gives: `changed` says, once it is over, whether anything was sent."""

    def __init__(self) -> None:
        self.changed = False


@telling_methods
class Transaction(_Gathering):
    """The edits that are made inside `with`, sent together at its end: each table is replaced once, under one xtables
    lock.

    On an exception nothing is sent. Inside, `chains` and `rules` show the edits; other threads that use these tables
    wait. Edits gathered with `autocommit=False` must be committed before.
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
            # where even the end could not begin, nobody else waits for it
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
        outcome.changed = bool((yield from _gather(outcome, [table._state for table in tables], wait)))
    finally:
        turn.busy = False


def transaction(*tables: Table, wait: Wait = UNSET) -> Transaction:
    """Return a `Transaction` of *tables*, of either family, for `with`; *wait* as for `Table`, for this one commit."""
    return Transaction(tables, wait)


class Batch(_Gathering):
    """Edits of one table that go out together, inside a transaction or batch of the caller's own or alone.

    On an exception they are taken back, and only they. Other threads wait.
    """

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
