"""Loads the BPF programs of program.bin into the kernel."""

from __future__ import annotations

import functools

from . import image, kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .kernel import Map, Program

_read = functools.cache(image.read)  # kept, since the file of the package does not change


def load(name: str, given: dict[str, Map]) -> Program:
    """Load the program *name*. *given*: {name: map}, the maps that it uses. Raises `Unsupported` with the reason."""
    shipped = _read()
    text = shipped.programs[name]
    kind = kernel.SYSCALL if text.kind == "syscall" else kernel.RAW_TRACEPOINT
    types = kernel.ProgramTypes(shipped.types)
    try:
        return kernel.Program(name, kind, text.code, types, text.functions, text.maps, given)
    finally:
        types.close()
