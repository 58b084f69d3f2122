# cython: freethreading_compatible=False
"""Reads one command or one rule specification as iptables reads it.

Plugins read the values of their options, straight into the bytes of the entry. All of it runs inside the guard and
touches no Python object. A name that has not been looked up yet ends the reading; it is looked up, and the line is read
again. Messages are those of iptables, in the wording of the installed release.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from libc.limits cimport INT_MAX
from libc.stdint cimport uint16_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset, strchr, strcmp, strlen

from .._linux cimport (
    AF_INET, AF_INET6, IFNAMSIZ, in6_addr, in_addr, inet_pton, isspace, strnlen, strtol, strtoull, tolower,
)
from .._core cimport (
    IP6T_F_PROTO, IPT_F_FRAG, IPT_INV_DSTIP, IPT_INV_PROTO, IPT_INV_SRCIP, NFPROTO_IPV4, STANDARD_SIZE,
    XT_EXTENSION_MAXNAMELEN, Family, RuleValue, c_text, family_of, is_verdict_name, mark_verdict, os_decode,
    xt_counters, xt_entry_match,
)
from .options cimport (
    APPEND, CHECK, DELETE, DELETE_CHAIN, DELETE_NUM, ENDED, ENTRY_ROOM, FLUSH, INSERT, LIST, LIST_RULES, MOST_PARTS,
    NAME_ROOM, NEW_CHAIN, NO_OPTION, OF_EXTENSION, OPT_COUNTERS, OPT_DESTINATION, OPT_EXPANDED, OPT_FRAGMENT,
    OPT_JUMP, OPT_LINENUMBERS, OPT_NUMERIC, OPT_PROTOCOL, OPT_SOURCE, OPT_VERBOSE, OPT_VIANAMEIN, OPT_VIANAMEOUT,
    RENAME, REPLACE, SCRATCH_ROOM, SET_POLICY, WITH_RULE, ZERO, ZERO_NUM, Part, Spec, check_options, flags_of,
    has_word, next_option, next_word, option_name, set_command, set_option,
)
from .plugins cimport (
    PARAMETER_PROBLEM, PREFERRED, DataCall, Names, ParseCall, PluginRow, begin_names, captured, check_body,
    end_names, expect_division, known, learn, libxtables, look_up, parse_body, payload_room, prints_by_mask,
    protocol_name, reads_compat_only, said, take_long_prefix, use_family, wants_check, warn_of_what_was_said,
    warn_text, xt_option_call, xtables_error, xtables_match,
)
from .extension cimport packed
from .words cimport add, add_copy, clear, make_room, split
from .lines import BEGIN_OF_LINE, without_command
from .words import split_words
from ..errors import ParameterError, ParameterTypeError

cdef extern from "shim.h" nogil:
    # the variables of getopt, which old parsers read
    char *getopt_value "optarg"
    int getopt_index "optind"

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef Spec _spec              # the one Spec, for the thread that holds the GIL


cdef Spec *spec_of(int nfproto, const char *program, const char *table) except NULL:
    """Return the Spec, prepared for a line of *table*, or without *program* for a rule specification."""
    _spec.family = family_of(nfproto)
    use_family(nfproto)
    _spec.old = prints_by_mask()
    _spec.whole_words = _spec.old and not reads_compat_only()
    _spec.program = program
    _spec.table = table
    _spec.hidden_count = 0
    return &_spec


# -------------------------------------------------------------------- extensions

cdef PluginRow *plugin_of(Spec *spec, bint is_target, const char *name) noexcept nogil:
    """Return the plugin *name* that iptables would use, or NULL. If it was not looked up yet, the reading ends here."""
    return _plugin_of(spec, is_target, name, False)


cdef PluginRow *_plugin_of(Spec *spec, bint is_target, const char *name, bint for_chain) noexcept nogil:
    cdef PluginRow *row
    cdef size_t i
    if is_target:
        for i in range(spec.hidden_count):
            if strcmp(spec.hidden + NAME_ROOM * i, name) == 0:
                return NULL
    if strlen(name) >= XT_EXTENSION_MAXNAMELEN:
        xtables_error(PARAMETER_PROBLEM, b"Invalid %s name \"%s\" (%u chars max)",
                      b"target" if is_target else b"match", name,
                      <unsigned int> (XT_EXTENSION_MAXNAMELEN - 1))
    if not known(is_target, spec.family.nfproto, name, PREFERRED, &row):
        spec.wanted = True
        spec.wanted_is_target = is_target
        spec.wanted_for_chain = for_chain
        memcpy(spec.wanted_name, name, strlen(name) + 1)
        xtables_error(PARAMETER_PROBLEM, b"nobody knows %s yet", name)
    return row


cdef bint names_target(Spec *spec, const char *name) noexcept nogil:
    """Whether *name*, which is to be the name of a chain, is a target. Without installed extensions it is not."""
    return _plugin_of(spec, True, name, True) != NULL


cdef int learn_wanted(Spec *spec) except -1:
    """Look up the plugin whose name ended the reading. *spec* must be filled again after this."""
    cdef bytes name = spec.wanted_name
    return learn(spec.wanted_is_target, spec.family.nfproto, name, PREFERRED, spec.wanted_for_chain)


cdef void _begin_part(Spec *spec, Part *part, PluginRow *row, char *payload, bint is_target) noexcept nogil:
    """Make the payload of *row* at *payload*, with its defaults."""
    cdef const xtables_match *c = row.c
    cdef const char *name = c.real_name if c.real_name != NULL else c.name
    if spec.scratch_used + c.udata_size > SCRATCH_ROOM or spec.size + row.size + ENTRY_ROOM > sizeof(spec.entry):
        xtables_error(PARAMETER_PROBLEM, b"the rule is longer than 65535 bytes")
    memset(payload, 0, payload_room(row) if is_target else row.size)
    part.row = row
    part.data = <xt_entry_match *> payload
    part.flags = 0
    part.completed = False
    part.scratch = spec.scratch + spec.scratch_used
    memset(part.scratch, 0, c.udata_size)
    spec.scratch_used += (c.udata_size + 15) & ~<size_t> 15
    part.data.u.match_size = row.size
    memcpy(part.data.u.user.name, name, strnlen(name, XT_EXTENSION_MAXNAMELEN - 1))
    part.data.u.user.revision = c.revision
    if c.init != NULL:
        expect_division(row)
        c.init(part.data)


cdef void _list_options(Spec *spec, PluginRow *row, bint is_target) noexcept nogil:
    spec.listings[spec.listed].row = row
    spec.listings[spec.listed].is_target = is_target
    spec.listed += 1


cdef void _add_match(Spec *spec, PluginRow *row) noexcept nogil:
    """Add a match (`-m`) behind the others. If it has the same name as an earlier one, it gets the options that
    follow."""
    cdef size_t i
    cdef bint listed = False
    if spec.count == MOST_PARTS:
        xtables_error(PARAMETER_PROBLEM, b"more than %d matches in one rule", <int> MOST_PARTS)
    for i in range(spec.count):
        if strcmp(spec.parts[i].row.c.name, row.c.name) == 0:
            listed = listed or spec.parts[i].row == row
            spec.parts[i].completed = True
    _begin_part(spec, &spec.parts[spec.count], row, spec.entry + spec.size, False)
    spec.size += row.size
    spec.count += 1
    if not listed:
        _list_options(spec, row, False)


cdef bint _load_protocol_match(Spec *spec) noexcept nogil:
    """Load the match of the protocol: `-p tcp --dport` means `-p tcp -m tcp --dport`. Return False if there is none."""
    cdef unsigned int number
    cdef const char *name = spec.protocol
    cdef PluginRow *row
    cdef size_t listed
    if name == NULL or spec.protocol_used:
        return False
    spec.protocol_used = True
    if libxtables.strtoui(name, NULL, &number, 0, 255):
        name = protocol_name(number, not spec.options & OPT_NUMERIC)
        if name == NULL:
            return False
    row = plugin_of(spec, False, name)
    if row == NULL:
        return False
    listed = spec.listed
    _add_match(spec, row)
    if spec.listed == listed:
        # the match was given before: iptables adds its options once more
        _list_options(spec, row, False)
    return True


cdef Part *_owner(Spec *spec) noexcept nogil:
    """Return the match or target that the found option belongs to."""
    cdef size_t i
    if spec.found_is_target:
        return &spec.target_part
    for i in range(spec.count):
        if not spec.parts[i].completed and spec.parts[i].row == spec.found_row:
            return &spec.parts[i]
    return NULL


cdef void _feed(Spec *spec, Part *part) noexcept nogil:
    """Let the plugin read the found option into its payload."""
    global getopt_value, getopt_index
    cdef ParseCall call
    cdef xt_option_call *guided = &call.guided
    call.c = part.row.c
    call.divides = part.row.divides
    call.data = part.data
    getopt_value = spec.optarg
    getopt_index = spec.optind
    if call.c.x6_parse != NULL:
        memset(guided, 0, sizeof(guided[0]))
        guided.arg = spec.optarg
        guided.ext_name = call.c.name
        guided.entry = spec.found.entry
        guided.data = part.data.data
        guided.xflags = part.flags
        guided.invert = spec.negated
        guided.match = &call.data
        guided.xt_entry = spec.entry
        guided.udata = part.scratch
        parse_body(&call)
        part.flags = guided.xflags
        return
    guided.xt_entry = spec.entry
    call.val = spec.found.val
    call.negated = spec.negated
    call.argv = spec.words.list
    call.flags = &part.flags
    parse_body(&call)
    # an old parser may take more words
    spec.optind = getopt_index
    if spec.optind > spec.words.count:
        xtables_error(PARAMETER_PROBLEM, b"option \"--%s\" requires more values", spec.found.name)


cdef bint _other_option(Spec *spec, int c) noexcept nogil:
    """Handle an option of an extension, or refuse an unknown one. Return False if the match of the protocol was loaded,
    and the word must be read again."""
    cdef Part *part
    cdef char unknown[3]
    if c == OF_EXTENSION:
        part = _owner(spec)
        if part != NULL:
            _feed(spec, part)
            return True
    if _load_protocol_match(spec):
        spec.optind -= 1
        return False
    if c == b':':
        xtables_error(PARAMETER_PROBLEM, b"option \"%s\" requires an argument", spec.words.list[spec.optind - 1])
    if c == b'?':
        if not spec.old and spec.optopt:
            unknown[0] = b'-'
            unknown[1] = spec.optopt
            unknown[2] = 0
            xtables_error(PARAMETER_PROBLEM, b"unknown option \"%s\"", unknown)
        xtables_error(PARAMETER_PROBLEM, b"unknown option \"%s\"", spec.words.list[spec.optind - 1])
    xtables_error(PARAMETER_PROBLEM, b"Unknown arg \"-%c\"", c)
    return True


# ------------------------------------------------------------------------ values

cdef inline char *_value(Spec *spec) noexcept nogil:
    """Return the value of a base option. 1.8.8 and 1.8.9 return the whole word, and so refuse `-ptcp`."""
    return spec.words.list[spec.optind - 1] if spec.whole_words else spec.optarg


cdef void _read_protocol(Spec *spec, char *value) noexcept nogil:
    cdef size_t i = 0
    cdef uint16_t number
    while value[i]:
        value[i] = tolower(<unsigned char> value[i])
        i += 1
    spec.protocol = value
    number = libxtables.parse_protocol(value)
    if number == 0 and flags_of(spec)[1] & IPT_INV_PROTO:
        xtables_error(PARAMETER_PROBLEM, b"rule would never match protocol")
    (<uint16_t *> (spec.entry + spec.family.proto))[0] = number
    if spec.family.nfproto != NFPROTO_IPV4:
        flags_of(spec)[0] |= IP6T_F_PROTO
        if number in (43, 44, 51, 60) and not flags_of(spec)[1] & IPT_INV_PROTO:
            warn_text(b"Warning: never matched protocol: ")
            warn_text(value)
            warn_text(b". use extension match instead.\n")


cdef void _read_interface(Spec *spec, int which, const char *value) noexcept nogil:
    cdef size_t length = strlen(value)
    cdef char *name = spec.entry + 4 * spec.family.address + which * IFNAMSIZ
    if length >= IFNAMSIZ:
        if spec.old:
            xtables_error(PARAMETER_PROBLEM, b"interface name `%s' must be shorter than IFNAMSIZ (15)", value)
        xtables_error(PARAMETER_PROBLEM, b"interface name `%s' must be shorter than 16 characters", value)
    memcpy(name, value, length)
    if length:
        # a name that ends in + is compared without the +, any other name with its NUL
        memset(name + 2 * IFNAMSIZ, 0xff, length - 1 if value[length - 1] == b'+' else length + 1)
    if strchr(value, b'/') != NULL or strchr(value, b' ') != NULL:
        warn_text(b"Warning: weird character in interface `")
        warn_text(value)
        warn_text(b"' ('/' and ' ' are not allowed by the kernel).\n")


cdef const char *_target_name(const char *name) noexcept nogil:
    cdef const char *at = name
    if not name[0]:
        xtables_error(PARAMETER_PROBLEM, b"Invalid target name (too short)")
    if strlen(name) >= XT_EXTENSION_MAXNAMELEN:
        xtables_error(PARAMETER_PROBLEM, b"Invalid target name `%s' (%u chars max)", name,
                      <unsigned int> (XT_EXTENSION_MAXNAMELEN - 1))
    while at[0]:
        if isspace(<unsigned char> at[0]):
            xtables_error(PARAMETER_PROBLEM, b"Invalid target name `%s'", name)
        at += 1
    return name


cdef void _read_jump(Spec *spec, char *value) noexcept nogil:
    """Read `-j`: a verdict, an extension, or else a chain. Whether the chain exists is checked later, with the
    table."""
    cdef PluginRow *row
    spec.jump = <char *> _target_name(value)
    if is_verdict_name(value):
        return
    row = plugin_of(spec, True, value)
    if row == NULL:
        return
    if payload_room(row) > ENTRY_ROOM:
        xtables_error(PARAMETER_PROBLEM, b"the rule is longer than 65535 bytes")
    spec.has_target = True
    _begin_part(spec, &spec.target_part, row, spec.target, True)
    _list_options(spec, row, True)


cdef uint64_t _counter(Spec *spec, const char *text, const char *kind) noexcept nogil:
    cdef char *end
    cdef uint64_t number = strtoull(text, &end, 10)
    if end == text:
        xtables_error(PARAMETER_PROBLEM, b"%s %s counter not numeric", option_name(spec, OPT_COUNTERS), kind)
    return number


cdef void _read_counters(Spec *spec, char *value) noexcept nogil:
    """Read `-c 1 2` or `-c 1,2`."""
    cdef xt_counters *counters = <xt_counters *> (spec.entry + spec.family.counters)
    # releases before 1.8.10 look for the comma only after the first character
    cdef char *size = strchr(value + (1 if spec.old and value[0] else 0), b',')
    if size != NULL:
        size += 1
    elif has_word(spec):
        size = spec.words.list[spec.optind]
        spec.optind += 1
    else:
        xtables_error(PARAMETER_PROBLEM, b"%s requires packet and byte counter", option_name(spec, OPT_COUNTERS))
    counters.pcnt = _counter(spec, value, b"packet")
    counters.bcnt = _counter(spec, size, b"byte")


cdef unsigned int _rule_number(const char *text) noexcept nogil:
    cdef unsigned int number = 0
    if not libxtables.strtoui(text, NULL, &number, 1, INT_MAX):
        xtables_error(PARAMETER_PROBLEM, b"Invalid rule number `%s'", text)
    return number


cdef bint _plain_network(Family *family, const char *text, unsigned char *address, unsigned char *mask) noexcept nogil:
    """Read one plain address with or without a prefix length, as nearly all are. Return False for anything else, which
    libxtables reads."""
    cdef char plain[64]
    cdef size_t length = 0, i
    cdef unsigned int bits = 8 * family.address
    cdef int domain = AF_INET if family.nfproto == NFPROTO_IPV4 else AF_INET6
    cdef const char *prefix
    while text[length] and text[length] != b'/':
        if length == sizeof(plain) - 1:
            return False
        plain[length] = text[length]
        length += 1
    plain[length] = 0
    if inet_pton(domain, plain, address) != 1:
        return False
    if text[length]:
        prefix = text + length + 1
        if not b'1' <= prefix[0] <= b'9':
            return False
        bits = prefix[0] - <char> b'0'
        prefix += 1
        while b'0' <= prefix[0] <= b'9' and bits <= 128:
            bits = 10 * bits + prefix[0] - <char> b'0'
            prefix += 1
        if prefix[0] or bits > 8 * family.address:
            return False
    for i in range(family.address):
        if bits >= 8 * (i + 1):
            mask[i] = 0xff
        elif bits <= 8 * i:
            mask[i] = 0
        else:
            mask[i] = 0xff << (8 * (i + 1) - bits) & 0xff
        address[i] &= mask[i]
    return True


cdef void _read_networks(Spec *spec, int which, const char *text) noexcept nogil:
    """Read the addresses of `-s` (0) or `-d` (1). One plain address goes into the entry, others into `addresses`."""
    cdef size_t length = spec.family.address
    cdef unsigned char *address = <unsigned char *> spec.entry + which * length
    if text == NULL or _plain_network(spec.family, text, address, address + 2 * length):
        spec.networks[which] = 1
        return
    if spec.family.nfproto == NFPROTO_IPV4:
        libxtables.ipparse_multiple(text, <in_addr **> &spec.addresses[which], <in_addr **> &spec.masks[which],
                                    &spec.networks[which])
    else:
        libxtables.ip6parse_multiple(text, <in6_addr **> &spec.addresses[which], <in6_addr **> &spec.masks[which],
                                     &spec.networks[which])
    if spec.networks[which] == 1:
        set_network(spec, which, 0)


cdef void set_network(Spec *spec, int which, unsigned int i) noexcept nogil:
    """Copy address *i* of the addresses that were read into the entry, as source (0) or destination (1)."""
    cdef size_t length = spec.family.address
    if spec.addresses[which] != NULL:
        memcpy(spec.entry + which * length, <char *> spec.addresses[which] + i * length, length)
        memcpy(spec.entry + (which + 2) * length, <char *> spec.masks[which] + i * length, length)


# ---------------------------------------------------------------------- commands

cdef void check_length(const char *chain) noexcept nogil:
    """Refuse a chain name that is too long."""
    if strlen(chain) >= XT_EXTENSION_MAXNAMELEN:
        xtables_error(PARAMETER_PROBLEM, b"chain name `%s' too long (must be under %u chars)", chain,
                      <unsigned int> XT_EXTENSION_MAXNAMELEN)


cdef void check_new_name(Spec *spec, const char *name) noexcept nogil:
    """Refuse a chain name that `iptables -N` refuses."""
    cdef const char *at = name
    check_length(name)
    if name[0] == b'-' or name[0] == b'!':
        xtables_error(PARAMETER_PROBLEM, b"chain name not allowed to start with `%c'", <int> name[0])
    if is_verdict_name(name) or names_target(spec, name):
        xtables_error(PARAMETER_PROBLEM, b"chain name may not clash with target name")
    while at[0]:
        if isspace(<unsigned char> at[0]):
            xtables_error(PARAMETER_PROBLEM, b"Invalid chain name `%s'", name)
        at += 1


cdef bint _read_number_of_deletion(Spec *spec) noexcept nogil:
    cdef char *word
    cdef char *end
    if not has_word(spec):
        return False
    word = next_word(spec)
    if not spec.old:
        if strchr(word, b':') != NULL:
            xtables_error(PARAMETER_PROBLEM, b"Rule ranges are not supported")
        spec.number = strtoull(word, &end, 10)
        if end[0] or not spec.number:
            xtables_error(PARAMETER_PROBLEM, b"Invalid rule number `%s'", word)
    else:
        spec.number = _rule_number(word)
    spec.command = DELETE_NUM
    return True


cdef bint _read_command_option(Spec *spec, int c) noexcept nogil:
    """Handle an option that is a command. Return False if *c* is none."""
    if c == b'A':
        set_command(spec, APPEND)
        spec.chain = spec.optarg
    elif c == b'C':
        set_command(spec, CHECK)
        spec.chain = spec.optarg
    elif c == b'D':
        set_command(spec, DELETE)
        spec.chain = spec.optarg
        _read_number_of_deletion(spec)
    elif c == b'R':
        set_command(spec, REPLACE)
        spec.chain = spec.optarg
        if not has_word(spec):
            xtables_error(PARAMETER_PROBLEM, b"-R requires a rule number")
        spec.number = _rule_number(next_word(spec))
    elif c == b'I':
        set_command(spec, INSERT)
        spec.chain = spec.optarg
        spec.number = _rule_number(next_word(spec)) if has_word(spec) else 1
    elif c == b'F' or c == b'X' or c == b'Z':
        set_command(spec, FLUSH if c == b'F' else DELETE_CHAIN if c == b'X' else ZERO)
        if spec.optarg != NULL:
            spec.chain = spec.optarg
        elif has_word(spec):
            spec.chain = next_word(spec)
        if c == b'Z' and has_word(spec):
            spec.number = _rule_number(next_word(spec))
            spec.command = ZERO_NUM
    elif c == b'N':
        check_new_name(spec, spec.optarg)
        set_command(spec, NEW_CHAIN)
        spec.chain = spec.optarg
    elif c == b'E':
        set_command(spec, RENAME)
        spec.chain = spec.optarg
        if not has_word(spec):
            xtables_error(PARAMETER_PROBLEM, b"-E requires old-chain-name and new-chain-name")
        spec.other = next_word(spec)
        if not spec.old:
            check_new_name(spec, spec.other)
    elif c == b'P':
        set_command(spec, SET_POLICY)
        spec.chain = spec.optarg
        if not has_word(spec):
            xtables_error(PARAMETER_PROBLEM, b"-P requires a chain and a policy")
        spec.other = next_word(spec)
    else:
        return False
    return True


cdef void _read_wait(Spec *spec, bint interval) noexcept nogil:
    """Read `-w` and `-W`, which say how a command waits for the lock. They are checked, and have no effect."""
    cdef const char *value = spec.optarg
    cdef char *end
    cdef long number = -1
    if value == NULL and has_word(spec):
        value = next_word(spec)
    if value != NULL:
        number = strtol(value, &end, 0)
        if end == value:
            xtables_error(PARAMETER_PROBLEM, b"wait %s not numeric", b"interval" if interval else b"seconds")
    elif interval:
        xtables_error(PARAMETER_PROBLEM, b"wait interval value required")
    if not interval:
        spec.wait = number
        return
    spec.wait_interval = True
    if number > 999999:
        xtables_error(PARAMETER_PROBLEM, b"too long usec wait %u > 999999 usec", <unsigned int> number)


cdef bint _read_option(Spec *spec, int c) noexcept nogil:
    """Handle one option. Return False if it must be read again."""
    if c == b'p':
        set_option(spec, OPT_PROTOCOL)
        _read_protocol(spec, _value(spec))
    elif c == b's':
        set_option(spec, OPT_SOURCE)
        spec.source = _value(spec)
    elif c == b'd':
        set_option(spec, OPT_DESTINATION)
        spec.destination = _value(spec)
    elif c == b'j':
        set_option(spec, OPT_JUMP)
        # releases before 1.8.10 do not know CONTINUE
        if spec.old or strcmp(spec.optarg, b"CONTINUE"):
            _read_jump(spec, _value(spec))
    elif c == b'g':
        set_option(spec, OPT_JUMP)
        flags_of(spec)[0] |= spec.family.goto_flag
        spec.jump = <char *> _target_name(spec.optarg)
    elif c == b'm':
        if spec.negated:
            xtables_error(PARAMETER_PROBLEM, b"unexpected ! flag before --match")
        row = plugin_of(spec, False, spec.optarg)
        if row == NULL:
            if strcmp(spec.optarg, b"icmpv6") == 0 or strcmp(spec.optarg, b"ipv6-icmp") == 0:
                spec.optarg = <char *> b"icmp6"
            xtables_error(PARAMETER_PROBLEM, b"Couldn't load match `%s':No such file or directory", spec.optarg)
        _add_match(spec, row)
    elif c == b'i' or c == b'o':
        if not spec.optarg[0]:
            xtables_error(PARAMETER_PROBLEM, b"Empty interface is likely to be undesired")
        set_option(spec, OPT_VIANAMEIN if c == b'i' else OPT_VIANAMEOUT)
        _read_interface(spec, 0 if c == b'i' else 1, _value(spec))
    elif c == b'f':
        if spec.family.nfproto != NFPROTO_IPV4:
            xtables_error(PARAMETER_PROBLEM, b"`-f' is not supported in IPv6, use -m frag instead")
        set_option(spec, OPT_FRAGMENT)
        flags_of(spec)[0] |= IPT_F_FRAG
    elif c == b'c':
        set_option(spec, OPT_COUNTERS)
        _read_counters(spec, spec.optarg)
    elif c == b'v':
        if not spec.options & OPT_VERBOSE:
            set_option(spec, OPT_VERBOSE)
    elif c == b'n':
        set_option(spec, OPT_NUMERIC)
    elif c == b'x':
        set_option(spec, OPT_EXPANDED)
    elif c == b'0':
        set_option(spec, OPT_LINENUMBERS)
    elif c == b'4' or c == b'6':
        if (c == b'4') != (spec.family.nfproto == NFPROTO_IPV4):
            if spec.program == NULL:
                xtables_error(PARAMETER_PROBLEM, b"-%c is of the other family", c)
            spec.ignored = True
    elif c == b't':
        if spec.negated:
            xtables_error(PARAMETER_PROBLEM, b"unexpected ! flag before --table")
        if spec.program != NULL:
            xtables_error(PARAMETER_PROBLEM, b"The -t option cannot be used in %s.", spec.program)
        xtables_error(PARAMETER_PROBLEM, b"-t has no place in a rule specification: a rule is of no table")
    elif c == b'w' or c == b'W':
        if spec.program != NULL:
            xtables_error(PARAMETER_PROBLEM, b"You cannot use `-%c' from iptables-restore", c)
        _read_wait(spec, c == b'W')
    elif c == b'L' or c == b'S':
        if not spec.command & (ZERO | ZERO_NUM):
            set_command(spec, LIST if c == b'L' else LIST_RULES)
        xtables_error(PARAMETER_PROBLEM, b"-%c has no place here: it changes nothing", c)
    elif c == b'V' or c == b'h':
        xtables_error(PARAMETER_PROBLEM, b"-%c has no place here: it describes no rule", c)
    elif c == b'M':
        pass
    else:
        return _other_option(spec, c)
    return True


cdef void _final_check(Part *part) noexcept nogil:
    cdef DataCall call
    if wants_check(part.row, part.flags):
        call.c = part.row.c
        call.data = part.data
        call.udata = part.scratch
        call.flags = part.flags
        call.divides = part.row.divides
        check_body(&call)


cdef void read_command(Spec *spec) noexcept nogil:
    """Inside the guard: read the words from `optind` on, and fill the rest of *spec*."""
    cdef int c
    cdef size_t i
    memset(spec.entry, 0, spec.family.header)
    spec.size = spec.family.header
    spec.count = spec.listed = spec.scratch_used = 0
    spec.options = 0
    spec.number = 0
    spec.wait = 0
    spec.wanted = spec.wait_interval = False
    spec.negated = spec.protocol_used = spec.has_target = spec.ignored = False
    spec.next = spec.protocol = spec.jump = NULL
    spec.other = spec.source = spec.destination = NULL
    while True:
        c = next_option(spec)
        if c == ENDED:
            break
        if c == NO_OPTION:
            if spec.optarg[0] == b'!' and not spec.optarg[1]:
                if spec.negated:
                    xtables_error(PARAMETER_PROBLEM, b"multiple consecutive ! not allowed")
                spec.negated = True
                spec.optarg[0] = 0
                continue
            xtables_error(PARAMETER_PROBLEM, b"Bad argument `%s'", spec.optarg)
        if not _read_command_option(spec, c):
            if not _read_option(spec, c):
                continue
            if spec.ignored:
                # the line is for the other family: keep what was read so far, except the rule
                spec.networks[0] = spec.networks[1] = 0
                _finish_entry(spec)
                return
        spec.negated = False
    if (spec.table != NULL and strcmp(spec.table, b"nat") == 0
            and (spec.other != NULL and spec.command == SET_POLICY and strcmp(spec.other, b"DROP") == 0
                 or spec.jump != NULL and strcmp(spec.jump, b"DROP") == 0)):
        xtables_error(PARAMETER_PROBLEM,
                      b"The \"nat\" table is not intended for filtering, the use of DROP is therefore inhibited.")
    if spec.wait_interval and not spec.wait:
        xtables_error(PARAMETER_PROBLEM, b"--wait-interval only makes sense with --wait\n")
    for i in range(spec.count):
        _final_check(&spec.parts[i])
    if spec.has_target:
        _final_check(&spec.target_part)
    if spec.optind < spec.words.count:
        xtables_error(PARAMETER_PROBLEM, b"unknown arguments found on commandline")
    if not spec.command:
        xtables_error(PARAMETER_PROBLEM, b"no command specified")
    if spec.negated:
        xtables_error(PARAMETER_PROBLEM, b"nothing appropriate following !")
    _read_networks(spec, 0, spec.source)
    _read_networks(spec, 1, spec.destination)
    if ((spec.networks[0] > 1 or spec.networks[1] > 1) and flags_of(spec)[1] & (IPT_INV_SRCIP | IPT_INV_DSTIP)):
        xtables_error(PARAMETER_PROBLEM, b"! not allowed with multiple source or destination IP addresses")
    if spec.command == REPLACE and (spec.networks[0] != 1 or spec.networks[1] != 1):
        xtables_error(PARAMETER_PROBLEM, b"Replacement rule does not specify a unique address")
    check_options(spec)
    if spec.chain != NULL:
        _check_chain(spec)
    _finish_entry(spec)


cdef void _check_chain(Spec *spec) noexcept nogil:
    cdef const char *chain = spec.chain
    cdef unsigned int meaningless
    check_length(chain)
    if not spec.command & WITH_RULE:
        return
    meaningless = _meaningless(chain)
    if spec.options & meaningless:
        xtables_error(PARAMETER_PROBLEM, b"Can't use %s with %s", option_name(spec, meaningless), chain)


cdef unsigned int _meaningless(const char *chain) noexcept nogil:
    """Return the option of an interface that packets do not have in *chain* (`-o` in INPUT), or 0."""
    if strcmp(chain, b"PREROUTING") == 0 or strcmp(chain, b"INPUT") == 0:
        return OPT_VIANAMEOUT
    if strcmp(chain, b"POSTROUTING") == 0 or strcmp(chain, b"OUTPUT") == 0:
        return OPT_VIANAMEIN
    return 0


def refuse_meaningless(int nfproto, str chain not None, bytes entry not None):
    """Raise `ParameterError`, as `iptables -A` does, if *entry* has an interface that packets in *chain* do not have.

    That is `-o` in PREROUTING and INPUT, and `-i` in OUTPUT and POSTROUTING.
    """
    _refuse_meaningless(nfproto, chain, entry)


cdef int _refuse_meaningless(int nfproto, str chain, bytes entry) except -1:
    cdef bytes label
    cdef unsigned int option
    cdef size_t name
    if chain not in _BUILTIN_ENDS:
        return 0
    label = chain.encode()
    option = _meaningless(label)
    name = 4 * family_of(nfproto).address + (0 if option == OPT_VIANAMEIN else IFNAMSIZ)
    if name + 3 * IFNAMSIZ <= <size_t> PyBytes_GET_SIZE(entry) and (entry[name] or entry[name + 2 * IFNAMSIZ]):
        # only for the message: libxtables need not be installed
        _spec.old = prints_by_mask()
        raise ParameterError(f"Can't use {os_decode(option_name(&_spec, option))} with {chain}")
    return 0


cpdef list entries_of(rule, int nfproto, str chain):
    """Return the entries of *rule* as a list of bytes: one for each pair of a source and a destination address, and all
    checked by the plugins. Return None if it is no rule of the family.

    *chain*: the chain to which they will be added, or None. Raises `ParameterError` if the rule is not complete, or has
    an interface that packets in *chain* do not have.
    """
    cdef list entries
    if not isinstance(rule, RuleValue) or (<RuleValue> rule).family.nfproto != nfproto:
        return None
    # nearly all rules have one source and one destination
    if (<RuleValue> rule)._networks is None:
        entries = [packed(<RuleValue> rule, True)]
    else:
        entries = []
        for one in rule.expand():
            entries.append(packed(<RuleValue?> one, True))
    if entries[0] is None:
        raise ParameterError("invalid rule")
    if chain is not None:
        for entry in entries:
            _refuse_meaningless(nfproto, chain, entry)
    return entries


cdef frozenset _BUILTIN_ENDS = frozenset(("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"))


cdef void _finish_entry(Spec *spec) noexcept nogil:
    """Move the target behind the matches, and store its offset."""
    cdef size_t size = STANDARD_SIZE
    cdef uint16_t *offsets = <uint16_t *> (spec.entry + spec.family.offsets)
    if spec.has_target:
        take_long_prefix(spec.target_part.row, spec.target_part.data, spec.target_part.scratch)
        size = spec.target_part.data.u.match_size
    if spec.size + size > 65535:
        xtables_error(PARAMETER_PROBLEM, b"the rule is longer than 65535 bytes")
    spec.target_at = spec.size
    if spec.has_target:
        memcpy(spec.entry + spec.size, spec.target, size)
    else:
        (<uint16_t *> (spec.entry + spec.size))[0] = STANDARD_SIZE
        if spec.jump != NULL:
            mark_verdict(spec.entry + spec.size, spec.jump)
        else:
            mark_verdict(spec.entry + spec.size, b"")
    offsets[0] = spec.target_at
    spec.size += size
    offsets[1] = spec.size


# ----------------------------------------------------------- a rule specification

cdef void free_networks(Spec *spec) noexcept nogil:
    cdef int which
    for which in range(2):
        free(spec.addresses[which])
        free(spec.masks[which])
        spec.addresses[which] = spec.masks[which] = NULL


cdef struct TextCall:
    Spec *spec
    const char *text         # NULL if the words are there already
    size_t length


cdef void _specification_body(void *arg) noexcept nogil:
    cdef TextCall *call = <TextCall *> arg
    cdef Spec *spec = call.spec
    if call.text != NULL:
        split(&spec.words, call.text, call.length, False)
    read_command(spec)
    # without a table it is not known which chains exist. A verdict or extension is surely no chain
    if (flags_of(spec)[0] & spec.family.goto_flag and spec.jump != NULL
            and (is_verdict_name(spec.jump) or plugin_of(spec, True, spec.jump) != NULL)):
        xtables_error(PARAMETER_PROBLEM, b"goto '%s' is not a chain", spec.jump)


cdef str _SPECIFICATION = "a rule specification"


cdef bint _may_be_line(const char *text) noexcept nogil:
    """Whether a text may be a line of iptables-save. Most specifications begin with another option."""
    return text[0] != b'-' or text[1] == b'-' or strchr(b"AtIDRC", text[1]) != NULL


def read_rule(type cls, specification):
    """Return the rule that a specification describes. It is what follows `iptables -A CHAIN`, as text or as words.

    >>> Rule.from_args("-s 10.0.0.0/8 -p tcp --dport 22 -j ACCEPT")
    <iptc.Rule -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT>

    A whole line of iptables-save, `[5:6] -A INPUT …`, is allowed too: the rule gets its counters, and its chain is
    ignored. Text is quoted as in files of iptables-restore. A target that is neither a verdict nor an extension is
    taken for the name of a chain. A rule with several addresses (`-s 10.0.0.1,10.0.0.2`) becomes several rules when it
    is added to a chain: see `expand()`. No privilege is needed.

    Raises `ParameterError`, with the message that iptables prints, if no rule can be made of it.
    """
    cdef TextCall call
    cdef Names looked
    cdef Py_ssize_t length = 0
    cdef list words = None
    cdef bytes text
    counters = None
    # Made before anything is read: this may start the garbage collector, which may run code that reads rules.
    cdef RuleValue rule = <RuleValue> cls.__new__(cls)
    call.text = NULL
    if type(specification) is str:
        call.text = PyUnicode_AsUTF8AndSize(specification, &length) if specification.isascii() else NULL
        if call.text == NULL or strlen(call.text) != <size_t> length:
            text = c_text(specification, _SPECIFICATION)
            call.text = text
            length = PyBytes_GET_SIZE(text)
    if call.text == NULL or (_may_be_line(call.text) and specification.lstrip().startswith(BEGIN_OF_LINE)):
        specification, counters = without_command(specification)
        call.text = NULL
        words = _words_of(specification)
        length = sum(map(len, words))
    call.length = length
    begin_names(&looked)
    try:
        _read_rule(rule, &call, words, &looked)
    finally:
        end_names(&looked)
    if counters is not None:
        rule.counters = counters
    return rule


cdef int _read_rule(RuleValue rule, TextCall *call, list words, Names *looked) except -1:
    """Read the arguments of `read_rule` into *rule*. If a name or plugin is not known, look it up and read again."""
    cdef Spec *spec
    cdef Py_ssize_t length = call.length, i
    cdef bytes sources = None, destinations = None
    cdef int nfproto = type(rule)._nfproto
    while True:
        # another thread may have used the Spec since the last attempt
        spec = call.spec = spec_of(nfproto, NULL, NULL)
        make_room(&spec.words, (length // 2 + 1 if words is None else PyList_GET_SIZE(words)) + 4, length)
        clear(&spec.words)
        # the words are read as if these stood before them
        add(&spec.words, b"iptables")
        add(&spec.words, b"-A")
        add(&spec.words, b"CHAIN")
        if words is not None:
            for i in range(PyList_GET_SIZE(words)):
                add_copy(&spec.words, <bytes> words[i], PyBytes_GET_SIZE(<bytes> words[i]))
        spec.optind = 3
        spec.command = APPEND
        spec.chain = NULL
        if captured(_specification_body, call, looked) == 0:
            break
        free_networks(spec)
        if looked.wanted:
            look_up(looked)
        elif spec.wanted:
            learn_wanted(spec)
        else:
            raise ParameterError(said())
    if spec.networks[0] > 1 or spec.networks[1] > 1:
        sources, destinations = _all_networks(spec, 0), _all_networks(spec, 1)
    rule._load_entry(spec.family, spec.entry)
    free_networks(spec)
    # after this the Spec may be used for another rule: a list may start the garbage collector, a warning runs Python
    # code
    if sources is not None:
        rule._networks = [_pairs(sources, rule.family.address), _pairs(destinations, rule.family.address)]
    return warn_of_what_was_said()


cdef list _words_of(specification):
    """Return the words of a list of strings, or of a subclass of str, as bytes."""
    cdef list words
    if isinstance(specification, str):
        words = []
        for word, _ in split_words(c_text(specification, _SPECIFICATION)):
            words.append(word)
        return words
    try:
        words = list(specification)
    except TypeError:
        words = [None]
    for i, word in enumerate(words):
        if not isinstance(word, str):
            what = f"{_SPECIFICATION} must be a string or a list of strings, not {type(word).__name__}"
            raise ParameterTypeError(what)
        words[i] = c_text(word, "a word of a rule specification")
    return words


cdef bytes _all_networks(Spec *spec, int which):
    """Return address and mask of each source (0) or destination (1) as bytes. The entry gets the first one."""
    cdef size_t length = spec.family.address
    cdef bytes networks = PyBytes_FromStringAndSize(NULL, 2 * length * spec.networks[which])
    cdef char *at = PyBytes_AS_STRING(networks)
    cdef unsigned int i
    for i in range(spec.networks[which]):
        set_network(spec, which, i)
        memcpy(at, spec.entry + which * length, length)
        memcpy(at + length, spec.entry + (which + 2) * length, length)
        at += 2 * length
    set_network(spec, which, 0)
    return networks


cdef list _pairs(bytes networks, size_t length):
    """Return [(address, mask)] for the result of `_all_networks`."""
    cdef list pairs = []
    cdef size_t i
    for i in range(0, PyBytes_GET_SIZE(networks), 2 * length):
        pairs.append((networks[i:i + length], networks[i + length:i + 2 * length]))
    return pairs
