"""The types that annotations of several modules share. Only type checkers load this module."""

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Literal, Protocol


class HasFileno(Protocol):
    """An object with an open descriptor, such as a file."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


class HasEntries(Protocol):
    """A reader of counters: what may be asked for the rules of a ruleset that it has read."""

    def _entries(self, generation: int) -> list[bytes]: ...


class Readable(Protocol):
    """An open file, of text or of bytes."""

    def read(self, size: int, /) -> str | bytes | None:
        """Return the next piece; it is empty at the end, and None if there is none yet."""
        ...


Family = int
"""AF_INET (2) or AF_INET6 (10)."""

Netns = str | int | HasFileno | None
Wait = float | Literal[False] | None
LockFile = str | bytes | os.PathLike[str] | os.PathLike[bytes] | Literal[False] | None
Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Source = str | bytes | bytearray | memoryview | os.PathLike[str] | os.PathLike[bytes] | Readable
Pair = tuple[int, int]


class Mutex(Protocol):
    """A lock for threads: `threading.RLock`."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it. Return whether it was taken."""
        ...

    def release(self) -> None:
        """Release it."""
        ...

    def __enter__(self) -> object: ...
    def __exit__(self, *exc: object) -> None: ...
    def _is_owned(self) -> bool: ...


Lock = AbstractContextManager[object]
"""What holds a lock in a `with` statement."""

Chains = tuple[tuple[str, str | None, int, int], ...]
"""The chains of a table: (name, policy or None, first slot, end slot) of each."""

Value = str | Iterable[str]
"""The value of an option as it is set: one word, or several."""

Condition = tuple[Family, int, bytes, bytes]
"""What a packet must be that is traced: (family, hook, expressions of nf_tables, what stands beside them in a rule)."""

RuleDict = Mapping[str, object]
"""A rule of `iptc.easy`."""
