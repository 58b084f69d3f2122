# What one walk over the blob of a legacy table finds, and a table that was read.

from libc.stdint cimport uint32_t, uint64_t

from .._core cimport Family, ipt_getinfo, xt_counters

# One chain. They are in the order of the blob.
cdef struct BlobChain:
    const char *name        # of a user chain, points into the blob; NULL for a builtin chain
    int hook
    uint32_t first          # offset of its first rule
    uint32_t foot           # offset of its policy, or of the RETURN that ends a user chain
    uint32_t slot           # number of its first rule, counted over all chains
    uint32_t rules
    xt_counters policy      # of a builtin chain

cdef struct Walk:
    BlobChain *chains
    size_t chain_count
    size_t chain_room
    size_t rules
    uint64_t digest         # of everything except the counters and the kernel's scratch
    uint32_t broken         # the offset at which the blob does not add up

cdef enum:
    ENTRIES_HEAD = 40        # struct ipt_get_entries: the name, the size, and padding to 8

cdef struct Buffer:
    char *memory             # struct ipt_get_entries, then the entries
    size_t room

cdef bint shorten(Family *family, char *entry) noexcept
cpdef bytes stored(int nfproto, bytes entry)
cdef void take_buffer(Buffer *buffer, size_t size) noexcept
cdef void give_back(Buffer *buffer) noexcept
cdef bytes table_label(str table)
cdef bytes entry_of(Family *family, const char *entry, const char *target)
cdef int open_socket(Family *family, int netns, int *fd) noexcept nogil

cdef class TableBlob:
    cdef Family *family
    cdef ipt_getinfo info
    cdef Buffer buffer
    cdef readonly str name
    cdef readonly uint64_t cookie       # of the network namespace that it was read in
    cdef readonly list chains       # (name, policy or None, (packets, bytes) or None, first offset, end offset)
    cdef dict heads

    cdef int _collect(self, Walk *walk) except -1
