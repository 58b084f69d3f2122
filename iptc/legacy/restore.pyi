"""What `legacy.restore` gives to the rest of the package."""

from collections.abc import Callable

from .draft import Draft
from ..language.program import Program, Run


class TableDraft(Draft):
    line: int | None
    def begin(self, program: Program) -> None: ...
    def take(self, rule: Run) -> bytes: ...
    def append_run(self, run: Run) -> None: ...
    def locate(self, name: str, rule: Run) -> int: ...


def checked(rule: Run, policy_of: Callable[[str], str | None]) -> bytes: ...
