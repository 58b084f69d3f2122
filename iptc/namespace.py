"""Opens a network namespace by its name, its path, a process id or a descriptor."""

from __future__ import annotations

import errno
import os

from ._netns import Namespace
from .errors import KernelError, ParameterError, ParameterTypeError, kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._types import Netns

_FOLDER = "/run/netns"


def open_namespace(netns: Netns) -> Namespace:
    """Return the `Namespace` that *netns* names, opened; with None that of whichever thread asks.

    A string is a path if it has a slash, else a name of `ip netns`; an integer is an open descriptor of a namespace if
    it is one, else a process id; an object with `fileno()` is an open descriptor. `NotFound` if there is none.
    """
    if netns is None:
        return Namespace()
    path, descriptor = _located(netns)
    try:
        return Namespace(path, descriptor)
    except OSError as error:
        raise _cannot_open(netns, error) from None


def descriptor_of(netns: Netns) -> int:
    """Return a new descriptor of the namespace that *netns* names, for the caller to close."""
    path, descriptor = _located(netns)
    try:
        return os.dup(descriptor) if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_open(netns, error) from None


def _cannot_open(netns: Netns, error: OSError) -> KernelError:
    return kernel_error(f"can't open network namespace {netns}", error.errno, error.strerror)


def _located(netns: Any) -> tuple[bytes | None, int]:
    """(path, -1) of the namespace that *netns* names, or (None, descriptor)."""
    if hasattr(netns, "fileno"):
        netns = netns.fileno()
    if isinstance(netns, bool) or not isinstance(netns, (str, int)):
        raise ParameterTypeError(f"netns must be a name, a path, a pid or a descriptor, not {type(netns).__name__}")
    if isinstance(netns, str):
        if not netns or "\0" in netns:
            raise ParameterError(f"no name of a network namespace: {netns!r}")
        return os.fsencode(netns if "/" in netns else f"{_FOLDER}/{netns}"), -1
    if _is_namespace(netns):
        return None, netns
    return f"/proc/{netns}/ns/net".encode(), -1


def _is_namespace(descriptor: int) -> bool:
    try:
        return descriptor >= 0 and os.readlink(f"/proc/self/fd/{descriptor}").startswith("net:[")
    except OSError:
        return False


class Place:
    """The network namespace of a table: that of the thread which opened it, or one that was named.

    `open` finds it again by what it was named by, and `check` finds out whether that is another namespace now. A
    descriptor must stay open as long as it is used.
    """

    def __init__(self, netns: Netns = None) -> None:
        given: Any = netns
        self.netns: str | int | None = given.fileno() if hasattr(given, "fileno") else given
        with self.open() as there:
            self.cookie = there.cookie()

    def open(self) -> Namespace:
        """Return the `Namespace`, which a `with` statement closes."""
        return open_namespace(self.netns)

    def check(self, cookie: int) -> None:
        """Raise `KernelError` (ESTALE) if *cookie*, of what `run` has just read, says that this was another
        namespace."""
        if cookie != self.cookie:
            where = "the network namespace of this thread" if self.netns is None else f"network namespace {self.netns}"
            raise KernelError(
                f"{where} is not the one in which the table was opened", errno.ESTALE, os.strerror(errno.ESTALE)
            )
