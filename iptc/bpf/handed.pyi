"""What `bpf.handed` gives to the rest of the package."""

from collections.abc import Iterable

from .._counts import Scan
from .kernel import Map, Program, TracepointLink
from .parcel import Parcel

NOT_COMPARED: str

class HandedScan(Scan):
    """Reads the counters that another process has handed over."""

    source: str
    source_reason: str
    def __init__(
        self, said: Parcel, given: Map, polling: Program, pairing: Program, trace: TracepointLink | None
    ) -> None: ...
    @property
    def closed(self) -> bool: ...

def take_over(descriptors: Iterable[int]) -> tuple[HandedScan, Parcel]: ...
