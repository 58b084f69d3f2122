# The kernel's structures for writing a legacy table, and the draft of one.

from libc.stdint cimport int32_t, uint32_t, uint64_t

from .blob cimport Buffer, TableBlob
from .._applied cimport Mark
from .._core cimport Family, xt_counters
from .._rope cimport Rope

cdef extern from "shim.h" nogil:

    struct ipt_replace:
        char name[32]
        unsigned int valid_hooks
        unsigned int num_entries
        unsigned int size
        unsigned int hook_entry[5]
        unsigned int underflow[5]
        unsigned int num_counters
        xt_counters *counters
    struct xt_counters_info:
        char name[32]
        unsigned int num_counters
        xt_counters counters[0]

# IPv6 has the same structures: only the entries behind them differ
ctypedef ipt_replace Replace
ctypedef xt_counters_info AddCounters

# ------------------------------------------------------------- a table to be written

cdef enum:
    # the `jump` of a rule that jumps to no chain
    EXTENSION = -1           # its target is an extension
    FALL_THROUGH = -2        # it has no target
    VERDICT = -3             # its target is a verdict
    NEW_RULE = 0xffffffff     # the `place` of a rule that was not in the table that was read

# Where the counters of an entry come from: `base`, and added to it the last counters of the entry number `place` of the
# old table.
cdef struct Origin:
    xt_counters base
    uint32_t place

cdef struct RuleRow:
    const char *entry        # points into the blob that was read, or into bytes that the draft keeps
    int32_t jump             # the number of the chain to jump to, or one of the kinds above
    int32_t verdict          # of a row with VERDICT: xtables' number
    Origin counters

cdef class DraftChain:
    cdef str name
    cdef bytes label
    cdef int number
    cdef int hook                # of a builtin chain, else NF_INET_NUMHOOKS
    cdef int32_t verdict
    cdef Origin policy
    cdef xt_counters policy_read
    cdef Rope rules              # of RuleRow
    cdef size_t references       # how many rules jump here
    cdef uint32_t first          # offset of the first rule, once it is laid out

    cdef RuleRow *row(self, size_t position) noexcept nogil
    cdef RuleRow *make_room(self, size_t position) except NULL
    cdef void take_rules(self, DraftChain other) noexcept

cdef class Draft:
    cdef Family *family
    cdef readonly TableBlob blob
    cdef int fd
    cdef dict by_name
    cdef list chains             # by number; None for a chain that was deleted
    cdef list kept               # objects into whose memory rows point
    cdef readonly bint changed
    cdef Buffer buffer           # the memory of the request
    cdef char *request           # struct ipt_replace and the entries
    cdef Origin *origins         # one for each entry of the request
    cdef xt_counters *last       # the last counters of the old table, which the kernel returns
    cdef char *added             # struct xt_counters_info: the counters that were added to the new table
    cdef bint committed
    cdef public Mark mark        # notes whether the table was changed

    cdef void _free(self) noexcept
    cdef int _collect(self) except -1
    cdef int _read_row(self, DraftChain chain, const char *entries, uint32_t at, uint32_t place,
                       dict by_offset) except -1
    cdef DraftChain _new_chain(self, str name)
    cdef int _check_new(self, chain) except -1
    cdef DraftChain _find(self, name)
    cdef int _let_go(self, RuleRow *row) except -1
    cdef int _fill(self, RuleRow *row, bytes entry) except -1
    cdef void zero_row(self, RuleRow *row) noexcept
    cdef void _zero(self, Origin *counters, const xt_counters *read) noexcept
    cdef list _in_order(self)
    cdef list _lay_out(self, uint32_t *entries, uint64_t *size)
    cdef int _compile(self) except -1
    cdef uint32_t _write_rule(self, char *blob, uint32_t at, const RuleRow *row) except 0
    cdef void _write_standard(self, char *target, int32_t verdict) noexcept
    cdef char *_write_head(self, char *entry, uint32_t target_size) noexcept
    cdef uint32_t _write_foot(self, char *entry, int32_t verdict) noexcept
    cdef uint32_t _write_error(self, char *entry, const char *label, size_t length) noexcept
    cdef int _commit(self) noexcept nogil
    cdef int _undo(self, Replace *request, const xt_counters *last, AddCounters *add) noexcept nogil
    cdef void _begin(self, Replace *request, uint32_t entries, uint32_t size, uint32_t counters,
                     xt_counters *last) noexcept
    cdef bint _replace(self, const Replace *request) noexcept nogil
    cdef int _add_counters(self, AddCounters *add, uint32_t entries) noexcept nogil
    cdef int _prepare(self) except -1
    cdef int _send(self) noexcept
    cdef int _put_back(self) noexcept
    cdef object _refusal(self, int failed, str what)
