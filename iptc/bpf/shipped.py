"""The programs that the package ships, given to the kernel with the maps that they take."""

from __future__ import annotations

import functools

from . import image, kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .kernel import Map, Program

_read = functools.cache(image.read)  # of the package's own file, which does not change


def load(name: str, given: dict[str, Map]) -> Program:
    """Load the program *name* with the maps that are *given* by name. Raises `Unsupported` and says why not."""
    shipped = _read()
    text = shipped.programs[name]
    kind = kernel.SYSCALL if text.kind == "syscall" else kernel.RAW_TRACEPOINT
    types = kernel.ProgramTypes(shipped.types)
    try:
        return kernel.Program(name, kind, text.code, types, text.functions, text.maps, given)
    finally:
        types.close()
