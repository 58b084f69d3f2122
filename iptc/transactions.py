"""Transactions: the edits of one or several tables, sent together or not at all."""

import os
from _thread import RLock

from . import kernel
from .errors import ParameterError, ParameterTypeError, TransactionError
from .lock import UNSET, checked_wait

class _Turn:
    """Whose turn it is: one transaction at a time in a process, so that no two wait for each other's tables."""

    def __init__(self):
        self.lock = RLock()
        self.taken = False


_turn = _Turn()


def _renew_turn():
    global _turn
    _turn = _Turn()


os.register_at_fork(after_in_child=_renew_turn)


class Transaction:
    """The edits that are made inside `with`, sent together at its end: each table is replaced once, under one xtables lock.

    On an exception nothing is sent. Inside, `chains` and `rules` show the edits; other threads that use these tables wait.
    `changed` says, once it is over, whether anything was sent. Edits gathered with `autocommit=False` must be committed before.
    """

    def __init__(self, tables, wait=UNSET):
        if not tables:
            raise ParameterError("a transaction needs a table")
        if any(not hasattr(table, "_state") for table in tables):
            raise ParameterTypeError("a transaction is one of tables")
        self._tables = {id(table._state): table for table in tables}
        self._wait = wait if wait is UNSET else checked_wait(wait)
        self._pid = None
        self.changed = False

    def __enter__(self):
        turn = _turn
        turn.lock.acquire()
        held = []
        try:
            if turn.taken:
                raise TransactionError("a transaction inside another: name all tables in one iptc.transaction(table, ...)")
            for table in sorted(self._tables.values(), key=lambda table: table._state.order):
                table._state.lock.acquire()
                held.append(table._state)
                if table._state.gathering:
                    raise TransactionError(f"a transaction of {table!r} inside a batch of it")
                table._flush_pending()
                if table._state.pending:
                    raise TransactionError(f"{table!r} has changes that are not committed: commit() or refresh() first")
                # reads the table now: what is seen inside is of one moment
                table._state.forget()
            turn.taken = True
            for state in held:
                state.gathering += 1
        except BaseException:
            for state in held:
                state.lock.release()
            turn.lock.release()
            raise
        self._pid, self._turn, self._held = os.getpid(), turn, held
        return self

    def __exit__(self, kind, error, traceback):
        if self._pid != os.getpid():
            if kind is None:
                raise TransactionError("this transaction was begun in another process, which ends it")
            return
        try:
            for state in self._held:
                state.gathering -= 1
            if kind is not None:
                for state in self._held:
                    state.rollback(0)
                return
            self.changed = any(state.pending for state in self._held)
            if self._wait is UNSET:
                kernel.commit(self._held)
            else:
                kernel.commit(self._held, self._wait)
        finally:
            self._turn.taken = False
            for state in self._held:
                state.lock.release()
            self._turn.lock.release()


def transaction(*tables, wait=UNSET):
    """Return a `Transaction` of *tables*, of either family, for `with`; *wait* as for `Table`, for this one commit."""
    return Transaction(tables, wait)


class Batch:
    """Edits of one table that go out together, inside a transaction or batch of the caller's own or alone.

    On an exception they are taken back, and only they. Other threads wait.
    """

    def __init__(self, table):
        self._table = table

    def __enter__(self):
        table, state = self._table, self._table._state
        state.lock.acquire()
        try:
            table._flush_pending()
            self._alone = table.autocommit and not state.gathering
            self._mark = state.mark()
            state.gathering += 1
        except BaseException:
            state.lock.release()
            raise
        return table

    def __exit__(self, kind, error, traceback):
        state = self._table._state
        try:
            state.gathering -= 1
            if kind is not None:
                state.rollback(self._mark)
            elif self._alone:
                kernel.commit([state])
        finally:
            state.lock.release()
