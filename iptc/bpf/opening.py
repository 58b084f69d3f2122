"""Opens the eBPF source of a table's counters, or says why that is impossible."""

from __future__ import annotations

import errno

from ..errors import KernelError

# imported now: when the process has no free descriptor, an import fails
from .btf import KeepTypes
from .legacy import LegacyFinder
from .nft import NftFinder
from .scan import BpfScan
from .window import Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._types import Family
    from ..legacy.blob import TableScan
    from ..nft.reader import NftScan
    from .finder import Finder


def open_source(
    scan: TableScan | NftScan, nfproto: Family, table: str, side: str, falls_back: bool, period: float
) -> BpfScan:
    """Return a scan that reads by eBPF the same table that *scan* reads by its socket.

    If eBPF cannot be used, it reads by *scan* with *falls_back*, and raises `Unsupported` or `KernelError` without.
    *side* is "legacy" or "nft". *period*: the seconds between two comparisons with *scan*.
    """
    return BpfScan(scan, lambda: _open(scan, nfproto, table, side), falls_back, period)


def _open(scan: TableScan | NftScan, nfproto: Family, table: str, side: str) -> tuple[Window, Finder]:
    descriptor = scan.fileno()
    if descriptor < 0:
        raise KernelError(
            "this reader is closed: the process has closed its socket", errno.EBADF, "Bad file descriptor"
        )
    # the window first: if the kernel takes no BPF programs at all, that is the reason to give
    with KeepTypes():
        window = Window()
        finder = NftFinder if side == "nft" else LegacyFinder
        return window, finder(window, nfproto, table, descriptor)
