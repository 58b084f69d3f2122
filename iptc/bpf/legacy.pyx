# cython: freethreading_compatible=False
"""Finds where the counters of a legacy table are in the kernel's memory, beginning at the network namespace.

The kernel keeps the rules of a table one after the other, as the socket returns them. Instead of its numbers, each rule
has the per-CPU address of a counter. x_tables takes the counters of a table from blocks of one page, which belong to
that table alone. A writer always replaces the whole table. So the table is unchanged as long as the pointer to it is,
unless the old table was freed meanwhile and the new one got the same memory. The kernel frees the first block of
counters of a table first. The window counts how often that block is freed.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EFAULT
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from .._core cimport Family, family_of, next_offset, xt_counters
from .copies cimport Marks
from .finder cimport Finder
from .net cimport Net
from .percpu cimport variable_at
from .window cimport XT_BLOCK, Window, word_in

from ..errors import Unsupported
from .btf import ask

cdef enum:
    NAME = 32                        # XT_TABLE_MAXNAMELEN, of the kernel's uapi
    # limits of iptc: a list that does not come to its end is given up, and what BTF says to be larger is refused
    ROOM = 512                       # bytes of the largest structure that is read
    MOST_TABLES = 64                 # of a family
    LOOKS = 4                        # how often to look again at a list that is being changed
    PIECE = 1 << 17                  # bytes of the rules that are read at once
    SLACK = 128                      # counters of chain heads may lie between those of two rules: copy them too

_OURS = (
    ("size", "xt_table"), ("number", "xt_table", "list.next", 8), ("number", "xt_table", "list.prev", 8),
    ("number", "xt_table", "me", 8), ("number", "xt_table", "private", 8), ("number", "xt_table", "af", 1),
    ("number", "xt_table", "name", NAME), ("number", "xt_table_info", "size", 4),
    ("number", "xt_table_info", "number", 4), ("member", "xt_table_info", "entries"),
)

cdef struct Where:
    uint32_t tables                  # in struct xt_pernet: the list of the family's tables
    uint32_t table_size, next, prev, module, private, af, name  # in struct xt_table
    uint32_t size, number, entries   # in struct xt_table_info


def prepare(Window window not None):
    """Let *window* count freed blocks. Raises `Unsupported` with the reason if it cannot: then no legacy table can be
    read."""
    if window.cpus < 2:
        raise Unsupported("on a single CPU, the kernel does not report that it frees a legacy table")
    window.watch(0)


cdef class LegacyFinder(Finder):
    """Finds where the counters of a legacy table are."""

    cdef Window window
    cdef Family *family
    cdef Where where
    cdef char name[NAME]
    cdef uint64_t pernet             # addresses in the kernel
    cdef uint64_t table
    cdef readonly uint64_t info      # the address of its xt_table_info, when `find` read it
    cdef uint64_t *counters          # the per-CPU address of each entry's counter
    cdef uint16_t *lengths           # the size of each entry
    cdef uint32_t size               # of all entries, in bytes
    cdef uint32_t count              # of the entries that were found
    cdef uint32_t room               # of the entries that the table says it has
    cdef char *piece

    def __dealloc__(self):
        self._free()

    cdef void _free(self) noexcept:
        """Free the memory that only a search needs."""
        free(self.counters)
        free(self.lengths)
        free(self.piece)
        self.counters, self.lengths, self.piece = NULL, NULL, NULL
        self.count = 0

    def __init__(self, Window window not None, int nfproto, str table not None, int descriptor):
        """*descriptor*: a socket in the table's network namespace."""
        cdef bytes name = table.encode()
        prepare(window)
        self.window, self.family = window, family_of(nfproto)
        memset(self.name, 0, NAME)
        memcpy(self.name, PyBytes_AS_STRING(name), min(PyBytes_GET_SIZE(name), <Py_ssize_t> NAME - 1))
        self._locate()
        self.rule.size, self.rule.packets, self.rule.bytes = sizeof(xt_counters), 0, 8    # as in the kernel's uapi
        self.policy = self.rule
        self.slack = SLACK
        self.home = Net(window, descriptor)
        self._find_table()
        window.check()
        if not self.table:
            raise Unsupported("the kernel's legacy tables are not laid out as its BTF says")
        # each CPU adds 1 to it before a packet goes through a table, and again afterwards
        self.sequence = variable_at(window, "xt_recseq", "x_tables", window.word(self.table + self.where.module))

    cdef int _locate(self) except -1:
        """Ask the kernel's BTF where everything is."""
        cdef Where *where = &self.where
        cdef object lists = ("number", "xt_pernet", f"tables[{self.family.nfproto}].next", 8)
        found = ask((*_OURS, lists), "x_tables")
        where.table_size, where.next, where.prev = found[:3]
        where.module, where.private, where.af, where.name = found[3:7]
        where.size, where.number, (where.entries, _), where.tables = found[7:]
        if where.table_size > ROOM or max(where.entries, where.size + 4, where.number + 4) > ROOM:
            raise Unsupported(f"struct xt_table or xt_table_info has more than {ROOM} bytes in this kernel")
        return 0

    # ------------------------------------------------------------------ the table

    cdef void _find_table(self) noexcept nogil:
        """Find the table with our name in the namespace. It may have been deleted, and may come back."""
        cdef uint32_t i
        cdef int _look
        self.table = 0
        for _look in range(LOOKS):
            if self.pernet:
                self.table = self._table_in(self.pernet)
            else:
                for i in range(1, self.home.slots()):
                    self.table = self._table_in(self.home.slot(i))
                    if self.table:
                        self.pernet = self.home.slot(i)
                        break
            if self.table:
                return

    cdef uint64_t _table_in(self, uint64_t pernet) noexcept nogil:
        """Return the address of the table if *pernet* is the memory of x_tables for a namespace, or else 0."""
        cdef Where *where = &self.where
        cdef uint64_t first = pernet + where.tables, at, before = first
        cdef char memory[ROOM]
        cdef int _i
        if not pernet:
            return 0
        at = self.window.word(first)
        for _i in range(MOST_TABLES):
            if (at == first or at <= ROOM or self.window.look(at - where.next, memory, where.table_size)
                    or word_in(memory, where.prev) != before
                    or <unsigned char> memory[where.af] != <unsigned char> self.family.nfproto):
                return 0
            if memcmp(memory + where.name, self.name, NAME) == 0:
                return at - where.next
            before = at
            at = word_in(memory, where.next)
        return 0

    cdef int mark(self, Marks *marks) except -1:
        memset(marks, 0, sizeof(marks[0]))
        with nogil:
            self._find_table()
        if self.table:
            marks.at[0] = self.table + self.where.private
            marks.mask[0] = <uint64_t> -1
        self.has_marks = self.table != 0
        marks.counts_freed = True
        return 0

    # ------------------------------------------------------------------ its rules

    cdef int find(self, const Marks *marks) except -1:
        cdef uint64_t first = 0
        cdef int failed, _look
        self.info = self.count = self.size = 0
        self.rules = 0
        if not self.table:
            return 0                 # the kernel makes the table when the socket asks for it
        for _look in range(LOOKS):
            with nogil:
                failed = self._begin(&first)
            if not failed and not first % XT_BLOCK:
                break
        if failed:
            return failed
        if first % XT_BLOCK:
            raise Unsupported("this kernel takes the counters of a table from other memory than iptc knows")
        # from now on it is noticed if the table is freed; the address may be that of a table that was freed before
        self.window.watch(first)
        with nogil:
            failed = self._begin(&first)
        if failed or first != (<uint64_t *> self.window.freed.memory)[1]:
            return EAGAIN
        self._make_room()
        with nogil:
            failed = self._walk()
        if failed:
            self.count = 0
            return failed
        self.rules = self.count
        return 0

    cdef int _begin(self, uint64_t *first) noexcept nogil:
        """Read the table's xt_table_info, and set *first* to the address of the counter of its first entry."""
        cdef Where *where = &self.where
        cdef char memory[ROOM]
        self.info = self.window.word(self.table + where.private)
        if self.info <= ROOM or self.window.look(self.info, memory, max(where.size, where.number) + 4):
            return EFAULT
        memcpy(&self.size, memory + where.size, 4)
        memcpy(&self.room, memory + where.number, 4)
        first[0] = self.window.word(self.info + where.entries + self.family.counters)
        # no table is larger than that, or has more entries than fit into its size
        if self.size >= <uint32_t> 1 << 31 or self.room > self.size // self.family.header or not first[0]:
            return EFAULT
        return 0

    cdef int _make_room(self) except -1:
        """Make room for `room` entries."""
        self._free()
        self.counters = <uint64_t *> malloc((<size_t> self.room + 1) * sizeof(uint64_t))
        self.lengths = <uint16_t *> malloc((<size_t> self.room + 1) * sizeof(uint16_t))
        self.piece = <char *> malloc(PIECE)
        if self.counters == NULL or self.lengths == NULL or self.piece == NULL:
            raise MemoryError
        return 0

    cdef int _walk(self) noexcept nogil:
        """Walk over the entries. Return 0, or EFAULT if they make no sense."""
        cdef Family *family = self.family
        cdef uint64_t begin = self.info + self.where.entries, counter
        cdef size_t done = 0, part, at
        cdef uint16_t length
        self.count = 0
        while done < self.size:
            part = min(self.size - done, <size_t> PIECE)
            if self.window.look(begin + done, self.piece, part):
                return EFAULT
            at = 0
            while at < part and part - at >= family.header:
                length = next_offset(family, self.piece + at)
                counter = word_in(self.piece, at + family.counters)
                if length < family.header or length > self.size - done - at or self.count == self.room or not counter:
                    return EFAULT
                self.counters[self.count] = counter
                self.lengths[self.count] = length
                self.count += 1
                at += length
            if not at:
                return EFAULT
            done += at
        return 0 if self.count == self.room else EFAULT

    # ------------------------------------------------------------------ what was found

    cdef bint is_known(self, const Marks *marks) except -1:
        # a writer may still have to give the counters of a new table back: only the socket's scan knows
        return False

    cdef int keep(self, const Marks *marks) except -1:
        self._free()
        return 0

    cdef bint may_read(self, object scan) except -1:
        return scan.may_read()

    cdef bytes addresses(self):
        return PyBytes_FromStringAndSize(<char *> self.counters, 8 * <Py_ssize_t> self.count)

    cdef bytes owners(self):
        cdef bytes made = PyBytes_FromStringAndSize(NULL, 8 * <Py_ssize_t> self.count)
        cdef uint64_t *place = <uint64_t *> PyBytes_AS_STRING(made)
        cdef uint64_t at = self.info + self.where.entries + self.family.counters
        cdef uint32_t i
        for i in range(self.count):
            place[i] = at
            at += self.lengths[i]
        return made

    cdef bytes places(self, object scan, Marks *marks):
        cdef uint64_t at = 0, first, end
        cdef Py_ssize_t slot = 0, policy, chain = 0
        cdef uint32_t i
        cdef bytes lengths, placed
        cdef list chains
        cdef int32_t *place
        size, lengths, chains = scan.outline()
        if (not self.info or self.info != marks.value[0] or self.size != size
                or PyBytes_GET_SIZE(lengths) != <Py_ssize_t> sizeof(uint16_t) * self.count
                or memcmp(PyBytes_AS_STRING(lengths), self.lengths, PyBytes_GET_SIZE(lengths)) != 0):
            return None
        # all entries are rules, except one at the end of each chain, one before each user-defined chain, and the last
        policy = <Py_ssize_t> self.count - 1 - len(chains)
        for _, _, is_builtin in chains:
            policy -= not is_builtin
        placed = PyBytes_FromStringAndSize(NULL, sizeof(int32_t) * (self.count + 1))
        place = <int32_t *> PyBytes_AS_STRING(placed)
        first, end, is_builtin = chains[0]
        for i in range(self.count):
            if at == end:
                if is_builtin:
                    place[policy] = <int32_t> i
                    policy += 1
                chain += 1
                if chain == len(chains):
                    break
                first, end, is_builtin = chains[chain]
            elif at >= first:
                place[slot] = <int32_t> i
                slot += 1
            at += self.lengths[i]
        return placed[:sizeof(int32_t) * policy]
