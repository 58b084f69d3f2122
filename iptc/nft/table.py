"""A table of the nf_tables back end: read by dumps, written by batches that the kernel applies whole or not at all.

It leaves behind what `iptables-nft` leaves behind: the same tables and base chains, made when they are first used.
"""

from __future__ import annotations

import errno
import os
import time

from .. import _core
from .._applied import mark
from .._netlink import AnswerLost, Batch, Socket
from ..errors import (
    RESOURCE_PROBLEM,
    Conflict,
    IPTCError,
    KernelError,
    Missing,
    NotFound,
    PartialCommit,
    Unsupported,
    kernel_error,
)
from ..language import printing
from ..model.edits import Replay
from ..model.saved import text_of_view
from ..model.views import ChainHead, ChainView, View
from . import codec
from .plan import TablePlan, entries_of, step_of
from .reader import NftScan
from .sockets import sockets_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..namespace import Place


_RETRIES = 1024
_PATIENCE = 4
"""Attempts without a pause."""

_PROTOCOLS_OF_PORTS = {"tcp": 6, "udp": 17}


class NftTable:
    """Read and write one table of one family in one network namespace; the edits themselves are in `edits`."""

    backend = "nft"

    def __init__(self, nfproto: int, name: str, place: Place) -> None:
        self.nfproto = nfproto
        self.name = name
        self.place = place
        self._sockets = sockets_of(place.cookie)

    def _socket(self) -> Any:
        """A socket in the table's namespace, for a `with` statement."""
        if self._sockets is None:
            self._sockets = sockets_of(self.place.cookie)
        return self._sockets.lend(self.place)

    def close(self) -> None:
        """Let go of the sockets that are kept; use opens them anew."""
        self._sockets = None

    def read(self) -> View:
        """Return the table as it is in the kernel now, as a `View`: all its rules, of one moment."""
        with self._socket() as socket:
            rows = NftScan(self.nfproto, self.name, socket).messages()
            if self.place.netns is not None:
                # rules of nft may have the number of an interface, which has its name there
                rows = [(*row, entries_of(self.nfproto, messages, socket)) for *row, messages in rows]
        return View(self.nfproto, [self._chain(*row) for row in rows], codec.stored)

    def read_heads(self) -> Any:
        """Return [`ChainHead`…], in order: what can be read without the rules."""
        with self._socket() as socket:
            return [ChainHead(*row[:3]) for row in NftScan(self.nfproto, self.name, socket).list_chains()]

    def _chain(
        self, name: str, policy: str | None, counters: tuple[int, int] | None, rules: bytes | list[bytes]
    ) -> ChainView:
        """A chain of the view: *rules* are the kernel's messages, or entries."""

        def read() -> list[bytes]:
            return rules if isinstance(rules, list) else entries_of(self.nfproto, rules)

        return ChainView(self.nfproto, name, policy, counters, read, codec.stored)

    def save(self, counters: bool) -> str:
        """Return the table as `iptables-save` writes it (`-c` with *counters*)."""
        return text_of_view(self.name, self.read(), counters)

    def require(self) -> None:
        """Raise if the kernel has no nf_tables, iptables no such table, or we no right."""
        with self._socket() as socket:
            NftScan(self.nfproto, self.name, socket)

    def rehearse(self, operations: list[Any], lock: Any) -> None:
        """Do *operations* as `commit` does, and let the kernel check and forget them."""
        self.commit_together([(self, operations)], lock, test=True)

    def commit(self, operations: list[Any], lock: Any) -> None:
        """Apply *operations* to the table as it is now; all of them or none. See `commit_together`."""
        self.commit_together([(self, operations)], lock)

    @staticmethod
    def commit_together(parts: list[tuple[Any, list[Any]]], lock: Any, test: bool = False) -> None:
        """Commit several [(table, operations)] of one namespace, of whatever families, in one batch: all of them or
        none.

        The kernel refuses a batch that was planned on a ruleset that has changed since; it is planned anew then, and
        `Conflict` is raised only after very many times. So *lock* is not needed, and, like iptables-nft, not taken.
        With *test* the kernel checks everything and nothing is changed. `PartialCommit` where the kernel's answer is
        lost, and nothing else tells whether the batch was applied.
        """
        place = parts[0][0].place
        if any(table.place.cookie != place.cookie for table, _ in parts):
            raise Unsupported("one transaction of nf_tables cannot span several network namespaces")
        with parts[0][0]._socket() as socket:
            _commit(socket, parts, test)

    def __str__(self) -> str:
        return f"IPv{4 if self.nfproto == _core.IPV4 else 6} table {self.name}"


def _commit(socket: Socket, parts: list[tuple[Any, list[Any]]], test: bool) -> None:
    for attempt in range(_RETRIES):
        generation = socket.generation()
        batch = Batch()
        steps: list[Any] = []
        handles: list[TablePlan] = []
        try:
            for table, operations in parts:
                handle = TablePlan(socket, batch, steps, table)
                handles.append(handle)
                Replay(handle, handle.view, operations).run()
                handle.seal()
        except IPTCError:
            if socket.generation() != generation:
                continue  # what was read was not of one ruleset
            raise
        # what does not depend on anything that was read cannot be out of date
        depends = any(handle.depends for handle in handles)
        marks = [mark(str(table)) for table, _ in parts]
        try:
            refused = socket.send(batch, generation if depends else None, test, marks)
        except AnswerLost as error:
            if test or _is_at(parts[0][0].place, generation):
                for made in marks:
                    made.clear()
                raise kernel_error("can't commit", error.errno, error.strerror, RESOURCE_PROBLEM) from error
            raise _partial(f"can't commit: {error}; perhaps committed", parts) from error
        if not refused:
            for handle in handles if not test else ():
                _finish(socket, handle, parts)
            return
        number, failed, explanation = refused[0]
        if failed != errno.ERESTART and socket.generation() == generation:
            if failed in (errno.ENOENT, errno.EEXIST, errno.EBUSY):
                _diagnose(parts, handles, failed == errno.EBUSY)
            raise _refused(failed, explanation, step_of(steps, number), handles)
        if attempt >= _PATIENCE:
            # not all at the same time again
            time.sleep(time.perf_counter_ns() % 1000 * 1e-6 * min(attempt / _PATIENCE, 16))
    raise Conflict("can't commit: the ruleset never stops changing", errno.EAGAIN, "Resource temporarily unavailable")


def _is_at(place: Place, generation: int) -> bool:
    """Whether nobody has committed anything in this namespace since *generation*."""
    try:
        # not the one whose answer is lost
        with place.open() as there, Socket(there) as socket:
            place.check(socket.cookie(there))
            return socket.generation() == generation
    except IPTCError:
        return False


def _partial(what: str, parts: list[tuple[Any, list[Any]]]) -> Any:
    names = [str(table) for table, _ in parts]
    return PartialCommit(f"{what}: {', '.join(names)}", names)


def _finish(socket: Socket, handle: TablePlan, parts: list[tuple[Any, list[Any]]]) -> None:
    """Do what can be done only once the batch is applied."""
    try:
        handle.finish(socket)
    except NotFound:
        pass  # a rule that was to be zeroed has gone since
    except KernelError as error:
        raise _partial(f"can't zero rules of nft: {error.strerror}; committed but for that", parts) from error


def _diagnose(parts: list[tuple[Any, list[Any]]], handles: list[TablePlan], by_kernel: bool) -> None:
    """Raise what keeps one of the operations from being done, as far as it can be seen in the tables; *by_kernel*:
    iptables-nft leaves it to the kernel to refuse that."""
    for handle, (_, operations) in zip(handles, parts):
        view = handle.view()
        try:
            for operation in operations:
                operation.apply(view)
        except KernelError as error:
            if by_kernel:
                error.status = RESOURCE_PROBLEM
            raise


def _missing_chain(step: Any, handles: list[TablePlan]) -> Any:
    """The chain that the rule of *step* jumps to, if there is none of that name."""
    nfproto, _, _, _, entry = step
    if entry is None:
        return None
    target = _core.split_entry(nfproto, entry)[1][-1]
    name = _name_of(target)
    if name in _core.VERDICTS or target != _core.standard_target(name):
        return None
    return name if all(handle.lacks(name) for handle in handles if handle.nfproto == nfproto) else None


def _name_of(payload: bytes) -> Any:
    """The name of a match or target."""
    return payload[2:31].partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _wanted_protocol(nfproto: int, entry: bytes) -> Any:
    """What iptables-nft says of a match of ports in a rule of another protocol, or None."""
    protocol, _ = _core.load_rules(_core.RuleValue, nfproto, [entry], None)[0]._get_proto()
    for match in _core.split_entry(nfproto, entry)[1][:-1]:
        name = _name_of(match)
        if protocol != _PROTOCOLS_OF_PORTS.get(name, protocol):
            return f"{name.upper()} match requires '-p {name}'"
    return None


def _refused(error: int, explanation: str | None, step: Any, handles: list[TablePlan]) -> Any:
    """The exception for what the kernel said of the message for *step*, or of the batch as a whole."""
    reason = "No chain/target/match by that name" if error == errno.ENOENT else os.strerror(error)
    if step is None:
        return kernel_error("can't commit", error, reason, RESOURCE_PROBLEM)
    nfproto, line, verb, chain, entry = step
    missing = _missing_chain(step, handles) if error == errno.ENOENT else None
    if missing:
        reason = f"Chain '{missing}' does not exist"
    if error == errno.EINVAL and entry is not None:
        explanation = explanation or _wanted_protocol(nfproto, entry)
    reason += f": {verb} failed: {'chain' if entry is None else 'rule in chain'} {chain}"
    if entry is not None:
        reason += f": {printing.render(nfproto, entry)}"
    if explanation:
        reason += f" ({explanation})"
    refused: IPTCError
    if missing and line is not None and missing not in _core.HOOKS:
        refused = Missing(f"line {line} failed: {reason}")
    else:
        refused = kernel_error(
            "can't commit" if line is None else f"line {line} failed", error, reason, RESOURCE_PROBLEM
        )
    refused.line = line
    return refused
