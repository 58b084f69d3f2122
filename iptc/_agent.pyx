# cython: freethreading_compatible=False
"""A process in a network namespace and a user namespace of its own, which opens sockets and files there for its parent.

An ordinary user needs it, since no thread of such a user can enter another namespace. The agent runs no Python and
shares no memory. It ends when its parent has closed all sockets to it, or by `agent_end`. Its end sends no signal to
its parent, and its parent's `wait` does not see it.
"""

from libc.errno cimport EINTR, EPIPE
from posix.fcntl cimport O_CLOEXEC, O_WRONLY, open as c_open
from posix.types cimport gid_t, pid_t, uid_t
from posix.unistd cimport _exit, close, getegid, geteuid, write

from ._linux cimport (
    AF_UNIX, CLONE_NEWNET, SIG_SETMASK, SOCK_CLOEXEC, errno_now, pthread_sigmask, sigfillset, sigset_t,
    socket,
)

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <sched.h>
    #include <signal.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/prctl.h>
    #include <sys/socket.h>
    #include <sys/syscall.h>
    #include <sys/wait.h>
    #include <unistd.h>
    #ifndef SYS_close_range
    #define SYS_close_range 436
    #endif

    /* fork() that sends no signal when the child ends, and calls no fork handlers. */
    static int iptc_clone(void) { return (int) syscall(SYS_clone, 0, NULL, NULL, NULL, NULL); }

    /* Close all descriptors except *kept*. */
    static void iptc_close_others(int kept)
    {
        int fd, most;
        if ((kept == 0 || syscall(SYS_close_range, 0U, (unsigned) kept - 1, 0U) == 0)
            && syscall(SYS_close_range, (unsigned) kept + 1, ~0U, 0U) == 0)
            return;
        most = (int) sysconf(_SC_OPEN_MAX);
        for (fd = 0; fd < most; fd++)
            if (fd != kept)
                close(fd);
    }

    /* Send bytes and a descriptor; -1: no descriptor. */
    static ssize_t iptc_send_fd(int fd, const void *data, size_t length, int passed)
    {
        struct iovec part = { (void *) data, length };
        union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control;
        struct msghdr message;
        memset(&message, 0, sizeof message);
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        if (passed >= 0) {
            memset(&control, 0, sizeof control);
            message.msg_control = control.room;
            message.msg_controllen = sizeof control.room;
            control.head.cmsg_level = SOL_SOCKET;
            control.head.cmsg_type = SCM_RIGHTS;
            control.head.cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(&control.head), &passed, sizeof(int));
        }
        return sendmsg(fd, &message, MSG_NOSIGNAL);
    }

    /* Receive bytes and the descriptor that was sent with them, or -1. */
    static ssize_t iptc_receive_fd(int fd, void *data, size_t length, int *passed)
    {
        struct iovec part = { data, length };
        union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control;
        struct msghdr message;
        ssize_t got;
        memset(&message, 0, sizeof message);
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control.room;
        message.msg_controllen = sizeof control.room;
        *passed = -1;
        got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
        if (got >= 0 && message.msg_controllen >= CMSG_LEN(sizeof(int)) && control.head.cmsg_type == SCM_RIGHTS)
            memcpy(passed, CMSG_DATA(&control.head), sizeof(int));
        return got;
    }
    """
    enum:
        CLONE_NEWUSER
        SOCK_SEQPACKET
        __WALL
    int iptc_clone()
    void iptc_close_others(int kept)
    ssize_t iptc_send_fd(int fd, const void *data, size_t length, int passed)
    ssize_t iptc_receive_fd(int fd, void *data, size_t length, int *passed)
    int socketpair(int domain, int kind, int protocol, int *pair)
    int unshare(int kind)
    enum:
        SIGKILL
    int kill(pid_t pid, int number)
    int setsid()
    pid_t waitpid(pid_t pid, int *status, int options)
    int snprintf(char *text, size_t size, const char *format, ...)
    size_t strlen(const char *text)

# The reply of an agent: an errno, and at its start the step that has failed.
cdef struct Reply:
    int failed
    int step

cdef const char *STEPS[4]
STEPS[0] = b"can't make a user namespace"
STEPS[1] = b"can't map the user into a user namespace"
STEPS[2] = b"can't make a network namespace inside a user namespace"
STEPS[3] = b"can't start a process"


cdef int _put(const char *path, const char *text) noexcept nogil:
    """Write *text* to a file. Return 0 or an errno."""
    cdef int failed = 0
    cdef int fd = c_open(path, O_WRONLY | O_CLOEXEC)
    if fd < 0:
        return errno_now
    if write(fd, text, strlen(text)) < 0:
        failed = errno_now
    close(fd)
    return failed


cdef Reply _move_in(uid_t user, gid_t group) noexcept nogil:
    """Enter new namespaces. The user is mapped to root before the network namespace is made, which then belongs to
    root: only root may read files such as ip_tables_names."""
    cdef Reply reply
    cdef char text[64]
    reply.failed = reply.step = 0
    if unshare(CLONE_NEWUSER) < 0:
        reply.failed = errno_now
        return reply
    reply.step = 1
    _put(b"/proc/self/setgroups", b"deny")
    snprintf(text, sizeof(text), b"0 %u 1", <unsigned int> user)
    reply.failed = _put(b"/proc/self/uid_map", text)
    if not reply.failed:
        snprintf(text, sizeof(text), b"0 %u 1", <unsigned int> group)
        reply.failed = _put(b"/proc/self/gid_map", text)
    if reply.failed:
        return reply
    reply.step = 2
    if unshare(CLONE_NEWNET) < 0:
        reply.failed = errno_now
    return reply


cdef void _serve(int fd) noexcept nogil:
    """Open what the parent asks for, until the parent has closed its sockets."""
    cdef Wanted wanted
    cdef Reply reply
    cdef int back, made
    cdef ssize_t length
    reply.step = 0
    while True:
        length = iptc_receive_fd(fd, &wanted, sizeof(wanted), &back)
        if length < 0 and errno_now == EINTR:
            continue
        if length <= 0:
            return
        if back < 0:
            continue
        if length == sizeof(wanted):
            wanted.path[sizeof(wanted.path) - 1] = 0
            if wanted.path[0]:
                made = c_open(wanted.path, wanted.flags | O_CLOEXEC)
            else:
                made = socket(wanted.domain, wanted.kind | SOCK_CLOEXEC, wanted.protocol)
            reply.failed = errno_now if made < 0 else 0
            iptc_send_fd(back, &reply, sizeof(reply), made)
            if made >= 0:
                close(made)
        close(back)


cdef void _live(int fd, uid_t user, gid_t group) noexcept nogil:
    """Run as the agent. This never returns."""
    cdef Reply reply
    iptc_close_others(fd)
    # an interrupt at the terminal of the program must not end the agent
    setsid()
    reply = _move_in(user, group)
    if iptc_send_fd(fd, &reply, sizeof(reply), -1) >= 0 and not reply.failed:
        _serve(fd)
    _exit(0)


cdef int agent_start(int *fd, int *pid, const char **failed_at) noexcept nogil:
    """Start an agent. Return 0, or an errno with the step that has failed. The caller asks it by *fd*, and closes
    *fd*."""
    cdef int pair[2]
    cdef Reply reply
    cdef sigset_t every, usual
    cdef uid_t user = geteuid()
    cdef gid_t group = getegid()
    cdef int passed
    cdef ssize_t length
    failed_at[0] = STEPS[3]
    fd[0] = pid[0] = -1
    if socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0:
        return errno_now
    # the agent keeps all signals blocked: its memory contains the handlers of the program
    sigfillset(&every)
    pthread_sigmask(SIG_SETMASK, &every, &usual)
    pid[0] = iptc_clone()
    if pid[0] == 0:
        _live(pair[1], user, group)
    reply.failed = errno_now if pid[0] < 0 else 0
    pthread_sigmask(SIG_SETMASK, &usual, NULL)
    close(pair[1])
    if not reply.failed:
        while True:
            length = iptc_receive_fd(pair[0], &reply, sizeof(reply), &passed)
            if length >= 0 or errno_now != EINTR:
                break
        if length != sizeof(reply):
            reply.failed, reply.step = EPIPE, 3
        if reply.failed:
            failed_at[0] = STEPS[reply.step]
            agent_end(pid[0])
    if reply.failed:
        close(pair[0])
        return reply.failed
    fd[0] = pair[0]
    return 0


cdef int agent_ask(int fd, const Wanted *wanted, int *got) noexcept nogil:
    """Let the agent open what is *wanted*. Return 0 or an errno.

    Each request brings a socket of its own for the reply, so that threads do not take each other's replies.
    """
    cdef int pair[2]
    cdef int failed = 0
    cdef Reply reply
    cdef ssize_t length
    got[0] = -1
    if socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0:
        return errno_now
    while iptc_send_fd(fd, wanted, sizeof(wanted[0]), pair[1]) < 0:
        if errno_now != EINTR:
            failed = errno_now
            break
    close(pair[1])
    while not failed:
        length = iptc_receive_fd(pair[0], &reply, sizeof(reply), got)
        if length < 0 and errno_now == EINTR:
            continue
        failed = errno_now if length < 0 else reply.failed if length == sizeof(reply) else EPIPE
        break
    close(pair[0])
    return failed


cdef void agent_end(int pid) noexcept nogil:
    """End the agent *pid*, a child of this process. The kernel then closes everything that it has open."""
    cdef int status
    kill(pid, SIGKILL)
    while waitpid(pid, &status, __WALL) < 0 and errno_now == EINTR:
        pass
