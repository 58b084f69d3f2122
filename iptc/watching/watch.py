"""Changes of the rules as they happen: what each commit changed, and who made it."""

from __future__ import annotations

import errno
import select
import time
from datetime import UTC, datetime

from .. import _core
from ..errors import KernelError, ParameterError, ParameterTypeError, Unsupported
from ..managing.difference import Difference, diff_tables
from ..managing.ruleset_value import read_live
from ..namespace import Place
from .lock_events import LockEvents
from .mirror import LostStep, Mirror
from .multicast import MessagesLost
from .nft_events import NftEvents
from .stream import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .._types import LockFile, Netns
    from ..managing.difference import ChainDifference, Change
    from ..managing.ruleset_value import Ruleset
    from .nft_events import Process

FAMILIES = {4: "ipv4", 6: "ipv6"}
"""4 or 6 -> the name of the family in a change."""

_BACKENDS = ("legacy", "nft")
_KEYS = {
    "added": "added",
    "removed": "removed",
    "moved": "moved",
    "changed": "changed",
    "policy": "policy",
    "chain added": "chains_added",
    "chain removed": "chains_removed",
}
"""kind of a `Change` -> the key of such rows in JSON."""


class TableChange:
    """The changes that one commit made in one table.

    `backend` is "legacy" or "nft", `family` is "ipv4" or "ipv6", `table` is the name of the table.
    `by` is the process that made the commit, with `pid` and `name`, or None if it is not known.
    `when` is the time (`time.time()`), `generation` the number of the commit on nf_tables.
    `several` is true if it may have been more than one commit.
    `difference` is the `Difference`. `added`, `removed`, `moved`, `changed` and `policy` are its rows.
    """

    __slots__ = ("backend", "by", "difference", "generation", "several", "when")

    def __init__(
        self,
        backend: str,
        difference: Difference,
        by: Process | None,
        when: float,
        generation: int | None,
        several: bool,
    ) -> None:
        self.backend = backend
        self.difference = difference
        self.by = by
        self.when = when
        self.generation = generation
        self.several = several

    @property
    def _first(self) -> ChainDifference:
        return self.difference.chains[0]

    @property
    def family(self) -> str:
        """ "ipv4" or "ipv6"."""
        return FAMILIES[self._first.ip_version]

    @property
    def table(self) -> str:
        """The name of the table."""
        return self._first.table

    @property
    def added(self) -> list[Change]:
        """The rules that were added."""
        return self.difference.added

    @property
    def removed(self) -> list[Change]:
        """The rules that were deleted."""
        return self.difference.removed

    @property
    def moved(self) -> list[Change]:
        """The rules that were moved to another place."""
        return self.difference.moved

    @property
    def changed(self) -> list[Change]:
        """The rules that have other options in the same place."""
        return self.difference.changed

    @property
    def policy(self) -> list[Change]:
        """The policies that were changed."""
        return self.difference.policies

    @property
    def time(self) -> str:
        """The time of the change in ISO 8601, in UTC."""
        return datetime.fromtimestamp(self.when, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

    def __repr__(self) -> str:
        return f"<iptc.TableChange {self}>"

    def __str__(self) -> str:
        by = "somebody" if self.by is None else str(self.by)
        several = "several changes: " if self.several else ""
        return f"{self.backend} {self.family} {self.table} by {by}: {several}{self.difference.summary()}"

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON: `{"schema": 1, "when": …, "backend": …, "family": …, "table": …, "by": …, "added":
        [{"chain", "number", "rule"}…], …}`."""
        rows: dict[str, list[dict[str, Any]]] = {key: [] for key in _KEYS.values()}
        for change in self.difference:
            row: dict[str, Any] = {"chain": change.chain}
            if change.kind == "policy":
                row.update({"from": change.old_rule, "to": change.rule})
            elif change.kind == "removed":
                row.update({"number": change.old_number, "rule": change.old_rule})
            elif change.number is not None:
                row.update({"number": change.number, "rule": change.rule})
                if change.kind != "added":
                    row["from"] = change.old_number
                if change.kind == "changed":
                    row["old_rule"] = change.old_rule
            rows[_KEYS[change.kind]].append(row)
        return {
            "schema": 1,
            "when": self.time,
            "backend": self.backend,
            "family": self.family,
            "table": self.table,
            "by": None if self.by is None else self.by.as_dict(),
            "generation": self.generation,
            "several": self.several,
            **rows,
        }


class _Nft:
    """The tables of nf_tables. The kernel reports each commit."""

    name = "nft"

    def __init__(self, place: Place) -> None:
        self.source = NftEvents(place)
        self._mirror = Mirror(place)

    @property
    def ruleset(self) -> Ruleset:
        """The tables as they are known now."""
        return self._mirror.ruleset

    def look(self) -> Iterator[TableChange]:
        """Yield the changes since the last call."""
        while True:
            try:
                commits = self.source.read()
            except MessagesLost:
                yield from self._read_anew(None)
                continue
            break
        for commit in commits:
            if self._mirror.is_past(commit.generation):
                continue
            try:
                found = self._mirror.follow(commit)
            except LostStep:
                yield from self._read_anew(commit)
                continue
            now = time.time()
            for chains in found.values():
                yield TableChange(self.name, Difference(chains), commit.by, now, commit.generation, False)

    def _read_anew(self, commit: Any) -> Iterator[TableChange]:
        before = self._mirror.ruleset
        self._mirror.read()
        after = self._mirror.ruleset
        by, several = None, True
        if commit is not None and commit.generation == after.generation:
            by, several = commit.by, False
        yield from _changes(self.name, before, after, by, several)

    def compare(self) -> Iterator[TableChange]:
        """Yield nothing: the kernel has reported all changes."""
        return iter(())


class _Legacy:
    """The legacy tables. They are read again when a writer has released the xtables lock."""

    name = "legacy"

    def __init__(self, place: Place, lock_file: LockFile) -> None:
        self.source = LockEvents(lock_file)
        self._place = place
        self.ruleset = self._read()

    def _read(self) -> Ruleset:
        return read_live([_core.IPV4, _core.IPV6], self._place, "legacy")

    def look(self) -> Iterator[TableChange]:
        """Yield the changes since the last call."""
        closed, by = self.source.read()
        if closed:
            yield from self._compared(by)

    def compare(self) -> Iterator[TableChange]:
        """Yield what was changed by programs that do not take the lock."""
        yield from self._compared(None)

    def _compared(self, by: Process | None) -> Iterator[TableChange]:
        before, self.ruleset = self.ruleset, self._read()
        yield from _changes(self.name, before, self.ruleset, by, False)


def _changes(backend: str, before: Ruleset, after: Ruleset, by: Process | None, several: bool) -> Iterator[TableChange]:
    """Yield a `TableChange` for each table that differs."""
    keys = dict.fromkeys((table.nfproto, table.name) for table in [*before.tables, *after.tables])
    now = time.time()
    for key in sorted(keys, key=lambda key: key[0]):
        found = [chain for chain in diff_tables(before.table(*key), after.table(*key), *key) if chain]
        if found:
            yield TableChange(backend, Difference(found), by, now, after.generation, several)


class Watch(Stream):
    """Iterates over changes of rules as they happen, in `for` or `async for`: a `TableChange` for each changed table.

    See `watch`. It is a context manager. `close()` ends the loop, and can be called by any thread. One loop at a time
    can use it, in the process that opened it.
    """

    if TYPE_CHECKING:

        def read(self) -> list[TableChange]:
            """Return what has changed since, without waiting."""
            ...

        def wait(self, timeout: float | None = None) -> list[TableChange]:
            """Return what has changed, waiting for it *timeout* seconds at most."""
            ...

        def __next__(self) -> TableChange: ...

        async def __anext__(self) -> TableChange: ...

    def __init__(
        self,
        backend: str | None = None,
        netns: Netns = None,
        compare: float = 60.0,
        lock_file: LockFile = None,
    ) -> None:
        if backend not in (None, *_BACKENDS):
            raise ParameterError(f"what can be watched is {' or '.join(_BACKENDS)}, not {backend!r}")
        if isinstance(compare, bool) or not isinstance(compare, (int, float)):
            raise ParameterTypeError(f"compare must be seconds, not {compare!r}")
        if not 0 < compare < 1e9:
            raise ParameterError(f"compare must be seconds, more than 0, not {compare!r}")
        super().__init__()
        self._compare = float(compare)
        self._sides: list[_Nft | _Legacy] = []
        try:
            self._open(backend, Place(netns), lock_file)
        except BaseException:
            self.close()
            raise
        self._next_look = time.monotonic() + self._compare

    def _open(self, backend: str | None, place: Place, lock_file: LockFile) -> None:
        if backend in (None, "nft"):
            try:
                self._sides.append(_Nft(place))
            except (Unsupported, KernelError) as error:
                # a kernel without nf_tables reports nothing
                if backend is not None or getattr(error, "errno", None) not in (
                    errno.EPROTONOSUPPORT,
                    errno.EOPNOTSUPP,
                ):
                    raise
        if backend in (None, "legacy"):
            self._sides.append(_Legacy(place, lock_file))
        for side in self._sides:
            self._poll.register(side.source.fileno(), select.EPOLLIN)

    def _close_sources(self) -> None:
        sides, self._sides = self._sides, []
        for side in sides:
            side.source.close()

    def rulesets(self) -> dict[str, Ruleset]:
        """Return {back end: `Ruleset`}, as it is known now."""
        return {side.name: side.ruleset for side in self._sides}

    def _look(self) -> None:
        for side in self._sides:
            self._found.extend(side.look())
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + self._compare
            for side in self._sides:
                self._found.extend(side.compare())

    def _pause(self) -> float:
        if not any(side.name == "legacy" for side in self._sides):
            return -1
        return max(0.0, self._next_look - time.monotonic())


def watch(
    backend: str | None = None,
    *,
    netns: Netns = None,
    compare: float = 60.0,
    lock_file: LockFile = None,
) -> Watch:
    """Return a `Watch`: an iterator over changes of the tables of iptables, of both families, from now on.

    nf_tables (*backend* "nft"): the kernel reports each commit, and the process that made it.
    Legacy tables ("legacy"): they are read again when a process closes the file of the xtables lock. The process that
    had the lock is named if it can be seen. Not every program takes the lock, so they are also read every *compare*
    seconds. Without *backend*, both are watched.

    Nothing is changed, and between changes only that comparison runs. If there are more messages than the kernel keeps,
    the tables are read again, and the change has `several`. Raises `AccessDenied` without CAP_NET_ADMIN and
    CAP_NET_RAW.
    """
    return Watch(backend, netns, compare, lock_file)
