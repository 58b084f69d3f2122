"""The exceptions of the package, and the table from errno to class."""

from __future__ import annotations

import errno as _errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TypeVar

    _Error = TypeVar("_Error", bound="IPTCError")


class IPTCError(Exception):
    """Root of everything that this package raises on purpose.

    `line` is the number of the line of a restored text, or None. `status` is the exit status with which iptables' own
    tools end for such a reason: 1 an error, 2 a line or parameter that makes no sense, 4 the lock, or a refusal by
    nf_tables.
    """

    line: int | None = None
    status: int = 1


class KernelError(IPTCError, OSError):
    """The kernel refused; `errno`, `strerror` and the sentence in `str()` and `args[0]`."""

    def __init__(self, message: str = "", errno: int | None = None, strerror: str | None = None) -> None:
        # OSError fills errno and strerror from two arguments; the sentence is what people read, and what programs look
        # at
        OSError.__init__(self, errno, strerror)
        self.message = message

    @property
    def message(self) -> str:
        """The sentence."""
        return str(self.args[0])

    @message.setter
    def message(self, message: str) -> None:
        self.args = (message,)

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.errno, self.strerror), self.__dict__


class NotFound(KernelError, KeyError):
    """No such table, chain or rule."""


class AccessDenied(KernelError, PermissionError):
    """The capability CAP_NET_ADMIN (and CAP_NET_RAW) is missing, or a file may not be opened."""


class OutOfMemory(KernelError, MemoryError):
    """There is no memory, here or in the kernel."""


class Conflict(KernelError):
    """The ruleset changed under us, and doing the edit anyway could not be right."""


class LockTimeout(IPTCError, TimeoutError):
    """The xtables lock was not obtained in the time given; `holders` are the (pid, name) of those that have it, if
    known."""

    status = 4

    def __init__(self, message: str = "", holders: Iterable[tuple[int, str]] = ()) -> None:
        super().__init__(message)
        self.holders = list(holders)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.holders)


class TransactionError(IPTCError):
    """A transaction inside another, or a use of a table that its transaction does not allow; nothing was changed."""


class PartialCommit(IPTCError):
    """The tables in `committed` were changed, the others of the transaction not, and they could not be put back; or the
    kernel's answer is lost, and those in `committed` may have been changed. The message says which."""

    def __init__(self, message: str = "", committed: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.committed = list(committed)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.committed)


class RolledBack(IPTCError):
    """A change was not confirmed: the rules are again what they were."""


class XTablesError(IPTCError):
    """What libxtables or one of its extensions said, in its words."""


class ParameterError(XTablesError, ValueError, AttributeError):
    """A parameter or rule text that makes no rule."""

    status = 2


class ParameterTypeError(ParameterError, TypeError):
    """A parameter of the wrong Python type."""


class Missing(ParameterError, LookupError):
    """What a function of `iptc.easy` was asked for is not there, or the chain that a rule of a restored text jumps
    to."""


class Unsupported(IPTCError, NotImplementedError):
    """This kernel, library version or back end cannot do it."""


class XTablesWarning(UserWarning):
    """It goes on, but is probably not what was meant: what libxtables or a plugin printed, or an attribute that is
    none."""


_CLASSES = {
    _errno.ENOENT: NotFound,
    _errno.EPERM: AccessDenied,
    _errno.EACCES: AccessDenied,
    _errno.EAGAIN: Conflict,
    _errno.ENOMEM: OutOfMemory,
}


_ABSENT = {_errno.ENOENT, _errno.ENOPROTOOPT, _errno.EAFNOSUPPORT, _errno.EPROTONOSUPPORT}

_PASSING = {
    _errno.ENOMEM,
    _errno.ENOBUFS,
    _errno.EINTR,
    _errno.EAGAIN,
    _errno.EMFILE,
    _errno.ENFILE,
    _errno.EIO,
}


def is_absent(error: object) -> bool:
    """Whether *error* says that the kernel has no such thing, and not that it could not be looked at."""
    return getattr(error, "errno", None) in _ABSENT


def is_passing(errno: int | None) -> bool:
    """Whether *errno* says nothing of what was asked for: the next answer may be another, and this one is not to be
    kept."""
    return errno in _PASSING


RESOURCE_PROBLEM = 4
"""The exit status of iptables' tools where nf_tables refuses; on the legacy back end it is 1, as for any other
error."""


def kernel_error(what: str, errno: int | None, strerror: str | None, status: int = KernelError.status) -> KernelError:
    """Return the exception for *errno*; *what* says what was being done, *strerror* why not."""
    error = _CLASSES.get(errno or 0, KernelError)(f"{what}: {strerror}", errno, strerror)
    if status != error.status:
        error.status = status
    return error


def at_line(error: _Error, line: int, status: int | None = None) -> _Error:
    """Return *error* with the line of a text that it is about, and its *status* where that is another: to be raised at
    once.

    A function that keeps in a variable what it raises makes a cycle: the exception knows its traceback, and that the
    variable.
    """
    error.line = line
    if status is not None:
        error.status = status
    return error
