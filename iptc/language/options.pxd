# One command of iptables' language while it is read: its words, the rule that it describes, what is to be done with it.

from libc.stdint cimport uint8_t

from .._core cimport Family, xt_entry_match
from .plugins cimport OptionRow, PluginRow
from .words cimport Words

cdef enum:
    MOST_PARTS = 256         # matches of one rule
    ENTRY_ROOM = 1 << 16     # the kernel counts the bytes of an entry in 16 bits
    SCRATCH_ROOM = 1 << 16
    NAME_ROOM = 32           # of a name: no chain, policy or extension has one of more than 28 bytes

# The commands; `command_letter` gives the letter of the option. DELETE_NUM and ZERO_NUM have a rule number.
cdef enum:
    NO_COMMAND = 0
    INSERT = 1 << 0
    DELETE = 1 << 1
    DELETE_NUM = 1 << 2
    REPLACE = 1 << 3
    APPEND = 1 << 4
    LIST = 1 << 5
    FLUSH = 1 << 6
    ZERO = 1 << 7
    NEW_CHAIN = 1 << 8
    DELETE_CHAIN = 1 << 9
    SET_POLICY = 1 << 10
    RENAME = 1 << 11
    LIST_RULES = 1 << 12
    ZERO_NUM = 1 << 13
    CHECK = 1 << 14
    WITH_RULE = INSERT | DELETE | REPLACE | APPEND | CHECK

cdef struct Part:
    PluginRow *row
    xt_entry_match *data
    char *scratch            # the plugin's udata
    unsigned int flags       # what was given, as the plugin keeps it
    bint completed           # a later match of the same name gets the options

# Where options are looked for: those of a plugin, and whether it is the target.
cdef struct Listing:
    PluginRow *row
    bint is_target

cdef struct Spec:
    Family *family
    bint old                 # iptables before 1.8.10: other messages, and a few other readings
    const char *program      # iptables-restore or ip6tables-restore, or NULL: a rule specification alone
    const char *table        # of the line, or NULL
    const char *hidden       # names of NAME_ROOM bytes, one behind the other: chains that hide the target of that name
    size_t hidden_count

    Words words
    # where reading stands, as getopt keeps it
    int optind
    char *next
    char *optarg
    int optopt
    PluginRow *found_row     # the option that was found last, and whose it is
    bint found_is_target
    const OptionRow *found

    # what was read
    unsigned int command
    const char *chain
    const char *other        # policy, or the new name
    unsigned int number      # of a rule, from 1; 0: none
    unsigned int options
    bint negated
    char *protocol
    bint protocol_used
    char *jump
    bint has_target
    bint ignored             # the line is of the other family
    const char *source
    const char *destination
    long wait                # of `-w`: it says nothing of the rule, and is only read
    bint wait_interval

    # the rule: the base part and the matches in their order; the target, until it is put behind them
    size_t size
    size_t target_at
    char entry[2 * ENTRY_ROOM]       # behind numbers of 64 bits, and so aligned as they are
    char target[ENTRY_ROOM]
    Part parts[MOST_PARTS]
    size_t count
    Part target_part
    Listing listings[MOST_PARTS + 3]
    size_t listed
    char scratch[SCRATCH_ROOM]
    size_t scratch_used

    # the addresses, where there are several or they were not plain: as libxtables returns them
    void *addresses[2]
    void *masks[2]
    unsigned int networks[2]

    # a name that nobody has looked up yet: what ended the reading
    bint wanted
    bint wanted_is_target
    char wanted_name[NAME_ROOM]
    bint wanted_for_chain    # a chain is to have it: no extension need be there

# Bits of the base options that were given, in iptables' order.
cdef enum:
    OPT_NUMERIC = 1 << 0
    OPT_SOURCE = 1 << 1
    OPT_DESTINATION = 1 << 2
    OPT_PROTOCOL = 1 << 3
    OPT_JUMP = 1 << 4
    OPT_VERBOSE = 1 << 5
    OPT_EXPANDED = 1 << 6
    OPT_VIANAMEIN = 1 << 7
    OPT_VIANAMEOUT = 1 << 8
    OPT_LINENUMBERS = 1 << 9
    OPT_COUNTERS = 1 << 10
    OPT_FRAGMENT = 1 << 11
    OPTIONS = 12

# What `next_option` returns beside the letter of a base option.
cdef enum:
    ENDED = -1
    NO_OPTION = 1            # a word that is none
    OF_EXTENSION = 256       # in `found`

cdef int next_option(Spec *spec) noexcept nogil
cdef void set_option(Spec *spec, unsigned int option) noexcept nogil
cdef void check_options(Spec *spec) noexcept nogil
cdef const char *option_name(Spec *spec, unsigned int option) noexcept nogil
cdef char command_letter(unsigned int command) noexcept nogil
cdef void set_command(Spec *spec, unsigned int command) noexcept nogil

cdef inline uint8_t *flags_of(Spec *spec) noexcept nogil:
    """Flags and, in the next byte, invflags of the entry."""
    return <uint8_t *> spec.entry + spec.family.flags

cdef inline bint has_word(Spec *spec) noexcept nogil:
    """Whether the next word can belong to the option before it."""
    return (spec.optind < spec.words.count and spec.words.list[spec.optind][0] != b'-'
            and spec.words.list[spec.optind][0] != b'!')

cdef inline char *next_word(Spec *spec) noexcept nogil:
    spec.optind += 1
    return spec.words.list[spec.optind - 1]
