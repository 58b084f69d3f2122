"""The commands of iptables, one class each. An edit is recorded once, and carried out on one or several handles.

A *handle* is a table that can be edited. There are four kinds of handles, and all have the same verbs: the `View` in
memory, in which an edit shows before it is committed; the draft of a legacy table; libiptc's handle; and the plan of a
batch of nf_tables. A verb that fails raises `OSError` with an errno. The class of the edit has iptables' message for
that errno.

Another process may change the table before an edit is committed. So an edit remembers the rule that it means by what
the rule says, and not only by its position. Only the commands of a restored text use bare positions: the whole text is
one operation.
"""

from __future__ import annotations

import errno as _errno
from os import strerror

from .. import _core
from ..errors import Conflict, IPTCError, ParameterError, at_line, kernel_error
from ..language import comparing, plugins
from .recording import ChainAppend, ChainEdit
from .views import os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import KernelError
    from ..language.restored_text import Command, RestoredTable
    from .handle import Handle
    from .views import ChainView, View, _Anchor


NO_CHAIN = "No chain/target/match by that name"
_WORDS = {_errno.ENOENT: NO_CHAIN}
_BAD_RULE = "Bad rule (does a matching rule exist in that chain?)"


class Operation:
    """What a commit carries out on a table: an edit, a whole restored text, or the edits of a plan."""

    __slots__ = ()

    changed: int = True
    """After `do`: whether the operation changed anything, or how many rules it deleted."""

    binds = False
    """Whether `bind` must be called when the operation is made."""

    def bind(self, view: View) -> None:
        """Remember what the rule at a position says in *view*, so that it is found again at the commit."""

    def do(self, handle: Handle, look: Callable[[], View]) -> None:
        """Carry it out on *handle*. look() returns a `View` of the table, for operations that depend on its rules."""
        raise NotImplementedError

    def apply(self, view: View) -> None:
        """Carry it out on a table in memory. Raises what `refused` returns."""
        perform(self, view, view.look)

    def refused(self, number: int) -> KernelError:
        """Return the exception for errno *number*: it says why the operation cannot be carried out."""
        raise NotImplementedError


class _Edit(ChainEdit, Operation):
    """One edit of a chain. *what* is the beginning of its error messages; the name of the chain is put into it.

    in_text(handle, restored, command) carries out one command of a restored text.
    """

    __slots__ = ()
    what = ""
    letter: str | None = None
    """The letter of the command in a restored text, or None if a text cannot have it."""

    words: dict[int, str] = {}
    """errno -> iptables' message, where it differs from `_WORDS`."""

    words_in_text: dict[int, str] = {}
    """errno -> iptables-restore's message, where it differs from `words`."""

    of_all: str | None = None
    """The chains that a command in a text means if it names none: "chains" or "chains of users"."""

    def find_chain(self, view: View) -> ChainView:
        """Return the `ChainView` of the edit's chain in *view*."""
        try:
            return view.chains[self.chain]
        except KeyError:
            raise os_error(_errno.ENOENT) from None

    def reason(self, errno: int) -> str:
        """Return iptables' message for *errno*."""
        return self.words.get(errno) or reason_of(errno)

    @classmethod
    def reason_in_text(cls, errno: int | None, number: int) -> str:
        """Return iptables-restore's message for *errno*. *number* is that of the rule in the command, or 0."""
        number_of = errno or 0
        return cls.words_in_text.get(number_of) or cls.words.get(number_of) or reason_of(errno)

    def refused(self, number: int) -> KernelError:
        """Return the exception for errno *number*, with iptables' message."""
        return kernel_error(self.what.format(self.chain), number, self.reason(number))


def reason_of(errno: int | None) -> str:
    """Return iptables' message for *errno*, for any command."""
    return _WORDS.get(errno or 0) or strerror(errno or 0)


def perform(operation: Operation, handle: Handle, look: Callable[[], View]) -> None:
    """Carry out *operation* on *handle*. If a verb raises `OSError`, raise the exception of the operation instead."""
    try:
        operation.do(handle, look)
    except IPTCError:
        # some are an `OSError` too
        raise
    except OSError as error:
        raise operation.refused(error.errno or 0) from None


class Append(ChainAppend, _Edit):
    """`iptables -A`. Most edits of a batch are appends, so it is carried out in C."""

    __slots__ = ()
    what = "can't append entry to chain {}"
    letter = "A"

    @staticmethod
    def in_text(handle: Handle, restored: RestoredTable, command: Command) -> None:
        handle.append_run(command.rule)


class Insert(_Edit):
    """`iptables -I`: inserts before the rule that stood at *position* when the edit was made."""

    what = "can't insert entry into chain {}"
    letter = "I"
    words = {_errno.E2BIG: "Index of insertion too big"}
    binds = True

    def __init__(self, chain: str, entry: bytes, position: int) -> None:
        self.chain, self.entry, self.position = chain, entry, position
        self.anchor: _Anchor | None = None

    def bind(self, view: View) -> None:
        # a chain that was made since *view* was read has no rule that could be meant
        chain = view.chains.get(self.chain)
        if chain is not None and 0 < self.position < len(chain):
            self.anchor = chain.anchor(self.position)

    def do(self, handle: Handle, look: Callable[[], View]) -> None:
        position = self.position
        if self.anchor is not None:
            found = self.find_chain(look()).locate(self.anchor)
            if found is None:
                raise Conflict(
                    f"{self.what.format(self.chain)}: the rule that stood at position {self.position} is gone"
                )
            position = found
        handle.insert(self.chain, self.entry, position)

    @staticmethod
    def in_text(handle: Handle, restored: RestoredTable, command: Command) -> None:
        handle.insert(command.chain, handle.take(command.rule), command.number - 1)


class EnsureRule(_Edit):
    """`iptables -C`, and if there is no such rule, `-A`, or `-I` if there is a *position*."""

    what = Append.what

    def __init__(self, chain: str, entry: bytes, position: int | None = None) -> None:
        self.chain, self.entry, self.position = chain, entry, position
        if position is not None:
            self.what, self.words = Insert.what, Insert.words

    def _is_missing(self, chain: ChainView) -> bool:
        self.changed = chain.find(self.entry) is None
        if self.changed and self.position is not None and self.position > len(chain):
            raise os_error(_errno.E2BIG)
        return bool(self.changed)

    def do(self, handle: Handle, look: Callable[[], View]) -> None:
        if not self._is_missing(self.find_chain(look())):
            return
        if self.position is None:
            handle.append(self.chain, self.entry)
        else:
            handle.insert(self.chain, self.entry, self.position)


def first_like(nfproto: int, entry: bytes) -> _Anchor:
    """Return the anchor (see `ChainView.anchor`) of the first rule that is the same as *entry*."""
    return entry, comparing.compare_key(nfproto, entry), 0


class _OfOneRule(_Edit):
    """An edit of one existing rule: the rule at *position* when the edit was made, or the rule that *anchor* names."""

    binds = True

    def __init__(self, chain: str, position: int | None = None, anchor: _Anchor | None = None) -> None:
        self.chain, self.position, self.anchor = chain, position, anchor

    def bind(self, view: View) -> None:
        # a chain that was made since *view* was read has no rule that could be meant
        chain = view.chains.get(self.chain)
        if chain is not None and self.anchor is None and self.position is not None and self.position < len(chain):
            self.anchor = chain.anchor(self.position)

    def find(self, look: Callable[[], View]) -> int:
        """Return the position of the rule in the table that look() returns. Raises `Conflict` if it is gone."""
        position = self.position
        if self.anchor is not None:
            position = self.find_chain(look()).locate(self.anchor)
            if position is None and self.position is not None:
                raise Conflict(
                    f"{self.what.format(self.chain)}: the rule that stood at position {self.position} is gone"
                )
        if position is None:
            raise os_error(_errno.ENOENT)
        return position


class Replace(_OfOneRule):
    """`iptables -R`."""

    what = "can't replace entry in chain {}"
    letter = "R"
    words = {_errno.E2BIG: "Index of replacement too big"}

    def __init__(self, chain: str, entry: bytes, position: int) -> None:
        super().__init__(chain, position)
        self.entry = entry

    def do(self, handle: Handle, look: Callable[[], View]) -> None:
        handle.replace(self.chain, self.entry, self.find(look))

    @staticmethod
    def in_text(handle: Handle, restored: RestoredTable, command: Command) -> None:
        handle.replace(command.chain, handle.take(command.rule), command.number - 1)


class Delete(_OfOneRule):
    """`iptables -D`, by rule or by number. With *missing_ok* it is no error if there is no such rule."""

    what = "can't delete entry from chain {}"
    letter = "D"
    words = {_errno.ENOENT: _BAD_RULE, _errno.E2BIG: "Index of deletion too big"}

    def __init__(
        self, chain: str, position: int | None = None, anchor: _Anchor | None = None, missing_ok: bool = False
    ) -> None:
        super().__init__(chain, position, anchor)
        self.missing_ok = missing_ok

    def reason(self, errno: int) -> str:
        """Return iptables' message for *errno*."""
        return self.reason_in_text(errno, self.position is not None)

    @classmethod
    def reason_in_text(cls, errno: int | None, number: int) -> str:
        """Return the message. `iptables -D NOPE 1` says that the chain is missing, `-D NOPE` with a rule that the rule
        is."""
        return reason_of(errno) if number and errno == _errno.ENOENT else super().reason_in_text(errno, number)

    def do(self, handle: Handle, look: Callable[[], View]) -> None:
        self.changed = False
        try:
            position = self.find(look)
        except OSError as error:
            if self.missing_ok and error.errno == _errno.ENOENT:
                return
            raise
        handle.delete(self.chain, position)
        self.changed = True

    @staticmethod
    def in_text(handle: Handle, restored: RestoredTable, command: Command) -> None:
        handle.delete(
            command.chain, command.number - 1 if command.number else handle.locate(command.chain, command.rule)
        )


class DeleteRules(_Edit):
    """`iptables -D` for each rule for which chosen(entry) is true. `changed` is how many rules were deleted."""

    what = Delete.what

    def __init__(self, chain: str, chosen: Callable[[bytes], object]) -> None:
        self.chain, self.chosen = chain, chosen

    def do(self, handle: Handle, look: Callable[[], View]) -> None:
        entries = self.find_chain(look()).entries
        positions = [position for position, entry in enumerate(entries) if self.chosen(entry)]
        self.changed = len(positions)
        for position in reversed(positions):
            handle.delete(self.chain, position)


class Check(_Edit):
    """`iptables -C` in a text: raises if there is no such rule, and changes nothing."""

    letter = "C"
    words = {_errno.ENOENT: _BAD_RULE}

    @staticmethod
    def in_text(handle: Handle, restored: RestoredTable, command: Command) -> None:
        handle.locate(command.chain, command.rule)


class _OfChain(_Edit):
    """An edit that has no other argument than its chain."""

    def __init__(self, chain: str) -> None:
        self.chain = chain


class Flush(_OfChain):
    """`iptables -F CHAIN`."""

    what = "can't flush chain {}"
    letter = "F"
    of_all = "chains"

    def do(self, handle: Handle, look: Callable[[], View]) -> None:
        handle.flush(self.chain)

    @staticmethod
    def in_text(handle: Handle, restored: RestoredTable, command: Command) -> None:
        handle.flush(command.chain)


class Zero(_OfChain):
    """`iptables -Z CHAIN`, and, in a text, `-Z CHAIN NUMBER`."""

    what = "can't zero chain {} counters"
    letter = "Z"
    words_in_text = {_errno.E2BIG: "Index of counter too big"}
    of_all = "chains"

    def do(self, handle: Handle, look: Callable[[], View]) -> None:
        handle.zero(self.chain)

    @staticmethod
    def in_text(handle: Handle, restored: RestoredTable, command: Command) -> None:
        if command.number:
            handle.zero_rule(command.chain, command.number - 1)
        else:
            handle.zero(command.chain)


def check_new_name(nfproto: int, name: str, declared: bool = False) -> None:
    """Raise `ParameterError` if `iptables -N` refuses *name* as the name of a chain.

    *declared*: if a line `:CHAIN` of a text refuses it. There the name of an extension is allowed.
    """
    if name[0] in "-!":
        raise ParameterError(f"chain name not allowed to start with `{name[0]}'")
    if any(c in " \t\n\v\f\r" for c in name):
        raise ParameterError(f"Invalid chain name `{name}'")
    if name in _core.VERDICTS or not declared and plugins.has_target(nfproto, name):
        raise ParameterError("chain name may not clash with target name")


class CreateChain(_OfChain):
    """`iptables -N`."""

    what = "can't create chain {}"
    letter = "N"
    words = {_errno.EEXIST: "Chain already exists"}

    def do(self, handle: Handle, look: Callable[[], View]) -> None:
        handle.create_chain(self.chain)

    @staticmethod
    def in_text(handle: Handle, restored: RestoredTable, command: Command) -> None:
        handle.create_chain(command.chain)


class EnsureChain(_Edit):
    """`iptables -N` if there is no such chain. With *empty*, `-F` if there is one."""

    what = CreateChain.what
    words = CreateChain.words

    def __init__(self, chain: str, empty: bool = False) -> None:
        self.chain, self.empty = chain, empty

    def do(self, handle: Handle, look: Callable[[], View]) -> None:
        chain = look().chains.get(self.chain)
        self.changed = chain is None or bool(self.empty and len(chain))
        if chain is None:
            handle.create_chain(self.chain)
        elif self.changed:
            handle.flush(self.chain)


class DeleteChain(_OfChain):
    """`iptables -X CHAIN`."""

    what = "can't delete chain {}"
    letter = "X"
    of_all = "chains of users"
    words_in_text = {
        _errno.EINVAL: "Can't delete built-in chain",
        _errno.EMLINK: "Can't delete chain with references left",
        _errno.ENOTEMPTY: "Chain is not empty",
    }

    def do(self, handle: Handle, look: Callable[[], View]) -> None:
        handle.delete_chain(self.chain)

    @staticmethod
    def in_text(handle: Handle, restored: RestoredTable, command: Command) -> None:
        handle.delete_chain(command.chain)


class RenameChain(_Edit):
    """`iptables -E`. Rules that jump to the chain jump to the new name then."""

    what = "can't rename chain {}"
    letter = "E"

    def __init__(self, chain: str, new: str) -> None:
        self.chain, self.new = chain, new

    def do(self, handle: Handle, look: Callable[[], View]) -> None:
        handle.rename_chain(self.chain, self.new)

    @staticmethod
    def in_text(handle: Handle, restored: RestoredTable, command: Command) -> None:
        handle.rename_chain(command.chain, command.other)


class SetPolicy(_Edit):
    """`iptables -P`, and the counters of the policy if they are given. `changed`: whether any of them differed."""

    letter = "P"
    words = {_errno.ENOENT: "Bad built-in chain name", _errno.EINVAL: "Bad policy name"}

    def __init__(self, chain: str, policy: str, counters: tuple[int, int] | None = None) -> None:
        self.chain, self.policy, self.counters = chain, policy, counters
        self.what = f"can't set policy {policy.replace('{', '{{').replace('}', '}}')} on chain {{}}"

    def do(self, handle: Handle, look: Callable[[], View]) -> None:
        self.changed = handle.set_policy(self.chain, self.policy, self.counters)

    @staticmethod
    def in_text(handle: Handle, restored: RestoredTable, command: Command) -> None:
        handle.set_policy(command.chain, command.other, command.counters)


class Declare(_Edit):
    """A line `:CHAIN POLICY [packets:bytes]` of a text."""

    letter = ":"
    words = SetPolicy.words

    @staticmethod
    def in_text(handle: Handle, restored: RestoredTable, command: Command) -> None:
        (_declare_on_nft if restored.nft else _declare)(
            handle, restored, command.chain, command.other, command.counters
        )


def _declare(
    handle: Handle, restored: RestoredTable, chain: str, policy: str, counters: tuple[int, int] | None
) -> None:
    """Carry out `:CHAIN` as iptables-legacy-restore does."""
    there = handle.policy_of(chain)
    if there == "" and not restored.flush:
        handle.flush(chain)
    elif not there:
        try:
            handle.create_chain(chain)
        except OSError as error:
            if error.errno != _errno.EEXIST:
                raise
            raise ParameterError(f"error creating chain '{chain}':{strerror(_errno.EEXIST)}") from None
    if policy == "-":
        return
    try:
        handle.set_policy(chain, policy, counters)
    except OSError as error:
        reason = SetPolicy.reason_in_text(error.errno, 0)
        said = f"Can't set policy `{policy}' on `{chain}' line {handle.line}: {reason}"
        raise at_line(ParameterError(said), handle.line or 0, IPTCError.status) from None


def _declare_on_nft(
    handle: Handle, restored: RestoredTable, chain: str, policy: str, counters: tuple[int, int] | None
) -> None:
    """Carry out `:CHAIN` as iptables-nft-restore does: it ignores the policy of a user chain."""
    there = handle.policy_of(chain)
    if there is None:
        check_new_name(restored.nfproto, chain, declared=True)
        handle.create_chain(chain)
    elif not there:
        handle.flush(chain)
    elif counters is None:
        raise ParameterError(f"invalid policy counters for chain '{chain}'")
    else:
        # if the table was emptied, the chain is made again, with the policy ACCEPT
        same = "ACCEPT" if restored.flush else there
        handle.set_policy(chain, same if policy == "-" else policy, counters)


class OnlyJump(_Edit):
    """A rule that is not for this family (`-4`, `-6`). The chain to which it jumps must exist all the same."""

    letter = "?"

    @staticmethod
    def in_text(handle: Handle, restored: RestoredTable, command: Command) -> None:
        handle.take(command.rule)


class Replay:
    """Carries out the edits of one commit, one after the other, on the table as it is now."""

    def __init__(self, handle: Handle, read_view: Callable[[], View], operations: list[Operation]) -> None:
        self._handle = handle
        self._read_view = read_view
        self._view: View | None = None
        self._operations = operations
        self._done = 0

    def look(self) -> View:
        """Return the table as a `View`, with the edits so far. It is read only if an edit asks for it."""
        if self._view is None:
            self._view = self._read_view()
            for operation in self._operations[: self._done]:
                operation.apply(self._view)
        return self._view

    def run(self) -> None:
        """Carry out all edits on the handle."""
        handle, look = self._handle, self.look
        for self._done, operation in enumerate(self._operations):  # noqa: B020 - `self._done` counts
            try:
                operation.do(handle, look)
            except IPTCError:
                raise
            except OSError as error:
                raise operation.refused(error.errno or 0) from None
            if self._view is not None and operation is not self._operations[-1]:
                operation.apply(self._view)
