# What the kernel's interface for writing a table looks like to C.

from ._core cimport xt_counters

cdef extern from "_shim.h" nogil:
    int setsockopt(int fd, int level, int option, const void *value, unsigned int length)

    struct ipt_replace:
        char name[32]
        unsigned int valid_hooks
        unsigned int num_entries
        unsigned int size
        unsigned int hook_entry[5]
        unsigned int underflow[5]
        unsigned int num_counters
        xt_counters *counters
    struct xt_counters_info:
        char name[32]
        unsigned int num_counters
        xt_counters counters[0]
