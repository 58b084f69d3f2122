# A process that lives in a network namespace which this process may not enter, and opens what is asked for there.

# What is asked for: a file where *path* is not empty, a socket otherwise.
cdef struct Wanted:
    int domain
    int kind
    int protocol
    int flags
    char path[256]

cdef int agent_start(int *fd, int *pid, const char **failed_at) noexcept nogil
cdef int agent_ask(int fd, const Wanted *wanted, int *got) noexcept nogil
cdef void agent_end(int pid) noexcept nogil
