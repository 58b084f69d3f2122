"""The plugins of libxtables: whether their folder can be read, and whether they fit; none of their code runs."""

from __future__ import annotations

import os
import re

from .. import _core
from .._core import environment
from ..errors import IPTCError
from .finding import ERROR, INFO, WARNING, Finding, listed, message_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Literal

_FILE = re.compile(r"lib(xt|ipt|ip6t)_(.+)\.so")
_VERSION = re.compile(rb"libxtables\.so\.(\d+)")
_HEADER = 20  # the beginning of an ELF file, with its type and machine
_SHOWN = 5


def folders() -> list[str]:
    """Return the folders in which plugins are looked for."""
    try:
        from ..language.plugins import library_dirs

        return list(library_dirs())
    except (ImportError, IPTCError, OSError):
        given = environment("XTABLES_LIBDIR") or environment("IPTABLES_LIBDIR")
        return given.split(":") if given else []


def library() -> tuple[str, int | None]:
    """Return (path of the loaded libxtables, its version number), or (why it is not loaded, None)."""
    try:
        from ..language import plugins

        plugins.parse_protocol("tcp")  # any call that loads the library
    except (ImportError, IPTCError, OSError) as error:
        return message_of(error), None
    with open("/proc/self/maps", errors="surrogateescape") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")[2]
            number = re.search(r"libxtables\.so\.(\d+)", path)
            if number:
                return f"/{path}", int(number[1])
    return "", None


def of_library() -> Iterator[Finding]:
    """Yield findings about libxtables: whether it is installed, and is the release that iptc was compiled for."""
    path, number = library()
    if number is None and path:
        text = f"libxtables cannot be used: {path.rstrip('.')}. No rule can be made, and few can be printed."
        yield Finding(WARNING, text, "Install it: apt install iptables, or dnf install iptables-nft")
        return
    compiled = _compiled_for()
    if number is not None and compiled is not None and number != compiled:
        text = f"libxtables is number {number} here ({path}), and iptc was compiled for number {compiled}."
        yield Finding(ERROR, text, "Install iptc anew, so that it is compiled for this one")
        return
    if number is not None:
        yield Finding(INFO, f"libxtables is number {number} ({path}).")


def _compiled_for() -> int | None:
    from ..language import plugins

    return getattr(plugins, "LIBRARY_MAJOR", None)


class Plugins:
    """The files of plugins in *folders*."""

    def __init__(self, places: Sequence[str]) -> None:
        self.places = places
        self.files: dict[str, str] = {}
        self.unreadable: dict[str, str | None] = {}
        for place in places:
            try:
                names = os.listdir(place)
            except OSError as error:
                self.unreadable[place] = error.strerror
                continue
            for name in names:
                if _FILE.fullmatch(name):
                    self.files.setdefault(name, os.path.join(place, name))

    def has(self, ipv6: bool, name: str) -> bool:
        """Whether there is a file for a match or target of that name."""
        return any(f"lib{start}_{name}.so" in self.files for start in ("ip6t" if ipv6 else "ipt", "xt"))


def of_plugins(plugins: Plugins, number: int | None) -> Iterator[Finding]:
    """Yield what is wrong with folders or single plugins. *number* is the version number of libxtables."""
    for place, why in plugins.unreadable.items():
        # if there are several folders, one may be missing
        level = WARNING if plugins.files else ERROR
        text = f"The folder of plugins {place} cannot be read: {why}."
        do = "Install the package iptables (iptables-nft on Fedora), or correct XTABLES_LIBDIR"
        yield Finding(level, text, do)
    unfit: dict[str, list[str]] = {}
    for name, path in sorted(plugins.files.items()):
        why = unfitness(path, number)
        if why:
            unfit.setdefault(why, []).append(name)
    for why, names in unfit.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        text = f"Plugins that cannot be used: {', '.join(names[:_SHOWN])}{more}: {why}."
        yield Finding(WARNING, text, "Install anew the package that they are from")
    if plugins.files and not plugins.unreadable and not unfit:
        places = listed([place for place in plugins.places if place not in plugins.unreadable])
        yield Finding(INFO, f"There are {len(plugins.files)} plugin files in {places}.")
    elif not plugins.files and not plugins.unreadable:
        places = listed(plugins.places) if plugins.places else "any folder that is known"
        do = "Install the package iptables (iptables-nft on Fedora), or set XTABLES_LIBDIR"
        yield Finding(WARNING, f"There is no plugin in {places}: matches and targets cannot be used.", do)


def unfitness(path: str, number: int | None = None, like: str | None = None) -> str | None:
    """Return why libxtables with version *number* cannot load the plugin in the file *path*, or None."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        return error.strerror
    with open(like or _core.__file__, "rb") as file:
        ours = file.read(_HEADER)
    if content[:4] != b"\x7fELF":
        return "no shared object"
    if content[4:6] != ours[4:6] or content[18:20] != ours[18:20]:
        return "made for another processor"
    if _ends_early(content):
        return "the file is cut off"
    numbers = {int(found) for found in _VERSION.findall(content)}
    if number is not None and numbers and number not in numbers:
        return f"made for libxtables {listed([str(found) for found in sorted(numbers)])}, and here is {number}"
    return None


def _ends_early(content: bytes) -> bool:
    """Whether an ELF file is shorter than its table of sections requires."""
    order: Literal["little", "big"] = "little" if content[5] == 1 else "big"
    place, size, count = (40, 8, (58, 60)) if content[4] == 2 else (32, 4, (46, 48))
    start = int.from_bytes(content[place : place + size], order)
    entry, entries = (int.from_bytes(content[at : at + 2], order) for at in count)
    return len(content) < 64 or len(content) < start + entry * entries
