"""What annotations are called that stand in several modules. Type checkers load it, and nothing else does."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol


class HasFileno(Protocol):
    """What has an open descriptor."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


class Readable(Protocol):
    """A file that is open, whether it gives text or bytes."""

    def read(self, size: int, /) -> str | bytes:
        """The next piece of it, empty at its end."""
        ...


Family = int
"""AF_INET (2) or AF_INET6 (10)."""

Netns = str | int | HasFileno | None
Wait = float | Literal[False] | None
LockFile = str | bytes | os.PathLike[str] | os.PathLike[bytes] | Literal[False] | None
Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Source = str | bytes | bytearray | memoryview | os.PathLike[str] | os.PathLike[bytes] | Readable
Pair = tuple[int, int]

Value = str | Iterable[str]
"""The value of an option as it is set: one word, or several."""

RuleDict = Mapping[str, Any]
"""A rule of `iptc.easy`."""
