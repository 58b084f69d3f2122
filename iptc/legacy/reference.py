"""The back end "libiptc": legacy tables, read and written by the library that `iptables` itself uses.

It serves as the reference with which `legacy.draft` is compared, and is used only if a program asks for it. Each commit
sets the counters of the policies to zero, as each commit of `iptables` does.
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
    from .._applied import Mark
    from .._types import Lock
    from ..language.restored_text import RestoredTable, Run
    from ..model.edits import Operation
    from ..namespace import Place


_RETRIES = 16


class _Handle(Handle, ArrangesAtOnce):
    """libiptc's handle with the verbs of `model.edits` and of restored texts."""

    def view(self) -> View:
        """Return the table with the edits so far, as a `View`."""
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
        """Give *chain* the rules of *order*, as `Draft.arrange` does. All its rules are made again, with the counters
        that were read."""
        there = self.entries(chain)
        if not all(isinstance(rule, bytes) or rule < len(there) for rule in order):
            raise OSError(errno.E2BIG, "no such position")
        self.flush(chain)
        for rule in order:
            self.append(chain, rule if isinstance(rule, bytes) else there[rule])

    # verbs that only restored texts use

    line: int | None = None
    """The line of the restored text that is being carried out, or None."""

    def begin(self, restored: RestoredTable) -> None:
        """Delete all rules and all user chains, unless *restored* keeps them."""
        if restored.flush:
            self.clear()

    def clear(self) -> None:
        """Delete all rules and all user chains."""
        for name in self.chain_names(False):
            self.flush(name)
        for name in self.chain_names(True):
            self.delete_chain(name)

    def take(self, rule: Run) -> bytes:
        """Return the bytes of a rule. Raises if it cannot jump where it does."""
        return checked(rule, self.policy_of)

    def append_run(self, run: Run) -> None:
        """Append the rules of commands `-A` that follow each other."""
        for _, name, part in run.parts():
            for self.line, rule in part.each():
                self.append(name, self.take(rule))

    def locate(self, name: str, rule: Run) -> int:
        """Return the position of the first rule that is the same as *rule*, or raise `OSError` (ENOENT)."""
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

    def read_heads(self) -> None:
        """Return None: a legacy table is read as a whole."""
        return None

    def save(self, counters: bool) -> str:
        """Return the table as text, as `iptables-save` prints it; with *counters*, as `iptables-save -c`."""
        return text_of_view(self.name, self.read(), counters)

    def close(self) -> None:
        """Do nothing: no socket is kept open."""

    def require(self) -> None:
        """Raise if the kernel has no such table, or refuses to let this process read it."""
        self._open().close()

    def rehearse(self, operations: list[Operation], lock: Lock) -> None:
        """Carry out *operations* as `commit` does, but send nothing."""
        with lock:
            self._edited(operations).close()

    def commit(self, operations: list[Operation], lock: Lock) -> None:
        """Carry out *operations* on the table as it is now, and send it under *lock*: all of them or none."""
        self.commit_together([(self, operations)], lock)

    @staticmethod
    def commit_together(parts: list[tuple[LibiptcTable, list[Operation]]], lock: Lock) -> None:
        """Commit [(table, operations)] of several tables under one *lock*: all of them or none.

        Each table is replaced once. If the kernel refuses a later one, the earlier ones are made again as they were
        read, with their counters.
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

    def _edited(self, operations: list[Operation]) -> _Handle:
        handle = self._open()
        try:
            before = handle.view()
            Replay(handle, lambda: before, operations).run()
        except BaseException:
            handle.close()
            raise
        return handle

    def _send(self, handle: _Handle, operations: list[Operation], made: Mark) -> None:
        for attempt in range(_RETRIES):
            try:
                handle.commit(made)
                return
            except Conflict as conflict:
                # EAGAIN: a writer that takes no lock has changed the table since it was read
                if conflict.errno != errno.EAGAIN or attempt + 1 == _RETRIES:
                    raise
            handle.close()
            handle = self._edited(operations)

    def _make(self, view: View) -> None:
        """Make the table again as *view* has it."""
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


def _put_back(sent: list[tuple[LibiptcTable, View, Mark]], error: BaseException) -> None:
    """Make the tables of *sent*, [(table, view, mark)], again as they were. *error* is why. Raises `PartialCommit` if
    the kernel refuses that."""
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
