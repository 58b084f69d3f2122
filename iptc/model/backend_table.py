"""What a table of a back end must have. Only type checkers load this module."""

from __future__ import annotations

from typing import Protocol, Self

from .._types import Lock
from ..namespace import Place
from .edits import Operation
from .views import ChainHead, View


class BackEndTable(Protocol):
    """One table of one family in one network namespace, as the back ends have it: `LegacyTable` is one.

    Higher levels use nothing else of a back end's table. *lock* is a context manager that holds the xtables lock.
    """

    @property
    def backend(self) -> str:
        """The name of the back end."""
        ...

    @property
    def nfproto(self) -> int:
        """The family."""
        ...

    @property
    def name(self) -> str:
        """The name of the table."""
        ...

    @property
    def place(self) -> Place:
        """The network namespace."""
        ...

    def read(self) -> View:
        """Return the table as it is in the kernel now."""
        ...

    def read_heads(self) -> list[ChainHead] | None:
        """Return the chains without their rules, or None if the back end reads a table only as a whole."""
        ...

    def save(self, counters: bool) -> str:
        """Return the table as text, as `iptables-save` prints it; with *counters*, as `iptables-save -c`."""
        ...

    def require(self) -> None:
        """Raise if the kernel has no such table, or refuses to let this process read it."""
        ...

    def rehearse(self, operations: list[Operation], lock: Lock) -> None:
        """Do everything that `commit` does, except to change the table."""
        ...

    def commit(self, operations: list[Operation], lock: Lock) -> None:
        """Carry out *operations* on the table as it is now: all of them or none."""
        ...

    def commit_together(self, parts: list[tuple[Self, list[Operation]]], lock: Lock) -> None:
        """Commit [(table, operations)] of several tables: all of them or none."""
        ...

    def close(self) -> None:
        """Close what is kept open. The next use opens it again."""
        ...
