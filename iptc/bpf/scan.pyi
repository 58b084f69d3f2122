"""What `bpf.scan` gives to the rest of the package."""

from collections.abc import Callable
from typing import Any

from .._counts import Counts, Scan
from .finder import Finder
from .window import Window

PATIENCE: float
FIRST_WAIT: float
LONGEST_WAIT: float

class BpfScan(Scan):
    """Reads the counters of one table by eBPF where that is possible, and else by the socket."""

    source: str
    source_reason: str
    followed: int
    def __init__(
        self, socket: Any, opener: Callable[[], tuple[Window, Finder]], falls_back: bool, period: float
    ) -> None: ...
    @property
    def closed(self) -> bool: ...
    def hand_over(self, digest: int, said: dict[str, Any], texts: list[Any], made: list[int]) -> None: ...
    def rely_on(self, counts: Counts | None) -> None: ...
    def with_aside(self, counts: Counts, policies: list[tuple[int, int]]) -> tuple[Counts, list[tuple[int, int]]]: ...
