# A table of nf_tables, as it was read.

from libc.stdint cimport uint32_t, uint64_t

from .._core cimport xt_counters
from .._netlink cimport Channel, Writer

# A builtin chain of the table, as iptables defines it.
cdef struct Builtin:
    char name[16]
    char kind[8]
    int hook
    int priority

# One chain. `name_at` is the offset of its name while names are collected; after that `name` points to it.
cdef struct ListedChain:
    size_t name_at
    const char *name
    int builtin                 # the number of the builtin chain, or -1
    uint64_t handle             # 0: a builtin chain that does not exist yet
    uint32_t use                # the number of its rules and of jumps to it
    int policy
    xt_counters counters
    size_t first                # the slots of its rules
    size_t end
    int lane                    # the number of the lane that has read it
    size_t message_first        # where its messages begin in `kept` of that lane
    size_t message_end

cdef struct ChainList:
    Writer rows                 # an array of ListedChain
    Writer names
    uint64_t digest
    bint doubled                # two chains of the same name were listed
    int failed

cdef struct Ruleset:
    int nfproto
    Builtin builtins[5]
    int builtin_count
    Writer filter               # the attribute with the name of the table
    ChainList chains
    ChainList again
    bint keep                   # whether to keep the messages of the rules
    bint twice                  # whether to dump each chain until two dumps are equal
    uint32_t generation         # the generation that everything belongs to; 0 if it is not the same for all

# The work of one socket: to read the rules of chains that follow each other. In the end the first lane has the slots of
# both lanes. Messages stay in their own lane.
cdef struct Lane:
    Ruleset *ruleset
    Channel *channel
    size_t begin                # the first of these chains, and the one after the last
    size_t end
    bint unchanged              # chains and rules are the same as in the last reading
    int failed
    Writer question             # the attributes with the names of the table and a chain
    Writer packets              # a uint64 for each slot
    Writer sizes
    Writer identities
    Writer handles
    Writer kept                 # the messages of the rules, in the order of the slots
    uint64_t trail              # a digest of the rules of one chain, with their handles
    uint64_t previous           # the handle of the rule that the dump gave last; 0: none
    bint has_gaps               # the dump gave a rule twice, or left some out
