"""What `_nftload` gives to the rest of the package."""

from ._netlink import Batch
from ._restore import Run

def append_run(batch: Batch, table: bytes, chain: bytes, run: Run) -> int: ...
