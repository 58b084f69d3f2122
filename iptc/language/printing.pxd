# A rule on its way to text.

from .._core cimport Family
from .plugins cimport Names

# One rule to be printed: its base part, its payloads, and where they stand in the entry.
cdef struct Printed:
    Family *family
    bint by_mask                # iptables before 1.8.10 prints interfaces by their masks
    const char *head
    const char *payloads        # what follows the base part
    size_t target_at
    size_t size
    bint counted                # with `-c PACKETS BYTES` before the target, as `iptables -S -v`
    bint partly                 # where there are no plugins, what needs one is printed as what no plugin is known for
    Names *looked               # what was looked up to print it, and others with it
    const char *verdict         # the verdict or chain of a rule as the kernel has it; NULL: its target has the name

cdef char *put(char *at, const char *text, size_t length) noexcept nogil
cdef char *put_counters(char *at, Printed *rule, char between) noexcept nogil
cdef int learn_plugins(Printed *rule) except -1
cdef int print_captured(void (*body)(void *) noexcept nogil, void *arg, Printed *rule) except -1
cdef void print_rule(Printed *rule) noexcept nogil
