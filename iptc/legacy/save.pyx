# cython: freethreading_compatible=False
"""Prints a whole legacy table as text, in one pass in C."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.errno cimport EINVAL
from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strlen

from .blob cimport ENTRIES_HEAD, TableBlob
from .._core cimport STANDARD_SIZE, PAYLOAD_HEADER, Family, next_offset, os_encode, room_for, target_offset
from ..language.plugins cimport (
    Names, begin_names, end_names, print_text, printed_text, prints_by_mask, warn_of_what_was_said,
)
from ..language.printing cimport Printed, learn_plugins, print_captured, print_rule, put, put_counters
from .._verdicts cimport Verdict, verdict_numbered
from ..errors import KernelError


cdef const char *_verdict_of(Saved *saved, uint32_t at) noexcept nogil:
    """Return the name of the verdict or chain that the standard target of the entry at *at* stands for."""
    cdef const char *entry = saved.entries + at
    cdef Family *family = saved.rule.family
    cdef int32_t verdict
    cdef const Verdict *named
    cdef size_t low = 0, high = saved.count, middle
    if next_offset(family, entry) - target_offset(family, entry) == STANDARD_SIZE:
        verdict = (<const int32_t *> (entry + target_offset(family, entry) + PAYLOAD_HEADER))[0]
        if verdict == <int32_t> (at + next_offset(family, entry)):
            return b""
        if verdict < 0:
            named = verdict_numbered(verdict)
            if named != NULL:
                return named.name
        while low < high:
            middle = (low + high) // 2
            if saved.by_offset[middle].first < <uint32_t> verdict:
                low = middle + 1
            else:
                high = middle
        if low < saved.count and saved.by_offset[low].first == <uint32_t> verdict:
            return saved.by_offset[low].name
    saved.broken = True
    return b""


cdef void _aim(Saved *saved, uint32_t at) noexcept nogil:
    """Point `saved.rule` at the rule at offset *at*."""
    cdef Printed *rule = &saved.rule
    rule.head = saved.entries + at
    rule.payloads = rule.head + rule.family.header
    rule.target_at = target_offset(rule.family, rule.head)
    rule.size = next_offset(rule.family, rule.head)
    rule.verdict = NULL
    if not rule.head[rule.target_at + 2]:
        rule.verdict = _verdict_of(saved, at)


cdef void _save_body(void *arg) noexcept nogil:
    cdef Saved *saved = <Saved *> arg
    cdef size_t i, name_length
    cdef uint32_t at
    # the end of the line before a rule and the beginning of its own line, printed in one piece
    cdef char text[128]
    cdef char *end
    cdef bint begun = False
    print_text(saved.head, strlen(saved.head))
    for i in range(saved.count):
        name_length = strlen(saved.chains[i].name)
        at = saved.chains[i].first
        while at < saved.chains[i].end:
            _aim(saved, at)
            end = put(text, b"\n", 1) if begun else text
            if saved.counters:
                end = put_counters(put(end, b"[", 1), &saved.rule, b':')
                end = put(end, b"] ", 2)
            end = put(put(end, b"-A ", 3), saved.chains[i].name, name_length)
            print_text(text, end - text)
            print_rule(&saved.rule)
            begun = True
            at += saved.rule.size
    if begun:
        print_text(b"\n", 1)
    print_text(saved.foot, strlen(saved.foot))


def save_rules(TableBlob table not None, bint counters, bytes head not None, bytes foot not None):
    """Return *head*, the rules of *table* as lines `-A`, and *foot* as one text, as `iptables-save` prints it.

    With *counters* each rule begins with its counters, as in `iptables-save -c`.
    """
    cdef Saved saved
    cdef Names looked
    cdef size_t length, i
    cdef uint32_t at
    cdef const char *printed
    cdef list chains = table.chains
    cdef str text
    cdef int learned
    memset(&saved, 0, sizeof(saved))
    saved.entries = table.buffer.memory + ENTRIES_HEAD
    saved.counters = counters
    saved.head = head
    saved.foot = foot
    saved.count = len(chains)
    saved.rule.family = table.family
    saved.rule.by_mask = prints_by_mask()
    saved.rule.looked = &looked
    begin_names(&looked)
    saved.chains = <Heading *> malloc(room_for(2 * saved.count + 1, 2 * saved.count) * sizeof(Heading))
    if saved.chains == NULL:
        raise MemoryError
    saved.by_offset = saved.chains + saved.count
    try:
        _head(saved.chains, chains)
        _head(saved.by_offset, sorted(chains, key=_first_offset))
        while True:
            learned = 0
            for i in range(saved.count):
                at = saved.chains[i].first
                while at < saved.chains[i].end:
                    _aim(&saved, at)
                    learned += learn_plugins(&saved.rule)
                    at += saved.rule.size
            if not learned:
                break
        print_captured(_save_body, &saved, &saved.rule)
        if saved.broken:
            raise KernelError("the table that the kernel returned does not add up", EINVAL, "Invalid argument")
    finally:
        end_names(&looked)
        free(saved.chains)
    printed = printed_text(&length)
    text = PyUnicode_DecodeUTF8(printed, length, "surrogateescape")
    warn_of_what_was_said()
    return text


def _first_offset(chain):
    return chain[3]


cdef int _head(Heading *headings, list chains) except -1:
    cdef bytes name
    for i, (label, _, _, first, end) in enumerate(chains):
        name = os_encode(label)
        memset(headings[i].name, 0, 32)
        memcpy(headings[i].name, PyBytes_AS_STRING(name), min(PyBytes_GET_SIZE(name), 31))
        headings[i].first = first
        headings[i].end = end
    return 0
