"""Lets the kernel try a restored text in a private network namespace, which is gone afterwards.

The kernel checks a table only when it is sent: whether a target may stand in this table and chain, whether chains jump
in a circle. A legacy table that is sent is in use at once, so a real one cannot be tried; and nf_tables looks for
circles only at the very end.
"""

from __future__ import annotations

import contextlib
import errno

from . import _core, _netns, backends
from ._applied import elsewhere
from .errors import IPTCError, KernelError, is_absent, is_passing, kernel_error
from .language import printing
from .model.restoring import Restore, restored_tables
from .namespace import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .language.restored_text import RestoredTable
    from .model.backend_table import BackEndTable


_BOUND = {"set", "SET", "nfacct", "rateest", "CT"}
"""Extensions whose options name something of one network namespace, such as a set. Elsewhere they cannot be tried."""


@elsewhere
def kernel_refusal(table: BackEndTable, restored: RestoredTable) -> KernelError | None:
    """Return the `KernelError` with which the kernel would refuse *restored* for *table*, or None.

    None also if it cannot be found out: without the right to make a network namespace (CAP_SYS_ADMIN), or if a rule
    names something of its own namespace, such as a set.
    """
    before = _as_it_is(table, restored)
    if before is None:
        return None
    with private_place() as place:
        if place is None:
            return None
        there = backends.open_table(table.nfproto, table.name, place, "nft" if table.backend == "nft" else "legacy")
        refused = _send(there, before, restored)
        if refused is None or table.backend == "nft" and refused.errno != errno.EMLINK:
            # everything else nf_tables was asked before, and it says itself which rule it refuses
            return None
        if table.backend == "nft":
            return refused
        return _named(there, before, restored, refused)


def name_rule(error: KernelError, table: BackEndTable, restored: RestoredTable) -> None:
    """Add to *error*, with which the kernel refused *restored* for *table*, which rule is the reason.

    The kernel refuses a legacy table as a whole, and does not say which rule it dislikes.
    """
    if error.line != restored.last_line or table.backend == "nft":
        return
    refused = kernel_refusal(table, restored)
    if refused is not None and refused.errno == error.errno:
        error.message = f"line {error.line} failed: {refused}"


def _as_it_is(table: BackEndTable, restored: RestoredTable) -> list[RestoredTable] | None:
    """Return restored tables that make the rules which exist now and stay, or None if no text can describe them."""
    if restored.flush:
        return []
    try:
        return list(
            restored_tables(
                table.nfproto, table.save(False), False, True, None, lambda name: table.backend, lambda partial: None
            )
        )
    except IPTCError:
        return None


def _send(there: BackEndTable, before: Iterable[RestoredTable], restored: RestoredTable) -> KernelError | None:
    """Send restored tables to the table *there*. Return the exception if the kernel refuses one, or None."""
    try:
        there.commit([Restore(each) for each in (*before, restored)], contextlib.nullcontext())
    except KernelError as error:
        return error
    return None


def _named(
    there: BackEndTable, before: Iterable[RestoredTable], restored: RestoredTable, refused: KernelError
) -> KernelError | None:
    """Return *refused* with the first command that causes it, or None if the real namespace may answer differently."""
    commands = list(restored.commands())
    passes, fails = 0, len(commands)
    while fails - passes > 1:
        middle = (passes + fails) // 2
        error = _send(there, before, restored.head(middle))
        passes, fails = (middle, fails) if error is None else (passes, middle)
    line, what, chain, _, entry, *_ = commands[fails - 1] if commands else (0, "", "", 0, None)
    reason = refused.strerror or str(refused)
    if entry is not None:
        if refused.errno == errno.ENOENT and _names(restored.nfproto, entry) & _BOUND:
            return None
        reason += f": line {line}: -{what} {chain} {printing.render(restored.nfproto, entry)}"
    return type(refused)(f"can't commit: {reason}", refused.errno, reason)


def _names(nfproto: int, entry: bytes) -> set[str]:
    """Return the names of the matches and the target of a rule."""
    return {_core.payload_name(part).decode("utf-8", "replace") for part in _core.split_entry(nfproto, entry)[1]}


def lacking(nfproto: int, names: Iterable[str]) -> set[str] | None:
    """Return which of the legacy tables *names* the kernel does not have, or None if that cannot be found out.

    They are looked for in a new network namespace, since looking at a table creates it.
    """
    # what only tries texts need not load it
    from .legacy.blob import TableScan

    found = set()
    with private_place() as place:
        if place is None:
            return None
        for name in names:
            try:
                with place.open() as there:
                    TableScan(nfproto, name, there).close()
            except IPTCError as error:
                if not is_absent(error):
                    return None
                found.add(name)
    return found


@contextlib.contextmanager
def private_place() -> Iterator[Place | None]:
    """Yield the `Place` of a new network namespace, or None if none can be made."""
    try:
        namespace = _netns.new_namespace()
    except OSError as error:
        if is_passing(error.errno):
            raise kernel_error("can't make a network namespace", error.errno, error.strerror) from None
        namespace = None
    if namespace is None:
        yield None
        return
    with namespace:
        yield Place(namespace)
