# cython: freethreading_compatible=False
"""Prints whole rules as `iptables-save` prints them, and compares rules as `iptables -D` compares them."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcmp, memcpy, strcmp, strlen

from .._linux cimport AF_INET6, inet_ntop, strnlen
from .._core cimport (
    IP6T_F_PROTO, IPT_F_FRAG, IPT_INV_DSTIP, IPT_INV_FRAG, IPT_INV_PROTO, IPT_INV_SRCIP, IPT_INV_VIA_IN,
    IPT_INV_VIA_OUT, NFPROTO_IPV4, TARGET_HEADER, Family, RuleValue, family_of, is_prefix, is_verdict,
    is_verdict_name, target_offset, xt_counters, xt_entry_match,
)
from .plugins cimport (
    PAYLOAD_HEADER, Plugin, PluginRow, captured, expect_division, find_for_payload, fits, known, learn, look_up,
    Names, begin_names, end_names, library_there, print_text, printed_text, prints_by_mask, protocol_name, said,
    use_family, warn_of_what_was_said,
)
from .._core import split_entry, standard_target
from ..errors import ParameterError

# --------------------------------------------------------------- comparing


def compare_key(int nfproto, bytes entry):
    """Return what makes a rule *the same* as another, as `iptables -C` and `-D` compare: its matches in their order; no
    counters, no kernel-private bytes."""
    header, payloads = split_entry(nfproto, entry)
    header = _plain_header(nfproto, header)
    cdef list keys = []
    for payload in payloads[:-1]:
        keys.append(_payload_key(nfproto, False, payload))
    return header, tuple(keys), _payload_key(nfproto, True, payloads[-1])


def are_equal(int nfproto, bytes entry, bytes other):
    """Whether two entries are *equal*, which `==` of rules means: they say the same, the order of their matches aside.

    Their bytes decide, or their text: a few plugins leave in unused bytes what their text does not show.
    """
    cdef tuple key = _equal_key(nfproto, entry), other_key = _equal_key(nfproto, other)
    if key == other_key:
        return True
    return (_rough_key(key) == _rough_key(other_key) and is_readable(nfproto, entry) and is_readable(nfproto, other)
            and render(nfproto, entry) == render(nfproto, other))


def equal_hash(int nfproto, bytes entry):
    """Return the same number for all entries that are equal."""
    return hash(_rough_key(_equal_key(nfproto, entry)))


cdef tuple _equal_key(int nfproto, bytes entry):
    """`compare_key` in one order of the matches, and without IPv6's mark that `-p all` was given, which has no
    effect."""
    cdef Family *family = family_of(nfproto)
    cdef bytearray plain
    header, matches, target = compare_key(nfproto, entry)
    if marks_any_protocol(family, PyBytes_AS_STRING(<bytes> header)):
        plain = bytearray(header)
        plain[family.flags] &= ~IP6T_F_PROTO & 0xff
        header = bytes(plain)
    return header, matches if len(matches) < 2 else tuple(sorted(matches)), target


cdef bint marks_any_protocol(Family *family, const char *header) noexcept nogil:
    """Whether this has IPv6's mark that `-p all` was given."""
    return (family.nfproto != NFPROTO_IPV4 and header[family.flags] & IP6T_F_PROTO and not header[family.flags
                                                                                                  + 1] & IPT_INV_PROTO
            and (<const uint16_t *> (header + family.proto))[0] == 0)


cdef bytes _plain_header(int nfproto, bytes header):
    """*header* without what is not compared: the name in `-i +`, with its mask where it was read from nf_tables."""
    cdef Family *family = family_of(nfproto)
    cdef const unsigned char *raw = <const unsigned char *> PyBytes_AS_STRING(header)
    cdef size_t name
    cdef bytearray plain = None
    for name in (4 * family.address, 4 * family.address + 16):
        if raw[name] and not raw[name + 32] or raw[name] == b'+' and raw[name + 1] == 0:
            plain = bytearray(header) if plain is None else plain
            plain[name:name + 16] = plain[name + 32:name + 48] = bytes(16)
    return header if plain is None else bytes(plain)


cdef tuple _rough_key(tuple key):
    """The part of a key in any order that rules with the same text surely share."""
    header, matches, target = key
    cdef list names = []
    for match in matches:
        names.append(_name_of(match))
    return header, tuple(names), _name_of(target)


cdef bytes _name_of(bytes key):
    return key.partition(b"\0")[0]


def is_readable(int nfproto, bytes entry not None):
    """Whether the text of *entry* says all that it is: no plugin is missing for a part of it."""
    cdef list payloads = split_entry(nfproto, entry)[1]
    cdef Py_ssize_t i, last = len(payloads) - 1
    cdef const xt_entry_match *raw
    for i in range(last + 1):
        raw = <const xt_entry_match *> PyBytes_AS_STRING(<bytes> payloads[i])
        if not (i == last and is_verdict(raw)) and find_for_payload(i == last, nfproto, raw) is None:
            return False
    return True


def find_like(int nfproto, list entries not None, bytes entry not None):
    """Return the position of the first of *entries* that is the same rule as *entry*, or -1: what is sought once needs
    no keys."""
    cdef Family *family = family_of(nfproto)
    cdef tuple key = compare_key(nfproto, entry)
    cdef bytes other
    cdef Py_ssize_t i
    for i in range(len(entries)):
        other = <bytes> entries[i]
        if _has_same_ends(family, entry, other) and compare_key(nfproto, other) == key:
            return i
    return -1


def count_like(int nfproto, list entries not None, Py_ssize_t position):
    """Return how many of *entries* before *position* have the key of the one that stands there."""
    cdef Family *family = family_of(nfproto)
    cdef bytes entry = <bytes> entries[position], other
    cdef tuple key = compare_key(nfproto, entry)
    cdef Py_ssize_t i, count = 0
    for i in range(position):
        other = <bytes> entries[i]
        if _has_same_ends(family, entry, other) and compare_key(nfproto, other) == key:
            count += 1
    return count


cdef inline bint _has_same_ends(Family *family, bytes entry, bytes other) noexcept:
    """Whether the rules may be the same: addresses and protocol are written in one way only."""
    cdef const char *one = PyBytes_AS_STRING(entry)
    cdef const char *two = PyBytes_AS_STRING(other)
    return (<size_t> PyBytes_GET_SIZE(other) >= family.header and memcmp(one, two, 4 * family.address) == 0
            and memcmp(one + family.proto, two + family.proto, 2) == 0)


cdef bytes _payload_key(int nfproto, bint is_target, bytes payload):
    cdef const xt_entry_match *raw = <const xt_entry_match *> PyBytes_AS_STRING(payload)
    # behind the NUL of a name may stand whatever its writer had in memory
    cdef bytes name = payload[2:31].partition(b"\0")[0]
    if is_target and is_verdict(raw):
        return name
    cdef Plugin plugin = find_for_payload(is_target, nfproto, raw)
    cdef Py_ssize_t end = PyBytes_GET_SIZE(payload)
    if plugin is not None and PAYLOAD_HEADER + plugin.c.size == <size_t> end:
        end = PAYLOAD_HEADER + plugin.c.userspacesize
    return name + b"\0" + payload[31:end]


# ---------------------------------------------------------------- changing

def without_counters(int nfproto, list entries):
    """Return *entries* with their packet and byte counters at zero."""
    cdef Family *family = family_of(nfproto)
    cdef size_t start = family.counters
    cdef list plain = []
    for entry in entries:
        plain.append(entry[:start] + bytes(16) + entry[start + 16:])
    return plain


def counters_of(int nfproto, bytes entry not None):
    """Return the (packets, bytes) of *entry*."""
    split_entry(nfproto, entry)
    cdef const xt_counters *counters = <const xt_counters *> (PyBytes_AS_STRING(entry) + family_of(nfproto).counters)
    return counters.pcnt, counters.bcnt


def retarget(int nfproto, bytes entry, str old, str new):
    """Return *entry* with its jump to chain *old* turned to chain *new*, or None if it has no such jump."""
    cdef bytes target = split_entry(nfproto, entry)[1][-1]
    if target != standard_target(old):
        return None
    return entry[:-len(target)] + standard_target(new)


def jump_of(int nfproto, bytes entry not None):
    """Return the name of the chain that *entry* jumps to, as bytes; b"" for a verdict, an extension or no target."""
    cdef Family *family = family_of(nfproto)
    cdef size_t target_at = target_offset(family, PyBytes_AS_STRING(entry))
    cdef const char *target = PyBytes_AS_STRING(entry) + target_at
    if (target_at + TARGET_HEADER > <size_t> PyBytes_GET_SIZE(entry) or not is_verdict(<const xt_entry_match *> target)
            or is_verdict_name(target + 2)):
        return b""
    return target[2:2 + strnlen(target + 2, 29)]


# ----------------------------------------------------------------- printing

cdef char *put(char *at, const char *text, size_t length) noexcept nogil:
    memcpy(at, text, length)
    return at + length


cdef char *_put_number(char *at, uint64_t number) noexcept nogil:
    cdef char digits[20]
    cdef size_t first = 20
    while True:
        first -= 1
        digits[first] = <char> (48 + number % 10)
        number //= 10
        if not number:
            break
    return put(at, digits + first, 20 - first)


cdef char *_put_ip(char *at, Family *family, const unsigned char *address) noexcept nogil:
    cdef size_t i
    if family.nfproto != NFPROTO_IPV4:
        inet_ntop(AF_INET6, address, at, 64)
        return at + strlen(at)
    for i in range(4):
        if i:
            at[0] = b'.'
            at += 1
        at = _put_number(at, address[i])
    return at


cdef char *_put_option(char *at, char letter, int inverted) noexcept nogil:
    if inverted:
        at = put(at, b" !", 2)
    at = put(at, b" -x ", 4)
    at[-2] = letter
    return at


cdef char *_put_address(char *at, Printed *rule, int which, char letter, int inverted) noexcept nogil:
    cdef Family *family = rule.family
    cdef const unsigned char *address = <const unsigned char *> rule.head + which * family.address
    cdef const unsigned char *mask = address + 2 * family.address
    cdef size_t i
    cdef int bits = 0
    cdef bint any_address = True, prefix = is_prefix(mask, family.address, &bits)
    if prefix and not bits and not inverted:
        for i in range(family.address):
            any_address = any_address and address[i] == 0
        if any_address or family.nfproto != NFPROTO_IPV4:
            return at
    at = _put_ip(_put_option(at, letter, inverted), family, address)
    at[0] = b'/'
    return _put_number(at + 1, bits) if prefix else _put_ip(at + 1, family, mask)


cdef char *_put_interface(char *at, Printed *rule, int which, char letter, int inverted) noexcept nogil:
    cdef const char *name = rule.head + 4 * rule.family.address + 16 * which
    cdef const char *mask = name + 32
    cdef size_t i
    if not rule.by_mask:
        if name[0] and (inverted or strcmp(name, b"+") != 0):
            at = _put_option(at, letter, inverted)
            at = put(at, name, strnlen(name, 16))
        return at
    if mask[0] == 0:
        return at
    at = _put_option(at, letter, inverted)
    for i in range(16):
        if mask[i]:
            if name[i]:
                at[0] = name[i]
                at += 1
        else:
            if name[i - 1]:
                at[0] = b'+'
                at += 1
            break
    return at


cdef char *_put_base(char *at, Printed *rule) noexcept nogil:
    """Everything in front of the matches."""
    cdef Family *family = rule.family
    cdef const unsigned char *flags = <const unsigned char *> rule.head + family.flags
    cdef int proto = (<const uint16_t *> (rule.head + family.proto))[0]
    cdef const char *name
    at = _put_address(at, rule, 0, b's', flags[1] & IPT_INV_SRCIP)
    at = _put_address(at, rule, 1, b'd', flags[1] & IPT_INV_DSTIP)
    at = _put_interface(at, rule, 0, b'i', flags[1] & IPT_INV_VIA_IN)
    at = _put_interface(at, rule, 1, b'o', flags[1] & IPT_INV_VIA_OUT)
    if proto:
        at = _put_option(at, b'p', flags[1] & IPT_INV_PROTO)
        name = protocol_name(proto, rule.by_mask)
        at = put(at, name, strnlen(name, 64)) if name != NULL else _put_number(at, proto)
    if family.nfproto == NFPROTO_IPV4 and flags[0] & IPT_F_FRAG:
        at = _put_option(at, b'f', flags[1] & IPT_INV_FRAG) - 1
    return at


cdef char *put_counters(char *at, Printed *rule, char between) noexcept nogil:
    cdef const xt_counters *counters = <const xt_counters *> (rule.head + rule.family.counters)
    at = _put_number(at, counters.pcnt)
    at[0] = between
    return _put_number(at + 1, counters.bcnt)


cdef inline PluginRow *_row_of(Family *family, bint is_target, const xt_entry_match *payload,
                               bint *unknown) noexcept nogil:
    """What prints *payload*; NULL: nothing does, or nobody has looked for it yet."""
    cdef PluginRow *row = NULL
    cdef char name[30]
    cdef size_t length = strnlen(payload.u.user.name, 28)
    memcpy(name, payload.u.user.name, length)
    name[length] = 0
    if not known(is_target, family.nfproto, name, payload.u.user.revision, &row):
        unknown[0] = True
    return row if row != NULL and fits(row, payload) else NULL


cdef inline bint _is_plain(const xt_entry_match *target, const char *verdict) noexcept nogil:
    """Whether a target is a verdict, a jump or nothing."""
    return verdict != NULL or is_verdict(target)


cdef void _name_protocol(void *arg) noexcept nogil:
    cdef Printed *rule = <Printed *> arg
    protocol_name((<const uint16_t *> (rule.head + rule.family.proto))[0], True)


cdef int learn_plugins(Printed *rule) except -1:
    """Look up what prints the parts of *rule*, and the name of its protocol: what nobody has looked for yet; return how
    many."""
    cdef size_t at = rule.family.header
    cdef const xt_entry_match *payload
    cdef const char *label
    cdef bytes name
    cdef bint unknown
    cdef int learned = 0
    if rule.by_mask and protocol_name((<const uint16_t *> (rule.head + rule.family.proto))[0], False) == NULL:
        if captured(_name_protocol, rule, rule.looked) != 0:
            look_up(rule.looked)
            learned += 1
    while at < rule.size:
        payload = <const xt_entry_match *> (rule.payloads + at - rule.family.header)
        if at != rule.target_at or not _is_plain(payload, rule.verdict):
            unknown = False
            _row_of(rule.family, at == rule.target_at, payload, &unknown)
            if unknown:
                label = <const char *> payload.u.user.name
                name = label[:strnlen(label, 28)]
                learn(at == rule.target_at, rule.family.nfproto, name, payload.u.user.revision)
                learned += 1
        at += payload.u.match_size
    return learned


cdef void print_rule(Printed *rule) noexcept nogil:
    """Print a rule as `iptables -S` does, without `-A CHAIN`; inside `captured`."""
    cdef char text[1024]
    cdef char *at = _put_base(text, rule)
    cdef size_t offset = rule.family.header
    cdef const xt_entry_match *payload
    cdef PluginRow *row
    cdef const char *name
    cdef bint unknown = False
    while offset < rule.size:
        payload = <const xt_entry_match *> (rule.payloads + offset - rule.family.header)
        name = <const char *> payload.u.user.name
        if offset == rule.target_at and rule.counted:
            at = put_counters(put(at, b" -c ", 4), rule, b' ')
        if offset == rule.target_at and _is_plain(payload, rule.verdict):
            if rule.verdict != NULL:
                name = rule.verdict
            if name[0]:
                at = _put_option(at, b'g' if rule.head[rule.family.flags] & rule.family.goto_flag else b'j', 0)
                at = put(at, name, strnlen(name, 29))
            break
        row = _row_of(rule.family, offset == rule.target_at, payload, &unknown)
        if row != NULL:
            expect_division(row)
            if row.c.alias != NULL:
                name = row.c.alias(payload)
        at = _put_option(at, b'j' if offset == rule.target_at else b'm', 0)
        at = put(at, name, strnlen(name, 29))
        print_text(text, at - text)
        at = text
        if row == NULL:
            at = _put_number(put(text, b" [", 2), payload.u.match_size - PAYLOAD_HEADER)
            at = put(at, b" bytes of unknown data]", 23)
        elif row.c.save != NULL:
            row.c.save(rule.head, payload)
        offset += payload.u.match_size
    print_text(text, at - text)


cdef void _print_body(void *arg) noexcept nogil:
    print_rule(<Printed *> arg)


cdef int print_captured(void (*body)(void *) noexcept nogil, void *arg, Printed *rule) except -1:
    """Run *body*, which prints rules, as often as there is a name to be looked up for it."""
    while True:
        # without the library there is a rule that needs no plugin
        if library_there():
            use_family(rule.family.nfproto)
        if captured(body, arg, rule.looked) == 0:
            return 0
        if not rule.looked.wanted:
            raise ParameterError(said())
        look_up(rule.looked)


cdef str _text_of(Printed *rule):
    cdef size_t length
    cdef const char *printed
    cdef Names looked
    rule.by_mask = prints_by_mask()
    rule.looked = &looked
    begin_names(&looked)
    try:
        while learn_plugins(rule):
            pass
        print_captured(_print_body, rule, rule)
    finally:
        end_names(&looked)
    printed = printed_text(&length)
    if length and printed[0] == b' ':
        printed += 1
        length -= 1
    text = PyUnicode_DecodeUTF8(printed, length, "surrogateescape")
    warn_of_what_was_said()
    return text


def render(int nfproto, bytes entry not None, bint counted=False):
    """Return *entry* as `iptables-save` prints it, without `-A CHAIN` in front; *counted*: as `iptables -S -v`, with
    `-c`."""
    cdef Printed rule
    split_entry(nfproto, entry)
    rule.family = family_of(nfproto)
    rule.head = PyBytes_AS_STRING(entry)
    rule.payloads = rule.head + rule.family.header
    rule.target_at = target_offset(rule.family, rule.head)
    rule.size = PyBytes_GET_SIZE(entry)
    rule.verdict = NULL
    rule.counted = counted
    return _text_of(&rule)


def render_rule(RuleValue value not None):
    """Return the rule as `render` does; it must be as it was read, its parts not taken out."""
    cdef Printed rule
    cdef bytes body = value.body
    if body is None or value._matches is not None:
        raise ParameterError("the rule is not as it was read")
    rule.family = value.family
    rule.head = <const char *> &value._base.raw
    rule.payloads = PyBytes_AS_STRING(body)
    rule.target_at = target_offset(rule.family, rule.head)
    rule.size = rule.family.header + PyBytes_GET_SIZE(body)
    rule.verdict = NULL
    rule.counted = False
    return _text_of(&rule)
