# The layout of what one pass over a table's blob finds, and of a table that was read.

from libc.stdint cimport uint32_t, uint64_t

from ._core cimport Family, ipt_getinfo, xt_counters

# What tells rulesets apart.
cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* Folded multiplication: fast, and good enough to tell rulesets apart that nobody made to collide. */
    static inline uint64_t blob_mix(uint64_t a, uint64_t b)
    {
        __uint128_t product = (__uint128_t)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }

    static inline uint64_t blob_word(const char *at)
    {
        uint64_t word;
        memcpy(&word, at, 8);
        return word;
    }

    #define BLOB_K0 0x9e3779b97f4a7c15u
    #define BLOB_K1 0xbf58476d1ce4e5b9u
    #define BLOB_K2 0x94d049bb133111ebu

    struct blob_digest { uint64_t a, b, c; };

    static inline void blob_begin(struct blob_digest *digest, uint64_t seed)
    {
        digest->a = seed ^ BLOB_K0;
        digest->b = seed ^ BLOB_K1;
        digest->c = seed ^ BLOB_K2;
    }

    /* length is a multiple of 4; that it tells apart what was absorbed in one piece or in two is not needed */
    static inline void blob_absorb(struct blob_digest *digest, const char *at, size_t length)
    {
        uint64_t a = digest->a, b = digest->b, c = digest->c;

        for (; length >= 48; length -= 48, at += 48) {
            a = blob_mix(blob_word(at) ^ a, blob_word(at + 8) ^ BLOB_K0);
            b = blob_mix(blob_word(at + 16) ^ b, blob_word(at + 24) ^ BLOB_K1);
            c = blob_mix(blob_word(at + 32) ^ c, blob_word(at + 40) ^ BLOB_K2);
        }
        if (length >= 32) {
            a = blob_mix(blob_word(at) ^ a, blob_word(at + 8) ^ BLOB_K0);
            b = blob_mix(blob_word(at + 16) ^ b, blob_word(at + 24) ^ BLOB_K1);
            length -= 32;
            at += 32;
        } else if (length >= 16) {
            a = blob_mix(blob_word(at) ^ a, blob_word(at + 8) ^ BLOB_K0);
            length -= 16;
            at += 16;
        }
        if (length >= 8) {
            b = (b ^ blob_word(at)) * BLOB_K1;
            b ^= b >> 29;
            length -= 8;
            at += 8;
        }
        if (length >= 4) {
            uint32_t half;
            memcpy(&half, at, 4);
            b = (b ^ half) * BLOB_K2;
            b ^= b >> 29;
        }
        digest->a = a;
        digest->b = b;
        digest->c = c;
    }

    /* The head of a payload: size, name, revision. The kernel writes a name up to its NUL; what stands behind it is
     * whatever stood in the buffer, and counts for nothing. */
    static inline void blob_absorb_head(struct blob_digest *digest, const char *at)
    {
        uint64_t c = digest->c ^ ((uint64_t)(unsigned char)at[31] << 32), ones = 0x0101010101010101u;

        for (int i = 0; i < 32; i += 8) {
            uint64_t word = blob_word(at + i), full, ends;

            #if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
            word = __builtin_bswap64(word);
            #endif
            full = i ? word : word | 0xffff;        /* the size may have zero bytes */
            ends = (full - ones) & ~full & (ones << 7);
            if (ends)
                word &= (ends & -ends) - 1;
            c = (c ^ word) * BLOB_K1;
            c ^= c >> 29;
            if (ends)
                break;
        }
        digest->c = c;
    }

    static inline uint64_t blob_finish(const struct blob_digest *digest)
    {
        return blob_mix(digest->a ^ BLOB_K1, blob_mix(digest->b ^ BLOB_K2, digest->c ^ BLOB_K0)) | 1;   /* never 0 */
    }
    """
    struct blob_digest:
        uint64_t a, b, c
    void blob_begin(blob_digest *digest, uint64_t seed) nogil
    void blob_absorb(blob_digest *digest, const char *at, size_t length) nogil
    void blob_absorb_head(blob_digest *digest, const char *at) nogil
    uint64_t blob_finish(const blob_digest *digest) nogil

# One chain, in the order of the blob.
cdef struct ChainRow:
    const char *name        # of a user chain, inside the blob; NULL: the builtin chain of this hook
    int hook
    uint32_t first          # offset of its first rule
    uint32_t foot           # offset of its policy, or of the RETURN that ends a user chain
    uint32_t slot           # number of its first rule, counted over all chains
    uint32_t rules
    xt_counters policy      # of a builtin chain

cdef struct Walk:
    ChainRow *chains
    size_t chain_count
    size_t chain_room
    size_t rules
    uint64_t digest         # of everything but the counters and the kernel's scratch
    uint32_t broken         # offset at which the blob does not add up

cdef enum:
    ENTRIES_HEAD = 40        # struct ipt_get_entries: the name, the size, and padding to 8

cdef struct Buffer:
    char *memory             # struct ipt_get_entries, then the entries
    size_t room

cdef void take_buffer(Buffer *buffer, size_t size) noexcept
cdef void give_back(Buffer *buffer) noexcept
cdef int open_socket(Family *family) noexcept nogil

cdef class TableBlob:
    cdef Family *family
    cdef ipt_getinfo info
    cdef Buffer buffer
    cdef readonly str name
    cdef readonly uint64_t cookie       # of the network namespace that it was read in
    cdef readonly list chains       # (name, policy or None, (packets, bytes) or None, first offset, end offset)
    cdef dict heads

    cdef int _collect(self, Walk *walk) except -1

cdef class Counts:
    cdef uint64_t *packet_row
    cdef uint64_t *byte_row
    cdef readonly Py_ssize_t rules

    cdef int _allocate(self, size_t rules) except -1
    cdef object _numbers(self, const uint64_t *row, Py_ssize_t start, Py_ssize_t stop)
    cpdef list pairs(self, Py_ssize_t start, Py_ssize_t stop)
