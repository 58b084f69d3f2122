# cython: freethreading_compatible=False
"""A rule as a value that owns its bytes.

The same code serves IPv4 and IPv6. A `Family` row holds what differs: the size of the header, where its fields are, the
socket options.
"""

import os
import sys

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from cpython.number cimport PyNumber_Index
from cpython.object cimport PyObject, PyObject_GenericSetAttr
from cpython.unicode cimport PyUnicode_AsUTF8String, PyUnicode_FromObject
from libc.string cimport memcmp, memcpy, memset, strchr, strcmp, strlen, strspn

from ._linux cimport (
    AF_INET, AF_INET6, IFNAMSIZ, IPPROTO_IP, IPPROTO_IPV6, SOL_SOCKET, SO_NETNS_COOKIE, getsockopt, in6_addr,
    in_addr, inet_ntop, inet_pton, socklen_t, strnlen,
)
from ._verdicts cimport VERDICT_COUNT, verdict_named, verdict_table
from .errors import ParameterError, ParameterTypeError
from .protocols import PROTOCOL_NAMES as _NAMES, PROTOCOL_NUMBERS as _NUMBERS

# ---------------------------------------------------------- the family table

cdef Family _ipv4, _ipv6

_ipv4.nfproto = NFPROTO_IPV4
_ipv4.level = IPPROTO_IP
_ipv4.so_get_info = IPT_SO_GET_INFO
_ipv4.so_get_entries = IPT_SO_GET_ENTRIES
_ipv4.so_set_replace = IPT_SO_SET_REPLACE
_ipv4.so_set_add_counters = IPT_SO_SET_ADD_COUNTERS
_ipv4.header = sizeof(ipt_entry)
_ipv4.offsets = <size_t> &(<ipt_entry *> NULL).target_offset
_ipv4.counters = <size_t> &(<ipt_entry *> NULL).counters
_ipv4.address = sizeof(in_addr)
_ipv4.proto = <size_t> &(<ipt_entry *> NULL).ip.proto
_ipv4.flags = <size_t> &(<ipt_entry *> NULL).ip.flags
_ipv4.goto_flag = IPT_F_GOTO

_ipv6.nfproto = NFPROTO_IPV6
_ipv6.level = IPPROTO_IPV6
_ipv6.so_get_info = IP6T_SO_GET_INFO
_ipv6.so_get_entries = IP6T_SO_GET_ENTRIES
_ipv6.so_set_replace = IP6T_SO_SET_REPLACE
_ipv6.so_set_add_counters = IP6T_SO_SET_ADD_COUNTERS
_ipv6.header = sizeof(ip6t_entry)
_ipv6.offsets = <size_t> &(<ip6t_entry *> NULL).target_offset
_ipv6.counters = <size_t> &(<ip6t_entry *> NULL).counters
_ipv6.address = sizeof(in6_addr)
_ipv6.proto = <size_t> &(<ip6t_entry *> NULL).ipv6.proto
_ipv6.flags = <size_t> &(<ip6t_entry *> NULL).ipv6.flags
_ipv6.goto_flag = IP6T_F_GOTO

# The builtin chains, in the order of the numbers of their hooks.
HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


cdef dict _numbers_of_verdicts():
    cdef dict numbers = {}
    cdef size_t i
    for i in range(VERDICT_COUNT):
        numbers[verdict_table[i].name.decode()] = verdict_table[i].number
    return numbers


# verdict -> its number in a target of a legacy table.
VERDICT_NUMBERS = _numbers_of_verdicts()
# The names of targets that are neither extensions nor chains. "" means no target.
VERDICTS = frozenset(VERDICT_NUMBERS) | {""}
IPV4 = NFPROTO_IPV4
IPV6 = NFPROTO_IPV6

cdef Family *family_of(int nfproto) except NULL:
    """Return the row of *nfproto*, which is `IPV4` or `IPV6`."""
    if nfproto == NFPROTO_IPV4:
        return &_ipv4
    if nfproto == NFPROTO_IPV6:
        return &_ipv6
    raise ParameterError(f"unknown address family {nfproto}")


cdef extern from *:
    """
    /* The text of a plain str as UTF-8, or NULL: for another type, a surrogate, or a NUL byte. The string keeps it as
     * long as it lives. One of ASCII is its own text, so nothing is copied. */
    static const char *plain_text(PyObject *value, Py_ssize_t *length)
    {
        const char *text;

        if (!PyUnicode_CheckExact(value))
            return NULL;
        text = PyUnicode_AsUTF8AndSize(value, length);
        if (text == NULL)
            PyErr_Clear();
        else if (strlen(text) != (size_t)*length)
            return NULL;
        return text;
    }
    """
    const char *plain_text(PyObject *value, Py_ssize_t *length)


cdef bytes c_text(value, str what):
    """Return *value* as UTF-8 without a NUL byte, or raise `ParameterError`. *what* names the value in the message."""
    cdef Py_ssize_t length
    cdef const char *plain = plain_text(<PyObject *> value, &length)
    if plain != NULL:
        return PyBytes_FromStringAndSize(plain, length)
    if not isinstance(value, str):
        raise ParameterTypeError(f"{what} must be a string, not {type(value).__name__}")
    # of a subclass of str only the characters are taken
    cdef bytes text = os_encode(PyUnicode_FromObject(value))
    if strlen(PyBytes_AS_STRING(text)) != <size_t> PyBytes_GET_SIZE(text):
        raise ParameterError(f"{what} must not contain a NUL byte: {value!r}")
    return text


cdef bytes os_encode(str text):
    """Return *text* as UTF-8. Bytes that were not UTF-8 when they were read (surrogates) become the same bytes
    again."""
    try:
        return PyUnicode_AsUTF8String(text)
    except UnicodeEncodeError:
        pass
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ParameterError(f"not encodable as UTF-8: {text!r}") from error


cdef str os_decode(bytes text):
    return text.decode("utf-8", "surrogateescape")


def text_bytes(value, str what):
    """Return *value* as UTF-8, or raise. *what* names the value in the message."""
    return c_text(value, what)


cdef extern from "Python.h":
    int PyGC_Disable()
    int PyGC_Enable()

cdef extern from "<sys/auxv.h>" nogil:
    enum:
        AT_SECURE
    unsigned long getauxval(unsigned long kind)


def environment(str name not None):
    """Return the environment variable *name*, or None.

    It is ignored if the process has more rights than its user, by set-user-ID or file capabilities (`AT_SECURE`).
    """
    return None if getauxval(AT_SECURE) else os.environ.get(name)


def chain_label(name):
    """Return the name of a chain as bytes. Raises `ParameterError` if iptables refuses such a name."""
    cdef bytes text = c_text(name, "a chain name")
    if not text:
        raise ParameterError("chain name must not be empty")
    if PyBytes_GET_SIZE(text) >= XT_EXTENSION_MAXNAMELEN:
        raise ParameterError(f"chain name `{name}' too long (must be under {XT_EXTENSION_MAXNAMELEN} chars)")
    return text

# ------------------------------------------------------------------ the counters


cdef extern from *:
    """
    /* Make a tuple of a subtype as tuple.__new__ does, but without making a plain tuple first: each rule has one. */
    static PyObject *tuple_of_two(PyObject *type, PyObject *first, PyObject *second)
    {
        PyObject *made = ((allocfunc)PyType_GetSlot((PyTypeObject *)type, Py_tp_alloc))((PyTypeObject *)type, 2);

        if (made != NULL) {
            PyTuple_SET_ITEM(made, 0, Py_NewRef(first));
            PyTuple_SET_ITEM(made, 1, Py_NewRef(second));
        }
        return made;
    }
    """
    object tuple_of_two(object type, object first, object second)


class Counters(tuple):
    """(packets, bytes): a named tuple that is equal to the plain tuple, and prints like it."""

    __slots__ = ()
    _fields = __match_args__ = ("packets", "bytes")

    def __new__(_cls, packets, bytes):
        return tuple.__new__(_cls, (packets, bytes))

    @classmethod
    def _make(cls, iterable):
        return cls(*iterable)

    def _asdict(self):
        return {"packets": self[0], "bytes": self[1]}

    def _replace(self, **changes):
        return type(self)(**{**self._asdict(), **changes})

    if sys.version_info >= (3, 13):
        __replace__ = _replace    # called by copy.replace

    def __getnewargs__(self):
        return tuple(self)

    @property
    def packets(self):
        """How many packets."""
        return (<tuple> self)[0]

    @property
    def bytes(self):
        """How many bytes they had."""
        return (<tuple> self)[1]


cdef object _counters_type = Counters


# ------------------------------------------------------------------ the rule


cdef uint64_t netns_cookie(int fd) noexcept nogil:
    """Return the kernel's number of the network namespace of a socket (SO_NETNS_COOKIE), or 0 before Linux 5.14."""
    cdef uint64_t cookie = 0
    cdef socklen_t length = sizeof(cookie)
    return cookie if getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) == 0 else 0


cdef bint is_prefix(const unsigned char *mask, size_t length, int *bits) noexcept nogil:
    """Whether the one bits of *mask* come first, and no others after them. Store how many they are in *bits*."""
    cdef size_t i = 0
    cdef unsigned char rest
    while i < length and mask[i] == 0xff:
        i += 1
    bits[0] = 8 * i
    if i == length:
        return True
    rest = mask[i]
    while rest & 0x80:
        rest = rest << 1 & 0xff
        bits[0] += 1
    if rest:
        return False
    for i in range(i + 1, length):
        if mask[i]:
            return False
    return True


cdef void _set_prefix(unsigned char *mask, size_t length, int bits) noexcept nogil:
    memset(mask, 0, length)
    memset(mask, 0xff, bits // 8)
    if bits % 8:
        mask[bits // 8] = 0xff << (8 - bits % 8) & 0xff


cdef inline const char *_after_negation(const char *text, bint *negated) noexcept nogil:
    """Return *text* without a leading `!` and the spaces after it. Store in *negated* whether there was one."""
    negated[0] = text[0] == b'!'
    if negated[0]:
        text += 1
        while text[0] == b' ':
            text += 1
    return text


cdef class Base:
    """The base part of one rule."""


cdef Header _nothing         # the base part of an empty rule
cdef dict _protocol_names = _NAMES
cdef dict _protocol_numbers = _NUMBERS


cdef tuple _ATTRIBUTES = (
    "protocol", "src", "dst", "in_interface", "out_interface", "target", "counters", "fragment", "chain",
    "_matches", "_target", "_networks",
)
# The same names as pointers. Names of attributes are interned strings, so comparing pointers is enough.
cdef PyObject *_attributes[12]
for _place, _name in enumerate(_ATTRIBUTES):
    _attributes[_place] = <PyObject *> _name


cdef inline bint _is_attribute(PyObject *name) noexcept:
    cdef size_t i
    for i in range(12):
        if _attributes[i] == name:
            return True
    return False


cdef class RuleValue:
    # inspect.signature() finds the signature in this form only, for subclasses too
    """RuleValue(entry=None, chain=None)\n--\n\nThe base part of one rule, and the bytes of its matches and target."""

    _nfproto = NFPROTO_IPV4

    def __cinit__(self):
        self.family = &_ipv4

    def __init__(self, entry=None, chain=None):
        if entry is not None:
            self._load(self._nfproto, entry if type(entry) is bytes else bytes(memoryview(entry)))
        else:
            self._become_empty(self._nfproto)
        self.chain = chain

    def __setattr__(self, name, value):
        if not _is_attribute(<PyObject *> name):
            from .misnomers import check_rule
            check_rule(self, name)
        PyObject_GenericSetAttr(self, name, value)

    # Most of the rules that are read are never changed. They keep no base part of their own, but read the bytes of the
    # entry.

    cdef int _own(self) except -1:
        """Make a base part of its own for this rule, if it has none yet."""
        cdef Base base
        if self._base is None:
            base = Base.__new__(Base)
            base.family = self.family
            memcpy(&base.raw, self._seen(), self.family.header)
            self._base = base
        return 0

    cdef char *_head(self) except NULL:
        """Return the base part for writing."""
        self._own()
        return <char *> &self._base.raw

    cdef const char *_seen(self) noexcept:
        """Return the base part for reading."""
        if self._base is not None:
            return <const char *> &self._base.raw
        if self.entry is not None:
            return PyBytes_AS_STRING(self.entry)
        return <const char *> &_nothing

    cdef const uint8_t *_flags(self) noexcept:
        return <const uint8_t *> (self._seen() + self.family.flags)

    cdef const unsigned char *_address(self, int which) noexcept:
        """Return an address or a mask: *which* is 0 for src, 1 for dst, 2 for smsk, 3 for dmsk."""
        return <const unsigned char *> self._seen() + which * self.family.address

    cdef const char *_interface(self, int which) noexcept:
        """Return an interface or a mask: *which* is 0 for iniface, 1 for outiface, 2 and 3 for their masks."""
        return self._seen() + 4 * self.family.address + which * IFNAMSIZ

    cdef int _become_empty(self, int nfproto) except -1:
        """Make this an empty rule of *nfproto*."""
        self.family = family_of(nfproto)
        self._base = None
        self.entry = None
        self._matches = []
        self._target = None
        return 0

    def _load(self, int nfproto, bytes entry):
        """Take the base part and the body of *entry*: `struct ipt_entry` or `ip6t_entry`, with the target by its
        name."""
        cdef Family *family = family_of(nfproto)
        check_entry(family, entry)
        self._take_entry(family, entry)

    cdef int _load_entry(self, Family *family, const char *entry) except -1:
        """Do as `_load`, for an entry whose sizes were checked."""
        self._take_entry(family, PyBytes_FromStringAndSize(entry, next_offset(family, entry)))
        return 0

    cdef void _take_entry(self, Family *family, bytes entry) noexcept:
        self.family = family
        self._base = None
        self.entry = entry
        self._matches = None
        self._target = None
        self._networks = None

    def _load_header(self, int nfproto, bytes header):
        """Take only the base part *header*, as `_header_bytes` returns it."""
        self._become_empty(nfproto)
        if PyBytes_GET_SIZE(header) != <Py_ssize_t> self.family.header:
            raise ParameterError("not the base part of a rule of this family")
        memcpy(self._head(), PyBytes_AS_STRING(header), self.family.header)

    def _header_bytes(self):
        """Return the base part as `struct ipt_entry` or `ip6t_entry`, with the counters."""
        return PyBytes_FromStringAndSize(self._seen(), self.family.header)

    cpdef list _body_payloads(self):
        """Return the matches, and the target as the last one, as they were read: a list of bytes, [] for an empty
        rule."""
        cdef list payloads = []
        cdef bytes entry = self.entry
        cdef Payloads at
        if entry is None:
            return payloads
        at = payloads_of(self.family, PyBytes_AS_STRING(entry))
        while next_payload(&at):
            payloads.append(PyBytes_FromStringAndSize(<const char *> at.payload, at.size))
        return payloads

    cpdef bytes _assemble(self, list payloads):
        """Return the whole entry as bytes: this base part and then *payloads*, which are the matches and the target."""
        cdef Py_ssize_t size = self.family.header
        cdef Py_ssize_t target_at = size
        cdef bytes payload
        for payload in payloads:
            target_at = size
            size += PyBytes_GET_SIZE(payload)
        cdef bytes entry = self._begin_entry(size, target_at)
        cdef char *raw = PyBytes_AS_STRING(entry) + self.family.header
        for payload in payloads:
            memcpy(raw, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
            raw += PyBytes_GET_SIZE(payload)
        return entry

    cdef bytes _begin_entry(self, Py_ssize_t size, Py_ssize_t target_at):
        """Return an entry of *size* bytes that has this base part. The matches and the target are not written yet."""
        if size > 0xffff:
            raise ParameterError("the rule is longer than 65535 bytes")
        cdef bytes entry = PyBytes_FromStringAndSize(NULL, size)
        cdef char *raw = PyBytes_AS_STRING(entry)
        memcpy(raw, self._seen(), self.family.header)
        (<uint16_t *> (raw + self.family.offsets))[0] = target_at
        (<uint16_t *> (raw + self.family.offsets))[1] = size
        # nfcache and comefrom are for the kernel only
        memset(raw + self.family.offsets - 4, 0, 4)
        memset(raw + self.family.offsets + 4, 0, 4)
        return entry

    @property
    def nfproto(self):
        """`NFPROTO_IPV4` (2) or `NFPROTO_IPV6` (10)."""
        return self.family.nfproto

    # addresses

    cdef str _get_address(self, int which, int inverted):
        cdef char text[64]
        cdef char mask[64]
        cdef int bits
        cdef bint v4 = self.family.nfproto == NFPROTO_IPV4
        cdef str sign = "!" if self._flags()[1] & inverted else ""
        inet_ntop(AF_INET if v4 else AF_INET6, self._address(which), text, sizeof(text))
        if not v4 and is_prefix(self._address(which + 2), 16, &bits):
            return f"{sign}{text.decode()}/{bits}"
        inet_ntop(AF_INET if v4 else AF_INET6, self._address(which + 2), mask, sizeof(mask))
        return f"{sign}{text.decode()}/{mask.decode()}"

    cdef int _set_address(self, int which, int inverted, value) except -1:
        cdef bytes given
        cdef char address[64]
        cdef Py_ssize_t whole
        cdef const char *text = plain_text(<PyObject *> value, &whole)
        cdef const char *slash
        cdef unsigned char parsed[16]
        cdef unsigned char bits[16]
        cdef size_t length = self.family.address, i, digits
        cdef int domain = AF_INET if self.family.nfproto == NFPROTO_IPV4 else AF_INET6
        cdef bint negated
        cdef unsigned long prefix = 0
        if text == NULL:
            text = given = c_text(value, "an address")
        text = _after_negation(text, &negated)
        slash = strchr(text, b'/')
        i = strlen(text) if slash == NULL else slash - text
        if i >= sizeof(address):
            raise ParameterError(f"invalid address {os_decode(text[:i])}")
        memcpy(address, text, i)
        address[i] = 0
        if inet_pton(domain, address, parsed) != 1:
            raise ParameterError(f"invalid address {os_decode(text[:i])}")
        if slash == NULL:
            _set_prefix(bits, length, length * 8)
        else:
            slash += 1
            digits = strspn(slash, b"0123456789")
            if digits and slash[digits] == 0:
                for i in range(digits):
                    if prefix < 1000:
                        prefix = prefix * 10 + <unsigned long> (slash[i] - <char> b'0')
                if prefix > length * 8:
                    what = "netmask" if domain == AF_INET else "prefix length"
                    raise ParameterError(f"invalid {what} {os_decode(slash)}")
                _set_prefix(bits, length, prefix)
            elif inet_pton(domain, slash, bits) != 1:
                raise ParameterError(f"invalid netmask {os_decode(slash)}")
        if domain == AF_INET:
            # for IPv6 the host bits stay: programs read back what they wrote, and the kernel masks both sides
            for i in range(length):
                parsed[i] &= bits[i]
        cdef char *head = self._head()
        memcpy(head + which * length, parsed, length)
        memcpy(head + (which + 2) * length, bits, length)
        self._invert(inverted, negated)
        self._networks = None
        return 0

    cdef int _invert(self, int flag, bint negated) except -1:
        cdef uint8_t *flags = <uint8_t *> self._head() + self.family.flags
        if negated:
            flags[1] |= flag
        else:
            flags[1] &= ~flag
        return 0

    def _address_is_any(self, int which):
        """Whether the rule has no condition on src (0) or dst (1): address and mask are zero, and it is not negated."""
        cdef size_t i
        if self._flags()[1] & (IPT_INV_DSTIP if which else IPT_INV_SRCIP):
            return False
        for i in range(self.family.address):
            if self._address(which)[i] or self._address(which + 2)[i]:
                return False
        return True

    def _address_prefix(self, int which):
        """Return the prefix length of the mask of src (0) or dst (1), or None if the mask has holes."""
        cdef int bits
        if is_prefix(self._address(which + 2), self.family.address, &bits):
            return bits
        return None

    def _set_network(self, int which, bytes address not None, bytes mask not None):
        """Set src (0) or dst (1) to *address* and *mask*, as bytes in network order."""
        cdef size_t length = self.family.address
        if <size_t> PyBytes_GET_SIZE(address) != length or <size_t> PyBytes_GET_SIZE(mask) != length:
            raise ParameterError("not an address of this family")
        cdef char *head = self._head()
        memcpy(head + which * length, PyBytes_AS_STRING(address), length)
        memcpy(head + (which + 2) * length, PyBytes_AS_STRING(mask), length)
        self._networks = None

    @property
    def src(self):
        """The source address: `address/mask` for IPv4, `address/prefix` for IPv6 (`-s`). A leading `!` negates."""
        return self._get_address(0, IPT_INV_SRCIP)

    @src.setter
    def src(self, value):
        self._set_address(0, IPT_INV_SRCIP, value)

    @property
    def dst(self):
        """The destination address, in the form of `src` (`-d`)."""
        return self._get_address(1, IPT_INV_DSTIP)

    @dst.setter
    def dst(self, value):
        self._set_address(1, IPT_INV_DSTIP, value)

    # interfaces

    cdef _get_interface(self, int which, int inverted):
        cdef const char *name = self._interface(which)
        cdef const unsigned char *mask = <const unsigned char *> self._interface(which + 2)
        cdef size_t length = 0, masked = 0
        cdef str sign = "!" if self._flags()[1] & inverted else ""
        while length < IFNAMSIZ and name[length]:
            length += 1
        while masked < IFNAMSIZ and mask[masked]:
            masked += 1
        if masked == 0:
            return "!+" if sign else None
        text = os_decode(name[:length if masked > length else masked])
        return f"{sign}{text}{'' if masked > length else '+'}"

    cdef int _set_interface(self, int which, int inverted, value) except -1:
        cdef bytes given
        cdef bint negated
        cdef Py_ssize_t whole
        cdef const char *text = plain_text(<PyObject *> value, &whole)
        if text == NULL:
            text = given = b"" if value is None else c_text(value, "an interface name")
        text = _after_negation(text, &negated)
        cdef size_t length = strlen(text)
        if not length and value is not None:
            raise ParameterError("Empty interface is likely to be undesired")
        if length >= IFNAMSIZ:
            raise ParameterError(f"interface name {os_decode(text)} too long")
        cdef char *name = self._head() + 4 * self.family.address + which * IFNAMSIZ
        cdef char *mask = name + 2 * IFNAMSIZ
        memset(name, 0, IFNAMSIZ)
        memset(mask, 0, IFNAMSIZ)
        memcpy(name, text, length)
        if length:
            # a name that ends in + is compared without the +, any other name with its NUL
            memset(mask, 0xff, length - 1 if text[length - 1] == b'+' else length + 1)
        self._invert(inverted, negated)
        return 0

    @property
    def in_interface(self):
        """The input interface (`-i`), or None for any. A trailing `+` is a wildcard, a leading `!` negates."""
        return self._get_interface(0, IPT_INV_VIA_IN)

    @in_interface.setter
    def in_interface(self, value):
        self._set_interface(0, IPT_INV_VIA_IN, value)

    @property
    def out_interface(self):
        """The output interface (`-o`), in the form of `in_interface`."""
        return self._get_interface(1, IPT_INV_VIA_OUT)

    @out_interface.setter
    def out_interface(self, value):
        self._set_interface(1, IPT_INV_VIA_OUT, value)

    # protocol and flags

    def _get_proto(self):
        """Return (protocol number, whether it is negated)."""
        return (<const uint16_t *> (self._seen() + self.family.proto))[0], bool(self._flags()[1] & IPT_INV_PROTO)

    cpdef int _set_proto(self, int number, bint negated) except -1:
        """Set the protocol to *number*, which is from 0 to 255."""
        (<uint16_t *> (self._head() + self.family.proto))[0] = number
        self._invert(IPT_INV_PROTO, negated)
        if self.family.nfproto == NFPROTO_IPV6:
            # the kernel compares the protocol only if this flag is set
            self._flag(IP6T_F_PROTO, number or negated)
        return 0

    @property
    def protocol(self):
        """The protocol by its name in lower case, or by its number if it has no common name. A leading `!` negates."""
        number, negated = self._get_proto()
        return ("!" if negated else "") + (_protocol_names.get(number) or str(number))

    @protocol.setter
    def protocol(self, value):
        number = _protocol_numbers.get(value) if type(value) is str else None
        if number is not None:
            self._set_proto(number, False)
        else:
            self._set_proto(*self._read_protocol(value))    # a method of `Rule`

    def _get_fragment(self):
        """Return (whether `-f` is given, whether it is negated). IPv4 only."""
        return bool(self._flags()[0] & IPT_F_FRAG), bool(self._flags()[1] & IPT_INV_FRAG)

    def _set_fragment(self, bint given, bint negated):
        self._flag(IPT_F_FRAG, given)
        self._invert(IPT_INV_FRAG, negated)

    cpdef int _set_goto(self, bint given) except -1:
        if self._flags()[0] & self.family.goto_flag != (self.family.goto_flag if given else 0):
            self._flag(self.family.goto_flag, given)
        return 0

    cdef int _flag(self, int flag, bint given) except -1:
        cdef uint8_t *flags = <uint8_t *> self._head() + self.family.flags
        if given:
            flags[0] |= flag
        else:
            flags[0] &= ~flag
        return 0

    # counters

    def get_counters(self):
        """Return the `Counters` of the rule, as they were when it was read or last set."""
        cdef const xt_counters *counters = <const xt_counters *> (self._seen() + self.family.counters)
        return tuple_of_two(_counters_type, counters.pcnt, counters.bcnt)

    def set_counters(self, counters):
        """Set the counters, (packets, bytes), with which the rule is written."""
        cdef uint64_t packets, size
        try:
            first, second = counters
            packets, size = PyNumber_Index(first), PyNumber_Index(second)
        except (TypeError, ValueError, OverflowError) as error:
            what = f"counters must be a pair of integers from 0 to 2**64-1, not {counters!r}"
            raise ParameterTypeError(what) from error
        cdef xt_counters *slot = <xt_counters *> (self._head() + self.family.counters)
        slot.pcnt = packets
        slot.bcnt = size

    counters = property(get_counters, set_counters)


cdef extern from *:
    """
    static inline void _fetch(const char *object)
    {
        int line;

        for (line = 0; line < 6; line++)
            __builtin_prefetch(object + 64 * line);
    }
    """
    void _fetch(const char *object) noexcept nogil

cdef enum:
    _AHEAD = 8                       # rules that are fetched while earlier ones are made
    _KEEP_EVERY = 2000               # rules between two objects that are kept: an arena of Python has room for more


def load_rules(type cls, int nfproto, list entries, chain, list kept=None):
    """Return a list with an object of class *cls* (a `RuleValue`) for each of *entries*. Matches are not decoded
    yet.

    Python returns memory to the system when the rules are freed, and a later call would get it anew, page by page,
    which takes longer than all else. So *kept*, a list of the caller or None, gets a few objects that lie between the
    rules: as long as they live, that memory stays Python's.
    """
    cdef list rules = []
    cdef RuleValue rule
    cdef bytes entry
    # the garbage collector tracks each of these objects. While many are created it would look through all of them again
    # and again, so it is off meanwhile
    cdef bint collecting = PyGC_Disable()
    cdef Py_ssize_t i, count = len(entries)
    try:
        for i in range(count):
            # the entries of a long chain do not fit into the processor's cache: ask for those that come next
            if i + _AHEAD < count:
                _fetch(<const char *> <PyObject *> entries[i + _AHEAD])
            entry = entries[i]
            rule = <RuleValue?> made_of(cls)
            rule._load(nfproto, entry)
            rule.chain = chain
            rules.append(rule)
            if kept is not None and i >= _KEEP_EVERY * (PyList_GET_SIZE(kept) + 1):
                kept.append(made_of(cls))
    finally:
        if collecting:
            PyGC_Enable()
    return rules


cdef bint is_entry(Family *family, const char *entry, size_t size) noexcept nogil:
    """Whether *size* bytes at *entry* are an entry of *family*, and its sizes add up."""
    return size >= family.header + PAYLOAD_HEADER and next_offset(family, entry) == size and payloads_ok(family, entry)


cdef int check_entry(Family *family, bytes entry) except -1:
    """Raise `ParameterError` unless *entry* is an entry of *family*, and its sizes add up."""
    if not is_entry(family, PyBytes_AS_STRING(entry), PyBytes_GET_SIZE(entry)):
        raise ParameterError("not an entry of this family: its sizes do not add up")
    return 0


cdef bint payloads_ok(Family *family, const char *entry) noexcept nogil:
    """Whether the matches end where the target begins, and the target ends where the entry ends."""
    cdef Payloads at = payloads_of(family, entry)
    while next_payload(&at):
        pass
    return not at.broken


def split_entry(int nfproto, bytes entry):
    """Return (base part without counters and without the kernel's own fields, [payload, ...]) of an entry, as bytes."""
    cdef Family *family = family_of(nfproto)
    cdef const char *raw = PyBytes_AS_STRING(entry)
    cdef Payloads at
    cdef list payloads = []
    check_entry(family, entry)
    at = payloads_of(family, raw)
    while next_payload(&at):
        payloads.append(PyBytes_FromStringAndSize(<const char *> at.payload, at.size))
    return entry[:family.offsets - 4], payloads


def payload_name(bytes payload not None):
    """Return the name of a match or target, which is a payload of `split_entry`, as bytes."""
    return payload[2:31].partition(b"\0")[0]


# A target that is a verdict or a jump has a number in the kernel, and its name here: the number is filled in when the
# rule is sent. Until then this mark stands in the place of the number. It tells such a target from an extension whose
# payload has the same size.
cdef const char *_MARK = b"\xffverdict"


cdef bint is_verdict(const xt_entry_match *payload) noexcept nogil:
    """Whether the payload of a target is a verdict, a jump, or no target."""
    return (payload.u.match_size == STANDARD_SIZE and payload.u.user.revision == 0
            and (memcmp(payload.data, _MARK, 8) == 0 or is_verdict_name(payload.u.user.name)))


cdef bint is_long_nflog(const xt_entry_match *payload) noexcept nogil:
    """Whether the payload of a target is NFLOG with a prefix of 128 bytes, which only nf_tables can store."""
    return (payload.u.match_size == NFLOG_LONG_SIZE and payload.u.user.revision == 0
            and strcmp(payload.u.user.name, b"NFLOG") == 0)


cdef bint is_verdict_name(const char *name) noexcept nogil:
    return name[0] == 0 or verdict_named(name) != NULL


def standard_target(name):
    """Return the payload of a target that is a verdict, or a jump to chain *name*, by its name. "" means no target."""
    cdef bytes text = c_text(name, "a target name")
    if PyBytes_GET_SIZE(text) >= XT_EXTENSION_MAXNAMELEN:
        raise ParameterError(f"Invalid target name `{name}' ({XT_EXTENSION_MAXNAMELEN - 1} chars max)")
    cdef bytes payload = PyBytes_FromStringAndSize(NULL, STANDARD_SIZE)
    cdef char *raw = PyBytes_AS_STRING(payload)
    memset(raw, 0, STANDARD_SIZE)
    (<uint16_t *> raw)[0] = STANDARD_SIZE
    mark_verdict(raw, text)
    return payload


cdef void mark_verdict(char *target, const char *name) noexcept nogil:
    """Make the `STANDARD_SIZE` bytes at *target* the verdict or jump *name*, of which at most 28 bytes are taken."""
    cdef size_t length = strlen(name)
    memset(target + 2, 0, STANDARD_SIZE - 2)
    memcpy(target + 2, name, length if length < XT_EXTENSION_MAXNAMELEN else XT_EXTENSION_MAXNAMELEN - 1)
    memcpy(target + PAYLOAD_HEADER, _MARK, 8)


cdef bint marks_any_protocol(Family *family, const char *header) noexcept nogil:
    """Whether a base part has the flag that `ip6tables -p all` sets. It has no effect."""
    return (family.nfproto != NFPROTO_IPV4 and header[family.flags] & IP6T_F_PROTO
            and not header[family.flags + 1] & IPT_INV_PROTO and (<const uint16_t *> (header + family.proto))[0] == 0)


def without_counters(int nfproto, list entries):
    """Return *entries* with packet and byte counters set to zero."""
    cdef size_t start = family_of(nfproto).counters
    cdef list plain = []
    for entry in entries:
        plain.append(entry[:start] + bytes(16) + entry[start + 16:])
    return plain


def counters_of(int nfproto, bytes entry not None):
    """Return (packets, bytes) of *entry*."""
    cdef Family *family = family_of(nfproto)
    check_entry(family, entry)
    cdef const xt_counters *counters = <const xt_counters *> (PyBytes_AS_STRING(entry) + family.counters)
    return counters.pcnt, counters.bcnt


def retarget(int nfproto, bytes entry, str old, str new):
    """Return *entry* with its jump to chain *old* replaced by one to chain *new*, or None if it does not jump to
    *old*."""
    cdef bytes target = split_entry(nfproto, entry)[1][-1]
    if target != standard_target(old):
        return None
    return entry[:-len(target)] + standard_target(new)


def jump_of(int nfproto, bytes entry not None):
    """Return the name of the chain that *entry* jumps to, as bytes; b"" for a verdict, an extension or no target."""
    cdef Family *family = family_of(nfproto)
    cdef size_t target_at = target_offset(family, PyBytes_AS_STRING(entry))
    cdef const char *target = PyBytes_AS_STRING(entry) + target_at
    if (target_at + PAYLOAD_HEADER > <size_t> PyBytes_GET_SIZE(entry) or not is_verdict(<const xt_entry_match *> target)
            or is_verdict_name(target + 2)):
        return b""
    return target[2:2 + strnlen(target + 2, 29)]
