"""python-iptables' helpers that find C libraries and load kernel modules. Nothing in this package uses them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes


def find_library(*names: str) -> tuple[ctypes.CDLL, int] | tuple[None, None]:
    """Return (`ctypes.CDLL`, major version) of the first library of *names* that is found, or (None, None)."""
    import ctypes
    import ctypes.util
    import re

    for name in names:
        path = name if "/" in name else ctypes.util.find_library(name.removeprefix("lib"))
        if path is None:
            continue
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        major = re.search(r"\.so\.(\d+)", path)
        return library, int(major.group(1)) if major else 0
    return None, None


def find_libc() -> ctypes.CDLL:
    """Return the C library as `ctypes.CDLL`."""
    import ctypes

    return ctypes.CDLL(None)


def load_kernel(name: str, exc_if_failed: bool = False) -> None:
    """Load kernel module *name* with modprobe; with *exc_if_failed* a failure raises `IPTCError`."""
    import subprocess

    from .errors import IPTCError

    try:
        with open("/proc/sys/kernel/modprobe") as file:
            modprobe = file.read().strip() or "/sbin/modprobe"
        done = subprocess.run([modprobe, name], capture_output=True, text=True)
        failure = done.stderr.strip() or f"Failed to load the {name} kernel module." if done.returncode else None
    except OSError as error:
        failure = f"Failed to load the {name} kernel module: {error.strerror}"
    if failure and exc_if_failed:
        raise IPTCError(failure)
