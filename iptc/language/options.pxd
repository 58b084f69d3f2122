# One command of iptables while it is read: its words, its rule, and what to do with the rule.

from libc.stdint cimport uint8_t

from .._core cimport Family, xt_entry_match
from .plugins cimport OptionRow, PluginRow
from .words cimport Words

cdef enum:
    MOST_PARTS = 256         # the most matches of one rule
    ENTRY_ROOM = 1 << 16     # the kernel stores the size of an entry in 16 bits
    SCRATCH_ROOM = 1 << 16
    NAME_ROOM = 32           # the size of a name: no chain, policy or extension has more than 28 bytes

# The commands, one bit each. `command_letter` returns the letter of the option: a new command needs its letter there.
# DELETE_NUM and ZERO_NUM have the number of a rule.
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
    char *scratch            # the memory that the plugin uses as udata
    unsigned int flags       # the options that were given, as bits that the plugin defines
    bint completed           # a later match has the same name, and gets the options

# A plugin whose options are allowed from here on, and whether it is the target.
cdef struct ListedPlugin:
    PluginRow *row
    bint is_target

cdef struct Spec:
    Family *family
    bint old                 # read and refuse as iptables before 1.8.10
    bint whole_words         # read the value of a base option as iptables 1.8.8 and 1.8.9
    const char *program      # iptables-restore or ip6tables-restore; NULL for a rule specification without a command
    const char *table        # the table of the line, or NULL
    const char *hidden       # chains that hide the target with that name: names of NAME_ROOM bytes each
    size_t hidden_count

    Words words
    # the state of getopt
    int optind
    char *next
    char *optarg
    int optopt
    PluginRow *found_row     # the option that was found last, and the plugin that it belongs to
    bint found_is_target
    const OptionRow *found

    # the command
    unsigned int command
    const char *chain
    const char *other        # the policy, or the new name of a chain
    unsigned int number      # the number of a rule, from 1; 0 if none is given
    unsigned int options
    bint negated
    char *protocol
    bint protocol_used
    char *jump
    bint has_target
    bint ignored             # the line is for the other family
    const char *source
    const char *destination
    long wait                # the value of `-w`, which is checked and not used
    bint wait_interval

    # the rule: the base part, the matches in their order, and the target, which is moved behind them at the end
    size_t size
    size_t target_at
    char entry[2 * ENTRY_ROOM]       # it follows 64-bit numbers, and so is aligned as they are
    char target[ENTRY_ROOM]
    Part parts[MOST_PARTS]
    size_t count
    Part target_part
    ListedPlugin listings[MOST_PARTS + 3]
    size_t listed
    char scratch[SCRATCH_ROOM]
    size_t scratch_used

    # the addresses as libxtables returns them, if there are several or they are not plain numbers
    void *addresses[2]
    void *masks[2]
    unsigned int networks[2]

    # the name of a plugin that was not looked up yet, and so ended the reading
    bint wanted
    bint wanted_is_target
    char wanted_name[NAME_ROOM]
    bint wanted_for_chain    # a chain gets this name: it is no error if there is no such extension

# The base options that were given, as bits in iptables' order.
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

# The results of `next_option` besides the letter of a base option.
cdef enum:
    ENDED = -1
    NO_OPTION = 1            # a word that is no option
    OF_EXTENSION = 256       # an option of an extension; see `found`

cdef int next_option(Spec *spec) noexcept nogil
cdef void set_option(Spec *spec, unsigned int option) noexcept nogil
cdef void check_options(Spec *spec) noexcept nogil
cdef const char *option_name(Spec *spec, unsigned int option) noexcept nogil
cdef char command_letter(unsigned int command) noexcept nogil
cdef void set_command(Spec *spec, unsigned int command) noexcept nogil

cdef inline uint8_t *flags_of(Spec *spec) noexcept nogil:
    """Return the address of flags, which invflags follows, in the entry."""
    return <uint8_t *> spec.entry + spec.family.flags

cdef inline bint has_word(Spec *spec) noexcept nogil:
    """Whether the next word can belong to the option before it."""
    return (spec.optind < spec.words.count and spec.words.list[spec.optind][0] != b'-'
            and spec.words.list[spec.optind][0] != b'!')

cdef inline char *next_word(Spec *spec) noexcept nogil:
    spec.optind += 1
    return spec.words.list[spec.optind - 1]
