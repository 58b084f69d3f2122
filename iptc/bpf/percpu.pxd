# Finds the per-CPU variables of the kernel and of its modules.

from libc.stdint cimport uint64_t

from .window cimport Window

cdef int prepare_for(str name, str module) except -1
cdef uint64_t variable_at(Window window, str name, str module, uint64_t other) except? 0
