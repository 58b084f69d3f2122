# What the xtables kernel interface and libiptc look like to C, and the layouts that other modules share.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

# ---------------------------------------------------------------- C: kernel

cdef extern from "_shim.h" nogil:
    enum:
        AF_INET
        AF_INET6
        SOCK_RAW
        SOCK_CLOEXEC
        IPPROTO_RAW
        IPPROTO_IP
        IPPROTO_IPV6
        IFNAMSIZ
        NFPROTO_IPV4
        NFPROTO_IPV6
        NF_INET_NUMHOOKS
        IPT_SO_GET_INFO
        IPT_SO_GET_ENTRIES
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
        IP6T_F_PROTO
        IP6T_F_GOTO
        XT_RETURN
        XT_EXTENSION_MAXNAMELEN

    ctypedef unsigned int socklen_t
    int socket(int domain, int kind, int protocol)
    int getsockopt(int fd, int level, int option, void *value, socklen_t *length)
    int inet_pton(int family, const char *text, void *address)
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)

    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]

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

# --------------------------------------------------------------- C: libiptc

    struct xtc_handle:
        pass
    xtc_handle *iptc_init(const char *table)
    void iptc_free(xtc_handle *handle)
    int iptc_is_chain(const char *chain, xtc_handle *handle)
    int iptc_builtin(const char *chain, xtc_handle *handle)
    const char *iptc_get_policy(const char *chain, xt_counters *counters, xtc_handle *handle)
    int iptc_insert_entry(const char *chain, const ipt_entry *entry, unsigned int index, xtc_handle *handle)
    int iptc_replace_entry(const char *chain, const ipt_entry *entry, unsigned int index, xtc_handle *handle)
    int iptc_append_entry(const char *chain, const ipt_entry *entry, xtc_handle *handle)
    int iptc_delete_num_entry(const char *chain, unsigned int index, xtc_handle *handle)
    int iptc_flush_entries(const char *chain, xtc_handle *handle)
    int iptc_zero_entries(const char *chain, xtc_handle *handle)
    int iptc_create_chain(const char *chain, xtc_handle *handle)
    int iptc_delete_chain(const char *chain, xtc_handle *handle)
    int iptc_rename_chain(const char *old, const char *new, xtc_handle *handle)
    int iptc_set_policy(const char *chain, const char *policy, xt_counters *counters, xtc_handle *handle)
    int iptc_commit(xtc_handle *handle)
    const char *iptc_strerror(int error)

    xtc_handle *ip6tc_init(const char *table)
    void ip6tc_free(xtc_handle *handle)
    int ip6tc_is_chain(const char *chain, xtc_handle *handle)
    int ip6tc_builtin(const char *chain, xtc_handle *handle)
    const char *ip6tc_get_policy(const char *chain, xt_counters *counters, xtc_handle *handle)
    int ip6tc_insert_entry(const char *chain, const ip6t_entry *entry, unsigned int index, xtc_handle *handle)
    int ip6tc_replace_entry(const char *chain, const ip6t_entry *entry, unsigned int index, xtc_handle *handle)
    int ip6tc_append_entry(const char *chain, const ip6t_entry *entry, xtc_handle *handle)
    int ip6tc_delete_num_entry(const char *chain, unsigned int index, xtc_handle *handle)
    int ip6tc_flush_entries(const char *chain, xtc_handle *handle)
    int ip6tc_zero_entries(const char *chain, xtc_handle *handle)
    int ip6tc_create_chain(const char *chain, xtc_handle *handle)
    int ip6tc_delete_chain(const char *chain, xtc_handle *handle)
    int ip6tc_rename_chain(const char *old, const char *new, xtc_handle *handle)
    int ip6tc_set_policy(const char *chain, const char *policy, xt_counters *counters, xtc_handle *handle)
    int ip6tc_commit(xtc_handle *handle)
    const char *ip6tc_strerror(int error)

# ---------------------------------------------------------- the family table

# Everything in which IPv4 and IPv6 differ, so that no function is written twice.
cdef struct Family:
    int nfproto
    int level                # of getsockopt
    int so_get_info
    int so_get_entries
    size_t header            # size of ipt_entry or ip6t_entry
    size_t offsets           # where target_offset and next_offset stand in it
    size_t counters          # where its xt_counters stand
    size_t address           # length of one address; src, dst, smsk, dmsk follow each other from 0
    size_t proto             # where the 16-bit protocol stands
    size_t flags             # where flags and, in the next byte, invflags stand
    uint8_t goto_flag
    xtc_handle *(*init)(const char *) noexcept nogil
    void (*free)(xtc_handle *) noexcept nogil
    int (*is_chain)(const char *, xtc_handle *) noexcept nogil
    int (*builtin)(const char *, xtc_handle *) noexcept nogil
    const char *(*get_policy)(const char *, xt_counters *, xtc_handle *) noexcept nogil
    int (*insert_entry)(const char *, const void *, unsigned int, xtc_handle *) noexcept nogil
    int (*replace_entry)(const char *, const void *, unsigned int, xtc_handle *) noexcept nogil
    int (*append_entry)(const char *, const void *, xtc_handle *) noexcept nogil
    int (*delete_num_entry)(const char *, unsigned int, xtc_handle *) noexcept nogil
    int (*flush_entries)(const char *, xtc_handle *) noexcept nogil
    int (*zero_entries)(const char *, xtc_handle *) noexcept nogil
    int (*create_chain)(const char *, xtc_handle *) noexcept nogil
    int (*delete_chain)(const char *, xtc_handle *) noexcept nogil
    int (*rename_chain)(const char *, const char *, xtc_handle *) noexcept nogil
    int (*set_policy)(const char *, const char *, xt_counters *, xtc_handle *) noexcept nogil
    int (*commit)(xtc_handle *) noexcept nogil
    const char *(*strerror)(int) noexcept nogil

cdef bytes c_text(value, str what)
cdef Family *family_of(int nfproto) except NULL

# ------------------------------------------------------------------ the rule

# What the kernel's structures measure: xt_entry_match and xt_entry_target before their data, xt_standard_target.
cdef enum:
    TARGET_HEADER = 32
    STANDARD_SIZE = 40

cdef inline uint16_t target_offset(Family *family, const char *entry) noexcept nogil:
    return (<const uint16_t *> (entry + family.offsets))[0]

cdef inline uint16_t next_offset(Family *family, const char *entry) noexcept nogil:
    return (<const uint16_t *> (entry + family.offsets))[1]

cdef bint is_prefix(const unsigned char *mask, size_t length, int *bits) noexcept nogil
cdef bytes os_encode(str text)
cdef str os_decode(bytes text)
cdef bint payloads_ok(Family *family, const char *entry) noexcept nogil
cdef void mark_verdict(char *target, const char *name) noexcept nogil
cdef bint is_verdict(const xt_entry_match *payload) noexcept nogil

cdef union Header:
    ipt_entry v4
    ip6t_entry v6

# The base part of a rule: addresses, interfaces, protocol, flags, counters. Its matches and target hold it too, without
# holding the rule, so that a rule is freed as soon as nobody uses it.
cdef class Base:
    cdef Header raw
    cdef Family *family

cdef class RuleValue:
    cdef readonly Base _base
    cdef Family *family
    cdef bytes body          # matches and target as they stood in the blob that was read, or None
    cdef public object chain     # the Chain it was read from, or None
    cdef public list _matches    # the Match objects, or None until they are asked for
    cdef public object _target   # the Target, or None: there is none, or it was not asked for yet
    cdef public list _networks   # [sources, destinations] as (address, mask) where it stands for several rules, or None

    cdef int _load_entry(self, Family *family, const char *entry) except -1
    cpdef list _body_payloads(self)
    cpdef bytes _assemble(self, list payloads)
    cpdef int _set_goto(self, bint given) except -1
    cdef char *_head(self) noexcept
    cdef uint8_t *_flags(self) noexcept
    cdef unsigned char *_address(self, int which) noexcept
    cdef char *_interface(self, int which) noexcept
    cdef str _get_address(self, int which, int inverted)
    cdef int _set_address(self, int which, int inverted, value) except -1
    cdef void _invert(self, int flag, bint negated) noexcept
    cdef object _get_interface(self, int which, int inverted)
    cdef int _set_interface(self, int which, int inverted, value) except -1
