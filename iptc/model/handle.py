"""The verbs that every handle must have. Only type checkers load this module."""

from __future__ import annotations

from typing import Protocol

from ..language.restored_text import RestoredTable, Run

_Counters = tuple[int, int]


class Handle(Protocol):
    """A table that can be edited: a `View`, a draft, libiptc's handle, or the plan of a batch. See `model.edits`.

    Positions count from 0. A verb that fails raises `OSError` with an errno.
    """

    line: int | None
    """The line of the restored text that is being carried out, or None."""

    # the verbs of edits

    def append(self, chain: str, entry: bytes, /) -> None:
        """`iptables -A`."""
        ...

    def insert(self, chain: str, entry: bytes, position: int, /) -> None:
        """`iptables -I`."""
        ...

    def replace(self, chain: str, entry: bytes, position: int, /) -> None:
        """`iptables -R`."""
        ...

    def delete(self, chain: str, position: int, /) -> None:
        """`iptables -D`, by number."""
        ...

    def flush(self, chain: str, /) -> None:
        """`iptables -F CHAIN`."""
        ...

    def zero(self, chain: str, /) -> None:
        """`iptables -Z CHAIN`."""
        ...

    def zero_rule(self, chain: str, position: int, /) -> None:
        """`iptables -Z CHAIN NUMBER`."""
        ...

    def create_chain(self, chain: str, /) -> None:
        """`iptables -N`."""
        ...

    def delete_chain(self, chain: str, /) -> None:
        """`iptables -X CHAIN`."""
        ...

    def rename_chain(self, chain: str, new: str, /) -> None:
        """`iptables -E`."""
        ...

    def set_policy(self, chain: str, policy: str, counters: _Counters | None = None, /) -> bool:
        """`iptables -P`, and the counters if they are given. Return whether any of them differed."""
        ...

    # verbs that only restored texts use

    def begin(self, restored: RestoredTable, /) -> None:
        """Delete all rules and all user chains, unless *restored* keeps them."""
        ...

    def take(self, rule: Run, /) -> bytes:
        """Return the bytes of a rule. Raises if it cannot jump where it does."""
        ...

    def append_run(self, run: Run, /) -> None:
        """Append the rules of commands `-A` that follow each other. `line` counts on."""
        ...

    def locate(self, chain: str, rule: Run, /) -> int:
        """Return the position of the first rule that is the same as *rule*, or raise `OSError` (ENOENT)."""
        ...

    def policy_of(self, chain: str, /) -> str | None:
        """Return the policy of a chain, "" for a user chain, None if there is no such chain."""
        ...

    def chain_names(self, of_users: bool, /) -> list[str]:
        """Return the names of all chains, or with *of_users* of the user chains."""
        ...
