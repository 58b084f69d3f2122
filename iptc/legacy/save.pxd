# A legacy table that is being printed.

from libc.stdint cimport uint32_t

from ..language.printing cimport Printed

cdef struct Heading:
    uint32_t first
    uint32_t end
    char name[32]

# `chains` are in the order in which they are printed, `by_offset` in that of the blob.
cdef struct Saved:
    Printed rule
    const char *entries
    const char *head            # the text before the rules
    const char *foot            # the text behind the rules
    bint counters
    bint broken                 # a target is neither a verdict nor the offset of a chain: the table cannot be printed
    size_t count
    Heading *chains
    Heading *by_offset
