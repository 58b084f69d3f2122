"""What `bpf.legacy` gives to the rest of the package."""

from .finder import Finder
from .window import Window

def prepare(window: Window) -> None: ...

class LegacyFinder(Finder):
    """Finds where the counters of a legacy table are."""

    info: int
    def __init__(self, window: Window, nfproto: int, table: str, descriptor: int) -> None: ...
