"""Opens the eBPF source of a table's counters, or says why that cannot be."""

from __future__ import annotations

from ..errors import KernelError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._types import Family


def open_source(scan: Any, nfproto: Family, table: str, side: str, falls_back: bool, period: float) -> tuple[Any, str]:
    """Return (a scan that reads what *scan* does by eBPF, ""), or with *falls_back* (*scan*, why it cannot be so).

    Raises `Unsupported` otherwise. *side* is "legacy" or "nft"; *period* is the seconds between two comparisons with
    *scan*.
    """
    try:
        return _open(scan, nfproto, table, side, falls_back, period), ""
    except (Unsupported, KernelError) as refusal:
        if falls_back:
            return scan, str(refusal)
        if isinstance(refusal, Unsupported):
            raise Unsupported(f"can't read the counters with eBPF: {refusal}") from None
        raise


def _open(scan: Any, nfproto: Family, table: str, side: str, falls_back: bool, period: float) -> Any:
    # what the kernel refuses first is the reason
    from .window import Window

    window = Window()
    if side != "nft":
        raise Unsupported("only tables of nf_tables are read so")
    from .nft import NftFinder
    from .scan import BpfScan

    return BpfScan(scan, window, NftFinder(window, nfproto, table, scan.fileno()), falls_back, period)
