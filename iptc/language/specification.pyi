"""What `language.specification` gives to the rest of the package."""

from collections.abc import Iterable
from typing import TypeVar

from .._core import RuleValue

R = TypeVar("R", bound=RuleValue)

# ----------------------------------------------------------- a rule specification

def read_rule(cls: type[R], specification: str | Iterable[str]) -> R: ...
