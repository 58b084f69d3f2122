"""Whether counters can be read with eBPF here: it is tried, and nothing stays."""

from __future__ import annotations

from ..errors import IPTCError


def why_not() -> str:
    """Return why this process cannot give the kernel what reads counters, "" if it can."""
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
