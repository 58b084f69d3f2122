# cython: freethreading_compatible=False
"""Finds where the counters of a table of nf_tables are in the kernel's memory, beginning at the network namespace.

It reads the rules that the kernel evaluates for packets: each chain has its rules in one block, with their expressions
one after the other. A result is thrown away if the ruleset changed during the search. It is used only if a dump by
netlink shows the same chains, and in them rules with the same handles.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EFAULT, ENOMEM
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset, strcmp

from .._counts cimport HandleIndex, handle_index, handle_number
from .._linux cimport strnlen
from .copies cimport Marks, format
from .finder cimport Finder
from .frees cimport Frees, shared_frees
from .net cimport Net
from .percpu cimport prepare_for, variable_at
from .window cimport PAGE, Window, word_in

from ..errors import AccessDenied, KernelError, Unsupported
from .btf import ask
from .reasons import Hindrance

cdef enum:
    # the kernel's uapi has these three, so no kernel changes them
    MOST_NAME = 256                  # NFT_NAME_MAXLEN
    IS_BASE = 1                      # NFT_CHAIN_BASE
    IS_OWNED = 2                     # NFT_TABLE_F_OWNER
    # limits of iptc: a list that does not come to its end is given up, and what BTF says to be larger is refused
    MOST_CHAINS = 1 << 22
    MOST_TABLES = 1 << 16
    MOST_KINDS = 64
    MOST_COUNTER = 64                # bytes of one counter
    CHANGES = 16                     # if more than one rule of so many is new, to read all takes no longer
    FEW_CHANGES = 4
    ROOM = 512                       # bytes of the largest structure that is read

_NOT = bytes([1]) + bytes(255)
"""Turns 0 into 1, and all else into 0."""

cdef uint64_t NO_LOG = <uint64_t> -1

SEQUENCE = "nft_counter_seq"
"""The per-CPU variable to which each CPU adds 1 before and after it counts a packet. Newer kernels do not have it."""

# The questions to BTF. The types are those of the module nf_tables.
_OURS = (
    ("number", "nftables_pernet", "tables.next", 8),
    ("size", "nft_table"), ("number", "nft_table", "list.next", 8), ("number", "nft_table", "list.prev", 8),
    ("number", "nft_table", "chains.next", 8), ("number", "nft_table", "name", 8), ("number", "nft_table", "handle", 8),
    ("bits", "nft_table", "family"), ("bits", "nft_table", "flags"), ("bits", "nft_table", "genmask"),
    ("size", "nft_chain"), ("number", "nft_chain", "list.next", 8), ("number", "nft_chain", "list.prev", 8),
    ("number", "nft_chain", "blob_gen_0", 8), ("number", "nft_chain", "blob_gen_1", 8),
    ("number", "nft_chain", "name", 8), ("number", "nft_chain", "handle", 8),
    ("bits", "nft_chain", "flags"), ("bits", "nft_chain", "genmask"),
    ("member", "nft_base_chain", "chain"), ("number", "nft_base_chain", "stats", 8),
    ("number", "nft_base_chain", "policy", 1),
    ("number", "nft_rule_blob", "size", 8), ("member", "nft_rule_blob", "data"),
    ("bits", "nft_rule_dp", "is_last"), ("bits", "nft_rule_dp", "dlen"), ("bits", "nft_rule_dp", "handle"),
    ("member", "nft_rule_dp", "data"),
    ("number", "nft_expr", "ops", 8), ("member", "nft_expr", "data"),
    ("number", "nft_expr_ops", "size", 4), ("number", "nft_expr_ops", "type", 8),
    ("number", "nft_expr_type", "name", 8), ("number", "nft_expr_type", "owner", 8),
    ("size", "nft_counter_percpu_priv"), ("number", "nft_counter_percpu_priv", "counter", 8),
    ("size", "nft_counter"), ("number", "nft_counter", "packets", 8), ("number", "nft_counter", "bytes", 8),
    ("size", "nft_stats"), ("number", "nft_stats", "pkts", 8), ("number", "nft_stats", "bytes", 8),
)

# The generation number of the ruleset is in `struct net`, and in some kernels in the memory of nf_tables.
_SEQ_OF_NET = (("number", "net", "nft.base_seq", 4),)
_SEQ_OF_OURS = (("number", "nftables_pernet", "base_seq", 4),)

cdef struct Field:
    uint32_t at                      # offset: in bits for a bit-field, otherwise in bytes
    uint32_t width                   # bits of a bit-field

cdef struct Where:
    # in `struct net` of the kernel
    uint32_t gencursor, base_seq
    bint seq_is_ours                 # base_seq is in nftables_pernet
    uint32_t gc_seq                  # in nftables_pernet, odd while a commit ends; 0: there is none
    # in the structures of nf_tables
    uint32_t tables
    uint32_t table_size, table_next, table_prev, table_chains, table_name, table_handle
    Field table_family, table_flags, table_genmask
    uint32_t chain_size, chain_next, chain_prev, chain_name, chain_handle
    uint32_t blobs[2]
    Field chain_flags, chain_genmask
    uint32_t base_chain, base_stats, base_policy
    uint32_t blob_size, blob_data
    Field rule_last, rule_length, rule_handle
    uint32_t rule_data
    uint32_t ops, data, ops_size, ops_type, type_name, type_owner
    uint32_t private_size, private_counter
    format counter, stats

# One kind of expression.
cdef struct Kind:
    uint64_t ops                     # address of its struct nft_expr_ops
    uint64_t type                    # address of its struct nft_expr_type
    uint32_t size                    # bytes of such an expression
    bint is_counter

# A chain that was found.
cdef struct Found:
    uint64_t handle
    uint64_t stats                   # per-CPU address of the policy's counter; 0: none
    uint64_t blob                    # the address of its block of rules
    uint32_t first, end              # its rules: numbers in Walk.rules
    int policy                       # -1: not a base chain
    char name[256]

cdef struct RuleFound:
    uint64_t handle
    uint32_t length                  # bytes of its expressions
    uint32_t at                      # where in them the address of its counter stands
    uint64_t counter                 # per-CPU address, 0: none


cdef int _locate(Where *where) except -1:
    """Ask the kernel's BTF for all offsets and sizes."""
    (where.gencursor,) = ask((("number", "net", "nft.gencursor", 1),), "nf_tables")
    try:
        (where.base_seq,) = ask(_SEQ_OF_NET, "nf_tables")
        where.seq_is_ours = False
    except Unsupported:
        (where.base_seq,) = ask(_SEQ_OF_OURS, "nf_tables")
        where.seq_is_ours = True
    try:
        # of any width: only its lowest bit is used
        where.gc_seq = ask((("member", "nftables_pernet", "gc_seq"),), "nf_tables")[0][0]
    except Unsupported:
        where.gc_seq = 0             # older kernels
    found = {question[1:3]: answer for question, answer in zip(_OURS, ask(_OURS, "nf_tables"))}

    def bits(*names):
        at, width = found[names]
        if at % 8 + width > 64 or not width:
            raise Unsupported(f"{names[0]}'s {names[1]} has {width} bits in this kernel, more than iptc reads")
        return at, width

    where.tables = found["nftables_pernet", "tables.next"]
    where.table_size = found["nft_table",]
    where.table_next, where.table_prev = found["nft_table", "list.next"], found["nft_table", "list.prev"]
    where.table_chains, where.table_name = found["nft_table", "chains.next"], found["nft_table", "name"]
    where.table_handle = found["nft_table", "handle"]
    where.table_family = _field(bits("nft_table", "family"))
    where.table_flags = _field(bits("nft_table", "flags"))
    where.table_genmask = _field(bits("nft_table", "genmask"))
    where.chain_size = found["nft_chain",]
    where.chain_next, where.chain_prev = found["nft_chain", "list.next"], found["nft_chain", "list.prev"]
    where.blobs[0], where.blobs[1] = found["nft_chain", "blob_gen_0"], found["nft_chain", "blob_gen_1"]
    where.chain_name, where.chain_handle = found["nft_chain", "name"], found["nft_chain", "handle"]
    where.chain_flags = _field(bits("nft_chain", "flags"))
    where.chain_genmask = _field(bits("nft_chain", "genmask"))
    where.base_chain, where.base_stats = found["nft_base_chain", "chain"][0], found["nft_base_chain", "stats"]
    where.base_policy = found["nft_base_chain", "policy"]
    where.blob_size, where.blob_data = found["nft_rule_blob", "size"], found["nft_rule_blob", "data"][0]
    where.rule_last = _field(bits("nft_rule_dp", "is_last"))
    where.rule_length = _field(bits("nft_rule_dp", "dlen"))
    where.rule_handle = _field(bits("nft_rule_dp", "handle"))
    where.rule_data = found["nft_rule_dp", "data"][0]
    where.ops, where.data = found["nft_expr", "ops"], found["nft_expr", "data"][0]
    where.ops_size, where.ops_type = found["nft_expr_ops", "size"], found["nft_expr_ops", "type"]
    where.type_name, where.type_owner = found["nft_expr_type", "name"], found["nft_expr_type", "owner"]
    where.private_size = found["nft_counter_percpu_priv",]
    where.private_counter = found["nft_counter_percpu_priv", "counter"]
    where.counter.size = found["nft_counter",]
    where.counter.packets, where.counter.bytes = found["nft_counter", "packets"], found["nft_counter", "bytes"]
    where.stats.size = found["nft_stats",]
    where.stats.packets, where.stats.bytes = found["nft_stats", "pkts"], found["nft_stats", "bytes"]
    for name, room in (("nft_table", ROOM), ("nft_chain", ROOM), ("nft_counter", MOST_COUNTER),
                       ("nft_stats", MOST_COUNTER)):
        if found[name,] > room:
            raise Unsupported(f"{name} has {found[name,]} bytes in this kernel, more than iptc reads")
    # what is read of a rule and of an expression stands before their data, in the copy of a chain's block
    for name, its in (("is_last", where.rule_last), ("dlen", where.rule_length), ("handle", where.rule_handle)):
        if its.at + its.width > 8 * where.rule_data:
            raise Unsupported(f"nft_rule_dp's {name} is not before its data in this kernel")
    if where.ops + 8 > where.data:
        raise Unsupported("nft_expr's ops is not before its data in this kernel")
    return 0


def layout():
    """Return where the kernel has what is read of nf_tables, as its BTF says: {name: offset or size}."""
    cdef Where where
    _locate(&where)
    return where


cdef Field _field(tuple found):
    cdef Field field
    field.at, field.width = found
    return field


cdef inline uint64_t _bits(const char *memory, Field field) noexcept nogil:
    """Return the number in a bit-field. `_locate` has checked that the eight bytes from its first byte on hold it."""
    cdef uint64_t word = 0
    memcpy(&word, memory + field.at // 8, (field.at % 8 + field.width + 7) // 8)
    word >>= field.at % 8
    return word & (~<uint64_t> 0 >> (64 - field.width))


cdef class Walk:
    """A walk over one table: its chains, and the handle and the counter of each rule."""

    cdef Window window
    cdef Where where
    cdef Net home
    cdef uint64_t net                # addresses in the kernel
    cdef uint64_t pernet
    cdef uint64_t table
    cdef uint8_t family
    cdef bytes name
    cdef const char *name_text
    cdef uint64_t table_handle
    cdef bint is_odd                 # the list of tables was inconsistent
    cdef bint is_owned               # a process owns the table: the kernel deletes it when the process ends
    cdef Found *chains
    cdef uint32_t chain_count, chain_room
    cdef RuleFound *rules
    cdef uint32_t rule_count, rule_room
    cdef HandleIndex index           # of its rules
    # while it walks: the rules of an earlier walk, and the handle of the table
    cdef HandleIndex known
    cdef uint64_t known_table
    cdef const HandleIndex *known_freed      # the addresses that were freed since that walk
    cdef uint64_t frees              # how many blocks had been freed when this walk began; NO_LOG: not known
    cdef char *blob
    cdef size_t blob_room
    cdef Kind kinds[64]
    cdef uint32_t kind_count
    cdef bint has_counters           # a rule was found that has one
    cdef uint64_t module             # the address of nf_tables as a module; 0: it is built in

    def __dealloc__(self):
        free(self.chains)
        free(self.rules)
        free(self.index.places)
        free(self.blob)

    def __init__(self, Window window not None, int nfproto, str table not None, int descriptor):
        """Find the network namespace of the socket *descriptor*, and the memory of nf_tables for that namespace."""
        cdef Where *where = &self.where
        self.window, self.family, self.name = window, nfproto, table.encode()
        self.name_text = self.name
        _locate(where)
        self.home = Net(window, descriptor)
        self.net = self.home.address
        self._find_ours()

    cdef void _find_ours(self) noexcept nogil:
        """Set `pernet` to the memory that nf_tables has for the namespace, if a table with our name exists.

        A namespace has a slot for each module. No symbol says which slot is that of nf_tables. It is the one in whose
        list of tables there is a table with our name.
        """
        cdef uint64_t place
        cdef uint32_t i
        for i in range(1, self.home.slots()):
            place = self.home.slot(i)
            if place and self._find_table(place):
                self.pernet = place
                return

    cdef uint64_t seq_at(self) noexcept nogil:
        """Return the address of the generation number of the ruleset."""
        return (self.pernet if self.where.seq_is_ours else self.net) + self.where.base_seq

    cdef uint64_t _find_table(self, uint64_t pernet) noexcept nogil:
        """Return the address of the table if *pernet* is the memory of nf_tables for a namespace, or else 0.

        Sets `is_odd` if the list of tables is inconsistent.
        """
        cdef Where *where = &self.where
        cdef uint64_t first = pernet + where.tables, at, before = first
        cdef char memory[ROOM]
        cdef char name[MOST_NAME]
        cdef int _i
        self.is_odd = False
        at = self.window.word(first)
        for _i in range(MOST_TABLES):
            if at == first:
                return 0
            if (at <= PAGE or self.window.look(at - where.table_next, memory, where.table_size)
                    or word_in(memory, where.table_prev) != before):
                break
            if (_bits(memory, where.table_family) == self.family
                    and self._name_at(word_in(memory, where.table_name), name) and strcmp(name, self.name_text) == 0
                    and not _bits(memory, where.table_genmask) & self.genmask()):
                self.table_handle = word_in(memory, where.table_handle)
                self.is_owned = (_bits(memory, where.table_flags) & IS_OWNED) != 0
                return at - where.table_next
            before = at
            at = word_in(memory, where.table_next)
        self.is_odd = True
        return 0

    cdef uint64_t genmask(self) noexcept nogil:
        """Return the bit that is set in the genmask of objects that do not belong to the generation in use."""
        return <uint64_t> 1 << (self.window.word(self.net + self.where.gencursor) & 1)

    cdef bint _name_at(self, uint64_t at, char *name) noexcept nogil:
        """Copy the text at an address. The next page is read only if the text goes on there."""
        cdef size_t done = 0, part
        if at <= PAGE:
            return False
        while done < MOST_NAME:
            part = min(<size_t> MOST_NAME - done, PAGE - (at + done) % PAGE)    # no page of a kernel is smaller
            if self.window.look(at + done, name + done, part):
                return False
            if strnlen(name + done, part) < part:
                return True
            done += part
        return False

    cdef int walk(self) noexcept nogil:
        """Find all chains and rules; none if there is no such table.

        Return 0, ENOMEM, EAGAIN while a commit ends, or EFAULT if the memory makes no sense. That may pass: the kernel
        adds chains and tables to their lists before a commit.
        """
        cdef Where *where = &self.where
        cdef uint64_t head, at, before, genmask = self.genmask()
        cdef char memory[ROOM]
        cdef int failed, _i
        cdef Found *chain
        self.chain_count = self.rule_count = self.kind_count = 0
        self.table_handle = 0
        self.is_owned = False
        if not self.pernet:
            self._find_ours()
        if not self.pernet:
            return 0                 # there is no such table
        # while a commit ends, the generation is new, but names, policies and their counters may still be the old ones
        if where.gc_seq and self.window.word(self.pernet + where.gc_seq) & 1:
            return EAGAIN
        self.table = self._find_table(self.pernet)
        if not self.table:
            return EFAULT if self.is_odd else 0
        head = before = self.table + where.table_chains
        at = self.window.word(head)
        for _i in range(MOST_CHAINS):
            if at == head:
                return 0
            if (at <= PAGE or self.window.look(at - where.chain_next, memory, where.chain_size)
                    or word_in(memory, where.chain_prev) != before):
                return EFAULT
            # leave out chains that are not committed yet, and deleted ones
            if not _bits(memory, where.chain_genmask) & genmask:
                chain = self._add_chain()
                if chain == NULL:
                    return ENOMEM
                failed = self._walk_chain(chain, at - where.chain_next, memory, genmask)
                if failed:
                    return failed
            before = at
            at = word_in(memory, where.chain_next)
        return EFAULT

    cdef Found *_add_chain(self) noexcept nogil:
        cdef Found *more
        if self.chain_count == self.chain_room:
            more = <Found *> realloc(self.chains, (2 * <size_t> self.chain_room + 16) * sizeof(Found))
            if more == NULL:
                return NULL
            self.chains = more
            self.chain_room = 2 * self.chain_room + 16
        memset(&self.chains[self.chain_count], 0, sizeof(Found))
        self.chain_count += 1
        return &self.chains[self.chain_count - 1]

    cdef int _walk_chain(self, Found *chain, uint64_t address, const char *memory, uint64_t genmask) noexcept nogil:
        """Read one chain, and its rules."""
        cdef Where *where = &self.where
        cdef uint64_t blob, size = 0, base = address - where.base_chain
        chain.handle = word_in(memory, where.chain_handle)
        chain.policy = -1
        chain.first = chain.end = self.rule_count
        if not self._name_at(word_in(memory, where.chain_name), chain.name):
            return EFAULT
        if _bits(memory, where.chain_flags) & IS_BASE:
            chain.stats = self.window.word(base + where.base_stats)
            chain.policy = self.window.word(base + where.base_policy) & 0xff
        # a chain has two blocks of rules; the lowest bit of the cursor says which one is in use
        blob = chain.blob = word_in(memory, where.blobs[0 if genmask == 1 else 1])
        if not blob:
            return 0
        size = self.window.word(blob + where.blob_size)
        if size > <uint64_t> 1 << 32:
            return EFAULT
        if size > self.blob_room:
            free(self.blob)
            self.blob_room = size + size // 4 + PAGE
            self.blob = <char *> malloc(self.blob_room)
            if self.blob == NULL:
                self.blob_room = 0
                return ENOMEM
        if size and self.window.look(blob + where.blob_data, self.blob, size):
            return EFAULT
        chain.end = chain.first
        return self._walk_rules(chain, size)

    cdef int _walk_rules(self, Found *chain, size_t size) noexcept nogil:
        """Read the rules in `blob`, the copy of a chain's block."""
        cdef Where *where = &self.where
        cdef RuleFound *more
        cdef RuleFound *rule
        cdef size_t at = 0, length
        while at < size:
            if size - at < where.rule_data:
                return EFAULT
            if _bits(self.blob + at, where.rule_last):
                return 0 if size - at == where.rule_data else EFAULT      # the end of the block
            length = _bits(self.blob + at, where.rule_length)
            if length > size - at - where.rule_data:
                return EFAULT
            if self.rule_count == self.rule_room:
                more = <RuleFound *> realloc(self.rules, (2 * <size_t> self.rule_room + 256) * sizeof(RuleFound))
                if more == NULL:
                    return ENOMEM
                self.rules = more
                self.rule_room = 2 * self.rule_room + 256
            rule = &self.rules[self.rule_count]
            rule.handle, rule.length = _bits(self.blob + at, where.rule_handle), <uint32_t> length
            if not self._is_known(self.blob + at + where.rule_data, rule) and not self._find_counter(
                    self.blob + at + where.rule_data, length, rule):
                return EFAULT
            self.rule_count += 1
            chain.end = self.rule_count
            at += where.rule_data + length
        return 0

    cdef bint _is_known(self, const char *expressions, RuleFound *rule) noexcept nogil:
        """Whether an earlier walk has found the same rule with the same counter. Without a counter nothing tells a rule
        from the one that it replaced."""
        cdef const RuleFound *other
        cdef uint32_t number = handle_number(&self.known, rule.handle) if self.known_table == self.table_handle else 0
        if not number:
            return False
        other = <const RuleFound *> self.known.rules + (number - 1)
        if (not other.at or other.length != rule.length or word_in(expressions, other.at) != other.counter
                or handle_number(self.known_freed, other.counter)):
            return False
        rule[0] = other[0]
        return True

    cdef bint _find_counter(self, const char *expressions, size_t length, RuleFound *rule) noexcept nogil:
        """Find the address of the first counter of a rule; 0 if it has none. Return False if the rule makes no sense.
        """
        cdef Where *where = &self.where
        cdef const Kind *kind
        cdef size_t at = 0
        rule.counter = rule.at = 0
        while at < length:
            if length - at < where.data:
                return False
            kind = self._kind(word_in(expressions + at, where.ops))
            if kind == NULL or kind.size < where.data or kind.size > length - at:
                return False
            if kind.is_counter and not rule.counter:
                if kind.size < where.data + where.private_size:
                    return False
                rule.at = <uint32_t> at + where.data + where.private_counter
                rule.counter = word_in(expressions, rule.at)
                if not rule.counter:
                    return False
            at += kind.size
        return at == length

    cdef const Kind *_kind(self, uint64_t ops) noexcept nogil:
        """Return the kind of the expressions whose operations (`struct nft_expr_ops`) are at the address *ops*."""
        cdef Where *where = &self.where
        cdef Kind *kind
        cdef char name[MOST_NAME]
        cdef char memory[ROOM]
        cdef uint64_t type_at
        cdef uint32_t i, first, end
        for i in range(self.kind_count):
            if self.kinds[i].ops == ops:
                return &self.kinds[i]
        if self.kind_count == MOST_KINDS:
            self.kind_count = 0
        first, end = min(where.ops_type, where.ops_size), max(where.ops_type, where.ops_size) + 8
        if ops <= PAGE or end - first > ROOM or self.window.look(ops + first, memory, end - first):
            return NULL
        type_at = word_in(memory, where.ops_type - first)
        kind = &self.kinds[self.kind_count]
        kind.ops, kind.type = ops, type_at
        kind.size = <uint32_t> word_in(memory, where.ops_size - first)
        for i in range(self.kind_count):
            if self.kinds[i].type == type_at:
                # each use of an extension of iptables has operations of its own
                kind.is_counter = self.kinds[i].is_counter
                self.kind_count += 1
                return kind
        if type_at <= PAGE or not self._name_at(self.window.word(type_at + where.type_name), name):
            return NULL
        kind.is_counter = strcmp(name, b"counter") == 0
        if kind.is_counter:
            self.has_counters = True
            self.module = self.window.word(type_at + where.type_owner)
        self.kind_count += 1
        return kind

    # ------------------------------------------------------------------ what was found

    cdef int compare_with(self, Walk other, const HandleIndex *freed) except -1:
        """Walk faster through the rules that *other* has found; None: there is no other walk. *freed*: what was freed
        since then."""
        self.known.places = NULL
        self.known_freed = freed
        if other is not None:
            self.known, self.known_table = other.index, other.table_handle
        return 0

    cdef int make_index(self) except -1:
        """Let rules be found by their handles."""
        if handle_index(&self.index, self.rules, sizeof(RuleFound), self.rule_count):
            raise MemoryError
        return 0

    cdef Walk again(self):
        """Return another walk over the same table."""
        cdef Walk other = Walk.__new__(Walk)
        other.window, other.where, other.pernet = self.window, self.where, self.pernet
        other.home, other.net = self.home, self.net
        other.family, other.name = self.family, self.name
        other.name_text = other.name
        return other

    cdef bint is_like(self, Walk other, bint blocks_tell, const HandleIndex *freed) noexcept:
        """Whether the other walk has found the same chains with the same rules.

        Handles do not tell the rules apart: a rule that replaces another one has its handle. *blocks_tell*: the same
        block has the same rules. Otherwise the counters tell, of which some were *freed* meanwhile.
        """
        cdef uint32_t i
        cdef const Found *one
        cdef const Found *two
        if (self.table_handle != other.table_handle or self.chain_count != other.chain_count
                or self.rule_count != other.rule_count):
            return False
        for i in range(self.chain_count):
            one, two = &self.chains[i], &other.chains[i]
            if (one.handle != two.handle or one.stats != two.stats or one.policy != two.policy
                    or blocks_tell and one.blob != two.blob or one.first != two.first or one.end != two.end
                    or strcmp(one.name, two.name) != 0 or handle_number(freed, one.stats)):
                return False
        if self.rule_count and memcmp(self.rules, other.rules, self.rule_count * sizeof(RuleFound)) != 0:
            return False
        for i in range(0 if blocks_tell else self.rule_count):
            if not self.rules[i].counter or handle_number(freed, self.rules[i].counter):
                return False
        return True

    cdef bytearray unchanged(self, Walk other, const HandleIndex *freed):
        """Return a byte for each rule: whether the other walk has found it too, with the same counter, which was not
        *freed* meanwhile."""
        cdef bytearray made = bytearray(self.rule_count)
        cdef char *same = made
        cdef uint32_t i, number
        for i in range(self.rule_count):
            number = handle_number(&other.index, self.rules[i].handle)
            same[i] = (number and self.rules[i].counter and not handle_number(freed, self.rules[i].counter)
                       and not memcmp(&other.rules[number - 1], &self.rules[i], sizeof(RuleFound)))
        return made

    cdef tuple described(self):
        """Return ({handle of a chain: (name, first rule, end, policy or -1)}, handles of the rules as uint64)."""
        cdef dict chains = {}
        cdef uint32_t i
        cdef bytes handles = PyBytes_FromStringAndSize(NULL, 8 * <Py_ssize_t> self.rule_count)
        cdef uint64_t *handle = <uint64_t *> PyBytes_AS_STRING(handles)
        for i in range(self.chain_count):
            chains[self.chains[i].handle] = (
                <bytes> self.chains[i].name, self.chains[i].first, self.chains[i].end, self.chains[i].policy)
        for i in range(self.rule_count):
            handle[i] = self.rules[i].handle
        return chains, handles

    cdef bytes places(self, list rows, bytes handles):
        """Return int32 numbers: the number of the rule for each slot, then, for each policy, the number of its chain
        plus the number of rules; -1 for none. Return None if the walk has found other chains or rules.

        *rows* and *handles* are what `NftScan.outline` returns.
        """
        cdef dict by_handle = {}
        cdef const uint64_t *handle = <const uint64_t *> PyBytes_AS_STRING(handles)
        cdef Py_ssize_t slots = PyBytes_GET_SIZE(handles) // 8, i, slot, policies = 0, first, end
        cdef bytes placed
        cdef int32_t *place
        cdef Found *chain
        for i in range(self.chain_count):
            by_handle[self.chains[i].handle] = i
        for _, _, _, _, policy in rows:
            policies += policy >= 0
        placed = PyBytes_FromStringAndSize(NULL, 4 * (slots + policies))
        place = <int32_t *> PyBytes_AS_STRING(placed)
        policies = slots
        for name, number, first, end, policy in rows:
            i = by_handle.get(number, -1) if number else -1
            if i < 0 and (number or end > first):
                return None
            if i >= 0:
                chain = &self.chains[i]
                if (<Py_ssize_t> (chain.end - chain.first) != end - first or chain.name != <bytes> name or end > slots
                        or policy >= 0 and policy != chain.policy):
                    return None
                for slot in range(first, end):
                    place[slot] = <int32_t> (chain.first + slot - first)
                    if self.rules[place[slot]].handle != handle[slot]:
                        return None
            if policy >= 0:
                place[policies] = <int32_t> (self.rule_count + i) if i >= 0 else -1
                policies += 1
        return placed


cdef class NftFinder(Finder):
    """Finds where the counters of a table of nf_tables are."""

    cdef Walk found                  # the last walk
    cdef Walk kept                   # the walk that later ones are compared with
    cdef bint keeps                  # `kept` is filled
    cdef uint64_t generation         # the generation number for which `kept` is known to be true
    cdef Frees log                   # tells what the kernel frees; None: no change was seen yet, or it is impossible
    cdef bytes addresses_freed       # what was freed since `kept` was known to be true; None: not known
    cdef HandleIndex freed           # finds these addresses; it is empty if there are none, or they are not known
    cdef bint has_sequence           # `sequence` was looked for

    def __dealloc__(self):
        free(self.freed.places)

    def __init__(self, Window window not None, int nfproto, str table not None, int descriptor):
        """*descriptor* is a socket in the table's network namespace."""
        self.found = Walk(window, nfproto, table, descriptor)
        self.kept = self.found.again()
        self.home = self.found.home
        self.keeps = False
        self.compares = True
        self.rule, self.policy = self.found.where.counter, self.found.where.stats
        self.slack = 0
        self.sequence = 0
        prepare_for(SEQUENCE, "nf_tables")

    cdef int mark(self, Marks *marks) except -1:
        memset(marks, 0, sizeof(marks[0]))
        if self.found.where.seq_is_ours and not self.found.pernet:
            self.found._find_ours()
        self.has_marks = not self.found.where.seq_is_ours or self.found.pernet != 0
        # the generation number of the ruleset, and the cursor, which says which of two generations is in use
        marks.at[0] = self.found.seq_at() if self.has_marks else 0
        marks.mask[0] = 0xffffffff   # the widths with which BTF was asked for them
        marks.at[1] = self.found.net + self.found.where.gencursor
        marks.mask[1] = 0xff
        return 0

    cdef int find(self, const Marks *marks) except -1:
        cdef int failed
        self._look_at_log()
        self.found.compare_with(self.kept if self._can_follow(marks) else None, &self.freed)
        with nogil:
            failed = self.found.walk()
        self.found.compare_with(None, NULL)
        self.rules = self.found.rule_count
        if self.found.has_counters and not self.has_sequence:
            self.sequence = variable_at(self.found.window, SEQUENCE, "nf_tables", self.found.module)
            self.has_sequence = True
        if not failed and self.found.is_owned:
            raise Hindrance("a process owns the table: when it ends, the table goes without a new generation")
        return failed

    cdef int _look_at_log(self) except -1:
        """Find out what was freed since `kept` was known to be true. The log begins with the first change."""
        cdef Frees log
        free(self.freed.places)
        self.freed.places = NULL
        self.addresses_freed = None
        self.found.frees = NO_LOG
        if not self.keeps:
            return 0
        try:
            log = shared_frees()
        except (Unsupported, KernelError):
            log = None               # without a log, only single commits are followed
        if log is not self.log:
            self.log, self.kept.frees = log, NO_LOG
        if log is not None:
            self.found.frees = log.count()
            if self.kept.frees != NO_LOG:
                self.addresses_freed = log.after(self.kept.frees)
        if self.addresses_freed and handle_index(&self.freed, PyBytes_AS_STRING(self.addresses_freed), 8,
                                                 PyBytes_GET_SIZE(self.addresses_freed) // 8):
            self.addresses_freed = None
            raise MemoryError
        return 0

    cdef bint _is_next(self, const Marks *marks) noexcept:
        """Whether there was at most one commit since `kept` was known to be true.

        A commit makes what is new before it frees what is old. So after it, the same address still means the same
        counter, or the same block of rules. A second commit may put something else there: then the log tells.
        """
        cdef uint32_t commits = <uint32_t> (marks.value[0] - self.generation)
        return commits <= 1

    cdef bint _can_follow(self, const Marks *marks) noexcept:
        """Whether it is known which counters of `kept` still mean the same rules."""
        return self.keeps and (self.addresses_freed is not None or self._is_next(marks))

    cdef bint is_known(self, const Marks *marks) except -1:
        """Whether the chains still have the rules that they had. A commit that changes a rule of a chain, or its
        comment, makes another block, and another counter for the rule."""
        if not self._can_follow(marks) or not self.found.is_like(self.kept, self._is_next(marks), &self.freed):
            return False
        self.generation, self.kept.frees = marks.value[0], self.found.frees
        return True

    cdef int keep(self, const Marks *marks) except -1:
        self.found, self.kept = self.kept, self.found
        self.found.pernet = self.kept.pernet
        self.generation = marks.value[0]
        self.keeps = True
        self.kept.make_index()
        return 0

    cdef bytes addresses(self):
        cdef Walk found = self.found
        cdef uint32_t i
        cdef bytes made = PyBytes_FromStringAndSize(NULL, 8 * (<Py_ssize_t> found.rule_count + found.chain_count))
        cdef uint64_t *address = <uint64_t *> PyBytes_AS_STRING(made)
        for i in range(found.rule_count):
            address[i] = found.rules[i].counter
        for i in range(found.chain_count):
            address[found.rule_count + i] = found.chains[i].stats
        return made

    cdef bint may_read(self, object scan) except -1:
        try:
            scan.socket.generation()
        except AccessDenied:
            return False
        except KernelError:
            return True              # then a reading says what is wrong
        return True

    cdef tuple follow(self, object scan, Marks *marks, bytearray asked):
        """A rule with the same handle and the same counter says the same, unless a chain has another name. The handle
        alone does not tell: a rule that replaces another one has its handle."""
        cdef bytearray known
        cdef Py_ssize_t unknown
        if not self._can_follow(marks) or not self.has_marks or self.found.table_handle != self.kept.table_handle:
            return None
        known = self.found.unchanged(self.kept, &self.freed)
        unknown = known.count(0)
        if unknown > len(known) // CHANGES + FEW_CHANGES:
            return None
        chains, handles = self.found.described()
        reading = scan.follow(marks.value[0], chains, handles, known)
        asked[:] = known.translate(_NOT)
        return reading

    cdef bytes places(self, object scan, Marks *marks):
        cdef uint64_t generation
        generation, rows, handles = scan.outline()
        if generation != marks.value[0] and self.has_marks:
            return None
        # if nobody has made the table, there are no chains and no rules
        return self.found.places(rows, handles)
