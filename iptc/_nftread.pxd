# The layout of a table of nf_tables as it was read.

from libc.stdint cimport uint32_t, uint64_t

from ._core cimport xt_counters
from ._netlink cimport Channel, Writer

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
    size_t message_first        # where its messages stand among those that are kept
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
    Writer question             # and the chain
    ChainList chains
    ChainList again
    Writer packets              # a uint64 a slot
    Writer sizes
    Writer identities
    bint keep
    Writer kept                 # the messages of all rules, in the order of their slots
    uint64_t trail              # of the rules of one chain, handles included
    uint32_t generation         # that all this is of; 0: of no single one
