# A legacy table on its way to text.

from libc.stdint cimport uint32_t

from ..language.printing cimport Printed

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
