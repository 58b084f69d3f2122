"""Tests whether counters can be read with eBPF on this host. The test leaves nothing in the kernel."""

from __future__ import annotations

from ..errors import IPTCError


def why_not() -> str:
    """Return why this process cannot load the programs that read counters, or "" if it can."""
    from . import kernel
    from .shipped import load
    from .window import Window

    try:
        freed = kernel.Map(kernel.ARRAY, 16, 1, True)
        kernel.Trace(load("free_percpu", {"freed": freed}), "percpu_free_percpu").close()
        Window()
    except (IPTCError, OSError) as error:
        return str(error)
    return ""
