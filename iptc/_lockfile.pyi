"""What `_lockfile` gives to the rest of the package."""

from types import TracebackType

class LockFile:
    """An open lock file, and the lock on it (`flock`). Both are released when the object is deleted."""

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
    """The base class of context managers that hold lock files. The end of the `with` statement is C code.

    So the handler of a signal runs before that code, or after everything is released.
    """

    _file: LockFile | None
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None: ...
    def _drop(self) -> None: ...
