# The expressions of nf_tables as C declares them, and the functions with which other modules read and write them.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .._netlink cimport Attribute, Writer

# ---------------------------------------------------------------- C: kernel

cdef extern from *:
    """
    #include <linux/netfilter/nf_tables.h>
    #include <linux/netfilter/nf_tables_compat.h>
    """
    enum:
        NFT_BREAK
        NFT_CONTINUE
        NFT_GOTO
        NFT_JUMP
        NFT_REG_1
        NFT_REG_4
        NFT_REG32_00
        NFT_REG32_01
        NFT_REG32_15
        NFT_REG_VERDICT
        NFT_CMP_EQ
        NFT_CMP_NEQ
        NFT_CMP_LT
        NFT_CMP_LTE
        NFT_CMP_GT
        NFT_CMP_GTE
        NFT_RANGE_EQ
        NFT_RANGE_NEQ
        NFT_PAYLOAD_NETWORK_HEADER
        NFT_PAYLOAD_TRANSPORT_HEADER
        NFT_LIMIT_PKTS
        NFT_META_IIF
        NFT_META_OIF
        NFT_META_IIFNAME
        NFT_META_OIFNAME
        NFT_META_L4PROTO
        NFT_META_MARK
        NFT_META_NFTRACE
        NFT_META_PKTTYPE
        NFT_RULE_COMPAT_F_INV
        NFTA_BITWISE_DREG
        NFTA_BITWISE_LEN
        NFTA_BITWISE_MASK
        NFTA_BITWISE_OP
        NFTA_BITWISE_SREG
        NFTA_BITWISE_XOR
        NFTA_CMP_DATA
        NFTA_CMP_OP
        NFTA_CMP_SREG
        NFTA_DATA_VALUE
        NFTA_DATA_VERDICT
        NFTA_DYNSET_SET_NAME
        NFTA_FLOW_TABLE_NAME
        NFTA_IMMEDIATE_DATA
        NFTA_IMMEDIATE_DREG
        NFTA_LIMIT_BURST
        NFTA_LIMIT_FLAGS
        NFTA_LIMIT_RATE
        NFTA_LIMIT_TYPE
        NFTA_LIMIT_UNIT
        NFTA_LOG_FLAGS
        NFTA_LOG_GROUP
        NFTA_LOG_LEVEL
        NFTA_LOG_PREFIX
        NFTA_LOG_QTHRESHOLD
        NFTA_LOG_SNAPLEN
        NFTA_LOOKUP_SET
        NFTA_MATCH_INFO
        NFTA_MATCH_NAME
        NFTA_MATCH_REV
        NFTA_META_DREG
        NFTA_META_KEY
        NFTA_META_SREG
        NFTA_OBJREF_IMM_NAME
        NFTA_OBJREF_SET_NAME
        NFTA_PAYLOAD_BASE
        NFTA_PAYLOAD_DREG
        NFTA_PAYLOAD_LEN
        NFTA_PAYLOAD_OFFSET
        NFTA_RANGE_FROM_DATA
        NFTA_RANGE_OP
        NFTA_RANGE_SREG
        NFTA_RANGE_TO_DATA
        NFTA_RULE_COMPAT_FLAGS
        NFTA_RULE_COMPAT_PROTO
        NFTA_TARGET_INFO
        NFTA_TARGET_NAME
        NFTA_TARGET_REV
        NFTA_VERDICT_CHAIN
        NFTA_VERDICT_CODE

# ----------------------------------------------------------------- expressions

cdef enum:
    FIELDS = 16
    REGISTERS = 16
    WIDEST = 16              # the size of a register in bytes

# An expression that is being written: where it begins, and where its attributes begin.
cdef struct Open:
    size_t element
    size_t data

cdef Open expression_begin(Writer *writer, const char *name) noexcept nogil
cdef void expression_end(Writer *writer, Open open) noexcept nogil

# The attributes of one expression, by kind. NULL: it does not have that attribute.
cdef struct Fields:
    const char *data[FIELDS]
    uint32_t length[FIELDS]

cdef bint expression_next(Attribute *cursor, Attribute *name, Fields *fields) noexcept nogil
cdef str expression_text(const Attribute *element)
cdef bint fields_read(Fields *fields, const char *data, size_t length) noexcept nogil
cdef bint field_be32(const Fields *fields, int kind, uint32_t *number) noexcept nogil
cdef bint field_be64(const Fields *fields, int kind, uint64_t *number) noexcept nogil
cdef bint field_be16(const Fields *fields, int kind, uint16_t *number) noexcept nogil
cdef void put_data(Writer *writer, int kind, const void *data, size_t length) noexcept nogil
cdef const unsigned char *field_data(const Fields *fields, int kind, uint32_t *length) noexcept nogil

# ------------------------------------------------------------------- registers

cdef enum Holding:
    UNUSED
    META
    PAYLOAD
    DATA

# The content of one register, and whether a comparison has used it.
cdef struct Register:
    Holding holding
    bint compared
    bint masked
    uint32_t key             # the key of META, or the base of PAYLOAD
    uint32_t offset
    uint32_t length
    unsigned char bits[WIDEST]       # the mask, or the data

cdef Register *register_of(Register *registers, const Fields *fields, int kind) noexcept nogil
cdef bint register_settled(const Register *register) noexcept nogil
cdef Register *register_load(Register *registers, const Fields *fields, int kind, Holding holding,
                             uint32_t length) noexcept nogil
cdef void put_payload(Writer *writer, int base, int offset, int length) noexcept nogil
cdef bint load_payload(Register *registers, const Fields *fields) noexcept nogil
cdef void put_meta(Writer *writer, int key) noexcept nogil
cdef bint load_meta(Register *registers, const Fields *fields) noexcept nogil
cdef void put_mask(Writer *writer, const void *mask, size_t length) noexcept nogil
cdef bint load_masked(Register *registers, const Fields *fields) noexcept nogil
cdef void put_cmp(Writer *writer, int relation, const void *data, size_t length) noexcept nogil

cdef inline int equality(bint inverted) noexcept nogil:
    return NFT_CMP_NEQ if inverted else NFT_CMP_EQ
