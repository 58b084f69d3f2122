"""What `legacy.save` gives to the rest of the package."""

from .blob import TableBlob

def save_rules(table: TableBlob, counters: bool, head: bytes, foot: bytes) -> str: ...
