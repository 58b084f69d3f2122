"""The rules of a chain in a new order, as messages of a batch: one for each rule that moves, or the whole chain
again."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..model.arranging import Arrangement


_STEPS_MOST = 100_000_000
"""How many rules the kernel may walk over to find those that messages name. If it is more, the whole chain is
written."""


class ArrangesByMessages:
    """A handle that plans one message after the other: `TablePlan` is one."""

    current: Callable[[str, list[int]], dict[int, bytes]]
    flush: Callable[[str], None]
    append: Callable[[str, bytes], None]
    insert: Callable[[str, bytes, int], None]
    replace: Callable[[str, bytes, int], None]
    delete: Callable[[str, int], None]

    def rearrange(self, arrangement: Arrangement) -> None:
        """Give the chain of *arrangement* its new rules, with the messages that are least work for the kernel."""
        length = arrangement.length
        kept = length - sum(end - start for start, end, _, _ in arrangement.hunks)
        # for each message that names a rule, the kernel walks over the chain from its first rule to that one
        steps = sum(
            (end - start) * end + (new_end - new_start) * (end if end < length else 0)
            for start, end, new_start, new_end in arrangement.hunks
        )
        if length and (steps > _STEPS_MOST or not kept and not arrangement.moved):
            self._make_anew(arrangement)
        else:
            self._edit_each(arrangement)

    def _make_anew(self, arrangement: Arrangement) -> None:
        """Empty the chain and append its new rules. Rules that stay keep the counters that the kernel has now."""
        order = arrangement.order()
        old = [position for position in order if isinstance(position, int)]
        current = self.current(arrangement.chain, old) if old else {}
        self.flush(arrangement.chain)
        for rule in order:
            self.append(arrangement.chain, current[rule] if isinstance(rule, int) else rule)

    def _edit_each(self, arrangement: Arrangement) -> None:
        """Insert, replace and delete rules from the last to the first, so that those before keep their numbers."""
        chain, moved, changed = arrangement.chain, arrangement.moved, arrangement.changed
        current = self.current(chain, list(moved.values())) if moved else {}
        for start, end, new_start, new_end in reversed(arrangement.hunks):
            at, run_end = end, new_end
            for position in [*reversed(range(new_start, new_end)), None]:
                if position is not None and position not in changed:
                    continue
                stop, keep = (new_start, start) if position is None else (position + 1, changed[position] + 1)
                # all new rules of this run are inserted before the same old rule
                for number, new in enumerate(range(stop, run_end)):
                    entry = current[moved[new]] if new in moved else arrangement.entry(new)
                    self.insert(chain, entry, at + number)
                for old in reversed(range(keep, at)):
                    self.delete(chain, old)
                if position is not None:
                    at, run_end = keep - 1, position
                    self.replace(chain, arrangement.entry(position), at)
