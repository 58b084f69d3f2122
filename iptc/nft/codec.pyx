# cython: freethreading_compatible=False
"""Turns the bytes of a rule into nf_tables' expressions and back, as iptables-nft does.

The bytes are those that the rest of the package uses: `ipt_entry` or `ip6t_entry`, the matches, and the target by name.
Some rules of `nft` have no such form. They become opaque: a target named `nft` that holds the attributes of the rule.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.errno cimport ENOMEM
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strcmp, strlen

from .._linux cimport htobe64, strnlen
from .._core cimport (
    PAYLOAD_HEADER, Family, family_of, is_entry, is_verdict, marks_any_protocol,
    target_offset, xt_counters, xt_entry_match,
)
from .._netlink cimport (
    ATTRIBUTE_HEAD, NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS, NFTA_LIST_ELEM, NFTA_QUOTA_CONSUMED,
    NFTA_QUOTA_FLAGS, NFTA_RULE_EXPRESSIONS, NFTA_RULE_HANDLE, NFTA_RULE_USERDATA, NFT_MSG_NEWRULE,
    NFT_QUOTA_F_DEPLETED, Attribute, Message, Socket, Writer, attribute_be64, attribute_next, attribute_scan,
    attribute_text, message_next, message_scan, nest, nest_end, put_be64, writer_reserve,
)
from .expressions cimport Fields, Open, expression_begin, expression_end, expression_next, expression_text
from .parts cimport (
    ENTRY_MOST, Reading, add_target, count_transports, has_range, put_base, put_compat_protocol, put_matches,
    put_target, read_expressions, reading_begin,
)
from ..language.plugins cimport prints_by_mask, reads_compat_only
from ..errors import ParameterError, Unsupported

cdef enum:
    UDATA_COMMENT = 0            # the type of the user data that is a comment
    LAST_SET = 1                 # NFTA_LAST_SET and NFTA_LAST_MSECS, which headers before Linux 5.14 do not have
    LAST_MSECS = 2
    OPAQUE_HEAD = 4              # the length of the attributes of an opaque rule, stored before them

cdef const char *OPAQUE = b"nft"

# ---------------------------------------------------------- opaque rules

cdef void _set_numbers(char *expressions, size_t length, xt_counters counters) noexcept nogil:
    """Set the first counter to *counters*, and all other numbers that packets change to zero."""
    cdef Attribute cursor, name
    cdef Fields fields
    attribute_scan(&cursor, expressions, length)
    while expression_next(&cursor, &name, &fields):
        if attribute_text(&name, b"counter"):
            _set_long_number(&fields, NFTA_COUNTER_PACKETS, counters.pcnt)
            _set_long_number(&fields, NFTA_COUNTER_BYTES, counters.bcnt)
            counters.pcnt = counters.bcnt = 0
        elif attribute_text(&name, b"quota"):
            _set_long_number(&fields, NFTA_QUOTA_CONSUMED, 0)
            if fields.length[NFTA_QUOTA_FLAGS] == 4:
                # the flag that a quota is used up: the kernel refuses it in a new rule
                (<char *> fields.data[NFTA_QUOTA_FLAGS])[3] &= ~NFT_QUOTA_F_DEPLETED
        elif attribute_text(&name, b"last"):
            _set_long_number(&fields, LAST_MSECS, 0)
            if fields.length[LAST_SET] == 4:
                memset(<char *> fields.data[LAST_SET], 0, 4)


cdef void _set_long_number(const Fields *fields, int kind, uint64_t number) noexcept nogil:
    number = htobe64(number)
    if fields.data[kind] != NULL and fields.length[kind] == 8:
        memcpy(<char *> fields.data[kind], &number, 8)


cdef bint _is_opaque(const xt_entry_match *target) noexcept nogil:
    return strcmp(target.u.user.name, OPAQUE) == 0 and not is_verdict(target)


cdef bint _add_opaque(Reading *reading, const Attribute *expressions, const Attribute *userdata) noexcept nogil:
    """Make an opaque entry that holds these attributes, with the numbers that packets change set to zero. Return False
    if there is room for a part of them only."""
    cdef const Attribute *parts[2]
    cdef const Attribute *part
    cdef size_t length = 0, at = reading.family.header, whole
    cdef char *room
    cdef xt_counters zero
    cdef uint32_t stated
    cdef int i
    parts[0] = expressions
    parts[1] = userdata
    for i in range(2):
        if parts[i].data != NULL:
            length += _whole(parts[i])
    memset(reading.entry, 0, at)
    reading.length = at
    reading.target = 0
    stated = length
    whole = min(length, <size_t> ENTRY_MOST - at - PAYLOAD_HEADER - OPAQUE_HEAD)
    reading.comment_length = 0
    room = add_target(reading, OPAQUE, strlen(OPAQUE), 0, OPAQUE_HEAD + whole)
    memcpy(room, &stated, OPAQUE_HEAD)
    if whole < length:
        return False
    room += OPAQUE_HEAD
    zero.pcnt = zero.bcnt = 0
    for i in range(2):
        part = parts[i]
        if part.data != NULL:
            memcpy(room, part.data - ATTRIBUTE_HEAD, ATTRIBUTE_HEAD + part.length)
            if i == 0:
                _set_numbers(room + ATTRIBUTE_HEAD, part.length, zero)
            room += _whole(part)
    return True


cdef inline size_t _whole(const Attribute *attribute) noexcept nogil:
    """Return the size of an attribute in a message, with its header and padding."""
    return (ATTRIBUTE_HEAD + attribute.length + 3) & ~<size_t> 3


cdef int _put_opaque(Writer *writer, Family *family, const char *entry, char *scratch) except -1:
    """Write the attributes of an opaque rule, with the counters of its entry. *scratch* is memory for an entry."""
    cdef const char *target = entry + target_offset(family, entry)
    cdef uint32_t length
    cdef size_t room = (<const uint16_t *> target)[0] - PAYLOAD_HEADER
    cdef size_t start = writer.length
    cdef Attribute cursor
    cdef Reading reading
    if room < OPAQUE_HEAD:
        raise ParameterError("not a rule that was read from nf_tables")
    memcpy(&length, target + PAYLOAD_HEADER, OPAQUE_HEAD)
    if length == 0:
        return 0
    if length > room - OPAQUE_HEAD:
        raise Unsupported("the rule was written by another program, and is too long to be written again")
    if not writer_reserve(writer, length):
        return 0
    memcpy(writer.memory + start, target + PAYLOAD_HEADER + OPAQUE_HEAD, length)
    writer.length += length
    attribute_scan(&cursor, writer.memory + start, length)
    while attribute_next(&cursor):
        if cursor.kind == NFTA_RULE_EXPRESSIONS:
            _set_numbers(<char *> cursor.data, cursor.length, (<const xt_counters *> (entry + family.counters))[0])
            # the kernel gives its extensions this protocol: that of the rule, as far as the rule can be read
            reading_begin(&reading, family, scratch)
            read_expressions(&reading, cursor.data, cursor.length)
            put_compat_protocol(writer, family, scratch)
            return 0
    return 0


cdef list _expressions(const char *target, size_t room):
    """Return the texts of the expressions in an opaque target, whose data has *room* bytes; None if it holds no rule,
    or not a whole one."""
    cdef uint32_t length
    cdef Attribute cursor, element
    cdef list found = []
    if room < PAYLOAD_HEADER + OPAQUE_HEAD or not _is_opaque(<const xt_entry_match *> target):
        return None
    memcpy(&length, target + PAYLOAD_HEADER, OPAQUE_HEAD)
    if length > room - PAYLOAD_HEADER - OPAQUE_HEAD:
        return None
    attribute_scan(&cursor, target + PAYLOAD_HEADER + OPAQUE_HEAD, length)
    while attribute_next(&cursor):
        if cursor.kind != NFTA_RULE_EXPRESSIONS:
            continue
        attribute_scan(&element, cursor.data, cursor.length)
        while attribute_next(&element):
            if element.kind == NFTA_LIST_ELEM:
                found.append(expression_text(&element))
        if element.at != element.end:
            return None
    return found if cursor.at == cursor.end else None


def target_expressions(bytes payload):
    """Return the expressions of an opaque rule, given its target as bytes: their names, with the sets, chains and
    verdicts that they refer to.

    None: it is no such target, or the rule was too long to be stored in it.
    """
    return _expressions(PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))


def entry_expressions(int nfproto, bytes entry):
    """Return the result of `target_expressions` for the target of *entry*."""
    cdef Family *family = family_of(nfproto)
    cdef const char *raw = PyBytes_AS_STRING(entry)
    if not is_entry(family, raw, PyBytes_GET_SIZE(entry)):
        return None
    return _expressions(raw + target_offset(family, raw), PyBytes_GET_SIZE(entry) - target_offset(family, raw))


# ----------------------------------------------------------- whole rules

cdef int _put_rule(Writer *writer, Family *family, const char *entry, bint compat) except -1:
    """Write the conditions, the counter and the target. The counter counts packets that meet the conditions before
    it."""
    cdef size_t start = nest(writer, NFTA_RULE_EXPRESSIONS)
    cdef const xt_counters *counters = <const xt_counters *> (entry + family.counters)
    cdef Open counter
    put_base(writer, family, entry, compat, compat or prints_by_mask())
    put_matches(writer, family, entry, compat)
    counter = expression_begin(writer, b"counter")
    put_be64(writer, NFTA_COUNTER_PACKETS, counters.pcnt)
    put_be64(writer, NFTA_COUNTER_BYTES, counters.bcnt)
    expression_end(writer, counter)
    put_target(writer, family, entry, compat)
    nest_end(writer, start)
    put_compat_protocol(writer, family, entry)
    return 0


cdef int write_rule(Writer *writer, Family *family, const char *entry, size_t size, bint compat) except -1:
    """Write the attributes that `encode` returns, behind those that *writer* has."""
    cdef char *scratch
    if not is_entry(family, entry, size):
        raise ParameterError("not an entry of this family: its sizes do not add up")
    if _is_opaque(<const xt_entry_match *> (entry + target_offset(family, entry))):
        scratch = <char *> malloc(ENTRY_MOST)
        if scratch == NULL:
            raise MemoryError
        try:
            _put_opaque(writer, family, entry, scratch)
        finally:
            free(scratch)
    else:
        _put_rule(writer, family, entry, compat)
    if writer.failed == ENOMEM:
        raise MemoryError
    if writer.failed:
        raise Unsupported("the rule is too long for nf_tables")
    return 0


def encode(int nfproto, bytes entry, compat=None):
    """Return the attributes of a rule for `NFT_MSG_NEWRULE`: expressions with the entry's counters, protocol, user
    data.

    *compat*: write for iptables-nft before 1.8.8; None: if the installed one is. Raises `ParameterError` or
        `Unsupported` if nf_tables cannot express the rule.
    """
    cdef Writer writer
    memset(&writer, 0, sizeof(writer))
    try:
        write_rule(&writer, family_of(nfproto), PyBytes_AS_STRING(entry), PyBytes_GET_SIZE(entry),
                   reads_compat_only() if compat is None else compat)
        return PyBytes_FromStringAndSize(writer.memory, writer.length)
    finally:
        free(writer.memory)


def stored(int nfproto, bytes entry):
    """Return *entry*, which is not opaque, as it is read back after nf_tables has stored it. Look for this to find a
    rule.

    That is *entry* itself, except for what nf_tables cannot store: several tcp or udp matches with different conditions
    become one, and `--nflog-range` and the flag of `ip6tables -p all` are lost.
    """
    cdef Family *family = family_of(nfproto)
    cdef const char *raw = PyBytes_AS_STRING(entry)
    if not is_entry(family, raw, PyBytes_GET_SIZE(entry)) or (
            count_transports(family, raw) < 2 and not has_range(family, raw) and not marks_any_protocol(family, raw)):
        return entry
    return decode(nfproto, encode(nfproto, entry))


cdef void _find_comment(Reading *reading, const Attribute *userdata) noexcept nogil:
    """Find the comment in the user data of a rule, as iptables-nft 1.8.2 and nft write it: type, length, text of each
    item."""
    cdef const unsigned char *at = <const unsigned char *> userdata.data
    cdef uint32_t left = userdata.length
    while left >= 2 and at[1] <= left - 2:
        if at[0] == UDATA_COMMENT:
            reading.comment = <const char *> at + 2
            reading.comment_length = strnlen(reading.comment, at[1])
            return
        left -= 2 + at[1]
        at += 2 + at[1]


cdef bytes _read_rule(Family *family, const char *attributes, size_t length, char *room, uint64_t *handle,
                      int names_from):
    """Return the entry of a rule. *room* is memory of ENTRY_MOST bytes."""
    cdef Reading reading
    cdef Attribute cursor, expressions, userdata
    cdef xt_counters *counters
    memset(&expressions, 0, sizeof(expressions))
    memset(&userdata, 0, sizeof(userdata))
    attribute_scan(&cursor, attributes, length)
    while attribute_next(&cursor):
        if cursor.kind == NFTA_RULE_EXPRESSIONS:
            expressions = cursor
        elif cursor.kind == NFTA_RULE_USERDATA:
            userdata = cursor
        elif cursor.kind == NFTA_RULE_HANDLE:
            handle[0] = attribute_be64(&cursor)
    reading_begin(&reading, family, room)
    reading.names_from = names_from
    _find_comment(&reading, &userdata)
    if not read_expressions(&reading, expressions.data, expressions.length):
        _add_opaque(&reading, &expressions, &userdata)
    counters = <xt_counters *> (room + family.counters)
    counters.pcnt = reading.packets
    counters.bcnt = reading.size
    (<uint16_t *> (room + family.offsets))[0] = reading.target
    (<uint16_t *> (room + family.offsets))[1] = reading.length
    return PyBytes_FromStringAndSize(room, reading.length)


def decode(int nfproto, bytes rule):
    """Return the entry of a rule, given the attributes in `NFT_MSG_NEWRULE`."""
    cdef Family *family = family_of(nfproto)
    cdef uint64_t handle = 0
    cdef char *room = <char *> malloc(ENTRY_MOST)
    if room == NULL:
        raise MemoryError
    try:
        return _read_rule(family, PyBytes_AS_STRING(rule), PyBytes_GET_SIZE(rule), room, &handle, -1)
    finally:
        free(room)


def decode_rules(int nfproto, bytes messages, Socket socket=None):
    """Return [(handle, entry)] of the rules (`NFT_MSG_NEWRULE`) in the messages of a dump.

    Interfaces get the names that they have in the network namespace of *socket*, or without it in that of this thread.
    Raises `ParameterError` if the sizes of the messages do not add up.
    """
    cdef Family *family = family_of(nfproto)
    cdef int names_from = -1 if socket is None else socket.channel.held.fd
    cdef uint64_t handle
    cdef bytes entry
    cdef Message message
    cdef list rules = []
    cdef char *room = <char *> malloc(ENTRY_MOST)
    if room == NULL:
        raise MemoryError
    try:
        message_scan(&message, PyBytes_AS_STRING(messages), PyBytes_GET_SIZE(messages))
        while message_next(&message):
            if message.kind == NFT_MSG_NEWRULE:
                handle = 0
                entry = _read_rule(family, message.attributes, message.length, room, &handle, names_from)
                rules.append((handle, entry))
        if message.at != message.end:
            raise ParameterError("the sizes of these netlink messages do not add up")
        return rules
    finally:
        free(room)
