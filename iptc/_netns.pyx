# cython: freethreading_compatible=False
"""The network namespace of a thread or a socket: which one it is (`SO_NETNS_COOKIE`), and moving to another (`setns`)."""

from libc cimport errno as c_errno
from libc.string cimport strerror
from posix.stat cimport stat, struct_stat
from posix.unistd cimport close

from ._core cimport SOCK_CLOEXEC, netns_cookie, socket
from .errors import kernel_error

cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_UNIX
        SOCK_DGRAM

cdef extern from "<sched.h>" nogil:
    int setns(int fd, int kind)

cdef enum:
    CLONE_NEWNET = 0x40000000


cdef uint64_t cookie_of_socket(int fd) noexcept nogil:
    """What tells the network namespace of a socket from all others; before Linux 5.14 the number that the thread's file has."""
    cdef uint64_t cookie = netns_cookie(fd)
    cdef struct_stat status
    if not cookie:
        cookie = status.st_ino if stat(b"/proc/thread-self/ns/net", &status) == 0 else 1
    return cookie


def namespace_cookie():
    """Return what tells the network namespace that this thread is in from all others, also from those that are gone."""
    cdef uint64_t cookie
    cdef int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)
    cdef int failed = c_errno.errno
    if fd < 0:
        raise kernel_error("can't open a socket", failed, strerror(failed).decode())
    cookie = cookie_of_socket(fd)
    close(fd)
    return cookie


def enter_namespace(int netns):
    """Move this thread into the network namespace of descriptor *netns*, for good: the thread should end soon."""
    cdef int failed
    with nogil:
        failed = c_errno.errno if setns(netns, CLONE_NEWNET) < 0 else 0
    if failed:
        raise kernel_error("can't enter the network namespace", failed, strerror(failed).decode())
