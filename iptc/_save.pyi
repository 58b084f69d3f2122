"""What `_save` gives to the rest of the package."""

from ._blob import TableBlob


def save_rules(table: TableBlob, counters: bool, head: bytes, foot: bytes) -> str: ...
