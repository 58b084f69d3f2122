# The commands of one table of a restored text, as they were read.

from libc.stdint cimport uint16_t, uint32_t

from .._core cimport Family, xt_counters
from .options cimport NAME_ROOM

# One command; its entry follows, and for DELETE and CHECK the mask of what is compared.
cdef struct Record:
    uint32_t size            # of all of it
    uint32_t line
    uint32_t command
    uint32_t number          # of a rule, from 1
    uint32_t entry_size
    uint32_t counted         # whether *counters* were given
    char chain[NAME_ROOM]    # "" for all
    char other[NAME_ROOM]    # the policy, the new name, or what the rule jumps to
    xt_counters counters     # of a policy

cdef enum:
    DECLARE = 1 << 15        # `:CHAIN POLICY [packets:bytes]`, beside the commands of `_options`
    ONLY_JUMP = 1 << 16      # of a rule that is not for this family: where it jumps to must be there all the same
    HAS_EXTENSION = 2        # in *counted* of a rule: its target is an extension, whatever it is named

cdef class Program:
    cdef Family *family
    cdef readonly str table
    cdef readonly uint32_t line          # of `*table`
    cdef readonly uint32_t last_line     # of `COMMIT`
    cdef readonly size_t rules
    cdef readonly bint flush
    cdef readonly bint nft               # whether it was read as iptables-nft-restore reads
    cdef char *memory
    cdef size_t used
    cdef size_t room

# The rule of one command of a program, or those of commands `-A` that follow each other: their records, and how many.
cdef class Run:
    cdef Program program
    cdef size_t start
    cdef size_t end
    cdef Py_ssize_t count

cdef inline const Record *first_record(Run run) except NULL:
    if run.program is None or run.program.memory == NULL:
        raise ValueError("this run has no rules")
    return <const Record *> (run.program.memory + run.start)
