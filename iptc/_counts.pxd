# The counters of all rules at one moment, and the digest by which two rulesets are told apart.

from libc.stdint cimport uint32_t, uint64_t

# The digest of a ruleset: 64 bits that differ for different rulesets.
cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* Multiplication that folds the upper half of the product into the lower one. It is fast; it resists no attacker,
       but
     * nobody gains from making two rulesets collide. */
    static inline __attribute__((unused)) uint64_t digest_mix(uint64_t a, uint64_t b)
    {
        __uint128_t product = (__uint128_t)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }

    static inline __attribute__((unused)) uint64_t digest_word(const char *at)
    {
        uint64_t word;
        memcpy(&word, at, 8);
        return word;
    }

    #define DIGEST_K0 0x9e3779b97f4a7c15u
    #define DIGEST_K1 0xbf58476d1ce4e5b9u
    #define DIGEST_K2 0x94d049bb133111ebu

    struct digest { uint64_t a, b, c; };

    static inline __attribute__((unused)) void digest_begin(struct digest *digest, uint64_t seed)
    {
        digest->a = seed ^ DIGEST_K0;
        digest->b = seed ^ DIGEST_K1;
        digest->c = seed ^ DIGEST_K2;
    }

    /* *length* is a multiple of 4. Absorbing bytes in one call or in two gives different digests. */
    static inline __attribute__((unused)) void digest_absorb(struct digest *digest, const char *at, size_t length)
    {
        uint64_t a = digest->a, b = digest->b, c = digest->c;

        for (; length >= 48; length -= 48, at += 48) {
            a = digest_mix(digest_word(at) ^ a, digest_word(at + 8) ^ DIGEST_K0);
            b = digest_mix(digest_word(at + 16) ^ b, digest_word(at + 24) ^ DIGEST_K1);
            c = digest_mix(digest_word(at + 32) ^ c, digest_word(at + 40) ^ DIGEST_K2);
        }
        if (length >= 32) {
            a = digest_mix(digest_word(at) ^ a, digest_word(at + 8) ^ DIGEST_K0);
            b = digest_mix(digest_word(at + 16) ^ b, digest_word(at + 24) ^ DIGEST_K1);
            length -= 32;
            at += 32;
        } else if (length >= 16) {
            a = digest_mix(digest_word(at) ^ a, digest_word(at + 8) ^ DIGEST_K0);
            length -= 16;
            at += 16;
        }
        if (length >= 8) {
            b = (b ^ digest_word(at)) * DIGEST_K1;
            b ^= b >> 29;
            length -= 8;
            at += 8;
        }
        if (length >= 4) {
            uint32_t half;
            memcpy(&half, at, 4);
            b = (b ^ half) * DIGEST_K2;
            b ^= b >> 29;
        }
        digest->a = a;
        digest->b = b;
        digest->c = c;
    }

    /* Absorb the head of a payload: size, name, revision. Bytes behind the NUL of the name are left out, since nobody
       has
     * set them. */
    static inline __attribute__((unused)) void digest_absorb_head(struct digest *digest, const char *at)
    {
        uint64_t c = digest->c ^ ((uint64_t)(unsigned char)at[31] << 32), ones = 0x0101010101010101u;

        for (int i = 0; i < 32; i += 8) {
            uint64_t word = digest_word(at + i), full, ends;

            #if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
            word = __builtin_bswap64(word);
            #endif
            full = i ? word : word | 0xffff;        /* zero bytes in the size must not end the name */
            ends = (full - ones) & ~full & (ones << 7);
            if (ends)
                word &= (ends & -ends) - 1;
            c = (c ^ word) * DIGEST_K1;
            c ^= c >> 29;
            if (ends)
                break;
        }
        digest->c = c;
    }

    static inline __attribute__((unused)) uint64_t digest_finish(const struct digest *digest)
    {
        /* 0 stands for "no digest" */
        return digest_mix(digest->a ^ DIGEST_K1, digest_mix(digest->b ^ DIGEST_K2, digest->c ^ DIGEST_K0)) | 1;
    }
    """
    struct Digest "digest":
        uint64_t a, b, c
    uint64_t digest_mix(uint64_t a, uint64_t b) nogil
    void digest_begin(Digest *digest, uint64_t seed) nogil
    void digest_absorb(Digest *digest, const char *at, size_t length) nogil
    void digest_absorb_head(Digest *digest, const char *at) nogil
    uint64_t digest_finish(const Digest *digest) nogil

# Finds rules by their handles in nf_tables: those of a reading, or those that were found in the kernel's memory. It
# finds addresses too, which are uint64 as handles are.
cdef struct HandleIndex:
    uint32_t *places        # numbers of rules plus one; 0: free. NULL: there is no index
    size_t mask
    const char *rules       # each begins with its handle, a uint64
    size_t size             # bytes from one rule to the next

cdef int handle_index(HandleIndex *index, const void *rules, size_t size, size_t count) noexcept nogil

cdef inline size_t handle_place(const HandleIndex *index, uint64_t handle) noexcept nogil:
    """Return the place of a handle, or the free place where it belongs."""
    cdef size_t at = (handle * 0x9e3779b97f4a7c15u >> 20) & index.mask
    while index.places[at] and (<const uint64_t *> (index.rules + index.size * (index.places[at] - 1)))[0] != handle:
        at = (at + 1) & index.mask
    return at

cdef inline uint32_t handle_number(const HandleIndex *index, uint64_t handle) noexcept nogil:
    """Return the number of the rule with a handle plus one, or 0."""
    return index.places[handle_place(index, handle)] if index.places != NULL else 0

# The results of `Counts.judge`.
cdef enum:
    FELL = 1                # a counter is lower than before
    HAD_COUNTED = 2         # a rule that still exists had counted something

cdef class Counts:
    cdef uint64_t *packet_row
    cdef uint64_t *byte_row
    # counters put aside by a writer and included in the rows: (packets, bytes) of each rule; NULL: none
    cdef uint64_t *aside
    cdef readonly Py_ssize_t rules

    cdef int _allocate(self, size_t rules) except -1
    cdef int _check(self, Counts before, bytes slots) except -1
    cdef int judge(self, Counts before, bytes slots) except -1
    cdef object _numbers(self, const uint64_t *row, Py_ssize_t start, Py_ssize_t stop)
    cpdef list pairs(self, Py_ssize_t start, Py_ssize_t stop)

cdef class Reading:
    cdef readonly Counts _counts
    cdef readonly object _layout
    cdef readonly list _policies
    cdef readonly object _reader
    cdef public list _chains         # the chains of the snapshot, made when they are first asked for
    cdef double monotonic
    cdef double wall

# The base class of the objects with which each back end reads the counters of one table again and again.
cdef class Scan:
    # one of its methods is running, so a call from a signal handler or a finalizer frees nothing
    cdef bint busy
    cdef bint to_close               # `close` was called meanwhile: free everything when the running method ends
    cdef uint64_t digest             # the digest of the ruleset that was read last; 0 before the first reading
    cdef readonly tuple chains       # of that ruleset: (name, policy or None, first slot, end slot) of each chain
    cdef readonly bytes identities   # a uint64 for each slot, which identifies the rule wherever it stands
    cdef readonly int doubt          # 0 if the last reading can be relied on
    cdef public object layout        # the reader's `Layout` of the ruleset that was read last; None: not made yet

    cdef int _begin(self) except -1
    cdef void _end(self) noexcept
    cdef void _free(self) noexcept
    cdef tuple _read(self)
    cdef list _entries(self, uint64_t digest)

cpdef bytes place_slots(tuple chains, bytes identities, tuple chains_before, bytes identities_before)
