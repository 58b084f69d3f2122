"""Records the way of each packet of a bench. All packets in its namespace are traced, and the kernel reports a packet
before it has finished with it."""

from __future__ import annotations

import errno
import select

from .. import _core
from ..errors import KernelError, Unsupported
from ..tracing.gathering import Gatherer
from ..tracing.legacy_reports import LegacyReports
from ..tracing.lookup import LegacyRules, NftRules
from ..tracing.mark import MarkTable, everything
from ..tracing.nft_reports import NftReports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from ..namespace import Place
    from ..tracing.steps import Packet

    _Kept = TypeVar("_Kept")

_FAMILIES = (_core.IPV4, _core.IPV6)

NO_NFT = (
    "the bench needs nf_tables to see which rules take a packet, with legacy tables too: this kernel has it not, or not"
    " the modules nf_tables and nf_tables_ipv4 (modprobe nf_tables); a kernel of 5.12 or newer has all"
)


class Tracer:
    """Reads the kernel's reports of packets in *place*. *backend* is the back end of its rules."""

    def __init__(self, place: Place, backend: str) -> None:
        self._closing: list[Any] = []
        self._legacy: LegacyReports | None = None
        rules: LegacyRules | None = None
        try:
            try:
                self._table = self._keep(MarkTable(place, everything(_FAMILIES)))
            except (Unsupported, KernelError) as error:
                if isinstance(error, Unsupported) or error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOPROTOOPT):
                    raise Unsupported(f"{NO_NFT} ({error})") from None
                raise
            self._nft = self._keep(NftReports(place))
            if backend != "nft":
                rules = self._keep(LegacyRules(place))
                self._legacy = self._keep(LegacyReports(place))
            self._gatherer = self._keep(Gatherer(place, self._table.name, self._keep(NftRules(place)), rules, True))
        except BaseException:
            self.close()
            raise

    def _keep(self, made: _Kept) -> _Kept:
        self._closing.append(made)
        return made

    def close(self) -> None:
        """Close the sockets."""
        while self._closing:
            self._closing.pop().close()

    def skip(self) -> None:
        """Drop the reports of packets that nobody asked for."""
        self._nft.read()
        if self._legacy is not None:
            self._legacy.read()

    def packets(self) -> list[Packet]:
        """Return the packets that were reported since the last call. The kernel has processed all that was sent."""
        return self.whole() + self._gatherer.flush()

    def whole(self) -> list[Packet]:
        """Return the packets that were reported completely."""
        nft = self._nft.read()
        return self._gatherer.take(nft, [] if self._legacy is None else self._legacy.read())

    def wait(self, seconds: float) -> bool:
        """Wait until there is a report. Return whether there is one."""
        poll = select.poll()
        poll.register(self._nft.fileno(), select.POLLIN)
        return bool(poll.poll(seconds * 1000))
