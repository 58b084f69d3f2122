"""What `bpf.copies` gives to the rest of the package."""

from .window import Window

ARRAY: int
MOST_MEMORY: int
PIECE: int

class Copies:
    """The copies of one table's counters, and their sums."""

    def __init__(self, window: Window) -> None: ...
