"""The back end "libiptc": legacy tables, read and written by the library that `iptables` itself uses.

It is the reference that the draft of `legacy.draft` is compared with, and is used only where it is asked for. Each
commit sets the counters of the policies to zero, as each commit of `iptables` does.
"""

from __future__ import annotations

import errno

from .. import _core
from .._applied import mark
from ..errors import Conflict, IPTCError, PartialCommit
from ..language import comparing
from ..model.arranging import ArrangesAtOnce
from ..model.edits import Replay
from ..model.saved import text_of_view
from ..model.views import ChainView, View
from .blob import stored
from .libiptc import Handle
from .restore import checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._applied import Mark
    from ..language.program import Program, Run
    from ..namespace import Place


_RETRIES = 16


class _Handle(Handle, ArrangesAtOnce):
    """libiptc's handle as an edit knows a table that is to be sent."""

    def view(self) -> View:
        """The table with the edits that were made so far, as a `View`."""
        nfproto = self.nfproto
        return View(
            nfproto,
            [
                ChainView(nfproto, name, policy, counters, entries.copy, stored)
                for name, policy, counters, entries in self.chains()
            ],
            stored,
        )

    def arrange(self, chain: str, order: list[int | bytes]) -> None:
        """Make *chain* what *order* says, as `Draft.arrange` does: its rules are made anew, with the counters that were
        read."""
        there = self.entries(chain)
        if not all(isinstance(rule, bytes) or rule < len(there) for rule in order):
            raise OSError(errno.E2BIG, "no such position")
        self.flush(chain)
        for rule in order:
            self.append(chain, rule if isinstance(rule, bytes) else there[rule])

    # what a restored text needs

    line = None
    """The line of the text that is being done."""

    def begin(self, program: Program) -> None:
        """Take all rules and all user chains away, unless they are to stay."""
        if program.flush:
            self.clear()

    def clear(self) -> None:
        """Take all rules and all user chains away."""
        for name in self.chain_names(False):
            self.flush(name)
        for name in self.chain_names(True):
            self.delete_chain(name)

    def take(self, rule: Run) -> bytes:
        """The bytes of a rule, once it is found that it can jump where it does."""
        return checked(rule, self.policy_of)

    def append_run(self, run: Run) -> None:
        """Commands `-A` that follow each other."""
        for _, name, part in run.parts():
            for self.line, rule in part.each():
                self.append(name, self.take(rule))

    def locate(self, name: str, rule: Run) -> int:
        """The position of the first rule that is the same as *rule*."""
        entry = stored(self.nfproto, self.take(rule))
        position = comparing.find_like(self.nfproto, self.entries(name), entry)
        if position < 0:
            raise OSError(errno.ENOENT, "no such rule")
        return position


class LibiptcTable:
    """One table of one family in one network namespace, with the same methods as `LegacyTable`."""

    backend = "libiptc"

    def __init__(self, nfproto: int, name: str, place: Place) -> None:
        self.nfproto = nfproto
        self.name = name
        self.place = place

    def _open(self) -> _Handle:
        with self.place.open() as there:
            handle = _Handle(self.nfproto, self.name, there)
        try:
            self.place.check(handle.cookie)
        except BaseException:
            handle.close()
            raise
        return handle

    def read(self) -> View:
        """Return the table as it is in the kernel now, as a `View`."""
        handle = self._open()
        try:
            return handle.view()
        finally:
            handle.close()

    def read_heads(self) -> Any:
        """Return None: a legacy table is read as a whole."""
        return None

    def save(self, counters: bool) -> str:
        """Return the table as `iptables-save` writes it (`-c` with *counters*)."""
        return text_of_view(self.name, self.read(), counters)

    def close(self) -> None:
        """Nothing is kept open."""

    def require(self) -> None:
        """Raise if the kernel has no such table, or does not let us."""
        self._open().close()

    def rehearse(self, operations: list[Any], lock: Any) -> None:
        """Do *operations* as `commit` does, and send nothing."""
        with lock:
            self._edited(operations).close()

    def commit(self, operations: list[Any], lock: Any) -> None:
        """Apply *operations* to the table as it is now and send it, under *lock*; all of them or none."""
        self.commit_together([(self, operations)], lock)

    @staticmethod
    def commit_together(parts: list[tuple[Any, list[Any]]], lock: Any) -> None:
        """Commit several [(table, operations)] under one *lock*: each with one replacement, all of them or none.

        Where the kernel refuses a later one, those before are made again as they were read, counters included.
        """
        with lock:
            handles, before, sent = [], [], []
            try:
                for table, operations in parts:
                    before.append(table.read())
                    handles.append(table._edited(operations))
                for (table, operations), handle, view in zip(parts, handles, before):
                    made = mark(str(table))
                    sent.append((table, view, made))
                    table._send(handle, operations, made)
            except BaseException as error:
                _put_back(sent, error)
                raise
            finally:
                for handle in handles:
                    handle.close()

    def _edited(self, operations: list[Any]) -> Any:
        handle = self._open()
        try:
            before = handle.view()
            Replay(handle, lambda: before, operations).run()
        except BaseException:
            handle.close()
            raise
        return handle

    def _send(self, handle: _Handle, operations: list[Any], made: Mark) -> None:
        for attempt in range(_RETRIES):
            try:
                handle.commit(made)
                return
            except Conflict as conflict:
                # EAGAIN: a writer that takes no lock was quicker
                if conflict.errno != errno.EAGAIN or attempt + 1 == _RETRIES:
                    raise
            handle.close()
            handle = self._edited(operations)

    def _make(self, view: View) -> None:
        """Make the table anew as *view* has it."""
        handle = self._open()
        try:
            handle.clear()
            for chain in view.in_order():
                if chain.policy is None:
                    handle.create_chain(chain.name)
            for chain in view.chains.values():
                for entry in chain.entries:
                    handle.append(chain.name, entry)
                if chain.policy is not None:
                    handle.set_policy(chain.name, chain.policy, chain.counters)
            handle.commit()
        finally:
            handle.close()

    def __str__(self) -> str:
        return f"IPv{4 if self.nfproto == _core.IPV4 else 6} table {self.name}"


def _put_back(sent: list[tuple[Any, View, Mark]], error: BaseException) -> None:
    """Make the tables of *sent*, [(table, view, mark)], as they were, since *error* came."""
    left, reason = [], None
    for table, view, made in reversed(sent):
        if not made.state:
            continue
        try:
            table._make(view)
            made.clear()
        except (IPTCError, OSError) as refused:
            left.append(str(table))
            reason = refused
    if left:
        raise PartialCommit(f"{error}; committed, and not put back: {', '.join(left)} ({reason})", left) from error
