"""Whether this process can read counters with eBPF."""

from __future__ import annotations

from ..bpf.possible import why_not
from .finding import INFO, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def of_ebpf() -> Iterator[Finding]:
    """Yield one finding: for each back end, that it is possible or why not. It is never a warning, since everything
    works without eBPF."""
    reason = why_not("nft")
    if reason:
        yield Finding(INFO, f"Counters cannot be read with eBPF here: {reason}.")
        return
    of_legacy = why_not("legacy")
    if of_legacy:
        yield Finding(
            INFO,
            "Counters of nf_tables can be read with eBPF here (--source bpf), those of legacy tables cannot: "
            f"{of_legacy}.",
        )
    else:
        yield Finding(INFO, "Counters can be read with eBPF here (--source bpf).")
