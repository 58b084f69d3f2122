"""The class `Trace`: iterates over packets as they come, each with the rules that it has matched."""

from __future__ import annotations

import errno
import os
import select
import time
import weakref

from .. import backends
from ..errors import KernelError, ParameterError, ParameterTypeError, Unsupported
from ..namespace import Place
from ..watching.stream import Stream
from .conditions import conditions_of
from .gathering import Gatherer
from .legacy_reports import LegacyReports
from .logger import Logger
from .lookup import LegacyRules, NftRules
from .mark import MarkTable
from .nft_reports import NftReports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Self, TypeVar

    from .._types import Netns
    from .steps import Packet

    _Kept = TypeVar("_Kept")

_BACKENDS = ("legacy", "nft")
_FAMILIES = (2, 10)
_QUIET = 1.0
"""Seconds without a report after which a packet is taken for lost."""

_LOOKS = 4
"""How often reports are read again directly after a change of the rules. Later packets can only have met the new
rules."""

_ABSENT = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EINVAL, errno.ENOPROTOOPT)
_NO_NFT = (
    "packets are marked by nf_tables, for legacy tables too, and this kernel does not have it, or its module is not "
    "loaded (modprobe nf_tables); -j TRACE in table raw, with xtables-monitor or the kernel's log, works without it"
)

_live: weakref.WeakSet[Trace] = weakref.WeakSet()


class Trace(Stream):
    """Yields a `Packet` for each packet that *filter* chooses, once its way is over. It works in `for` and `async for`.

    *filter* is a rule specification without a target, such as `-p tcp --dport 22 -s 198.51.100.0/24`, as text or as
    words; "" chooses all packets. It is tested where packets come in and where this host makes them: with `-i` only
    where they come in, with `-o` only where they are made. Both families are traced, unless *filter* fits only one, or
    *ipv6* selects one.

    A table of nf_tables of our own marks the packets. The kernel deletes it after `close`, or when the process ends in
    any way. No table of iptables is touched. For legacy tables (*backend* "legacy", or no *backend* if there are any),
    nfnetlink_log is the logger of the namespace meanwhile; `Conflict` is raised if another process has its group 0.
    At most *limit* packets of a family are chosen in a second, and as many at once; None chooses all. `lost` counts
    reports that came faster than they were read. Raises `AccessDenied` without CAP_NET_ADMIN.

    Packets are recorded from the beginning on. `close()` ends the loop, and any thread can call it. One loop at a time
    can use it, in the process that opened it.
    """

    if TYPE_CHECKING:

        def read(self) -> list[Packet]:
            """Return the packets whose way has ended since the last call, without waiting."""
            ...

        def wait(self, timeout: float | None = None) -> list[Packet]:
            """Wait at most *timeout* seconds for a packet whose way has ended. Return all such packets."""
            ...

        def __next__(self) -> Packet: ...

        async def __anext__(self) -> Packet: ...

    def __init__(
        self,
        filter: str | Iterable[str] = "",
        netns: Netns = None,
        backend: str | None = None,
        limit: int | None = 100,
        *,
        ipv6: bool | None = None,
    ) -> None:
        if backend not in (None, *_BACKENDS):
            raise ParameterError(f"what can be traced is {' or '.join(_BACKENDS)}, not {backend!r}")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise ParameterTypeError(f"limit must be packets a second, not {limit!r}")
        if limit is not None and not 0 < limit < 1 << 32:
            raise ParameterError(f"limit must be packets a second, more than 0, not {limit!r}")
        conditions = conditions_of(filter, ipv6)
        super().__init__()
        self._closing: list[Any] = []
        self._legacy: LegacyReports | None = None
        self._lost = 0
        try:
            place = Place(netns)
            rules: LegacyRules | None = None
            if backend == "legacy" or backend is None and _has_legacy(place):
                rules = self._keep(LegacyRules(place))
                self._legacy = self._keep(LegacyReports(place))
                self._keep(Logger(place, self._legacy.fileno()))
            try:
                nft = self._keep(NftRules(place))
            except KernelError as error:
                if error.errno not in _ABSENT:
                    raise
                raise Unsupported(f"{_NO_NFT}: {error}") from None
            self._nft = self._keep(NftReports(place))
            for source in (self._nft, nft, self._legacy, rules):
                if source is not None and source.fileno() >= 0:
                    self._poll.register(source.fileno(), select.EPOLLIN)
            mark = self._keep(MarkTable(place, conditions, limit))
            self._gatherer = self._keep(Gatherer(place, mark.name, nft, rules))
        except BaseException:
            self.close()
            raise
        _live.add(self)

    def _keep(self, made: _Kept) -> _Kept:
        self._closing.append(made)
        return made

    def __enter__(self) -> Self:
        return self

    @property
    def lost(self) -> int:
        """How many reports were lost because they came faster than they were read. Packets may lack steps, or be
        missing."""
        if not self._closed:
            self._lost = self._lost_now()
        return self._lost

    def _look(self) -> None:
        for _ in range(_LOOKS):
            self._take()
            if self._gatherer.settled:
                break
        self._found.extend(self._gatherer.flush(time.time() - _QUIET))

    def _take(self) -> None:
        legacy = [] if self._legacy is None else self._legacy.read()
        nft = self._nft.read()
        if self._legacy is not None:
            # read after those of nf_tables: so all legacy reports before the last one of nf_tables are there
            legacy += self._legacy.read()
        self._found.extend(self._gatherer.take(nft, legacy))

    def _pause(self) -> float:
        return _QUIET if self._gatherer.waits else -1

    def _close_sources(self) -> None:
        closing, self._closing = self._closing, []
        if closing:
            self._lost = self._lost_now()
        failed: BaseException | None = None
        while closing:
            try:
                closing.pop().close()
            except BaseException as error:
                failed = error
        if failed is not None:
            raise failed

    def _lost_now(self) -> int:
        sources = [source for source in (getattr(self, "_nft", None), self._legacy) if source is not None]
        return sum(source.lost for source in sources)

    def _drop_in_child(self) -> None:
        """Close the descriptors in a child after a fork: only the parent shall keep the table alive."""
        for thing in self._closing:
            thing.drop() if isinstance(thing, Logger) else thing.close()
        self._closing = []


def _has_legacy(place: Place) -> bool:
    with place.open() as there:
        return any(backends.tables_in_use(family, "legacy", there) for family in _FAMILIES)


def _drop_in_child() -> None:
    for trace in list(_live):
        trace._drop_in_child()


os.register_at_fork(after_in_child=_drop_in_child)
