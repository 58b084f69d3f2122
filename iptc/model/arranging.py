"""The rules of one chain in a new order, with new rules between them: what a plan asks a handle to do to a chain."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Arrangement:
    """How the rules of a chain become others.

    *length* is how many rules the chain has. *hunks* are (start, end, new start, new end): the rules from *start* to
    *end* give way to those that are to stand from *new start* to *new end*. Of these, *moved* says which are there
    already (new position -> old position), and *changed* which take the place of another rule. All others are new.
    entry(position) returns the bytes of the rule that is to stand at a new position.
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

    arrange: Any

    def rearrange(self, arrangement: Arrangement) -> None:
        """Give the chain of *arrangement* its new rules."""
        self.arrange(arrangement.chain, arrangement.order())
