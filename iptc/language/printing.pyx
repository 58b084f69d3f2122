# cython: freethreading_compatible=False
"""Prints whole rules as `iptables-save` prints them."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy, strcmp, strlen

from .._linux cimport AF_INET6, inet_ntop, strnlen
from .._core cimport (
    IPT_F_FRAG, IPT_INV_DSTIP, IPT_INV_FRAG, IPT_INV_PROTO, IPT_INV_SRCIP, IPT_INV_VIA_IN, IPT_INV_VIA_OUT,
    NFPROTO_IPV4, PAYLOAD_HEADER, Base, Family, Payloads, RuleValue, family_of, is_prefix, is_verdict, next_payload,
    payloads_between, target_offset, xt_counters, xt_entry_match,
)
from .plugins cimport (
    PluginRow, captured, expect_division, fits, known, learn, look_up, Names, begin_names, end_names,
    library_there, print_text, printed_text, prints_by_mask, protocol_name, said, use_family, warn_of_what_was_said,
)
from .._core import split_entry
from ..errors import ParameterError, Unsupported

cdef extern from "native.h" nogil:
    enum:
        NATIVE_ROOM
    int native_print(char *text, int is_target, int family, const xt_entry_match *payload)


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
    """Write everything that comes before the matches."""
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
    """Return the plugin that prints *payload*, or NULL if there is none or it was not looked up yet. Set *unknown*
    then."""
    cdef PluginRow *row = NULL
    cdef char name[30]
    cdef size_t length = strnlen(payload.u.user.name, 28)
    memcpy(name, payload.u.user.name, length)
    name[length] = 0
    if not known(is_target, family.nfproto, name, payload.u.user.revision, &row):
        unknown[0] = True
    return row if row != NULL and fits(row, payload) else NULL


cdef inline bint _is_plain(const xt_entry_match *target, const char *verdict) noexcept nogil:
    """Whether a target is a verdict, a jump or the empty target."""
    return verdict != NULL or is_verdict(target)


cdef void _name_protocol(void *arg) noexcept nogil:
    cdef Printed *rule = <Printed *> arg
    protocol_name((<const uint16_t *> (rule.head + rule.family.proto))[0], True)


cdef int learn_plugins(Printed *rule) except -1:
    """Look up the plugins that print the parts of *rule*, and the name of its protocol, as far as they are not known
    yet.

    Return how many were looked up. Raises `Unsupported` if no plugins are installed and the rule needs one.
    """
    cdef Payloads at = _payloads_of(rule)
    cdef const char *label
    cdef bytes name
    cdef bint unknown
    cdef int learned = 0
    cdef char text[NATIVE_ROOM]
    if rule.by_mask and protocol_name((<const uint16_t *> (rule.head + rule.family.proto))[0], False) == NULL:
        if captured(_name_protocol, rule, rule.looked) != 0:
            look_up(rule.looked)
            learned += 1
    while next_payload(&at):
        if not at.is_target or not _is_plain(at.payload, rule.verdict):
            unknown = False
            _row_of(rule.family, at.is_target, at.payload, &unknown)
            if unknown:
                label = <const char *> at.payload.u.user.name
                name = label[:strnlen(label, 28)]
                try:
                    learn(at.is_target, rule.family.nfproto, name, at.payload.u.user.revision)
                    learned += 1
                except Unsupported:
                    if native_print(text, at.is_target, rule.family.nfproto, at.payload) < 0 and not rule.partly:
                        raise
    return learned


cdef inline Payloads _payloads_of(Printed *rule) noexcept nogil:
    return payloads_between(rule.payloads, rule.target_at - rule.family.header, rule.size - rule.family.header)


cdef void print_rule(Printed *rule) noexcept nogil:
    """Inside `captured`: print a rule as `iptables -S` does, without `-A CHAIN`."""
    cdef char text[1024]
    cdef char *at = _put_base(text, rule)
    cdef Payloads payloads = _payloads_of(rule)
    cdef const xt_entry_match *payload
    cdef PluginRow *row
    cdef const char *name
    cdef bint unknown
    cdef int length
    while next_payload(&payloads):
        payload = payloads.payload
        name = <const char *> payload.u.user.name
        if payloads.is_target and rule.counted:
            at = put_counters(put(at, b" -c ", 4), rule, b' ')
        if payloads.is_target and _is_plain(payload, rule.verdict):
            if rule.verdict != NULL:
                name = rule.verdict
            if name[0]:
                at = _put_option(at, b'g' if rule.head[rule.family.flags] & rule.family.goto_flag else b'j', 0)
                at = put(at, name, strnlen(name, 29))
            break
        unknown = False
        row = _row_of(rule.family, payloads.is_target, payload, &unknown)
        if row != NULL:
            expect_division(row)
            if row.c.alias != NULL:
                name = row.c.alias(payload)
        at = _put_option(at, b'j' if payloads.is_target else b'm', 0)
        at = put(at, name, strnlen(name, 29))
        print_text(text, at - text)
        at = text
        length = -1
        if unknown:
            # no plugins are installed
            length = native_print(text, payloads.is_target, rule.family.nfproto, payload)
        if length >= 0:
            at = text + length
        elif row == NULL:
            at = _put_number(put(text, b" [", 2), payload.u.match_size - PAYLOAD_HEADER)
            at = put(at, b" bytes of unknown data]", 23)
        elif row.c.save != NULL:
            row.c.save(rule.head, payload)
    print_text(text, at - text)


cdef void _print_body(void *arg) noexcept nogil:
    print_rule(<Printed *> arg)


cdef int print_captured(void (*body)(void *) noexcept nogil, void *arg, Printed *rule) except -1:
    """Run *body*, which prints rules. When it needs a name that is not known, look the name up and run *body* again."""
    while True:
        # without libxtables, rules that need no plugin can be printed
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


def render(int nfproto, bytes entry not None, bint counted=False, bint partly=False):
    """Return *entry* as `iptables-save` prints it, without `-A CHAIN`.

    *counted*: print `-c PACKETS BYTES` too, as `iptables -S -v` does. *partly*: if no plugins are installed, print
        parts that need one as iptables prints an unknown extension, instead of raising `Unsupported`.
    """
    cdef Printed rule
    split_entry(nfproto, entry)
    rule.family = family_of(nfproto)
    rule.head = PyBytes_AS_STRING(entry)
    rule.payloads = rule.head + rule.family.header
    rule.target_at = target_offset(rule.family, rule.head)
    rule.size = PyBytes_GET_SIZE(entry)
    rule.verdict = NULL
    rule.counted = counted
    rule.partly = partly
    return _text_of(&rule)


def render_rule(RuleValue value not None, bint partly=False):
    """Return the text of a rule, as `render` does. Its matches and target must not have been asked for."""
    cdef Printed rule
    # kept here, since another thread may change the rule while a name is looked up
    cdef bytes entry = value.entry
    cdef Base base = value._base
    if entry is None or value._matches is not None:
        raise ParameterError("the rule is not as it was read")
    rule.family = value.family
    rule.head = <const char *> &base.raw if base is not None else PyBytes_AS_STRING(entry)
    rule.payloads = PyBytes_AS_STRING(entry) + rule.family.header
    rule.target_at = target_offset(rule.family, rule.head)
    rule.size = PyBytes_GET_SIZE(entry)
    rule.verdict = NULL
    rule.counted = False
    rule.partly = partly
    return _text_of(&rule)
