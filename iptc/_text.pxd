# A rule, and a table, on their way to text.

from libc.stdint cimport uint32_t

from ._core cimport Family

# One rule to be printed: its base part, its payloads, and where they stand in the entry.
cdef struct Printed:
    Family *family
    bint by_mask                # iptables before 1.8.10 prints interfaces by their masks
    const char *head
    const char *payloads        # what follows the base part
    size_t target_at
    size_t size
    bint counted                # with `-c PACKETS BYTES` before the target, as `iptables -S -v`
    const char *verdict         # the verdict or chain of a rule as the kernel has it; NULL: its target has the name

cdef struct Heading:
    uint32_t first
    uint32_t end
    char name[32]

# A table on its way to text: the chains in the order in which they are printed, and in that of the blob.
cdef struct Saved:
    Printed rule
    const char *entries
    const char *head            # what stands before the rules, and behind them
    const char *foot
    bint counters
    bint broken                 # a target stands for no chain
    size_t count
    Heading *chains
    Heading *by_offset
