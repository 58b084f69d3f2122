"""Reads the file program.bin: the compiled programs of program.c, in the form in which the kernel loads them."""

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
"""The version of the file's format. A file with another version is refused."""

_INSTRUCTION = 8
_MOST_INSTRUCTIONS = 1_000_000


class ProgramText:
    """One program of the file: its kind, its instructions, its functions, and which instructions use which maps.

    `kind`: "syscall", or "raw_tp/" and the name of a tracepoint. `functions`: `struct bpf_func_info`, as bytes. `maps`:
    [(number of the instruction, name of the map, whether it means the map's memory, offset in that memory)].
    """

    __slots__ = ("name", "kind", "code", "functions", "maps")

    def __init__(self, name: str, kind: str, code: bytes, functions: bytes, maps: list[tuple[int, str, bool, int]]):
        self.name = name
        self.kind = kind
        self.code = code
        self.functions = functions
        self.maps = maps


class Image:
    """The programs of the file by name, and the BTF that they share.

    `clang` is the version of the compiler, and `source` the digest of the sources.
    """

    __slots__ = ("clang", "source", "types", "programs")

    def __init__(self, clang: str, source: str, types: bytes, programs: dict[str, ProgramText]):
        self.clang = clang
        self.source = source
        self.types = types
        self.programs = programs


def read(path: str = PATH) -> Image:
    """Return the content of the file. Raises `Unsupported` if it is damaged, or not for this kind of processor."""
    if sys.byteorder != "little":
        raise Unsupported("the programs of eBPF are only for little-endian processors")
    try:
        with open(path, "rb", buffering=0) as file:
            text = file.readall()
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
