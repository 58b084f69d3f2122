"""What `_lockfile` gives to the rest of the package."""

from types import TracebackType
from typing import Any

class LockFile:
    """A lock file that is open, and the lock on it (`flock`): both go with the object."""

    def __init__(self, path: bytes, create: bool = False) -> None: ...
    @property
    def locked(self) -> bool: ...
    @property
    def file(self) -> tuple[int, int]: ...
    def fileno(self) -> int: ...
    def take(self, shared: bool, wait: bool) -> bool: ...
    def release(self) -> None: ...
    def close(self) -> None: ...

class Holder:
    """What holds a lock file, or others that hold one, in a `with` statement. The end of the statement is C: a signal
    handler runs before it, or once nothing is held any more."""

    _file: Any
    _locks: Any
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None: ...
    def _drop(self) -> None: ...
