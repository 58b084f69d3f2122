# cython: freethreading_compatible=False
"""Writes and reads single expressions of nf_tables, and follows what the registers hold between them.

Nothing here knows of rules. A function that reads returns False for an expression that it does not know.
"""

from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset

from .._linux cimport IFNAMSIZ, htobe32, htobe64, htons, strnlen
from .._netlink cimport (
    NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_LIST_ELEM, Attribute, Writer, attribute_next, attribute_scan, nest, nest_end,
    put, put_be32, put_text,
)
from .._verdicts cimport Verdict, verdict_coded
from ..language.plugins cimport text_of

cdef Open expression_begin(Writer *writer, const char *name) noexcept nogil:
    """Begin an expression. `expression_end` ends it."""
    cdef Open open
    open.element = nest(writer, NFTA_LIST_ELEM)
    put_text(writer, NFTA_EXPR_NAME, name)
    open.data = nest(writer, NFTA_EXPR_DATA)
    return open


cdef void expression_end(Writer *writer, Open open) noexcept nogil:
    nest_end(writer, open.data)
    nest_end(writer, open.element)


cdef bint expression_next(Attribute *cursor, Attribute *name, Fields *fields) noexcept nogil:
    """Read the next expression of a list: its name, and its attributes as far as this module knows them. Return False
    at the end."""
    cdef Attribute inner
    while attribute_next(cursor):
        if cursor.kind != NFTA_LIST_ELEM:
            continue
        memset(name, 0, sizeof(name[0]))
        memset(fields, 0, sizeof(fields[0]))
        attribute_scan(&inner, cursor.data, cursor.length)
        while attribute_next(&inner):
            if inner.kind == NFTA_EXPR_NAME:
                name[0] = inner
            elif inner.kind == NFTA_EXPR_DATA and not fields_read(fields, inner.data, inner.length):
                name.length = 0
                break
        return True
    return False


cdef dict _REFERENCES = {
    # expression: ((the attribute that is a name, the characters before that name), ...)
    "lookup": ((NFTA_LOOKUP_SET, "@"),), "dynset": ((NFTA_DYNSET_SET_NAME,
                                                     "@"),), "flow_offload": ((NFTA_FLOW_TABLE_NAME, "@"),),
    "objref": ((NFTA_OBJREF_IMM_NAME, ""), (NFTA_OBJREF_SET_NAME, "@")),
    "match": ((NFTA_MATCH_NAME, ""),), "target": ((NFTA_TARGET_NAME, ""),),
}

# The names that `nft` prints for other codes than those of `_verdicts`.
cdef dict _CODES = {NFT_BREAK: "break", NFT_CONTINUE: "continue", NFT_GOTO: "goto", NFT_JUMP: "jump"}


cdef str expression_text(const Attribute *element):
    """Return the name of an expression, and the name that it refers to: `cmp`, `lookup @set`, `immediate jump web`."""
    cdef Attribute inner, name, data
    cdef Fields fields
    cdef str text, sign
    cdef int kind
    memset(&name, 0, sizeof(name))
    memset(&data, 0, sizeof(data))
    attribute_scan(&inner, element.data, element.length)
    while attribute_next(&inner):
        if inner.kind == NFTA_EXPR_NAME:
            name = inner
        elif inner.kind == NFTA_EXPR_DATA:
            data = inner
    text = _text_of(name.data, name.length)
    fields_read(&fields, data.data, data.length)
    if text == "immediate":
        return text + _verdict_text(&fields)
    for kind, sign in _REFERENCES.get(text, ()):
        if fields.data[kind] != NULL:
            text = f"{text} {sign}{_text_of(fields.data[kind], fields.length[kind])}"
    return text


cdef str _verdict_text(const Fields *immediate):
    """Return a space and the verdict of an `immediate`, or "" if it loads data."""
    cdef Fields data, verdict
    cdef const Verdict *known
    cdef uint32_t code
    cdef str text
    if not fields_read(&data, immediate.data[NFTA_IMMEDIATE_DATA], immediate.length[NFTA_IMMEDIATE_DATA]):
        return ""
    fields_read(&verdict, data.data[NFTA_DATA_VERDICT], data.length[NFTA_DATA_VERDICT])
    if not field_be32(&verdict, NFTA_VERDICT_CODE, &code):
        return ""
    known = verdict_coded(<int32_t> code)
    text = " " + (known.name.decode().lower() if known != NULL else _CODES.get(<int> code, str(<int> code)))
    if verdict.data[NFTA_VERDICT_CHAIN] != NULL:
        text += " " + _text_of(verdict.data[NFTA_VERDICT_CHAIN], verdict.length[NFTA_VERDICT_CHAIN])
    return text


cdef str _text_of(const char *text, uint32_t length):
    """Return *text*, which may end with a NUL, as a string. *text* is NULL if the attribute is missing."""
    return "" if length == 0 else text_of(text, strnlen(text, length))


cdef bint fields_read(Fields *fields, const char *data, size_t length) noexcept nogil:
    """Sort the attributes in *length* bytes by kind. Return False if the sizes do not add up, or a kind is unknown."""
    cdef Attribute cursor
    memset(fields, 0, sizeof(fields[0]))
    attribute_scan(&cursor, data, length)
    while attribute_next(&cursor):
        if cursor.kind >= FIELDS:
            return False
        fields.data[cursor.kind] = cursor.data
        fields.length[cursor.kind] = cursor.length
    return cursor.at == cursor.end


cdef bint _copy_field(const Fields *fields, int kind, void *number, size_t size) noexcept nogil:
    """Copy the bytes of a number. Return False if the attribute is missing or has another size."""
    if fields.data[kind] == NULL or fields.length[kind] != size:
        return False
    memcpy(number, fields.data[kind], size)
    return True


cdef bint field_be16(const Fields *fields, int kind, uint16_t *number) noexcept nogil:
    """Read a number in network order. Return False if the attribute is missing or has another size."""
    if not _copy_field(fields, kind, number, sizeof(number[0])):
        return False
    number[0] = htons(number[0])
    return True


cdef bint field_be32(const Fields *fields, int kind, uint32_t *number) noexcept nogil:
    if not _copy_field(fields, kind, number, sizeof(number[0])):
        return False
    number[0] = htobe32(number[0])
    return True


cdef bint field_be64(const Fields *fields, int kind, uint64_t *number) noexcept nogil:
    if not _copy_field(fields, kind, number, sizeof(number[0])):
        return False
    number[0] = htobe64(number[0])
    return True


cdef void put_data(Writer *writer, int kind, const void *data, size_t length) noexcept nogil:
    """Write an attribute with *data* (struct nft_data)."""
    cdef size_t start = nest(writer, kind)
    put(writer, NFTA_DATA_VALUE, data, length)
    nest_end(writer, start)


cdef const unsigned char *field_data(const Fields *fields, int kind, uint32_t *length) noexcept nogil:
    """Return the 1 to 16 bytes in an attribute with data (struct nft_data), or NULL."""
    cdef Fields inner
    if fields.data[kind] == NULL or not fields_read(&inner, fields.data[kind], fields.length[kind]):
        return NULL
    length[0] = inner.length[NFTA_DATA_VALUE]
    if not 0 < length[0] <= WIDEST:
        return NULL
    return <const unsigned char *> inner.data[NFTA_DATA_VALUE]


cdef Register *register_of(Register *registers, const Fields *fields, int kind) noexcept nogil:
    """Return the register that an expression names. A register of 16 bytes overlaps four registers of 4 bytes."""
    cdef uint32_t number
    if not field_be32(fields, kind, &number):
        return NULL
    if NFT_REG_1 <= number <= NFT_REG_4:
        return &registers[(number - NFT_REG_1) * 4]
    if NFT_REG32_00 <= number <= NFT_REG32_15:
        return &registers[number - NFT_REG32_00]
    return NULL


cdef bint register_settled(const Register *register) noexcept nogil:
    """Whether the content of the register was used, or need not be: for `-i +` iptables-nft loads a name and compares
    nothing."""
    if register.holding == META and not register.compared:
        return register.key == NFT_META_IIFNAME or register.key == NFT_META_OIFNAME
    return register.holding != PAYLOAD or register.compared


cdef Register *register_load(Register *registers, const Fields *fields, int kind, Holding holding,
                             uint32_t length) noexcept nogil:
    """Empty the register that an expression fills with *length* bytes, and the registers that overlap it. Return it, or
    NULL if the expression has no such register."""
    cdef Register *register = register_of(registers, fields, kind)
    cdef Register *other
    cdef uint32_t slot
    cdef int i
    if register == NULL or not 0 < length <= WIDEST:
        return NULL
    slot = register - registers
    for i in range(REGISTERS):
        other = &registers[i]
        if other.holding != UNUSED and <uint32_t> i < slot + (length + 3) // 4 and slot < i + (other.length + 3) // 4:
            if not register_settled(other):
                return NULL
            other.holding = UNUSED
    memset(register, 0, sizeof(register[0]))
    register.holding = holding
    register.length = length
    return register


cdef void put_payload(Writer *writer, int base, int offset, int length) noexcept nogil:
    """Load bytes of a header into the first register, the only one that our rules use."""
    cdef Open open = expression_begin(writer, b"payload")
    put_be32(writer, NFTA_PAYLOAD_DREG, NFT_REG_1)
    put_be32(writer, NFTA_PAYLOAD_BASE, base)
    put_be32(writer, NFTA_PAYLOAD_OFFSET, offset)
    put_be32(writer, NFTA_PAYLOAD_LEN, length)
    expression_end(writer, open)


cdef bint load_payload(Register *registers, const Fields *fields) noexcept nogil:
    cdef uint32_t base, offset, length
    cdef Register *register
    if not (field_be32(fields, NFTA_PAYLOAD_BASE, &base) and field_be32(fields, NFTA_PAYLOAD_OFFSET, &offset)
            and field_be32(fields, NFTA_PAYLOAD_LEN, &length)):
        return False
    register = register_load(registers, fields, NFTA_PAYLOAD_DREG, PAYLOAD, length)
    if register == NULL:
        return False
    register.key = base
    register.offset = offset
    return True


cdef void put_meta(Writer *writer, int key) noexcept nogil:
    cdef Open open = expression_begin(writer, b"meta")
    put_be32(writer, NFTA_META_KEY, key)
    put_be32(writer, NFTA_META_DREG, NFT_REG_1)
    expression_end(writer, open)


cdef bint load_meta(Register *registers, const Fields *fields) noexcept nogil:
    cdef uint32_t key
    cdef Register *register
    if not field_be32(fields, NFTA_META_KEY, &key):
        return False
    register = register_load(registers, fields, NFTA_META_DREG, META,
                             IFNAMSIZ if key == NFT_META_IIFNAME or key == NFT_META_OIFNAME else 4)
    if register == NULL:
        return False
    register.key = key
    return True


cdef void put_mask(Writer *writer, const void *mask, size_t length) noexcept nogil:
    cdef Open open = expression_begin(writer, b"bitwise")
    cdef unsigned char zeros[WIDEST]
    memset(zeros, 0, sizeof(zeros))
    put_be32(writer, NFTA_BITWISE_SREG, NFT_REG_1)
    put_be32(writer, NFTA_BITWISE_DREG, NFT_REG_1)
    put_be32(writer, NFTA_BITWISE_LEN, length)
    put_data(writer, NFTA_BITWISE_MASK, mask, length)
    put_data(writer, NFTA_BITWISE_XOR, zeros, length)
    expression_end(writer, open)


cdef bint load_masked(Register *registers, const Fields *fields) noexcept nogil:
    """Read a mask. Other operations of `bitwise` have no equivalent in iptables."""
    cdef Register *source = register_of(registers, fields, NFTA_BITWISE_SREG)
    cdef Register *register
    cdef Register masked
    cdef uint32_t length, relation = 0, i
    cdef const unsigned char *data
    if source == NULL or source.holding != PAYLOAD and source.holding != META or source.masked:
        return False
    if fields.data[NFTA_BITWISE_OP] != NULL and not (field_be32(fields, NFTA_BITWISE_OP, &relation) and relation == 0):
        return False
    data = field_data(fields, NFTA_BITWISE_XOR, &length)
    if data == NULL or length != source.length:
        return False
    for i in range(length):
        if data[i]:
            return False
    data = field_data(fields, NFTA_BITWISE_MASK, &length)
    if data == NULL or length != source.length:
        return False
    source.compared = True
    masked = source[0]
    register = register_load(registers, fields, NFTA_BITWISE_DREG, masked.holding, length)
    if register == NULL:
        return False
    register[0] = masked
    register.compared = False
    register.masked = True
    memcpy(register.bits, data, length)
    return True


cdef void put_cmp(Writer *writer, int relation, const void *data, size_t length) noexcept nogil:
    cdef Open open = expression_begin(writer, b"cmp")
    put_be32(writer, NFTA_CMP_SREG, NFT_REG_1)
    put_be32(writer, NFTA_CMP_OP, relation)
    put_data(writer, NFTA_CMP_DATA, data, length)
    expression_end(writer, open)
