# What the kernel's interface for writing a table looks like to C.

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

# of either family: they differ in the entries that follow only
ctypedef ipt_replace Replace
ctypedef xt_counters_info AddCounters

# ------------------------------------------------------------- a table to be written

cdef enum:
    # kinds of targets, where there is no chain to jump to
    EXTENSION = -1           # the kernel finds it by its name
    FALL_THROUGH = -2        # no target: on to the next rule
    VERDICT = -3
    NOWHERE = 0xffffffff     # the place of a rule that was not in the table that was read

# Where the counters of an entry come from: what they are set to, and what the entry at `origin` of the old table had at
# its end.
cdef struct Origin:
    xt_counters base
    uint32_t place

cdef struct RuleRow:
    const char *entry        # in the blob that was read, or in bytes that the draft keeps
    int32_t jump             # the number of a chain, or the kind of target
    int32_t verdict
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
    cdef list kept               # what rows point into
    cdef readonly bint changed
    cdef Buffer buffer           # that the request stands in
    cdef char *request           # struct ipt_replace and the entries
    cdef Origin *origins         # of each entry in it
    cdef xt_counters *last       # the counters of the old table at its end
    cdef char *added             # struct xt_counters_info: what each entry of the new table was given
    cdef bint committed
    cdef public Mark mark        # where it is noted that the table is changed

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
