"""Network namespaces: what a program names one by, and doing something inside one."""

import os
from _thread import allocate_lock, start_new_thread

from . import _blob
from .errors import ParameterError, ParameterTypeError, kernel_error

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
    outcome = []
    done = allocate_lock()
    done.acquire()

    def run():
        try:
            _blob.enter_namespace(descriptor)
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
