# libxtables and its plugins as C declares them, the guard around them, and a plugin as other modules call it.

from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t

from .._linux cimport in6_addr, in_addr
from .._core cimport xt_entry_match

# ----------------------------------------------------------------- C: libxtables

cdef extern from "shim.h" nogil:
    enum:
        NFPROTO_UNSPEC
        XTTYPE_NONE
        XTOPT_INVERT
        XTOPT_MAND

    struct option:
        const char *name
        int has_arg
        int val

    struct xt_option_entry:
        const char *name
        unsigned int type
        unsigned int id, excl, also, flags

    struct xt_option_call:
        const char *arg
        const char *ext_name
        const xt_option_entry *entry
        void *data
        unsigned int xflags
        bint invert
        uint8_t nvals
        xt_entry_match **match
        void *xt_entry
        void *udata

    struct xt_fcheck_call:
        const char *ext_name
        void *data
        void *udata
        unsigned int xflags

    # struct xtables_target has the same layout, up to udata_size
    struct xtables_match:
        const char *version
        const char *name
        const char *real_name
        uint8_t revision
        uint8_t ext_flags
        uint16_t family
        size_t size
        size_t userspacesize
        void (*init)(xt_entry_match *) noexcept nogil
        int (*parse)(int, char **, int, unsigned int *, const void *, xt_entry_match **) noexcept nogil
        void (*final_check)(unsigned int) noexcept nogil
        void (*save)(const void *, const xt_entry_match *) noexcept nogil
        const char *(*alias)(const xt_entry_match *) noexcept nogil
        const option *extra_opts
        void (*x6_parse)(xt_option_call *) noexcept nogil
        void (*x6_fcheck)(xt_fcheck_call *) noexcept nogil
        const xt_option_entry *x6_options
        size_t udata_size

    struct xtables_pprot:
        const char *name
        uint8_t num

    enum:
        OTHER_PROBLEM
        PARAMETER_PROBLEM

cdef extern from "libxtables.h" nogil:
    # the functions of libxtables, which `use_family` loads
    struct LibXTables "libxtables":
        void (*set_nfproto)(uint8_t family) noexcept nogil
        void (*options_fcheck)(const char *name, unsigned int xflags, const xt_option_entry *table) noexcept nogil
        uint16_t (*parse_protocol)(const char *text) noexcept nogil
        void (*ipparse_multiple)(const char *text, in_addr **addresses, in_addr **masks,
                                 unsigned int *count) noexcept nogil
        bint (*strtoui)(const char *text, char **end, unsigned int *value, unsigned int least,
                        unsigned int most) noexcept nogil
        void (*ip6parse_multiple)(const char *text, in6_addr **addresses, in6_addr **masks,
                                  unsigned int *count) noexcept nogil
        const xtables_pprot *chain_protos
        char *(*strdup)(const char *text) noexcept nogil       # NULL before 1.8.8
        void *strtoul_base                                     # NULL before 1.8.11

cdef const LibXTables *libxtables

# Inside the guard: refuse something, as libxtables does. It does not return.
cdef void (*xtables_error)(int status, const char *format, ...) noexcept nogil

# ------------------------------------------------------------------ C: the guard

cdef extern from "shim.h" nogil:
    enum:
        SHIM_IDS_DIFFER
    int shim_init()
    int shim_guard(void (*body)(void *) noexcept nogil, void *arg)
    int shim_capture(void (*body)(void *) noexcept nogil, void *arg)
    const char *shim_message()
    int shim_refused_with()
    enum:
        SHIM_OUT_OF_MEMORY
    void shim_trap_sigfpe()
    void shim_keep_copies()
    void shim_lend(void *payload, size_t room)
    void shim_print(const char *text, size_t length)
    int shim_ask_elsewhere(int fd)
    void shim_warn(const char *text)
    const char *shim_out(size_t *length)
    const char *shim_err(size_t *length)
    void shim_set_getopt(char *arg, int index)
    int shim_get_optind()

# ---------------------------------------------------- C: names that are looked up

cdef extern from "names.h" nogil:
    struct NameQuestion "question":
        int kind
    struct Names "names":
        bint wanted
        NameQuestion question
    struct NameAnswer "answer":
        pass
    struct protoent:
        const char *p_name
    void names_begin(Names *looked)
    void names_end(Names *looked)
    void names_use(Names *looked)
    NameAnswer *names_ask(const NameQuestion *asked)
    int names_keep(Names *looked, NameAnswer *found)
    protoent *names_protocol(int number)

cdef extern from "shim.h":
    ctypedef void (*shim_registered)(int is_target, void *extension) noexcept
    int shim_load(const char *path, shim_registered callback)

# ------------------------------------------------------------------- the guard

cdef int use_family(int nfproto) except -1
cdef bint library_there() except -1
cdef str text_of(const char *text, size_t length)
cdef int run_guarded(void (*body)(void *) noexcept nogil, void *arg) except -1
cdef bytes output_of(void (*body)(void *) noexcept nogil, void *arg)
cdef int captured(void (*body)(void *) noexcept nogil, void *arg, Names *looked) noexcept nogil
cdef int look_up(Names *looked) except -1
cdef void begin_names(Names *looked) noexcept nogil
cdef void end_names(Names *looked) noexcept nogil
cdef void print_text(const char *text, size_t length) noexcept nogil
cdef void warn_text(const char *text) noexcept nogil
cdef const char *printed_text(size_t *length) noexcept nogil
cdef str said()
cdef int refused_with() noexcept nogil
cdef int warn_of_what_was_said() except -1
cdef bint warned() noexcept nogil

# ----------------------------------------------------------- calls of a plugin

# The call with which a plugin reads an option: *argv* is the name of the program, the option, its words, and NULL.
cdef struct ParseCall:
    const xtables_match *c
    bint divides
    xt_option_call guided
    int val
    int negated
    char **argv
    unsigned int *flags
    xt_entry_match *data

# The call of a plugin's init, check or alias function with a payload.
cdef struct DataCall:
    const xtables_match *c
    bint divides
    const void *entry
    xt_entry_match *data
    void *udata
    unsigned int flags

# The bodies of such calls, for a guard.
cdef void parse_body(void *arg) noexcept nogil
cdef void check_body(void *arg) noexcept nogil

# ------------------------------------------------------------------- the plugins

# What C needs to know of an option and of a plugin. Code that reads and prints rules uses this and no Python object.
cdef struct OptionRow:
    const char *name
    size_t length
    int has_arg                             # 0 no, 1 yes, 2 optional, as in getopt
    # the number that the old parser is given; all names of one option have the same
    int val
    const xt_option_entry *entry            # the row of the new parser (x6_parse), or NULL

cdef struct PluginRow:
    const xtables_match *c
    size_t size                             # the size of a whole payload
    OptionRow *options
    size_t count
    unsigned int mandatory                  # the options of the new parser that must be given, as bits
    unsigned int constrained                # the options of the new parser that exclude or require others, as bits
    bint divides                            # its code divides integers, so SIGFPE must be handled while it runs

cdef bint wants_check(const PluginRow *row, unsigned int given) noexcept nogil

# Find *name* without Python. Return False if it was never looked up; `learn` does that. *row* is NULL if there is no
# plugin.
cdef bint known(bint is_target, int nfproto, const char *name, int revision, PluginRow **row) noexcept nogil
cdef int learn(bint is_target, int nfproto, const char *name, int revision, bint may_be_none=*) except -1
cdef enum:
    PREFERRED = -1                          # as a revision: the one that iptables would use

cdef class Option:
    cdef readonly str name
    cdef readonly int has_arg               # 0 no, 1 yes, 2 optional, as in getopt
    cdef bytes label
    cdef int val                            # the number that the old parser is given
    cdef const xt_option_entry *entry       # the row of the new parser (x6_parse), or NULL

# Inside a guard, before a function of the plugin of *row* is called.
cdef inline void expect_division(const PluginRow *row) noexcept nogil:
    if row.divides:
        expect_fault()
cdef void expect_fault() noexcept nogil

cdef class Plugin:
    cdef readonly bint is_target
    cdef readonly str name
    cdef readonly str real_name
    cdef readonly int revision
    cdef readonly int family
    cdef const xtables_match *c
    cdef PluginRow row
    cdef dict _options

    cdef dict options(self)
    cdef int init(self, int nfproto, xt_entry_match *data) except -1
    cdef int parse(self, int nfproto, Option item, int words, ParseCall *call, Names *looked) except? -1
    cdef int check(self, int nfproto, xt_entry_match *data, void *udata, unsigned int flags, Names *looked) except -1
    cdef str alias(self, const xt_entry_match *payload)
    cdef bytes save(self, int nfproto, const void *entry, const xt_entry_match *payload)

cdef Plugin find(bint is_target, int nfproto, str name, revision)
cpdef bint is_option(str name) except -1
cdef Plugin find_for_payload(bint is_target, int nfproto, const xt_entry_match *payload)
cdef bint fits(const PluginRow *row, const xt_entry_match *payload) noexcept nogil
cdef size_t payload_room(const PluginRow *row) noexcept nogil
cdef void take_long_prefix(const PluginRow *row, xt_entry_match *payload, const char *udata) noexcept nogil

# ---------------------------------------------- what libxtables knows of iptables

cdef const char *protocol_name(int proto, bint look_up) noexcept nogil
cdef bint prints_by_mask() except -1
cdef bint reads_compat_only() except -1

# ------------------------------------------------------------- words of saved text

cdef list read_saved(dict options, bytes text)
