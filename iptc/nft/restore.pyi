"""What `nft.restore` gives to the rest of the package."""

from .._netlink import Batch
from ..language.restored_text import Run

def append_run(batch: Batch, table: bytes, chain: bytes, run: Run) -> int: ...
