# A rule that is being printed.

from .._core cimport Family
from .plugins cimport Names

# The rule: its base part, its payloads, and their places in the entry.
cdef struct Printed:
    Family *family
    bint by_mask                # print as iptables before 1.8.10, which reads interfaces from their masks
    const char *head
    const char *payloads        # the bytes after the base part
    size_t target_at
    size_t size
    bint counted                # print `-c PACKETS BYTES` before the target, as `iptables -S -v` does
    # if no plugins are installed, print parts that need one as iptables prints an unknown extension
    bint partly
    Names *looked               # the names that were looked up for this rule, and for others of the same text
    # the name of the verdict or chain, if the entry has the kernel's number; NULL if it has the name
    const char *verdict

cdef char *put(char *at, const char *text, size_t length) noexcept nogil
cdef char *put_counters(char *at, Printed *rule, char between) noexcept nogil
cdef int learn_plugins(Printed *rule) except -1
cdef int print_captured(void (*body)(void *) noexcept nogil, void *arg, Printed *rule) except -1
cdef void print_rule(Printed *rule) noexcept nogil
