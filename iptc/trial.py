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
from .model.restoring import Restore, programs
from .namespace import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .language.program import Program


_BOUND = {"set", "SET", "nfacct", "rateest", "CT"}
"""Extensions that name something which each network namespace has of its own: it cannot be tried out elsewhere."""


@elsewhere
def refusal(table: Any, program: Program) -> Any:
    """Return the `KernelError` with which the kernel would refuse *program* for *table*, or None.

    None also where that cannot be found out: without the right to make a network namespace (CAP_SYS_ADMIN), and where a
    rule names something of its namespace, such as a set.
    """
    before = _as_it_is(table, program)
    if before is None:
        return None
    with private_place() as place:
        if place is None:
            return None
        there = backends.open_table(table.nfproto, table.name, place, "nft" if table.backend == "nft" else "legacy")
        refused = _send(there, before, program)
        if refused is None or table.backend == "nft" and refused.errno != errno.EMLINK:
            # nf_tables was asked for all else, and names the rule itself
            return None
        if table.backend == "nft":
            return refused
        return _named(there, before, program, refused)


def name_rule(error: Any, table: Any, program: Program) -> None:
    """Say in *error*, which came of sending *program* to *table*, which rule it is about: the kernel refuses a legacy
    table as a whole."""
    if error.line != program.last_line or table.backend == "nft":
        return
    refused = refusal(table, program)
    if refused is not None and refused.errno == error.errno:
        error.message = f"line {error.line} failed: {refused}"


def _as_it_is(table: Any, program: Program) -> Any:
    """The programs that make the rules that stay where *program* does not flush; None where no text says them."""
    if program.flush:
        return []
    try:
        return list(
            programs(
                table.nfproto, table.save(False), False, True, None, lambda name: table.backend, lambda partial: None
            )
        )
    except IPTCError:
        return None


def _send(there: Any, before: Any, program: Program) -> Any:
    """What the kernel says against it, or None."""
    try:
        there.commit([Restore(each) for each in (*before, program)], contextlib.nullcontext())
    except KernelError as error:
        return error
    return None


def _named(there: Any, before: Any, program: Program, refused: Any) -> Any:
    """*refused* with the first command without which it would not come; None where it may not be what the real place
    says."""
    commands = list(program.commands())
    passes, fails = 0, len(commands)
    while fails - passes > 1:
        middle = (passes + fails) // 2
        error = _send(there, before, program.head(middle))
        passes, fails = (middle, fails) if error is None else (passes, middle)
    line, what, chain, _, entry, *_ = commands[fails - 1] if commands else (0, "", "", 0, None)
    reason = refused.strerror
    if entry is not None:
        if refused.errno == errno.ENOENT and _names(program.nfproto, entry) & _BOUND:
            return None
        reason += f": line {line}: -{what} {chain} {printing.render(program.nfproto, entry)}"
    return type(refused)(f"can't commit: {reason}", refused.errno, reason)


def _names(nfproto: int, entry: bytes) -> Any:
    """The names of the matches and the target of a rule."""
    return {part[2:31].partition(b"\0")[0].decode("utf-8", "replace") for part in _core.split_entry(nfproto, entry)[1]}


def lacking(nfproto: int, names: Any) -> Any:
    """Those of the legacy tables *names* that the kernel does not have, tried where nobody is in their way: to look is
    to create. None where that cannot be found out."""
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
def private_place() -> Iterator[Any]:
    """The `Place` of a new network namespace, or None where none can be made."""
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
