# cython: freethreading_compatible=False
"""Writes and reads the parts of a rule as expressions of nf_tables: the base part, matches and targets.

The functions that write and read a part stand next to each other. If iptables-nft writes a match or target in
expressions, so does this module. Other extensions are wrapped unchanged in a compat expression. A function that reads
returns False if no match or target means the same.
"""

from libc.stdint cimport UINT32_MAX, int32_t
from libc.string cimport memcmp, memcpy, memset, strcmp, strlen

from .._linux cimport IFNAMSIZ, SIOCGIFNAME, htons, if_indextoname, ifreq, ioctl, strnlen
from .._core cimport (
    IP6T_F_PROTO, IPT_F_FRAG, IPT_INV_DSTIP, IPT_INV_FRAG, IPT_INV_PROTO, IPT_INV_SRCIP, IPT_INV_VIA_IN,
    IPT_INV_VIA_OUT, NFLOG_LONG_ROOM, NFLOG_LONG_SIZE, NFLOG_PREFIX, NFPROTO_IPV4, STANDARD_SIZE, PAYLOAD_HEADER,
    XT_EXTENSION_MAXNAMELEN, Payloads, is_long_nflog, is_verdict, is_verdict_name, mark_verdict, next_payload,
    payloads_of, target_offset, xt_entry_match,
)
from .._netlink cimport (
    NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS, NFTA_RULE_COMPAT, attribute_scan, attribute_text, nest, nest_end, put,
    put_be32, put_be64, put_text,
)
from .._verdicts cimport VERDICT_NO_CODE, Verdict, verdict_coded, verdict_named
from .expressions cimport (
    DATA, META, NFTA_CMP_DATA, NFTA_CMP_OP, NFTA_CMP_SREG, NFTA_DATA_VERDICT, NFTA_IMMEDIATE_DATA, NFTA_IMMEDIATE_DREG,
    NFTA_LIMIT_BURST, NFTA_LIMIT_FLAGS, NFTA_LIMIT_RATE, NFTA_LIMIT_TYPE, NFTA_LIMIT_UNIT, NFTA_LOG_GROUP,
    NFTA_LOG_LEVEL, NFTA_LOG_PREFIX, NFTA_LOG_QTHRESHOLD, NFTA_LOG_SNAPLEN, NFTA_MATCH_INFO, NFTA_MATCH_NAME,
    NFTA_MATCH_REV, NFTA_META_KEY, NFTA_META_SREG, NFTA_RANGE_FROM_DATA, NFTA_RANGE_OP, NFTA_RANGE_SREG,
    NFTA_RANGE_TO_DATA, NFTA_RULE_COMPAT_FLAGS, NFTA_RULE_COMPAT_PROTO, NFTA_TARGET_INFO, NFTA_TARGET_NAME,
    NFTA_TARGET_REV, NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE, NFT_CMP_EQ, NFT_CMP_GT, NFT_CMP_GTE, NFT_CMP_LT,
    NFT_CMP_LTE, NFT_CMP_NEQ, NFT_GOTO, NFT_JUMP, NFT_LIMIT_PKTS, NFT_META_IIF, NFT_META_IIFNAME, NFT_META_L4PROTO,
    NFT_META_MARK, NFT_META_NFTRACE, NFT_META_OIF, NFT_META_OIFNAME, NFT_META_PKTTYPE, NFT_PAYLOAD_NETWORK_HEADER,
    NFT_PAYLOAD_TRANSPORT_HEADER, NFT_RANGE_EQ, NFT_RANGE_NEQ, NFT_REG32_01, NFT_REG_1, NFT_REG_VERDICT,
    NFT_RULE_COMPAT_F_INV, PAYLOAD, Open, equality, expression_begin, expression_end,
    expression_next, field_be16, field_be32, field_be64, field_data, fields_read, load_masked, load_meta, load_payload,
    put_cmp, put_data, put_mask, put_meta, put_payload, register_load, register_of, register_settled,
)

cdef enum:
    INTERFACE_INDEX = 4
    COMMENT_ROOM = 256           # struct xt_comment_info

    # what was read of a rule: each may be there only once
    SEEN_SRC = 1 << 0
    SEEN_IN = 1 << 2
    SEEN_PROTO = 1 << 4
    SEEN_FRAGMENT = 1 << 5
    # what was read of a tcp or udp match
    SEEN_TCP_FLAGS = 1 << 6
    SEEN_SPORT = 1 << 7
    SEEN_HALF_SPORT = 1 << 9     # one limit of a range of ports; the other one may follow

cdef const char *NO_INTERFACE = b"INVAL/D"        # the interface name that iptables-nft writes for `! -i +`

# --------------------------------------------------------- the base part

cdef inline unsigned char *_address(Family *family, const char *entry, int which) noexcept nogil:
    """Return an address or a mask: *which* is 0 for src, 1 for dst, 2 for smsk, 3 for dmsk."""
    return <unsigned char *> entry + which * family.address


cdef inline char *_interface(Family *family, const char *entry, int which) noexcept nogil:
    """Return an interface or a mask: *which* is 0 for iniface, 1 for outiface, 2 and 3 for their masks."""
    return <char *> entry + 4 * family.address + which * IFNAMSIZ


cdef inline uint8_t *_flags(Family *family, const char *entry) noexcept nogil:
    """Return the address of flags, which invflags follows."""
    return <uint8_t *> entry + family.flags


cdef inline uint16_t *_protocol(Family *family, const char *entry) noexcept nogil:
    return <uint16_t *> (entry + family.proto)


cdef inline uint32_t _source_at(Family *family) noexcept nogil:
    """Return the offset of the source address in the packet. The destination address follows it."""
    return 12 if family.nfproto == NFPROTO_IPV4 else 8


cdef void put_base(Writer *writer, Family *family, const char *entry, bint compat, bint old) noexcept nogil:
    """Write the conditions of the base part, in the order in which the installed iptables does: 1.8.9 and older
    (*old*), or newer."""
    cdef int which
    if not old:
        for which in range(2):
            _put_address(writer, family, entry, which, compat)
    for which in range(2):
        _put_interface(writer, family, entry, which)
    _put_protocol(writer, family, entry, old)
    if old:
        for which in range(2):
            _put_address(writer, family, entry, which, compat)
    _put_fragment(writer, family, entry)


cdef inline bint _is_zero(const unsigned char *address, uint32_t length) noexcept nogil:
    cdef uint32_t i
    for i in range(length):
        if address[i]:
            return False
    return True


cdef void _put_address(Writer *writer, Family *family, const char *entry, int which, bint compat) noexcept nogil:
    cdef const unsigned char *address = _address(family, entry, which)
    cdef const unsigned char *mask = _address(family, entry, which + 2)
    cdef bint inverted = _flags(family, entry)[1] & (IPT_INV_DSTIP if which else IPT_INV_SRCIP)
    cdef uint32_t length = family.address, offset = _source_at(family) + which * family.address, ones = 0, i
    cdef bint any_address = _is_zero(mask, length) and _is_zero(address, length), whole_bytes
    while ones < length and mask[ones] == 0xff:
        ones += 1
    whole_bytes = ones > 0
    for i in range(ones, length):
        whole_bytes = whole_bytes and mask[i] == 0
    if any_address and not inverted:
        return
    # for `! -s 0/0` no byte is compared, as by iptables-nft, and the kernel refuses that. iptables before 1.8.7 does
    # not read a network from the number of compared bytes
    if any_address or whole_bytes and (ones == length or not compat):
        put_payload(writer, NFT_PAYLOAD_NETWORK_HEADER, offset, ones)
        put_cmp(writer, equality(inverted), address, ones)
    else:
        put_payload(writer, NFT_PAYLOAD_NETWORK_HEADER, offset, length)
        put_mask(writer, mask, length)
        put_cmp(writer, equality(inverted), address, length)


cdef bint _read_address(Reading *reading, int which, const unsigned char *address, const unsigned char *mask,
                        uint32_t length,
                        bint inverted) noexcept nogil:
    """Read the first *length* bytes of an address. *mask* is NULL if all their bits are compared."""
    if reading.seen & SEEN_SRC << which:
        return False
    if inverted and mask != NULL and _is_zero(mask, length):
        return False             # this matches no packet, and iptables cannot write it
    reading.seen |= SEEN_SRC << which
    memcpy(_address(reading.family, reading.entry, which), address, length)
    if mask != NULL:
        memcpy(_address(reading.family, reading.entry, which + 2), mask, length)
    else:
        memset(_address(reading.family, reading.entry, which + 2), 0xff, length)
    if inverted:
        _flags(reading.family, reading.entry)[1] |= IPT_INV_DSTIP if which else IPT_INV_SRCIP
    return True


cdef void _put_interface(Writer *writer, Family *family, const char *entry, int which) noexcept nogil:
    cdef const char *name = _interface(family, entry, which)
    cdef const char *mask = _interface(family, entry, which + 2)
    cdef bint inverted = _flags(family, entry)[1] & (IPT_INV_VIA_OUT if which else IPT_INV_VIA_IN)
    cdef size_t length = strnlen(name, IFNAMSIZ), masked = 0
    while masked < IFNAMSIZ and mask[masked]:
        masked += 1
    if masked == 0 and not inverted:
        return
    put_meta(writer, NFT_META_OIFNAME if which else NFT_META_IIFNAME)
    if inverted and (masked == 0 or masked == 2 and memcmp(name, b"+", 2) == 0):
        put_cmp(writer, NFT_CMP_EQ, NO_INTERFACE, strlen(NO_INTERFACE) + 1)
    else:
        # a whole name is compared with its NUL, the beginning of a name (`eth+`) without
        put_cmp(writer, equality(inverted), name, length + 1 if masked > length else masked)


cdef bint _read_interface(Reading *reading, int which, const char *name, uint32_t length, bint inverted) noexcept nogil:
    cdef char *own = _interface(reading.family, reading.entry, which)
    cdef char *mask = _interface(reading.family, reading.entry, which + 2)
    cdef size_t size = strnlen(name, length), i
    if reading.seen & SEEN_IN << which or size == 0:
        return False
    reading.seen |= SEEN_IN << which
    for i in range(size, length):
        if name[i]:
            return False
    if size == length:
        if size + 1 >= IFNAMSIZ:
            return False
        memcpy(own, name, size)
        own[size] = b'+'
        memset(mask, 0xff, size)
    elif not inverted and strcmp(name, NO_INTERFACE) == 0:
        own[0] = b'+'
        memset(mask, 0xff, 2)
        inverted = True
    else:
        memcpy(own, name, size)
        memset(mask, 0xff, size + 1)
    if inverted:
        _flags(reading.family, reading.entry)[1] |= IPT_INV_VIA_OUT if which else IPT_INV_VIA_IN
    return True


cdef bint _read_interface_index(Reading *reading, int which, const unsigned char *data, uint32_t length,
                                bint inverted) noexcept nogil:
    cdef ifreq interface
    cdef uint32_t index
    if length != INTERFACE_INDEX:
        return False
    memcpy(&index, data, INTERFACE_INDEX)
    memset(&interface, 0, sizeof(interface))
    interface.ifr_ifindex = index
    if reading.names_from >= 0:
        if ioctl(reading.names_from, SIOCGIFNAME, &interface) < 0:
            return False
    elif if_indextoname(index, interface.ifr_name) == NULL:
        return False
    return _read_interface(reading, which, interface.ifr_name, strlen(interface.ifr_name) + 1, inverted)


cdef void _put_protocol(Writer *writer, Family *family, const char *entry, bint old) noexcept nogil:
    cdef uint16_t protocol = _protocol(family, entry)[0]
    cdef uint8_t byte = protocol
    if not protocol:
        return
    if family.nfproto == NFPROTO_IPV4 and not old:
        put_payload(writer, NFT_PAYLOAD_NETWORK_HEADER, 9, 1)
    else:
        put_meta(writer, NFT_META_L4PROTO)
    put_cmp(writer, equality(_flags(family, entry)[1] & IPT_INV_PROTO), &byte, 1)


cdef bint _read_protocol(Reading *reading, uint8_t protocol, bint inverted) noexcept nogil:
    cdef uint8_t *flags = _flags(reading.family, reading.entry)
    if reading.seen & SEEN_PROTO:
        # nft may write the protocol twice: of the network header and of the transport header
        return _protocol(reading.family, reading.entry)[0] == protocol and not inverted and not flags[1] & IPT_INV_PROTO
    if not protocol:
        return False
    reading.seen |= SEEN_PROTO
    _protocol(reading.family, reading.entry)[0] = protocol
    if reading.family.nfproto != NFPROTO_IPV4:
        flags[0] |= IP6T_F_PROTO
    if inverted:
        flags[1] |= IPT_INV_PROTO
    return True


cdef void _put_fragment(Writer *writer, Family *family, const char *entry) noexcept nogil:
    cdef uint8_t *flags = _flags(family, entry)
    cdef uint16_t mask = htons(0x1fff), zero = 0
    if family.nfproto == NFPROTO_IPV4 and flags[0] & IPT_F_FRAG:
        put_payload(writer, NFT_PAYLOAD_NETWORK_HEADER, 6, 2)
        put_mask(writer, &mask, 2)
        put_cmp(writer, equality(not flags[1] & IPT_INV_FRAG), &zero, 2)


cdef bint _read_fragment(Reading *reading, const Register *register, const unsigned char *data,
                         bint inverted) noexcept nogil:
    if reading.seen & SEEN_FRAGMENT or not register.masked or register.length != 2 or register.bits[0] != 0x1f \
            or register.bits[1] != 0xff or data[0] or data[1]:
        return False
    reading.seen |= SEEN_FRAGMENT
    _flags(reading.family, reading.entry)[0] |= IPT_F_FRAG
    if not inverted:
        _flags(reading.family, reading.entry)[1] |= IPT_INV_FRAG
    return True


cdef bint _read_network(Reading *reading, Register *register, int relation, const unsigned char *data) noexcept nogil:
    """Read a comparison with the network header. nft may compare neighbouring fields together; iptables-nft does
    not."""
    cdef bint v4 = reading.family.nfproto == NFPROTO_IPV4
    cdef bint inverted = relation == NFT_CMP_NEQ
    cdef unsigned char *mask = register.bits
    cdef uint32_t at = 0, offset, size, address = reading.family.address, source = _source_at(reading.family)
    if register.length == 1 and not register.masked and register.offset == (8 if v4 else 7):
        return _read_ttl(reading, relation, data[0])
    if not inverted and relation != NFT_CMP_EQ:
        return False
    if v4 and register.offset == 6:
        return _read_fragment(reading, register, data, inverted)
    while at < register.length:
        offset = register.offset + at
        if offset == source or offset == source + address:
            size = min(address, register.length - at)
            if not _read_address(reading, offset != source, data + at, mask + at if register.masked else NULL, size,
                                 inverted):
                return False
        elif v4 and offset == 9 and not register.masked:
            size = 1
            if not _read_protocol(reading, data[at], inverted):
                return False
        else:
            return False
        if inverted and size != register.length:
            return False
        at += size
    return True


# ------------------------------------ matches that expressions replace

cdef char *_add(Reading *reading, const char *name, size_t name_length, int revision, size_t size) noexcept nogil:
    """Append a match or target with *size* zero bytes of data. Return its data, or NULL if the rule cannot have it."""
    cdef size_t whole = (PAYLOAD_HEADER + size + 7) & ~<size_t> 7
    cdef xt_entry_match *payload = <xt_entry_match *> (reading.entry + reading.length)
    if reading.target or reading.length + whole > ENTRY_MOST or not 0 < name_length < XT_EXTENSION_MAXNAMELEN:
        return NULL
    memset(payload, 0, whole)
    payload.u.match_size = whole
    memcpy(payload.u.user.name, name, name_length)
    payload.u.user.revision = revision
    reading.length += whole
    return <char *> payload.data


cdef char *_add_match(Reading *reading, const char *name, int revision, size_t size) noexcept nogil:
    return _add(reading, name, strlen(name), revision, size)


cdef bint _is_named(const xt_entry_match *payload, const char *name, int revision, size_t size) noexcept nogil:
    """Whether a match is *name* in this revision, with at least *size* bytes of data."""
    return (payload.u.user.revision == revision and payload.u.match_size >= PAYLOAD_HEADER + size
            and strcmp(payload.u.user.name, name) == 0)


cdef void _put_port(Writer *writer, int offset, const uint16_t *ports, bint inverted) noexcept nogil:
    """Write one port or one range of ports, at *offset* in the transport header."""
    cdef uint16_t low = htons(ports[0]), high = htons(ports[1])
    cdef Open open
    if ports[0] == 0 and ports[1] == 0xffff and not inverted:
        return
    put_payload(writer, NFT_PAYLOAD_TRANSPORT_HEADER, offset, 2)
    if low == high:
        put_cmp(writer, equality(inverted), &low, 2)
    elif ports[0] == 0 and not inverted:
        put_cmp(writer, NFT_CMP_LTE, &high, 2)
    else:
        open = expression_begin(writer, b"range")
        put_be32(writer, NFTA_RANGE_SREG, NFT_REG_1)
        put_be32(writer, NFTA_RANGE_OP, NFT_RANGE_NEQ if inverted else NFT_RANGE_EQ)
        put_data(writer, NFTA_RANGE_FROM_DATA, &low, 2)
        put_data(writer, NFTA_RANGE_TO_DATA, &high, 2)
        expression_end(writer, open)


cdef void _put_ports(Writer *writer, const xt_udp *match, uint8_t inverted) noexcept nogil:
    """Write the ports of udp or tcp, which have the same layout. *inverted* has XT_UDP_INV_SRCPT and
    XT_UDP_INV_DSTPT."""
    cdef uint16_t both[2]
    if not inverted and match.spts[0] and match.spts[0] == match.spts[1] and match.dpts[0] \
            and match.dpts[0] == match.dpts[1]:
        both[0] = htons(match.spts[0])
        both[1] = htons(match.dpts[0])
        put_payload(writer, NFT_PAYLOAD_TRANSPORT_HEADER, 0, 4)
        put_cmp(writer, NFT_CMP_EQ, both, 4)
        return
    _put_port(writer, 0, match.spts, inverted & XT_UDP_INV_SRCPT)
    _put_port(writer, 2, match.dpts, inverted & XT_UDP_INV_DSTPT)


cdef bint _any_port(const xt_udp *match) noexcept nogil:
    return match.spts[0] == 0 and match.spts[1] == 0xffff and match.dpts[0] == 0 and match.dpts[1] == 0xffff


cdef bint _put_udp(Writer *writer, const xt_udp *match) noexcept nogil:
    if match.invflags & ~(XT_UDP_INV_SRCPT | XT_UDP_INV_DSTPT) or _any_port(match) and not match.invflags:
        return False
    _put_ports(writer, match, match.invflags)
    return True


cdef bint _put_tcp(Writer *writer, const xt_tcp *match) noexcept nogil:
    cdef uint8_t inverted = match.invflags
    if inverted & ~(XT_TCP_INV_SRCPT | XT_TCP_INV_DSTPT | XT_TCP_INV_FLAGS) or match.option:
        return False
    if not match.flg_mask and (match.flg_cmp or inverted & XT_TCP_INV_FLAGS or _any_port(<const xt_udp *> match)
                               and not inverted):
        return False
    if match.flg_mask:
        put_payload(writer, NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1)
        put_mask(writer, &match.flg_mask, 1)
        put_cmp(writer, equality(inverted & XT_TCP_INV_FLAGS), &match.flg_cmp, 1)
    _put_ports(writer, <const xt_udp *> match, inverted & (XT_TCP_INV_SRCPT | XT_TCP_INV_DSTPT))
    return True


cdef xt_tcp *_transport(Reading *reading, int what, int unless) noexcept nogil:
    """Return the match for ports or flags that were just read, or NULL if the rule cannot have one.

    It is the first match for which none of *unless* was read. *what* is recorded for it. So several matches with
    different conditions are read as one, as iptables-nft does, and no condition is lost.
    """
    cdef uint16_t protocol = _protocol(reading.family, reading.entry)[0]
    cdef xt_tcp *match
    cdef int i
    for i in range(TRANSPORTS_MOST):
        if reading.transports[i] == 0:
            if protocol == IPPROTO_TCP:
                match = <xt_tcp *> _add_match(reading, b"tcp", 0, sizeof(xt_tcp))
            elif protocol == IPPROTO_UDP:
                match = <xt_tcp *> _add_match(reading, b"udp", 0, sizeof(xt_udp))
            else:
                return NULL
            if match == NULL:
                return NULL
            match.spts[1] = match.dpts[1] = 0xffff
            reading.transports[i] = <char *> match - reading.entry
        if not reading.told[i] & unless:
            reading.told[i] |= what
            return <xt_tcp *> (reading.entry + reading.transports[i])
    return NULL


cdef bint _read_port(Reading *reading, int which, uint32_t low, uint32_t high, bint inverted, bint half) noexcept nogil:
    """Read the ports *low* to *high* of the source (0) or destination (1). *half*: one limit of a range."""
    cdef int whole = SEEN_SPORT << which, part = SEEN_HALF_SPORT << which
    cdef xt_tcp *match = _transport(reading, part if half else whole, whole if half else whole | part)
    cdef uint16_t *ports
    cdef uint8_t flag = XT_TCP_INV_DSTPT if which else XT_TCP_INV_SRCPT
    if match == NULL:
        return False
    ports = &match.dpts[0] if which else &match.spts[0]
    if half:
        low = max(ports[0], low)
        high = min(ports[1], high)
        if low > high:
            return False
    ports[0] = low
    ports[1] = high
    if inverted and _protocol(reading.family, reading.entry)[0] == IPPROTO_TCP:
        match.invflags |= flag
    elif inverted:
        (<xt_udp *> match).invflags |= flag
    return True


cdef bint _read_port_cmp(Reading *reading, int which, int relation, const unsigned char *data) noexcept nogil:
    cdef uint32_t port = data[0] << 8 | data[1]
    if relation == NFT_CMP_EQ or relation == NFT_CMP_NEQ:
        return _read_port(reading, which, port, port, relation == NFT_CMP_NEQ, False)
    if relation == NFT_CMP_LTE:
        return _read_port(reading, which, 0, port, False, True)
    if relation == NFT_CMP_GTE:
        return _read_port(reading, which, port, 0xffff, False, True)
    if relation == NFT_CMP_LT:
        return port != 0 and _read_port(reading, which, 0, port - 1, False, True)
    return relation == NFT_CMP_GT and port != 0xffff and _read_port(reading, which, port + 1, 0xffff, False, True)


cdef bint _read_range(Reading *reading, const Fields *fields) noexcept nogil:
    cdef Register *register = register_of(reading.registers, fields, NFTA_RANGE_SREG)
    cdef uint32_t relation, low_length, high_length
    cdef const unsigned char *low = field_data(fields, NFTA_RANGE_FROM_DATA, &low_length)
    cdef const unsigned char *high = field_data(fields, NFTA_RANGE_TO_DATA, &high_length)
    if register == NULL or low == NULL or high == NULL or low_length != 2 or high_length != 2 \
            or not field_be32(fields, NFTA_RANGE_OP,
                              &relation) or relation != NFT_RANGE_EQ and relation != NFT_RANGE_NEQ:
        return False
    if register.holding != PAYLOAD or register.key != NFT_PAYLOAD_TRANSPORT_HEADER or register.masked \
            or register.length != 2 or register.offset != 0 and register.offset != 2:
        return False
    register.compared = True
    return _read_port(reading, register.offset != 0, low[0] << 8 | low[1], high[0] << 8 | high[1],
                      relation == NFT_RANGE_NEQ, False)


cdef bint _read_tcp_flags(Reading *reading, uint8_t mask, uint8_t flags, bint inverted) noexcept nogil:
    cdef xt_tcp *match
    if _protocol(reading.family, reading.entry)[0] != IPPROTO_TCP:
        return False
    match = _transport(reading, SEEN_TCP_FLAGS, SEEN_TCP_FLAGS)
    if match == NULL:
        return False
    match.flg_mask = mask
    match.flg_cmp = flags
    if inverted:
        match.invflags |= XT_TCP_INV_FLAGS
    return True


cdef bint _read_icmp(Reading *reading, const unsigned char *data, uint32_t length, bint inverted) noexcept nogil:
    """Read a type, or a type and a code. A code alone has no equivalent in iptables, where type 255 means any."""
    cdef ipt_icmp *match
    if data[0] == 0xff or length > 2:
        return False
    match = <ipt_icmp *> _add_match(reading, b"icmp" if reading.family.nfproto == NFPROTO_IPV4 else b"icmp6", 0,
                                    sizeof(ipt_icmp))
    if match == NULL:
        return False
    match.type = data[0]
    match.code[0] = data[1] if length == 2 else 0
    match.code[1] = data[1] if length == 2 else 0xff
    match.invflags = IPT_ICMP_INV if inverted else 0
    return True


cdef bint _read_transport(Reading *reading, const Register *register, int relation,
                          const unsigned char *data) noexcept nogil:
    """Read a comparison with the header of the transport protocol, which an earlier expression has compared."""
    cdef uint16_t protocol = _protocol(reading.family, reading.entry)[0]
    cdef bint inverted = relation == NFT_CMP_NEQ
    cdef bint plain = relation == NFT_CMP_EQ or inverted
    if register.length == 1 and register.offset == 13:
        return plain and _read_tcp_flags(reading, register.bits[0] if register.masked else 0xff, data[0], inverted)
    if register.masked:
        return False
    if protocol == (IPPROTO_ICMP if reading.family.nfproto == NFPROTO_IPV4 else IPPROTO_ICMPV6):
        return plain and register.offset == 0 and _read_icmp(reading, data, register.length, inverted)
    if register.offset == 0 and register.length == 4:
        # iptables-nft 1.8.8 and 1.8.9 write `! --sport … ! --dport …` in this way
        return plain and _read_port_cmp(reading, 0, relation, data) and _read_port_cmp(reading, 1, relation, data + 2)
    if register.length == 2 and (register.offset == 0 or register.offset == 2):
        return _read_port_cmp(reading, register.offset != 0, relation, data)
    return False


cdef bint _read_ttl(Reading *reading, int relation, uint8_t ttl) noexcept nogil:
    """Read `-m ttl`, or `-m hl`, which has the same layout."""
    cdef uint8_t mode
    cdef ipt_ttl_info *match
    if relation == NFT_CMP_EQ:
        mode = IPT_TTL_EQ
    elif relation == NFT_CMP_NEQ:
        mode = IPT_TTL_NE
    elif relation == NFT_CMP_LT or relation == NFT_CMP_LTE and ttl < 255:
        mode = IPT_TTL_LT
        ttl += relation == NFT_CMP_LTE
    elif relation == NFT_CMP_GT or relation == NFT_CMP_GTE and ttl > 0:
        mode = IPT_TTL_GT
        ttl -= relation == NFT_CMP_GTE
    else:
        return False
    match = <ipt_ttl_info *> _add_match(reading, b"ttl" if reading.family.nfproto == NFPROTO_IPV4 else b"hl", 0,
                                        sizeof(ipt_ttl_info))
    if match == NULL:
        return False
    match.mode = mode
    match.ttl = ttl
    return True


cdef bint _put_mark(Writer *writer, const xt_mark_mtinfo1 *match) noexcept nogil:
    put_meta(writer, NFT_META_MARK)
    if match.mask != UINT32_MAX:
        put_mask(writer, &match.mask, 4)
    put_cmp(writer, equality(match.invert), &match.mark, 4)
    return True


cdef bint _read_mark(Reading *reading, const Register *register, const unsigned char *data,
                     bint inverted) noexcept nogil:
    cdef xt_mark_mtinfo1 *match = <xt_mark_mtinfo1 *> _add_match(reading, b"mark", 1, sizeof(xt_mark_mtinfo1))
    if match == NULL:
        return False
    memcpy(&match.mark, data, 4)
    memset(&match.mask, 0xff, 4)
    if register.masked:
        memcpy(&match.mask, register.bits, 4)
    match.invert = inverted
    return True


cdef bint _read_pkttype(Reading *reading, uint8_t kind, bint inverted) noexcept nogil:
    cdef xt_pkttype_info *match = <xt_pkttype_info *> _add_match(reading, b"pkttype", 0, sizeof(xt_pkttype_info))
    if match == NULL:
        return False
    match.pkttype = kind
    match.invert = inverted
    return True


cdef uint64_t _limit_period(uint32_t average) noexcept nogil:
    """Return the period in seconds over which iptables counts a rate: the shortest with which it prints the rate."""
    cdef uint64_t period = 86400, shorter
    cdef int i
    for i in range(3):
        shorter = 3600 if i == 0 else 60 if i == 1 else 1
        if (average > shorter * XT_LIMIT_SCALE
                or shorter * XT_LIMIT_SCALE // average < shorter * XT_LIMIT_SCALE % average):
            break
        period = shorter
    return period


cdef bint _put_limit(Writer *writer, const xt_rateinfo *match) noexcept nogil:
    cdef uint64_t period, rate
    cdef Open open
    if match.avg == 0:
        return False
    period = _limit_period(match.avg)
    rate = period * XT_LIMIT_SCALE // match.avg
    if rate == 0 or period * XT_LIMIT_SCALE // rate != match.avg:
        return False             # it would be read as a different rate
    open = expression_begin(writer, b"limit")
    put_be64(writer, NFTA_LIMIT_RATE, rate)
    put_be64(writer, NFTA_LIMIT_UNIT, period)
    put_be32(writer, NFTA_LIMIT_BURST, match.burst)
    put_be32(writer, NFTA_LIMIT_TYPE, NFT_LIMIT_PKTS)
    put_be32(writer, NFTA_LIMIT_FLAGS, 0)
    expression_end(writer, open)
    return True


cdef bint _read_limit(Reading *reading, const Fields *fields) noexcept nogil:
    cdef uint64_t rate, period
    cdef uint32_t burst, kind, flags
    cdef xt_rateinfo *match
    if not (field_be64(fields, NFTA_LIMIT_RATE, &rate) and field_be64(fields, NFTA_LIMIT_UNIT, &period)
            and field_be32(fields, NFTA_LIMIT_BURST, &burst) and field_be32(fields, NFTA_LIMIT_TYPE, &kind)
            and field_be32(fields, NFTA_LIMIT_FLAGS, &flags)) or kind != NFT_LIMIT_PKTS or flags:
        return False
    if rate == 0 or period > UINT32_MAX or not 0 < period * XT_LIMIT_SCALE // rate <= UINT32_MAX:
        return False
    match = <xt_rateinfo *> _add_match(reading, b"limit", 0, 40)
    if match == NULL:
        return False
    match.avg = period * XT_LIMIT_SCALE // rate
    match.burst = burst
    return True


# ------------------------------------ targets that expressions replace

cdef char *add_target(Reading *reading, const char *name, size_t name_length, int revision, size_t size) noexcept nogil:
    """Append the target. A comment from the user data becomes the match before it."""
    cdef char *room
    cdef size_t at
    if reading.comment_length and not reading.target:
        room = _add_match(reading, b"comment", 0, COMMENT_ROOM)
        if room == NULL:
            return NULL
        memcpy(room, reading.comment, reading.comment_length)
    at = reading.length
    room = _add(reading, name, name_length, revision, size)
    if room != NULL:
        reading.target = at
    return room


cdef bint _add_verdict(Reading *reading, const char *name) noexcept nogil:
    """Append a verdict or a jump. An empty name means no target."""
    cdef char *room = add_target(reading, b"standard", 8, 0, STANDARD_SIZE - PAYLOAD_HEADER)
    if room != NULL:
        mark_verdict(room - PAYLOAD_HEADER, name)
    return room != NULL


cdef void _put_verdict(Writer *writer, int32_t code, const char *chain) noexcept nogil:
    cdef Open open = expression_begin(writer, b"immediate")
    cdef size_t data, verdict
    put_be32(writer, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT)
    data = nest(writer, NFTA_IMMEDIATE_DATA)
    verdict = nest(writer, NFTA_DATA_VERDICT)
    put_be32(writer, NFTA_VERDICT_CODE, code)
    if chain != NULL:
        put_text(writer, NFTA_VERDICT_CHAIN, chain)
    nest_end(writer, verdict)
    nest_end(writer, data)
    expression_end(writer, open)


cdef bint _read_immediate(Reading *reading, const Fields *fields) noexcept nogil:
    """Read a verdict, or data for the target that follows."""
    cdef Fields data, verdict
    cdef const Verdict *known
    cdef Register *register
    cdef uint32_t code, length
    cdef char chain[XT_EXTENSION_MAXNAMELEN]
    cdef const unsigned char *value = field_data(fields, NFTA_IMMEDIATE_DATA, &length)
    if value != NULL:
        register = register_load(reading.registers, fields, NFTA_IMMEDIATE_DREG, DATA, length)
        if register != NULL:
            memcpy(register.bits, value, length)
        return register != NULL
    if not field_be32(fields, NFTA_IMMEDIATE_DREG,
                      &code) or code != NFT_REG_VERDICT or fields.data[NFTA_IMMEDIATE_DATA] == NULL \
            or not fields_read(&data, fields.data[NFTA_IMMEDIATE_DATA], fields.length[NFTA_IMMEDIATE_DATA]) \
            or data.data[NFTA_DATA_VERDICT] == NULL \
            or not fields_read(&verdict, data.data[NFTA_DATA_VERDICT], data.length[NFTA_DATA_VERDICT]) \
            or not field_be32(&verdict, NFTA_VERDICT_CODE, &code):
        return False
    known = verdict_coded(<int32_t> code)
    if known != NULL:
        return _add_verdict(reading, known.name)
    if <int32_t> code != NFT_JUMP and <int32_t> code != NFT_GOTO or verdict.data[NFTA_VERDICT_CHAIN] == NULL:
        return False
    length = strnlen(verdict.data[NFTA_VERDICT_CHAIN], verdict.length[NFTA_VERDICT_CHAIN])
    if not 0 < length < XT_EXTENSION_MAXNAMELEN:
        return False
    memcpy(chain, verdict.data[NFTA_VERDICT_CHAIN], length)
    chain[length] = 0
    if is_verdict_name(chain):
        return False             # a chain with this name would be taken for a verdict
    if <int32_t> code == NFT_GOTO:
        _flags(reading.family, reading.entry)[0] |= reading.family.goto_flag
    return _add_verdict(reading, chain)


cdef void _put_trace(Writer *writer) noexcept nogil:
    """Write TRACE in expressions. As an extension the kernel accepts it only in table raw."""
    cdef Open open = expression_begin(writer, b"immediate")
    cdef uint8_t on = 1
    put_be32(writer, NFTA_IMMEDIATE_DREG, NFT_REG32_01)
    put_data(writer, NFTA_IMMEDIATE_DATA, &on, 1)
    expression_end(writer, open)
    open = expression_begin(writer, b"meta")
    put_be32(writer, NFTA_META_KEY, NFT_META_NFTRACE)
    put_be32(writer, NFTA_META_SREG, NFT_REG32_01)
    expression_end(writer, open)


cdef bint _read_meta_target(Reading *reading, const Fields *fields) noexcept nogil:
    """Read TRACE, or MARK that sets a whole mark."""
    cdef uint32_t key
    cdef Register *register = register_of(reading.registers, fields, NFTA_META_SREG)
    cdef xt_mark_tginfo2 *target
    if register == NULL or register.holding != DATA or not field_be32(fields, NFTA_META_KEY, &key):
        return False
    if key == NFT_META_NFTRACE:
        return register.bits[0] != 0 and add_target(reading, b"TRACE", 5, 0, 0) != NULL
    if key != NFT_META_MARK or register.length != 4:
        return False
    target = <xt_mark_tginfo2 *> add_target(reading, b"MARK", 4, 2, sizeof(xt_mark_tginfo2))
    if target == NULL:
        return False
    memcpy(&target.mark, register.bits, 4)
    memset(&target.mask, 0xff, 4)
    return True


cdef bint _put_log(Writer *writer, const xt_nflog_info *target, size_t room) noexcept nogil:
    """Write NFLOG. Its prefix may be longer than the extension's structure has room for. *room* is the size of its
    data."""
    cdef size_t length
    cdef char prefix[NFLOG_LONG_ROOM]
    cdef Open open
    cdef uint16_t number
    if room < sizeof(xt_nflog_info) or target.flags & ~XT_NFLOG_F_COPY_LEN:
        return False             # a length without its flag, as `--nflog-range` sets it, never had an effect
    length = strnlen(target.prefix, room - NFLOG_PREFIX)
    if length >= NFLOG_LONG_ROOM:
        return False
    memcpy(prefix, target.prefix, length)
    prefix[length] = 0
    open = expression_begin(writer, b"log")
    if length:
        put_text(writer, NFTA_LOG_PREFIX, prefix)
    number = htons(target.group)
    put(writer, NFTA_LOG_GROUP, &number, 2)
    if target.flags:
        put_be32(writer, NFTA_LOG_SNAPLEN, target.len)
    if target.threshold:
        number = htons(target.threshold)
        put(writer, NFTA_LOG_QTHRESHOLD, &number, 2)
    expression_end(writer, open)
    return True


cdef bint has_range(Family *family, const char *entry) noexcept nogil:
    """Whether the target of an entry is NFLOG with `--nflog-range`, which an expression cannot express."""
    cdef const xt_entry_match *target = <const xt_entry_match *> (entry + target_offset(family, entry))
    cdef const xt_nflog_info *info = <const xt_nflog_info *> target.data
    return _is_named(target, b"NFLOG", 0, sizeof(xt_nflog_info)) and info.len != 0 and info.flags == 0


cdef bint _read_log(Reading *reading, const Fields *fields) noexcept nogil:
    """Read NFLOG. A `log` expression without a group writes to the kernel's log, and is another target."""
    cdef uint16_t group, threshold = 0
    cdef uint32_t snaplen = 0
    cdef size_t length = 0
    cdef xt_nflog_info *target
    if not field_be16(fields, NFTA_LOG_GROUP, &group) or fields.data[NFTA_LOG_LEVEL] != NULL:
        return False
    field_be16(fields, NFTA_LOG_QTHRESHOLD, &threshold)
    if fields.data[NFTA_LOG_PREFIX] != NULL:
        length = strnlen(fields.data[NFTA_LOG_PREFIX], fields.length[NFTA_LOG_PREFIX])
        if length >= NFLOG_LONG_ROOM:
            return False
    target = <xt_nflog_info *> add_target(
        reading, b"NFLOG", 5, 0,
        sizeof(xt_nflog_info) if length < sizeof(target.prefix) else NFLOG_LONG_SIZE - PAYLOAD_HEADER)
    if target == NULL:
        return False
    target.group = group
    target.threshold = threshold
    if field_be32(fields, NFTA_LOG_SNAPLEN, &snaplen):
        target.len = snaplen
        target.flags = XT_NFLOG_F_COPY_LEN
    if length:
        memcpy(target.prefix, fields.data[NFTA_LOG_PREFIX], length)
    return True


# ------------------------------------------------ extensions as they are

cdef void _put_compat(Writer *writer, bint is_target, const xt_entry_match *payload) noexcept nogil:
    cdef Open open = expression_begin(writer, b"target" if is_target else b"match")
    cdef char name[XT_EXTENSION_MAXNAMELEN]
    cdef size_t length = strnlen(payload.u.user.name, XT_EXTENSION_MAXNAMELEN - 1)
    memcpy(name, payload.u.user.name, length)
    name[length] = 0
    put_text(writer, NFTA_TARGET_NAME if is_target else NFTA_MATCH_NAME, name)
    put_be32(writer, NFTA_TARGET_REV if is_target else NFTA_MATCH_REV, payload.u.user.revision)
    put(writer, NFTA_TARGET_INFO if is_target else NFTA_MATCH_INFO, payload.data, payload.u.match_size - PAYLOAD_HEADER)
    expression_end(writer, open)


cdef bint _read_compat(Reading *reading, bint is_target, const Fields *fields) noexcept nogil:
    cdef uint32_t revision
    cdef int name = NFTA_TARGET_NAME if is_target else NFTA_MATCH_NAME
    cdef int info = NFTA_TARGET_INFO if is_target else NFTA_MATCH_INFO
    cdef size_t length
    cdef char *room
    if not field_be32(fields, NFTA_TARGET_REV if is_target else NFTA_MATCH_REV, &revision) or revision > 0xff \
            or fields.data[name] == NULL or fields.data[info] == NULL:
        return False
    length = strnlen(fields.data[name], fields.length[name])
    if is_target:
        room = add_target(reading, fields.data[name], length, revision, fields.length[info])
    else:
        room = _add(reading, fields.data[name], length, revision, fields.length[info])
    if room == NULL:
        return False
    memcpy(room, fields.data[info], fields.length[info])
    return True


cdef void put_compat_protocol(Writer *writer, Family *family, const char *entry) noexcept nogil:
    """Write the protocol that the kernel gives to the extensions of the rule when it checks them."""
    cdef size_t start = nest(writer, NFTA_RULE_COMPAT)
    put_be32(writer, NFTA_RULE_COMPAT_PROTO, _protocol(family, entry)[0])
    put_be32(writer, NFTA_RULE_COMPAT_FLAGS, NFT_RULE_COMPAT_F_INV if _flags(family, entry)[1] & IPT_INV_PROTO else 0)
    nest_end(writer, start)


# -------------------------------------- expressions, one after the other

cdef void _put_match(Writer *writer, uint16_t protocol, const xt_entry_match *match, bint compat,
                     bint as_port) noexcept nogil:
    """Write a match in expressions, if there is an equivalent and *compat* is false, and otherwise unchanged.

    *as_port* false: write tcp and udp unchanged.
    """
    cdef bint is_tcp = _is_named(match, b"tcp", 0, sizeof(xt_tcp))
    cdef bint is_udp = _is_named(match, b"udp", 0, sizeof(xt_udp))
    cdef bint done = False
    if _is_named(match, b"limit", 0, sizeof(xt_rateinfo)):
        done = _put_limit(writer, <const xt_rateinfo *> match.data)      # all releases read it
    elif compat or not as_port and (is_tcp or is_udp):
        pass
    elif is_tcp:
        # a condition on ports without the protocol: written unchanged, so that the kernel refuses it
        done = protocol == IPPROTO_TCP and _put_tcp(writer, <const xt_tcp *> match.data)
    elif is_udp:
        done = protocol == IPPROTO_UDP and _put_udp(writer, <const xt_udp *> match.data)
    elif _is_named(match, b"mark", 1, sizeof(xt_mark_mtinfo1)):
        done = _put_mark(writer, <const xt_mark_mtinfo1 *> match.data)
    if not done:
        _put_compat(writer, False, match)


cdef int count_transports(Family *family, const char *entry) noexcept nogil:
    """Return the number of tcp and udp matches in an entry."""
    cdef Payloads at = payloads_of(family, entry)
    cdef const char *name
    cdef int count = 0
    while next_payload(&at):
        name = <const char *> at.payload.u.user.name
        count += not at.is_target and (strcmp(name, b"tcp") == 0 or strcmp(name, b"udp") == 0)
    return count


cdef void put_matches(Writer *writer, Family *family, const char *entry, bint compat) noexcept nogil:
    """Write all matches of an entry."""
    cdef Payloads at = payloads_of(family, entry)
    cdef bint as_port = count_transports(family, entry) <= TRANSPORTS_MOST
    while next_payload(&at):
        if not at.is_target:
            _put_match(writer, _protocol(family, entry)[0], at.payload, compat, as_port)


cdef void put_target(Writer *writer, Family *family, const char *entry, bint compat) noexcept nogil:
    """Write the target of an entry, if it has one."""
    cdef const xt_entry_match *target = <const xt_entry_match *> (entry + target_offset(family, entry))
    cdef bint is_goto = _flags(family, entry)[0] & family.goto_flag
    cdef const char *name = <const char *> target.u.user.name
    cdef const Verdict *verdict = verdict_named(name)
    cdef char chain[XT_EXTENSION_MAXNAMELEN]
    if not is_verdict(target):
        if strcmp(name, b"TRACE") == 0:
            _put_trace(writer)
        elif compat and not is_long_nflog(target) or not _is_named(target, b"NFLOG", 0, NFLOG_PREFIX) \
                or not _put_log(writer, <const xt_nflog_info *> target.data, target.u.match_size - PAYLOAD_HEADER):
            _put_compat(writer, True, target)
    elif verdict != NULL and verdict.code != VERDICT_NO_CODE:
        _put_verdict(writer, verdict.code, NULL)
    elif verdict != NULL:
        _put_compat(writer, True, target)        # nf_tables has no such verdict, so the kernel refuses this
    elif name[0]:
        memset(chain, 0, sizeof(chain))
        memcpy(chain, name, strnlen(name, sizeof(chain) - 1))
        _put_verdict(writer, NFT_GOTO if is_goto else NFT_JUMP, chain)


cdef bint _read_meta_cmp(Reading *reading, const Register *register, int relation, const unsigned char *data,
                         uint32_t length) noexcept nogil:
    cdef bint inverted = relation == NFT_CMP_NEQ
    if not inverted and relation != NFT_CMP_EQ:
        return False
    if register.masked and register.key != NFT_META_MARK:
        return False
    if register.key == NFT_META_IIFNAME or register.key == NFT_META_OIFNAME:
        return _read_interface(reading, register.key == NFT_META_OIFNAME, <const char *> data, length, inverted)
    if register.key == NFT_META_IIF or register.key == NFT_META_OIF:
        return _read_interface_index(reading, register.key == NFT_META_OIF, data, length, inverted)
    if register.key == NFT_META_L4PROTO:
        return length == 1 and _read_protocol(reading, data[0], inverted)
    if register.key == NFT_META_MARK:
        return length == 4 and _read_mark(reading, register, data, inverted)
    if register.key == NFT_META_PKTTYPE:
        return length == 1 and _read_pkttype(reading, data[0], inverted)
    return False


cdef bint _read_cmp(Reading *reading, const Fields *fields) noexcept nogil:
    cdef Register *register = register_of(reading.registers, fields, NFTA_CMP_SREG)
    cdef uint32_t relation, length
    cdef const unsigned char *data = field_data(fields, NFTA_CMP_DATA, &length)
    if register == NULL or data == NULL or not field_be32(fields, NFTA_CMP_OP, &relation):
        return False
    register.compared = True
    if register.holding == META:
        return _read_meta_cmp(reading, register, relation, data, length)
    if register.holding != PAYLOAD or register.length != length:
        return False
    if register.key == NFT_PAYLOAD_NETWORK_HEADER:
        return _read_network(reading, register, relation, data)
    if register.key == NFT_PAYLOAD_TRANSPORT_HEADER:
        return _read_transport(reading, register, relation, data)
    return False


cdef bint _read_expression(Reading *reading, const Attribute *name, const Fields *fields) noexcept nogil:
    if reading.target:
        return False             # an expression after the target
    if attribute_text(name, b"payload"):
        return load_payload(reading.registers, fields)
    if attribute_text(name, b"cmp"):
        return _read_cmp(reading, fields)
    if attribute_text(name, b"meta"):
        if fields.data[NFTA_META_SREG] != NULL:
            return _read_meta_target(reading, fields)
        return load_meta(reading.registers, fields)
    if attribute_text(name, b"match") or attribute_text(name, b"target"):
        return _read_compat(reading, attribute_text(name, b"target"), fields)
    if attribute_text(name, b"immediate"):
        return _read_immediate(reading, fields)
    if attribute_text(name, b"bitwise"):
        return load_masked(reading.registers, fields)
    if attribute_text(name, b"range"):
        return _read_range(reading, fields)
    if attribute_text(name, b"limit"):
        return _read_limit(reading, fields)
    return attribute_text(name, b"log") and _read_log(reading, fields)


cdef void reading_begin(Reading *reading, Family *family, char *room) noexcept nogil:
    """Prepare to read a rule into an entry at *room*."""
    memset(reading, 0, sizeof(reading[0]))
    memset(room, 0, family.header)
    reading.family = family
    reading.entry = room
    reading.length = family.header
    reading.names_from = -1


cdef bint read_expressions(Reading *reading, const char *data, size_t length) noexcept nogil:
    """Read the expressions of a rule into its entry, with the first counter. Return False if it is no rule of
    iptables."""
    cdef Attribute cursor, name
    cdef Fields fields
    cdef bint readable = True
    cdef int i
    attribute_scan(&cursor, data, length)
    while expression_next(&cursor, &name, &fields):
        if not attribute_text(&name, b"counter"):
            readable = readable and _read_expression(reading, &name, &fields)
        elif not reading.counted:
            field_be64(&fields, NFTA_COUNTER_PACKETS, &reading.packets)
            field_be64(&fields, NFTA_COUNTER_BYTES, &reading.size)
            reading.counted = True
    if not readable:
        return False
    for i in range(REGISTERS):
        if not register_settled(&reading.registers[i]):
            return False
    return reading.target != 0 or _add_verdict(reading, b"")
