"""A table of nf_tables that belongs to one owner: no other process can change it while its owner lives.

The table is of the family `inet`, for both families of addresses, with the flags `owner` and `persist`. It belongs to
the netlink socket that made it. When that is closed the table stays and goes on to filter; the next owner adopts it.
"""

from __future__ import annotations

import errno
import os
import struct

from .. import _core
from .._netlink import Batch, Socket, attribute, attributes
from ..errors import AccessDenied, KernelError, ParameterError, Unsupported
from ..language import printing
from ..managing.difference import ChainDifference, Difference
from ..managing.planning import Plan
from ..managing.ruleset_value import ChainValue
from ..nft import codec
from ..nft.reader import BUILTIN_CHAINS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._types import Family, LockFile, Wait
    from ..namespace import Place

    _Key = tuple[Family, str, str]
    """Family, table, chain."""

_INET = 1  # NFPROTO_INET
_OWNER, _PERSIST = 2, 4  # NFT_TABLE_F_*
_GETTABLE, _GETRULE = 1, 7  # NFT_MSG_*
_TABLE_NAME, _TABLE_FLAGS = 1, 2  # NFTA_TABLE_*
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS, _RULE_COMPAT, _RULE_USERDATA = 1, 2, 4, 5, 7  # NFTA_RULE_*
_ELEMENT, _NAME, _DATA = 1, 1, 2  # NFTA_LIST_ELEM, NFTA_EXPR_*
_NESTED = 0x8000  # NLA_F_NESTED
_META_NFPROTO = 15  # NFT_META_NFPROTO
_COMMENT = 0  # the kind of a comment in a rule's user data
_NAME_MOST = 28
"""The longest name, in bytes, of a chain that a rule can jump to, with its table before it."""

_PLACES = {"first": -1, "last": 1}
"""The difference to the priority of iptables' own chain."""


def _number(value: int) -> bytes:
    return struct.pack("!I", value)


def _expression(name: bytes, data: bytes) -> bytes:
    return attribute(_ELEMENT | _NESTED, attribute(_NAME, name + b"\0") + attribute(_DATA | _NESTED, data))


def _only_family(nfproto: Family) -> bytes:
    """Return the expressions that limit a rule of a table `inet` to packets of one family."""
    return _expression(b"meta", attribute(2, _number(_META_NFPROTO)) + attribute(1, _number(1))) + _expression(
        b"cmp",
        attribute(1, _number(1)) + attribute(2, _number(0)) + attribute(3 | _NESTED, attribute(1, bytes([nfproto]))),
    )


def encode(nfproto: Family, entry: bytes) -> bytes:
    """Return the attributes of a rule for a table `inet`. Raises `Unsupported` for a match or target without
    expressions."""
    said = dict(attributes(codec.encode(nfproto, entry)))
    expressions, comment = _only_family(nfproto), b""
    for _, element in attributes(said[_RULE_EXPRESSIONS]):
        parts = dict(attributes(element))
        kind = parts[_NAME].rstrip(b"\0")
        if kind in (b"match", b"target"):
            name = dict(attributes(parts[_DATA]))[1].rstrip(b"\0").decode()
            if kind == b"match" and name == "comment":
                comment = dict(attributes(parts[_DATA]))[3].partition(b"\0")[0]
                continue
            raise Unsupported(
                f"{kind.decode()} {name} has no native form in nf_tables, which a table of its own needs: "
                f"{printing.render(nfproto, entry)}"
            )
        expressions += attribute(_ELEMENT | _NESTED, element)
    rule = attribute(_RULE_EXPRESSIONS | _NESTED, expressions)
    if comment:
        rule += attribute(_RULE_USERDATA, bytes([_COMMENT, len(comment) + 1]) + comment + b"\0")
    return rule


def decode(rule: dict[int, bytes]) -> tuple[Family, bytes] | None:
    """Return (family, entry) for the attributes of a rule of such a table; None for a rule that `encode` did not
    make."""
    expressions = rule.get(_RULE_EXPRESSIONS, b"")
    for nfproto in (_core.IPV4, _core.IPV6):
        guard = attributes(_only_family(nfproto))
        elements = attributes(expressions)
        if [_said(element) for _, element in elements[:2]] == [_said(element) for _, element in guard]:
            kept = b"".join(attribute(_ELEMENT | _NESTED, element) for _, element in elements[2:])
            data = attribute(_RULE_EXPRESSIONS | _NESTED, kept)
            if _RULE_USERDATA in rule:
                data += attribute(_RULE_USERDATA, rule[_RULE_USERDATA])
            return nfproto, codec.decode(nfproto, data)
    return None


def _said(element: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Return an expression in a form that does not depend on the order of its attributes."""
    parts = dict(attributes(element))
    data = [
        (kind, attributes(value)[0][1] if kind == 3 and parts[_NAME] == b"cmp\0" else value)
        for kind, value in attributes(parts.get(_DATA, b""))
    ]
    return parts[_NAME], sorted(data)


class OwnTablePlan(Plan):
    """The edits that lead to the wanted content of an owner's table. It is false if there are none."""

    def __init__(
        self,
        table: OwnTable,
        wanted: dict[_Key, tuple[str, list[bytes]]],
        difference: Difference,
        adopt: bool,
    ) -> None:
        self._table = table
        self._wanted = wanted
        self._adopt = adopt
        self.difference = difference
        self.kept = []

    def __bool__(self) -> bool:
        return self._adopt or bool(self.difference)

    def apply(self, wait: Wait = None, lock_file: LockFile = None) -> None:
        """Apply it in one commit. No other process can have changed the table meanwhile."""
        if self:
            self._table.send(self._wanted)


class OwnTable:
    """The table of one owner at a place, and the socket that owns it. The socket is open as long as this object
    exists."""

    def __init__(self, owner: str, place: Place) -> None:
        self.name = f"iptc-{owner}"
        self._label = _core.text_bytes(self.name, "the name of a table")
        with place.open() as there:
            self._socket = Socket(there)
        self._ours = False

    def plan(self, wanted: dict[_Key, tuple[str, list[bytes]]]) -> OwnTablePlan:
        """Return the plan for *wanted*: {(family, table, chain): (place, rules)}."""
        there, live = self._read()
        differences = []
        for key in sorted(wanted.keys() | live.keys()):
            nfproto, table, chain = key
            old = live.get(key)
            new = None if key not in wanted else wanted[key][1]
            differences.append(
                ChainDifference(nfproto, table, chain, _value(nfproto, chain, old), _value(nfproto, chain, new))
            )
        return OwnTablePlan(self, wanted, Difference(differences), bool(wanted) and there and not self._ours)

    def rows(self) -> list[tuple[Family, str, str, bytes]]:
        """Return [(family, table, chain, rule)] for all rules of the table."""
        return [(*key, entry) for key, entries in self._read()[1].items() for entry in entries]

    def _read(self) -> tuple[bool, dict[_Key, list[bytes]]]:
        """Return (whether the table exists, {(family, table, chain): rules})."""
        name = attribute(_TABLE_NAME, self._label + b"\0")
        try:
            self._socket.get(_GETTABLE, _INET, name)
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            return False, {}
        found: dict[_Key, list[bytes]] = {}
        data, _ = self._socket.dump(_GETRULE, _INET, attribute(_RULE_TABLE, self._label + b"\0"))
        at = 0
        while at + 20 <= len(data):
            (length,) = struct.unpack_from("=I", data, at)
            if length < 20:
                break
            rule = dict(attributes(data[at + 20 : at + length]))
            at += (length + 3) & ~3
            decoded = decode(rule)
            if decoded is not None:
                where = rule[_RULE_CHAIN].rstrip(b"\0").decode("utf-8", "surrogateescape")
                table, _, chain = where.partition("/")
                entry = _retargeted(*decoded, f"{table}/", "")
                found.setdefault((decoded[0], table, chain), []).append(entry)
        return True, found

    def send(self, wanted: dict[_Key, tuple[str, list[bytes]]]) -> None:
        """Give the table the content *wanted*. Delete it if that is empty."""
        batch = Batch()
        flags = _OWNER | _PERSIST
        batch.add_table(_INET, self._label, flags)
        batch.delete_table(_INET, self._label)
        if wanted:
            batch.add_table(_INET, self._label, flags)
            made: dict[str, str] = {}
            for (_, table, chain), (place, _) in wanted.items():
                label = f"{table}/{chain}"
                if made.setdefault(label, place) != place:
                    raise ParameterError(f"chain {chain} of table {table} has one place for both families")
            for label, place in made.items():
                self._add_chain(batch, label, place)
            for (nfproto, table, chain), (_, entries) in wanted.items():
                for entry in entries:
                    rule = encode(nfproto, _retargeted(nfproto, entry, "", f"{table}/"))
                    batch.add_rule(_INET, self._label, f"{table}/{chain}".encode(), rule)
        refused = self._socket.send(batch)
        if refused:
            raise _refusal(refused[0][1], self.name)
        self._ours = bool(wanted)

    def _add_chain(self, batch: Batch, label: str, place: str) -> None:
        table, _, chain = label.partition("/")
        for hook, kind, priority in BUILTIN_CHAINS[table]:
            if _core.HOOKS[hook] == chain:
                batch.add_base_chain(
                    _INET, self._label, label.encode(), hook, kind.encode(), priority + _PLACES[place], 1
                )
                return
        if len(label.encode()) > _NAME_MOST:
            raise ParameterError(f"chain {chain} has a name that is too long for a table of its own: {label}")
        batch.add_chain(_INET, self._label, label.encode())


def _retargeted(nfproto: Family, entry: bytes, old: str, new: str) -> bytes:
    """Return *entry* with a jump to chain *old*…, if it has one, changed to *new*…; both are prefixes of names."""
    chain = _core.jump_of(nfproto, entry).decode("utf-8", "surrogateescape")
    if not chain:
        return entry
    return _core.retarget(nfproto, entry, chain, new + chain.removeprefix(old)) or entry


def _value(nfproto: Family, chain: str, entries: list[bytes] | None) -> ChainValue | None:
    return None if entries is None else ChainValue(nfproto, chain, None, (0, 0), entries)


def _refusal(number: int, name: str) -> Exception:
    if number in (errno.EOPNOTSUPP, errno.EINVAL):
        return Unsupported(f"this kernel has no tables with an owner that stay (Linux 6.9): {name}")
    if number in (errno.EPERM, errno.EACCES):
        return AccessDenied(f"table {name} belongs to another process", number, "Operation not permitted")
    return KernelError(f"can't change table {name}", number, os.strerror(number))
