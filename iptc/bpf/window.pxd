# Reads the kernel's memory, for a process that may load BPF programs.

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .kernel cimport Map, Program, TracepointLink

cdef extern from "program.h" nogil:
    enum:
        PAGE
        BANK_PAGES
        BANK
        XT_BLOCK
        MARKS
        TURN_AT
        SET_AT
        BUSY
        ANOTHER
    struct copy:
        uint64_t from_ "from"
        uint32_t page
        uint16_t begin
        uint16_t size
    struct cpu:
        uint64_t offset
    struct owner:
        uint64_t first_at
        uint64_t last_at
        uint64_t last
    struct head:
        uint64_t mark[2]
        uint64_t sequence
        uint64_t turns
        uint32_t copies
        uint32_t counts_freed
        uint64_t owned
        uint64_t value[2]
        uint64_t mask[2]
        uint64_t freed
        uint64_t set
        uint64_t alive
        uint64_t cookie_at
        uint64_t cookie
    struct poll:
        uint32_t first
        uint32_t count
        uint32_t cpu
        uint32_t cpus
        uint32_t page
        uint32_t stride
        uint64_t before[2]
        uint64_t after[2]
        uint64_t freed_before
        uint64_t freed_after
        uint32_t stuck
        uint32_t failed
        uint64_t turn
        uint64_t set

# The eight bytes at an offset of copied memory.
cdef inline uint64_t word_in(const char *memory, size_t at) noexcept nogil:
    cdef uint64_t found
    memcpy(&found, memory + at, 8)
    return found

# The address of a page of copies in the memory of a map.
cdef inline unsigned char *page_at(unsigned char *memory, size_t page) noexcept nogil:
    return memory + (page // BANK_PAGES) * BANK + page % BANK_PAGES * PAGE

cdef class Window:
    cdef Map peek_map
    cdef Program peeking
    cdef Map freed
    cdef TracepointLink trace
    cdef uint64_t *offsets          # for each possible CPU: add it to a per-CPU address to get an address of that CPU
    cdef readonly uint32_t cpus
    cdef uint64_t task               # the task_struct of the thread that called `look` last
    cdef int lost                    # the errno if a program could not be run, or else 0

    cdef int _measure(self, list numbers) except -1
    cdef int check(self) except -1
    cdef int look(self, uint64_t at, void *to, size_t length) noexcept nogil
    cdef uint64_t word(self, uint64_t at) noexcept nogil
    cdef uint64_t private_of(self, int descriptor) except 0
    cdef int watch(self, uint64_t address) except -1

cdef TracepointLink trace_freed(str name, dict maps)
