# Reading one command, for modules that have its line.

from .options cimport Spec

cdef Spec *spec_of(int nfproto, const char *program, const char *table) except NULL
cdef void read_command(Spec *spec) noexcept nogil
cdef void check_length(const char *chain) noexcept nogil
cdef void set_network(Spec *spec, int which, unsigned int i) noexcept nogil
cdef void free_networks(Spec *spec) noexcept nogil
cpdef list entries_of(rule, int nfproto, str chain)
cdef int learn_wanted(Spec *spec) except -1
cdef bint names_target(Spec *spec, const char *name) noexcept nogil
