# A longest common subsequence of two sequences of 32-bit numbers, in C.

from libc.stdint cimport int32_t, uint32_t, uint64_t

# Where each number stands in one sequence, and in what order it is read: forwards, or from its end.
cdef struct Side:
    const uint32_t *numbers
    uint32_t length
    uint32_t kinds           # how many different numbers there are
    uint32_t *first          # of each number: where its positions begin in *positions*; one more at the end
    uint32_t *positions      # rising
    uint64_t **rows          # of each number that is frequent: a bit for each position
    uint64_t *words          # what the rows point into
    uint64_t *state          # the bits of the search: one for each position

# Two sequences, and where matches are written to.
cdef struct Problem:
    Side forwards            # the first sequence, which is searched
    Side backwards
    const uint32_t *other    # the second
    int32_t *match           # for each of the second: its partner in the first, or -1
    uint32_t *lengths        # of the halves that meet, for each place to cut at
    uint64_t bound           # beyond this product of lengths, the result is good rather than minimal
    bint failed              # there was no memory
