"""What `_draftrestore` gives to the rest of the package."""

from ._draft import Draft
from ._restore import Program


def run(program: Program, draft: Draft) -> None: ...
