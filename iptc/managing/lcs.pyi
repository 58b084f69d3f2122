"""What `managing.lcs` gives to the rest of the package."""

from typing import Any

BOUND: int

def blocks(one: Any, other: Any, bound: int | None = None) -> list[tuple[int, int, int]]: ...
