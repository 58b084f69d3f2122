# cython: freethreading_compatible=False
"""Network namespaces: finds which one a socket is in (`SO_NETNS_COOKIE`), and opens sockets and files in another one.

A socket stays in the namespace in which it was made, whichever thread uses it. So only the thread that makes a socket
must enter the namespace. A C thread is started for that: it makes the socket and ends. If no thread can be started, the
calling thread enters the namespace and comes back within one call of C.

An ordinary user may not enter a namespace. But a process of the user can be in one (`_agent`), and makes the sockets
there. Then the descriptor of the namespace is the socket over which the agent is asked.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EBADF, EINTR, ENAMETOOLONG, ENOMEM, EOPNOTSUPP
from libc.stdlib cimport free, realloc
from libc.string cimport memset, strcpy, strerror, strlen
from posix.fcntl cimport O_CLOEXEC, O_RDONLY, open as c_open
from posix.stat cimport S_ISSOCK, fstat, stat, struct_stat
from posix.unistd cimport close, getpid, read

from ._agent cimport Wanted, agent_ask, agent_end, agent_start
from ._linux cimport (
    AF_UNIX, CLONE_NEWNET, F_DUPFD_CLOEXEC, SIG_SETMASK, SIOCGSKNS, SOCK_CLOEXEC, SOCK_DGRAM, errno_now, fcntl,
    ioctl, pthread_attr_destroy, pthread_attr_init, pthread_attr_setstacksize, pthread_attr_t, pthread_create,
    pthread_join, pthread_sigmask, pthread_t, setns, sigfillset, sigset_t, socket,
)
from ._core cimport netns_cookie
from .errors import KernelError, kernel_error

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <pthread.h>
    #include <sched.h>
    #include <signal.h>
    #include <sys/ioctl.h>
    #include <sys/socket.h>
    #include <linux/sockios.h>
    #ifndef SIOCGSKNS
    #define SIOCGSKNS 0x894C
    #endif
    """
    int unshare(int kind)

cdef enum:
    STACK = 256 * 1024
    PATIENCE = 64
    NOT_BACK = -1            # used in place of an errno: the thread could not return to its namespace

# ------------------------------------------------------------- descriptors


cdef void held_set(Held *held, int fd) noexcept nogil:
    """Record that *fd* is ours, with its device and inode. -1: no descriptor."""
    cdef struct_stat status
    held.fd = fd
    held.device = held.inode = 0
    if fd >= 0 and fstat(fd, &status) == 0:
        held.device, held.inode = status.st_dev, status.st_ino


cdef bint held_is_ours(const Held *held) noexcept nogil:
    """Whether the descriptor still belongs to the file that it was opened on."""
    cdef struct_stat status
    return held.fd >= 0 and fstat(held.fd,
                                  &status) == 0 and status.st_dev == held.device and status.st_ino == held.inode


cdef void held_close(Held *held) noexcept nogil:
    """Close the descriptor, unless its number now belongs to another file. A second call does nothing."""
    if held_is_ours(held):
        close(held.fd)
    held.fd = -1


# ----------------------------------------------- work in another namespace

# A task to be done in a namespace, and its result: to call a function, open a file, or make a socket.
cdef struct Errand:
    int netns
    bint fresh               # do the task in a new namespace, and not in *netns*
    Work work
    void *context
    const char *path
    int flags
    int domain
    int kind
    int protocol
    int fd
    int failed               # an errno


cdef void _do(Errand *errand) noexcept nogil:
    if errand.work != NULL:
        errand.work(errand.context)
        return
    if errand.path != NULL:
        errand.fd = c_open(errand.path, errand.flags | O_CLOEXEC)
    else:
        errand.fd = socket(errand.domain, errand.kind, errand.protocol)
    errand.failed = 0 if errand.fd >= 0 else errno_now


cdef int _enter(Errand *errand) noexcept nogil:
    return unshare(CLONE_NEWNET) if errand.fresh else setns(errand.netns, CLONE_NEWNET)


cdef void *_go(void *context) noexcept nogil:
    """The function of the C thread: do one errand, and end."""
    cdef Errand *errand = <Errand *> context
    if _enter(errand) < 0:
        errand.failed = errno_now
    else:
        _do(errand)
    return NULL


cdef void _go_and_return(Errand *errand) noexcept nogil:
    """Do the errand on the calling thread, which enters the namespace and returns to its own."""
    cdef int here = c_open(b"/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)
    cdef int _attempt
    # first enter the thread's own namespace: this changes nothing, but needs the same capability as returning later, so
    # it shows whether returning will work
    if here < 0 or setns(here, CLONE_NEWNET) < 0 or _enter(errand) < 0:
        errand.failed = errno_now
        if here >= 0:
            close(here)
        return
    _do(errand)
    for _attempt in range(PATIENCE):
        if setns(here, CLONE_NEWNET) == 0:
            break
    else:
        errand.failed = NOT_BACK
        if errand.fd >= 0:
            close(errand.fd)
            errand.fd = -1
    close(here)


cdef void _send_agent(Errand *errand) noexcept nogil:
    """Let the agent in the namespace do the errand."""
    cdef Wanted wanted
    memset(&wanted, 0, sizeof(wanted))
    if errand.work != NULL:
        errand.failed = EOPNOTSUPP
        return
    if errand.path != NULL:
        if strlen(errand.path) >= sizeof(wanted.path):
            errand.failed = ENAMETOOLONG
            return
        strcpy(wanted.path, errand.path)
    wanted.flags = errand.flags
    wanted.domain, wanted.kind, wanted.protocol = errand.domain, errand.kind, errand.protocol
    errand.failed = agent_ask(errand.netns, &wanted, &errand.fd)


cdef int _run(Errand *errand) noexcept nogil:
    """Do the errand. Return 0 or an errno.

    While another thread does it, all signals are blocked in that thread: handlers must run in the program's own
    threads.
    """
    cdef pthread_attr_t attributes
    cdef pthread_t thread
    cdef sigset_t every, usual
    cdef struct_stat status
    cdef bint begun
    errand.fd = -1
    errand.failed = 0
    if errand.netns < 0 and not errand.fresh:
        _do(errand)
        return errand.failed
    if not errand.fresh and fstat(errand.netns, &status) == 0 and S_ISSOCK(status.st_mode):
        _send_agent(errand)
        return errand.failed
    sigfillset(&every)
    pthread_sigmask(SIG_SETMASK, &every, &usual)
    begun = pthread_attr_init(&attributes) == 0
    if begun:
        pthread_attr_setstacksize(&attributes, STACK)
        begun = pthread_create(&thread, &attributes, _go, errand) == 0
        pthread_attr_destroy(&attributes)
    if begun:
        pthread_join(thread, NULL)
    else:
        _go_and_return(errand)
    pthread_sigmask(SIG_SETMASK, &usual, NULL)
    return errand.failed


cdef int call_in(int netns, Work work, void *context) noexcept nogil:
    """Call work(context) in the network namespace of descriptor *netns*; -1 is that of this thread. Return 0 or an
    errno."""
    cdef Errand errand
    memset(&errand, 0, sizeof(errand))
    errand.netns, errand.work, errand.context = netns, work, context
    return _run(&errand)


cdef int socket_in(int netns, int domain, int kind, int protocol, int *fd) noexcept nogil:
    """Make a socket in the network namespace of descriptor *netns*; -1 is that of this thread. Return 0 or an errno."""
    cdef Errand errand
    memset(&errand, 0, sizeof(errand))
    errand.netns, errand.domain, errand.kind, errand.protocol = netns, domain, kind, protocol
    _run(&errand)
    fd[0] = errand.fd
    return errand.failed


cdef int socket_beside(int other, int domain, int kind, int protocol, int *fd) noexcept nogil:
    """Make a socket in the network namespace of the socket *other*. Return 0 or an errno."""
    cdef int failed, netns
    cdef uint64_t cookie = netns_cookie(other)
    failed = socket_in(-1, domain, kind, protocol, fd)
    if failed or cookie and netns_cookie(fd[0]) == cookie:
        return failed
    close(fd[0])
    fd[0] = -1
    netns = ioctl(other, SIOCGSKNS)
    if netns < 0:
        return errno_now
    failed = socket_in(netns, domain, kind, protocol, fd)
    close(netns)
    return failed


cdef uint64_t cookie_of_socket(int fd, int netns) noexcept nogil:
    """Return the number of the network namespace of a socket (SO_NETNS_COOKIE).

    Before Linux 5.14, return the inode of the namespace's file instead: that of descriptor *netns*, or of this thread
    for -1.
    """
    cdef uint64_t cookie = netns_cookie(fd)
    cdef struct_stat status
    if not cookie:
        cookie = 1
        if (fstat(netns, &status) if netns >= 0 else stat(b"/proc/thread-self/ns/net", &status)) == 0:
            cookie = status.st_ino
    return cookie


# ----------------------------------------------------------- the namespace

_agents = set()
"""(device, inode) of each socket over which an agent is asked."""


cdef class Namespace:
    """An open network namespace, or the namespace of whichever thread uses this object."""

    def __cinit__(self):
        self.held.fd = -1

    def __dealloc__(self):
        self.let_go()

    cdef void let_go(self) noexcept:
        """Close it, and end its agent: the object that has started an agent also ends it."""
        cdef int agent = self.agent
        held_close(&self.held)
        if agent > 0:
            self.agent = 0
            _agents.discard((self.held.device, self.held.inode))
            # after a fork the child has a copy of this object, but only the parent may end the agent
            if self.starter == getpid():
                with nogil:
                    agent_end(agent)

    def __init__(self, bytes path=None, int descriptor=-1):
        """Open the file *path*, or copy *descriptor*. With neither, the object stands for the namespace of the calling
        thread."""
        cdef int failed = 0, fd = -1
        held_close(&self.held)
        self.named = path is not None or descriptor >= 0
        if not self.named:
            return
        for _ in range(PATIENCE):
            if path is None:
                fd = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
            else:
                fd = c_open(PyBytes_AS_STRING(path), O_RDONLY | O_CLOEXEC)
            failed = 0 if fd >= 0 else errno_now
            if failed != EINTR:
                break
        held_set(&self.held, fd)
        if failed:
            raise OSError(failed, strerror(failed).decode())

    def close(self):
        """Close the descriptor."""
        self.let_go()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.let_go()

    cdef int where(self) except -2:
        """Return the descriptor of the namespace, or -1 for the namespace of this thread."""
        if self.named and not held_is_ours(&self.held):
            raise KernelError("the descriptor of this network namespace is closed", EBADF, "Bad file descriptor")
        return self.held.fd

    cdef int check(self, int failed, str what) except -1:
        """Raise the exception for *failed*, an errno that `socket_in` returned, unless it is 0."""
        if failed == NOT_BACK:
            raise KernelError("this thread can't come back to its network namespace", ENOMEM, strerror(ENOMEM).decode())
        if failed:
            raise kernel_error(what, failed, strerror(failed).decode())
        return 0

    def fileno(self):
        """Return the descriptor of the namespace."""
        return self.where()

    def file(self):
        """Return (device, inode) of the namespace's file, or None for the namespace of the calling thread.

        No other namespace has the same pair while this one exists.
        """
        return (self.held.device, self.held.inode) if self.named else None

    def cookie(self):
        """Return the kernel's number of the namespace (SO_NETNS_COOKIE). It is never used again for another one."""
        cdef uint64_t cookie = 0
        cdef int netns = self.where(), fd = -1, failed
        with nogil:
            failed = socket_in(netns, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, &fd)
            if not failed:
                cookie = cookie_of_socket(fd, netns)
                close(fd)
        self.check(failed, "can't enter the network namespace" if self.named else "can't open a socket")
        return cookie

    def open_socket(self, int domain, int kind, int protocol):
        """Return the descriptor of a new socket in the namespace, with close-on-exec set. The caller closes it."""
        cdef int netns = self.where(), fd = -1, failed
        with nogil:
            failed = socket_in(netns, domain, kind | SOCK_CLOEXEC, protocol, &fd)
        self.check(failed, "can't open a socket")
        return fd

    def open_file(self, bytes path not None, int flags):
        """Return a descriptor of the file *path*, as seen from the namespace, with close-on-exec set. The caller closes
        it. Raises `OSError` as `os.open` does."""
        cdef Errand errand
        memset(&errand, 0, sizeof(errand))
        errand.netns, errand.path, errand.flags = self.where(), PyBytes_AS_STRING(path), flags
        with nogil:
            _run(&errand)
        if errand.failed == NOT_BACK:
            self.check(errand.failed, "")
        if errand.failed:
            raise OSError(errand.failed, strerror(errand.failed).decode(), path.decode())
        return errand.fd

    def read_file(self, bytes path not None):
        """Return the content of the file *path* as seen from the namespace. Raises `OSError` as `open` does."""
        cdef Errand errand
        cdef char *memory = NULL
        cdef char *more
        cdef size_t length = 0, room = 0
        cdef ssize_t got
        memset(&errand, 0, sizeof(errand))
        errand.netns, errand.path = self.where(), PyBytes_AS_STRING(path)
        with nogil:
            _run(&errand)
            while not errand.failed:
                if length == room:
                    # a file in /proc/sys must be read with one call: a second call would return different data
                    room += 4096
                    more = <char *> realloc(memory, room)
                    if more == NULL:
                        errand.failed = ENOMEM
                        break
                    memory = more
                got = read(errand.fd, memory + length, room - length)
                if got == 0:
                    break
                if got > 0:
                    length += got
                elif errno_now != EINTR:
                    errand.failed = errno_now
            if errand.fd >= 0:
                close(errand.fd)
        try:
            if errand.failed == NOT_BACK:
                self.check(errand.failed, "")
            if errand.failed:
                raise OSError(errand.failed, strerror(errand.failed).decode())
            return PyBytes_FromStringAndSize(memory, length)
        finally:
            free(memory)


def namespace_cookie():
    """Return the cookie of the network namespace of this thread."""
    return Namespace().cookie()


def is_agent(int descriptor):
    """Whether *descriptor* stands for the namespace of an agent."""
    cdef struct_stat status
    return fstat(descriptor, &status) == 0 and (status.st_dev, status.st_ino) in _agents


def new_namespace_of_agent():
    """Return a new, empty network namespace in a user namespace of its own. An ordinary user can make it. Only an agent
    is in it, so it ends when this object is closed. Raises `OSError` with the step that failed if it cannot be made."""
    cdef Namespace made = Namespace()
    cdef int fd, pid, failed
    cdef const char *step
    with nogil:
        failed = agent_start(&fd, &pid, &step)
    if failed:
        raise OSError(failed, f"{step.decode()}: {strerror(failed).decode()}")
    held_set(&made.held, fd)
    made.named = True
    made.agent, made.starter = pid, getpid()
    _agents.add((made.held.device, made.held.inode))
    return made


def new_namespace():
    """Return a new, empty network namespace. It exists until it is closed and no socket or process is in it.

    Raises `OSError` if the kernel refuses to make one.
    """
    cdef Namespace made = Namespace()
    cdef Errand errand
    memset(&errand, 0, sizeof(errand))
    errand.fresh, errand.path = True, b"/proc/thread-self/ns/net"
    with nogil:
        _run(&errand)
    if errand.fd >= 0:
        held_set(&made.held, errand.fd)
        made.named = True
    if errand.failed == NOT_BACK:
        made.check(errand.failed, "")
    if errand.failed:
        raise OSError(errand.failed, strerror(errand.failed).decode())
    return made
