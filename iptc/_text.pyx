# cython: freethreading_compatible=False
"""Whole rules as text, and what tells one rule from another: what `iptables` prints and `iptables -D` compares."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t
from libc.stdio cimport printf, putchar
from libc.string cimport strcmp

from ._core cimport (
    AF_INET, AF_INET6, IP6T_F_PROTO, IPT_F_FRAG, IPT_INV_DSTIP, IPT_INV_FRAG, IPT_INV_PROTO, IPT_INV_SRCIP, IPT_INV_VIA_IN,
    IPT_INV_VIA_OUT, NFPROTO_IPV4, Family, family_of, inet_ntop, is_prefix, is_verdict, xt_entry_match,
)
from ._plugins cimport (
    PAYLOAD_HEADER, Plugin, find_for_payload, output_of, prints_by_mask, protocol_name, use_family,
)
from ._core import split_entry, standard_target
from .errors import ParameterError

# --------------------------------------------------------------- comparing

def compare_key(int nfproto, bytes entry):
    """Return what tells a rule from others, as `iptables -D` compares: no counters, no kernel-private bytes,
    the order of the matches aside."""
    header, payloads = split_entry(nfproto, entry)
    header = _plain_header(nfproto, header)
    cdef list keys = [_payload_key(nfproto, False, payload) for payload in payloads[:-1]]
    if len(keys) > 1:
        keys.sort()
    return header, tuple(keys), _payload_key(nfproto, True, payloads[-1])


cdef bytes _plain_header(int nfproto, bytes header):
    """*header* without what has no effect: the name in `-i +`, and IPv6's mark that `-p all` was given."""
    cdef Family *family = family_of(nfproto)
    cdef const unsigned char *raw = <const unsigned char *> PyBytes_AS_STRING(header)
    cdef size_t name
    cdef bytearray plain = None
    for name in (4 * family.address, 4 * family.address + 16):
        if raw[name] and not raw[name + 32]:
            plain = bytearray(header) if plain is None else plain
            plain[name:name + 16] = bytes(16)
    if (nfproto != NFPROTO_IPV4 and raw[family.flags] & IP6T_F_PROTO and not raw[family.flags + 1] & IPT_INV_PROTO
            and not (<const uint16_t *> (raw + family.proto))[0]):
        plain = bytearray(header) if plain is None else plain
        plain[family.flags] &= ~IP6T_F_PROTO & 0xff
    return header if plain is None else bytes(plain)


def rough_key(tuple key):
    """Return the part of a `compare_key` that rules with the same text surely share; what they are hashed by."""
    header, matches, target = key
    return header, tuple([_name_of(match) for match in matches]), _name_of(target)


cdef bytes _name_of(bytes key):
    return key.partition(b"\0")[0]


def same_rule(int nfproto, bytes entry, tuple key, bytes other, tuple other_key):
    """Whether two entries, with their `compare_key`s, say the same.

    Their bytes decide, or their text: a few plugins leave in unused bytes what their text does not show.
    """
    if key == other_key:
        return True
    return rough_key(key) == rough_key(other_key) and render(nfproto, entry) == render(nfproto, other)


cdef bytes _payload_key(int nfproto, bint is_target, bytes payload):
    cdef const xt_entry_match *raw = <const xt_entry_match *> PyBytes_AS_STRING(payload)
    # behind the NUL of a name may stand whatever its writer had in memory
    cdef bytes name = payload[2:31].partition(b"\0")[0]
    if is_target and is_verdict(raw):
        return name
    cdef Plugin plugin = find_for_payload(is_target, nfproto, raw)
    cdef Py_ssize_t end = PyBytes_GET_SIZE(payload) if plugin is None else PAYLOAD_HEADER + plugin.c.userspacesize
    return name + b"\0" + payload[31:end]


# ---------------------------------------------------------------- changing

def without_counters(int nfproto, list entries):
    """Return *entries* with their packet and byte counters at zero."""
    cdef Family *family = family_of(nfproto)
    cdef size_t start = family.counters
    return [entry[:start] + bytes(16) + entry[start + 16:] for entry in entries]


def retarget(int nfproto, bytes entry, str old, str new):
    """Return *entry* with its jump to chain *old* turned to chain *new*, or None if it has no such jump."""
    cdef bytes target = split_entry(nfproto, entry)[1][-1]
    if target != standard_target(old):
        return None
    return entry[:-len(target)] + standard_target(new)


# --------------------------------------------------------------- rendering

cdef void _render_address(Family *family, const char *entry, int which, char letter, int inverted) noexcept nogil:
    cdef char text[64]
    cdef const unsigned char *address = <const unsigned char *> entry + which * family.address
    cdef const unsigned char *mask = address + 2 * family.address
    cdef size_t i
    cdef int bits = 0
    cdef bint any_address = True, any_mask = True, prefix = is_prefix(mask, family.address, &bits)
    cdef int domain = AF_INET if family.nfproto == NFPROTO_IPV4 else AF_INET6
    for i in range(family.address):
        any_address = any_address and address[i] == 0
        any_mask = any_mask and mask[i] == 0
    if any_mask and not inverted and (any_address or domain == AF_INET6):
        return
    printf(b"%s -%c %s/", b" !" if inverted else b"", <int> letter, inet_ntop(domain, address, text, sizeof(text)))
    if prefix:
        printf(b"%d", bits)
    else:
        fputs(inet_ntop(domain, mask, text, sizeof(text)), stdout_now)


cdef void _render_interface(const char *name, const unsigned char *mask, char letter, int inverted,
                            bint by_mask) noexcept nogil:
    cdef size_t i
    if not by_mask:
        if name[0] and (inverted or strcmp(name, b"+") != 0):
            printf(b"%s -%c %.16s", b" !" if inverted else b"", <int> letter, name)
        return
    if mask[0] == 0:
        return
    printf(b"%s -%c ", b" !" if inverted else b"", <int> letter)
    for i in range(16):
        if mask[i]:
            if name[i]:
                putchar(name[i])
        else:
            if name[i - 1]:
                putchar(b'+')
            break


cdef void _render_body(void *arg) noexcept nogil:
    """Print a rule as `iptables -S` does, without `-A CHAIN`."""
    cdef RenderCall *call = <RenderCall *> arg
    cdef Family *family = call.family
    cdef const char *entry = call.entry
    cdef const char *interface = entry + 4 * family.address
    cdef const unsigned char *flags = <const unsigned char *> entry + family.flags
    cdef int proto = (<const uint16_t *> (entry + family.proto))[0]
    cdef const char *name
    cdef RenderItem *item
    cdef size_t i
    _render_address(family, entry, 0, b's', flags[1] & IPT_INV_SRCIP)
    _render_address(family, entry, 1, b'd', flags[1] & IPT_INV_DSTIP)
    _render_interface(interface, <const unsigned char *> interface + 32, b'i', flags[1] & IPT_INV_VIA_IN, call.by_mask)
    _render_interface(interface + 16, <const unsigned char *> interface + 48, b'o', flags[1] & IPT_INV_VIA_OUT,
                      call.by_mask)
    if proto:
        name = protocol_name(proto, call.by_mask)
        if name != NULL:
            printf(b"%s -p %s", b" !" if flags[1] & IPT_INV_PROTO else b"", name)
        else:
            printf(b"%s -p %u", b" !" if flags[1] & IPT_INV_PROTO else b"", <unsigned int> proto)
    if family.nfproto == NFPROTO_IPV4 and flags[0] & IPT_F_FRAG:
        printf(b"%s -f", b" !" if flags[1] & IPT_INV_FRAG else b"")
    for i in range(call.count):
        item = &call.items[i]
        name = <const char *> item.payload.u.user.name
        if item.c != NULL and item.c.alias != NULL:
            name = item.c.alias(item.payload)
        if i + 1 < call.count:
            printf(b" -m %s", name)
        elif item.c == NULL and is_verdict(item.payload):
            if name[0]:
                printf(b" -%c %s", <int> (b'g' if flags[0] & family.goto_flag else b'j'), name)
            continue
        else:
            printf(b" -j %s", name)
        if item.c == NULL:
            printf(b" [%u bytes of unknown data]", <unsigned int> (item.payload.u.match_size - PAYLOAD_HEADER))
        elif item.c.save != NULL:
            item.c.save(entry, item.payload)


def render(int nfproto, bytes entry):
    """Return *entry* as `iptables-save` prints it, without `-A CHAIN` in front."""
    cdef RenderCall call
    cdef RenderItem items[256]
    cdef size_t i
    cdef Plugin plugin
    cdef const xt_entry_match *raw
    cdef list names = []
    _, payloads = split_entry(nfproto, entry)
    call.family = family_of(nfproto)
    call.entry = entry
    call.items = items
    call.count = len(payloads)
    call.by_mask = prints_by_mask()
    if call.count > 256:
        raise ParameterError("more than 255 matches in one rule")
    for i in range(call.count):
        raw = <const xt_entry_match *> PyBytes_AS_STRING(payloads[i])
        plugin = None
        if i + 1 < call.count or not is_verdict(raw):
            plugin = find_for_payload(i + 1 == call.count, nfproto, raw)
        items[i].payload = raw
        items[i].c = plugin.c if plugin is not None else NULL
    use_family(nfproto)
    return output_of(_render_body, &call).decode("utf-8", "surrogateescape").lstrip(" ")
