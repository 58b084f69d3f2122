"""Finds the rule that a report means: nf_tables reports the rule's handle, legacy xtables its number.

A report comes after the packet, and by then the rules may have changed. So each chain is read before packets come, and
again after each change of the ruleset. A rule is named only if both readings have the same rule there.
"""

from __future__ import annotations

import contextlib
import errno
import select

from .. import _core
from .._netlink import Socket, attribute, attributes, messages_in
from ..errors import AccessDenied, IPTCError, KernelError, is_absent
from ..nft import codec
from ..nft.reader import BUILTIN_CHAINS
from ..watching.lock_events import LockEvents
from ..watching.multicast import MessagesLost, fields
from ..watching.nft_events import NftEvents
from .nft_reports import name_in
from .traced_rule import ADDED, CHANGED, MOVED, NOT_KNOWN, REMOVED, Found, found_of, rule_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .._types import Family
    from ..legacy.blob import TableBlob, TableScan
    from ..namespace import Place
    from ..watching.nft_events import Commit
    from .report import Report

    _Key = tuple[int, str, str]
    """Family of the table, table, chain."""

_GETCHAIN, _GETRULE = 4, 7  # NFT_MSG_*
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK = 1, 3, 4  # NFTA_CHAIN_*
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2  # NFTA_HOOK_*
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS, _RULE_USERDATA = 1, 2, 3, 4, 7  # NFTA_RULE_*
_OF_CHAINS, _OF_RULES = (3, 5), (6, 8)
"""Kinds of messages that say that a chain or a rule is new, or gone (NFT_MSG_*)."""

_PATIENCE = 200
"""Milliseconds to wait for the kernel's report of a commit. After that, all chains are read again."""

_COMMENT = 0
"""The kind of a comment in a rule's user data."""


class _Past:
    """Old versions of chains or tables that have changed. They are kept as long as a packet that met them may still be
    reported.

    The rules are checked again and again. After two checks without a change, no such report can come any more.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[int, dict[Any, Any]]] = []

    def __bool__(self) -> bool:
        return bool(self._kept)

    def grow_older(self) -> None:
        """Note that the rules are checked once more. Drop the versions that no report can mean any more."""
        if self._kept:
            self._kept = [(age + 1, kept) for age, kept in self._kept if age < 1]

    def add(self, kept: dict[Any, Any]) -> None:
        """Keep the old versions, {key: version}, of what has just changed. The version is None if there was nothing."""
        if kept:
            self._kept.append((0, kept))

    def of(self, key: Any) -> list[Any]:
        """Return the old versions with this key."""
        return [kept[key] for _, kept in self._kept if key in kept]


# ------------------------------------------------------------------- nf_tables


class _NftChain:
    """One chain as it was at one moment: the attributes of its rules by their handles, in their order."""

    __slots__ = ("hook", "priority", "_raw", "_rules", "_numbers", "_found")

    def __init__(self, hook: int | None, priority: int, raw: bytes) -> None:
        self.hook = hook
        self.priority = priority
        self._raw: bytes | None = raw
        self._rules: dict[int, bytes] = {}
        self._numbers: dict[int, int] = {}
        self._found: dict[int, Found] = {}

    def _index(self) -> None:
        raw, self._raw = self._raw, None
        for _, _, rule in messages_in(raw or b""):
            for kind, data in attributes(rule):
                if kind == _RULE_HANDLE:
                    handle = int.from_bytes(data, "big")
                    self._rules[handle] = rule
                    self._numbers[handle] = len(self._numbers) + 1
                    break

    def find(self, handle: int, nfproto: Family, family: int) -> Found | None:
        """Return the rule with a handle, or None if there is none."""
        if self._raw is not None:
            self._index()
        if handle not in self._rules:
            return None
        found = self._found.get(handle)
        if found is None:
            found = self._found[handle] = _of_nft(family, nfproto, self._rules[handle], self._numbers[handle])
        return found


def _of_nft(family: int, nfproto: Family, rule: bytes, number: int) -> Found:
    """Return the rule of nf_tables as iptables would print it; if iptables cannot read it, with its expressions."""
    said = dict(attributes(rule))
    try:
        entry = codec.decode(nfproto, rule)
        if family == nfproto and codec.entry_expressions(nfproto, entry) is None:
            return found_of(nfproto, entry, number)
        expressions = codec.entry_expressions(nfproto, entry) or []
    except IPTCError:
        entry, expressions = b"", []
    comment = _comment(said.get(_RULE_USERDATA, b""))
    text = "; ".join(expressions)
    made = rule_of(nfproto, entry) if entry and family == nfproto else None
    found = Found(made, number, text or (made._shown() if made else "?"), comment, None)
    found.rejects = "reject" in expressions
    return found


def _comment(userdata: bytes) -> str | None:
    at = 0
    while at + 2 <= len(userdata):
        kind, length = userdata[at], userdata[at + 1]
        if kind == _COMMENT:
            return name_in(userdata[at + 2 : at + 2 + length]) or None
        at += 2 + length
    return None


class NftRules:
    """The rules of all tables of nf_tables at a place, by their handles.

    `fileno()` is readable after the ruleset has changed. Then call `look_again`.
    """

    def __init__(self, place: Place) -> None:
        self._events = NftEvents(place)
        try:
            with place.open() as there:
                self._socket = Socket(there)
        except BaseException:
            self._events.close()
            raise
        self._chains: dict[_Key, _NftChain] = {}
        self._past = _Past()
        self._generation = -1
        self.look_again()
        self._past = _Past()

    def fileno(self) -> int:
        """Return the descriptor, which becomes readable when the ruleset has changed."""
        return self._events.fileno()

    def close(self) -> None:
        """Close its sockets."""
        self._events.close()
        self._socket.close()

    @property
    def settled(self) -> bool:
        """Whether nothing was changed lately, so that every rule can be named."""
        return not self._past

    def look_again(self) -> None:
        """Find out which chains have changed. Call it after reports were received, and before `find` is called for
        them."""
        self._past.grow_older()
        dirty: set[_Key] | None = set() if self._generation >= 0 else None
        while True:
            generation = self._socket.generation()
            if generation == self._generation and not dirty:
                return
            dirty = self._changed(generation, dirty)
            heads = self._read_chains()
            gone = [key for key in self._chains if key not in heads]
            new = {
                key: self._with_rules(key, head)
                for key, head in heads.items()
                if dirty is None or key in dirty or key not in self._chains
            }
            if self._socket.generation() == generation:
                break
        self._generation = generation
        changed = {key: self._chains.get(key) for key in (*gone, *new)}
        self._past.add(changed)
        self._chains = {key: chain for key, chain in self._chains.items() if key in heads}
        self._chains.update(new)

    def _changed(self, generation: int, known: set[_Key] | None) -> set[_Key] | None:
        """Return the chains that the commits up to *generation* have changed, together with *known*. Return None if the
        kernel has not reported them all: then any chain may have changed."""
        if known is None:
            self._events.skip()
            return None
        found = set(known)
        waiting = select.poll()
        waiting.register(self._events.fileno(), select.POLLIN)
        while True:
            try:
                commits = self._events.read()
            except MessagesLost:
                return None
            for commit in commits:
                found.update(_touched(commit))
            if commits and commits[-1].generation == generation:
                return found
            # the kernel reports a commit just after it has done it
            if not waiting.poll(_PATIENCE):
                return None

    def _read_chains(self) -> dict[_Key, _NftChain]:
        found = {}
        data, _ = self._socket.dump(_GETCHAIN, 0)
        for _, family, message in messages_in(data):
            said = dict(attributes(message))
            hook, priority = None, 0
            if _CHAIN_HOOK in said:
                hooked = dict(attributes(said[_CHAIN_HOOK]))
                hook = int.from_bytes(hooked.get(_HOOK_NUMBER, b""), "big")
                priority = int.from_bytes(hooked.get(_HOOK_PRIORITY, b""), "big", signed=True)
            if _CHAIN_TABLE in said and _CHAIN_NAME in said:
                key = family, name_in(said[_CHAIN_TABLE]), name_in(said[_CHAIN_NAME])
                found[key] = _NftChain(hook, priority, b"")
        return found

    def _with_rules(self, key: _Key, head: _NftChain) -> _NftChain:
        family, table, chain = key
        names = attribute(_RULE_TABLE, _bytes(table)) + attribute(_RULE_CHAIN, _bytes(chain))
        try:
            raw, _ = self._socket.dump(_GETRULE, family, names)
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            raw = b""
        return _NftChain(head.hook, head.priority, raw)

    def place_of(self, family: int, table: str, chain: str) -> tuple[int | None, int]:
        """Return (hook, priority) of a chain. The hook is None if the chain is no base chain, or is not known."""
        key = family, table, chain
        # compared with None, since a chain without rules is a chain too
        known = next((one for one in [self._chains.get(key), *self._past.of(key)] if one is not None), None)
        return (None, 0) if known is None else (known.hook, known.priority)

    def find(self, report: Report) -> Found:
        """Return the rule that a report of nf_tables means."""
        key = report.family, report.table, report.chain
        now = self._chains.get(key)
        new = None if now is None else now.find(report.handle, report.nfproto, report.family)
        past = [
            None if chain is None else chain.find(report.handle, report.nfproto, report.family)
            for chain in self._past.of(key)
        ]
        there = [found for found in (new, *past) if found is not None]
        if not there:
            return NOT_KNOWN
        if len({found.text for found in there}) > 1:
            # in newer kernels a rule gets the handle of the rule that it replaces
            return Found(None, None, "?", None, CHANGED)
        if new is None:
            return there[0].noted(REMOVED)
        if None in past:
            return new.noted(ADDED)
        return new if len({found.number for found in there}) == 1 else new.noted(MOVED)


def _touched(commit: Commit) -> Iterator[_Key]:
    """Yield the chains that the messages of a commit are about."""
    for kind, family, message in commit.messages:
        name = _RULE_CHAIN if kind in _OF_RULES else _CHAIN_NAME if kind in _OF_CHAINS else 0
        said = fields(message, 20) if name else {}
        if name in said and _RULE_TABLE in said:
            yield family, name_in(said[_RULE_TABLE]), name_in(said[name])


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape") + b"\0"


# ---------------------------------------------------------------------- legacy


class _LegacyTable:
    """One legacy table as it was at the last look. `now` is None while the kernel does not have the table."""

    def __init__(self, nfproto: Family, name: str, place: Place) -> None:
        self._nfproto = nfproto
        self._name = name
        self._place = place
        self._scan: TableScan | None = None
        self._digest: int | None = None
        self._past = _Past()
        self._now: _LegacyBlob | None = None

    def close(self) -> None:
        """Close its descriptor."""
        if self._scan is not None:
            self._scan.close()

    def look_again(self) -> None:
        """Read the table again if it has changed."""
        from ..legacy.blob import TableBlob, TableScan

        self._past.grow_older()
        with self._place.open() as there:
            try:
                if self._scan is None:
                    self._scan = TableScan(self._nfproto, self._name, there)
                while True:
                    digest = self._scan.read()[1]
                    if digest == self._digest:
                        return
                    blob = TableBlob(self._nfproto, self._name, there)
                    if self._scan.read()[1] == digest:
                        break
            except IPTCError as error:
                if not is_absent(error):
                    raise
                return
        self._past.add({None: self._now})
        self._now, self._digest = _LegacyBlob(blob), digest

    def begin(self) -> None:
        """Read the table for the first time, before packets come."""
        self.look_again()
        self._past = _Past()

    @property
    def settled(self) -> bool:
        """Whether the table has not changed lately."""
        return not self._past

    @property
    def versions(self) -> list[_LegacyBlob | None]:
        """Return the versions of the table that packets may have met."""
        return [self._now, *self._past.of(None)]


class _LegacyBlob:
    """One legacy table as it was at one moment."""

    def __init__(self, blob: TableBlob) -> None:
        self._blob = blob
        self._rows = {row[0]: row for row in blob.chains}
        self._entries: dict[str, list[bytes]] = {}

    def entries(self, chain: str) -> list[bytes] | None:
        """Return the rules of a chain, or None if there is no such chain."""
        if chain not in self._entries:
            row = self._rows.get(chain)
            if row is None:
                return None
            self._entries[chain] = self._blob.chain_entries(row[3], row[4])
        return self._entries[chain]

    def policy(self, chain: str) -> str | None:
        """Return the policy of a chain."""
        row = self._rows.get(chain)
        return None if row is None else row[1]


class LegacyRules:
    """The rules of all legacy tables at a place, by their numbers.

    `fileno()` is readable when the rules may have changed. Then call `look_again`.
    """

    def __init__(self, place: Place) -> None:
        from .. import backends

        self._place = place
        self._tables: dict[tuple[int, str], _LegacyTable] = {}
        self._events: LockEvents | None = None
        try:
            # without a watched lock file, a change is noticed when the next packet comes
            with contextlib.suppress(AccessDenied):
                self._events = LockEvents()
            with place.open() as there:
                for nfproto in (_core.IPV4, _core.IPV6):
                    for name in backends.tables_in_use(nfproto, "legacy", there):
                        table = self._tables[nfproto, name] = _LegacyTable(nfproto, name, place)
                        table.begin()
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor, which is readable after a writer took the xtables lock; -1 if the lock file cannot be
        watched."""
        return -1 if self._events is None else self._events.fileno()

    def close(self) -> None:
        """Close its descriptors."""
        if self._events is not None:
            self._events.close()
        for table in self._tables.values():
            table.close()

    @property
    def settled(self) -> bool:
        """Whether nothing was changed lately, so that every rule can be named."""
        return all(table.settled for table in self._tables.values())

    def look_again(self, reports: list[Report]) -> None:
        """Find out whether tables have changed. Call it after *reports* were received, and before `find` is called for
        them."""
        closed = self._events is not None and self._events.read()[0] or not self.settled
        named = {(report.nfproto, report.table) for report in reports}
        for key in named - self._tables.keys():
            self._tables[key] = _LegacyTable(*key, self._place)
        for key, table in self._tables.items():
            if closed or key in named:
                table.look_again()

    def _versions(self, report: Report) -> list[_LegacyBlob | None]:
        """Return the versions of the table that the packet of a report may have met."""
        key = report.nfproto, report.table
        if key not in self._tables:
            self._tables[key] = _LegacyTable(*key, self._place)
            self._tables[key].look_again()
        return self._tables[key].versions

    def find(self, report: Report) -> Found | None:
        """Return the rule that a legacy report means, or None if it means the end of the chain.

        The kernel also reports "policy" or "return" for a rule without matches whose target is a verdict.
        """
        at = report.number - 1
        chains = [None if version is None else version.entries(report.chain) for version in self._versions(report)]
        if all(entries is not None and at >= len(entries) for entries in chains):
            return None
        found = [
            None if entries is None or at >= len(entries) else found_of(report.nfproto, entries[at], report.number)
            for entries in chains
        ]
        if found[0] is None or len({one.text for one in found if one is not None}) > 1:
            return NOT_KNOWN
        if None in found:
            return found[0].noted(ADDED) if chains[found.index(None)] is None else NOT_KNOWN
        return found[0]

    def policy(self, report: Report) -> str | None:
        """Return the policy of the chain of a report, or None if it has changed meanwhile."""
        found = {None if version is None else version.policy(report.chain) for version in self._versions(report)}
        return found.pop() if len(found) == 1 else None


def legacy_priority(table: str, hook: int | None) -> int:
    """Return the priority of a legacy table at a hook: its place among the chains there."""
    return next((priority for number, _, priority in BUILTIN_CHAINS.get(table, ()) if number == hook), 0)
