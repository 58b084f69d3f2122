"""A table in memory: its chains and their rules, the index that finds equal rules, and the jumps to each chain."""

from __future__ import annotations

import errno
import os
from weakref import ref

from .. import _core
from .._rope import Row, Sequence
from ..language import comparing
from .recording import ChainRules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Any

    from ..language.restored_text import RestoredTable, Run

    _Key = tuple[bytes, tuple[bytes, ...], bytes]
    _Anchor = tuple[bytes, _Key | None, int]
    """How a rule is found again: its bytes, its key for comparing, and how many rules with this key stand before it."""


class ChainHead:
    """Name, policy and counters of a chain whose rules were not read. The attributes are those of a `ChainView`."""

    __slots__ = ("name", "policy", "counters")

    def __init__(self, name: str, policy: str | None, counters: tuple[int, int] | None) -> None:
        self.name = name
        self.policy = policy
        self.counters = counters


class ChainView(ChainRules):
    """One chain: its policy (None for a user chain), and its rules as entries, which read() returns when needed.

    stored(nfproto, entry) returns what the back end makes of an entry. read_like(entry) returns [(position, entry)] of
    the rules that have the same addresses and protocol; it is faster than to read all rules.
    """

    __slots__ = (
        "name",
        "policy",
        "counters",
        "_read",
        "_index",
        "_asked",
        "_jumps",
        "_read_like",
        "__weakref__",
    )

    def __init__(
        self,
        nfproto: int,
        name: str,
        policy: str | None = None,
        counters: tuple[int, int] | None = None,
        read: Callable[[], list[bytes]] = list,
        stored: Callable[[int, bytes], bytes] | None = None,
        read_like: Callable[[bytes], list[tuple[int, bytes]]] | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self.counters = counters
        self._nfproto = nfproto
        self._read = read
        self._stored = stored
        self._read_like = read_like
        self._index: _Index | None = None
        self._asked = False
        self._jumps: Jumps | None = None

    @property
    def nfproto(self) -> int:
        """The family of its rules."""
        return self._nfproto

    @property
    def entries(self) -> list[bytes]:
        """The rules as a list of bytes. Callers must not change it."""
        if self._entries is None:
            self._entries = self._read() if self._rows is None else [row.entry for row in self._rows]
        return self._entries

    def __len__(self) -> int:
        return len(self.entries if self._rows is None else self._rows)

    def entry(self, position: int) -> bytes:
        """The rule at *position*."""
        return self.entries[position] if self._rows is None else self._rows[position].entry

    def _as_stored(self, entry: bytes) -> bytes:
        return entry if self._stored is None else self._stored(self._nfproto, entry)

    # edits

    def _rows_beside_entries(self) -> Sequence[Row]:
        """Return the rules as rows: inserting and deleting at any position is cheap there."""
        if self._rows is None:
            self._rows = Sequence(map(Row, self.entries))
        return self._rows

    def _as_rows(self) -> Sequence[Row]:
        """Return the rows, which the caller will edit."""
        rows = self._rows_beside_entries()
        self._entries = None
        return rows

    def insert(self, position: int, entry: bytes) -> None:
        """Add *entry* before the one at *position*."""
        row = Row(self._as_stored(entry))
        self._as_rows().insert(position, row)
        self._note(row)

    def replace(self, position: int, entry: bytes) -> None:
        """Put *entry* in the place of the one at *position*."""
        row, rows = Row(self._as_stored(entry)), self._as_rows()
        self._forget(rows[position])
        rows[position] = row
        self._note(row)

    def delete(self, position: int) -> None:
        """Delete the entry at *position*."""
        rows = self._as_rows()
        self._forget(rows[position])
        rows.pop(position)

    def clear(self) -> None:
        """Delete all entries."""
        self.reset([])

    def reset(self, entries: list[bytes]) -> None:
        """Replace all rules by *entries*."""
        if self._jumps is not None:
            for row in self._rows_beside_entries():
                self._jumps.forget(row)
        self._entries, self._rows, self._index = entries, None, None
        if self._jumps is not None:
            self.tell(self._jumps)

    def rename_target(self, row: Row, old: str, new: str) -> None:
        """Make *row*, which jumps to chain *old*, jump to chain *new*."""
        self._entries = None
        self._forget(row)
        row.entry = _core.retarget(self._nfproto, row.entry, old, new) or row.entry
        row.key = None
        self._note(row)

    def tell(self, jumps: Jumps) -> None:
        """Tell *jumps* to which chains the rules jump, now and after each edit."""
        self._jumps = jumps
        for row in self._rows_beside_entries():
            jumps.note(row, self)

    def _note(self, row: Row) -> None:
        if self._index is not None:
            self._index.put(row)
        if self._jumps is not None:
            self._jumps.note(row, self)

    def _forget(self, row: Row) -> None:
        if self._index is not None:
            self._index.drop(row)
        if self._jumps is not None:
            self._jumps.forget(row)

    # looking

    def _first(self, entry: bytes, key: _Key | None = None) -> int | None:
        """Return the position of the first rule that is the same as *entry*, or None. *key* is its key, if known."""
        if not self._asked and self._rows is None:
            # for a single question it is cheaper to look at each rule than to make an index
            self._asked = True
            if self._entries is not None or self._read_like is None:
                position = comparing.find_like(self._nfproto, self.entries, entry)
                return None if position < 0 else position
            like = self._read_like(entry)
            number = comparing.find_like(self._nfproto, [other for _, other in like], entry)
            return None if number < 0 else like[number][0]
        return self._indexed().find(key or comparing.compare_key(self._nfproto, entry))

    def _indexed(self) -> _Index:
        if self._index is None:
            self._index = _Index(self._nfproto, self._rows_beside_entries())
        return self._index

    def find(self, entry: bytes) -> int | None:
        """Return the position of the first rule that is the same as *entry* (`iptables -C`), or None.

        The first call compares all rules; later ones use an index.
        """
        return self._first(self._as_stored(entry))

    def anchor(self, position: int) -> _Anchor:
        """Return a name for the rule at *position*: (its bytes, its key, how many rules with this key stand before)."""
        if not self._asked and self._rows is None:
            self._asked = True
            entry = self.entries[position]
            return (
                entry,
                comparing.compare_key(self._nfproto, entry),
                comparing.count_like(self._nfproto, self.entries, position),
            )
        index = self._indexed()
        row = self._rows_beside_entries()[position]
        return row.entry, row.key, index.count_before(row)

    def locate(self, anchor: _Anchor) -> int | None:
        """Return the position of the rule that *anchor* names, or None."""
        entry, key, skip = anchor
        there = self._as_stored(entry)
        if there is not entry:
            entry, key = there, None
        if not skip:
            return self._first(entry, key)
        return self._indexed().find(key or comparing.compare_key(self._nfproto, entry), skip)


class _Index:
    """The rows of a chain by their keys (`comparing.compare_key`), updated with each edit."""

    def __init__(self, nfproto: int, rows: Sequence[Row]) -> None:
        self._nfproto = nfproto
        self._rows = rows
        self._by_key: dict[_Key | None, list[Row]] = {}
        """key -> the rows with this key, in their order"""
        for row in rows:
            self._enter(row).append(row)

    def _enter(self, row: Row) -> list[Row]:
        """Return the list of the rows with the key of *row*."""
        if row.key is None:
            row.key = comparing.compare_key(self._nfproto, row.entry)
        same = self._by_key.get(row.key)
        if same is None:
            same = self._by_key[row.key] = []
        return same

    def put(self, row: Row) -> None:
        """Add *row*. It must have its place in the chain already."""
        same = self._enter(row)
        same.insert(self._rank(same, row), row)

    def drop(self, row: Row) -> None:
        """Remove *row*. It must still have its place in the chain."""
        same = self._by_key[row.key]
        del same[self._rank(same, row)]
        if not same:
            del self._by_key[row.key]

    def _rank(self, same: list[Row], row: Row) -> int:
        """Return how many of the rows *same* stand before *row*."""
        low, high = 0, len(same)
        if high == 0 or high == 1 and same[0] is row:
            return 0
        place = self._rows.position(row)
        while low < high:
            middle = (low + high) // 2
            if self._rows.position(same[middle]) < place:
                low = middle + 1
            else:
                high = middle
        return low

    def count_before(self, row: Row) -> int:
        """Return how many rows with the key of *row* stand before it."""
        return self._rank(self._by_key[row.key], row)

    def find(self, key: _Key, skip: int = 0) -> int | None:
        """Return the position of the row with *key* that has *skip* such rows before it, or None."""
        same = self._by_key.get(key, ())
        return int(self._rows.position(same[skip])) if skip < len(same) else None


class Jumps:
    """Which rules of a table jump to which chain, updated with each edit."""

    def __init__(self, nfproto: int) -> None:
        self._nfproto = nfproto
        self._rows: dict[bytes, dict[Row, ref[Any]]] = {}

    def note(self, row: Row, chain: Any) -> None:
        """Add *row* of *chain*, if it jumps to a chain."""
        label = _core.jump_of(self._nfproto, row.entry)
        if label:
            # chains refer to this object: with a strong reference to them, only the garbage collector would free a view
            self._rows.setdefault(label, {})[row] = ref(chain)

    def forget(self, row: Row) -> None:
        """Remove *row*."""
        label = _core.jump_of(self._nfproto, row.entry)
        if label:
            rows = self._rows[label]
            del rows[row]
            if not rows:
                del self._rows[label]

    def to(self, name: str) -> list[tuple[Row, Any]]:
        """Return [(row, chain)] of the rows that jump to chain *name*."""
        rows = self._rows.get(name.encode("utf-8", "surrogateescape"), {})
        return [(row, chain()) for row, chain in rows.items()]


def _chain_order(chain: ChainView) -> tuple[int, bytes]:
    return (1, chain.name.encode("utf-8", "surrogateescape")) if chain.policy is None else (0, b"")


def os_error(error: int) -> OSError:
    """Return the `OSError` with errno *error* that a verb raises. The edit that called it knows iptables' message."""
    return OSError(error, os.strerror(error))


class View:
    """A table as it was read, with the pending edits. `chains` maps names to `ChainView`s, in no special order.

    It is one of the kinds of handles that `model.edits` describes: its verbs raise `OSError` with an errno.
    """

    line: int | None = None
    """The line of the restored text that is being carried out, or None."""

    def __init__(
        self, nfproto: int, chains: Iterable[ChainView], stored: Callable[[int, bytes], bytes] | None = None
    ) -> None:
        self.nfproto = nfproto
        self.chains: dict[str, ChainView] = {chain.name: chain for chain in chains}
        self._stored = stored
        self._sorted = True
        self._jumps: Jumps | None = None

    def in_order(self) -> Collection[ChainView]:
        """Return the chains: builtin ones in the order of their hooks, then user chains by name, as libiptc does."""
        if not self._sorted:
            self.chains = {chain.name: chain for chain in sorted(self.chains.values(), key=_chain_order)}
            self._sorted = True
        return self.chains.values()

    def look(self) -> View:
        """Return itself: an edit that is carried out on a view looks at that view."""
        return self

    def _chain(self, name: str) -> ChainView:
        chain = self.chains.get(name)
        if chain is None:
            raise os_error(errno.ENOENT)
        return chain

    # the verbs

    def append(self, name: str, entry: bytes) -> None:
        """`iptables -A`."""
        self._chain(name).append(entry)

    def insert(self, name: str, entry: bytes, position: int) -> None:
        """`iptables -I`; *position* counts from 0."""
        chain = self._chain(name)
        if position > len(chain):
            raise os_error(errno.E2BIG)
        chain.insert(position, entry)

    def replace(self, name: str, entry: bytes, position: int) -> None:
        """`iptables -R`."""
        self._chain_with(name, position).replace(position, entry)

    def delete(self, name: str, position: int) -> None:
        """`iptables -D`, by number."""
        self._chain_with(name, position).delete(position)

    def _chain_with(self, name: str, position: int) -> ChainView:
        """Return the chain. Raises `OSError` (E2BIG) unless it has a rule at *position*."""
        chain = self._chain(name)
        if position >= len(chain):
            raise os_error(errno.E2BIG)
        return chain

    def flush(self, name: str) -> None:
        """`iptables -F CHAIN`."""
        self._chain(name).clear()

    def zero(self, name: str) -> None:
        """`iptables -Z CHAIN`."""
        chain = self._chain(name)
        if chain.policy is not None:
            chain.counters = (0, 0)
        chain.reset(_core.without_counters(self.nfproto, chain.entries))

    def zero_rule(self, name: str, position: int) -> None:
        """`iptables -Z CHAIN NUMBER`."""
        chain = self._chain_with(name, position)
        chain.replace(position, _core.without_counters(self.nfproto, [chain.entry(position)])[0])

    def create_chain(self, name: str) -> None:
        """`iptables -N`."""
        if name in self.chains:
            raise os_error(errno.EEXIST)
        chain = self.chains[name] = ChainView(self.nfproto, name, stored=self._stored)
        self._sorted = False
        if self._jumps is not None:
            chain.tell(self._jumps)

    def delete_chain(self, name: str) -> None:
        """`iptables -X CHAIN`."""
        chain = self._chain(name)
        if chain.policy is not None:
            raise os_error(errno.EINVAL)
        if self._find_jumps().to(name):
            raise os_error(errno.EMLINK)
        if len(chain):
            raise os_error(errno.ENOTEMPTY)
        del self.chains[name]

    def rename_chain(self, name: str, new: str) -> None:
        """`iptables -E`. Rules that jump to the chain jump to the new name then."""
        if new in self.chains:
            raise os_error(errno.EEXIST)
        if self._chain(name).policy is not None:
            raise os_error(errno.ENOENT)
        for row, chain in self._find_jumps().to(name):
            chain.rename_target(row, name, new)
        chain = self.chains.pop(name)
        chain.name = new
        self.chains[new] = chain
        self._sorted = False

    def set_policy(self, name: str, policy: str | None, counters: tuple[int, int] | None = None) -> bool:
        """`iptables -P`, and the counters if they are given. Return whether any of them differed."""
        chain = self._chain(name)
        if chain.policy is None:
            raise os_error(errno.ENOENT)
        if policy not in ("ACCEPT", "DROP"):
            raise os_error(errno.EINVAL)
        before = chain.policy, chain.counters
        chain.policy = policy
        if counters is not None:
            packets, size = counters
            chain.counters = packets, size
        return before != (chain.policy, chain.counters)

    # verbs that only restored texts use

    def begin(self, restored: RestoredTable) -> None:
        """Delete all rules and all user chains, unless *restored* keeps them."""
        if restored.flush:
            for chain in self.chains.values():
                chain.clear()
            self.chains = {name: chain for name, chain in self.chains.items() if chain.policy is not None}

    def take(self, rule: Run) -> bytes:
        """Return the bytes of a rule. Whether it can jump where it does is checked when it is sent."""
        return rule.entry

    def append_run(self, run: Run) -> None:
        """Append the rules of commands `-A` that follow each other."""
        for self.line, name, part in run.parts():
            chain = self._chain(name)
            for self.line, entry in part.rules():
                chain.append(entry)

    def locate(self, name: str, rule: Run) -> int:
        """Return the position of the first rule that is the same as *rule*, or raise `OSError` (ENOENT)."""
        position = self._chain(name).find(rule.entry)
        if position is None:
            raise os_error(errno.ENOENT)
        return position

    def policy_of(self, name: str) -> str | None:
        """Return the policy of a chain, "" for a user chain, None if there is no such chain."""
        chain = self.chains.get(name)
        return None if chain is None else chain.policy or ""

    def chain_names(self, of_users: bool) -> list[str]:
        """Return the names of all chains, or with *of_users* of the user chains."""
        return [chain.name for chain in self.in_order() if not (of_users and chain.policy is not None)]

    def _find_jumps(self) -> Jumps:
        if self._jumps is None:
            jumps = Jumps(self.nfproto)
            for chain in self.chains.values():
                chain.tell(jumps)
            self._jumps = jumps
        return self._jumps


class Entry(bytes):
    """An entry that knows its position, for `Table.first_rule` and `Table.next_rule`."""

    _entries: list[bytes]
    _position: int

    @classmethod
    def first(cls, chain: ChainView | None) -> Entry | None:
        """Return the first entry of *chain*, or None."""
        return cls._at(chain.entries, 0) if chain is not None else None

    @classmethod
    def _at(cls, entries: list[bytes], position: int) -> Entry | None:
        if position >= len(entries):
            return None
        entry = cls(entries[position])
        entry._entries, entry._position = entries, position
        return entry

    def following(self) -> Entry | None:
        """Return the entry that follows this one, or None."""
        return self._at(self._entries, self._position + 1)
