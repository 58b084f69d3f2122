# Rows in an order that is edited, as C sees them.

from libc.stdint cimport uint32_t

# Some rows that follow each other. It stays where it is as long as it has any.
cdef struct Block:
    uint32_t index           # which one of its rope it is
    uint32_t count
    uint32_t room
    char *rows

# Rows of one size in blocks: to insert or delete one moves the rows of one block only. Zeroed memory is an empty rope,
# once `item` is set.
cdef struct Rope:
    size_t item              # the size of a row
    size_t count
    Block **blocks
    uint32_t block_count
    uint32_t block_room
    Block first              # most ropes have no other block
    Block *only
    Block *found             # where the row was that was looked for last, and how many stand before its block
    size_t before

cdef void rope_free(Rope *rope) noexcept nogil
cdef void rope_move(Rope *rope, Rope *other) noexcept nogil
cdef char *rope_at(Rope *rope, size_t position) noexcept nogil
cdef char *rope_insert(Rope *rope, size_t position) noexcept nogil
cdef void rope_delete(Rope *rope, size_t position) noexcept nogil

cdef class Row:
    cdef public bytes entry
    cdef public tuple key
    cdef public uint32_t number
    cdef void *sequence      # that it is in, or NULL
    cdef Block *block

cdef class Sequence:
    cdef Rope rope

    cdef void _tell(self, Block *block) noexcept
