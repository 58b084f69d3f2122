"""Finds the rule that a report means: by its handle on nf_tables, by its number in legacy tables.

A report comes after the packet, and the rules may have changed meanwhile. So each chain is read before packets come,
and again when the ruleset has changed. A rule is named only if both readings have the same one.
"""

from __future__ import annotations

import errno

from .. import _core
from .._netlink import Socket, attribute, attributes, messages
from ..errors import IPTCError, KernelError, is_absent
from ..nft import codec
from ..nft.reader import BUILTIN_CHAINS
from ..rule import Rule, Rule6
from .nft_reports import text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._types import Family
    from ..legacy.blob import TableBlob, TableScan
    from ..namespace import Place
    from .report import Report

    _Key = tuple[int, str, str]
    """Family of the table, table, chain."""

_GETCHAIN, _GETRULE = 4, 7  # NFT_MSG_*
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK = 1, 3, 4  # NFTA_CHAIN_*
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2  # NFTA_HOOK_*
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS, _RULE_USERDATA = 1, 2, 3, 4, 7  # NFTA_RULE_*
_COMMENT = 0
"""The type of the user data that is a comment."""

_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
"""The names of nf_tables for the families of tables."""

ADDED = "the rule was added meanwhile"
CHANGED = "the rule was changed meanwhile"
MOVED = "the rule was moved meanwhile"
REMOVED = "the rule was removed meanwhile"
UNKNOWN = "the rules were changed meanwhile: which one it was is not known"


def family_name(family: int) -> str:
    """Return the name of nf_tables for a family of tables."""
    return _FAMILIES.get(family, str(family))


class Found:
    """A rule that was found for a report.

    It has the `Rule`, or None if it cannot be read; its number, or None if that is not certain; its text; its comment;
    and a note for the user. `rejects` is true if it refuses packets with an answer.
    """

    __slots__ = ("rule", "number", "text", "comment", "note", "rejects")

    def __init__(self, rule: Rule | None, number: int | None, text: str, comment: str | None, note: str | None) -> None:
        self.rule = rule
        self.number = number
        self.text = text
        self.comment = comment
        self.note = note
        self.rejects = False

    def noted(self, note: str, number: int | None = None) -> Found:
        """Return a copy with another note and number."""
        found = Found(self.rule, number, self.text, self.comment, note)
        found.rejects = self.rejects
        return found


_NOT_KNOWN = Found(None, None, "?", None, UNKNOWN)


def rule_of(nfproto: Family, entry: bytes) -> Rule:
    """Return the `Rule` of an entry."""
    return _core.load_rules(Rule if nfproto == _core.IPV4 else Rule6, nfproto, [entry], None)[0]


def _found(nfproto: Family, entry: bytes, number: int | None) -> Found:
    rule = rule_of(nfproto, entry)
    return Found(rule, number, rule._shown(), comment_of(rule), None)


def comment_of(rule: Rule) -> str | None:
    """Return the comment of a rule, or None."""
    for match in rule.matches:
        if match.name == "comment" and not match.opaque:
            return str(match.parameters.get("comment", "")) or None
    return None


# ------------------------------------------------------------------- nf_tables


class _NftChain:
    """One chain at one generation: the attributes of its rules by handle, in order."""

    __slots__ = ("generation", "hook", "priority", "_raw", "_rules", "_numbers", "_found")

    def __init__(self, generation: int, hook: int | None, priority: int, raw: bytes) -> None:
        self.generation = generation
        self.hook = hook
        self.priority = priority
        self._raw: bytes | None = raw
        self._rules: dict[int, bytes] = {}
        self._numbers: dict[int, int] = {}
        self._found: dict[int, Found] = {}

    def _index(self) -> None:
        raw, self._raw = self._raw, None
        for _, _, rule in messages(raw or b""):
            for kind, data in attributes(rule):
                if kind == _RULE_HANDLE:
                    handle = int.from_bytes(data, "big")
                    self._rules[handle] = rule
                    self._numbers[handle] = len(self._numbers) + 1
                    break

    def __len__(self) -> int:
        if self._raw is not None:
            self._index()
        return len(self._rules)

    def find(self, handle: int, nfproto: Family, family: int) -> Found | None:
        """Return the rule with a handle, or None."""
        if self._raw is not None:
            self._index()
        if handle not in self._rules:
            return None
        found = self._found.get(handle)
        if found is None:
            found = self._found[handle] = _of_nft(family, nfproto, self._rules[handle], self._numbers[handle])
        return found


def _of_nft(family: int, nfproto: Family, rule: bytes, number: int) -> Found:
    """Return a rule of nf_tables, as a rule of iptables if it can be one."""
    said = dict(attributes(rule))
    try:
        entry = codec.decode(nfproto, rule)
        if family == nfproto and codec.entry_expressions(nfproto, entry) is None:
            return _found(nfproto, entry, number)
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
            return text_of(userdata[at + 2 : at + 2 + length]) or None
        at += 2 + length
    return None


class NftRules:
    """The rules of all tables of nf_tables at a place, by their handles."""

    def __init__(self, place: Place) -> None:
        with place.open() as there:
            self._socket = Socket(there)
        self._chains: dict[_Key, _NftChain] = {}
        self._before: dict[_Key, _NftChain] = {}
        self._heads: dict[_Key, _NftChain] = {}
        """The chains that exist now. Their rules are read when a report asks for them."""
        self._generation = -1
        self.read()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def read(self) -> None:
        """Read all chains and rules. Reports of later packets are looked up in them."""
        while True:
            generation = self._socket.generation()
            heads = self._read_chains(generation)
            chains = {key: self._with_rules(key, head) for key, head in heads.items()}
            if self._socket.generation() == generation:
                break
        self._heads, self._chains, self._before, self._generation = heads, chains, {}, generation

    def look_again(self) -> None:
        """Find out whether the ruleset has changed. Call this after reports were received, before they are looked
        up."""
        if self._socket.generation() == self._generation:
            return
        while True:
            generation = self._socket.generation()
            heads = self._read_chains(generation)
            if self._socket.generation() == generation:
                break
        self._generation = generation
        self._before.update(self._chains)
        self._heads, self._chains = heads, {}

    def _read_chains(self, generation: int) -> dict[_Key, _NftChain]:
        found = {}
        data, _ = self._socket.dump(_GETCHAIN, 0)
        for _, family, message in messages(data):
            said = dict(attributes(message))
            hook, priority = None, 0
            if _CHAIN_HOOK in said:
                hooked = dict(attributes(said[_CHAIN_HOOK]))
                hook = int.from_bytes(hooked.get(_HOOK_NUMBER, b""), "big")
                priority = int.from_bytes(hooked.get(_HOOK_PRIORITY, b""), "big", signed=True)
            if _CHAIN_TABLE in said and _CHAIN_NAME in said:
                key = family, text_of(said[_CHAIN_TABLE]), text_of(said[_CHAIN_NAME])
                found[key] = _NftChain(generation, hook, priority, b"")
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
        return _NftChain(head.generation, head.hook, head.priority, raw)

    def _chain(self, key: _Key) -> _NftChain | None:
        """Return a chain as it is now."""
        known = self._chains.get(key)
        while known is None and key in self._heads:
            known = self._with_rules(key, self._heads[key])
            if self._socket.generation() != self._generation:
                self.look_again()
                known = None
        if known is not None:
            self._chains[key] = known
        return known

    def place_of(self, family: int, table: str, chain: str) -> tuple[int | None, int]:
        """Return (hook, priority) of a chain. The hook is None if the chain is not a base chain, or is not known."""
        key = family, table, chain
        known = self._chain(key) or self._before.get(key)
        return (None, 0) if known is None else (known.hook, known.priority)

    def find(self, report: Report) -> Found:
        """Return the rule that a report of nf_tables means."""
        key = report.family, report.table, report.chain
        now, before = self._chain(key), self._before.get(key)
        new = None if now is None else now.find(report.handle, report.nfproto, report.family)
        old = None if before is None else before.find(report.handle, report.nfproto, report.family)
        if before is None or new is None or old is None:
            if new is not None:
                return new if before is None else new.noted(ADDED, new.number)
            return _NOT_KNOWN if old is None else old.noted(REMOVED, old.number)
        if new.text != old.text:
            # newer kernels give a rule the handle of the rule that it replaces
            return Found(None, None, "?", None, CHANGED)
        return new if new.number == old.number else new.noted(MOVED)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape") + b"\0"


# ---------------------------------------------------------------------- legacy


class _LegacyTable:
    """One legacy table: its last reading, and the one before."""

    def __init__(self, nfproto: Family, name: str, place: Place, is_new: bool) -> None:
        self._nfproto = nfproto
        self._name = name
        self._place = place
        self._scan: TableScan | None = None
        self._digest: int | None = None
        self.is_new = is_new
        self.now: TableBlob | None = None
        self.before: TableBlob | None = None
        self._entries: dict[tuple[int, str], list[bytes]] = {}
        self.look_again()
        self.before = None

    def close(self) -> None:
        """Close the descriptor."""
        if self._scan is not None:
            self._scan.close()

    def look_again(self) -> None:
        """Read the table again if it has changed."""
        from ..legacy.blob import TableBlob, TableScan

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
        self.before, self.now, self._digest = self.now, blob, digest
        self._entries = {}

    def entries(self, blob: TableBlob | None, chain: str) -> list[bytes] | None:
        """Return the rules of a chain, or None if there is no such chain."""
        if blob is None:
            return None
        key = id(blob), chain
        if key not in self._entries:
            row = next((row for row in blob.chains if row[0] == chain), None)
            if row is None:
                return None
            self._entries[key] = blob.chain_entries(row[3], row[4])
        return self._entries[key]

    def policy(self, chain: str) -> str | None:
        """Return the policy of a chain, or None if it has changed."""
        found = {
            next((row[1] for row in blob.chains if row[0] == chain), None)
            for blob in (self.now, self.before)
            if blob is not None
        }
        return found.pop() if len(found) == 1 else None


class LegacyRules:
    """The rules of all legacy tables at a place, by their numbers."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._tables: dict[tuple[int, str], _LegacyTable] = {}
        from .. import backends

        with place.open() as there:
            for nfproto in (_core.IPV4, _core.IPV6):
                for name in backends.tables_in_use(nfproto, "legacy", there):
                    self._tables[nfproto, name] = _LegacyTable(nfproto, name, place, False)

    def _table(self, nfproto: Family, name: str) -> _LegacyTable:
        key = nfproto, name
        if key not in self._tables:
            self._tables[key] = _LegacyTable(nfproto, name, self._place, True)
        return self._tables[key]

    def close(self) -> None:
        """Close the descriptors."""
        for table in self._tables.values():
            table.close()

    def look_again(self, reports: list[Report]) -> None:
        """Find out whether the tables in *reports* have changed. Call this before the reports are looked up."""
        for key in {(report.nfproto, report.table) for report in reports}:
            table = self._tables.get(key)
            if table is not None:
                table.look_again()

    def find(self, report: Report) -> Found | None:
        """Return the rule that a legacy report means; None if it means the end of the chain.

        The kernel also reports a rule without matches whose target is a verdict as "policy" or "return".
        """
        table = self._table(report.nfproto, report.table)
        now, before = (table.entries(blob, report.chain) for blob in (table.now, table.before))
        at = report.number - 1
        ends = {at >= len(entries) for entries in (now, before) if entries is not None}
        if ends == {True}:
            return None
        if now is None or ends != {False}:
            return _NOT_KNOWN
        found = _found(report.nfproto, now[at], report.number)
        if before is not None and found.text != _found(report.nfproto, before[at], report.number).text:
            return _NOT_KNOWN
        return found.noted(ADDED, found.number) if table.is_new else found

    def policy(self, report: Report) -> str | None:
        """Return the policy of the chain of a report, or None if it has changed meanwhile."""
        return self._table(report.nfproto, report.table).policy(report.chain)


def legacy_priority(table: str, hook: int | None) -> int:
    """Return the priority of a legacy table among the chains of a hook."""
    return next((priority for number, _, priority in BUILTIN_CHAINS.get(table, ()) if number == hook), 0)
