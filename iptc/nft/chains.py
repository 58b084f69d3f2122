"""One chain while a batch of nf_tables is planned: which rules the kernel has in it, and which the batch adds."""

from __future__ import annotations

from .._rope import Row, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..language.restored_text import Run
    from ..model.views import ChainView

    _Hook = tuple[int, bytes, int]
    """The hook of a base chain: (its number, the type of the chain, its priority)."""


class ChainPlan:
    """One chain while a batch is planned. A rule that the kernel has is a handle (an integer), a new one a `Row`."""

    __slots__ = (
        "name",
        "old_name",
        "label",
        "handle",
        "policy",
        "hook",
        "view",
        "_rules",
        "_head",
        "_tail",
        "_runs",
        "__weakref__",
    )

    def __init__(
        self,
        name: str,
        label: bytes,
        policy: str | None,
        handle: int,
        hook: _Hook | None,
        rules: list[int | Row] | None = None,
    ) -> None:
        self.name = self.old_name = name
        self.label = label
        self.policy = policy
        self.handle = handle
        self.hook = hook
        self.view: ChainView | None = None
        """A `ChainView` of the rules, or None. Once it is made, each edit updates it."""
        self._rules: Sequence[int | Row] | None = None if rules is None else Sequence(rules)
        self._head: list[int | Row] = []
        self._tail: list[int | Row] = []
        self._runs: list[tuple[int, Run]] = []

    @property
    def rules(self) -> Sequence[int | Row] | None:
        """All rules, as handles and `Row`s, or None if it is not known which rules the kernel has."""
        self._settle()
        return self._rules

    def known_rules(self) -> Sequence[int | Row]:
        """Return all rules. They must be known: see `load`."""
        rules = self.rules
        assert rules is not None
        return rules

    def _settle(self) -> None:
        """Turn the runs that were appended as a whole into single rows."""
        runs, self._runs = self._runs, []
        for first, run in runs:
            for number, (_, entry) in enumerate(run.rules()):
                (self._tail if self._rules is None else self._rules).append(Row(entry, first + number))

    def load(self, handles: list[int]) -> None:
        """Note the *handles* of the kernel's rules. The new rules so far stand before and behind them."""
        self._rules = Sequence(self._head[::-1] + handles + self._tail)
        self._head, self._tail = [], []

    def append(self, row: Row) -> None:
        """Add a rule at the end."""
        rules = self.rules
        (self._tail if rules is None else rules).append(row)
        if self.view is not None:
            self.view.append(row.entry)

    def append_run(self, first: int, run: Run) -> None:
        """Add the rules of *run* at the end. Message *first* makes the first of them, and so on."""
        self._runs.append((first, run))

    def insert(self, position: int, row: Row) -> None:
        """Add a rule at *position*; at the beginning if the kernel's rules are not known."""
        rules = self.rules
        if rules is None:
            self._head.append(row)
        else:
            rules.insert(position, row)
        if self.view is not None:
            self.view.insert(position, row.entry)

    def replace(self, position: int, row: Row) -> None:
        """Replace the rule at *position*."""
        self.known_rules()[position] = row
        if self.view is not None:
            self.view.replace(position, row.entry)

    def delete(self, position: int) -> int | Row:
        """Delete the rule at *position*, and return it."""
        if self.view is not None:
            self.view.delete(position)
        return self.known_rules().pop(position)

    def clear(self) -> None:
        """Delete all rules."""
        self._rules = Sequence()
        self._head, self._tail, self._runs = [], [], []
        self.view = None

    def new_rules(self) -> list[Row]:
        """Return the rules that this batch makes, as `Row`s."""
        self._settle()
        return [rule for rule in self._head + self._tail + list(self._rules or ()) if not isinstance(rule, int)]
