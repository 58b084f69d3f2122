# What the xtables kernel interface looks like to C, and the layouts that other modules share.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ._linux cimport in6_addr, in_addr

# ---------------------------------------------------------------- C: kernel

cdef extern from "shim.h" nogil:
    enum:
        NFPROTO_IPV4
        NFPROTO_IPV6
        NF_INET_NUMHOOKS
        IPT_SO_GET_INFO
        IPT_SO_GET_ENTRIES
        IPT_SO_SET_REPLACE
        IPT_SO_SET_ADD_COUNTERS
        IPT_F_FRAG
        IPT_F_GOTO
        IPT_INV_VIA_IN
        IPT_INV_VIA_OUT
        IPT_INV_SRCIP
        IPT_INV_DSTIP
        IPT_INV_FRAG
        IPT_INV_PROTO
        IP6T_SO_GET_INFO
        IP6T_SO_GET_ENTRIES
        IP6T_SO_SET_REPLACE
        IP6T_SO_SET_ADD_COUNTERS
        IP6T_F_PROTO
        IP6T_F_GOTO
        XT_RETURN
        XT_EXTENSION_MAXNAMELEN

    size_t room_for "shim_room"(size_t more, size_t needed)

    struct xt_counters:
        uint64_t pcnt
        uint64_t bcnt

    struct _xt_user:
        uint16_t match_size
        char name[29]
        uint8_t revision
    union _xt_u:
        _xt_user user
        uint16_t match_size
    struct xt_entry_match:
        _xt_u u
        unsigned char data[1]

    struct ipt_ip:
        in_addr src, dst, smsk, dmsk
        char iniface[16]
        char outiface[16]
        unsigned char iniface_mask[16]
        unsigned char outiface_mask[16]
        uint16_t proto
        uint8_t flags
        uint8_t invflags
    struct ipt_entry:
        ipt_ip ip
        unsigned int nfcache
        uint16_t target_offset
        uint16_t next_offset
        unsigned int comefrom
        xt_counters counters

    struct ip6t_ip6:
        in6_addr src, dst, smsk, dmsk
        char iniface[16]
        char outiface[16]
        unsigned char iniface_mask[16]
        unsigned char outiface_mask[16]
        uint16_t proto
        uint8_t tos
        uint8_t flags
        uint8_t invflags
    struct ip6t_entry:
        ip6t_ip6 ipv6
        unsigned int nfcache
        uint16_t target_offset
        uint16_t next_offset
        unsigned int comefrom
        xt_counters counters

    struct ipt_getinfo:
        char name[32]
        unsigned int valid_hooks
        unsigned int hook_entry[5]
        unsigned int underflow[5]
        unsigned int num_entries
        unsigned int size
    struct ipt_get_entries:
        char name[32]
        unsigned int size

# ---------------------------------------------------------- the family table

# Everything in which IPv4 and IPv6 differ, so that no function is written twice.
cdef struct Family:
    int nfproto
    int level                # of getsockopt
    int so_get_info
    int so_get_entries
    int so_set_replace       # of setsockopt
    int so_set_add_counters
    size_t header            # size of ipt_entry or ip6t_entry
    size_t offsets           # the offset of target_offset, which next_offset follows
    size_t counters          # the offset of struct xt_counters
    size_t address           # the length of one address; src, dst, smsk and dmsk follow each other from offset 0
    size_t proto             # the offset of the protocol (16 bits)
    size_t flags             # the offset of flags, which invflags follows
    uint8_t goto_flag

cdef extern from *:
    """
    /* As type.__new__(type), without the steps in between. */
    static inline PyObject *made_of(PyTypeObject *type)
    {
        PyObject *nothing = PyTuple_New(0), *made = NULL;

        if (nothing != NULL) {
            made = ((newfunc)PyType_GetSlot(type, Py_tp_new))(type, nothing, NULL);
            Py_DECREF(nothing);
        }
        return made;
    }
    """
    object made_of(type cls)

cdef bytes c_text(value, str what)
cdef Family *family_of(int nfproto) except NULL

# ------------------------------------------------------------------ the rule

# Sizes of the kernel's structures, with padding. `language/shim.h` checks them against the headers.
cdef enum:
    PAYLOAD_HEADER = 32      # struct xt_entry_match and xt_entry_target: the header of a payload, before its data
    STANDARD_SIZE = 40       # struct xt_standard_target
    ERROR_SIZE = 64          # struct xt_error_target

# NFLOG's prefix: its offset in struct xt_nflog_info, its size there and on nf_tables, and the sizes of the two
# payloads.
cdef enum:
    NFLOG_PREFIX = 12
    NFLOG_ROOM = 64
    NFLOG_LONG_ROOM = 128
    NFLOG_SIZE = PAYLOAD_HEADER + 80
    NFLOG_LONG_SIZE = PAYLOAD_HEADER + 144

cdef inline uint16_t target_offset(Family *family, const char *entry) noexcept nogil:
    return (<const uint16_t *> (entry + family.offsets))[0]

cdef inline uint16_t next_offset(Family *family, const char *entry) noexcept nogil:
    return (<const uint16_t *> (entry + family.offsets))[1]

# A walk over the payloads of an entry: its matches in their order, then its target.
cdef struct Payloads:
    const char *next             # the next payload
    const char *target           # the target
    const char *end              # the end of the entry
    const xt_entry_match *payload    # the payload that `next_payload` has found
    uint32_t size                # its size, with the header
    bint is_target               # whether it is the target of the entry
    bint broken                  # a size does not add up, and the walk has ended there

cdef inline Payloads payloads_between(const char *first, size_t target, size_t end) noexcept nogil:
    """Begin a walk at *first*. The target begins *target* bytes after *first*, and the entry ends *end* bytes after
    it."""
    cdef Payloads at
    at.broken = target + PAYLOAD_HEADER > end
    at.end = first + end
    at.next = at.end if at.broken else first
    at.target = first + target
    return at

cdef inline Payloads payloads_of(Family *family, const char *entry) noexcept nogil:
    """Begin a walk over the payloads of *entry*. The caller has checked that `next_offset` bytes can be read."""
    cdef size_t header = family.header, target = target_offset(family, entry), end = next_offset(family, entry)
    if target < header or end < target:
        return payloads_between(entry, 0, 0)
    return payloads_between(entry + header, target - header, end - header)

cdef inline bint next_payload(Payloads *at) noexcept nogil:
    """Go on to the next payload. Return False at the end, or if a size does not add up. Nothing behind the end is read.

    The size of a match is a multiple of 8. The target has all the bytes that are left.
    """
    if at.next == at.end:
        return False
    at.payload = <const xt_entry_match *> at.next
    at.size = at.payload.u.match_size
    at.is_target = at.next == at.target
    if at.is_target:
        at.broken = at.size != <size_t> (at.end - at.next)
    else:
        at.broken = at.size < PAYLOAD_HEADER or at.size & 7 != 0 or at.size > <size_t> (at.target - at.next)
    if at.broken:
        at.next = at.end
        return False
    at.next += at.size
    return True

cdef uint64_t netns_cookie(int fd) noexcept nogil
cdef bint is_prefix(const unsigned char *mask, size_t length, int *bits) noexcept nogil
cdef bytes os_encode(str text)
cdef str os_decode(bytes text)
cdef bint payloads_ok(Family *family, const char *entry) noexcept nogil
cdef bint is_entry(Family *family, const char *entry, size_t size) noexcept nogil
cdef int check_entry(Family *family, bytes entry) except -1
cdef bint marks_any_protocol(Family *family, const char *header) noexcept nogil
cdef void mark_verdict(char *target, const char *name) noexcept nogil
cdef bint is_verdict(const xt_entry_match *payload) noexcept nogil
cdef bint is_long_nflog(const xt_entry_match *payload) noexcept nogil
cdef bint is_verdict_name(const char *name) noexcept nogil

cdef union Header:
    ipt_entry v4
    ip6t_entry v6

# The base part of a rule: addresses, interfaces, protocol, flags, counters. Its matches and target refer to the base
# part and not to the rule. So no cycle is formed, and a rule is freed as soon as no program uses it.
cdef class Base:
    cdef Header raw
    cdef Family *family

cdef class RuleValue:
    cdef readonly Base _base     # a base part of its own, once an attribute was set or a match or target needs it
    cdef Family *family
    cdef bytes entry         # the whole rule as it was read, until its matches and target are asked for; then None
    cdef public object chain     # the Chain it was read from, or None
    cdef public list _matches    # the Match objects, or None until they are asked for
    cdef public object _target   # the Target, or None if there is none or it was not asked for yet
    cdef public list _networks   # [sources, destinations] as lists of (address, mask), if there are several; else None

    cdef int _become_empty(self, int nfproto) except -1
    cdef int _load_entry(self, Family *family, const char *entry) except -1
    cdef void _take_entry(self, Family *family, bytes entry) noexcept
    cdef int _flag(self, int flag, bint given) except -1
    cpdef list _body_payloads(self)
    cpdef bytes _assemble(self, list payloads)
    cdef bytes _begin_entry(self, Py_ssize_t size, Py_ssize_t target_at)
    cpdef int _set_proto(self, int number, bint negated) except -1
    cpdef int _set_goto(self, bint given) except -1
    cdef int _own(self) except -1
    cdef char *_head(self) except NULL
    cdef const char *_seen(self) noexcept
    cdef const uint8_t *_flags(self) noexcept
    cdef const unsigned char *_address(self, int which) noexcept
    cdef const char *_interface(self, int which) noexcept
    cdef str _get_address(self, int which, int inverted)
    cdef int _set_address(self, int which, int inverted, value) except -1
    cdef int _invert(self, int flag, bint negated) except -1
    cdef object _get_interface(self, int which, int inverted)
    cdef int _set_interface(self, int which, int inverted, value) except -1
