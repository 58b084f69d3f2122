"""One chain of a table while a batch of nf_tables is made."""

from __future__ import annotations

from .._rope import Row, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..language.program import Run
    from ..model.views import ChainView


class ChainPlan:
    """One chain while a batch is made. A rule that the kernel has is known by its handle, one that this batch makes is
    a `Row`."""

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

    def __init__(self, name: str, label: bytes, policy: str | None, handle: int, hook: Any, rules: Any = None) -> None:
        self.name = self.old_name = name
        self.label = label
        self.policy = policy
        self.handle = handle
        self.hook = hook
        self.view: ChainView | None = None
        """A `ChainView` of the rules, kept in step with them once one was needed."""
        self._rules = None if rules is None else Sequence(rules)
        self._head: list[Any] = []
        self._tail: list[Any] = []
        self._runs: list[tuple[int, Run]] = []

    @property
    def rules(self) -> Any:
        """All of them: handles and `Row`s; None if the kernel's are not known."""
        self._settle()
        return self._rules

    def _settle(self) -> None:
        """Take apart what was noted as a whole."""
        runs, self._runs = self._runs, []
        for first, run in runs:
            for number, (_, entry) in enumerate(run.rules()):
                (self._tail if self._rules is None else self._rules).append(Row(entry, first + number))

    def load(self, handles: list[int]) -> None:
        """Take the *handles* that the kernel has, around which the rules of this batch stand."""
        self._rules = Sequence(self._head[::-1] + handles + self._tail)
        self._head, self._tail = [], []

    def append(self, row: Row) -> None:
        """Note a rule at the end."""
        rules = self.rules
        (self._tail if rules is None else rules).append(row)
        if self.view is not None:
            self.view.append(row.entry)

    def append_run(self, first: int, run: Run) -> None:
        """Note the rules of *run* at the end, made by message *first* and those that follow."""
        self._runs.append((first, run))

    def insert(self, position: int, row: Row) -> None:
        """Note a rule at *position*, of rules that are known, or at the head."""
        rules = self.rules
        if rules is None:
            self._head.append(row)
        else:
            rules.insert(position, row)
        if self.view is not None:
            self.view.insert(position, row.entry)

    def replace(self, position: int, row: Row) -> None:
        """Note a rule in the place of another."""
        self.rules[position] = row
        if self.view is not None:
            self.view.replace(position, row.entry)

    def delete(self, position: int) -> Any:
        """Note that a rule is gone, and return it."""
        if self.view is not None:
            self.view.delete(position)
        return self.rules.pop(position)

    def clear(self) -> None:
        """Note that there are no rules."""
        self._rules = Sequence()
        self._head, self._tail, self._runs = [], [], []
        self.view = None

    def new_rules(self) -> Any:
        """The rules that this batch makes."""
        self._settle()
        return [rule for rule in self._head + self._tail + list(self._rules or ()) if not isinstance(rule, int)]
