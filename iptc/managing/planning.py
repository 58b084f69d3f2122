"""Plans the way from the live ruleset to the wanted one, with the fewest edits: one commit for each table, or on
nf_tables one for all.
"""

from __future__ import annotations

import errno
import os
from fnmatch import fnmatchcase
from functools import partial

from .. import _core, state
from .._applied import telling, telling_methods
from ..errors import Conflict, NotFound, ParameterTypeError, kernel_error
from ..model.arranging import Arrangement
from ..model.edits import Operation, check_new_name
from ..namespace import Place
from ..nft.sockets import sockets_of
from . import numbering
from .difference import Difference, diff_tables
from .ruleset_value import Ruleset, ip_version, plain_table, read_live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from .._types import Family, LockFile, Netns, Source, Wait
    from ..errors import KernelError
    from ..model.views import View
    from .difference import ChainDifference, Change
    from .ruleset_value import ChainValue, TableValue


class Scope:
    """Which chains a plan may touch: only those in *only*, if it is given, and none whose name matches *keep*.

    *only*: "TABLE" or "TABLE:CHAIN", or several of them. *keep*: a pattern as in a shell, such as `DOCKER*`, or
        several.
    """

    def __init__(self, only: str | Iterable[str] = (), keep: str | Iterable[str] = ()) -> None:
        self._keep = _words(keep, "keep")
        self._only = [word.partition(":")[::2] for word in _words(only, "only")]
        for table, _ in self._only:
            if table:
                plain_table(2, table)

    def covers(self, table: str, chain: str) -> bool:
        """Whether the plan may touch *chain* of *table*."""
        if any(fnmatchcase(chain, pattern) for pattern in self._keep):
            return False
        return not self._only or any(
            table == name and (not pattern or fnmatchcase(chain, pattern)) for name, pattern in self._only
        )

    def may_cover(self, table: str) -> bool:
        """Whether the plan may touch any chain of *table*."""
        return not self._only or any(table == name for name, _ in self._only)


def _words(value: str | Iterable[str], what: str) -> list[str]:
    words = [value] if isinstance(value, str) else list(value or ())
    if not all(isinstance(word, str) and word for word in words):
        raise ParameterTypeError(f"{what} must be one or several words, not {value!r}")
    return words


@telling_methods
class Plan:
    """The edits that lead from the live ruleset to the wanted one. It is false if there are none. `apply()` makes them.

    `difference` is the `Difference` that the edits make. `kept` is a list of (4 or 6, table, chain): chains that the
    target does not have, and that stay because a chain that is kept jumps to them.
    """

    def __init__(self, live: Ruleset, target: Ruleset, scope: Scope, place: Place, exact: bool = False) -> None:
        self.live = live
        self.target = target
        self.scope = scope
        self.place = place
        self.kept: list[tuple[int, str, str]] = []
        self.reworks: list[_Rework] = []
        self.exact = exact
        # kept open between reading and sending: closing an nf_tables socket waits until deleted objects are freed
        self._sockets = sockets_of(place.cookie) if live.backend == "nft" else None
        found = []
        for table in target.tables:
            if scope.may_cover(table.name):
                rework = _plan_table(self, live.table(table.nfproto, table.name), table)
                if rework.chains or rework.unused:
                    self.reworks.append(rework)
                    found += rework.chains
        self.difference = Difference(found)

    def __bool__(self) -> bool:
        return bool(self.reworks)

    def __iter__(self) -> Iterator[Change]:
        return iter(self.difference)

    def __len__(self) -> int:
        return len(self.difference)

    def __repr__(self) -> str:
        return f"<iptc.Plan: {self.difference.summary() or 'nothing to do'}>"

    def __str__(self) -> str:
        return self.text()

    def text(
        self,
        names: tuple[str, str] = ("live", "wanted"),
        context: int = 3,
        colour: bool | Callable[[str], str] | None = None,
    ) -> str:
        """Return the `Difference` as a unified diff, and after it the chains that stay although they are not wanted."""
        stays = [
            f"# stays, since a chain that is kept jumps there: IPv{v} {table} {chain}\n"
            for v, table, chain in self.kept
        ]
        return self.difference.text(names, context, colour) + "".join(stays)

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON: the keys of `Difference.as_dict`, and `kept`."""
        kept = [{"ip_version": version, "table": table, "chain": chain} for version, table, chain in self.kept]
        return {**self.difference.as_dict(), "kept": kept}

    def apply(self, wait: Wait = None, lock_file: LockFile = None) -> None:
        """Make the edits: all of them or none. Raises `Conflict` if a chain that may be touched has changed since the
        reading.

        *wait* and *lock_file* are as for `Table`.
        """
        if self.reworks:
            state.send_together(
                [
                    (state.table_at(rework.nfproto, rework.table, self.place, self.live.backend), [rework])
                    for rework in self.reworks
                ],
                wait,
                lock_file,
            )


def plan(
    target: Ruleset | Source,
    *,
    only: str | Iterable[str] = (),
    keep: str | Iterable[str] = (),
    ipv6: bool | None = None,
    backend: str | None = None,
    netns: Netns = None,
) -> Plan:
    """Return the `Plan` that leads from the live ruleset to *target*. Nothing is changed.

    *target*: a `Ruleset`, or what `Ruleset.read` takes. Tables that it does not have are left alone.
    *only* and *keep*: which chains may be touched, as for `Scope`. Other chains are ignored in *target* too.
    *ipv6*: the family of a text without headings.
    """
    place = Place(netns)
    scope = Scope(only, keep)
    side = state.side_at(place, backend)
    if isinstance(target, Ruleset):
        target = in_backend(target, side)
    else:
        target = Ruleset.read(target, ipv6, backend=side)
    return plan_at(place, target, scope)


def plan_at(place: Place, target: Ruleset, scope: Scope, exact: bool = False) -> Plan:
    """Return the `Plan` for *target* at *place*.

    An *exact* plan goes back to an earlier ruleset: new rules get the counters that *target* has, and on nf_tables the
    tables and builtin chains that did not exist are deleted.
    """
    keys = [(table.nfproto, table.name) for table in target.tables]
    live = read_live(sorted({nfproto for nfproto, _ in keys}), place, target.backend, keys)
    return Plan(live, target, scope, place, exact)


def in_backend(ruleset: Ruleset, side: str) -> Ruleset:
    """Return *ruleset* as it would be on the back end *side*."""
    if (ruleset.backend == "nft") == (side == "nft"):
        return Ruleset(ruleset.tables, side, ruleset.generation)
    return Ruleset.read(ruleset.text().encode("utf-8", "surrogateescape"), backend=side)


def _plan_table(plan: Plan, live: TableValue | None, wanted: TableValue) -> _Rework:
    """Return the `_Rework` of one table."""
    nfproto, name, scope = wanted.nfproto, wanted.name, plan.scope
    live = plain_table(nfproto, name) if live is None else live
    stay = _staying(live, wanted, scope)
    plan.kept += [(ip_version(nfproto), name, chain) for chain in stay if scope.covers(name, chain)]
    chains = [
        chain
        for chain in diff_tables(live, wanted, nfproto, name)
        if chain and scope.covers(name, chain.name) and chain.name not in stay
    ]
    for chain in chains:
        if chain.created and chain.new.policy is None:
            check_new_name(nfproto, chain.name, declared=True)
    _check_jumps(nfproto, live, wanted, stay, chains, scope)
    expected = {chain.name: chain for chain in live if scope.covers(name, chain.name)}
    unused = []
    if plan.exact and plan.live.backend == "nft":
        unused = [
            chain.name for chain in wanted if chain.absent and chain.name in expected and not live[chain.name].absent
        ]
    empty = (
        bool(unused)
        and all(chain.absent for chain in wanted)
        and not stay
        and all(scope.covers(name, chain.name) for chain in live)
    )
    return _Rework(nfproto, name, chains, expected, plan, unused, empty)


def _staying(live: TableValue, wanted: TableValue, scope: Scope) -> set[str]:
    """Return the user chains of *live* that stay as they are: those that are kept, and unwanted ones that they jump
    to."""
    users = {chain.name for chain in live if chain.policy is None}
    found, left = set(), [chain.name for chain in live if not scope.covers(live.name, chain.name)]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        left += [other for other in live[name].jumps_among(users) if other not in wanted]
    return found & users


def _check_jumps(
    nfproto: Family,
    live: TableValue,
    wanted: TableValue,
    stay: set[str],
    chains: list[ChainDifference],
    scope: Scope,
) -> None:
    """Raise if a rule would jump to a chain that will not exist."""
    there = stay | {chain.name for chain in live if chain.policy is None}
    there |= {chain.name for chain in chains if chain.created}
    gone = {chain.name for chain in chains if chain.deleted}
    there -= gone
    for chain in chains:
        for position in [*chain.added, *chain.changed] if chain.new else ():
            jump = _core.jump_of(nfproto, chain.new.entries[position]).decode("utf-8", "surrogateescape")
            if jump and jump not in there:
                raise _no_chain(nfproto, wanted.name, chain.name, position, chain.new.rule(position), jump)
    if gone:
        for other in wanted:
            for jump, position in other.jumps_to(gone) if scope.covers(wanted.name, other.name) else ():
                raise _no_chain(nfproto, wanted.name, other.name, position, other.rules[position], jump)


def _no_chain(nfproto: Family, table: str, chain: str, position: int, rule: str, jump: str) -> NotFound:
    reason = os.strerror(errno.ENOENT)
    return NotFound(
        f"there is no chain {jump} in IPv{ip_version(nfproto)} table {table}, to which rule {position + 1} of {chain} "
        f"jumps: {rule}",
        errno.ENOENT,
        reason,
    )


class _Rework(Operation):
    """The edits of a plan in one table, as one operation. *expected* are the chains that the plan was made for.

    *unused*: builtin chains to delete, as if no program had used them yet. With *empty* the table is deleted too.
    """

    def __init__(
        self,
        nfproto: Family,
        table: str,
        chains: list[ChainDifference],
        expected: dict[str, ChainValue],
        plan: Plan,
        unused: list[str],
        empty: bool,
    ) -> None:
        self.nfproto = nfproto
        self.table = table
        self.chains = chains
        self._expected = expected
        self._scope = plan.scope
        self._generation = plan.live.generation
        self._counters = plan.exact
        self.unused = unused
        self._empty = empty

    def refused(self, number: int) -> KernelError:
        """Return the exception that the edits failed with errno *number*."""
        return kernel_error(
            f"can't change IPv{ip_version(self.nfproto)} table {self.table}", number, os.strerror(number)
        )

    def apply(self, view: View) -> None:
        """Raise `Conflict` unless *view* is the table that the plan was made for."""
        self._check(view)

    def do(self, handle: Any, look: Callable[[], View]) -> None:
        """Make the edits on *handle*. look() returns the table as it is."""
        if self._generation is not None and handle.is_at(self._generation):
            for chain in self.chains:
                if chain.old is not None and chain.old.handles is not None and not chain.created:
                    handle.know(chain.name, chain.old.handles)
        else:
            self._check(look())
        for chain in self.chains:
            if chain.created and chain.new.policy is None:
                handle.create_chain(chain.name)
        for chain in self.chains:
            if chain.policy:
                handle.set_policy(chain.name, chain.policy[1])
            if chain.hunks and not chain.deleted:
                length = len(chain.old) if chain.old else 0
                handle.rearrange(
                    Arrangement(
                        chain.name, length, chain.hunks, chain.moved, chain.changed, partial(self._entry, chain)
                    )
                )
        gone = [chain.name for chain in self.chains if chain.deleted]
        for name in gone:
            handle.flush(name)
        for name in gone:
            handle.delete_chain(name)
        for name in self.unused:
            handle.drop_chain(name)
        if self._empty:
            handle.drop_table()

    def _check(self, view: View) -> None:
        """Raise `Conflict` if a chain that may be touched has changed."""
        for name in view.chains:
            if self._scope.covers(self.table, name) and name not in self._expected:
                raise self._moved(f"there is a chain {name} now")
        for name, chain in self._expected.items():
            there = view.chains.get(name)
            if there is None:
                if chain.policy is None:
                    raise self._moved(f"chain {name} is gone")
            elif there.policy != chain.policy:
                raise self._moved(
                    f"chain {name} has another policy now" if chain.policy else f"chain {name} is another now"
                )
            elif not self._same(chain, there.entries):
                raise self._moved(f"chain {name} has other rules now")

    def _same(self, chain: ChainValue, entries: Sequence[bytes]) -> bool:
        if len(entries) != len(chain.entries):
            return False
        one, other = numbering.number(self.nfproto, list(chain.entries), list(entries))
        return one.obj == other.obj

    def _moved(self, what: str) -> Conflict:
        return Conflict(
            f"IPv{ip_version(self.nfproto)} table {self.table} has changed since it was read: {what}",
            errno.EAGAIN,
            os.strerror(errno.EAGAIN),
        )

    def _entry(self, chain: ChainDifference, position: int) -> bytes:
        """Return the bytes of a new rule as they are sent."""
        entry = chain.new.entries[position]
        return entry if self._counters else _core.without_counters(self.nfproto, [entry])[0]


@telling
def apply(
    target: Plan | Ruleset | Source,
    *,
    only: str | Iterable[str] = (),
    keep: str | Iterable[str] = (),
    ipv6: bool | None = None,
    backend: str | None = None,
    netns: Netns = None,
    wait: Wait = None,
    lock_file: LockFile = None,
) -> Plan:
    """Make the live ruleset equal to *target* with the fewest edits. Return the `Plan` that was applied.

    *target* and the others are as for `plan`. If *target* is a `Plan`, it is applied as it is; `Conflict` is raised if
    the ruleset has changed since. *wait* and *lock_file* are as for `Table`.
    """
    if isinstance(target, Plan):
        target.apply(wait, lock_file)
        return target
    wanted: Ruleset | Source = target

    def planned() -> Plan:
        nonlocal wanted
        found = plan(wanted, only=only, keep=keep, ipv6=ipv6, backend=backend, netns=netns)
        # a file or a stream can be read only once
        wanted = found.target
        return found

    return apply_anew(planned, wait, lock_file)


def apply_anew(planned: Callable[[], Plan], wait: Wait, lock_file: LockFile) -> Plan:
    """Apply the plan that planned() returns, and return it. If the ruleset has changed meanwhile, make a new plan.

    Raises `Conflict` if the ruleset changes each time.
    """
    for attempt in reversed(range(ATTEMPTS)):
        found = planned()
        try:
            found.apply(wait, lock_file)
            return found
        except Conflict:
            if not attempt:
                raise
    raise AssertionError("the last attempt returns or raises")


ATTEMPTS = 16
"""How often a plan is made if the ruleset changes each time."""
