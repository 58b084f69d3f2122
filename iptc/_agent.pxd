# A process in a network namespace that this process may not enter. It opens sockets and files there.

# What to open: the file *path*, or if that is empty a socket.
cdef struct Wanted:
    int domain
    int kind
    int protocol
    int flags
    char path[256]

cdef int agent_start(int *fd, int *pid, const char **failed_at) noexcept nogil
cdef int agent_ask(int fd, const Wanted *wanted, int *got) noexcept nogil
cdef void agent_end(int pid) noexcept nogil
