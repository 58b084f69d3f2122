"""The file program.bin, which `scripts/bpf` makes of program.c: programs as the kernel takes them."""

from __future__ import annotations

import base64
import json
import os
import sys

from ..errors import Unsupported
from .reasons import unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

PATH = os.path.join(os.path.dirname(__file__), "program.bin")
FORM = 1
"""What the file says is so written; a file of another form is refused."""

_INSTRUCTION = 8
_MOST_INSTRUCTIONS = 1_000_000


class ProgramText:
    """One program of the file: what kind it is, its instructions, its functions, and where it takes maps.

    `kind`: "syscall", or "raw_tp/" and the name of a tracepoint. `functions`: `struct bpf_func_info`, as bytes. `maps`:
    [(instruction, name, whether in its memory, offset there)].
    """

    __slots__ = ("name", "kind", "code", "functions", "maps")

    def __init__(self, name: str, kind: str, code: bytes, functions: bytes, maps: list[tuple[int, str, bool, int]]):
        self.name = name
        self.kind = kind
        self.code = code
        self.functions = functions
        self.maps = maps


class Image:
    """The programs of the file by name, and the BTF that they share; `clang` and `source` tell how it was made."""

    __slots__ = ("clang", "source", "types", "programs")

    def __init__(self, clang: str, source: str, types: bytes, programs: dict[str, ProgramText]):
        self.clang = clang
        self.source = source
        self.types = types
        self.programs = programs


def read(path: str = PATH) -> Image:
    """Return what the file says. Raises `Unsupported` if it is damaged, or is not for processors like this one."""
    if sys.byteorder != "little":
        raise Unsupported("the programs are for processors whose lowest byte comes first")
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        return _checked(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unsupported(f"{path} is not what it has to be: {error!r}") from None


def _checked(said: dict[str, Any]) -> Image:
    if said["form"] != FORM:
        raise ValueError(f"form {said['form']}")
    programs = {}
    for name, program in said["programs"].items():
        code = base64.b64decode(program["code"], validate=True)
        count = len(code) // _INSTRUCTION
        if not name.isidentifier() or len(code) % _INSTRUCTION or not 0 < count <= _MOST_INSTRUCTIONS:
            raise ValueError(f"program {name}")
        functions = [(number_below(at, count), number_below(number, 1 << 31)) for at, number in program["functions"]]
        maps = [
            (number_below(at, count - 1), _name(its), bool(within), number_below(offset, 1 << 31))
            for at, its, within, offset in program["maps"]
        ]
        programs[name] = ProgramText(name, _name(program["kind"]), code, _pairs(functions), maps)
    types = base64.b64decode(said["types"], validate=True)
    return Image(_name(said["clang"]), _name(said["source"]), types, programs)


def number_below(value: Any, limit: int) -> int:
    """Return *value*. Raises `ValueError` if it is no number below *limit*."""
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError(f"{value!r} is not in range({limit})")
    return value


def _name(value: Any) -> str:
    if type(value) is not str or not value.isprintable():
        raise ValueError(f"{value!r} is no name")
    return value


def _pairs(pairs: Iterable[tuple[int, int]]) -> bytes:
    return b"".join(number.to_bytes(4, "little") for pair in pairs for number in pair)
