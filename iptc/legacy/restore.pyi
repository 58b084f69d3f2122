"""What `legacy.restore` gives to the rest of the package."""

from .draft import Draft
from ..language.program import Program


class TableDraft(Draft):
    def restore(self, program: Program) -> None: ...


def run(program: Program, draft: Draft) -> None: ...
