"""What `bpf.handing` gives to the rest of the package."""

from typing import Any

from .copies import Copies
from .kernel import Descriptor
from .net import Net

ARRAY: int

class Sealed(Descriptor):
    """A file in memory that never changes again."""

    def __init__(self, content: bytes) -> None: ...

class Handing:
    """The maps, programs and files that are made for one receiver."""

    def __init__(self, copies: Copies, home: Net, owners: bytes | None) -> None: ...

def hand_over(
    copies: Copies,
    home: Net,
    owners: bytes | None,
    said: dict[str, Any],
    identities: bytes,
    texts: list[Any],
    descriptors: list[int],
) -> None: ...
