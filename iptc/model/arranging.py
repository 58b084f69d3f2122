"""Describes a new order of the rules of one chain, with new rules between them. A plan passes it to a handle."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Arrangement:
    """The change from the old rules of a chain to the new ones.

    *length* is how many rules the chain has. *hunks* are (start, end, new start, new end): the new rules from *new
    start* to *new end* replace the old rules from *start* to *end*. *moved* and *changed* map new positions to old
    ones: a moved rule is an old rule in another place, and a changed rule replaces the old rule. All other rules of the
    hunks are new. entry(position) returns the bytes of the rule for a new position.
    """

    def __init__(
        self,
        chain: str,
        length: int,
        hunks: list[tuple[int, int, int, int]],
        moved: dict[int, int],
        changed: dict[int, int],
        entry: Callable[[int], bytes],
    ) -> None:
        self.chain = chain
        self.length = length
        self.hunks = hunks
        self.moved = moved
        self.changed = changed
        self.entry = entry

    def order(self) -> list[int | bytes]:
        """Return the rules as they are to be: the position of each that is there, and the bytes of each new one."""
        order: list[int | bytes] = []
        at = 0
        for start, end, new_start, new_end in self.hunks:
            order += range(at, start)
            order += [
                self.moved[position] if position in self.moved else self.entry(position)
                for position in range(new_start, new_end)
            ]
            at = end
        order += range(at, self.length)
        return order


class ArrangesAtOnce:
    """A handle that has a verb `arrange(chain, order)`, and that knows no generations of the ruleset."""

    def is_at(self, generation: int) -> bool:
        """Return False: only nf_tables can say that the ruleset is still the one of *generation*."""
        return False

    arrange: Callable[[str, list[int | bytes]], None]

    def rearrange(self, arrangement: Arrangement) -> None:
        """Give the chain of *arrangement* its new rules."""
        self.arrange(arrangement.chain, arrangement.order())
