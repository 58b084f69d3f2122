# cython: freethreading_compatible=False
"""libxtables: the plugins of both families in one process, option parsing, and rendering.

libxtables and its plugins keep state in globals (the family, getopt's variables, stdout). The GIL is the lock that
guards it: no function here releases it around a plugin's code. What it cannot guard is another C user of
libxtables in the same process.
"""

import os
import warnings

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject_GenericSetAttr
from cpython.weakref cimport PyWeakref_NewRef
from libc.stdio cimport printf, putchar
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strcmp, strlen

from ._core cimport (
    AF_INET, AF_INET6, IP6T_F_PROTO, IPT_F_FRAG, IPT_INV_DSTIP, IPT_INV_FRAG, IPT_INV_PROTO, IPT_INV_SRCIP, IPT_INV_VIA_IN,
    IPT_INV_VIA_OUT, IPPROTO_RAW, NFPROTO_IPV4, SOCK_CLOEXEC, SOCK_RAW, XT_EXTENSION_MAXNAMELEN, Base, Family, RuleValue,
    c_text, family_of, getsockopt, inet_ntop, is_verdict, socket, socklen_t,
)
from ._core import split_entry, standard_target
from .errors import ParameterError, ParameterTypeError, XTablesError

cdef extern from *:
    """
    #ifndef IPTC_XTLIBDIR
    #define IPTC_XTLIBDIR ""
    #endif
    """
    const char *IPTC_XTLIBDIR

cdef extern from "_shim.h" nogil:
    enum:
        IPT_SO_GET_REVISION_MATCH
        IPT_SO_GET_REVISION_TARGET
        IP6T_SO_GET_REVISION_MATCH
        IP6T_SO_GET_REVISION_TARGET
        XTABLES_VERSION_CODE
    struct xt_get_revision:
        char name[29]
        uint8_t revision
    struct protoent:
        const char *p_name
    protoent *getprotobynumber(int number)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef extern from "<errno.h>" nogil:
    int errno_now "errno"
    enum:
        ENOENT
        EPROTONOSUPPORT
        ENOPROTOOPT

cdef enum:
    PAYLOAD_HEADER = 32      # struct xt_entry_match and xt_entry_target before their data

LIBRARY_MAJOR = XTABLES_VERSION_CODE
VERDICTS = frozenset(("", "ACCEPT", "DROP", "QUEUE", "RETURN"))


class XTablesWarning(UserWarning):
    """What libxtables or a plugin printed to stderr although it went on."""


# ------------------------------------------------------------------- the guard

cdef int _family_now = -1


cdef int _use_family(int nfproto) except -1:
    """Point libxtables at *nfproto*: plugins ask it how addresses look."""
    global _family_now
    if _family_now != nfproto:
        if _family_now == -1 and shim_init() != 0:
            raise XTablesError("libxtables could not be set up")
        xtables_set_nfproto(nfproto)
        _family_now = nfproto
    return 0


cdef str _text(const char *text, size_t length):
    return text[:length].decode("utf-8", "surrogateescape")


cdef str _said():
    """Why the last guarded call failed: libxtables' message, else what was printed to stderr before it gave up."""
    cdef size_t length
    cdef const char *printed = shim_err(&length)
    cdef const char *message = shim_message()
    cdef str text = _text(message, strlen(message)).strip()
    if length:
        text = f"{_text(printed, length).strip()}: {text}"
    return text


cdef int _run(void (*body)(void *) noexcept nogil, void *arg) except -1:
    """Run *body* guarded and captured; its refusal is a ParameterError, its warnings are Python's."""
    cdef size_t length
    cdef const char *printed
    if shim_capture(body, arg) != 0:
        raise ParameterError(_said())
    printed = shim_err(&length)
    if length:
        warnings.warn(_text(printed, length).strip(), XTablesWarning, stacklevel=2)
    return 0


# ------------------------------------------------------------------- the plugins

cdef class Option:
    """One option of a plugin."""

    cdef readonly str name
    cdef readonly int has_arg               # 0 no, 1 yes, 2 optional, as in getopt
    cdef bytes label
    cdef int val                            # what the old parser is called with
    cdef const xt_option_entry *entry       # the guided parser's own row, or NULL


cdef class Plugin:
    """One match or target, in one revision, as a plugin registered it."""

    cdef readonly bint is_target
    cdef readonly str name
    cdef readonly str real_name
    cdef readonly int revision
    cdef readonly int family
    cdef const xtables_match *c
    cdef bint divides                       # by what its user wrote: SIGFPE must be ours while it runs
    cdef dict _options
    cdef unsigned int mandatory             # bits of the guided options that must be given
    cdef unsigned int constrained           # bits of those that exclude or need others

    cdef int run(self, void (*body)(void *) noexcept nogil, void *arg) except -1:
        """Run *body*, which calls this plugin, guarded."""
        if self.divides:
            shim_trap_sigfpe()
        return _run(body, arg)

    cdef dict options(self):
        """name -> Option; made once."""
        cdef Option item
        if self._options is None:
            self._options = _read_options(self.c)
            for item in self._options.values():
                if item.entry != NULL:
                    if item.entry.flags & XTOPT_MAND:
                        self.mandatory |= 1 << item.entry.id
                    if item.entry.also | item.entry.excl:
                        self.constrained |= 1 << item.entry.id
        return self._options

    cdef bint wants_check(self, unsigned int given):
        """Whether the final check can have something to say of a payload with these options *given*."""
        self.options()
        return (self.c.x6_fcheck != NULL or self.c.final_check != NULL
                or given & self.mandatory != self.mandatory or given & self.constrained != 0)

    @property
    def option_names(self):
        """The names of the options, without dashes in front."""
        return list(self.options())


cdef dict _read_options(const xtables_match *c):
    """Collect the options of a plugin of either parser generation."""
    cdef dict found = {}
    cdef const option *row = c.extra_opts
    cdef option *listed
    cdef option none
    cdef unsigned int offset = 0
    cdef size_t stride, count = 0, i
    cdef Option item
    if c.x6_options != NULL:
        # the library lists its own rows; from the list follows the size of a row, which differs between releases
        memset(&none, 0, sizeof(none))
        listed = xtables_options_xfrm(&none, NULL, c.x6_options, &offset)
        if listed == NULL:
            raise MemoryError
        while listed[count].name != NULL:
            count += 1
        stride = _row_size(c.x6_options, listed, count)
        for i in range(count):
            item = Option.__new__(Option)
            item.entry = <const xt_option_entry *> (<const char *> c.x6_options + i * stride)
            _name_option(found, item, item.entry.name, 0 if item.entry.type == XTTYPE_NONE else 1)
        free(listed)
    elif row != NULL:
        while row.name != NULL:
            item = Option.__new__(Option)
            item.entry = NULL
            item.val = row.val
            _name_option(found, item, row.name, row.has_arg)
            row += 1
    return found


cdef size_t _row_size(const xt_option_entry *table, const option *listed, size_t count) except 0:
    """The size of struct xt_option_entry in the library that is loaded."""
    cdef size_t stride, i
    for stride in range(48, 136, 8):
        for i in range(count):
            if (<const xt_option_entry *> (<const char *> table + i * stride)).name != listed[i].name:
                break
        else:
            return stride
    raise XTablesError("this libxtables lays out its options in an unknown way")


cdef _name_option(dict found, Option item, const char *name, int has_arg):
    item.label = b"--" + name
    item.name = name.decode()
    item.has_arg = has_arg
    found.setdefault(item.name, item)


cdef dict _registered = {}          # (is_target, name) -> [Plugin]
cdef dict _chosen = {}              # (is_target, nfproto, name, revision) -> Plugin or None
cdef list _preferred = [{}, {}, {}, {}]     # by is_target and family: name -> the Plugin that is used for it
cdef set _loaded = set()            # real paths of plugin files
cdef dict _supported = {}           # (is_target, nfproto, name, revision) -> bool


cdef void _on_registered(int is_target, void *extension) noexcept:
    """Called from a plugin's constructor."""
    cdef Plugin plugin = Plugin.__new__(Plugin)
    plugin.c = <const xtables_match *> extension
    plugin.is_target = is_target
    plugin.name = plugin.c.name.decode()
    plugin.real_name = plugin.c.real_name.decode() if plugin.c.real_name != NULL else None
    plugin.revision = plugin.c.revision
    plugin.family = plugin.c.family
    plugin.divides = plugin.name == "hashlimit"
    _registered.setdefault((bool(is_target), plugin.name), []).append(plugin)


def library_dirs():
    """Where plugins are looked for: `XTABLES_LIBDIR`, `IPTABLES_LIBDIR`, else where libxtables was built for."""
    chosen = os.environ.get("XTABLES_LIBDIR") or os.environ.get("IPTABLES_LIBDIR") or IPTC_XTLIBDIR.decode()
    return chosen.split(":")


cdef _load(int nfproto, str name):
    """Load the file that holds extension *name*, as libxtables' own search finds it."""
    cdef str prefix = "libipt_" if nfproto == NFPROTO_IPV4 else "libip6t_"
    for folder in library_dirs():
        for start in (prefix, "libxt_"):
            path = os.path.realpath(f"{folder}/{start}{name}.so")
            if path in _loaded:
                return
            if not os.path.exists(path):
                continue
            _use_family(nfproto)
            if shim_load(os.fsencode(path), _on_registered) != 0:
                message = shim_message()
                raise XTablesError(f"can't load {name}: {_text(message, strlen(message)).strip()}")
            _loaded.add(path)
            return


cdef bint _kernel_has(bint is_target, int nfproto, str name, int revision) except -1:
    """`IPT_SO_GET_REVISION_MATCH` and its three sisters; revision 0 counts as there even when the kernel says no."""
    cdef tuple key = (is_target, nfproto, name, revision)
    cdef xt_get_revision request
    cdef socklen_t length = sizeof(request)
    cdef bytes label = name.encode()
    cdef int fd, option, failed
    known = _supported.get(key)
    if known is not None:
        return known
    cdef Family *family = family_of(nfproto)
    fd = socket(AF_INET if nfproto == NFPROTO_IPV4 else AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW)
    if fd < 0:
        return True              # without privilege nothing can be asked, and nothing written either
    memset(&request, 0, sizeof(request))
    memcpy(request.name, PyBytes_AS_STRING(label), min(PyBytes_GET_SIZE(label), 28))
    request.revision = revision
    if nfproto == NFPROTO_IPV4:
        option = IPT_SO_GET_REVISION_TARGET if is_target else IPT_SO_GET_REVISION_MATCH
    else:
        option = IP6T_SO_GET_REVISION_TARGET if is_target else IP6T_SO_GET_REVISION_MATCH
    failed = errno_now if getsockopt(fd, family.level, option, &request, &length) < 0 else 0
    close(fd)
    if not failed:
        _supported[key] = True
    elif failed in (ENOENT, EPROTONOSUPPORT, ENOPROTOOPT):
        _supported[key] = revision == 0
    else:
        return True
    return _supported[key]


cdef Plugin _find(bint is_target, int nfproto, str name, revision=None):
    """Return the plugin for *name*, or None: the preferred revision that the kernel knows, or the one asked for."""
    cdef dict preferred = <dict> _preferred[2 * is_target + (nfproto == NFPROTO_IPV4)]
    cdef str asked = name
    cdef list candidates
    cdef Plugin plugin, chosen = None
    if revision is None:
        found = preferred.get(name)
        if found is not None:
            return found
    cdef tuple key = (is_target, nfproto, name, revision)
    try:
        return _chosen[key]
    except KeyError:
        pass
    family_of(nfproto)
    if not is_target and name in ("icmpv6", "ipv6-icmp", "icmp6"):
        name = "icmp6"
    if not name or "/" in name or "\0" in name:
        return None
    if len(name.encode("utf-8", "surrogatepass")) >= XT_EXTENSION_MAXNAMELEN:
        kind = "target" if is_target else "match"
        raise ParameterError(f"Invalid {kind} name \"{name}\" ({XT_EXTENSION_MAXNAMELEN - 1} chars max)")
    candidates = _candidates(is_target, nfproto, name)
    if not candidates:
        _load(nfproto, name)
        candidates = _candidates(is_target, nfproto, name)
    for plugin in candidates:
        if revision is not None:
            if plugin.revision == revision:
                chosen = plugin
                break
        elif _kernel_has(is_target, nfproto, plugin.real_name or plugin.name, plugin.revision):
            chosen = plugin
            break
    if len(_chosen) > 4096:      # names that are no plugin come from outside, without end
        _chosen.clear()
    _chosen[key] = chosen
    if revision is None and chosen is not None:
        preferred[asked] = chosen
    return chosen


cdef list _candidates(bint is_target, int nfproto, str name):
    """The plugins of that name for this family, most preferred first: aliases, high revisions, own family."""
    cdef list found = [p for p in _registered.get((is_target, name), ()) if p.family in (nfproto, NFPROTO_UNSPEC)]
    found.sort(key=_preference, reverse=True)
    return found


def _preference(Plugin plugin):
    return plugin.real_name is not None, plugin.revision, plugin.family != NFPROTO_UNSPEC


def find_match(int nfproto, str name, revision=None):
    """Return the `Plugin` of match *name*, or None."""
    return _find(False, nfproto, name, revision)


def find_target(int nfproto, str name, revision=None):
    """Return the `Plugin` of target *name*, or None."""
    return _find(True, nfproto, name, revision)


cdef Plugin _find_for_payload(bint is_target, int nfproto, const xt_entry_match *payload):
    """The plugin that a payload was made by, by its own name and revision; None: it is opaque."""
    cdef Plugin plugin
    cdef size_t length = 0
    while length < sizeof(payload.u.user.name) and payload.u.user.name[length]:
        length += 1
    try:
        plugin = _find(is_target, nfproto, _text(payload.u.user.name, length), payload.u.user.revision)
    except XTablesError:
        return None
    if plugin is None or PAYLOAD_HEADER + plugin.c.size != payload.u.match_size:
        return None
    return plugin


# ----------------------------------------------------------- guarded plugin calls

cdef struct ParseCall:
    const xtables_match *c
    xt_option_call guided
    int val
    int negated
    char **argv
    unsigned int *flags
    xt_entry_match *data


cdef void _parse_body(void *arg) noexcept nogil:
    cdef ParseCall *call = <ParseCall *> arg
    if call.c.x6_parse != NULL:
        call.c.x6_parse(&call.guided)
    elif call.c.parse != NULL:
        call.c.parse(call.val, call.argv, call.negated, call.flags, call.guided.xt_entry, &call.data)


cdef struct DataCall:
    const xtables_match *c
    const char *ext_name
    const void *ip
    xt_entry_match *data
    void *udata
    unsigned int flags


cdef void _init_body(void *arg) noexcept nogil:
    cdef DataCall *call = <DataCall *> arg
    call.c.init(call.data)


cdef void _check_body(void *arg) noexcept nogil:
    cdef DataCall *call = <DataCall *> arg
    cdef xt_fcheck_call guided
    if call.c.x6_fcheck != NULL:
        guided.ext_name = call.ext_name
        guided.data = call.data.data
        guided.udata = call.udata
        guided.xflags = call.flags
        call.c.x6_fcheck(&guided)
    elif call.c.final_check != NULL:
        call.c.final_check(call.flags)
    if call.c.x6_options != NULL:
        xtables_options_fcheck(call.ext_name, call.flags, call.c.x6_options)


cdef void _save_body(void *arg) noexcept nogil:
    cdef DataCall *call = <DataCall *> arg
    call.c.save(call.ip, call.data)


cdef void _protocol_body(void *arg) noexcept nogil:
    cdef DataCall *call = <DataCall *> arg
    call.flags = xtables_parse_protocol(call.ext_name)


def parse_protocol(str name):
    """Return the number of protocol *name* as iptables' `-p` reads it."""
    cdef DataCall call
    cdef bytes text = c_text(name, "a protocol")
    call.ext_name = text
    _use_family(_family_now if _family_now != -1 else NFPROTO_IPV4)
    _run(_protocol_body, &call)
    return call.flags & 0xffff


# ------------------------------------------------------------- words of rule text

def split_words(bytes text):
    """Split *text* as iptables-restore does: a list of (word, whether it was quoted)."""
    cdef list words = []
    cdef bytearray word = bytearray()
    cdef bint quoted = False, was_quoted = False, escaped = False
    cdef unsigned char c
    for c in text:
        if quoted:
            if escaped:
                word.append(c)
                escaped = False
            elif c == b'\\':
                escaped = True
            elif c == b'"':
                quoted = False
            else:
                word.append(c)
        elif c == b'"':
            quoted = was_quoted = True
        elif c in b" \t\n":
            if word or was_quoted:
                words.append((bytes(word), was_quoted))
                word.clear()
                was_quoted = False
        else:
            word.append(c)
    if word or was_quoted:
        words.append((bytes(word), was_quoted))
    return words


cdef list _read_saved(dict options, bytes text):
    """Turn what a plugin's save printed into [(Option, negated, words)]."""
    cdef list entries = []
    cdef list words = split_words(text)
    cdef Py_ssize_t i = 0, count = len(words)
    cdef bint negated = False
    cdef Option item
    while i < count:
        word, quoted = words[i]
        i += 1
        if word == b"!" and not quoted:
            negated = True
            continue
        if quoted or not word.startswith(b"--"):
            if entries:
                (<list> entries[-1][2]).append(word)
            continue
        name = word[2:].decode("utf-8", "surrogateescape")
        item = options.get(name)
        if item is None:
            item = Option.__new__(Option)
            item.entry = NULL
            item.val = -1
            _name_option({}, item, PyBytes_AS_STRING(word) + 2, 1)
        entries.append((item, negated, []))
        negated = False
        if item.has_arg and i < count:
            word, quoted = words[i]
            if word == b"!" and not quoted:      # a few plugins print the negation behind their option
                entries[-1] = (item, True, [])
                i += 1
            if i < count:
                entries[-1][2].append(words[i][0])
                i += 1
    return entries


# ------------------------------------------------------------------- extensions

cdef str _VALUE = "a parameter value"
cdef Base _NO_BASE = Base.__new__(Base)     # of an extension that belongs to no rule yet
_NO_BASE.family = family_of(NFPROTO_IPV4)


cdef class Extension:
    """The payload of one match or target: parameters in, bytes out, and back."""

    cdef Base base                          # of the rule it belongs to: decides how options are read
    cdef object owner                       # weak reference to that rule
    cdef readonly bint goto                 # of a target: `-g` and not `-j`
    cdef Plugin plugin                      # reads its options; None: opaque, or a verdict
    cdef Plugin printer                     # prints it: the same, but for an alias what it is an alias of
    cdef readonly bint is_target
    cdef bytes given                        # the payload as it was read, until it is changed
    cdef xt_entry_match *data               # the payload as it is built, or NULL
    cdef void *udata
    cdef unsigned int flags
    cdef list journal                       # [(Option, negated, words)]: what was set, in order; None: as read

    def __cinit__(self):
        self.base = _NO_BASE

    def __dealloc__(self):
        free(self.data)
        free(self.udata)

    cdef int _create(self, RuleValue rule, bint is_target, str name, revision) except -1:
        """Make an empty payload of extension *name* for *rule*."""
        cdef int nfproto = rule.family.nfproto
        self._belong(rule)
        cdef Plugin plugin = _find(is_target, nfproto, name, revision)
        if plugin is None:
            raise XTablesError(f"can't find {'target' if is_target else 'match'} {name}")
        self.is_target = is_target
        self.plugin = self.printer = plugin
        if plugin.real_name is not None:
            self.printer = _find(is_target, nfproto, plugin.real_name, plugin.revision) or plugin
        return self._clear(nfproto)

    cdef int _read(self, RuleValue rule, bint is_target, bytes payload) except -1:
        """Take over *payload* as it was read, for *rule*."""
        cdef int nfproto = rule.family.nfproto
        self._belong(rule)
        cdef Plugin plugin
        cdef const xt_entry_match *raw = <const xt_entry_match *> PyBytes_AS_STRING(payload)
        if PyBytes_GET_SIZE(payload) < PAYLOAD_HEADER or raw.u.match_size != PyBytes_GET_SIZE(payload):
            raise ParameterError("not a payload: its size does not add up")
        self.is_target = is_target
        self.given = payload
        self.journal = None
        self.goto = is_target and rule._flags()[0] & rule.family.goto_flag != 0
        if is_target and is_verdict(raw):
            self.plugin = self.printer = None
            return 0
        self.plugin = self.printer = plugin = _find_for_payload(is_target, nfproto, raw)
        if plugin is not None and plugin.c.alias != NULL:
            # an alias has options of its own (state and conntrack, NOTRACK and CT)
            alias = plugin.c.alias(raw).decode()
            if alias != plugin.name:
                self.plugin = _find(is_target, nfproto, alias, plugin.revision) or plugin
        return 0

    def _begin(self, RuleValue rule not None, bint is_target, str name not None, revision):
        """`_create` for `__init__`."""
        self._create(rule, is_target, name, revision)

    def _take(self, RuleValue rule not None, bint is_target, bytes payload not None):
        """`_read` for `__init__`."""
        self._read(rule, is_target, payload)

    cpdef int _become_verdict(self, RuleValue rule, bytes payload, bint goto) except -1:
        """Become a verdict or a jump, of *rule* if it is given."""
        if rule is not None:
            self._belong(rule)
        self.is_target = True
        self.goto = goto
        self.plugin = self.printer = None
        self.given = payload
        self.journal = None
        return 0

    cdef int _clear(self, int nfproto) except -1:
        """(Re)initialise the payload with the plugin's defaults."""
        cdef const xtables_match *c = self.plugin.c
        cdef size_t size = PAYLOAD_HEADER + c.size
        cdef DataCall call
        if self.data == NULL:
            self.data = <xt_entry_match *> malloc(size)
            if c.udata_size:
                self.udata = malloc(c.udata_size)
            if self.data == NULL or (c.udata_size and self.udata == NULL):
                raise MemoryError
        memset(self.data, 0, size)
        if self.udata != NULL:
            memset(self.udata, 0, c.udata_size)
        self.data.u.match_size = size
        cdef const char *name = c.real_name if c.real_name != NULL else c.name
        memcpy(self.data.u.user.name, name, strlen(name))
        self.data.u.user.revision = c.revision
        self.flags = 0
        self.journal = []
        self.given = None
        if c.init != NULL:
            _use_family(nfproto)
            call.c = c
            call.data = self.data
            self.plugin.run(_init_body, &call)
        return 0

    cdef const xt_entry_match *_raw(self) except NULL:
        if self.given is not None:
            return <const xt_entry_match *> PyBytes_AS_STRING(self.given)
        if self.data == NULL:
            raise ParameterError("this match or target was never made: it has no name")
        return self.data

    # the rule

    cdef int _belong(self, RuleValue rule) except -1:
        self.base = rule._base
        self.owner = PyWeakref_NewRef(rule, None)
        return 0

    @property
    def rule(self):
        """The rule it belongs to; None once that is gone."""
        return None if self.owner is None else self.owner()

    @rule.setter
    def rule(self, RuleValue rule not None):
        if self.base is not _NO_BASE and rule.family.nfproto != self.base.family.nfproto:
            raise ParameterError(f"{self.name}: belongs to a rule of the other family")
        self._belong(rule)

    def _base_state(self):
        """(family, base part) for pickling without the rule."""
        return (self.base.family.nfproto,
                PyBytes_FromStringAndSize(<char *> &self.base.raw, self.base.family.header))

    # identity

    @property
    def name(self):
        """Name of the extension, an alias by its alias."""
        if self.plugin is not None:
            return self.plugin.name
        cdef const xt_entry_match *raw = self._raw()
        cdef size_t length = 0
        while length < sizeof(raw.u.user.name) and raw.u.user.name[length]:
            length += 1
        return _text(raw.u.user.name, length)

    @property
    def revision(self):
        """Revision of the payload's layout."""
        return self._raw().u.user.revision

    @property
    def opaque(self):
        """Whether no plugin here can read this payload; it is kept and written back as it is."""
        return self.plugin is None and not (self.is_target and is_verdict(self._raw()))

    @property
    def size(self):
        """Bytes of the whole payload, `struct xt_entry_match` or `xt_entry_target` included."""
        return self._raw().u.match_size

    @property
    def usersize(self):
        """Bytes of it that say something about the rule; the rest is the kernel's own."""
        if self.plugin is None:
            return self.size
        return PAYLOAD_HEADER + self.plugin.c.userspacesize

    # parameters in

    cdef Option _option(self, str name, bint must):
        """Find option *name*; dashes may be written as underscores."""
        cdef dict options = {} if self.plugin is None else self.plugin.options()
        found = options.get(name)
        if found is None:
            found = options.get(name.strip().replace("_", "-"))
        if found is None and must:
            raise ParameterError(f"{self.name}: invalid parameter {name.replace('_', '-')}")
        return found

    def set_parameter(self, str parameter, value=None):
        """Set *parameter* to *value*, replacing what it was, negation included.

        *value* is a string, or a list of strings for an option of several words; a leading `!` negates;
        a flag takes "". Refused by `ParameterError`, which says what libxtables said; nothing is changed then.
        """
        self._set(parameter, value)

    cdef int _set(self, str parameter, value) except -1:
        cdef bint negated = False, again = False
        cdef list words
        cdef bytes word
        cdef str name = parameter
        if "#" in name:
            # "reqid#2": a further occurrence of an option that a rule may hold several times
            name, _, number = name.partition("#")
            again = True
            if not number.isdigit() or int(number) < 2:
                raise ParameterError(f"{self.name}: invalid parameter {parameter}")
        cdef Option item = self._option(name, True)
        if value is None:
            words = []
        elif isinstance(value, str):
            word = c_text(value, _VALUE)
            if word.startswith(b"!"):
                negated, word = self._strip_negation(item, word)
            words = [word]
        else:
            try:
                words = [c_text(item_word, _VALUE) for item_word in value]
            except ParameterError:
                raise
            except TypeError as error:
                raise ParameterTypeError(
                    f"a parameter value must be a string or a list of strings, not {type(value).__name__}") from error
            if words and words[0] == b"!":
                negated = True
                del words[0]
        if item.has_arg == 0:
            # a guided flag takes nothing; an old parser may look at a word behind it
            words = [word for word in words if word and item.entry == NULL]
        elif item.has_arg == 1 and not words:
            raise ParameterError(f"{self.name}: option \"--{item.name}\" requires an argument.")
        self._apply(item, negated, words, again)
        return 0

    def parse(self, str parameter, value):
        """The same as `set_parameter`."""
        self._set(parameter, value)

    cdef tuple _strip_negation(self, Option item, bytes word):
        """A leading `!` negates, except in the text of an option that cannot be negated."""
        if not word.startswith(b"!"):
            return False, word
        if item.entry != NULL and item.has_arg and not item.entry.flags & XTOPT_INVERT:
            return False, word
        return True, word[1:].lstrip(b" ")

    cdef int _apply(self, Option item, bint negated, list words, bint again) except -1:
        """Record and parse one option."""
        cdef list journal = self._entries()
        cdef list kept = journal
        cdef tuple entry = (item, negated, words)
        if journal and not again:
            kept = [e for e in journal if not _displaces(item, e[0])]
        if self.journal is None or len(kept) != len(journal):
            self._replay(kept + [entry], len(kept))
            return 0
        try:
            self._parse(entry)
        except ParameterError:
            split = _split_value(words)
            if split is None:
                raise
            try:
                self._parse((item, negated, split))
            except ParameterError:
                split = None
            if split is None:
                self._parse(entry)          # for its message
            entry = (item, negated, split)
        self.journal.append(entry)
        return 0

    cdef int _replay(self, list entries, Py_ssize_t new) except -1:
        """Build the payload anew from *entries*; on failure this extension stays as it was."""
        cdef Extension fresh = type(self).__new__(type(self))
        cdef Py_ssize_t i
        fresh.base = self.base
        fresh.owner = self.owner
        fresh.is_target = self.is_target
        fresh.plugin = self.plugin
        fresh.printer = self.printer
        fresh._clear(self.base.family.nfproto)
        for i, (item, negated, words) in enumerate(entries):
            if i == new:
                fresh._apply(item, negated, words, True)
            else:
                entry = (item, negated, words)
                fresh._parse(entry)
                fresh.journal.append(entry)
        self.data, fresh.data = fresh.data, self.data
        self.udata, fresh.udata = fresh.udata, self.udata
        self.flags = fresh.flags
        self.journal = fresh.journal
        self.given = None
        return 0

    cdef int _parse(self, tuple entry) except -1:
        """Have the plugin read one option into the payload; on failure the payload is put back."""
        cdef Option item = entry[0]
        cdef list words = entry[2]
        cdef const xtables_match *c = self.plugin.c
        cdef size_t size = self.data.u.match_size, room = 0, i
        cdef unsigned int flags = self.flags
        cdef ParseCall call
        cdef char **argv
        cdef char *text
        cdef char *backup
        cdef bytes word
        _use_family(self.base.family.nfproto)
        for word in words:
            room += PyBytes_GET_SIZE(word) + 1
        # one piece of memory: argv, the words (plugins may write into them), and the payload as it was
        argv = <char **> malloc((len(words) + 3) * sizeof(char *) + room + size + c.udata_size)
        if argv == NULL:
            raise MemoryError
        backup = <char *> (argv + len(words) + 3)
        memcpy(backup, self.data, size)
        if self.udata != NULL:
            memcpy(backup + size, self.udata, c.udata_size)
        text = backup + size + c.udata_size
        argv[0] = b"iptables"
        argv[1] = item.label
        for i, word in enumerate(words):
            argv[i + 2] = text
            memcpy(text, PyBytes_AS_STRING(word), PyBytes_GET_SIZE(word) + 1)
            text += PyBytes_GET_SIZE(word) + 1
        argv[len(words) + 2] = NULL
        call.c = c
        call.argv = argv
        call.val = item.val
        call.negated = entry[1]
        call.flags = &flags
        call.data = self.data
        memset(&call.guided, 0, sizeof(call.guided))
        call.guided.arg = argv[2] if words else NULL
        call.guided.ext_name = c.name
        call.guided.entry = item.entry
        call.guided.data = self.data.data
        call.guided.xflags = flags
        call.guided.invert = entry[1]
        call.guided.match = &call.data
        call.guided.xt_entry = <char *> &self.base.raw
        call.guided.udata = self.udata
        try:
            # an old parser may take words behind an option of which getopt knows nothing
            shim_set_getopt(argv[2] if words and item.has_arg else NULL, 3 if words and item.has_arg else 2)
            self.plugin.run(_parse_body, &call)
            if c.x6_parse != NULL:
                flags = call.guided.xflags
                if len(words) > 1:
                    raise ParameterError(f"{self.name}: option \"--{item.name}\" takes one value, not {len(words)}")
            elif item.has_arg and shim_get_optind() < <int> len(words) + 2:
                raise ParameterError(f"{self.name}: too many values for option \"--{item.name}\"")
            elif shim_get_optind() > <int> len(words) + 2:
                raise ParameterError(f"{self.name}: option \"--{item.name}\" requires more values")
            self.flags = flags
        except BaseException:
            memcpy(self.data, backup, size)
            if self.udata != NULL:
                memcpy(self.udata, backup + size, c.udata_size)
            raise
        finally:
            shim_set_getopt(NULL, 1)
            free(argv)
        return 0

    # parameters out

    cdef bytes _saved(self):
        """What the plugin prints for this payload; b"" where it has nothing to print."""
        cdef DataCall call
        cdef size_t length
        cdef const char *text
        cdef Plugin plugin = self.printer
        if plugin is None or plugin.c.save == NULL:
            return b""
        _use_family(self.base.family.nfproto)
        call.c = plugin.c
        call.ip = <char *> &self.base.raw
        call.data = <xt_entry_match *> self._raw()
        plugin.run(_save_body, &call)
        text = shim_out(&length)
        return text[:length]

    cdef list _entries(self):
        """What is set: as recorded, or as the plugin prints what was read."""
        if self.journal is not None:
            return self.journal
        return [] if self.plugin is None else _read_saved(self.plugin.options(), self._saved())

    def get_all_parameters(self):
        """Return {name: [words]}, `!` first where negated; further occurrences of an option as `name#2`, …"""
        cdef dict found = {}
        cdef Option item
        if self.plugin is None:
            return found
        for item, negated, words in _read_saved(self.plugin.options(), self._saved()):
            key = item.name
            number = 1
            while key in found:
                number += 1
                key = f"{item.name}#{number}"
            found[key] = (["!"] if negated else []) + [_text(w, len(w)) for w in words]
        return found

    @property
    def parameters(self):
        """Return {name with underscores: text}; the words of one option joined by a space, `!` in front if negated.

        Where that text could be read in another way the value is the list of words.
        """
        return {name.replace("-", "_"): _joined(words) for name, words in self.get_all_parameters().items()}

    def save(self, name=None):
        """Return the text of parameter *name* or None; without a name the same as `parameters`."""
        if not name:
            return self.parameters
        words = self.get_all_parameters().get(name.replace("_", "-"))
        return None if words is None else _joined(words)

    def reset(self):
        """Set all parameters back to their defaults."""
        if self.plugin is not None:
            free(self.data)
            free(self.udata)
            self.data = NULL
            self.udata = NULL
            self._clear(self.base.family.nfproto)

    cpdef bytes _bytes(self):
        """Return the payload as it is now, unchecked."""
        if self.given is not None:
            return self.given
        return PyBytes_FromStringAndSize(<const char *> self._raw(), self._raw().u.match_size)

    def _state(self):
        """Return what `_restore` makes this extension from again."""
        cdef Option item
        if self.journal is None:
            return self.is_target, self.goto, self.given, None, None, None
        return (self.is_target, self.goto, None, self.plugin.name, self.plugin.revision,
                [(item.name, negated, tuple(words)) for item, negated, words in self.journal])

    def _restore(self, RuleValue rule not None, state):
        """Become what `_state` described, for *rule*."""
        is_target, goto, given, name, revision, entries = state
        if given is not None:
            self._read(rule, is_target, given)
            self.goto = goto
            return
        self._create(rule, is_target, name, revision)
        for option_name, negated, words in entries:
            entry = (self._option(option_name, True), negated, list(words))
            self._parse(entry)
            self.journal.append(entry)

    def final_check(self):
        """Raise `ParameterError` if the parameters do not make a whole extension, as `iptables` would."""
        self._packed()

    cpdef bytes _packed_or_bytes(self):
        """Return the payload as it would be written, or as it is where it is not whole yet."""
        try:
            return self._packed()
        except ParameterError:
            return self._bytes()

    cpdef bytes _packed(self):
        """Return the payload as it goes to the kernel, checked and completed by the plugin."""
        cdef DataCall call
        cdef bytes payload, scratch
        if self.given is not None:
            return self.given
        payload = PyBytes_FromStringAndSize(<const char *> self._raw(), self._raw().u.match_size)
        cdef const xtables_match *c = self.plugin.c
        if not self.plugin.wants_check(self.flags):
            return payload
        # the check may complete the payload, and is to be done once on it: a copy each time
        scratch = PyBytes_FromStringAndSize(<char *> self.udata, c.udata_size) if self.udata != NULL else b""
        call.c = c
        call.ext_name = c.name
        call.data = <xt_entry_match *> PyBytes_AS_STRING(payload)
        call.udata = PyBytes_AS_STRING(scratch)
        call.flags = self.flags
        _use_family(self.base.family.nfproto)
        self.plugin.run(_check_body, &call)
        return payload

    # attributes are parameters

    def __getattr__(self, str name):
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self.save(name)

    def __setattr__(self, str name, value):
        if name in _PLAIN_ATTRIBUTES or name.startswith("_"):
            PyObject_GenericSetAttr(self, name, value)
        elif value is None:
            raise ParameterTypeError(f"{self.name}: parameter {name} must be a string or a list of strings, not None")
        else:
            self._set(name, value)


cdef frozenset _PLAIN_ATTRIBUTES = frozenset(("rule", "standard_target"))


cdef object _joined(list words):
    """["!", "1", "2"] -> "!1 2"; a list where the text would not say the same."""
    cdef bint negated = bool(words) and words[0] == "!"
    cdef list values = words[1:] if negated else words
    if not negated and values and values[0].startswith("!"):
        return words
    if len(values) > 1 and any(not value or " " in value for value in values):
        return words
    return ("!" if negated else "") + " ".join(values)


cdef bint _displaces(Option new, Option old):
    """Whether setting *new* takes the place of *old*: the same option, or one that excludes it."""
    if new.name == old.name:
        return True
    if new.entry == NULL or old.entry == NULL:
        return new.entry == old.entry and new.val == old.val     # two names of one option
    return new.entry.id == old.entry.id or new.entry.excl & (1 << old.entry.id) != 0


cdef list _split_value(list words):
    """The words of a value given as one string, or None if there is nothing to split."""
    if len(words) != 1:
        return None
    split = (<bytes> words[0]).split()
    return split if len(split) > 1 else None


# ---------------------------------------------------------------- whole rules

def new_match(type cls, RuleValue rule, str name not None, revision):
    """Return a new *cls* of extension *name*, added to *rule*'s matches."""
    cdef Extension match = <Extension> cls.__new__(cls)
    match._create(rule, False, name, revision)
    rule._matches.append(match)
    return match


def new_verdict(type cls, RuleValue rule, bytes payload):
    """Return a new *cls* that is the verdict of *payload*, for *rule*."""
    cdef Extension target = <Extension> cls.__new__(cls)
    target._become_verdict(rule, payload, False)
    return target


def read_payloads(type match_class, type target_class, RuleValue rule):
    """Make the objects of the bytes that *rule* was read from."""
    cdef list payloads = rule._body_payloads()
    cdef list matches = []
    cdef Extension made
    cdef bytes target = payloads.pop()
    for payload in payloads:
        made = <Extension> match_class.__new__(match_class)
        made._read(rule, False, payload)
        matches.append(made)
    made = <Extension> target_class.__new__(target_class)
    made._read(rule, True, target)
    rule._target = made
    rule._matches = matches


def pack(RuleValue rule, bint checked):
    """Return the whole entry of *rule* as bytes, or None without a target; unchecked, half-built parts are as they are."""
    cdef list payloads = []
    cdef Extension part
    if rule._matches is None:
        return rule._assemble(rule._body_payloads())
    if rule._target is None:
        return None
    rule._set_goto((<Extension> rule._target).goto)
    for part in rule._matches:
        payloads.append(part._packed() if checked else part._packed_or_bytes())
    part = rule._target
    payloads.append(part._packed() if checked else part._packed_or_bytes())
    return rule._assemble(payloads)


def compare_key(int nfproto, bytes entry):
    """Return what tells a rule from others, as `iptables -D` compares: no counters, no kernel-private bytes,
    the order of the matches aside."""
    header, payloads = split_entry(nfproto, entry)
    header = _plain_header(nfproto, header)
    cdef list keys = [_payload_key(nfproto, False, payload) for payload in payloads[:-1]]
    if len(keys) > 1:
        keys.sort()
    return header, tuple(keys), _payload_key(nfproto, True, payloads[-1])


cdef bytes _plain_header(int nfproto, bytes header):
    """*header* without what has no effect: the name in `-i +`, and IPv6's mark that `-p all` was given."""
    cdef Family *family = family_of(nfproto)
    cdef const unsigned char *raw = <const unsigned char *> PyBytes_AS_STRING(header)
    cdef size_t name
    cdef bytearray plain = None
    for name in (4 * family.address, 4 * family.address + 16):
        if raw[name] and not raw[name + 32]:
            plain = bytearray(header) if plain is None else plain
            plain[name:name + 16] = bytes(16)
    if (nfproto != NFPROTO_IPV4 and raw[family.flags] & IP6T_F_PROTO and not raw[family.flags + 1] & IPT_INV_PROTO
            and not (<const uint16_t *> (raw + family.proto))[0]):
        plain = bytearray(header) if plain is None else plain
        plain[family.flags] &= ~IP6T_F_PROTO & 0xff
    return header if plain is None else bytes(plain)


def rough_key(tuple key):
    """Return the part of a `compare_key` that rules with the same text surely share; what they are hashed by."""
    header, matches, target = key
    return header, tuple([_name_of(match) for match in matches]), _name_of(target)


cdef bytes _name_of(bytes key):
    return key.partition(b"\0")[0]


def same_rule(int nfproto, bytes entry, tuple key, bytes other, tuple other_key):
    """Whether two entries, with their `compare_key`s, say the same.

    Their bytes decide, or their text: a few plugins leave in unused bytes what their text does not show.
    """
    if key == other_key:
        return True
    return rough_key(key) == rough_key(other_key) and render(nfproto, entry) == render(nfproto, other)


cdef bytes _payload_key(int nfproto, bint is_target, bytes payload):
    cdef const xt_entry_match *raw = <const xt_entry_match *> PyBytes_AS_STRING(payload)
    # behind the NUL of a name may stand whatever its writer had in memory
    cdef bytes name = payload[2:31].partition(b"\0")[0]
    if is_target and is_verdict(raw):
        return name
    cdef Plugin plugin = _find_for_payload(is_target, nfproto, raw)
    cdef Py_ssize_t end = PyBytes_GET_SIZE(payload) if plugin is None else PAYLOAD_HEADER + plugin.c.userspacesize
    return name + b"\0" + payload[31:end]


def without_counters(int nfproto, list entries):
    """Return *entries* with their packet and byte counters at zero."""
    cdef Family *family = family_of(nfproto)
    cdef size_t start = family.counters
    return [entry[:start] + bytes(16) + entry[start + 16:] for entry in entries]


def retarget(int nfproto, bytes entry, str old, str new):
    """Return *entry* with its jump to chain *old* turned to chain *new*, or None if it has no such jump."""
    cdef bytes target = split_entry(nfproto, entry)[1][-1]
    if target != standard_target(old):
        return None
    return entry[:-len(target)] + standard_target(new)


cdef struct RenderItem:
    const xtables_match *c      # NULL: opaque
    const xt_entry_match *payload
    const char *alias


cdef struct RenderCall:
    Family *family
    const char *entry
    RenderItem *items
    size_t count
    bint by_mask                # iptables before 1.8.10 prints interfaces by their masks


cdef void _render_address(Family *family, const char *entry, int which, char letter, int inverted) noexcept nogil:
    cdef char text[64]
    cdef const unsigned char *address = <const unsigned char *> entry + which * family.address
    cdef const unsigned char *mask = address + 2 * family.address
    cdef size_t i
    cdef int bits = 0
    cdef bint any_address = True, any_mask = True, ended = False, prefix = True
    cdef int domain = AF_INET if family.nfproto == NFPROTO_IPV4 else AF_INET6
    for i in range(family.address * 8):
        if (mask[i >> 3] >> (7 - (i & 7))) & 1:
            prefix = prefix and not ended
            bits += 1
        else:
            ended = True
    for i in range(family.address):
        any_address = any_address and address[i] == 0
        any_mask = any_mask and mask[i] == 0
    if any_mask and not inverted and (any_address or domain == AF_INET6):
        return
    printf(b"%s -%c %s/", b" !" if inverted else b"", <int> letter, inet_ntop(domain, address, text, sizeof(text)))
    if prefix:
        printf(b"%d", bits)
    else:
        fputs(inet_ntop(domain, mask, text, sizeof(text)), stdout_now)


cdef extern from "<stdio.h>" nogil:
    void *stdout_now "stdout"
    int fputs(const char *text, void *stream)


cdef void _render_interface(const char *name, const unsigned char *mask, char letter, int inverted,
                            bint by_mask) noexcept nogil:
    cdef size_t i
    if not by_mask:
        if name[0] and (inverted or strcmp(name, b"+") != 0):
            printf(b"%s -%c %.16s", b" !" if inverted else b"", <int> letter, name)
        return
    if mask[0] == 0:
        return
    printf(b"%s -%c ", b" !" if inverted else b"", <int> letter)
    for i in range(16):
        if mask[i]:
            if name[i]:
                putchar(name[i])
        else:
            if name[i - 1]:
                putchar(b'+')
            break


cdef void _render_body(void *arg) noexcept nogil:
    """Print a rule as `iptables -S` does, without `-A CHAIN`."""
    cdef RenderCall *call = <RenderCall *> arg
    cdef Family *family = call.family
    cdef const char *entry = call.entry
    cdef const char *interface = entry + 4 * family.address
    cdef const unsigned char *flags = <const unsigned char *> entry + family.flags
    cdef int proto = (<const uint16_t *> (entry + family.proto))[0]
    cdef const char *name
    cdef RenderItem *item
    cdef size_t i
    _render_address(family, entry, 0, b's', flags[1] & IPT_INV_SRCIP)
    _render_address(family, entry, 1, b'd', flags[1] & IPT_INV_DSTIP)
    _render_interface(interface, <const unsigned char *> interface + 32, b'i', flags[1] & IPT_INV_VIA_IN, call.by_mask)
    _render_interface(interface + 16, <const unsigned char *> interface + 48, b'o', flags[1] & IPT_INV_VIA_OUT,
                      call.by_mask)
    if proto:
        name = _protocol_name(proto, call.by_mask)
        if name != NULL:
            printf(b"%s -p %s", b" !" if flags[1] & IPT_INV_PROTO else b"", name)
        else:
            printf(b"%s -p %u", b" !" if flags[1] & IPT_INV_PROTO else b"", <unsigned int> proto)
    if family.nfproto == NFPROTO_IPV4 and flags[0] & IPT_F_FRAG:
        printf(b"%s -f", b" !" if flags[1] & IPT_INV_FRAG else b"")
    for i in range(call.count):
        item = &call.items[i]
        name = item.alias
        if i + 1 < call.count:
            printf(b" -m %s", name)
        elif item.c == NULL and is_verdict(item.payload):
            if name[0]:
                printf(b" -%c %s", <int> (b'g' if flags[0] & family.goto_flag else b'j'), name)
            continue
        else:
            printf(b" -j %s", name)
        if item.c == NULL:
            printf(b" [%u bytes of unknown data]", <unsigned int> (item.payload.u.match_size - PAYLOAD_HEADER))
        elif item.c.save != NULL:
            item.c.save(entry, item.payload)


cdef const char *_protocol_name(int proto, bint look_up) noexcept nogil:
    cdef size_t i = 0
    cdef protoent *found
    while xtables_chain_protos[i].name != NULL:
        if xtables_chain_protos[i].num == proto:
            return xtables_chain_protos[i].name
        i += 1
    if look_up:
        found = getprotobynumber(proto)
        if found != NULL:
            return found.p_name
    return NULL


def render(int nfproto, bytes entry):
    """Return *entry* as `iptables-save` prints it, without `-A CHAIN` in front."""
    cdef RenderCall call
    cdef RenderItem items[256]
    cdef size_t length, i
    cdef const char *text
    cdef Plugin plugin
    cdef const xt_entry_match *raw
    cdef list names = []
    _, payloads = split_entry(nfproto, entry)
    call.family = family_of(nfproto)
    call.entry = entry
    call.items = items
    call.count = len(payloads)
    call.by_mask = prints_by_mask()
    if call.count > 256:
        raise ParameterError("more than 255 matches in one rule")
    for i in range(call.count):
        raw = <const xt_entry_match *> PyBytes_AS_STRING(payloads[i])
        plugin = None
        if i + 1 < call.count or not is_verdict(raw):
            plugin = _find_for_payload(i + 1 == call.count, nfproto, raw)
        items[i].payload = raw
        items[i].c = plugin.c if plugin is not None else NULL
        if plugin is not None and plugin.c.alias != NULL:
            items[i].alias = plugin.c.alias(raw)
        else:
            items[i].alias = <const char *> raw.u.user.name
    _use_family(nfproto)
    _run(_render_body, &call)
    text = shim_out(&length)
    return _text(text, length).lstrip(" ")


cdef int _by_mask = -1


cdef bint prints_by_mask():
    """Whether this host's iptables prints interfaces from their masks and protocols from /etc/protocols (1.8.9)."""
    global _by_mask
    if _by_mask < 0:
        _by_mask = _old_library()
    return _by_mask


cdef extern from *:
    """
    #include <dlfcn.h>
    /* 1.8.11 moved xtables_parse_interface out of the library */
    static int _old_library(void) { return dlsym(RTLD_DEFAULT, "xtables_parse_interface") != NULL; }
    """
    int _old_library() nogil
