# cython: freethreading_compatible=False
"""Tells rules apart, in two ways: whether `iptables -D` takes one for the other, and whether `==` does.

`iptables -D` compares the matches in their order. `==` does not care for their order.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.string cimport memcmp, strcmp, strlen

from .._linux cimport IFNAMSIZ
from .._core cimport (
    IP6T_F_PROTO, PAYLOAD_HEADER, Family, Payloads, family_of, is_verdict, marks_any_protocol, next_offset,
    next_payload, payloads_of, target_offset, xt_entry_match,
)
from .plugins cimport Plugin, find_for_payload
from .._core import split_entry
from .printing import render

# ------------------------------------------------------------ as `iptables -D` does


def compare_key(int nfproto, bytes entry):
    """Return a key that is equal for rules that `iptables -C` and `-D` take for the same: with the matches in their
    order, without counters and without bytes that are for the kernel only."""
    header, payloads = split_entry(nfproto, entry)
    header = _plain_header(nfproto, header)
    cdef list keys = []
    for payload in payloads[:-1]:
        keys.append(_payload_key(nfproto, False, payload))
    return header, tuple(keys), _payload_key(nfproto, True, payloads[-1])


def find_like(int nfproto, list entries not None, bytes entry not None):
    """Return the position of the first of *entries* that is the same rule as *entry*, or -1. It makes few keys."""
    cdef Family *family = family_of(nfproto)
    cdef tuple key = compare_key(nfproto, entry)
    cdef list parts = _parts_of(key)
    cdef bytes other
    cdef Py_ssize_t i
    for i in range(len(entries)):
        other = <bytes?> entries[i]
        if _may_be_same(family, entry, parts, other) and compare_key(nfproto, other) == key:
            return i
    return -1


def count_like(int nfproto, list entries not None, Py_ssize_t position):
    """Return how many of *entries* before *position* have the same key as the one at *position*."""
    cdef Family *family = family_of(nfproto)
    cdef bytes entry = <bytes?> entries[position], other
    cdef tuple key = compare_key(nfproto, entry)
    cdef list parts = _parts_of(key)
    cdef Py_ssize_t i, count = 0
    for i in range(position):
        other = <bytes?> entries[i]
        if _may_be_same(family, entry, parts, other) and compare_key(nfproto, other) == key:
            count += 1
    return count


cdef list _parts_of(tuple key):
    """Return the keys of the matches and, as the last one, of the target."""
    cdef list parts = list(<tuple> key[1])
    parts.append(key[2])
    return parts


cdef bint _may_be_same(Family *family, bytes entry, list parts, bytes other) noexcept:
    """Whether *other* may be the same rule as *entry*. *parts* are the keys of the matches and the target of *entry*.

    This compares bytes that equal rules have in common. So keys must be made of few other entries.
    """
    cdef const char *one = PyBytes_AS_STRING(entry)
    cdef const char *two = PyBytes_AS_STRING(other)
    cdef const char *payload
    cdef const char *part
    cdef size_t at = family.header, size = PyBytes_GET_SIZE(other), length, rest, whole
    cdef Py_ssize_t i
    # there is only one way to write addresses and protocol
    if size < at or memcmp(one, two, 4 * family.address) or memcmp(one + family.proto, two + family.proto, 2):
        return False
    for i in range(PyList_GET_SIZE(parts)):
        part = PyBytes_AS_STRING(<bytes> PyList_GET_ITEM(parts, i))
        length = strlen(part)
        rest = PyBytes_GET_SIZE(<bytes> PyList_GET_ITEM(parts, i)) - length
        payload = two + at
        if at + PAYLOAD_HEADER > size:
            return False
        whole = (<const xt_entry_match *> payload).u.match_size
        if memcmp(payload + 2, part, length) or length < 29 and payload[2 + length]:
            return False
        # of a verdict only the name is compared
        if rest and (30 + rest > whole or at + whole > size or memcmp(payload + 31, part + length + 1, rest - 1)):
            return False
        at += whole
    return at == size


cdef bytes _plain_header(int nfproto, bytes header):
    """Return *header* without the parts that are not compared: the name in `-i +`, and its mask if the rule was read
    from nf_tables."""
    cdef Family *family = family_of(nfproto)
    cdef const unsigned char *raw = <const unsigned char *> PyBytes_AS_STRING(header)
    cdef size_t name
    cdef bytearray plain = None
    for name in (4 * family.address, 4 * family.address + 16):
        if raw[name] and not raw[name + 32] or raw[name] == b'+' and raw[name + 1] == 0:
            plain = bytearray(header) if plain is None else plain
            plain[name:name + 16] = plain[name + 32:name + 48] = bytes(16)
    return header if plain is None else bytes(plain)


cdef bytes _payload_key(int nfproto, bint is_target, bytes payload):
    cdef const xt_entry_match *raw = <const xt_entry_match *> PyBytes_AS_STRING(payload)
    # the bytes after the NUL of a name are random
    cdef bytes name = payload[2:31].partition(b"\0")[0]
    if is_target and is_verdict(raw):
        return name
    cdef Plugin plugin = find_for_payload(is_target, nfproto, raw)
    cdef Py_ssize_t end = PyBytes_GET_SIZE(payload)
    if plugin is not None and PAYLOAD_HEADER + plugin.c.size == <size_t> end:
        end = PAYLOAD_HEADER + plugin.c.userspacesize
    return name + b"\0" + payload[31:end]


cdef bint same_under_mask(Family *family, const char *one, const char *other, const char *mask,
                          bint with_target) noexcept nogil:
    """Whether `iptables -D` takes two entries for the same rule. The comparison is libiptc's.

    *mask* is as long as *other*. It has ones for the bits of the matches and of the target that are compared. Of the
    base part, addresses, protocol, flags, and the interfaces under their own masks are compared. *with_target*: compare
    the target too.
    """
    cdef size_t at = 4 * family.address, i
    cdef Payloads payloads
    if target_offset(family, one) != target_offset(family, other) or memcmp(one, other, at):
        return False
    if with_target and next_offset(family, one) != next_offset(family, other):
        return False
    for i in range(at, at + 2 * IFNAMSIZ):
        if one[i + 2 * IFNAMSIZ] != other[i + 2 * IFNAMSIZ] or (one[i] ^ other[i]) & one[i + 2 * IFNAMSIZ]:
            return False
    if memcmp(one + family.proto, other + family.proto, family.flags + 2 - family.proto):
        return False
    payloads = payloads_of(family, one)
    while next_payload(&payloads):
        if payloads.is_target and not with_target:
            break
        at = <const char *> payloads.payload - one
        if not _same_payload(payloads.payload, <const xt_entry_match *> (other + at), mask + at):
            return False
    return True


cdef bint _same_payload(const xt_entry_match *one, const xt_entry_match *other, const char *mask) noexcept nogil:
    """Whether size, name and revision are equal, and the bits under *mask*."""
    cdef const char *first = <const char *> one
    cdef const char *second = <const char *> other
    cdef size_t i
    if other.u.match_size != one.u.match_size or other.u.user.revision != one.u.user.revision:
        return False
    if strcmp(one.u.user.name, other.u.user.name):
        return False
    for i in range(PAYLOAD_HEADER, one.u.match_size):
        if (first[i] ^ second[i]) & mask[i]:
            return False
    return True


# ------------------------------------------------------------------ as `==` does


def are_equal(int nfproto, bytes entry, bytes other):
    """Whether two entries are equal in the sense of `==`: they say the same, with matches in any order.

    Entries with the same bytes are equal, and those with the same text: a few plugins leave random values in unused
    bytes.
    """
    cdef tuple key = _equal_key(nfproto, entry), other_key = _equal_key(nfproto, other)
    if key == other_key:
        return True
    return (_rough_key(key) == _rough_key(other_key) and is_readable(nfproto, entry) and is_readable(nfproto, other)
            and render(nfproto, entry) == render(nfproto, other))


def equal_hash(int nfproto, bytes entry):
    """Return a hash that is the same for all entries that are equal."""
    return hash(_rough_key(_equal_key(nfproto, entry)))


cdef tuple _equal_key(int nfproto, bytes entry):
    """Return `compare_key` with the matches sorted, and without the flag that `ip6tables -p all` sets without
    effect."""
    cdef Family *family = family_of(nfproto)
    cdef bytearray plain
    header, matches, target = compare_key(nfproto, entry)
    if marks_any_protocol(family, PyBytes_AS_STRING(<bytes> header)):
        plain = bytearray(header)
        plain[family.flags] &= ~IP6T_F_PROTO & 0xff
        header = bytes(plain)
    return header, matches if len(matches) < 2 else tuple(sorted(matches)), target


cdef tuple _rough_key(tuple key):
    """Return the part of a key that is equal for all rules with the same text."""
    header, matches, target = key
    cdef list names = []
    for match in matches:
        names.append(_name_of(match))
    return header, tuple(names), _name_of(target)


cdef bytes _name_of(bytes key):
    return key.partition(b"\0")[0]


def is_readable(int nfproto, bytes entry not None):
    """Whether all parts of *entry* can be printed: there is a plugin for each of them."""
    cdef list payloads = split_entry(nfproto, entry)[1]
    cdef Py_ssize_t i, last = len(payloads) - 1
    cdef const xt_entry_match *raw
    for i in range(last + 1):
        raw = <const xt_entry_match *> PyBytes_AS_STRING(<bytes> payloads[i])
        if not (i == last and is_verdict(raw)) and find_for_payload(i == last, nfproto, raw) is None:
            return False
    return True
