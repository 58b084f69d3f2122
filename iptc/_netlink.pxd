# nfnetlink and nf_tables as C declares them, and the functions with which other modules read and write messages.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ._netns cimport Held

# ---------------------------------------------------------------- C: kernel

cdef extern from *:
    """
    #include <sys/socket.h>
    #include <linux/netlink.h>
    #include <linux/netfilter/nfnetlink.h>
    #include <linux/netfilter/nf_tables.h>
    """
    enum:
        NLM_F_REQUEST
        NLM_F_DUMP
        NLM_F_DUMP_INTR
        NLM_F_ACK
        NLM_F_CREATE
        NLM_F_EXCL
        NLM_F_APPEND
        NLM_F_REPLACE
        NLM_F_NONREC
        NLM_F_ACK_TLVS
        NLMSG_NOOP
        NLMSG_ERROR
        NLMSG_DONE
        NLMSGERR_ATTR_MSG
        NLA_F_NESTED
        NLA_TYPE_MASK
        NFNL_MSG_BATCH_BEGIN
        NFNL_MSG_BATCH_END
        NFNL_SUBSYS_NFTABLES
        NFNL_BATCH_GENID
        NFT_MSG_NEWTABLE
        NFT_MSG_GETTABLE
        NFT_MSG_NEWCHAIN
        NFT_MSG_GETCHAIN
        NFT_MSG_DELCHAIN
        NFT_MSG_DELTABLE
        NFT_MSG_NEWRULE
        NFT_MSG_GETRULE
        NFT_MSG_DELRULE
        NFT_MSG_NEWGEN
        NFT_MSG_GETGEN
        NFTA_TABLE_NAME
        NFTA_TABLE_FLAGS
        NFTA_TABLE_HANDLE
        NFTA_CHAIN_TABLE
        NFTA_CHAIN_HANDLE
        NFTA_CHAIN_NAME
        NFTA_CHAIN_HOOK
        NFTA_CHAIN_POLICY
        NFTA_CHAIN_USE
        NFTA_CHAIN_TYPE
        NFTA_CHAIN_COUNTERS
        NFTA_HOOK_HOOKNUM
        NFTA_HOOK_PRIORITY
        NFTA_RULE_TABLE
        NFTA_RULE_CHAIN
        NFTA_RULE_HANDLE
        NFTA_RULE_EXPRESSIONS
        NFTA_RULE_COMPAT
        NFTA_RULE_POSITION
        NFTA_RULE_USERDATA
        NFTA_RULE_ID
        NFTA_RULE_POSITION_ID
        NFTA_LIST_ELEM
        NFTA_EXPR_NAME
        NFTA_EXPR_DATA
        NFTA_COUNTER_BYTES
        NFTA_COUNTER_PACKETS
        NFTA_QUOTA_CONSUMED
        NFTA_QUOTA_FLAGS
        NFT_QUOTA_F_DEPLETED
        NFTA_GEN_ID

# --------------------------------------------------------------- attributes

# A cursor over attributes: the one that was read last, with the flags removed from its kind, and the rest.
cdef struct Attribute:
    const char *at
    const char *end
    int kind
    const char *data
    uint32_t length

cdef void attribute_scan(Attribute *cursor, const char *data, size_t length) noexcept nogil
cdef bint attribute_next(Attribute *cursor) noexcept nogil
cdef bint attribute_text(const Attribute *cursor, const char *text) noexcept nogil
cdef uint32_t attribute_be32(const Attribute *cursor) noexcept nogil
cdef uint64_t attribute_be64(const Attribute *cursor) noexcept nogil

cdef enum:
    ATTRIBUTE_HEAD = 4       # struct nlattr
    GENERAL_HEAD = 20        # struct nlmsghdr and struct nfgenmsg, which begin each message


# A buffer that grows. `failed` is ENOMEM if there was no memory, EMSGSIZE if an attribute exceeds its 16-bit length.
cdef struct Writer:
    char *memory
    size_t length
    size_t room
    int failed               # 0, or ENOMEM, or EMSGSIZE

cdef bint writer_reserve(Writer *writer, size_t more) noexcept nogil
cdef char *put_room(Writer *writer, int kind, size_t length) noexcept nogil
cdef void put(Writer *writer, int kind, const void *data, size_t length) noexcept nogil
cdef void put_text(Writer *writer, int kind, const char *text) noexcept nogil
cdef void put_be32(Writer *writer, int kind, uint32_t number) noexcept nogil
cdef void put_be64(Writer *writer, int kind, uint64_t number) noexcept nogil
cdef size_t nest(Writer *writer, int kind) noexcept nogil
cdef void nest_end(Writer *writer, size_t start) noexcept nogil

# ----------------------------------------------------------------- messages

# A cursor over netlink messages. `kind` is the type without the subsystem, `attributes` begin after nfgenmsg.
cdef struct Message:
    const char *at
    const char *end
    int kind
    int flags
    uint32_t sequence
    int nfproto
    const char *attributes
    size_t length

cdef void message_scan(Message *cursor, const char *data, size_t length) noexcept nogil
cdef bint message_next(Message *cursor) noexcept nogil
cdef size_t message_begin(Writer *writer, int kind, int flags, int nfproto, uint32_t sequence) noexcept nogil
cdef void message_end(Writer *writer, size_t start) noexcept nogil

# ---------------------------------------------------------------- the socket

# A socket and its buffers. All functions return 0 or an errno: that in the kernel's answer, or that of the socket.
cdef struct Channel:
    Held held
    uint32_t sequence
    bint answered
    uint32_t parts                   # how many datagrams with objects the last answer had
    Writer request
    Writer inbox

ctypedef int (*Receiver)(void *context, const Message *message) noexcept nogil

cdef int channel_open(Channel *channel, int netns) noexcept nogil
cdef bint channel_beside(Channel *channel, const Channel *other) noexcept nogil
cdef bint channel_is_ours(const Channel *channel) noexcept nogil
cdef void channel_close(Channel *channel) noexcept nogil
cdef int channel_dump(Channel *channel, int kind, int nfproto, const char *attributes, size_t length,
                      Receiver receiver, void *context, bint *interrupted) noexcept nogil
cdef int channel_get(Channel *channel, int kind, int nfproto, const char *attributes, size_t length,
                     Receiver receiver, void *context) noexcept nogil
cdef int channel_generation(Channel *channel, uint32_t *generation) noexcept nogil
cdef int channel_wait_for_commit(Channel *channel) noexcept nogil

cdef class Socket:
    cdef Channel channel
    cdef Channel beside              # a second socket in the same namespace, opened when it is first needed

    cdef void _close(self) noexcept
    cdef int _check(self, int failed, str what) except -1
    cdef int _open(self) except -1
    cdef tuple _read(self, int kind, int nfproto, bytes attributes, bint dump)
    cdef list _refusals(self, uint32_t last, list marks)

cdef class Batch:
    cdef Writer writer
    cdef size_t last                 # where the last message begins
    cdef readonly Py_ssize_t message_count

    cdef size_t _begin(self, int kind, int flags, int nfproto, int table_kind, bytes table)
    cdef size_t _rule(self, int kind, int flags, int nfproto, bytes table, bytes chain)
    cdef void _paste(self, bytes attributes) noexcept
    cdef size_t begin_appended(self, int nfproto, bytes table, bytes chain)
    cdef Py_ssize_t end(self, size_t start) except -1
