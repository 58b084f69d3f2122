# The search for a longest common subsequence of two sequences of 32-bit numbers, in C.

from libc.stdint cimport int32_t, uint32_t, uint64_t

# One sequence, with an index of the positions of each number; it is read forwards or backwards.
cdef struct Side:
    const uint32_t *numbers
    uint32_t length
    uint32_t kinds           # how many different numbers there are
    uint32_t *first          # for each number, where its positions begin in *positions*; with one more entry at the end
    uint32_t *positions      # in rising order
    uint64_t **rows          # for each frequent number, a bit for each of its positions
    uint64_t *words          # the memory of these rows
    uint64_t *state          # the bits of the search, one for each position

# Two sequences, and the memory for the result.
cdef struct Problem:
    Side forwards            # the first sequence, which has the index
    Side backwards
    const uint32_t *other    # the second sequence
    int32_t *match           # for each position of the second: its partner in the first, or -1
    uint32_t *lengths        # of the common subsequences of both halves, for each place where the first can be cut
    uint64_t bound           # if the product of the lengths is larger, the result may not be the longest
    bint failed              # there was no memory
