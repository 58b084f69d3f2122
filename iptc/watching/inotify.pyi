"""What `watching.inotify` gives to the rest of the package."""

OPENED: int
CLOSED: int
GONE: int
MADE: int
LOST: int

class Inotify:
    """An inotify descriptor. It is closed when the object is deleted."""

    def fileno(self) -> int: ...
    def add(self, path: bytes, mask: int) -> int: ...
    def read(self) -> list[tuple[int, int, bytes]]: ...
    def close(self) -> None: ...
