"""A ruleset as a value: the tables of one or both families, their chains in order, and the rules of each chain."""

from __future__ import annotations

import errno

from .. import _core, backends, state
from ..errors import Conflict, ParameterError, ParameterTypeError, kernel_error
from ..language import comparing, printing
from ..language.specification import entries_of, refuse_meaningless
from ..legacy import blob
from ..model.edits import check_new_name
from ..model.restoring import Restore, one_source, pieces, restored_tables
from ..model.views import ChainView, View
from ..namespace import Place
from ..nft import codec, reader
from ..nft.sockets import sockets_of
from ..rule import Rule, Rule6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from typing import Any, Literal, Self

    from .._netlink import Socket
    from .._types import Family, Netns, Pair, Path, Source

    _Key = str | tuple[str, bytes]

_ATTEMPTS = 1024
_HEADINGS = {_core.IPV4: b"# IPv4", _core.IPV6: b"# IPv6"}
"""family -> the heading before the rules of that family, in a text of both families."""

_UNSAID = "-"
"""The policy of a builtin chain if a text does not name the chain, or gives no policy: it stays as it is."""


class ChainValue:
    """One chain: its policy (None for a user chain), and its rules as `iptables-save` prints them.

    *entries*: the rules as bytes, with their counters. *handles* and *number*: nf_tables' handles of the rules and of
        the chain, if the chain was read from there. *absent*: a builtin chain that nf_tables does not have, because no
        program has used it yet.
    """

    __slots__ = ("nfproto", "name", "policy", "counters", "entries", "handles", "absent", "number", "_rules", "_keys")

    def __init__(
        self,
        nfproto: Family,
        name: str,
        policy: str | None = None,
        counters: Pair | None = None,
        entries: Sequence[bytes] = (),
        handles: list[int] | None = None,
        absent: bool = False,
        number: int = 0,
    ) -> None:
        self.nfproto = nfproto
        self.name = name
        self.policy = policy
        self.counters = counters
        self.entries = entries
        self.handles = handles
        self.absent = absent
        self.number = number
        self._rules: list[str] | None = None
        self._keys: list[_Key] | None = None

    def __repr__(self) -> str:
        return f"<chain {self.name}: {len(self.entries)} rules>"

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rules)

    @property
    def rules(self) -> list[str]:
        """The text of each rule, without `-A CHAIN`."""
        if self._rules is None:
            self._rules = [printing.render(self.nfproto, entry) for entry in self.entries]
        return self._rules

    def rule(self, position: int) -> str:
        """Return the text of one rule, without `-A CHAIN`."""
        return (
            self._rules[position] if self._rules is not None else printing.render(self.nfproto, self.entries[position])
        )

    @property
    def keys(self) -> list[_Key]:
        """What identifies each rule: its text, and also its bytes if the text does not show everything."""
        if self._keys is None:
            self._keys = [
                self._key(*pair) if "unknown data]" in pair[0] else pair[0] for pair in zip(self.rules, self.entries)
            ]
        return self._keys

    def _key(self, text: str, entry: bytes) -> _Key:
        if comparing.is_readable(self.nfproto, entry):
            return text
        return text, _core.without_counters(self.nfproto, [entry])[0]

    @property
    def is_plain(self) -> bool:
        """Whether it is a builtin chain without rules and with the policy ACCEPT."""
        return self.policy in ("ACCEPT", _UNSAID) and not self.entries

    def jumps_among(self, names: set[str]) -> set[str]:
        """Return those of *names* that rules of this chain jump to."""
        return {name for name, _ in self.jumps_to(names)}

    def jumps_to(self, names: set[str]) -> Iterator[tuple[str, int]]:
        """Yield (name, position) for each rule that jumps to one of *names*."""
        for position, rule in enumerate(self.rules if names else ()):
            name = rule.rpartition(" ")[2]
            if name in names:
                label = _core.jump_of(self.nfproto, self.entries[position])
                if label.decode("utf-8", "surrogateescape") == name:
                    yield name, position


class TableValue:
    """One table of one family: a mapping of names to `ChainValue`s. Builtin chains come first."""

    __slots__ = ("nfproto", "name", "chains")

    def __init__(self, nfproto: Family, name: str, chains: Iterable[ChainValue]) -> None:
        self.nfproto = nfproto
        self.name = name
        self.chains = {chain.name: chain for chain in chains}

    def __repr__(self) -> str:
        return f"<table {self.name} of IPv{ip_version(self.nfproto)}: {len(self.chains)} chains>"

    def __getitem__(self, chain: str) -> ChainValue:
        return self.chains[chain]

    def __contains__(self, chain: object) -> bool:
        return chain in self.chains

    def __iter__(self) -> Iterator[ChainValue]:
        return iter(self.chains.values())

    def __len__(self) -> int:
        return len(self.chains)

    @property
    def ip_version(self) -> Literal[4, 6]:
        """4 or 6."""
        return ip_version(self.nfproto)


def ip_version(nfproto: Family) -> Literal[4, 6]:
    """Return 4 or 6."""
    return 4 if nfproto == _core.IPV4 else 6


def families_of(ipv6: bool | None) -> list[Family]:
    """Return the families that *ipv6* selects: False is IPv4, True is IPv6, None is both."""
    if ipv6 is None:
        return [_core.IPV4, _core.IPV6]
    return [_core.IPV6 if ipv6 else _core.IPV4]


def plain_table(nfproto: Family, name: str, policy: str = "ACCEPT") -> TableValue:
    """Return table *name* as it is when no program has used it: builtin chains without rules."""
    if name not in reader.BUILTIN_CHAINS:
        raise kernel_error(f"can't initialize {name}", errno.ENOENT, "Table does not exist (do you need to insmod?)")
    return TableValue(
        nfproto,
        name,
        [
            ChainValue(nfproto, _core.HOOKS[hook], policy, (0, 0), absent=True)
            for hook, *_ in reader.BUILTIN_CHAINS[name]
        ],
    )


class Ruleset:
    """A ruleset as a value: the tables of one or both families. Two rulesets are equal if they have the same rules.

    `Ruleset.live()` reads the kernel, `Ruleset.read(source)` a text or a file, `Ruleset.built({...})` makes one of
    rules.
    It maps (4 or 6, table) to a `TableValue`: `ruleset[4, "filter"]["INPUT"].rules` is a list of texts. It never
    changes.
    """

    def __init__(
        self,
        tables: Iterable[TableValue] = (),
        backend: str = "legacy",
        generation: int | None = None,
    ) -> None:
        self.backend = backend
        self.generation = generation
        self._tables = {(table.nfproto, table.name): table for table in tables}

    # where it comes from

    @classmethod
    def live(cls, ipv6: bool | None = None, *, backend: str | None = None, netns: Netns = None) -> Ruleset:
        """Return the ruleset of the kernel, of both families or of one. No table is created by looking.

        On nf_tables all tables are read at one moment. Legacy tables are read one after the other.
        """
        return read_live(families_of(ipv6), Place(netns), backend)

    @classmethod
    def read(
        cls,
        source: Source | None = None,
        ipv6: bool | None = None,
        *,
        path: Path | None = None,
        backend: str | None = None,
        netns: Netns = None,
        table: str | None = None,
    ) -> Ruleset:
        """Return the ruleset that *source*, a text of iptables-save, would make in empty tables.

        *source*: the text itself (a string with a line break), a path or an open file. *path*: always a path.
        *ipv6*: the family of a text without the headings `# IPv4` and `# IPv6`; None means IPv4.
        *table*: read only this table. *backend*: whose form the rules get when the ruleset is printed.

        Raises `ParameterError` with the number of the line as `line`.
        """
        return parse(b"".join(pieces(one_source(source, path))), ipv6, state.side_at(Place(netns), backend), table)

    @classmethod
    def built(
        cls,
        tables: Mapping[str, Mapping[str, Iterable[Rule | str]]],
        policies: Mapping[tuple[str, str], str] | None = None,
        ipv6: bool = False,
        *,
        backend: str | None = None,
        netns: Netns = None,
    ) -> Self:
        """Return a ruleset made of {table: {chain: [rule, ...]}}. A rule is a `Rule`, or text as after `iptables -A
        CHAIN`.

        *policies*: {(table, chain): "DROP"}.
        """
        nfproto = families_of(bool(ipv6))[0]
        side = state.side_at(Place(netns), backend)
        policies = dict(policies or {})
        made = []
        for name, chains in tables.items():
            view = _empty_view(nfproto, name, side)
            for chain in chains:
                if chain not in view.chains:
                    check_new_name(nfproto, chain)
                    view.create_chain(chain)
            for chain, rules in chains.items():
                for rule in rules:
                    for entry in _entries_of(nfproto, rule):
                        refuse_meaningless(nfproto, chain, entry)
                        view.chains[chain].append(entry)
            for (table, chain), policy in list(policies.items()):
                if table == name and chain in view.chains and view.chains[chain].policy is not None:
                    if policy not in ("ACCEPT", "DROP"):
                        raise ParameterError(f"Bad policy name: {policy!r}")
                    view.chains[chain].policy = policy
                    del policies[table, chain]
            made.append(_value_of(nfproto, name, view))
        if policies:
            raise ParameterError(f"no builtin chain of a table that is built: {', '.join(map('/'.join, policies))}")
        return cls(made, side)

    # the content

    def __getitem__(self, key: tuple[int, str]) -> TableValue:
        version, table = key
        if version not in (4, 6):
            raise KeyError(key)
        return self._tables[_core.IPV4 if version == 4 else _core.IPV6, table]

    def __contains__(self, key: tuple[int, str]) -> bool:
        try:
            self[key]
        except (KeyError, TypeError, ValueError):
            return False
        return True

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter((table.ip_version, table.name) for table in self._tables.values())

    def __len__(self) -> int:
        return len(self._tables)

    @property
    def tables(self) -> list[TableValue]:
        """The tables as a list of `TableValue`s."""
        return list(self._tables.values())

    def table(self, nfproto: int, name: str) -> TableValue | None:
        """Return the `TableValue` of a family and name, or None."""
        return self._tables.get((nfproto, name))

    def only(self, names: Iterable[tuple[int, str]]) -> Ruleset:
        """Return a `Ruleset` with only the tables [(family, name)]."""
        names = set(names)
        return Ruleset([table for key, table in self._tables.items() if key in names], self.backend, self.generation)

    def __or__(self, other: object) -> Ruleset:
        """Return a `Ruleset` of both. Where both have a table, the one of *other* is taken."""
        if not isinstance(other, Ruleset):
            return NotImplemented
        return Ruleset([*{**self._tables, **other._tables}.values()], self.backend)

    def _said(self) -> dict[Any, Any]:
        """Return what is compared for equality: all chains except those that the kernel has without our doing."""
        return {
            (key, chain.name): (chain.policy, chain.keys)
            for key, table in self._tables.items()
            for chain in table
            if not chain.is_plain
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ruleset):
            return NotImplemented
        one, another = self._said(), other._said()
        return all(
            _same(one.get(key) or self._unsaid(key), another.get(key) or other._unsaid(key))
            for key in one.keys() | another.keys()
        )

    def _unsaid(self, key: Any) -> tuple[Any, Any]:
        """Return (policy, rules) of a chain that is empty or does not exist."""
        table = self._tables.get(key[0]) or plain_table(*key[0])
        chain = table.chains.get(key[1])
        return (chain.policy, chain.keys) if chain else ("", [])

    def __hash__(self) -> int:
        return hash(frozenset((key, tuple(keys)) for key, (_, keys) in self._said().items() if keys))

    def __repr__(self) -> str:
        return f"<iptc.Ruleset of {', '.join(f'IPv{version} {name}' for version, name in self) or 'nothing'}>"

    def text(self, counters: bool = False) -> str:
        """Return the ruleset in the format of iptables-save. Two families are printed under `# IPv4` and `# IPv6`."""
        families = sorted({nfproto for nfproto, _ in self._tables})
        parts = []
        for nfproto in families:
            if len(families) > 1:
                parts.append(f"{_HEADINGS[nfproto].decode()}\n")
            parts += [_text_of(table, counters) for table in self._tables.values() if table.nfproto == nfproto]
        return "".join(parts)

    __str__ = text


def _same(one: Any, other: Any) -> bool:
    """Whether two chains, given as (policy, rules), are equal. An unknown policy equals any policy."""
    return one[1] == other[1] and (
        one[0] == other[0] or _UNSAID in (one[0], other[0]) and None not in (one[0], other[0])
    )


def _text_of(table: TableValue, counters: bool) -> str:
    lines = [f"*{table.name}\n"]
    lines += [
        ":{} {} [{}:{}]\n".format(chain.name, chain.policy or "-", *(counters and chain.counters or (0, 0)))
        for chain in table
    ]
    for chain in table:
        start = f"-A {chain.name} "
        if counters:
            lines += [
                f"[{packets}:{size}] {start}{rule}".rstrip(" ") + "\n"
                for rule, (packets, size) in zip(
                    chain.rules, [_core.counters_of(chain.nfproto, entry) for entry in chain.entries]
                )
            ]
        else:
            lines += [f"{start}{rule}\n" if rule else f"-A {chain.name}\n" for rule in chain.rules]
    return "".join([*lines, "COMMIT\n"])


# ---------------------------------------------------------------------- a text


def parse(text: bytes, ipv6: bool | None, side: str, only: str | None = None) -> Ruleset:
    """Return the `Ruleset` of *text*, as `Ruleset.read` does. *side* is the back end."""
    tables = []
    for nfproto, part in parts_of(text, ipv6):

        def begun(name: str, nfproto: Family = nfproto) -> str:
            plain_table(nfproto, name)
            return side

        for restored in restored_tables(nfproto, part, False, True, only, begun, lambda restored: None):
            view = _empty_view(nfproto, restored.table, side)
            Restore(restored).apply(view)
            tables.append(_value_of(nfproto, restored.table, view))
    return Ruleset(tables, side)


def parts_of(text: bytes, ipv6: bool | None = None) -> list[tuple[Family, bytes]]:
    """Return [(family, text)] of the parts of *text*. Without headings it is one part. Lines keep their numbers."""
    lines = text.split(b"\n")
    places = [
        (place, nfproto)
        for place, line in enumerate(lines)
        for nfproto, heading in _HEADINGS.items()
        if line == heading
    ]
    if not places:
        return [(families_of(bool(ipv6))[0], text)]
    if any(line.strip() and not line.startswith(b"#") for line in lines[: places[0][0]]):
        raise ParameterError("there are rules before the first line `# IPv4' or `# IPv6'")
    if len(places) > len({nfproto for _, nfproto in places}):
        raise ParameterError("there is a second line `# IPv4' or `# IPv6'")
    found = []
    for (start, nfproto), end in zip(places, [*(start for start, _ in places[1:]), None]):
        if ipv6 is None or nfproto in families_of(ipv6):
            found.append((nfproto, b"\n" * start + b"\n".join(lines[start:end]) + (b"\n" if end else b"")))
    if not found:
        raise ParameterError(
            f"there is no line `{_HEADINGS[families_of(ipv6)[0]].decode()}' before the rules of that family"
        )
    return found


def require_headings(text: bytes) -> None:
    """Raise if *text* does not have the headings of both families."""
    lines = text.split(b"\n")
    for heading in _HEADINGS.values():
        if heading not in lines:
            raise ParameterError(f"there is no line `{heading.decode()}' before the rules of that family")


def _empty_view(nfproto: Family, name: str, side: str) -> View:
    # on nf_tables a builtin chain that a text does not name is created with its first rule, and then its policy is
    # ACCEPT
    plain = plain_table(nfproto, name, "ACCEPT" if side == "nft" else _UNSAID)
    stored = (codec if side == "nft" else blob).stored
    return View(nfproto, [ChainView(nfproto, c.name, c.policy, c.counters, stored=stored) for c in plain], stored)


def _value_of(nfproto: Family, name: str, view: View) -> TableValue:
    return TableValue(
        nfproto,
        name,
        [ChainValue(nfproto, chain.name, chain.policy, chain.counters, chain.entries) for chain in view.in_order()],
    )


def _entries_of(nfproto: Family, rule: Rule | str) -> list[bytes]:
    """Return the entries of a rule of `Ruleset.built`, as bytes."""
    kind = Rule if nfproto == _core.IPV4 else Rule6
    if isinstance(rule, str):
        rule = kind.from_args(rule)
    entries = entries_of(rule, nfproto, None)
    if entries is None:
        raise ParameterTypeError(f"a rule must be a {kind.__name__} or a text, not {type(rule).__name__}")
    return entries


# -------------------------------------------------------------------- the kernel


def read_live(
    families: Iterable[Family],
    place: Place,
    backend: str | None = None,
    tables: Collection[tuple[int, str]] | None = None,
) -> Ruleset:
    """Return the `Ruleset` of *place*: all tables, or those of [(family, name)]."""
    side = state.side_at(place, backend)
    if side == "nft":
        return _read_nft(families, place, tables)
    names = [(nfproto, name) for nfproto in families for name in state.tables_in_use(nfproto, place, side)]
    return Ruleset([_read_legacy(*key, place) for key in names if tables is None or key in tables], side)


def _read_legacy(nfproto: Family, name: str, place: Place) -> TableValue:
    return _value_of(nfproto, name, state.table_at(nfproto, name, place, "legacy").read())


def _read_nft(families: Iterable[Family], place: Place, tables: Collection[tuple[int, str]] | None) -> Ruleset:
    """Return all tables at one moment. If the ruleset changes during the reading, read again."""
    with sockets_of(place.cookie).lend(place) as socket, place.open() as there:
        for _ in range(_ATTEMPTS):
            generation = socket.generation()
            found = []
            try:
                for nfproto in families:
                    for name in backends.tables_in_use(nfproto, "nft", there):
                        if tables is None or (nfproto, name) in tables:
                            found.append(_read_nft_table(nfproto, name, socket))
            except Conflict:
                continue
            if socket.generation() == generation:
                return Ruleset(found, "nft", generation)
    raise Conflict(
        "can't read the tables: the ruleset never stops changing", errno.EAGAIN, "Resource temporarily unavailable"
    )


def _read_nft_table(nfproto: Family, name: str, socket: Socket) -> TableValue:
    chains = []
    scan = reader.NftScan(nfproto, name, socket)
    numbers = {chain: handle for chain, _, _, handle, _ in scan.list_chains()}
    for chain, policy, counters, messages in scan.read_messages():
        rules = codec.decode_rules(nfproto, messages, socket)
        chains.append(
            ChainValue(
                nfproto,
                chain,
                policy,
                counters,
                [entry for _, entry in rules],
                [handle for handle, _ in rules],
                not numbers.get(chain),
                numbers.get(chain, 0),
            )
        )
    return TableValue(nfproto, name, chains)
