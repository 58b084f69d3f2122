"""The tables that are polled: a kept reader for each, opened when the table comes, closed when it goes.

A namespace or a table may go and come back while a program runs; that ends nothing here.
"""

from __future__ import annotations

import os

from .. import _core, backends, namespace
from ..counters import CounterReader
from ..errors import IPTCError, is_absent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .._netns import Namespace
    from .._types import Netns
    from ..counters import Snapshot
    from .selection import Selection

_NAMES = "/run/netns"


class TableReading:
    """The result of reading a table: a `snapshot` and its `reader`, or the `error` if it could not be read.

    `netns` is the name of its network namespace if several may be read, or None. `table` is None if it is not even
    known which tables exist. `key` identifies the table from one poll to the next. `reopened`: the namespace of that
    name is a new one, so this is another table. `source` and `source_reason` are those of the reader, None without one.
    """

    __slots__ = (
        "netns",
        "ipv6",
        "table",
        "backend",
        "reader",
        "snapshot",
        "error",
        "reopened",
        "source",
        "source_reason",
    )

    def __init__(
        self,
        netns: str | None,
        ipv6: bool,
        table: str | None,
        reader: CounterReader | None,
        snapshot: Snapshot | None,
        error: BaseException | None,
        reopened: bool = False,
    ) -> None:
        self.netns = netns
        self.ipv6 = ipv6
        self.table = table
        self.backend = None if reader is None else reader.backend
        self.reader = reader
        self.snapshot = snapshot
        self.error = error
        self.reopened = reopened
        self.source = None if reader is None else reader.source
        self.source_reason = None if reader is None else reader.source_reason

    @property
    def key(self) -> tuple[str | None, bool, str | None]:
        """(netns, ipv6, table)."""
        return self.netns, self.ipv6, self.table


class Sources:
    """All tables that a `Selection` wants, in one or several network namespaces.

    *netns*: a list of namespaces. *all_named*: add all namespaces that have a name at the time of the poll. With
        neither, the namespace of the polling thread is read. *lock*, *backend* and *source* are as for `CounterReader`.
    """

    def __init__(
        self,
        selection: Selection,
        netns: Iterable[Netns] = (),
        all_named: bool = False,
        backend: str | None = None,
        lock: bool | float = False,
        source: str = "socket",
    ) -> None:
        self.selection = selection
        self._netns = list(netns)
        self._all_named = all_named
        self._options: dict[str, Any] = {"backend": backend, "lock": lock, "source": source}
        self._places: dict[Netns, _Place] = {}

    def poll(self) -> list[TableReading]:
        """Read all tables once."""
        readings: list[TableReading] = []
        there = self._names()
        for name in [name for name in self._places if name not in there]:
            self._places.pop(name).close()
        for name, label in there.items():
            if name not in self._places:
                self._places[name] = _Place(name, label, self.selection, self._options)
            readings += self._places[name].poll()
        return readings

    def stay(self, readings: list[TableReading]) -> bool:
        """Whether the next poll finds the tables of *readings*, which `poll` has just returned, and nothing else, as
        long as their counters can be read quickly (`Scan.quick`)."""
        if self._netns or self._all_named or not readings:
            return False  # a namespace can be deleted, and made anew
        if any(reading.error is not None or reading.source != "bpf" for reading in readings):
            return False
        return self._places[None].stays()

    def _names(self) -> dict[Netns, str | None]:
        """Return {namespace: the name that is shown for it}."""
        if not self._netns and not self._all_named:
            return {None: None}
        names = [*self._netns, *(named() if self._all_named else ())]
        return {name: str(name) for name in names}

    def close(self) -> None:
        """Close all readers."""
        while self._places:
            self._places.popitem()[1].close()

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def named() -> list[str]:
    """Return the names of network namespaces that `ip netns` lists."""
    try:
        return sorted(os.listdir(_NAMES))
    except FileNotFoundError:
        return []


class _Place:
    """One network namespace, and its readers."""

    def __init__(self, netns: Netns, label: str | None, selection: Selection, options: dict[str, Any]) -> None:
        self.netns = netns
        self.label = label
        self.selection = selection
        self.options = options
        self.readers: dict[tuple[bool, str], CounterReader] = {}
        self.file: tuple[int, int] | None = None
        self.side: str | None = None
        self.bare = False
        self.lost = False

    def poll(self) -> list[TableReading]:
        try:
            with namespace.open_namespace(self.netns) as there:
                reopened = self._follow(there.file())
                wanted = self._wanted(there)
        except (IPTCError, OSError) as error:
            self.close()
            self.lost = is_absent(error)
            return [self._failed(ipv6, None, error) for ipv6 in self.selection.families]
        for key in [key for key in self.readers if key not in wanted]:
            self.readers.pop(key).close()
        readings = [self._read(ipv6, table, reopened) for ipv6, table in wanted]
        self.bare = not any(reading.snapshot is None or len(reading.snapshot) for reading in readings)
        return readings

    def _wanted(self, there: Namespace) -> list[tuple[bool, str]]:
        """Return [(ipv6, table)] of the wanted tables that exist."""
        if self.bare:
            # the firewall may have started after us, on the other back end
            backends.decide_again(there)
        side = backends.side_in(there, self.options["backend"])
        if side != self.side:
            self.close()
            self.side = side
        wanted = []
        for ipv6 in self.selection.families:
            # a table that was asked for by name is read even if that creates it
            tables: Iterable[str] | None = self.selection.tables
            if tables is None:
                tables = backends.tables_in_use(_core.IPV6 if ipv6 else _core.IPV4, side, there)
            wanted += [(ipv6, table) for table in tables]
        return wanted

    def stays(self) -> bool:
        """Whether other tables, or the other back end, can only be there after something was changed that `Scan.quick`
        of the present readers notices."""
        if self.bare:
            return False
        if self.selection.tables is not None:
            return True
        # nf_tables has one generation number for all tables, which eBPF compares. It may have changed between looking
        # for the tables and reading them, so they are looked for once more
        with namespace.open_namespace(self.netns) as there:
            return self.side == "nft" and self._wanted(there) == list(self.readers)

    def _follow(self, file: tuple[int, int] | None) -> bool:
        """Close the readers if the namespace of that name is a new one. Return whether it is."""
        known, lost = self.file, self.lost
        self.file, self.lost = file, False
        if file != known:
            self.close()
        return known is not None and (lost or file != known)

    def _read(self, ipv6: bool, table: str, reopened: bool) -> TableReading:
        reader = self.readers.get((ipv6, table))
        try:
            if reader is None:
                reader = CounterReader(table, ipv6, netns=self.netns, **self.options)
                self.readers[ipv6, table] = reader
            return TableReading(self.label, ipv6, table, reader, reader.read(), None, reopened)
        except (IPTCError, OSError) as error:
            if reader is not None:
                del self.readers[ipv6, table]
                reader.close()
            return self._failed(ipv6, table, error)

    def _failed(self, ipv6: bool, table: str | None, error: BaseException) -> TableReading:
        # a traceback would keep all objects in its frames alive
        return TableReading(self.label, ipv6, table, None, None, error.with_traceback(None))

    def close(self) -> None:
        while self.readers:
            self.readers.popitem()[1].close()
