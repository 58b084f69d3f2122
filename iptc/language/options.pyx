# cython: freethreading_compatible=False
"""Finds the options of iptables' language as getopt_long finds them, without calling it.

Supported are clusters of short options, `--name=value` and unique abbreviations. iptables' own options come first, then
those of the extension that was named last. All of it runs inside the guard. Messages are those of iptables, in the
wording of the installed release.
"""

from libc.string cimport memcmp, memset, strncmp

from .._core cimport (
    IPT_INV_DSTIP, IPT_INV_FRAG, IPT_INV_PROTO, IPT_INV_SRCIP, IPT_INV_VIA_IN, IPT_INV_VIA_OUT, NFPROTO_IPV4,
)
from .plugins cimport PARAMETER_PROBLEM, OptionRow, PluginRow, xtables_error

cdef extern from *:
    # the number of the lowest bit that is set, from 0; of the compiler
    int __builtin_ctz(unsigned int bits) nogil

# ------------------------------------------------------------------ the base options

cdef struct BaseOption:
    const char *name
    size_t length
    int has_arg
    char letter

cdef BaseOption _base[37]
cdef size_t _base_count = 0
cdef unsigned int _base_lengths[128]     # first letter of a name -> the lengths of such names, as bits


def _list_base_options(rows):
    """Fill the table of iptables' own long options, in its order."""
    global _base_count
    cdef size_t i
    cdef bytes name
    for i, (text, has_arg, letter) in enumerate(rows):
        name = _INTERNED.setdefault(text, text.encode())
        _base[i].name = name
        _base[i].length = len(name)
        _base[i].has_arg = has_arg
        _base[i].letter = ord(letter)
        _base_lengths[name[0]] |= 1u << <unsigned int> len(name)
    _base_count = len(rows)


cdef dict _INTERNED = {}         # keeps the memory of the names
_list_base_options([
    ("append", 1, "A"), ("delete", 1, "D"), ("check", 1, "C"), ("insert", 1, "I"), ("replace", 1, "R"), ("list", 2,
                                                                                                         "L"),
    ("list-rules", 2, "S"), ("flush", 2, "F"), ("zero", 2, "Z"), ("new-chain", 1, "N"), ("delete-chain", 2, "X"),
    ("rename-chain", 1, "E"), ("policy", 1, "P"), ("source", 1, "s"), ("destination", 1, "d"), ("src", 1, "s"),
    ("dst", 1, "d"), ("protocol", 1, "p"), ("in-interface", 1, "i"), ("jump", 1, "j"), ("table", 1, "t"), ("match", 1,
                                                                                                           "m"),
    ("numeric", 0, "n"), ("out-interface", 1, "o"), ("verbose", 0, "v"), ("wait", 2, "w"), ("wait-interval", 2, "W"),
    ("exact", 0, "x"), ("fragments", 0, "f"), ("version", 0, "V"), ("help", 2, "h"), ("line-numbers", 0, "0"),
    ("modprobe", 1, "M"), ("set-counters", 1, "c"), ("goto", 1, "g"), ("ipv4", 0, "4"), ("ipv6", 0, "6"),
])

cdef char _short[256]        # short option -> its has_arg, or 3 if there is no such option


def _list_short_options(groups):
    """Fill the table of iptables' own short options."""
    memset(_short, 3, sizeof(_short))
    for has_arg, letters in groups.items():
        for letter in letters:
            _short[<unsigned char> ord(letter)] = has_arg


_list_short_options({0: "V46fnvx", 1: "ACDEIMNPRcdgijmopst", 2: "FLSWXZhw"})

cdef const char *_short_names[12]
cdef const char *_long_names[12]
cdef uint8_t _inverse[12]
_short_names[:] = [b"-n", b"-s", b"-d", b"-p", b"-j", b"-v", b"-x", b"-i", b"-o", b"-0", b"-c", b"-f"]
_long_names[:] = [b"--numeric", b"--source", b"--destination", b"--protocol", b"--jump", b"--verbose", b"--exact",
                  b"--in-interface", b"--out-interface", b"--line-numbers", b"--set-counters", b"--fragments"]
_inverse[:] = [0, IPT_INV_SRCIP, IPT_INV_DSTIP, IPT_INV_PROTO, 0, 0, 0, IPT_INV_VIA_IN, IPT_INV_VIA_OUT, 0, 0,
               IPT_INV_FRAG]


cdef const char *option_name(Spec *spec, unsigned int option) noexcept nogil:
    cdef size_t i = 0
    while option > 1:
        option >>= 1
        i += 1
    return _short_names[i] if spec.old else _long_names[i]


cdef void set_option(Spec *spec, unsigned int option) noexcept nogil:
    """Record that an option is given. Refuse it if it was given before, or is negated without a meaning."""
    cdef size_t i = 0
    if spec.options & option:
        xtables_error(PARAMETER_PROBLEM, b"multiple %s %s not allowed", option_name(spec, option), b"flags"
                      if spec.old else b"options")
    spec.options |= option
    if spec.negated:
        while (1u << i) != option:
            i += 1
        if not _inverse[i]:
            xtables_error(PARAMETER_PROBLEM, b"cannot have ! before %s", option_name(spec, option))
        flags_of(spec)[1] |= _inverse[i]


cdef void check_options(Spec *spec) noexcept nogil:
    """Refuse options that the command does not allow."""
    cdef unsigned int option = 1, allowed
    while option < 1 << OPTIONS:
        if spec.options & option:
            if option == OPT_VERBOSE:
                allowed = <unsigned int> ~0
            elif option == OPT_COUNTERS:
                allowed = INSERT | REPLACE | APPEND | SET_POLICY
            elif option & (OPT_NUMERIC | OPT_EXPANDED | OPT_LINENUMBERS):
                allowed = 0          # listing is not supported here
            else:
                allowed = WITH_RULE
            if not spec.command & allowed:
                xtables_error(PARAMETER_PROBLEM, b"Illegal option `%s' with this command", option_name(spec, option))
        option <<= 1


# ------------------------------------------------------------------------ getopt

cdef int next_option(Spec *spec) noexcept nogil:
    """Return what getopt_long returns, for the options of iptables and of the extensions that were named so far."""
    cdef char *word
    cdef char letter
    cdef int has_arg
    if spec.next == NULL or not spec.next[0]:
        if spec.optind == spec.words.count:
            return ENDED
        word = spec.words.list[spec.optind]
        if word[0] != b'-' or not word[1]:
            spec.optarg = word
            spec.optind += 1
            return NO_OPTION
        if word[1] == b'-':
            if word[2]:
                return _long_option(spec, word + 2)
            spec.optind += 1
            return ENDED
        spec.next = word + 1
    letter = spec.next[0]
    spec.next += 1
    if not spec.next[0]:
        spec.optind += 1
    has_arg = _short[<unsigned char> letter]
    if letter == b'b' and spec.old:
        return letter
    if has_arg == 3:
        spec.optopt = letter
        return b'?'
    if has_arg:
        spec.optarg = NULL
        if spec.next[0]:
            spec.optarg = spec.next
            spec.optind += 1
        elif has_arg == 1:
            if spec.optind == spec.words.count:
                spec.optopt = letter
                letter = b':'
            else:
                spec.optarg = spec.words.list[spec.optind]
                spec.optind += 1
        spec.next = NULL
    return letter


cdef int _long_option(Spec *spec, char *name) noexcept nogil:
    cdef size_t length = 0, i, j
    cdef const BaseOption *base = NULL
    cdef PluginRow *row
    cdef int has_arg, result
    while name[length] and name[length] != b'=':
        length += 1
    spec.found = NULL
    spec.optind += 1
    spec.next = NULL
    spec.optopt = 0
    # first the whole name: iptables' own options, then those of the extension that was named last
    if length < 32 and name[0] > 0 and _base_lengths[<unsigned char> name[0]] >> length & 1:
        for i in range(_base_count):
            if _base[i].length == length and memcmp(_base[i].name, name, length) == 0:
                if _base[i].letter != b'f' or spec.family.nfproto == NFPROTO_IPV4:
                    base = &_base[i]
                break
    if base == NULL:
        i = spec.listed
        while i and spec.found == NULL:
            i -= 1
            row = spec.listings[i].row
            for j in range(row.count):
                if row.options[j].length == length and memcmp(row.options[j].name, name, length) == 0:
                    spec.found = &row.options[j]
                    spec.found_row = row
                    spec.found_is_target = spec.listings[i].is_target
                    break
        if spec.found == NULL and not _abbreviated(spec, name, length, &base):
            return b'?'
    if base != NULL:
        has_arg = base.has_arg
        result = base.letter
    else:
        has_arg = spec.found.has_arg
        result = OF_EXTENSION
    spec.optarg = NULL
    if name[length]:
        if not has_arg:
            spec.optopt = result if base != NULL else OF_EXTENSION + spec.found.val
            return b'?'
        spec.optarg = name + length + 1
    elif has_arg == 1:
        if spec.optind == spec.words.count:
            spec.optopt = result if base != NULL else OF_EXTENSION + spec.found.val
            return b':'
        spec.optarg = spec.words.list[spec.optind]
        spec.optind += 1
    return result


cdef bint _abbreviated(Spec *spec, const char *name, size_t length, const BaseOption **base) noexcept nogil:
    """Find the only option that begins with *name*. Several names of one option count as one."""
    cdef size_t i = spec.listed, j, found_in = 0
    cdef PluginRow *row
    cdef const OptionRow *option
    base[0] = NULL
    for j in range(_base_count):
        if strncmp(_base[j].name, name, length) == 0:
            if _base[j].letter == b'f' and spec.family.nfproto != NFPROTO_IPV4:
                continue
            if base[0] == NULL:
                base[0] = &_base[j]
            elif base[0].letter != _base[j].letter or base[0].has_arg != _base[j].has_arg:
                return False
    while i:
        i -= 1
        row = spec.listings[i].row
        for j in range(row.count):
            option = &row.options[j]
            if strncmp(option.name, name, length):
                continue
            if base[0] != NULL:
                return False
            if spec.found == NULL:
                spec.found = option
                spec.found_row = row
                spec.found_is_target = spec.listings[i].is_target
                found_in = i
            elif found_in != i or spec.found.val != option.val or spec.found.has_arg != option.has_arg:
                spec.found = NULL
                return False
    return base[0] != NULL or spec.found != NULL


# ---------------------------------------------------------------------- commands

# The letter of each command: the command with the number N, 1 << N, has the letter at N. DELETE_NUM and ZERO_NUM are
# `-D` and `-Z` with the number of a rule.
cdef const char *LETTERS = b"IDDRALFZNXPESZC"


cdef char command_letter(unsigned int command) noexcept nogil:
    """Return the letter of the option for *command*."""
    return LETTERS[__builtin_ctz(command)]


cdef void set_command(Spec *spec, unsigned int command) noexcept nogil:
    if spec.negated:
        xtables_error(PARAMETER_PROBLEM, b"unexpected '!' flag")
    if spec.command:
        xtables_error(PARAMETER_PROBLEM, b"Cannot use -%c with -%c", <int> command_letter(command),
                      <int> command_letter(spec.command))
    spec.command = command
