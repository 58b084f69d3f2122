"""CounterReader reads the counters of a table, a Snapshot holds them, a Delta is the difference of two snapshots.

Reading uses neither libiptc nor libxtables nor a plugin, and makes no `Rule` objects.
"""

from __future__ import annotations

import os
import time

from . import _core, backends, namespace
from ._counts import Reading
from .errors import Conflict, KernelError, ParameterError, ParameterTypeError, TransactionError, Unsupported
from .layout import Layout, RuleInfo, ToldLayout
from .lock import XTablesLock, mutex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, NoReturn, SupportsIndex, overload

    from ._core import Counters
    from ._counts import Counts, Scan
    from ._types import Netns, Pair
    from .legacy.settling import Settling

    _Reading = tuple[Counts, int, list[Pair]]

    _bytes = bytes


_named = _core.Counters._make


def checked_source(source: str) -> str:
    """Return *source*. Raises `ParameterError` if there is no such one."""
    if not isinstance(source, str):
        raise ParameterTypeError(f"a source must be a string, not {source!r}")
    if source not in ("socket", "bpf", "auto"):
        raise ParameterError(f"there is no source {source!r}; socket, bpf and auto are")
    return source


_LONGEST = 1e15
"""More seconds than any process runs."""


def _checked_period(seconds: float) -> float:
    """Return the time between two comparisons, in seconds. 0 is for none."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise ParameterTypeError(f"source_check must be seconds, not {seconds!r}")
    if not seconds >= 0:  # true for NaN too
        raise ParameterError(f"source_check must be seconds, not negative, not {seconds!r}")
    return float(min(seconds, _LONGEST))


_HANDING = 8
"""How often the rules are read for who gets them, while others change them."""


class CounterReader:
    """Reads the packet and byte counters of one table, again and again.

    On the legacy back end each read is `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`, on nf_tables dumps of its chains and
    rules (`NFT_MSG_GETCHAIN`, `NFT_MSG_GETRULE`).

    >>> with CounterReader("filter") as reader:          # doctest: +SKIP
    ...     snapshot = reader.read()
    ...     print(snapshot["INPUT"].policy, sum(snapshot.packets))

    *lock*: False (the default) reads without the xtables lock, as `iptables-save` does; a table that a writer is just
        replacing is read again. True waits for the lock before each read, a number waits so many seconds and then
        raises `LockTimeout`. Readers share the lock.
    *netns*: a network namespace, as a name, a path, a process id or an open descriptor; None is that of the caller.
    *backend*: "legacy" or "nft"; None takes what `iptc.backend()` returns.
    *source*: how the numbers are read. "socket": as above. "bpf": by eBPF, which copies the counters and nothing else;
        `Unsupported` where that cannot be, or may be wrong. "auto": by eBPF as long as it can be, and else by the
        socket. `source` and `source_reason` tell which it is. Where the reason may pass, "auto" tries eBPF again: after
        a second, then after two, four and so on, up to *source_check*.
    *source_check*: after so many seconds, what eBPF reads is compared with what the socket says; 0 for never again.

    Several threads can use one reader. Raises `NotFound` if there is no such table, and `AccessDenied` without
    CAP_NET_ADMIN (for legacy tables CAP_NET_RAW too).
    """

    _told = False
    """Whether another process has handed the counters over."""

    def __init__(
        self,
        table: str = "filter",
        ipv6: bool = False,
        backend: str | None = None,
        netns: Netns = None,
        lock: bool | float = False,
        source: str = "socket",
        source_check: float = 60.0,
    ) -> None:
        if not isinstance(table, str):
            raise ParameterTypeError(f"a table name must be a string, not {type(table).__name__}")
        self.table = table
        self.ipv6 = bool(ipv6)
        self.backend = backend
        self._nfproto = _core.IPV6 if ipv6 else _core.IPV4
        self._lock = None if lock is False else XTablesLock(None if lock is True else lock, shared=True)
        self._asked = checked_source(source)
        self._period = _checked_period(source_check)
        self._closed = True
        # the scan is owned by this object before it is opened: an interrupt may come between any two steps
        self._namespace = namespace.open_namespace(netns)
        try:
            self._open()
        except BaseException:
            self._namespace.close()
            raise
        self._closed = False

    def _open(self) -> None:
        self._mutex = mutex()
        self._layout: Layout | None = None
        open_source: Callable[..., Scan] | None = None
        if self._asked != "socket":
            # loaded only if eBPF is asked for; and before the others, since an import needs a free descriptor
            from .bpf.opening import open_source
        self.backend = backends.side_in(self._namespace, self.backend)
        self._scan = backends.open_scan(self._nfproto, self.table, self.backend, self._namespace)
        if open_source is not None:
            self._open_source(open_source)
        self._settling: Settling | None = None
        self._pid = os.getpid()

    @classmethod
    def from_fds(cls, fds: Iterable[int]) -> CounterReader:
        """Return a reader of the counters that another process has handed over. *fds*: the descriptors that `fds` has
        returned in that process, in any order.

        It needs no privilege. The descriptors are copied: close yours when you do not need them any more.

        Snapshots have the same `generation` as in the other process, and the texts of the rules. Nothing is compared
        with the socket (`source_reason` says so). After the ruleset was changed, `read` always raises `Unsupported`:
        ask the other process for new descriptors. Raises `ParameterError` if the descriptors are not those of one call
        of `fds`.
        """
        from .bpf.handed import take_over  # loaded only for counters that were handed over

        self = cls.__new__(cls)
        self._closed = True
        scan, said = take_over(fds)
        self._scan = scan
        self.table, self.ipv6, self.backend = said.table, said.ipv6, said.backend
        self._nfproto = _core.IPV6 if said.ipv6 else _core.IPV4
        self._lock, self._namespace, self._settling = None, namespace.open_namespace(None), None
        self._layout = ToldLayout(self._nfproto, said)
        self._told = True
        self._mutex = mutex()
        self._pid = os.getpid()
        self._closed = False
        return self

    def fds(self) -> list[int]:
        """Return descriptors with which another process can read these counters, without any privilege.

        Give all of them to `CounterReader.from_fds` there. They are passed as descriptors are: by `socket.send_fds`, to
        a child, or kept by systemd (`FDSTORE=1`). They belong to the caller, who closes them once they are passed on;
        on exec they are closed.

        Whoever has them can read these counters, the texts of the rules, and nothing else, and only as long as the
        ruleset is the present one. Each call makes new ones, for one reading process.

        Raises `Unsupported` if the counters are not read by eBPF, or this process has no CAP_BPF and CAP_PERFMON any
        more.
        """
        hand_over = getattr(self._scan, "hand_over", None)
        if hand_over is None:
            why = "they were handed over" if self._told else f"source is {self.source!r}. {self.source_reason}".strip()
            raise Unsupported(f"these counters can't be handed over: {why}")
        said: dict[str, Any] = {"table": self.table, "ipv6": self.ipv6, "backend": self.backend}
        made: list[int] = []
        left = _HANDING
        while True:
            left -= 1
            snapshot = self.read()
            try:
                texts = [(info.text, info.comment, info.target) for info in snapshot.rules]
                said |= {"generation": snapshot.generation, "chains": snapshot._layout.chains}
                with self._mutex:
                    hand_over(snapshot.generation, said, texts, made)
                return made
            except BaseException as error:
                # an interrupt may come when they are there already
                while made:
                    os.close(made.pop())
                if not left or not isinstance(error, Conflict):
                    raise

    def _open_source(self, open_source: Callable[..., Scan]) -> None:
        """Replace the open scan, which reads by a socket, by one that reads by eBPF. Raises if eBPF cannot be used,
        unless `source` is "auto"."""
        falls_back = self._asked == "auto"
        try:
            side = backends.kernels_side(str(self.backend))
            self._scan = open_source(self._scan, self._nfproto, self.table, side, falls_back, self._period)
        except BaseException:
            self._scan.close()
            raise

    @property
    def source(self) -> str:
        """How the numbers are read now: "socket" or "bpf"."""
        return getattr(self._scan, "source", "socket")

    @property
    def source_reason(self) -> str:
        """Why the numbers are read by the socket although eBPF was asked for, or a remark about reading by eBPF; "" if
        there is nothing to say."""
        return getattr(self._scan, "source_reason", "")

    def read(self) -> Snapshot:
        """Return a `Snapshot` of the counters now."""
        snapshot = self._scan.quick(self, Snapshot)
        return snapshot if snapshot is not None else self._read()

    def every(self, seconds: float) -> Iterator[Snapshot]:
        """Return an iterator that waits and reads: a `Snapshot` at once, and then one every so many *seconds*.

        >>> for snapshot in reader.every(0.001):          # doctest: +SKIP
        ...     print(snapshot["INPUT"].sum())

        The times are counted from the first one, so delays do not add up. A time that has passed while your code was
        busy is left out. The wait costs less of the processor than one with `time.sleep`. If `read` raises, or the
        handler of a signal, then `next` raises that, and can be called again. Raises `ParameterError` unless *seconds*
        is more than none.
        """
        from ._pace import Polls  # loaded only by programs that poll

        return Polls(self.read, seconds)

    def _read(self) -> Snapshot:
        self._belong_here()
        if self._mutex._is_owned():
            raise TransactionError("a read from within a read of the same reader, such as from the handler of a signal")
        with self._mutex:
            if self._lock is None:
                reading = self._scan.read()
                if self._scan.doubt:
                    reading = self._settled(reading)
                counts, digest, policies = reading
            else:
                with self._lock:
                    counts, digest, policies = self._scan.read()
            layout = self._layout
            if layout is None or layout.generation != digest:
                layout = Layout(self._nfproto, digest, self._scan.chains, self._scan.identities)
                self._layout = layout
            if self._lock is None:
                # with this layout, the scan can make snapshots by itself while the rules stay the same
                self._scan.layout = layout
        return Snapshot(counts, layout, policies, time.monotonic(), time.time(), self)

    def _belong_here(self) -> None:
        """Open all anew after a fork. A thread that the child does not have may hold the mutex, and what the parent has
        opened is the parent's."""
        if self._pid != os.getpid() and not self._closed:
            if self._told:
                self._mutex, self._pid = mutex(), os.getpid()
            else:
                self._open()

    def _settled(self, reading: _Reading) -> _Reading:
        """Return a reading that can be relied on, instead of *reading*, which is in doubt."""
        if self._settling is None:
            from .legacy.settling import Settling  # only readings of legacy tables are ever in doubt

            scan: Any = self._scan  # only that of a legacy table is ever in doubt
            self._settling = Settling(scan)
        return self._settling.settle(reading)

    def _entries(self, generation: int) -> list[bytes]:
        self._belong_here()
        with self._mutex:
            if self._closed:
                raise KernelError("this reader is closed", 9, "Bad file descriptor")
            entries: list[bytes] = self._scan.entries(generation)
            return entries

    def close(self) -> None:
        """Close the socket. Snapshots stay usable; `read` raises `KernelError` from now on."""
        self._closed = True
        if self._pid != os.getpid():
            # after a fork, a thread that the child does not have may hold the old mutex
            self._mutex = mutex()
        with self._mutex:
            self._scan.close()
            self._namespace.close()

    @property
    def closed(self) -> bool:
        """Whether the reader was closed."""
        return self._closed

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # a copy would close the same socket a second time
        raise TypeError("a CounterReader has a socket and cannot be copied: open another one")

    def __enter__(self) -> CounterReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    def __repr__(self) -> str:
        return f"<iptc.CounterReader {self.table} {'IPv6' if self.ipv6 else 'IPv4'}{' closed' if self._closed else ''}>"


class ChainCounters:
    """The counters of one chain in a snapshot: a sequence of (packets, bytes), one for each rule.

    An index and `sum()` return `Counters`. A loop returns plain tuples, which is faster.
    """

    __slots__ = ("_counts", "name", "policy", "policy_counters", "slots")

    def __init__(
        self,
        counts: Counts,
        name: str,
        policy: str | None,
        policy_counters: Counters | None,
        slots: range,
    ) -> None:
        self._counts = counts
        self.name = name
        self.policy = policy
        self.policy_counters = policy_counters
        self.slots = slots

    @property
    def packets(self) -> memoryview:
        """Packets of each rule: a memoryview of uint64."""
        return self._counts.packets(self.slots.start, self.slots.stop)

    @property
    def bytes(self) -> memoryview:
        """Bytes of each rule: a memoryview of uint64."""
        return self._counts.bytes(self.slots.start, self.slots.stop)

    def sum(self) -> Counters:
        """Return the sum of the counters of all rules of the chain, as `Counters`. The policy is not in it."""
        return _named(self._counts.sum(self.slots.start, self.slots.stop))

    def __len__(self) -> int:
        return len(self.slots)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._counts.pairs(self.slots.start, self.slots.stop))

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, index: int) -> Counters: ...
        @overload
        def __getitem__(self, index: slice) -> list[Pair]: ...
        def __getitem__(self, index: int | slice) -> Counters | list[Pair]: ...
    else:

        def __getitem__(self, index: int | slice) -> Counters | list[Pair]:
            slots = self.slots[index]
            if isinstance(slots, range):
                return self._counts.pairs(self.slots.start, self.slots.stop)[index]
            return _named(self._counts.pairs(slots, slots + 1)[0])

    def __repr__(self) -> str:
        return f"<{self.name} {self.policy or '-'} {len(self)} rules>"


class _PerRule:
    """A sequence of (packets, bytes), one for each rule. With the name of a chain as index, `_chain` is called."""

    __slots__ = ()
    _counts: Counts
    _layout: Layout

    def _chain(self, number: int) -> ChainCounters | list[Pair]:
        raise NotImplementedError

    @property
    def packets(self) -> memoryview:
        """The packets of each rule, as a memoryview of uint64. `numpy.asarray` uses it without a copy."""
        return self._counts.packets(0, self._counts.rules)

    @property
    def bytes(self) -> memoryview:
        """Bytes of each rule: a memoryview of uint64."""
        return self._counts.bytes(0, self._counts.rules)

    def __getitem__(self, key: int | slice | str) -> Counters | list[Pair] | ChainCounters:
        if isinstance(key, str):
            return self._chain(self._layout.number_of(key))
        if isinstance(key, slice):
            return self._counts.pairs(0, self._counts.rules)[key]
        slot = range(self._counts.rules)[key]
        return _named(self._counts.pairs(slot, slot + 1)[0])

    def __len__(self) -> int:
        return self._counts.rules

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._counts.pairs(0, self._counts.rules))


class Snapshot(Reading, _PerRule):
    """The counters of a table at one moment: a sequence of (packets, bytes), one slot for each rule. It never changes.

    Slots are in the kernel's order. An index returns `Counters`, a loop plain tuples; `snapshot["INPUT"]` is the
    `ChainCounters` of a chain. `generation` is the same number as long as rules, chains and policies are the same.
    `time` is (monotonic clock, wall clock), in seconds. A snapshot can be pickled.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        _layout: Layout

        @overload
        def __getitem__(self, key: int) -> Counters: ...
        @overload
        def __getitem__(self, key: slice) -> list[Pair]: ...
        @overload
        def __getitem__(self, key: str) -> ChainCounters: ...
        def __getitem__(self, key: int | slice | str) -> Any: ...

    def __reduce__(self) -> tuple[object, ...]:
        return Snapshot, (self._counts, self._layout, self._policies, *self.time)

    @property
    def generation(self) -> int:
        """A number for the ruleset without its counters: equal rulesets have equal numbers."""
        return self._layout.generation

    @property
    def chains(self) -> list[ChainCounters]:
        """A list of `ChainCounters`: builtin chains first, in hook order."""
        if self._chains is None:
            policies = iter(self._policies)
            self._chains = [
                ChainCounters(
                    self._counts, name, policy, None if policy is None else _named(next(policies)), range(first, end)
                )
                for name, policy, first, end in self._layout.chains
            ]
        return self._chains[:]

    def as_dict(self) -> dict[str, list[Pair]]:
        """Return {chain: [(packets, bytes), …]}: the fastest way to get all counters as Python integers."""
        return self._counts.by_chain(self._layout.chains)

    @property
    def rules(self) -> tuple[RuleInfo, ...]:
        """A tuple with a `RuleInfo` for each slot. Rules are decoded at the first use, once for each generation.

        Raises `Conflict` if they were not decoded before the reader read another generation.
        """
        return self._layout.rules(self._reader)

    def _chain(self, number: int) -> ChainCounters:
        return (self._chains or self.chains)[number]

    def since(self, previous: Snapshot) -> Delta:
        """Return the `Delta` from *previous* to this snapshot.

        A rule is recognized by its content, also if it was moved within its chain. Equal rules of a chain are taken in
        their order.
        """
        if not isinstance(previous, Snapshot):
            raise ParameterTypeError(f"since() takes a Snapshot, not {type(previous).__name__}")
        if previous._layout.nfproto != self._layout.nfproto:
            raise ParameterError("these are snapshots of different families")
        counts, flags = self._counts.since(previous._counts, self.places_in(previous))
        return Delta(counts, flags, self._layout, self.time[0] - previous.time[0])

    def places_in(self, previous: Snapshot) -> _bytes | None:
        """Return the slot that each rule had in *previous*: bytes of int32, -1 for a rule that was not there.

        None says that each rule has the same slot as before.
        """
        return None if self._layout is previous._layout else self._layout.slots_in(previous._layout)

    def __repr__(self) -> str:
        return f"<iptc.Snapshot {len(self)} rules in {len(self._layout.chains)} chains>"


class Delta(_PerRule):
    """What was counted between two snapshots: one slot for each rule of the later one. No number is negative.

    `delta["INPUT"]` is a list with the (packets, bytes) of each rule of a chain.
    """

    __slots__ = ("_counts", "_layout", "_flags", "seconds")

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, key: int) -> Counters: ...
        @overload
        def __getitem__(self, key: slice) -> list[Pair]: ...
        @overload
        def __getitem__(self, key: str) -> list[Pair]: ...
        def __getitem__(self, key: int | slice | str) -> Any: ...

    RESET = 1
    NEW = 2

    def __init__(self, counts: Counts, flags: bytes, layout: Layout, seconds: float) -> None:
        self._counts = counts
        self._flags = flags
        self._layout = layout
        self.seconds = seconds

    def __reduce__(self) -> tuple[object, ...]:
        return Delta, (self._counts, self._flags, self._layout, self.seconds)

    @property
    def flags(self) -> _bytes:
        """One byte for each rule: 0, `RESET` or `NEW`.

        `RESET`: a counter was lower than before, so only what was counted after the reset is known. `NEW`: the earlier
        snapshot did not have the rule.
        """
        return self._flags

    @property
    def resets(self) -> list[int]:
        """The slots of the rules whose counters were reset between the two snapshots."""
        return [slot for slot, flag in enumerate(self._flags) if flag == self.RESET]

    @property
    def rates(self) -> list[tuple[float, float]]:
        """A list of (packets per second, bytes per second), one for each rule."""
        if self.seconds <= 0:
            return [(0.0, 0.0)] * len(self)
        return [(packets / self.seconds, size / self.seconds) for packets, size in self]

    def after(self, earlier: Delta) -> Delta:
        """Return the `Delta` of *earlier* and this one together. This one must begin where *earlier* ends.

        A rule that was deleted in between is not in it. A rule is `RESET` if it is in one of the two.
        """
        slots = None if self._layout is earlier._layout else self._layout.slots_in(earlier._layout)
        counts = self._counts.with_aside(earlier._counts, slots)
        flags = self._flags
        if any(earlier._flags):
            places = range(len(self)) if slots is None else memoryview(slots).cast("i")
            flags = bytes(
                flag if flag or place < 0 else earlier._flags[place] for flag, place in zip(self._flags, places)
            )
        return Delta(counts, flags, self._layout, self.seconds + earlier.seconds)

    def _chain(self, number: int) -> list[Pair]:
        _, _, first, end = self._layout.chains[number]
        return self._counts.pairs(first, end)

    def __repr__(self) -> str:
        return f"<iptc.Delta {len(self)} rules over {self.seconds:.3f} s>"
