# The commands for one table of a restored text, after reading.

from libc.stdint cimport uint16_t, uint32_t

from .._core cimport Family, xt_counters
from .options cimport NAME_ROOM

# One command. Its entry follows, and for DELETE and CHECK the mask of the bits to compare.
cdef struct Record:
    uint32_t size            # of the record with everything that follows
    uint32_t line
    uint32_t command
    uint32_t number          # of a rule, counting from 1
    uint32_t entry_size
    uint32_t counted         # whether *counters* are given
    char chain[NAME_ROOM]    # "" for all chains
    char other[NAME_ROOM]    # the policy, the new name of the chain, or the chain that the rule jumps to
    xt_counters counters     # the counters of a policy

cdef enum:
    DECLARE = 1 << 15        # `:CHAIN POLICY [packets:bytes]`, which is no command of an option
    ONLY_JUMP = 1 << 16      # the rule is for the other family; the chain that it jumps to must exist nevertheless
    HAS_EXTENSION = 2        # in *counted* of a rule: its target is an extension, even if a chain has that name

cdef class RestoredTable:
    cdef Family *family
    cdef readonly str table
    cdef readonly uint32_t line          # the line of `*table`
    cdef readonly uint32_t last_line     # the line of `COMMIT`
    cdef readonly size_t rules
    cdef readonly bint flush
    cdef readonly bint nft               # whether it was read in the way of iptables-nft-restore
    cdef char *memory
    cdef size_t used
    cdef size_t room

# The rule of one command, or the rules of commands `-A` that follow each other: where their records are.
cdef class Run:
    cdef RestoredTable restored
    cdef size_t start
    cdef size_t end
    cdef Py_ssize_t count

cdef inline const Record *first_record(Run run) except NULL:
    if run.restored is None or run.restored.memory == NULL:
        raise ValueError("this run has no rules")
    return <const Record *> (run.restored.memory + run.start)
