"""What `monitoring.quick` gives to the rest of the package."""

from ..counters import CounterReader, Delta, Snapshot
from .samples import Sample

_Key = tuple[bool, str]
_Source = tuple[str, str]

class Span:
    """One table since the last sample that was taken: its snapshot then and now, and whether it was gone meanwhile."""

    def __init__(
        self,
        before: Snapshot | None,
        now: Snapshot | None,
        gone: bool = False,
        source: _Source = ...,
        difference: Delta | None = None,
    ) -> None: ...
    @property
    def before(self) -> Snapshot | None: ...
    @property
    def now(self) -> Snapshot | None: ...
    @property
    def gone(self) -> bool: ...
    @property
    def source(self) -> _Source: ...
    @property
    def delta(self) -> Delta | None: ...
    def followed_by(self, later: Span) -> Span: ...

class QuickPoller:
    """Polls that only read counters, since nothing else can have changed."""

    _time: float
    @property
    def _last(self) -> dict[_Key, Snapshot]: ...
    def _makes(self, sample: type[Sample], snapshot: type[Snapshot]) -> None: ...
    def _stays(self, steady: list[tuple[_Key | None, CounterReader, _Source]] | None) -> None: ...
    def quick(self) -> Sample | None: ...
