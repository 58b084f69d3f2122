"""A table of the legacy back end (`ip_tables`, `ip6_tables`): reads its blob, and commits edits on a draft of it."""

from __future__ import annotations

import errno

from .. import _core
from .._applied import mark
from ..errors import PartialCommit
from ..model.edits import Replay
from ..model.saved import head_and_foot
from ..model.views import ChainView, View
from .blob import TableBlob, TableScan, stored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._types import Lock
    from ..model.edits import Operation
    from ..namespace import Place
    from .restore import TableDraft


_RETRIES = 16


class LegacyTable:
    """One table of one family in one network namespace. What can be edited is in `model.edits`.

    Higher levels use what `model.backend_table.BackEndTable` names, and nothing else.
    """

    backend = "legacy"

    def __init__(self, nfproto: int, name: str, place: Place) -> None:
        self.nfproto = nfproto
        self.name = name
        self.place = place
        # now and not when it is needed: at the end of the interpreter nothing can be imported
        from .draft import send_together  # nor at the top: programs that only read counters need not load it
        from .restore import TableDraft

        self._new_draft = TableDraft
        self._send_together = send_together

    def read(self) -> View:
        """Return the table as it is in the kernel now (`IPT_SO_GET_ENTRIES`), as a `View`."""
        return self._view(self._blob())

    def _blob(self) -> TableBlob:
        with self.place.open() as there:
            blob = TableBlob(self.nfproto, self.name, there)
        self.place.check(blob.cookie)
        return blob

    def _view(self, blob: TableBlob) -> View:
        return View(self.nfproto, [self._chain(blob, *row) for row in blob.chains], stored)

    def _chain(
        self, blob: TableBlob, name: str, policy: str | None, counters: tuple[int, int] | None, first: int, end: int
    ) -> ChainView:
        return ChainView(
            self.nfproto,
            name,
            policy,
            counters,
            lambda: blob.chain_entries(first, end),
            stored,
            read_like=lambda entry: blob.entries_like(first, end, entry),
        )

    def read_heads(self) -> None:
        """Return None: a legacy table is read as a whole."""
        return None

    def save(self, counters: bool) -> str:
        """Return the table as text, as `iptables-save` prints it; with *counters*, as `iptables-save -c`."""
        blob = self._blob()
        from .save import save_rules  # programs that only poll need not load it

        head, foot = [part.encode("utf-8", "surrogateescape") for part in head_and_foot(self.name, blob.chains)]
        return save_rules(blob, counters, head, foot)

    def close(self) -> None:
        """Do nothing: no socket is kept open."""

    def require(self) -> None:
        """Raise if the kernel has no such table, or refuses to let this process read it (`IPT_SO_GET_INFO`)."""
        with self.place.open() as there:
            TableScan(self.nfproto, self.name, there).close()

    def rehearse(self, operations: list[Operation], lock: Lock) -> None:
        """Carry out *operations* as `commit` does, but send nothing."""
        with lock:
            self._draft(operations).close()

    def commit(self, operations: list[Operation], lock: Lock) -> None:
        """Carry out *operations* on the table as it is now, and send it under *lock*: all of them or none.

        If a writer that takes no lock changes the table meanwhile (EAGAIN), the table is read again and the operations
        are carried out again.
        """
        self.commit_together([(self, operations)], lock)

    @staticmethod
    def commit_together(parts: list[tuple[LegacyTable, list[Operation]]], lock: Lock) -> None:
        """Commit [(table, operations)] of several tables under one *lock*: all of them or none.

        The kernel replaces one table at a time. If it refuses a later one, the earlier ones are put back, with what
        they have counted meanwhile. Raises `PartialCommit` if the kernel refuses that too.
        """
        with lock:
            for left in range(_RETRIES, 0, -1):
                if _attempt(parts, left > 1):
                    return

    def _draft(self, operations: list[Operation]) -> TableDraft:
        """Return a draft of the table as it is now, with *operations* carried out."""
        with self.place.open() as there:
            draft = self._new_draft(TableBlob(self.nfproto, self.name, there), there)
        try:
            self.place.check(draft.blob.cookie)
            Replay(draft, lambda: self._view(draft.blob), operations).run()
        except BaseException:
            draft.close()
            raise
        return draft

    def __str__(self) -> str:
        return f"IPv{4 if self.nfproto == _core.IPV4 else 6} table {self.name}"


def _attempt(parts: list[tuple[LegacyTable, list[Operation]]], again: bool) -> bool:
    """Send [(table, operations)] to the tables as they are now. Return False if a writer that takes no lock changed one
    of them meanwhile, and *again* says that it may be tried once more."""
    drafts = []
    try:
        for table, operations in parts:
            drafts.append(table._draft(operations))
        for draft, (table, _) in zip(drafts, parts):
            draft.mark = mark(str(table))
        failed = parts[0][0]._send_together(drafts)
    finally:
        for draft in drafts:
            draft.close()
    if failed is None:
        return True
    error, left = failed
    try:
        if left:
            names = [str(parts[number][0]) for number, _ in left]
            what = f"{error}; committed, and not put back: {', '.join(names)} ({left[-1][1]})"
            raise PartialCommit(what, names) from error
        if again and error.errno == errno.EAGAIN:
            return False
        raise error
    finally:
        # an exception refers to this frame: a variable that refers to the exception would form a cycle
        del error, failed, left
