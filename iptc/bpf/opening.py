"""Opens the eBPF source of a table's counters, or says why that cannot be."""

from __future__ import annotations

# now: once there is no descriptor left, no module can be imported
from .legacy import LegacyFinder
from .nft import NftFinder
from .scan import BpfScan
from .window import Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._types import Family
    from .finder import Finder


def open_source(scan: Any, nfproto: Family, table: str, side: str, falls_back: bool, period: float) -> BpfScan:
    """Return a scan that reads by eBPF what *scan* reads by its socket. With *falls_back*, it does as *scan* does where
    that cannot be.

    Raises `Unsupported` or `KernelError` otherwise. *side* is "legacy" or "nft"; *period* is the seconds between two
    comparisons with *scan*.
    """
    return BpfScan(scan, lambda: _open(scan, nfproto, table, side), falls_back, period)


def _open(scan: Any, nfproto: Family, table: str, side: str) -> tuple[Window, Finder]:
    # what the kernel refuses first is the reason
    window = Window()
    finder = NftFinder if side == "nft" else LegacyFinder
    return window, finder(window, nfproto, table, scan.fileno())
