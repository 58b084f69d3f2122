# Copies of the per-CPU counters of a table, and their sums.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .._counts cimport Counts
from .kernel cimport Map, Program
from .window cimport Window, copy, cpu, head

cdef extern from "sums.h" nogil:
    struct format:
        uint32_t size
        uint32_t packets
        uint32_t bytes
    struct spot:
        uint32_t at
        uint32_t slot
    struct sheet:
        uint32_t first
        uint32_t copy
        uint32_t used
        uint32_t plain
    struct plan:
        uint32_t slots
        uint32_t rules
        format rule
        format policy
        spot *spots
        uint32_t spot_count
        sheet *sheets
        uint32_t sheet_count
        copy *copies
        uint32_t copy_count
    int plan_copies(plan *plan, const uint64_t *addresses, uint32_t slack, uint32_t *order)
    uint32_t room_for(uint32_t sheets, uint32_t cpus, uint64_t most, uint64_t piece, uint32_t *stride,
                      uint32_t *needed)
    int sheet_differs(const sheet *sheet, const unsigned char *one, const unsigned char *other)
    void sum_sheet(const plan *plan, uint32_t number, const unsigned char *memory, uint32_t page, uint32_t stride,
                   uint32_t cpus, uint64_t *packets, uint64_t *bytes)
    const unsigned char *page_at(const unsigned char *memory, uint32_t page)

# How a reading ended; a negative number is an errno.
cdef enum:
    FINE
    CHANGED                          # the ruleset has changed since its counters were found
    UNREADABLE                       # the memory of some counter cannot be read
    SHARED                           # another process reads with the same descriptors
    LATER                            # a CPU is counting a packet, and the caller does not wait for it

# The words that change with the ruleset: up to two in the kernel's memory, and the number of freed blocks.
cdef struct Marks:
    uint64_t at[2]                   # addresses, 0: none
    uint64_t mask[2]                 # the bits of the words that count
    uint64_t value[2]                # these bits
    bint counts_freed                # whether the number of freed blocks belongs to the marks
    uint64_t freed

# Whether the ruleset has changed between two readings of the same marks.
cdef inline bint marks_differ(const Marks *one, const Marks *other) noexcept nogil:
    return (one.value[0] != other.value[0] or one.value[1] != other.value[1]
            or one.counts_freed and one.freed != other.freed)

cdef class Copies:
    cdef Window window
    cdef Map copy_map
    cdef Map page_map
    cdef Map head_map
    cdef Map cpu_map
    cdef Program polling
    cdef Program pairing
    cdef Marks marks
    cdef plan its
    cdef uint64_t *packets           # one sum for each slot: rules, then policies
    cdef uint64_t *bytes
    cdef uint8_t *dirty              # one for each sheet: it has to be added up again
    cdef uint32_t stride             # pages of one CPU
    cdef uint32_t newest             # the first page of the half with the newest copies
    cdef bint kept                   # all pages are kept until the next reading
    cdef bint fresh                  # the counters were not read yet
    cdef bint is_new                 # a sum has changed since `counted` returned the sums
    cdef bint calm                   # the caller holds the GIL, so this reading waits for nothing
    cdef bint handed                 # the programs were handed over by another process
    cdef uint64_t turn               # TURN_AT after the last reading
    cdef uint64_t set                # SET_AT: the number of what was handed over together

    cdef void _free(self) noexcept
    cdef int _room(self, uint32_t slots, uint32_t bytes_each) except -1
    cdef int _maps(self) except -1
    cdef int _run(self, Program program, void *request, uint32_t length) noexcept nogil
    cdef int look_at_marks(self, Marks *marks) noexcept nogil
    cdef int prepare(self, const uint64_t *addresses, uint32_t slots, uint32_t rules, format rule, format policy,
                     uint32_t slack, Marks *marks, uint64_t sequence) except -1
    cdef bint is_small(self) noexcept
    cdef int read_at_once(self) noexcept
    cdef int read(self) noexcept nogil
    cdef int _poll(self, uint32_t first, uint32_t end, uint32_t half, uint32_t *stuck) noexcept nogil
    cdef int _compare(self, uint32_t *first, uint32_t *end, uint32_t base) noexcept nogil
    cdef int _settle(self, uint32_t first, uint32_t end, uint32_t base) noexcept nogil
    cdef bint _differs(self, uint32_t number, uint32_t base) noexcept nogil
    cdef int _settle_sheets(self, uint32_t first, uint32_t end, uint32_t base) noexcept nogil
    cdef int _settle_pairs(self, uint32_t number, uint32_t base, uint32_t half, uint32_t *left,
                           uint32_t *waits) noexcept nogil
    cdef int _pause(self) noexcept nogil
    cdef uint64_t given_turn(self) noexcept nogil
    cdef Counts counted(self, list policies)
