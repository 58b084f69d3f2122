"""Opens a network namespace by its name, its path, a process id or a descriptor."""

from __future__ import annotations

import errno
import os

from ._netns import Namespace, is_agent
from .errors import KernelError, ParameterError, ParameterTypeError, kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._types import Netns

_FOLDER = "/run/netns"


def open_namespace(netns: Netns) -> Namespace:
    """Return an open `Namespace` for *netns*; None stands for the namespace of the thread that uses it.

    *netns* is a path if it is a string with a slash, and otherwise a name of `ip netns`. An integer is an open
    descriptor of a namespace if it is one, and otherwise a process id. An object with `fileno()` is an open
    descriptor. Raises `NotFound` if there is no such namespace.
    """
    if netns is None:
        return Namespace()
    path, descriptor = _located(netns)
    try:
        return Namespace(path, descriptor)
    except OSError as error:
        raise _cannot_open(netns, error) from None


def descriptor_of(netns: Netns) -> int:
    """Return a new descriptor of the namespace *netns*. The caller closes it."""
    path, descriptor = _located(netns)
    try:
        return os.dup(descriptor) if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_open(netns, error) from None


def _cannot_open(netns: Netns, error: OSError) -> KernelError:
    return kernel_error(f"can't open network namespace {netns}", error.errno, error.strerror)


def _located(netns: Netns) -> tuple[bytes | None, int]:
    """Return (path, -1) or (None, descriptor) of the namespace *netns*."""
    netns = _named(netns)
    if isinstance(netns, bool) or netns is None:
        raise _no_namespace(netns)
    if isinstance(netns, str):
        if not netns or "\0" in netns:
            raise ParameterError(f"no name of a network namespace: {netns!r}")
        return os.fsencode(netns if "/" in netns else f"{_FOLDER}/{netns}"), -1
    if _is_namespace(netns):
        return None, netns
    return f"/proc/{netns}/ns/net".encode(), -1


def _named(netns: Netns) -> str | int | None:
    """Return the descriptor of an object with `fileno()`, and a name, a number or None as it is."""
    if netns is None or isinstance(netns, (str, int)):
        return netns
    if not hasattr(netns, "fileno"):
        raise _no_namespace(netns)
    return netns.fileno()


def _no_namespace(given: object) -> ParameterTypeError:
    return ParameterTypeError(f"netns must be a name, a path, a pid or a descriptor, not {type(given).__name__}")


def _is_namespace(descriptor: int) -> bool:
    try:
        return descriptor >= 0 and (
            os.readlink(f"/proc/self/fd/{descriptor}").startswith("net:[") or is_agent(descriptor)
        )
    except OSError:
        return False


class Place:
    """The network namespace of a table: a *netns*, or None for the namespace of the calling thread.

    `cookie` is the kernel's number of the namespace (SO_NETNS_COOKIE). `open` opens the namespace by its name again,
    and `check` raises if it is not the same one any more. A descriptor that was given must stay open.
    """

    def __init__(self, netns: Netns = None) -> None:
        self.netns = _named(netns)
        with self.open() as there:
            self.cookie = there.cookie()

    def open(self) -> Namespace:
        """Return the `Namespace`, for a `with` statement that closes it."""
        return open_namespace(self.netns)

    def check(self, cookie: int) -> None:
        """Raise `KernelError` (ESTALE) unless *cookie* is that of this namespace."""
        if cookie != self.cookie:
            where = "the network namespace of this thread" if self.netns is None else f"network namespace {self.netns}"
            raise KernelError(
                f"{where} is not the one in which the table was opened", errno.ESTALE, os.strerror(errno.ESTALE)
            )
