"""What iptc runs on, and whether another package called iptc is in its way."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig

from .. import __version__
from .finding import ERROR, INFO, WARNING, Finding, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ELSEWHERE = ("/usr/lib/python3/dist-packages", "/usr/local/lib/python3/dist-packages")


def of_versions() -> Iterator[Finding]:
    """Yield findings about the releases of Python, iptc, the kernel and iptables."""
    release = os.uname().release
    yield Finding(INFO, f"iptc {__version__}, Python {platform.python_version()}, Linux {release}.")


def of_namesakes(path: Sequence[str] | None = None, package: str | None = None) -> Iterator[Finding]:
    """Yield findings about packages of python-iptables, which have the same import name `iptc`."""
    path = sys.path if path is None else path
    package = package or os.path.dirname(os.path.dirname(__file__))
    places = list(dict.fromkeys(os.path.realpath(place or ".") for place in path))
    ours = os.path.dirname(os.path.realpath(package))
    for place in places:
        named = distributions(place)
        other = os.path.isfile(f"{place}/iptc/__init__.py") and os.path.realpath(f"{place}/iptc") != f"{ours}/iptc"
        if named and place == ours:
            what = f"python-iptables ({listed(named)}) is installed in the same folder as iptc, {place}"
            text = f"{_capital(what)}: each overwrites files of the other."
            do = "pip uninstall python-iptables, then pip install --force-reinstall iptc"
            yield Finding(ERROR, text, do)
        elif other and ours in places and places.index(place) < places.index(ours):
            what = f"python-iptables ({listed(named)})" if named else "another package iptc"
            text = f"{_capital(what)} in {place} is found before iptc in {ours}: `import iptc' may mean that one."
            yield Finding(ERROR, text, _removal(place))
        elif other or named:
            what = f"python-iptables ({listed(named)})" if named else "another package iptc"
            text = f"{_capital(what)} is in {place} too; iptc in {ours} is found first."
            yield Finding(WARNING, text, _removal(place))
    for place in [*_ELSEWHERE, sysconfig.get_path("purelib")]:
        if os.path.realpath(place) not in places and os.path.isfile(f"{place}/iptc/__init__.py"):
            text = f"Programs of another Python import the package iptc that is in {place}."
            if distributions(place):
                yield Finding(WARNING, f"{text[:-1]}: python-iptables.", _removal(place))
            else:
                yield Finding(INFO, text)


def distributions(place: str) -> list[str]:
    """Return the names of python-iptables' installed metadata in the folder *place*."""
    try:
        names = os.listdir(place)
    except OSError:
        return []
    plain = {name: name.lower().replace("-", "_") for name in names}
    return sorted(
        name
        for name in names
        if plain[name].startswith(("python_iptables_", "python_iptables.")) and "info" in plain[name]
    )


def _removal(place: str) -> str:
    if place.startswith("/usr/lib/python3"):
        return "apt remove python3-iptables"
    return f"pip uninstall python-iptables, with the Python that {place} belongs to"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
