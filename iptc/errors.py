"""The exceptions of the package, and the table from errno to class."""

from __future__ import annotations

import errno as _errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    _Error = TypeVar("_Error", bound="IPTCError")


class IPTCError(Exception):
    """The base class of all exceptions that this package raises on purpose.

    `line`: the number of the line in a restored text, counting from 1, or None.
    `status`: the exit status with which iptables' own tools end for the same reason (`enum xtables_exittype`): 1 for an
        error, 2 for a parameter that makes no sense, 4 for the lock and for what nf_tables refuses.
    """

    line: int | None = None
    status: int = 1


class KernelError(IPTCError, OSError):
    """The kernel refused a call. `errno` and `strerror` say why; `str()` and `args[0]` are a whole sentence."""

    def __init__(self, message: str = "", errno: int | None = None, strerror: str | None = None) -> None:
        # OSError takes errno and strerror from its two arguments; the sentence replaces them in `args`
        OSError.__init__(self, errno, strerror)
        self.message = message

    @property
    def message(self) -> str:
        """The sentence that `str()` returns."""
        return str(self.args[0])

    @message.setter
    def message(self, message: str) -> None:
        self.args = (message,)

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.errno, self.strerror), self.__dict__


class NotFound(KernelError, KeyError):
    """No such table, chain or rule."""


class AccessDenied(KernelError, PermissionError):
    """A capability is missing (CAP_NET_ADMIN, for legacy tables CAP_NET_RAW too), or a file may not be opened."""


class OutOfMemory(KernelError, MemoryError):
    """This process or the kernel could not get memory (ENOMEM)."""


class Conflict(KernelError):
    """Another process changed the ruleset, so that it is not known any more which rule an edit means."""


class LockTimeout(IPTCError, TimeoutError):
    """The xtables lock was not obtained in time. `holders`: [(process id, name)] of the processes that hold it, as far
    as they are known."""

    status = 4

    def __init__(self, message: str = "", holders: Iterable[tuple[int, str]] = ()) -> None:
        super().__init__(message)
        self.holders = list(holders)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.holders)


class TransactionError(IPTCError):
    """A transaction inside another one, or a call that is not allowed inside a transaction. Nothing was changed."""


class PartialCommit(IPTCError):
    """A commit of several tables was done in part. `committed`: the names of the tables that are changed.

    The others are not changed, and the changed ones could not be put back. Or the kernel's answer was lost: then the
    tables in `committed` are perhaps changed. The message says which of the two.
    """

    def __init__(self, message: str = "", committed: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.committed = list(committed)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.committed)


class RolledBack(IPTCError):
    """A change was not confirmed in time, and was taken back: the rules are what they were before."""


class XTablesError(IPTCError):
    """libxtables or one of its extensions refused something. The message is theirs."""


class ParameterError(XTablesError, ValueError, AttributeError):
    """No rule can be made with this parameter or text."""

    status = 2


class ParameterTypeError(ParameterError, TypeError):
    """A parameter has the wrong Python type."""


class Missing(ParameterError, LookupError):
    """A function of `iptc.easy` was asked for a chain or rule that does not exist, or a rule of a restored text jumps
    to a chain that does not exist."""


class Unsupported(IPTCError, NotImplementedError):
    """This kernel, this version of libxtables or this back end cannot do it."""


class XTablesWarning(UserWarning):
    """Something is allowed but probably a mistake: libxtables or an extension printed a warning, or a program uses an
    attribute that does not exist."""


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
    """Whether *error* says that the kernel does not have something, and not that it could not be asked."""
    return getattr(error, "errno", None) in _ABSENT


def is_passing(errno: int | None) -> bool:
    """Whether *errno* is a passing trouble, such as no memory: the answer is not to be remembered, since the next one
    may be different."""
    return errno in _PASSING


RESOURCE_PROBLEM = 4
"""The exit status of iptables' tools when nf_tables refuses something. On the legacy back end it is 1."""


def kernel_error(what: str, errno: int | None, strerror: str | None, status: int = KernelError.status) -> KernelError:
    """Return an exception of the class for *errno*. *what* says what was being done, *strerror* why it failed."""
    error = _CLASSES.get(errno or 0, KernelError)(f"{what}: {strerror}", errno, strerror)
    if status != error.status:
        error.status = status
    return error


def at_line(error: _Error, line: int, status: int | None = None) -> _Error:
    """Return *error* with its `line` set, and its `status` if *status* is given. The caller raises it at once.

    So no variable holds the exception: with one, exception, traceback and frame would form a cycle.
    """
    error.line = line
    if status is not None:
        error.status = status
    return error
