# The layout of a table of nf_tables as it was read.

from libc.stdint cimport uint32_t, uint64_t

from .._core cimport xt_counters
from .._netlink cimport Channel, Writer

# A chain that the table has by iptables' own definition.
cdef struct Builtin:
    char name[16]
    char kind[8]
    int hook
    int priority

# One chain. Its name is an offset while names are gathered, and a pointer once they are all there.
cdef struct ChainRow:
    size_t name_at
    const char *name
    int builtin                 # which one, or -1
    uint64_t handle             # 0: a builtin chain that nobody has used yet
    uint32_t use                # rules, and jumps to it
    int policy
    xt_counters counters
    size_t first                # slots of its rules
    size_t end
    int lane                    # which one has read it
    size_t message_first        # where its messages stand among those that are kept there
    size_t message_end

cdef struct ChainList:
    Writer rows                 # of ChainRow
    Writer names
    uint64_t digest
    int failed

cdef struct Ruleset:
    int nfproto
    Builtin builtins[5]
    int builtin_count
    Writer filter               # the attribute that names the table
    ChainList chains
    ChainList again
    bint keep                   # the messages of the rules as well
    uint32_t generation         # that all this is of; 0: of no single one

# What one socket reads: the rules of chains that follow each other. All that two of them have read is in the first
# one's rows of slots at last; messages stay where they are.
cdef struct Lane:
    Ruleset *ruleset
    Channel *channel
    size_t begin                # of these chains
    size_t end
    bint unchanged              # the chains and rules are those of the last time
    int failed
    Writer question             # the attributes that name the table and a chain
    Writer packets              # a uint64 a slot
    Writer sizes
    Writer identities
    Writer kept                 # the messages of the rules, in the order of their slots
    uint64_t trail              # of the rules of one chain, handles included
