"""The tables of nf_tables as a value that is kept in step with what the kernel tells of each commit."""

from __future__ import annotations

import struct

from .. import _core
from .._netlink import Socket
from ..managing.difference import ChainDifference, diff_tables
from ..managing.ruleset_value import ChainValue, Ruleset, TableValue, plain_table, read_live
from ..nft import codec
from ..nft.reader import BUILTIN_CHAINS
from ..nft.sockets import Sockets, sockets_of
from .multicast import fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..namespace import Place
    from .nft_events import Commit

    _Key = tuple[int, str]

# NFT_MSG_*, the types of messages
_NEWTABLE, _DELTABLE, _NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE = 0, 2, 3, 5, 6, 8

_NAME = 1
"""The attribute with the name of a table, or with the table of a chain or rule (NFTA_TABLE_NAME and others)."""

_CHAIN_HANDLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 2, 3, 4, 5, 7  # NFTA_CHAIN_*
_RULE_CHAIN, _RULE_HANDLE, _RULE_POSITION = 2, 3, 6  # NFTA_RULE_*
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2  # NFTA_HOOK_*
_POLICIES = {0: "DROP", 1: "ACCEPT"}
_APPENDED = 0x800  # NLM_F_APPEND
_FIRST, _LAST = 0, -1
"""Used in place of the handle of the rule before."""


class LostStep(Exception):
    """The messages do not fit what is known, so the tables must be read again."""


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


class Mirror:
    """The tables of iptables in nf_tables at a place, and the generation that they belong to."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._sockets = sockets_of(place.cookie)
        self.read()

    def read(self) -> None:
        """Read the tables from the kernel."""
        self.ruleset = read_live([_core.IPV4, _core.IPV6], self._place, "nft")

    def is_past(self, generation: int) -> bool:
        """Whether the tables already contain the commit with this *generation*."""
        known = self.ruleset.generation or 0
        return (known - generation) & 0xFFFFFFFF < 1 << 31

    def follow(self, commit: Commit) -> dict[_Key, list[ChainDifference]]:
        """Apply *commit*. Return the differences that it makes: {(family, table): differences of chains}.

        Raises `LostStep`, and changes nothing, if the result cannot be known.
        """
        step = _Step(self.ruleset, self._place, self._sockets)
        for kind, nfproto, message in commit.messages:
            step.take(kind, nfproto, message)
        tables = step.finish()
        changed: dict[_Key, list[ChainDifference]] = {}
        kept = {(table.nfproto, table.name): table for table in self.ruleset.tables}
        for key, table in tables.items():
            found = [chain for chain in diff_tables(kept.get(key), table, *key) if chain]
            if found:
                changed[key] = found
            if table is None:
                kept.pop(key, None)
            else:
                kept[key] = table
        self.ruleset = Ruleset(_in_order(kept), "nft", commit.generation)
        return changed


def _in_order(tables: dict[_Key, TableValue]) -> list[TableValue]:
    names = list(BUILTIN_CHAINS)
    return [tables[key] for key in sorted(tables, key=lambda key: (key[0], names.index(key[1])))]


class _Step:
    """The tables that one commit changes, while its messages are read."""

    def __init__(self, ruleset: Ruleset, place: Place, sockets: Sockets) -> None:
        self._ruleset = ruleset
        self._place = place
        self._sockets = sockets
        self._tables: dict[_Key, _TableInCommit | None] = {}

    def take(self, kind: int, nfproto: int, message: bytes) -> None:
        """Read one message."""
        if nfproto not in (_core.IPV4, _core.IPV6):
            return
        said = fields(message[20:])
        if _NAME not in said:
            return
        key = (nfproto, _text(said[_NAME]))
        if key[1] not in BUILTIN_CHAINS:
            return
        if kind == _DELTABLE:
            self._tables[key] = None
        elif kind == _NEWTABLE:
            if self._open(key) is None:
                self._tables[key] = _TableInCommit(plain_table(*key))
        elif kind in (_NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE):
            table = self._open(key)
            if table is None:
                raise LostStep
            table.take(kind, said, message)

    def _open(self, key: _Key) -> _TableInCommit | None:
        if key not in self._tables:
            there = self._ruleset.table(*key)
            self._tables[key] = None if there is None else _TableInCommit(there)
        return self._tables[key]

    def finish(self) -> dict[_Key, TableValue | None]:
        """Return the tables after the commit; None for a table that was deleted."""
        with self._sockets.lend(self._place) as socket:
            return {key: None if table is None else table.finish(key, socket) for key, table in self._tables.items()}


class _TableInCommit:
    """One table, while the messages of a commit are read."""

    def __init__(self, value: TableValue) -> None:
        self._value = value
        self._chains: dict[str, _Chain] = {chain.name: _Chain(chain) for chain in value}
        self._renamed: dict[str, str] = {}

    def take(self, kind: int, said: dict[int, bytes], message: bytes) -> None:
        """Read a message about a chain or a rule."""
        if kind in (_NEWCHAIN, _DELCHAIN):
            self._take_chain(kind, said)
            return
        chain = self._chains.get(_text(said[_RULE_CHAIN]))
        if chain is None:
            raise LostStep
        handle = _number(said[_RULE_HANDLE])
        if kind == _DELRULE:
            chain.gone.append(handle)
        else:
            chain.add(handle, _number(said[_RULE_POSITION]) if _RULE_POSITION in said else None, message)

    def _take_chain(self, kind: int, said: dict[int, bytes]) -> None:
        name, number = _text(said[_CHAIN_NAME]), _number(said[_CHAIN_HANDLE])
        if kind == _DELCHAIN:
            if name not in self._chains:
                raise LostStep
            if self._chains[name].policy is not None:
                self._chains[name] = _Chain(plain_table(self._value.nfproto, self._value.name)[name])
            else:
                del self._chains[name]
            return
        builtin = self._builtin(name, said)
        was = next((old for old, chain in self._chains.items() if chain.number == number), None)
        if was is not None and was != name:
            self._renamed[was] = name
            self._chains = {name if old == was else old: chain for old, chain in self._chains.items()}
        elif was is None:
            policy = None if not builtin else "ACCEPT"
            self._chains[name] = _Chain(ChainValue(self._value.nfproto, name, policy, handles=[]))
        chain = self._chains[name]
        chain.name, chain.number = name, number
        if builtin and _CHAIN_POLICY in said:
            chain.policy = _POLICIES.get(_number(said[_CHAIN_POLICY]), "ACCEPT")

    def _builtin(self, name: str, said: dict[int, bytes]) -> bool:
        """Whether this is a builtin chain. Raises `LostStep` for a base chain that iptables does not know."""
        hooks = [_core.HOOKS[hook] for hook, *_ in BUILTIN_CHAINS[self._value.name]]
        if _CHAIN_HOOK not in said:
            if name in hooks:
                raise LostStep
            return False
        hook = fields(said[_CHAIN_HOOK])
        known = [
            (_core.HOOKS[number], number, kind, priority) for number, kind, priority in BUILTIN_CHAINS[self._value.name]
        ]
        (priority,) = struct.unpack("!i", hook[_HOOK_PRIORITY])
        if (name, _number(hook[_HOOK_NUMBER]), _text(said[_CHAIN_TYPE]), priority) not in known:
            raise LostStep
        return True

    def finish(self, key: _Key, socket: Socket) -> TableValue:
        """Return the table after the commit."""
        chains = [chain.finish(key[0], socket, self._renamed) for chain in self._chains.values()]
        builtin = [chain for chain in chains if chain.policy is not None]
        # the order of iptables-nft-save
        users = sorted(
            (chain for chain in chains if chain.policy is None),
            key=lambda chain: chain.name.encode("utf-8", "surrogateescape"),
        )
        return TableValue(*key, [*builtin, *users])


class _New:
    """A new rule: its message, and the handle of the rule before it, or `_FIRST` or `_LAST`."""

    __slots__ = ("handle", "behind", "message")

    def __init__(self, handle: int, behind: int, message: bytes) -> None:
        self.handle = handle
        self.behind = behind
        self.message = message


class _Chain:
    """One chain, while the messages of a commit are read."""

    __slots__ = ("name", "number", "policy", "gone", "new", "replaced", "_value", "_doubted")

    def __init__(self, value: ChainValue) -> None:
        self.name = value.name
        self.number = value.number
        self.policy = value.policy
        self.gone: list[int] = []
        self.new: list[_New] = []
        self.replaced: list[bytes] = []
        self._value = value
        self._doubted = False
        """Whether it is unknown if a new rule is the first or the last one."""

    def add(self, handle: int, behind: int | None, message: bytes) -> None:
        """Add a new rule. For the first and the last rule of a chain, the kernel gives no place.

        A rule that replaces another is reported as appended. Newer kernels give it the handle of the old rule.
        """
        if handle in self.gone:
            self.gone.remove(handle)
            self.replaced.append(message)
            return
        appended = struct.unpack_from("=H", message, 6)[0] & _APPENDED
        if behind is None:
            behind = _LAST if appended else _FIRST
            self._doubted |= bool(appended and self.gone and self._was_first(self.gone[-1]))
        self.new.append(_New(handle, behind, message))

    def _was_first(self, handle: int) -> bool:
        """Whether the deleted rule *handle* was the first one before the commit, and other rules are left."""
        left = [one for one in self._value.handles or () if one not in self.gone[:-1]]
        return len(left) > 1 and left[0] == handle

    def finish(self, nfproto: int, socket: Socket, renamed: dict[str, str]) -> ChainValue:
        """Return the chain after the commit. *renamed* is {old name: new name} of chains; jumps to them get the new
        names."""
        value = _with_jumps(self._value, renamed) if renamed else self._value
        if not self.gone and not self.new and not self.replaced:
            if (self.name, self.number, self.policy) == (value.name, value.number, value.policy):
                return value
            handles, entries = value.handles, value.entries
        else:
            handles, entries = self._rules(nfproto, socket, value)
        return ChainValue(
            nfproto,
            self.name,
            self.policy,
            value.counters,
            entries,
            handles,
            self.policy is not None and not self.number,
            self.number,
        )

    def _rules(self, nfproto: int, socket: Socket, value: ChainValue) -> tuple[list[int], list[bytes]]:
        handles = list(value.handles or ())
        known = dict(zip(handles, value.entries))
        if self._doubted or len(known) != len(value.entries):
            raise LostStep
        messages = b"".join(map(_padded, [*self.replaced, *(rule.message for rule in self.new)]))
        known.update(codec.decode_rules(nfproto, messages, socket))
        gone = set(self.gone)
        if not gone <= known.keys():
            raise LostStep
        order = [handle for handle in _placed(handles, self.new) if handle not in gone]
        return order, [known[handle] for handle in order]


def _with_jumps(chain: ChainValue, renamed: dict[str, str]) -> ChainValue:
    """Return *chain* with jumps to renamed chains changed to the new names."""
    entries = list(chain.entries)
    for position, entry in enumerate(entries):
        name = _core.jump_of(chain.nfproto, entry).decode("utf-8", "surrogateescape")
        if name in renamed:
            entries[position] = _core.retarget(chain.nfproto, entry, name, renamed[name]) or entry
    if entries == list(chain.entries):
        return chain
    return ChainValue(
        chain.nfproto, chain.name, chain.policy, chain.counters, entries, chain.handles, chain.absent, chain.number
    )


def _padded(message: bytes) -> bytes:
    return message + bytes(-len(message) % 4)


def _placed(order: list[int], new: list[_New]) -> list[int]:
    """Return *order* with the *new* rules inserted. *order* still contains deleted rules.

    The kernel reports the place that a new rule has after the whole commit. So it may come after a rule that is
    reported later.
    """
    known = {*order, *(rule.handle for rule in new)}
    behind: dict[int, list[int]] = {}
    for rule in new:
        if rule.behind not in (_FIRST, _LAST) and rule.behind not in known:
            raise LostStep
        behind.setdefault(rule.behind, []).append(rule.handle)
    placed: list[int] = []

    def place(handles: list[int]) -> None:
        """Append *handles*, and after each of them the new rules that follow it."""
        stack = handles[::-1]
        while stack:
            handle = stack.pop()
            placed.append(handle)
            stack += behind.pop(handle, [])[::-1]

    place(behind.pop(_FIRST, []))
    place(order)
    place(behind.pop(_LAST, []))
    if behind:
        raise LostStep
    return placed
