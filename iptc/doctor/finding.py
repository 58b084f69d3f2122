"""One thing that was found out about the host, and how serious it is."""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

INFO, WARNING, ERROR = "info", "warning", "error"
LEVELS = (INFO, WARNING, ERROR)
"""The levels, from the least to the most serious one."""


Finding = namedtuple("Finding", "level text do", defaults=[""])
Finding.__doc__ = """How serious it is, a sentence, and what to do about it, "" for nothing."""


def message_of(error: BaseException | str | None) -> str:
    """Return the message of *error*, as the end of a sentence."""
    return str(error) or type(error).__name__


def listed(names: Iterable[str]) -> str:
    """Return *names* as text: `a, b and c`."""
    *some, last = names
    return f"{', '.join(some)} and {last}" if some else last
