"""What an edit of a table means: operations over a view of it, recorded once and replayed as often as needed.

A `View` of `views` is where an edit shows before it is committed, and where it is found out whether it can be done. An operation names
the rule that it means, by what the rule says; a bare position is never acted on unchecked.
"""

import errno as _errno
from os import strerror

from ..errors import Conflict, IPTCError, NotFound, ParameterError, kernel_error
from ..language import plugins, printing

NO_CHAIN = "No chain/target/match by that name"
_WORDS = {_errno.ENOENT: NO_CHAIN}
BAD_RULE = "Bad rule (does a matching rule exist in that chain?)"


class _Edit:
    """One operation on a chain; *what* begins the messages about it, with the chain's name put in."""

    __slots__ = ("chain",)
    chain: str
    what = ""
    words = {}
    """errno -> what iptables says, where that is not `_WORDS`."""

    changed = True
    """Whether there was anything to do, once it is done."""

    binds = False
    """Whether `bind(view)` is to be called when the edit is made, to name the rule that is meant by what it says."""

    def find_chain(self, view):
        """The chain of this operation in *view*."""
        try:
            return view.chains[self.chain]
        except KeyError:
            raise self.refused(_errno.ENOENT) from None

    def refused(self, errno):
        """The exception that says why this operation cannot be done."""
        return kernel_error(self.what.format(self.chain), errno, self.words.get(errno) or _WORDS.get(errno) or strerror(errno))


class Append(_Edit):
    """`iptables -A`."""

    __slots__ = ("entry",)
    what = "can't append entry to chain {}"

    def __init__(self, chain, entry):
        self.chain, self.entry = chain, entry

    def apply(self, view):
        chain = view.chains.get(self.chain)
        if chain is None:
            chain = self.find_chain(view)
        chain.append(self.entry)

    def send(self, handle, replay):
        handle.append(self.chain, self.entry)


class Insert(_Edit):
    """`iptables -I`: before the rule that stood at *position* when the edit was made."""

    what = "can't insert entry into chain {}"
    words = {_errno.E2BIG: "Index of insertion too big"}
    binds = True

    def __init__(self, chain, entry, position):
        self.chain, self.entry, self.position = chain, entry, position
        self.anchor = None

    def bind(self, view):
        # a chain that was made since *view* was read has no rule that could be meant
        chain = view.chains.get(self.chain)
        if chain is not None and 0 < self.position < len(chain):
            self.anchor = chain.anchor(self.position)

    def _position(self, chain):
        if self.anchor is not None:
            position = chain.locate(self.anchor)
            if position is None:
                raise Conflict(f"{self.what.format(self.chain)}: the rule that stood at position {self.position} is gone")
            return position
        if self.position > len(chain):
            raise self.refused(_errno.E2BIG)
        return self.position

    def apply(self, view):
        chain = self.find_chain(view)
        chain.insert(self._position(chain), self.entry)

    def send(self, handle, replay):
        position = self.position
        if self.anchor is not None:
            position = self._position(self.find_chain(replay.view))
        handle.insert(self.chain, self.entry, position)


class EnsureRule(_Edit):
    """`iptables -C`, and `-A` or, with *position*, `-I` where there is no such rule."""

    what = Append.what

    def __init__(self, chain, entry, position=None):
        self.chain, self.entry, self.position = chain, entry, position
        if position is not None:
            self.what, self.words = Insert.what, Insert.words

    def _is_missing(self, chain):
        self.changed = chain.find(self.entry) is None
        if self.changed and self.position is not None and self.position > len(chain):
            raise self.refused(_errno.E2BIG)
        return self.changed

    def apply(self, view):
        chain = self.find_chain(view)
        if self._is_missing(chain):
            chain.insert(len(chain) if self.position is None else self.position, self.entry)

    def send(self, handle, replay):
        if not self._is_missing(self.find_chain(replay.view)):
            return
        if self.position is None:
            handle.append(self.chain, self.entry)
        else:
            handle.insert(self.chain, self.entry, self.position)


def first_like(nfproto, entry):
    """The anchor of the first rule that is the same as *entry*."""
    return entry, printing.compare_key(nfproto, entry), 0


class _OfOneRule(_Edit):
    """An edit of a rule that is there: named by its position when the edit was made, or by what it says."""

    binds = True

    def __init__(self, chain, position=None, anchor=None):
        self.chain, self.position, self.anchor = chain, position, anchor

    def bind(self, view):
        # a chain that was made since *view* was read has no rule that could be meant
        chain = view.chains.get(self.chain)
        if chain is not None and self.anchor is None and self.position < len(chain):
            self.anchor = chain.anchor(self.position)

    def find(self, view):
        chain = self.find_chain(view)
        if self.anchor is None:
            if self.position >= len(chain):
                raise self.refused(_errno.E2BIG)
            return chain, self.position
        position = chain.locate(self.anchor)
        if position is not None:
            return chain, position
        if self.position is None:
            raise self.refused(_errno.ENOENT)
        raise Conflict(f"{self.what.format(self.chain)}: the rule that stood at position {self.position} is gone")


class Replace(_OfOneRule):
    """`iptables -R`."""

    what = "can't replace entry in chain {}"
    words = {_errno.E2BIG: "Index of replacement too big"}

    def __init__(self, chain, entry, position):
        super().__init__(chain, position)
        self.entry = entry

    def apply(self, view):
        chain, position = self.find(view)
        chain.replace(position, self.entry)

    def send(self, handle, replay):
        handle.replace(self.chain, self.entry, self.find(replay.view)[1])


class Delete(_OfOneRule):
    """`iptables -D`, by rule or by number; with *missing_ok* a rule that is not there is no error."""

    what = "can't delete entry from chain {}"
    words = {_errno.ENOENT: BAD_RULE, _errno.E2BIG: "Index of deletion too big"}

    def __init__(self, chain, position=None, anchor=None, missing_ok=False):
        super().__init__(chain, position, anchor)
        self.missing_ok = missing_ok

    def refused(self, errno):
        """`iptables -D NOPE 1` says that there is no such chain, `-D NOPE` with a rule that there is no such rule."""
        if self.position is not None and errno == _errno.ENOENT:
            return kernel_error(self.what.format(self.chain), errno, _WORDS[errno])
        return super().refused(errno)

    def _look(self, view):
        try:
            self.changed = True
            return self.find(view)
        except NotFound:
            if not self.missing_ok:
                raise
            self.changed = False
            return None, None

    def apply(self, view):
        chain, position = self._look(view)
        if self.changed:
            chain.delete(position)

    def send(self, handle, replay):
        _, position = self._look(replay.view)
        if self.changed:
            handle.delete(self.chain, position)


class DeleteRules(_Edit):
    """`iptables -D` for each rule whose entry *chosen* says yes to; `changed` is how many there were."""

    what = Delete.what

    def __init__(self, chain, chosen):
        self.chain, self.chosen = chain, chosen

    def _positions(self, view):
        """The positions of the rules, the last first."""
        entries = self.find_chain(view).entries
        positions = [position for position, entry in enumerate(entries) if self.chosen(entry)]
        self.changed = len(positions)
        return positions[::-1]

    def apply(self, view):
        chain = self.find_chain(view)
        for position in self._positions(view):
            chain.delete(position)

    def send(self, handle, replay):
        for position in self._positions(replay.view):
            handle.delete(self.chain, position)


class Check(_OfOneRule):
    """`iptables -C`: nothing but to see that the rule is there."""

    what = "can't check entry of chain {}"
    words = {_errno.ENOENT: BAD_RULE}

    def apply(self, view):
        self.find(view)

    def send(self, handle, replay):
        self.find(replay.view)


class ZeroRule(_OfOneRule):
    """`iptables -Z CHAIN NUMBER`."""

    what = "can't zero entry of chain {}"
    words = {_errno.E2BIG: "Index of counter too big"}

    def apply(self, view):
        chain, position = self.find(view)
        chain.replace(position, printing.without_counters(view.nfproto, [chain.entry(position)])[0])

    def send(self, handle, replay):
        handle.zero_rule(self.chain, self.find(replay.view)[1])


class Flush(_Edit):
    """`iptables -F CHAIN`."""

    what = "can't flush chain {}"

    def __init__(self, chain):
        self.chain = chain

    def apply(self, view):
        self.find_chain(view).clear()

    def send(self, handle, replay):
        handle.flush(self.chain)


class Zero(_Edit):
    """`iptables -Z CHAIN`."""

    what = "can't zero chain {} counters"

    def __init__(self, chain):
        self.chain = chain

    def apply(self, view):
        chain = self.find_chain(view)
        if chain.policy is not None:
            chain.counters = (0, 0)
        chain.reset(printing.without_counters(view.nfproto, chain.entries))

    def send(self, handle, replay):
        handle.zero(self.chain)


def check_new_name(nfproto, name, declared=False):
    """Refuse what `iptables -N` refuses as the name of a chain, or, *declared*, a line of a text: an extension's is free there."""
    if name[0] in "-!":
        raise ParameterError(f"chain name not allowed to start with `{name[0]}'")
    if any(c in " \t\n\v\f\r" for c in name):
        raise ParameterError(f"Invalid chain name `{name}'")
    if name in plugins.VERDICTS or not declared and plugins.find_target(nfproto, name) is not None:
        raise ParameterError("chain name may not clash with target name")


class CreateChain(_Edit):
    """`iptables -N`."""

    what = "can't create chain {}"
    words = {_errno.EEXIST: "Chain already exists"}

    def __init__(self, chain):
        self.chain = chain

    def apply(self, view):
        if self.chain in view.chains:
            raise self.refused(_errno.EEXIST)
        view.add_chain(self.chain)

    def send(self, handle, replay):
        handle.create_chain(self.chain)


class EnsureChain(_Edit):
    """`iptables -N` where there is no such chain; with *empty* `-F` where there is one."""

    what = CreateChain.what

    def __init__(self, chain, empty=False):
        self.chain, self.empty = chain, empty

    def _look(self, view):
        """The chain; whether it is to be created or emptied."""
        chain = view.chains.get(self.chain)
        self.changed = chain is None or bool(self.empty and len(chain))
        return chain

    def apply(self, view):
        chain = self._look(view)
        if chain is None:
            CreateChain(self.chain).apply(view)
        elif self.changed:
            chain.clear()

    def send(self, handle, replay):
        chain = self._look(replay.view)
        if chain is None:
            handle.create_chain(self.chain)
        elif self.changed:
            handle.flush(self.chain)


class DeleteChain(_Edit):
    """`iptables -X CHAIN`."""

    what = "can't delete chain {}"

    def __init__(self, chain):
        self.chain = chain

    def apply(self, view):
        chain = self.find_chain(view)
        if chain.policy is not None:
            raise self.refused(_errno.EINVAL)
        if view.is_referenced(self.chain):
            raise self.refused(_errno.EMLINK)
        if len(chain):
            raise self.refused(_errno.ENOTEMPTY)
        del view.chains[self.chain]

    def send(self, handle, replay):
        handle.delete_chain(self.chain)


class RenameChain(_Edit):
    """`iptables -E`; jumps to the chain follow."""

    what = "can't rename chain {}"

    def __init__(self, chain, new):
        self.chain, self.new = chain, new

    def apply(self, view):
        if self.new in view.chains:
            raise self.refused(_errno.EEXIST)
        chain = self.find_chain(view)
        if chain.policy is not None:
            raise self.refused(_errno.ENOENT)
        view.rename_chain(self.chain, self.new)

    def send(self, handle, replay):
        handle.rename_chain(self.chain, self.new)


class SetPolicy(_Edit):
    """`iptables -P`; counters stay as they are where none are given. `changed`: the policy or the counters were others."""

    words = {_errno.ENOENT: "Bad built-in chain name", _errno.EINVAL: "Bad policy name"}

    def __init__(self, chain, policy, counters=None):
        self.chain, self.policy, self.counters = chain, policy, counters
        self.what = f"can't set policy {policy.replace('{', '{{').replace('}', '}}')} on chain {{}}"

    def apply(self, view):
        chain = self.find_chain(view)
        if chain.policy is None:
            raise self.refused(_errno.ENOENT)
        if self.policy not in ("ACCEPT", "DROP"):
            raise self.refused(_errno.EINVAL)
        counters = tuple(chain.counters if self.counters is None else self.counters)
        self.changed = (chain.policy, tuple(chain.counters)) != (self.policy, counters)
        chain.policy, chain.counters = self.policy, counters

    def send(self, handle, replay):
        self.changed = handle.set_policy(self.chain, self.policy, self.counters)


class Replay:
    """The operations of one commit, one after the other, on the table as it is now."""

    def __init__(self, handle, read_view, operations):
        self._handle = handle
        self._read_view = read_view
        self._view = None
        self._operations = operations
        self._sent = 0

    @property
    def view(self):
        """The table as the operations so far have left it; read only if one of them must look."""
        if self._view is None:
            self._view = self._read_view()
            for operation in self._operations[: self._sent]:
                operation.apply(self._view)
        return self._view

    def run(self):
        """Send all operations to the handle."""
        handle = self._handle
        for self._sent, operation in enumerate(self._operations):
            try:
                operation.send(handle, self)
            except OSError as error:
                if isinstance(error, IPTCError):
                    raise
                raise operation.refused(error.errno) from None
            if self._view is not None and operation is not self._operations[-1]:
                operation.apply(self._view)
