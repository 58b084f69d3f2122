"""Tests whether this process can read counters with eBPF on this host. Nothing of the test stays in the kernel."""

from __future__ import annotations

from ..errors import IPTCError


def why_not(side: str) -> str:
    """Return why this process cannot read counters of *side*, "legacy" or "nft", with eBPF, or "" if it can."""
    from .legacy import prepare
    from .window import Window

    try:
        window = Window()
        if side == "legacy":
            prepare(window)
    except (IPTCError, OSError) as error:
        return str(error)
    return ""
