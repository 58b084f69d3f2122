"""What `language.specification` gives to the rest of the package."""

from collections.abc import Iterable
from typing import TypeVar

from .._core import RuleValue

_R = TypeVar("_R", bound=RuleValue)

# ----------------------------------------------------------- a rule specification

BEGIN_OF_LINE: tuple[str, ...]

def refuse_meaningless(nfproto: int, chain: str, entry: bytes) -> None: ...
def entries_of(rule: object, nfproto: int, chain: str | None) -> list[bytes] | None: ...
def read_rule(cls: type[_R], specification: str | Iterable[str]) -> _R: ...
