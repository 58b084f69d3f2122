"""The network namespaces of this host: those with a name, and those that only processes are in."""

from __future__ import annotations

import os

from ..lock import process_name

_FOLDER = "/run/netns"


def all_places() -> list[tuple[str | int, str]]:
    """Return [(value for `netns=`, name to show)] of all network namespaces except that of this process."""
    seen = {_identity("/proc/self/ns/net")}
    found: list[tuple[str | int, str]] = []
    for name in sorted(_names(_FOLDER)):
        identity = _identity(f"{_FOLDER}/{name}")
        if identity is not None and identity not in seen:
            seen.add(identity)
            found.append((name, f"network namespace {name}"))
    for pid in sorted(int(name) for name in _names("/proc") if name.isdigit()):
        identity = _identity(f"/proc/{pid}/ns/net")
        if identity is not None and identity not in seen:
            seen.add(identity)
            found.append((pid, f"network namespace of process {pid} ({process_name(pid)})"))
    return found


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
