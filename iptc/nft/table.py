"""A table of the nf_tables back end: read by dumps, written by batches that the kernel applies whole or not at all.

Tables and base chains are created when they are first used, as by `iptables-nft`, and have the same names and hooks.
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
from ..model.edits import NO_CHAIN, Replay
from ..model.saved import text_of_view
from ..model.views import ChainHead, ChainView, View
from . import codec
from .plan import TablePlan, entries_of, step_of
from .reader import NftScan
from .sockets import sockets_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .._types import Lock
    from ..model.edits import Operation
    from ..namespace import Place
    from .plan import _Note, _Step
    from .sockets import Sockets

    _Parts = list[tuple["NftTable", list[Operation]]]


_RETRIES = 1024
_PATIENCE = 4
"""How many attempts to commit are made without a pause between them."""

_PROTOCOLS_OF_PORTS = {"tcp": 6, "udp": 17}


class NftTable:
    """One table of one family in one network namespace. It has the same methods as `LegacyTable`."""

    backend = "nft"

    def __init__(self, nfproto: int, name: str, place: Place) -> None:
        self.nfproto = nfproto
        self.name = name
        self.place = place
        self._sockets: Sockets | None = sockets_of(place.cookie)

    def _socket(self) -> AbstractContextManager[Socket]:
        """Return a context manager that lends a socket in the table's namespace."""
        if self._sockets is None:
            self._sockets = sockets_of(self.place.cookie)
        return self._sockets.lend(self.place)

    def close(self) -> None:
        """Close the kept sockets. The next use opens new ones."""
        self._sockets = None

    def read(self) -> View:
        """Return the table as it is in the kernel now, as a `View`. All rules are of one moment."""
        with self._socket() as socket:
            # a rule of `nft` may have the number of an interface, whose name is looked up in its namespace
            at_once = self.place.netns is not None
            chains = [
                self._chain(name, policy, counters, entries_of(self.nfproto, rules, socket) if at_once else rules)
                for name, policy, counters, rules in NftScan(self.nfproto, self.name, socket).read_messages()
            ]
        return View(self.nfproto, chains, codec.stored)

    def read_heads(self) -> list[ChainHead]:
        """Return the `ChainHead`s of all chains, in their order, without reading the rules."""
        with self._socket() as socket:
            return [ChainHead(*row[:3]) for row in NftScan(self.nfproto, self.name, socket).list_chains()]

    def _chain(
        self, name: str, policy: str | None, counters: tuple[int, int] | None, rules: bytes | list[bytes]
    ) -> ChainView:
        """Return a chain of the view. *rules* are the kernel's messages, or a list of entries."""

        def read() -> list[bytes]:
            return rules if isinstance(rules, list) else entries_of(self.nfproto, rules)

        return ChainView(self.nfproto, name, policy, counters, read, codec.stored)

    def save(self, counters: bool) -> str:
        """Return the table as text, as `iptables-save` prints it; with *counters*, as `iptables-save -c`."""
        return text_of_view(self.name, self.read(), counters)

    def require(self) -> None:
        """Raise if the kernel has no nf_tables, if iptables knows no such table, or without CAP_NET_ADMIN."""
        with self._socket() as socket:
            NftScan(self.nfproto, self.name, socket)

    def rehearse(self, operations: list[Operation], lock: Lock) -> None:
        """Carry out *operations* as `commit` does, but have the kernel only check the batch."""
        self.commit_together([(self, operations)], lock, test=True)

    def commit(self, operations: list[Operation], lock: Lock) -> None:
        """Carry out *operations* on the table as it is now: all of them or none. See `commit_together`."""
        self.commit_together([(self, operations)], lock)

    @staticmethod
    def commit_together(parts: _Parts, lock: Lock, test: bool = False) -> None:
        """Commit [(table, operations)] of tables of one namespace, of both families, in one batch: all of them or none.

        The kernel refuses a batch if the ruleset has changed since the batch was planned. Then it is planned again;
        `Conflict` is raised after very many attempts. So *lock* is not needed, and is not taken, as by iptables-nft.

        With *test* the kernel checks everything and changes nothing. Raises `PartialCommit` if the kernel's answer is
        lost, and it cannot be found out whether the batch was applied.
        """
        place = parts[0][0].place
        if any(table.place.cookie != place.cookie for table, _ in parts):
            raise Unsupported("one transaction of nf_tables cannot span several network namespaces")
        with parts[0][0]._socket() as socket:
            _commit(socket, parts, test)

    def __str__(self) -> str:
        return f"IPv{4 if self.nfproto == _core.IPV4 else 6} table {self.name}"


def _commit(socket: Socket, parts: _Parts, test: bool) -> None:
    for attempt in range(_RETRIES):
        generation = socket.generation()
        batch = Batch()
        steps: list[_Note] = []
        handles: list[TablePlan] = []
        try:
            for table, operations in parts:
                handle = TablePlan(socket, batch, steps, table)
                handles.append(handle)
                Replay(handle, handle.view, operations).run()
                handle.seal()
        except IPTCError:
            if socket.generation() != generation:
                continue  # the chains and rules that were read are of different generations
            raise
        # a batch that does not depend on anything that was read cannot be out of date
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
            # a pause of random length, so that several writers do not collide again
            time.sleep(time.perf_counter_ns() % 1000 * 1e-6 * min(attempt / _PATIENCE, 16))
    raise Conflict("can't commit: the ruleset never stops changing", errno.EAGAIN, "Resource temporarily unavailable")


def _is_at(place: Place, generation: int) -> bool:
    """Whether nobody has committed anything in this namespace since *generation*."""
    try:
        # a new socket: the answer on the old one is lost
        with place.open() as there, Socket(there) as socket:
            place.check(socket.cookie(there))
            return socket.generation() == generation
    except IPTCError:
        return False


def _partial(what: str, parts: _Parts) -> PartialCommit:
    names = [str(table) for table, _ in parts]
    return PartialCommit(f"{what}: {', '.join(names)}", names)


def _finish(socket: Socket, handle: TablePlan, parts: _Parts) -> None:
    """Do the work of *handle* that is left after the batch is applied."""
    try:
        handle.finish(socket)
    except NotFound:
        pass  # a rule that was to be zeroed has gone since
    except KernelError as error:
        raise _partial(f"can't zero rules of nft: {error.strerror}; committed but for that", parts) from error


def _diagnose(parts: _Parts, handles: list[TablePlan], by_kernel: bool) -> None:
    """Raise the reason for which one of the operations fails, if the tables show it.

    *by_kernel*: in this case iptables-nft prints the kernel's refusal, and ends with another exit status.
    """
    for handle, (_, operations) in zip(handles, parts):
        view = handle.view()
        try:
            for operation in operations:
                operation.apply(view)
        except KernelError as error:
            if by_kernel:
                error.status = RESOURCE_PROBLEM
            raise


def _missing_chain(step: _Step, handles: list[TablePlan]) -> str | None:
    """Return the name of the chain that the rule of *step* jumps to, if no such chain exists, or None."""
    nfproto, _, _, _, entry = step
    if entry is None:
        return None
    target = _core.split_entry(nfproto, entry)[1][-1]
    name = _name_of(target)
    if name in _core.VERDICTS or target != _core.standard_target(name):
        return None
    return name if all(handle.lacks(name) for handle in handles if handle.nfproto == nfproto) else None


def _name_of(payload: bytes) -> str:
    """Return the name of a match or target."""
    return _core.payload_name(payload).decode("utf-8", "surrogateescape")


def _wanted_protocol(nfproto: int, entry: bytes) -> str | None:
    """Return what iptables-nft says of a match of ports in a rule of another protocol, or None."""
    protocol, _ = _core.load_rules(_core.RuleValue, nfproto, [entry], None)[0]._get_proto()
    for match in _core.split_entry(nfproto, entry)[1][:-1]:
        name = _name_of(match)
        if protocol != _PROTOCOLS_OF_PORTS.get(name, protocol):
            return f"{name.upper()} match requires '-p {name}'"
    return None


def _refused(error: int, explanation: str | None, step: _Step | None, handles: list[TablePlan]) -> IPTCError:
    """Return the exception for the errno with which the kernel refused the message of *step*, or the whole batch."""
    reason = NO_CHAIN if error == errno.ENOENT else os.strerror(error)
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
