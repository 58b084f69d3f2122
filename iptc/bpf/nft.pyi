"""What `bpf.nft` gives to the rest of the package."""

from typing import Any

from .finder import Finder
from .window import Window

SEQUENCE: str

class Walk:
    """A walk over one table."""

    def __init__(self, window: Window, nfproto: int, table: str, descriptor: int) -> None: ...

class NftFinder(Finder):
    """Finds where the counters of a table of nf_tables are."""

    def __init__(self, window: Window, nfproto: int, table: str, descriptor: int) -> None: ...

def layout() -> dict[str, Any]:
    """Return where the kernel has what is read of nf_tables."""
