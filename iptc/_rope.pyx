# cython: freethreading_compatible=False
"""A sequence of rows that is edited at any place.

Inserting or deleting a row costs nearly the same, however many rows there are and wherever it stands.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

cdef extern from "shim.h" nogil:
    size_t room_for "shim_room"(size_t more, size_t needed)

cdef enum:
    MOST = 512               # the most rows of a block
    FEWEST = 4               # the fewest rows for which memory is allocated

# ----------------------------------------------------------------- blocks of rows


cdef void _free_block(Rope *rope, Block *block) noexcept nogil:
    free(block.rows)
    if block == &rope.first:
        memset(block, 0, sizeof(Block))
    else:
        free(block)


cdef void rope_free(Rope *rope) noexcept nogil:
    """Free all rows and blocks. The rope is empty then."""
    cdef uint32_t i
    for i in range(rope.block_count):
        _free_block(rope, rope.blocks[i])
    if rope.blocks != &rope.only:
        free(rope.blocks)
    rope.blocks = NULL
    rope.found = NULL
    rope.count = rope.block_count = rope.block_room = 0


cdef void rope_move(Rope *rope, Rope *other) noexcept nogil:
    """Move all rows of *other* to *rope*. *other* is empty then. Their rows have the same size."""
    cdef size_t item = other.item
    cdef uint32_t i
    rope_free(rope)
    rope[0] = other[0]
    if other.blocks == &other.only:
        rope.blocks = &rope.only
    for i in range(rope.block_count):
        if rope.blocks[i] == &other.first:
            rope.blocks[i] = &rope.first
    rope.found = NULL
    memset(other, 0, sizeof(Rope))
    other.item = item


cdef Block *_new_block(Rope *rope, uint32_t index, uint32_t room) noexcept nogil:
    """Return a new, empty block, inserted as number *index* of the rope; NULL if there is no memory."""
    cdef Block **blocks
    cdef Block *block
    cdef uint32_t i, more
    if rope.block_count == rope.block_room:
        if not rope.block_count:
            rope.blocks = &rope.only
            rope.block_room = 1
        else:
            more = room_for(2 * (rope.block_room + 1), rope.block_count + 1)
            blocks = <Block **> malloc(more * sizeof(Block *))
            if blocks == NULL:
                return NULL
            memcpy(blocks, rope.blocks, rope.block_count * sizeof(Block *))
            if rope.blocks != &rope.only:
                free(rope.blocks)
            rope.blocks = blocks
            rope.block_room = more
    block = &rope.first
    if block.rows != NULL:
        block = <Block *> calloc(1, sizeof(Block))
        if block == NULL:
            return NULL
    block.rows = <char *> malloc(room * rope.item)
    if block.rows == NULL:
        if block != &rope.first:
            free(block)
        return NULL
    block.room = room
    memmove(&rope.blocks[index + 1], &rope.blocks[index], (rope.block_count - index) * sizeof(Block *))
    rope.blocks[index] = block
    rope.block_count += 1
    for i in range(index, rope.block_count):
        rope.blocks[i].index = i
    return block


cdef void _drop_block(Rope *rope, Block *block) noexcept nogil:
    cdef uint32_t i, index = block.index
    rope.block_count -= 1
    memmove(&rope.blocks[index], &rope.blocks[index + 1], (rope.block_count - index) * sizeof(Block *))
    for i in range(index, rope.block_count):
        rope.blocks[i].index = i
    _free_block(rope, block)


cdef void _find(Rope *rope, size_t position) noexcept nogil:
    """Set `found` to the block of the row at *position*. The position after the last row belongs to the last block."""
    cdef Block *block = rope.found
    cdef size_t before = rope.before
    if block == NULL or position < before and position < before // 2:
        block = rope.blocks[0]
        before = 0
    while position < before:
        block = rope.blocks[block.index - 1]
        before -= block.count
    while position >= before + block.count and block.index + 1 < rope.block_count:
        before += block.count
        block = rope.blocks[block.index + 1]
    rope.found = block
    rope.before = before


cdef char *rope_at(Rope *rope, size_t position) noexcept nogil:
    """Return the row at *position*, which must exist."""
    _find(rope, position)
    return rope.found.rows + (position - rope.before) * rope.item


cdef char *rope_insert(Rope *rope, size_t position) noexcept nogil:
    """Insert a row at *position* and return it for the caller to fill; NULL if there is no memory."""
    cdef Block *block
    cdef char *rows
    cdef uint32_t room
    cdef size_t at
    if not rope.block_count and _new_block(rope, 0, room_for(FEWEST, 1)) == NULL:
        return NULL
    _find(rope, position)
    block = rope.found
    at = position - rope.before
    if block.count == MOST:
        if at == MOST:
            block = _new_block(rope, block.index + 1, room_for(MOST, 1))
            if block == NULL:
                return NULL
        elif not _split(rope, block):
            return NULL
        _find(rope, position)
        block = rope.found
        at = position - rope.before
    elif block.count == block.room:
        room = room_for(min(<uint32_t> MOST, 2 * block.room), block.count + 1)
        rows = <char *> realloc(block.rows, room * rope.item)
        if rows == NULL:
            return NULL
        block.rows = rows
        block.room = room
    memmove(block.rows + (at + 1) * rope.item, block.rows + at * rope.item, (block.count - at) * rope.item)
    block.count += 1
    rope.count += 1
    return block.rows + at * rope.item


cdef bint _split(Rope *rope, Block *block) noexcept nogil:
    """Move the second half of a full block into a new block. The new one has space for one more row."""
    cdef Block *second = _new_block(rope, block.index + 1, room_for(MOST, MOST - MOST // 2 + 1))
    if second == NULL:
        return False
    block.count = MOST // 2
    second.count = MOST - block.count
    memcpy(second.rows, block.rows + block.count * rope.item, second.count * rope.item)
    return True


cdef void rope_delete(Rope *rope, size_t position) noexcept nogil:
    """Delete the row at *position*, which must exist."""
    cdef Block *block
    cdef size_t at
    _find(rope, position)
    block = rope.found
    at = position - rope.before
    block.count -= 1
    rope.count -= 1
    memmove(block.rows + at * rope.item, block.rows + (at + 1) * rope.item, (block.count - at) * rope.item)
    if not block.count:
        _drop_block(rope, block)
        rope.found = NULL


# ------------------------------------------------------------------ what Python sees

@cython.no_gc
cdef class Row:
    """A rule in a `Sequence`: its bytes (`entry`), and its `key` for comparing once that is known.

    `number` is used in a batch of nf_tables: the number of the message that makes the rule.
    """

    def __init__(self, bytes entry not None, uint32_t number=0):
        self.entry = entry
        self.number = number


cdef class Sequence:
    """A list of objects in which inserting and deleting costs nearly the same at any place and any length.

    `position` works for `Row`s, each of which can be in one sequence only.
    """

    def __cinit__(self):
        self.rope.item = sizeof(PyObject *)

    def __init__(self, items=()):
        for item in items:
            self.insert(self.rope.count, item)

    def __dealloc__(self):
        cdef Block *block
        cdef uint32_t i, j
        for i in range(self.rope.block_count):
            block = self.rope.blocks[i]
            for j in range(block.count):
                item = <object> (<PyObject **> block.rows)[j]
                if isinstance(item, Row):
                    (<Row> item).sequence = NULL
                Py_DECREF(item)
        rope_free(&self.rope)

    def __len__(self):
        return self.rope.count

    def __iter__(self):
        return iter(self.items())

    def items(self):
        """Return a list of all objects."""
        cdef list found = []
        cdef Block *block
        cdef uint32_t i, j
        for i in range(self.rope.block_count):
            block = self.rope.blocks[i]
            for j in range(block.count):
                found.append(<object> (<PyObject **> block.rows)[j])
        return found

    def __getitem__(self, size_t position):
        if position >= self.rope.count:
            raise IndexError(position)
        return <object> (<PyObject **> rope_at(&self.rope, position))[0]

    def __setitem__(self, size_t position, item not None):
        old = self[position]
        cdef PyObject **place = <PyObject **> rope_at(&self.rope, position)
        Py_INCREF(item)
        place[0] = <PyObject *> item
        if isinstance(old, Row):
            (<Row> old).sequence = NULL
        if isinstance(item, Row):
            (<Row> item).sequence = <void *> self
            (<Row> item).block = self.rope.found
        Py_DECREF(old)

    def append(self, item not None):
        """Add *item* at the end."""
        self.insert(self.rope.count, item)

    def insert(self, size_t position, item not None):
        """Insert *item* before the object at *position*."""
        cdef uint32_t blocks = self.rope.block_count, i
        cdef PyObject **place
        if position > self.rope.count:
            raise IndexError(position)
        place = <PyObject **> rope_insert(&self.rope, position)
        if place == NULL:
            raise MemoryError
        Py_INCREF(item)
        place[0] = <PyObject *> item
        if isinstance(item, Row):
            (<Row> item).sequence = <void *> self
            (<Row> item).block = self.rope.found
        if self.rope.block_count != blocks:
            # a block was split in two: tell the rows of both which block they are in
            i = self.rope.found.index
            for i in range(i - 1 if i else 0, min(i + 2, self.rope.block_count)):
                self._tell(self.rope.blocks[i])

    cdef void _tell(self, Block *block) noexcept:
        """Set `block` of all rows in *block*."""
        cdef uint32_t i
        for i in range(block.count):
            item = <object> (<PyObject **> block.rows)[i]
            if isinstance(item, Row):
                (<Row> item).block = block

    def pop(self, size_t position):
        """Remove the object at *position* and return it."""
        item = self[position]
        rope_delete(&self.rope, position)
        if isinstance(item, Row):
            (<Row> item).sequence = NULL
        Py_DECREF(item)
        return item

    def position(self, Row row not None):
        """Return the position of *row*, which must be in this sequence."""
        cdef Block *block = self.rope.found
        cdef size_t before = self.rope.before
        cdef uint32_t i
        if row.sequence != <void *> self:
            raise IndexError("this row is not in this sequence")
        if block == NULL or row.block.index < block.index // 2:
            block = self.rope.blocks[0]
            before = 0
        while block.index < row.block.index:
            before += block.count
            block = self.rope.blocks[block.index + 1]
        while block.index > row.block.index:
            block = self.rope.blocks[block.index - 1]
            before -= block.count
        for i in range(block.count):
            if (<PyObject **> block.rows)[i] == <PyObject *> row:
                return before + i
        raise IndexError("this row is not in this sequence")
