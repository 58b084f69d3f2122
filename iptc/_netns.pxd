# Sockets and files in a network namespace, opened without moving the calling thread into it; and descriptors that are
# closed only by the code that opened them.

from libc.stdint cimport uint64_t

# A descriptor, and the device and inode that it was opened on. If the program closes all descriptors, the same number
# may later belong to another file.
cdef struct Held:
    int fd                           # -1: none
    uint64_t device
    uint64_t inode

cdef void held_set(Held *held, int fd) noexcept nogil
cdef bint held_is_ours(const Held *held) noexcept nogil
cdef void held_close(Held *held) noexcept nogil

# A function that a thread calls in a namespace. It must not use Python.
ctypedef void (*Work)(void *context) noexcept nogil

cdef int call_in(int netns, Work work, void *context) noexcept nogil
cdef int socket_in(int netns, int domain, int kind, int protocol, int *fd) noexcept nogil
cdef int socket_beside(int other, int domain, int kind, int protocol, int *fd) noexcept nogil
cdef uint64_t cookie_of_socket(int fd, int netns) noexcept nogil

cdef class Namespace:
    cdef Held held
    cdef bint named                  # whether it is a certain namespace, and not that of the calling thread
    cdef int agent                   # the process that lives in it for us, 0 for none
    cdef int starter                 # the process that started that one

    cdef void let_go(self) noexcept
    cdef int where(self) except -2
    cdef int check(self, int failed, str what) except -1
