"""What `bpf.kernel` gives to the rest of the package."""

from collections.abc import Iterable
from typing import Self

ARRAY: int
PERCPU_ARRAY: int
SYSCALL: int
RAW_TRACEPOINT: int
RAW_TRACEPOINT_LINK: int

class Descriptor:
    """An object of bpf(2), by its descriptor."""

    @classmethod
    def of(cls, descriptor: int) -> Self: ...
    def names(self) -> tuple[int, str, str]: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...

class Map(Descriptor):
    """An array in the kernel."""

    kind: int
    value_size: int
    entries: int
    def __init__(self, kind: int, value_size: int, entries: int, mapped: bool = False, name: str = "iptc") -> None: ...
    @classmethod
    def from_descriptor(cls, descriptor: int) -> Map: ...
    def read(self, key: int) -> bytes: ...
    def write(self, key: int, value: bytes) -> None: ...

def possible_processors() -> list[int]: ...

class ProgramTypes(Descriptor):
    """The types of a program's functions in the kernel."""

    def __init__(self, types: bytes) -> None: ...

class Program(Descriptor):
    """A BPF program, which the kernel has checked and loaded."""

    def __init__(
        self,
        name: str,
        kind: int,
        code: bytes,
        types: ProgramTypes | None = None,
        functions: bytes = b"",
        maps: Iterable[tuple[int, str, bool, int]] = (),
        given: dict[str, Map] | None = None,
    ) -> None: ...
    @classmethod
    def from_descriptor(cls, descriptor: int) -> Program: ...
    def run(self, context: bytearray) -> int: ...

class TracepointLink(Descriptor):
    """Lets a BPF program run at a tracepoint."""

    def __init__(self, program: Program, tracepoint: str) -> None: ...
    @classmethod
    def from_descriptor(cls, descriptor: int) -> TracepointLink: ...
