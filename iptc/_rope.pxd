# A sequence of rows in blocks, as other modules see it in C.

from libc.stdint cimport uint32_t

# A block: some rows that follow each other. It stays at its address as long as it has any rows.
cdef struct Block:
    uint32_t index           # its number in the rope
    uint32_t count
    uint32_t room
    char *rows

# Rows of one size in blocks: inserting or deleting a row moves only the rows of one block. Zeroed memory is an empty
# rope, once `item` is set.
cdef struct Rope:
    size_t item              # the size of one row in bytes
    size_t count
    Block **blocks
    uint32_t block_count
    uint32_t block_room
    Block first              # the only block of most ropes, without an allocation of its own
    Block *only
    Block *found             # the block of the last row that was looked up, and the number of rows before that block
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
    cdef void *sequence      # the `Sequence` that has this row, or NULL
    cdef Block *block

cdef class Sequence:
    cdef Rope rope

    cdef void _tell(self, Block *block) noexcept
