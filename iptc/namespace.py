"""Network namespaces: what a program names one by, and doing something inside one."""

import errno
import os
from _thread import allocate_lock, start_new_thread

from . import _netns
from .errors import KernelError, ParameterError, ParameterTypeError, kernel_error

_FOLDER = "/run/netns"


def open_namespace(netns):
    """Return a descriptor of *netns*, for the caller to close.

    A string is a path if it has a slash, else a name of `ip netns`; an integer is an open descriptor of a namespace if
    it is one, else a process id; an object with `fileno()` is an open descriptor. `NotFound` if there is none.
    """
    if hasattr(netns, "fileno"):
        netns = netns.fileno()
    if isinstance(netns, bool) or not isinstance(netns, (str, int)):
        raise ParameterTypeError(f"netns must be a name, a path, a pid or a descriptor, not {type(netns).__name__}")
    if isinstance(netns, str):
        if not netns or "\0" in netns:
            raise ParameterError(f"no name of a network namespace: {netns!r}")
        path = netns if "/" in netns else f"{_FOLDER}/{netns}"
    elif _is_namespace(netns):
        return os.dup(netns)
    else:
        path = f"/proc/{netns}/ns/net"
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise kernel_error(f"can't open network namespace {netns}", error.errno, error.strerror) from None


def _is_namespace(descriptor):
    try:
        return descriptor >= 0 and os.readlink(f"/proc/self/fd/{descriptor}").startswith("net:[")
    except OSError:
        return False


def in_namespace(descriptor, action):
    """Return action(), done inside the namespace of *descriptor*, or here if that is None.

    It is done on a thread that ends with it: no thread has to find the way back.
    """
    if descriptor is None:
        return action()

    def inside():
        _netns.enter_namespace(descriptor)
        return action()

    return _on_another_thread(inside)


def _on_another_thread(action):
    outcome = []
    done = allocate_lock()
    done.acquire()

    def run():
        try:
            outcome.append((action(), None))
        except BaseException as error:
            outcome.append((None, error))
        finally:
            done.release()

    start_new_thread(run, ())
    done.acquire()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


class Place:
    """The network namespace of a table: that of the thread which opened it, or one that was named.

    Nothing is kept open, so that it can come to its end. `run` finds it again by what it was named by, and `check` finds out
    whether that is another namespace now. A descriptor must stay open as long as it is used.
    """

    def __init__(self, netns=None):
        self.netns = netns.fileno() if hasattr(netns, "fileno") else netns
        self.cookie = self.run(_netns.namespace_cookie)

    def run(self, action):
        """Return action(), done inside."""
        if self.netns is None:
            return action()

        def inside():
            descriptor = open_namespace(self.netns)
            try:
                _netns.enter_namespace(descriptor)
            finally:
                os.close(descriptor)
            return action()

        return _on_another_thread(inside)

    def check(self, cookie):
        """Raise `KernelError` (ESTALE) if *cookie*, of what `run` has just read, says that this was another namespace."""
        if cookie != self.cookie:
            where = "the network namespace of this thread" if self.netns is None else f"network namespace {self.netns}"
            raise KernelError(f"{where} is not the one in which the table was opened", errno.ESTALE, os.strerror(errno.ESTALE))
