# The payloads that have an equivalent in expressions, as C declares them; and a rule that is being read.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .._core cimport Family
from .._netlink cimport Attribute, Writer
from .expressions cimport REGISTERS, Fields, Register

# ---------------------------------------------------------------- C: kernel

cdef extern from *:
    """
    #include <netinet/in.h>
    #include <linux/netfilter/xt_limit.h>
    #include <linux/netfilter/xt_mark.h>
    #include <linux/netfilter/xt_NFLOG.h>
    #include <linux/netfilter/xt_pkttype.h>
    #include <linux/netfilter/xt_tcpudp.h>
    #include <linux/netfilter_ipv4/ip_tables.h>
    #include <linux/netfilter_ipv4/ipt_ttl.h>
    """
    enum:
        IPPROTO_ICMP
        IPPROTO_ICMPV6
        IPPROTO_TCP
        IPPROTO_UDP
        IPT_ICMP_INV
        IPT_TTL_EQ
        IPT_TTL_GT
        IPT_TTL_LT
        IPT_TTL_NE
        XT_LIMIT_SCALE
        XT_NFLOG_F_COPY_LEN
        XT_TCP_INV_DSTPT
        XT_TCP_INV_FLAGS
        XT_TCP_INV_SRCPT
        XT_UDP_INV_DSTPT
        XT_UDP_INV_SRCPT

    struct xt_tcp:
        uint16_t spts[2]
        uint16_t dpts[2]
        uint8_t option
        uint8_t flg_mask
        uint8_t flg_cmp
        uint8_t invflags
    struct xt_udp:
        uint16_t spts[2]
        uint16_t dpts[2]
        uint8_t invflags
    struct ipt_icmp:
        uint8_t type
        uint8_t code[2]
        uint8_t invflags
    struct ipt_ttl_info:
        uint8_t mode
        uint8_t ttl
    struct xt_pkttype_info:
        int pkttype
        int invert
    struct xt_rateinfo:
        uint32_t avg
        uint32_t burst
    struct xt_mark_mtinfo1:
        uint32_t mark
        uint32_t mask
        uint8_t invert
    struct xt_mark_tginfo2:
        uint32_t mark
        uint32_t mask
    struct xt_nflog_info:
        uint32_t len
        uint16_t group
        uint16_t threshold
        uint16_t flags
        char prefix[64]

# --------------------------------------------------------------------- a rule

cdef enum:
    ENTRY_MOST = 0xfff8          # the largest size of an entry: it has 16 bits, and is a multiple of 8
    TRANSPORTS_MOST = 4          # the most conditions on the same port

# A rule that is being read into an entry. The entry has ENTRY_MOST bytes.
cdef struct Reading:
    Family *family
    char *entry
    size_t length
    size_t target            # the offset of the target; 0 if it was not read yet
    size_t transports[TRANSPORTS_MOST]   # the offsets of the tcp or udp matches that get the ports and flags
    int seen
    int told[TRANSPORTS_MOST]            # for each of them, what was read: SEEN_*
    bint counted             # whether the first counter was read
    uint64_t packets
    uint64_t size
    const char *comment      # the comment in the user data, which becomes the last match
    uint32_t comment_length
    Register registers[REGISTERS]
    int names_from           # a socket in the network namespace that has the interfaces; -1: that of this thread

cdef void put_base(Writer *writer, Family *family, const char *entry, bint compat, bint old) noexcept nogil
cdef int count_transports(Family *family, const char *entry) noexcept nogil
cdef bint has_range(Family *family, const char *entry) noexcept nogil
cdef void put_matches(Writer *writer, Family *family, const char *entry, bint compat) noexcept nogil
cdef void put_target(Writer *writer, Family *family, const char *entry, bint compat) noexcept nogil
cdef void put_compat_protocol(Writer *writer, Family *family, const char *entry) noexcept nogil
cdef void reading_begin(Reading *reading, Family *family, char *room) noexcept nogil
cdef bint read_expressions(Reading *reading, const char *data, size_t length) noexcept nogil
cdef char *add_target(Reading *reading, const char *name, size_t name_length, int revision, size_t size) noexcept nogil
