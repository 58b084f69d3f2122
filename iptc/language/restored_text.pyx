# cython: freethreading_compatible=False
"""Reads files of iptables-save: lines go in, and one `RestoredTable` for each table comes out.

Lines are read as iptables-restore reads them, and refused in its words. A `RestoredTable` holds the commands in one
block of memory, without a Python object for each rule. The back ends read them there.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t
from libc.stdio cimport sscanf
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy, memset, strchr, strcmp, strlen

from .._linux cimport strnlen, strtok_r
from .._core cimport (
    NFLOG_LONG_SIZE, NFPROTO_IPV4, PAYLOAD_HEADER, STANDARD_SIZE, XT_EXTENSION_MAXNAMELEN, Family, c_text,
    family_of, is_long_nflog, is_verdict_name, os_decode, room_for, xt_counters,
)
from .options cimport (
    APPEND, CHECK, DELETE, INSERT, NAME_ROOM, NO_COMMAND, OPT_COUNTERS, RENAME, REPLACE, WITH_RULE, Spec,
    command_letter, flags_of,
)
from .plugins cimport (
    OTHER_PROBLEM, PARAMETER_PROBLEM, Names, captured, look_up, begin_names, end_names,
    refused_with, said, warn_of_what_was_said, warned, xtables_error,
)
from .specification cimport check_length, free_networks, learn_wanted, names_target, read_command, set_network, spec_of
from .words cimport MOST_WORDS, add, clear, make_room, split
from ..errors import ParameterError

# ----------------------------------------------------------------- restored tables


cdef class RestoredTable:
    """The commands of a restored text for one table, in their order."""

    def __cinit__(self):
        self.family = family_of(NFPROTO_IPV4)

    def __dealloc__(self):
        free(self.memory)

    @property
    def nfproto(self):
        """The family of its rules: 2 (IPv4) or 10 (IPv6)."""
        return self.family.nfproto

    def commands(self):
        """Yield (line, what, chain or None, number, entry or None, other, counters or None) for each command.

        *what*: the letter of the option, or `:` for the declaration of a chain. *number*: of a rule, from 1, or 0.
        *other*: the policy, the new name, or the chain that the rule jumps to.
        """
        cdef size_t at = 0
        cdef const Record *record
        while at < self.used:
            record = <const Record *> (self.memory + at)
            entry = _bytes_of(record) if record.entry_size else None
            at += record.size
            yield (record.line, _letter(record.command), os_decode(record.chain) or None, record.number, entry,
                   os_decode(record.other), _counters_of(record))

    def steps(self):
        """Yield a `Command` for each command. Commands `-A` that follow each other are one, whatever their chains."""
        cdef size_t at = 0
        cdef const Record *record
        cdef const Record *previous = NULL
        cdef Command command
        cdef str chain = ""
        while at < self.used:
            record = <const Record *> (self.memory + at)
            command = Command.__new__(Command)
            command.line = record.line
            command.letter = _letter(record.command)
            command.chain = command.other = ""
            if record.command == APPEND:
                command.rule = _run_at(self, at, False)
                at = command.rule.end
                yield command
                continue
            if previous == NULL or strcmp(previous.chain, record.chain):
                chain = os_decode(record.chain)
                previous = record
            command.chain = chain
            command.number = record.number
            command.counters = _counters_of(record)
            if record.entry_size:
                command.rule = _rule_at(self, at)
            else:
                command.other = os_decode(record.other)
            at += record.size
            yield command

    def declared(self):
        """Return the set of the chains that lines `:CHAIN` declare."""
        cdef size_t at = 0
        cdef const Record *record
        cdef set found = set()
        while at < self.used:
            record = <const Record *> (self.memory + at)
            if record.command == DECLARE:
                found.add(os_decode(record.chain))
            at += record.size
        return found

    def head(self, size_t most):
        """Return a `RestoredTable` with only the first *most* commands."""
        cdef RestoredTable other = RestoredTable.__new__(RestoredTable)
        cdef size_t at = 0
        while most and at < self.used:
            at += (<Record *> (self.memory + at)).size
            most -= 1
        other.memory = <char *> realloc(NULL, at + 1)
        if other.memory == NULL:
            raise MemoryError
        memcpy(other.memory, self.memory, at)
        other.used = other.room = at
        other.family, other.table, other.flush, other.nft = self.family, self.table, self.flush, self.nft
        other.line, other.last_line, other.rules = self.line, self.last_line, self.rules
        return other


cdef class Run:
    """The rule of a command, or the rules of commands `-A` that follow each other."""

    def __len__(self):
        return self.count

    def rules(self):
        """Return [(line, entry)] of all rules."""
        cdef size_t at = self.start
        cdef const Record *record
        cdef list found = []
        while at < self.end:
            record = <const Record *> (self.restored.memory + at)
            found.append((record.line, _bytes_of(record)))
            at += record.size
        return found

    def parts(self):
        """Return [(line of the first rule, chain, `Run`)], with one `Run` for rules of the same chain that follow each
        other."""
        cdef size_t at = self.start
        cdef const Record *record
        cdef Run part
        cdef list found = []
        while at < self.end:
            record = <const Record *> (self.restored.memory + at)
            part = _run_at(self.restored, at, True)
            found.append((record.line, os_decode(record.chain), part))
            at = part.end
        return found

    @property
    def entry(self):
        """The only rule of the run, as bytes."""
        return _bytes_of(first_record(self))

    def each(self):
        """Return [(line, `Run` with this rule only)] of all rules."""
        cdef size_t at = self.start
        cdef const Record *record
        cdef list found = []
        while at < self.end:
            record = <const Record *> (self.restored.memory + at)
            found.append((record.line, _rule_at(self.restored, at)))
            at += record.size
        return found


cdef class Command:
    """One command of a restored text, as its line says.

    *letter*: that of its option, or `:` for the declaration of a chain. *chain*: "" for all chains. *number*: of a
    rule, counting from 1, or 0. *rule*: a `Run`, or None. *other*: the policy, or the new name. *counters*: (packets,
    bytes) of a policy, or None.
    """

    cdef readonly uint32_t line
    cdef readonly uint32_t number
    cdef readonly str letter
    cdef public str chain
    cdef readonly Run rule
    cdef readonly str other
    cdef readonly tuple counters


cdef tuple _counters_of(const Record *record):
    """Return the (packets, bytes) that a command gives to a policy, or None."""
    return None if record.entry_size or not record.counted else (record.counters.pcnt, record.counters.bcnt)


cdef bytes _bytes_of(const Record *record):
    return PyBytes_FromStringAndSize(<const char *> (record + 1), record.entry_size)


cdef Run _rule_at(RestoredTable restored, size_t at):
    """Return the `Run` of a command with one rule."""
    cdef Run run = Run.__new__(Run)
    run.restored = restored
    run.start = at
    run.end = at + (<const Record *> (restored.memory + at)).size
    run.count = 1
    return run


cdef Run _run_at(RestoredTable restored, size_t at, bint same_chain):
    cdef Run run = Run.__new__(Run)
    cdef const Record *first = <const Record *> (restored.memory + at)
    cdef const Record *record = first
    run.restored = restored
    run.start = at
    while at < restored.used and record.command == APPEND and not (same_chain and strcmp(record.chain, first.chain)):
        at += record.size
        run.count += 1
        record = <const Record *> (restored.memory + at)
    run.end = at
    return run


cdef str _letter(uint32_t command):
    """Return the name of a command in `RestoredTable.commands`."""
    if command == DECLARE:
        return ":"
    if command == ONLY_JUMP:
        return "?"
    return chr(command_letter(command))


# ------------------------------------------------------------------------ reading

cdef enum:
    LINE_ROOM = 1 << 12      # the memory for a line at the start
    LONGEST_LINE = 1 << 20   # the longest line; the most words that a line may have need a quarter of it
    TABLE_ROOM = 256
    RECORDS_FOR_TEXT = 12    # about how many bytes of records are made of one byte of text, at most

# The state of reading a text.
cdef struct TextReading:
    Family *family
    const char *program
    const char *only         # the only table to read, or NULL
    bint counters
    bint nft                 # read in the way of iptables-nft-restore
    const char *text
    size_t length
    size_t at
    bint last                # nothing follows *text*
    uint32_t line
    bint in_table
    char table[TABLE_ROOM]
    # the table that is being read
    uint32_t begun
    char *memory
    size_t used
    size_t room
    size_t rules
    # a copy of the line, which is split in place
    char *copy
    size_t copy_room
    size_t copy_wanted
    # chains that hide the target with that name, also in the tables that follow
    char *hidden
    size_t hidden_count
    Spec *spec
    int event

cdef enum:
    # why reading has stopped
    ALL_READ
    BEGUN                    # `*table`
    DONE                     # `COMMIT`
    TOO_LONG                 # a line that is longer than the memory for it
    WARNED                   # a line with a warning


cdef Record *_new_record(TextReading *reading, size_t extra) noexcept nogil:
    """Return a zeroed record with *extra* bytes behind it."""
    cdef size_t size = (sizeof(Record) + extra + 7) & ~<size_t> 7
    cdef size_t room
    cdef char *grown
    cdef Record *record
    if reading.room - reading.used < size:
        # Memory that is not written to costs nothing. It is allocated in one piece as large as all others together:
        # once that was freed, the C library keeps freed memory. Otherwise each restore would pay a page fault for each
        # page.
        room = 2 * reading.room if reading.room else RECORDS_FOR_TEXT * (reading.length - reading.at)
        room = room_for(room + size + 4096, reading.used + size)
        grown = <char *> realloc(reading.memory, room)
        if grown == NULL:
            xtables_error(PARAMETER_PROBLEM, b"out of memory")
        reading.memory = grown
        reading.room = room
    record = <Record *> (reading.memory + reading.used)
    memset(record, 0, sizeof(Record))
    record.size = size
    record.line = reading.line
    reading.used += size
    return record


cdef void _read_table(TextReading *reading) noexcept nogil:
    """Read a line such as `*filter`."""
    cdef char *rest
    cdef char *name = strtok_r(reading.copy + 1, b" \t\n", &rest)
    if name == NULL:
        xtables_error(PARAMETER_PROBLEM, b"%s: line %u table name invalid", reading.program, reading.line)
    memset(reading.table, 0, sizeof(reading.table))
    memcpy(reading.table, name, strnlen(name, TABLE_ROOM - 1))
    if reading.only != NULL and strcmp(reading.only, name):
        return
    reading.in_table = True
    reading.used = reading.rules = 0
    reading.begun = reading.line
    reading.event = BEGUN


cdef bint _parse_counters(const char *text, xt_counters *counters) noexcept nogil:
    cdef unsigned long long packets, size
    if text == NULL or sscanf(text, b"[%llu:%llu]", &packets, &size) != 2:
        return False
    counters.pcnt = packets
    counters.bcnt = size
    return True


cdef void _read_declaration(TextReading *reading) noexcept nogil:
    """Read a line `:CHAIN POLICY [packets:bytes]`."""
    cdef char *rest
    cdef char *name = strtok_r(reading.copy + 1, b" \t\n", &rest)
    cdef char *policy
    cdef char *counters
    cdef xt_counters count
    cdef Record *record
    cdef bint sound = True
    if name == NULL:
        xtables_error(PARAMETER_PROBLEM, b"%s: line %u chain name invalid", reading.program, reading.line)
    if strlen(name) >= XT_EXTENSION_MAXNAMELEN:
        if reading.nft:
            xtables_error(PARAMETER_PROBLEM, b"chain name `%s' too long (must be under %u chars)", name,
                          <unsigned int> XT_EXTENSION_MAXNAMELEN)
        xtables_error(PARAMETER_PROBLEM, b"Invalid chain name `%s' (%u chars max)", name,
                      <unsigned int> (XT_EXTENSION_MAXNAMELEN - 1))
    policy = strtok_r(NULL, b" \t\n", &rest)
    if policy == NULL:
        xtables_error(PARAMETER_PROBLEM, b"%s: line %u policy invalid", reading.program, reading.line)
    memset(&count, 0, sizeof(count))
    if reading.nft or strcmp(policy, b"-"):
        counters = NULL
        # releases before 1.8.10 read the counters only with `--counters`
        if reading.counters or not reading.spec.old:
            counters = strtok_r(NULL, b" \t\n", &rest)
        if (counters == NULL and reading.counters) or (counters != NULL and not _parse_counters(counters, &count)):
            # iptables-nft-restore ignores the counters of a user chain
            sound = False
            if not reading.nft:
                xtables_error(PARAMETER_PROBLEM, b"invalid policy counters for chain '%s'", name)
    _hide_target(reading, name)
    record = _new_record(reading, 0)
    record.command = DECLARE
    _put_name(record.chain, name)
    _put_name(record.other, policy)
    if reading.counters:
        record.counters = count
    record.counted = sound


cdef void _hide_target(TextReading *reading, const char *name) noexcept nogil:
    """Hide the target *name*: a chain with that name was declared, and a jump to that name means the chain from now
    on."""
    cdef char *grown
    if not names_target(reading.spec, name):
        return
    grown = <char *> realloc(reading.hidden, NAME_ROOM * (reading.hidden_count + 1))
    if grown == NULL:
        xtables_error(PARAMETER_PROBLEM, b"out of memory")
    _put_name(grown + NAME_ROOM * reading.hidden_count, name)
    reading.hidden = reading.spec.hidden = grown
    reading.hidden_count += 1
    reading.spec.hidden_count = reading.hidden_count


cdef void _emit(TextReading *reading) noexcept nogil:
    """Store the command that was read, once for each pair of a source and a destination address."""
    cdef Spec *spec = reading.spec
    cdef unsigned int i, j
    cdef Record *record
    cdef size_t extra = 0
    if not spec.command & WITH_RULE:
        _note(spec, _new_record(reading, 0))
        return
    extra = spec.size
    if spec.ignored:
        # iptables does not check the chain or the length of its name in this case
        spec.command = ONLY_JUMP
        spec.chain = NULL
        spec.networks[0] = spec.networks[1] = 1
    if spec.command & (DELETE | CHECK):
        extra *= 2
    for i in range(spec.networks[0]):
        for j in range(spec.networks[1]):
            if spec.networks[0] > 1 or spec.networks[1] > 1:
                set_network(spec, 0, i)
                set_network(spec, 1, j)
            record = _new_record(reading, extra)
            _note(spec, record)
            record.entry_size = spec.size
            record.counted = HAS_EXTENSION if spec.has_target else 0
            memcpy(record + 1, spec.entry, spec.size)
            if spec.command & (DELETE | CHECK):
                _write_mask(spec, <char *> (record + 1) + spec.size)
            if spec.command & (APPEND | INSERT | REPLACE):
                reading.rules += 1


cdef void _put_name(char *room, const char *name) noexcept nogil:
    """Copy *name* into the NAME_ROOM bytes at *room*. This is the only place that copies a name of a text into a fixed
    size.

    A name that is too long is the name of nothing. What is stored of it contains a blank, and so is the name of nothing
    too.
    """
    cdef size_t length = strlen(name)
    memset(room, 0, NAME_ROOM)
    if length < NAME_ROOM:
        memcpy(room, name, length)
    else:
        memcpy(room, name, NAME_ROOM - 4)
        memcpy(room + NAME_ROOM - 4, b" ..", 3)


cdef void _note(Spec *spec, Record *record) noexcept nogil:
    cdef const char *other = spec.other if spec.other != NULL else spec.jump
    record.command = spec.command
    record.number = spec.number
    if spec.chain != NULL:
        _put_name(record.chain, spec.chain)
    if other != NULL:
        if spec.command == RENAME:
            check_length(other)
        _put_name(record.other, other)
    if spec.options & OPT_COUNTERS:
        record.counted = True
        record.counters = (<xt_counters *> (spec.entry + spec.family.counters))[0]


cdef void _write_mask(Spec *spec, char *mask) noexcept nogil:
    """Write ones for the bits of the payloads that describe the rule, and that iptables compares."""
    cdef size_t i, at = spec.family.header
    memset(mask, 0, spec.size)
    for i in range(spec.count):
        memset(mask + at, 0xff, PAYLOAD_HEADER + spec.parts[i].row.c.userspacesize)
        at += spec.parts[i].row.size
    if spec.has_target:
        memset(mask + at, 0xff, PAYLOAD_HEADER + spec.target_part.row.c.userspacesize)
        if is_long_nflog(spec.target_part.data):
            memset(mask + at, 0xff, NFLOG_LONG_SIZE)
    else:
        memset(mask + at, 0xff, STANDARD_SIZE)


cdef size_t _read_rule_counters(TextReading *reading) noexcept nogil:
    """Read `[packets:bytes]` before a command, and add the words that set the counters. Return the number of bytes
    read."""
    cdef char *rest
    cdef char *end = strchr(reading.copy, b']')
    cdef char *packets
    cdef char *size
    cdef size_t used
    if end == NULL:
        xtables_error(PARAMETER_PROBLEM, b"Bad line %u: need ]", reading.line)
    used = end + 1 - reading.copy
    packets = strtok_r(reading.copy + 1, b":", &rest)
    if packets == NULL:
        xtables_error(PARAMETER_PROBLEM, b"Bad line %u: need :", reading.line)
    size = strtok_r(NULL, b"]", &rest)
    if size == NULL:
        xtables_error(PARAMETER_PROBLEM, b"Bad line %u: need ]", reading.line)
    if strchr(packets, b']') != NULL:
        # iptables-restore cuts the line at its next colon, and reads the rest
        xtables_error(PARAMETER_PROBLEM, b"Bad line %u: need :", reading.line)
    if reading.counters:
        add(&reading.spec.words, b"--set-counters")
        add(&reading.spec.words, packets)
        add(&reading.spec.words, size)
    return used


cdef void _read_line_of_table(TextReading *reading, const char *line, size_t length) noexcept nogil:
    """Read a line with a command."""
    cdef Spec *spec = reading.spec
    cdef const char *refusal
    cdef size_t used = 0
    clear(&spec.words)
    add(&spec.words, reading.program)
    add(&spec.words, b"-t")
    add(&spec.words, reading.table)
    if line[0] == b'[':
        used = _read_rule_counters(reading)
    refusal = split(&spec.words, line + used, length - used, True)
    if refusal != NULL:
        xtables_error(PARAMETER_PROBLEM, b"%s", refusal)
    spec.optind = 3
    spec.command = NO_COMMAND
    spec.chain = NULL
    spec.table = reading.table
    read_command(spec)
    if (reading.nft and spec.command & WITH_RULE and not spec.ignored
            and flags_of(spec)[0] & spec.family.goto_flag and is_verdict_name(spec.jump)):
        xtables_error(PARAMETER_PROBLEM, b"Chain '%s' does not exist", spec.jump)
    if spec.command:
        _emit(reading)
    if spec.addresses[0] != NULL or spec.addresses[1] != NULL:
        free_networks(spec)


cdef const char *_misplaced(const char *line, size_t length) noexcept nogil:
    """Return the message for a *line* that is outside of any table, or NULL."""
    cdef size_t at = 0
    if length >= 3 and memcmp(line, b"\xef\xbb\xbf", 3) == 0:
        return b"a byte order mark (BOM) is no part of such a text"
    while at < length and line[at] in b" \t\r":
        at += 1
    if at < length and (line[at] == b'*' or line[at] == b'#'):
        return b"blanks in front of `*' or `#'"
    if at == length or line[at] == b'\n':
        return b"an empty line has no blanks and no carriage return"
    if length - at >= 6 and memcmp(line + at, b"COMMIT", 6) == 0:
        return b"COMMIT of no table: one ends the table already, or none has begun"
    if line[at] in b":-[":
        return b"a chain or rule of no table: a line such as `*filter' comes first"
    return b"neither `*TABLE' nor a comment (`#')"


cdef void _check_commit(const char *line, size_t length) noexcept nogil:
    """Refuse a line that has the word COMMIT with other characters around it."""
    cdef size_t at = 0
    while length and line[length - 1] in b" \t\n":
        length -= 1
    while at < length and line[at] in b" \t":
        at += 1
    if 6 <= length - at <= 7 and memcmp(line + at, b"COMMIT\r", length - at) == 0:
        xtables_error(PARAMETER_PROBLEM,
                      b"COMMIT stands alone at the start of its line, and a line feed ends it: Bad argument `%.*s'",
                      <int> (length - at), line + at)


cdef void _read_body(void *arg) noexcept nogil:
    """Read lines until there is an event to report."""
    cdef TextReading *reading = <TextReading *> arg
    cdef const char *line
    cdef const char *end
    cdef size_t length
    reading.event = ALL_READ
    # the warnings of a line are reported before the next line is read, so that they are not mixed with its errors
    while reading.event == ALL_READ and reading.at < reading.length and not warned():
        line = reading.text + reading.at
        length = min(reading.length - reading.at, <size_t> LONGEST_LINE + 1)
        end = <const char *> memchr(line, b'\n', length)
        if end != NULL:
            length = end + 1 - line
        elif length <= LONGEST_LINE and not reading.last:
            return
        if length >= reading.copy_room and length <= LONGEST_LINE:
            reading.event = TOO_LONG
            reading.copy_wanted = length
            return
        reading.line += 1
        if memchr(line, 0, length) != NULL:
            xtables_error(PARAMETER_PROBLEM if reading.in_table else OTHER_PROBLEM, b"a NUL byte")
        if length > LONGEST_LINE:
            xtables_error(PARAMETER_PROBLEM if reading.in_table else OTHER_PROBLEM, b"Line too long (%u bytes max)",
                          <unsigned int> LONGEST_LINE)
        if line[0] == b'\n' or line[0] == b'#':
            pass
        elif reading.in_table and (length == 7 and memcmp(line, b"COMMIT\n", 7) == 0
                                   or reading.nft and length == 6 and memcmp(line, b"COMMIT", 6) == 0):
            reading.in_table = False
            reading.event = DONE
        elif line[0] == b'*' and not reading.in_table:
            _copy(reading, line, length)
            _read_table(reading)
        elif line[0] == b':' and reading.in_table:
            _copy(reading, line, length)
            _read_declaration(reading)
        elif reading.in_table:
            _check_commit(line, length)
            if line[0] == b'[':
                _copy(reading, line, length)
            _read_line_of_table(reading, line, length)
        elif reading.only == NULL or strcmp(reading.only, reading.table) == 0:
            xtables_error(OTHER_PROBLEM, b"%s: line %u failed: %s", reading.program, reading.line, _misplaced(line,
                                                                                                              length))
        reading.at += length
    if reading.event == ALL_READ and reading.at < reading.length:
        reading.event = WARNED


cdef inline void _copy(TextReading *reading, const char *line, size_t length) noexcept nogil:
    memcpy(reading.copy, line, length)
    reading.copy[length] = 0


cdef class Reader:
    """Reads the text of one family. `feed` takes the pieces of the text in order, and `finish` ends it.

    *counters*: set the counters of the text. *flush*: whether the table's own rules are deleted. *only*: read only this
    table.
    """

    cdef TextReading reading
    cdef bytes keep_only
    cdef list rest               # the pieces of a line that is not complete yet
    cdef size_t rest_size
    cdef bint flush

    def __cinit__(self):
        memset(&self.reading, 0, sizeof(self.reading))
        self.reading.family = family_of(NFPROTO_IPV4)
        self.reading.program = b"iptables-restore"

    def __dealloc__(self):
        free(self.reading.memory)
        free(self.reading.copy)
        free(self.reading.hidden)

    def __init__(self, int nfproto, bint counters=False, bint flush=True, str only=None):
        self.reading.family = family_of(nfproto)
        self.reading.program = b"iptables-restore" if nfproto == NFPROTO_IPV4 else b"ip6tables-restore"
        self.reading.counters = counters
        self.flush = flush
        self.rest = []
        if only is not None:
            self.keep_only = c_text(only, "a table name")
            self.reading.only = PyBytes_AS_STRING(self.keep_only)

    @property
    def nft(self):
        """Whether the table that has begun is on nf_tables, and so is read in the way of iptables-nft-restore."""
        return self.reading.nft

    @nft.setter
    def nft(self, bint value):
        self.reading.nft = value

    @property
    def line(self):
        """The number of the last line that was read, counting from 1."""
        return self.reading.line

    @property
    def table(self):
        """The name of the table that is being read, or None."""
        return os_decode(self.reading.table) if self.reading.in_table else None

    def feed(self, bytes text not None, bint last=False):
        """Read *text*. Yield (name, line, None) where a table begins, and (name, line, `RestoredTable`) where it ends.

        Raises `ParameterError` with iptables' message, and the number of the line as `line`.
        """
        cdef bytes whole = text
        cdef size_t at = 0
        if self.rest:
            # the pieces of a long line are joined only once, however small they are
            self.rest.append(text)
            self.rest_size += PyBytes_GET_SIZE(text)
            if not last and self.rest_size <= LONGEST_LINE and b"\n" not in text:
                return
            whole = b"".join(self.rest)
        while True:
            at = self._read_on(whole, at, last)
            if self.reading.event == ALL_READ:
                break
            if self.reading.event == BEGUN:
                yield os_decode(self.reading.table), self.reading.line, None
            elif self.reading.event == DONE:
                restored = self.partial()
                yield restored.table, self.reading.line, restored
        whole = whole[at:] if at else whole
        self.rest_size = PyBytes_GET_SIZE(whole)
        self.rest = [whole] if whole else []

    cdef size_t _read_on(self, bytes whole, size_t at, bint last) except? 0:
        """Read *whole* from *at* until there is an event. Return the place where the reading has stopped."""
        cdef Names looked
        begin_names(&looked)
        try:
            return self._read_knowing(whole, at, last, &looked)
        finally:
            end_names(&looked)

    cdef size_t _read_knowing(self, bytes whole, size_t at, bint last, Names *looked) except? 0:
        cdef TextReading *reading = &self.reading
        cdef Spec *spec
        while True:
            # another thread may have used the Spec meanwhile
            spec = reading.spec = spec_of(reading.family.nfproto, reading.program, NULL)
            spec.hidden = reading.hidden
            spec.hidden_count = reading.hidden_count
            if reading.copy_room < LINE_ROOM:
                self._room_for(LINE_ROOM)
            make_room(&spec.words, MOST_WORDS + 4, reading.copy_room)
            reading.text = PyBytes_AS_STRING(whole)
            reading.length = PyBytes_GET_SIZE(whole)
            reading.at = at
            reading.last = last
            if captured(_read_body, reading, looked) == 0:
                at = reading.at
                if reading.event == TOO_LONG:
                    self._room_for(room_for(2 * reading.copy_wanted, reading.copy_wanted))
                    continue
                warn_of_what_was_said()
                if reading.event == WARNED:
                    continue
                return at
            at = reading.at
            free_networks(spec)
            if not looked.wanted and not spec.wanted:
                self._refuse(said())
            reading.line -= 1
            if looked.wanted:
                look_up(looked)
            else:
                spec.wanted = False
                learn_wanted(spec)

    cdef int _room_for(self, size_t length) except -1:
        grown = realloc(self.reading.copy, length + 1)
        if grown == NULL:
            raise MemoryError
        self.reading.copy = <char *> grown
        self.reading.copy_room = length + 1
        return 0

    cdef int _refuse(self, str message) except -1:
        raise refused(self.reading.line, message, refused_with())

    def partial(self):
        """Return the `RestoredTable` of the current table as far as it was read. It does not belong to the reader any
        more."""
        cdef RestoredTable restored = RestoredTable.__new__(RestoredTable)
        restored.family = self.reading.family
        restored.table = os_decode(self.reading.table)
        restored.line = self.reading.begun
        restored.last_line = self.reading.line
        restored.rules = self.reading.rules
        restored.flush = self.flush
        restored.nft = self.reading.nft
        restored.memory = self.reading.memory
        restored.used = self.reading.used
        restored.room = self.reading.room
        self.reading.memory = NULL
        self.reading.used = self.reading.room = 0
        return restored

    def finish(self):
        """Raise if the text ended inside a table."""
        if self.reading.in_table:
            program = (<bytes> self.reading.program).decode()
            raise refused(self.reading.line + 1, f"{program}: COMMIT expected at line {self.reading.line + 1}",
                          OTHER_PROBLEM)


def refused(uint32_t line, str message not None, int status=PARAMETER_PROBLEM, kind=ParameterError):
    """Return the exception of class *kind* for *line*, which iptables-restore refuses with *message* and exit
    *status*."""
    error = kind(f"line {line}: {visible(message.strip())}")
    error.line = line
    error.status = status
    return error


cdef dict _CONTROLS = {number: f"\\x{number:02x}" for number in (*range(32), 127) if chr(number) not in "\t\n"}
_CONTROLS[13] = "\\r"


def visible(str text not None):
    """Return *text* with control characters written as `\\x..`, so that a carriage return at the end of a line is
    seen."""
    return text if text.isprintable() else text.translate(_CONTROLS)
