# Which network namespace a socket is in.

from libc.stdint cimport uint64_t

cdef uint64_t cookie_of_socket(int fd) noexcept nogil
