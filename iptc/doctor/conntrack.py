"""How full the table of connections is."""

from __future__ import annotations

from .finding import ERROR, INFO, WARNING, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._netns import Namespace

_FOLDER = "/proc/sys/net/netfilter"
_NEARLY, _FULL = 0.8, 0.95


def of_place(there: Namespace) -> Iterator[Finding]:
    """Yield findings about the connection tracking table of the namespace *there*."""
    count, most = (_number(there, name) for name in ("nf_conntrack_count", "nf_conntrack_max"))
    if count is None or most is None:
        yield Finding(INFO, "This kernel tracks no connections here (nf_conntrack is not loaded, or may not be seen).")
        return
    yield judged(count, most)
    dropped = _dropped(there)
    if dropped:
        text = f"{dropped} packets were dropped since the boot because the table of connections was full."
        yield Finding(WARNING, text, "Raise net.netfilter.nf_conntrack_max; look for what opens them: conntrack -L")


def judged(count: int, most: int) -> Finding:
    """Return the `Finding` for *count* connections with the limit *most*; 0 means no limit."""
    text = (
        f"{count} of {most} connections are tracked ({count / most:.0%})"
        if most
        else f"{count} connections are tracked"
    )
    do = f"Raise it: sysctl -w net.netfilter.nf_conntrack_max={2 * most}; or look for what opens them: conntrack -L"
    if most and count >= _FULL * most:
        return Finding(ERROR, f"{text}: the table is full, and packets of new connections are dropped.", do)
    if most and count >= _NEARLY * most:
        return Finding(WARNING, f"{text}: the table is nearly full.", do)
    return Finding(INFO, f"{text}.")


def _number(there: Namespace, name: str) -> int | None:
    try:
        return int(there.read_file(f"{_FOLDER}/{name}".encode()))
    except (OSError, ValueError):
        return None


def _dropped(there: Namespace) -> int:
    """Return how many packets were dropped because the table was full, summed over the kernel's rows for each
    processor."""
    try:
        head, *rows = there.read_file(b"/proc/thread-self/net/stat/nf_conntrack").decode().splitlines()
        place = head.split().index("drop")
        return sum(int(row.split()[place], 16) for row in rows)
    except (OSError, ValueError, IndexError):
        return 0
