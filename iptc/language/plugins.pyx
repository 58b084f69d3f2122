# cython: freethreading_compatible=False
"""The plugins of libxtables: finds them for both families, guards every call of them, and reads the text that they
save.

libxtables and its plugins keep state in global variables: the family, getopt's variables, what they printed. The GIL
protects that state, so no function here releases the GIL while a plugin runs. A name that has to be looked up ends the
plugin's code. The name is looked up without the GIL, and the plugin's code is run again. Another C user of libxtables
in the same process is not protected.
"""

import os
import warnings
from time import monotonic

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINVAL, ENOENT, ENOPROTOOPT, EPERM, EPROTONOSUPPORT
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset, strcmp, strlen, strncmp
from posix.unistd cimport close

from .._linux cimport (
    AF_INET, AF_INET6, IPPROTO_RAW, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_RAW, errno_now, getsockopt, nlmsghdr, recv,
    send, socket, socklen_t,
)
from .._core cimport (
    PAYLOAD_HEADER, NFLOG_LONG_ROOM, NFLOG_LONG_SIZE, NFLOG_PREFIX, NFLOG_ROOM, NFLOG_SIZE, NFPROTO_IPV4, NFPROTO_IPV6,
    XT_EXTENSION_MAXNAMELEN, Family, c_text, family_of, is_long_nflog, os_encode,
)
from .._core import environment
from .words import split_words
from .._netlink cimport (
    NLMSG_ERROR, Channel, Message, channel_close, channel_open, message_begin, message_end, message_next,
    message_scan, put_be32, put_text,
)
from ..errors import (
    AccessDenied, ParameterError, Unsupported, XTablesError, XTablesWarning, is_passing, kernel_error,
)

cdef extern from "shim.h" nogil:
    enum:
        IPT_SO_GET_REVISION_MATCH
        IPT_SO_GET_REVISION_TARGET
        IP6T_SO_GET_REVISION_MATCH
        IP6T_SO_GET_REVISION_TARGET
        XTABLES_VERSION_CODE
    struct xt_get_revision:
        char name[29]
        uint8_t revision

cdef extern from *:
    """
    #include <linux/netfilter/nf_tables_compat.h>
    #include <sys/socket.h>
    """
    enum:
        NFNL_MSG_COMPAT_GET
        NFNL_SUBSYS_NFT_COMPAT
        NFTA_COMPAT_NAME
        NFTA_COMPAT_REV
        NFTA_COMPAT_TYPE

cdef extern from "division.h" nogil:
    bint division_in(const char *path)

cdef extern from "libxtables.h" nogil:
    LibXTables the_library "libxtables"
    enum:
        LIBXTABLES_ABSENT
        LIBXTABLES_FAILED
        LIBXTABLES_FOREIGN
    int libxtables_error()
    const char *libxtables_path()
    const char *libxtables_why()
    const char *libxtables_folders()
    size_t libxtables_option_size()

cdef extern from "shim.h" nogil:
    void shim_refuse(int status, const char *format, ...)
    const char *XTABLES_VERSION

libxtables = &the_library
xtables_error = shim_refuse

LIBRARY_MAJOR = XTABLES_VERSION_CODE


# ------------------------------------------------------------------- the library

cdef int _family_now = -1        # -1 until libxtables is loaded
cdef str _unusable = None        # why it could not be loaded when that was last tried
cdef double _looked_for = 0

cdef str _INSTALL = "install the package iptables (iptables-nft on Fedora)"


cdef int use_family(int nfproto) except -1:
    """Set the family of libxtables (2 or 10), which plugins use to read and print addresses. The first call loads it.

    Raises `Unsupported` if libxtables is not installed, or is a release that we do not know.
    """
    global _family_now
    if _family_now != nfproto:
        if _family_now == -1:
            _load_library()
        libxtables.set_nfproto(nfproto)
        _family_now = nfproto
    return 0


cdef int _load_library() except -1:
    global _unusable, _looked_for
    cdef int failed
    if _unusable is not None and monotonic() - _looked_for < 1:
        raise Unsupported(_unusable)
    failed = shim_init()
    if failed == 0:
        return 0
    if failed == SHIM_IDS_DIFFER:
        what = "libxtables refuses to work for a program whose real user is not its effective one"
        raise AccessDenied(what, EPERM, "Operation not permitted")
    file = os.fsdecode(XTABLES_VERSION)
    path = os.fsdecode(libxtables_path()) or file
    why = os.fsdecode(libxtables_why())
    if failed == LIBXTABLES_ABSENT:
        message = f"{file} is not there, and rules are read and printed with it: {_INSTALL}"
    elif failed == LIBXTABLES_FOREIGN:
        message = f"{path} is no libxtables of iptables {SUPPORTED}, and rules are read and printed with that: {why}"
    elif failed == LIBXTABLES_FAILED:
        if is_passing(libxtables_error()):
            raise kernel_error(f"can't load {file}", libxtables_error(), os.strerror(libxtables_error()))
        message = f"{file} can't be loaded, and rules are read and printed with it ({why}): {_INSTALL}"
    else:
        raise XTablesError(f"libxtables could not be set up: {said()}")
    _looked_for = monotonic()
    _unusable = message
    raise Unsupported(message)


SUPPORTED = "1.8.7 to 1.8.13"


cdef bint library_there() except -1:
    """Whether libxtables can be used. Rules that need no plugin are printed without it too."""
    if _family_now == -1:
        try:
            use_family(NFPROTO_IPV4)
        except Unsupported:
            return False
    return True


# ------------------------------------------------------------------- the guard

cdef str text_of(const char *text, size_t length):
    return text[:length].decode("utf-8", "surrogateescape")


cdef str said():
    """Return why the last guarded call failed: libxtables' message, or else what was printed to stderr.

    Raises `MemoryError` if an allocation had failed.
    """
    cdef size_t length
    cdef const char *printed = shim_err(&length)
    cdef const char *message = shim_message()
    cdef str text
    if shim_refused_with() == SHIM_OUT_OF_MEMORY:
        raise MemoryError
    text = text_of(message, strlen(message)).strip()
    if length:
        text = f"{text_of(printed, length).strip()}: {text}"
    return text


cdef int refused_with() noexcept nogil:
    """Return the exit status with which iptables' tools refuse what the last guarded call refused."""
    return shim_refused_with()


cdef int captured(void (*body)(void *) noexcept nogil, void *arg, Names *looked) noexcept nogil:
    """Run *body* inside the guard, and catch what it prints. Return 0, or -1 with the reason in `said`.

    If `looked.wanted` is set, *body* ended because of a name that *looked* does not have. The caller calls `look_up`,
    and runs *body* again with the original arguments.
    """
    cdef int failed
    names_use(looked)
    failed = shim_capture(body, arg)
    names_use(NULL)
    return failed


cdef void begin_names(Names *looked) noexcept nogil:
    """Begin an operation during which each name is looked up once. `end_names` ends it."""
    names_begin(looked)


cdef void end_names(Names *looked) noexcept nogil:
    names_end(looked)


cdef int look_up(Names *looked) except -1:
    """Look up the name that ended the last body. Other threads run meanwhile, and may run bodies of their own."""
    cdef NameAnswer *found
    with nogil:
        found = names_ask(&looked.question)
    if found == NULL or names_keep(looked, found) < 0:
        raise MemoryError
    PyErr_CheckSignals()
    return 0


cdef void print_text(const char *text, size_t length) noexcept nogil:
    """Inside `captured`: print *text* to the stream that plugins use as stdout."""
    shim_print(text, length)


cdef void warn_text(const char *text) noexcept nogil:
    """Inside `captured`: print *text* to the stream that plugins use as stderr."""
    shim_warn(text)


cdef const char *printed_text(size_t *length) noexcept nogil:
    """Return what was printed to stdout during `captured`. It stays until the next call."""
    return shim_out(length)


cdef void expect_fault() noexcept nogil:
    """Inside `captured`: from now on treat SIGFPE as a refusal by the plugin."""
    shim_trap_sigfpe()


cdef int run_guarded(void (*body)(void *) noexcept nogil, void *arg) except -1:
    """Run *body* inside the guard; it may be run several times. A refusal raises `ParameterError`, and each line on
    stderr becomes a Python warning."""
    _run(body, arg)
    return warn_of_what_was_said()


cdef int _run(void (*body)(void *) noexcept nogil, void *arg) except -1:
    cdef Names looked
    names_begin(&looked)
    try:
        while captured(body, arg, &looked) != 0:
            if not looked.wanted:
                raise ParameterError(said())
            look_up(&looked)
    finally:
        names_end(&looked)
    return 0


cdef bytes output_of(void (*body)(void *) noexcept nogil, void *arg):
    """Run *body* inside the guard; it may be run several times. Return what it printed to stdout."""
    cdef size_t length
    cdef const char *printed
    cdef bytes text
    _run(body, arg)
    printed = shim_out(&length)
    text = printed[:length]
    # at the end, since a warning runs Python code, and then another thread may print a rule
    warn_of_what_was_said()
    return text


cdef bint warned() noexcept nogil:
    """Inside `captured`: whether anything was printed to stderr."""
    cdef size_t length
    shim_err(&length)
    return length != 0


cdef int warn_of_what_was_said() except -1:
    """Make a Python warning of each line that the last guarded call printed to stderr."""
    cdef size_t length
    cdef const char *printed = shim_err(&length)
    if length:
        for line in dict.fromkeys(text_of(printed, length).strip().splitlines()):
            warnings.warn(line, XTablesWarning, stacklevel=2)
    return 0


# ----------------------------------------------------------- calls of a plugin

cdef void parse_body(void *arg) noexcept nogil:
    cdef ParseCall *call = <ParseCall *> arg
    shim_keep_copies()
    shim_lend(call.data, (sizeof(xt_entry_match) + call.c.size + 7) & ~<size_t> 7)
    if call.divides:
        shim_trap_sigfpe()
    if call.c.x6_parse != NULL:
        call.c.x6_parse(&call.guided)
    elif call.c.parse != NULL:
        call.c.parse(call.val, call.argv, call.negated, call.flags, call.guided.xt_entry, &call.data)


cdef void _init_body(void *arg) noexcept nogil:
    cdef DataCall *call = <DataCall *> arg
    if call.divides:
        shim_trap_sigfpe()
    memset(call.data.data, 0, call.c.size)
    call.c.init(call.data)


cdef void check_body(void *arg) noexcept nogil:
    cdef DataCall *call = <DataCall *> arg
    cdef xt_fcheck_call guided
    if call.divides:
        shim_trap_sigfpe()
    if call.c.x6_fcheck != NULL:
        guided.ext_name = call.c.name
        guided.data = call.data.data
        guided.udata = call.udata
        guided.xflags = call.flags
        call.c.x6_fcheck(&guided)
    elif call.c.final_check != NULL:
        call.c.final_check(call.flags)
    if call.c.x6_options != NULL:
        libxtables.options_fcheck(call.c.name, call.flags, call.c.x6_options)


cdef void _alias_body(void *arg) noexcept nogil:
    cdef DataCall *call = <DataCall *> arg
    if call.divides:
        shim_trap_sigfpe()
    call.entry = call.c.alias(call.data)


cdef void _save_body(void *arg) noexcept nogil:
    cdef DataCall *call = <DataCall *> arg
    if call.divides:
        shim_trap_sigfpe()
    call.c.save(call.entry, call.data)


# ------------------------------------------------------------------- the plugins

cdef class Option:
    """One option of a plugin."""


cdef class Plugin:
    """One revision of a match or target, as a plugin has registered it."""

    cdef dict options(self):
        """Return {name: Option}. It is made once."""
        cdef Option item
        cdef OptionRow *row
        cdef size_t i
        if self._options is None:
            options = {}
            for i in range(self.row.count):
                row = &self.row.options[i]
                item = Option.__new__(Option)
                item.entry = row.entry
                item.val = row.val
                _name_option(options, item, row.name, row.has_arg)
            self._options = options
        return self._options

    @property
    def option_names(self):
        """The names of the options, without the dashes."""
        return list(self.options())

    @property
    def divides(self):
        """Whether its code divides integers, and so may divide by zero."""
        return self.row.divides

    # guarded calls of its functions

    cdef int init(self, int nfproto, xt_entry_match *data) except -1:
        """Let the plugin write its defaults into *data*."""
        cdef DataCall call
        if self.c.init != NULL:
            use_family(nfproto)
            call.c = self.c
            call.divides = self.row.divides
            call.data = data
            run_guarded(_init_body, &call)
        return 0

    cdef int parse(self, int nfproto, Option item, int words, ParseCall *call, Names *looked) except? -1:
        """Let the plugin read option *item* with its *words*, which are in *call*. Return how many words it used.

        If `looked.wanted` is set, nothing was read: a name must be looked up first.
        """
        # an old parser may take words for an option that has no argument according to its table
        cdef int ready = 1 if words and item.has_arg else 0
        cdef int failed, used
        use_family(nfproto)
        call.c = self.c
        call.divides = self.row.divides
        shim_set_getopt(call.argv[2] if ready else NULL, 2 + ready)
        failed = captured(parse_body, call, looked)
        # before any warning: it runs Python code, and then another thread may parse
        used = shim_get_optind() - 2
        shim_set_getopt(NULL, 1)
        if looked.wanted:
            return 0
        if failed:
            raise ParameterError(said())
        warn_of_what_was_said()
        return used

    cdef int check(self, int nfproto, xt_entry_match *data, void *udata, unsigned int flags, Names *looked) except -1:
        """Let the plugin check and complete *data*, into which the options *flags* were read.

        If `looked.wanted` is set, the check did not finish: a name must be looked up first.
        """
        cdef DataCall call
        call.c = self.c
        call.divides = self.row.divides
        call.data = data
        call.udata = udata
        call.flags = flags
        use_family(nfproto)
        if captured(check_body, &call, looked) == 0:
            return warn_of_what_was_said()
        if not looked.wanted:
            raise ParameterError(said())
        return 0

    cdef str alias(self, const xt_entry_match *payload):
        """Return the name under which *payload* is printed: an alias of the plugin, or the plugin's own name."""
        cdef DataCall call
        if self.c.alias == NULL:
            return self.name
        call.c = self.c
        call.divides = self.row.divides
        call.data = <xt_entry_match *> payload
        run_guarded(_alias_body, &call)
        return (<const char *> call.entry).decode()

    cdef bytes save(self, int nfproto, const void *entry, const xt_entry_match *payload):
        """Return what the plugin prints for *payload*, which is a part of the rule *entry*; b"" if it prints
        nothing."""
        cdef DataCall call
        if self.c.save == NULL:
            return b""
        use_family(nfproto)
        call.c = self.c
        call.divides = self.row.divides
        call.entry = entry
        call.data = <xt_entry_match *> payload
        return output_of(_save_body, &call)


cdef int _read_options(PluginRow *plugin) except -1:
    """Collect the options of a plugin, from the table of the old or of the new parser."""
    cdef const option *row = plugin.c.extra_opts
    cdef size_t stride = libxtables_option_size(), count = 0, i, j
    cdef OptionRow *item
    if plugin.c.x6_options != NULL:
        count = _count_rows(plugin.c.x6_options, stride)
        _check_rows(plugin, count)
    elif row != NULL:
        while row[count].name != NULL:
            count += 1
    plugin.options = <OptionRow *> malloc((count + 1) * sizeof(OptionRow))
    if plugin.options == NULL:
        raise MemoryError
    plugin.count = count
    for i in range(count):
        item = &plugin.options[i]
        if plugin.c.x6_options != NULL:
            item.entry = <const xt_option_entry *> (<const char *> plugin.c.x6_options + i * stride)
            item.name = item.entry.name
            item.has_arg = 0 if item.entry.type == XTTYPE_NONE else 1
            item.val = item.entry.id
            # several names of one option are read with the row of the first, as libxtables does
            for j in range(i):
                if plugin.options[j].val == item.val:
                    item.entry = plugin.options[j].entry
                    break
            if item.entry.flags & XTOPT_MAND:
                plugin.mandatory |= 1 << item.entry.id
            if item.entry.also | item.entry.excl:
                plugin.constrained |= 1 << item.entry.id
        else:
            item.entry = NULL
            item.name = row[i].name
            item.has_arg = row[i].has_arg
            item.val = row[i].val
        item.length = strlen(item.name)
    return 0


cdef bint wants_check(const PluginRow *row, unsigned int given) noexcept nogil:
    """Whether the check function of the plugin may refuse a payload with these options *given*."""
    return (row.c.x6_fcheck != NULL or row.c.final_check != NULL
            or given & row.mandatory != row.mandatory or given & row.constrained != 0)


cdef enum:
    FAR = 1 << 24            # larger than any plugin


cdef size_t _count_rows(const xt_option_entry *table, size_t size) noexcept nogil:
    """Return the number of rows in *table*, or 0 if its rows do not have that *size*: the names must be near the
    table."""
    cdef const char *at = <const char *> table
    cdef const char *name
    cdef size_t count = 0
    while True:
        name = (<const xt_option_entry *> at).name
        if name == NULL:
            return count
        if not -FAR < name - at < FAR:
            return 0
        count += 1
        at += size


cdef int _check_rows(const PluginRow *plugin, size_t count) except -1:
    """Raise unless the rows of a plugin have the size that libxtables expects: otherwise they are of different
    releases."""
    cdef size_t size, step = sizeof(void *), ours = libxtables_option_size()
    for size in range(ours - 2 * step, ours + 3 * step, step):
        if size != ours and _count_rows(plugin.c.x6_options, size) > count:
            raise Unsupported(f"{text_of(plugin.c.name, strlen(plugin.c.name))} is of another release of iptables than "
                              f"{os.fsdecode(libxtables_path())}: install all of one release")
    return 0


cdef _name_option(dict found, Option item, const char *name, int has_arg):
    item.label = b"--" + name
    item.name = text_of(name, strlen(name))
    item.has_arg = has_arg
    found.setdefault(item.name, item)


cdef dict _registered = {}          # (is_target, name) -> [Plugin]
cdef dict _chosen = {}              # (is_target, nfproto, name, revision) -> Plugin or None
cdef list _preferred = [{}, {}, {}, {}]     # for each is_target and family: {name: the Plugin that is used for it}
cdef set _loaded = set()            # the real paths of the files that were loaded
cdef dict _supported = {}           # (is_target, nfproto, name, revision) -> bool


cdef bint _loading_divides = True   # whether the code of the file that is being loaded divides


cdef void _on_registered(int is_target, void *extension) noexcept:
    """Store an extension. The constructor of a plugin calls this."""
    cdef Plugin plugin = Plugin.__new__(Plugin)
    plugin.c = <const xtables_match *> extension
    plugin.is_target = is_target
    plugin.name = plugin.c.name.decode()
    plugin.real_name = plugin.c.real_name.decode() if plugin.c.real_name != NULL else None
    plugin.revision = plugin.c.revision
    plugin.family = plugin.c.family
    plugin.row.c = plugin.c
    plugin.row.size = PAYLOAD_HEADER + plugin.c.size
    plugin.row.divides = _loading_divides
    _registered.setdefault((bool(is_target), plugin.name), []).append(plugin)


def ask_elsewhere(int descriptor):
    """Set which network namespace the plugins ask that this thread calls, for example for the number of a set: that of
    the raw socket *descriptor*, or with -1 that of the thread. Return the old setting."""
    return shim_ask_elsewhere(descriptor)


def library_dirs():
    """Return the folders in which plugins are looked for: `XTABLES_LIBDIR`, `IPTABLES_LIBDIR`, or libxtables' own.

    The environment is ignored if the process has more rights than its user, by set-user-ID or file capabilities.
    """
    return (_named_dirs() or _built_in_dirs()).split(":")


cdef str _named_dirs():
    return environment("XTABLES_LIBDIR") or environment("IPTABLES_LIBDIR")


cdef str _built_in_dirs():
    """Return the folders in which libxtables looks for plugins, or else the folder beside libxtables."""
    use_family(_family_now if _family_now != -1 else NFPROTO_IPV4)
    return os.fsdecode(libxtables_folders()) or f"{os.path.dirname(os.fsdecode(libxtables_path()))}/xtables"


cdef dict _listings = {}        # folder -> (when it was listed, when it had changed, its files)


cdef _files_in(str folder):
    """Return the names in *folder*. They are listed at most once a second, since most names asked for are chains."""
    now = monotonic()
    looked, changed, names = _listings.get(folder, (None, None, frozenset()))
    if looked is None or now - looked > 1:
        try:
            state = os.stat(folder).st_mtime_ns
            if state != changed:
                names = frozenset(os.listdir(folder))
        except OSError as error:
            if is_passing(error.errno):
                raise kernel_error(f"can't read {folder}", error.errno, error.strerror) from None
            state, names = None, frozenset()
        _listings[folder] = now, state, names
    return names


cdef _load(int nfproto, str name):
    """Load the file with extension *name*, looking for it as libxtables does."""
    global _loading_divides
    cdef str prefix = "libipt_" if nfproto == NFPROTO_IPV4 else "libip6t_"
    cdef bint any_there = False
    cdef list folders = library_dirs()
    for folder in folders:
        names = _files_in(folder)
        for start in (prefix, "libxt_"):
            file = f"{start}{name}.so"
            if file not in names:
                continue
            path = os.path.realpath(f"{folder}/{file}")
            if path in _loaded:
                return
            if not os.path.exists(path):
                continue
            use_family(nfproto)
            encoded = os.fsencode(path)
            _loading_divides = division_in(encoded)
            if shim_load(encoded, _on_registered) != 0:
                message = shim_message()
                raise XTablesError(f"can't load {name}: {text_of(message, strlen(message)).strip()}")
            _loaded.add(path)
            return
        any_there = any_there or _has_plugins(names)
    if not any_there:
        where = ":".join(folders) + ("" if _named_dirs() is None else " (XTABLES_LIBDIR)")
        raise Unsupported(f"no extension of iptables is in {where}, and {name} may be one: {_INSTALL}")


cdef bint _has_plugins(names) except -1:
    """Whether any of *names*, which are names of files, is a plugin."""
    for name in names:
        if name.startswith("lib") and name.partition("_")[0] in _PREFIXES:
            return True
    return False


cdef int _ask_nf_tables(bint is_target, int nfproto, const char *name, int revision) noexcept:
    """Ask nf_tables (`NFNL_MSG_COMPAT_GET`). Return 0 if the kernel has this revision of an extension, else an
    errno."""
    cdef Channel channel
    cdef Message message
    cdef size_t start
    cdef ssize_t length
    cdef int failed = channel_open(&channel, -1)
    if failed:
        return failed
    start = message_begin(&channel.request, NFNL_MSG_COMPAT_GET, 0, nfproto, 0)
    put_text(&channel.request, NFTA_COMPAT_NAME, name)
    put_be32(&channel.request, NFTA_COMPAT_REV, revision)
    put_be32(&channel.request, NFTA_COMPAT_TYPE, is_target)
    message_end(&channel.request, start)
    failed = EINVAL
    if not channel.request.failed:
        (<nlmsghdr *> (channel.request.memory + start)).nlmsg_type = NFNL_SUBSYS_NFT_COMPAT << 8 | NFNL_MSG_COMPAT_GET
        length = send(channel.held.fd, channel.request.memory, channel.request.length, 0)
        if length > 0:
            length = recv(channel.held.fd, channel.inbox.memory, channel.inbox.room, MSG_DONTWAIT)
        if length < 0:
            failed = errno_now
        elif length >= <ssize_t> sizeof(nlmsghdr):
            failed = 0
            message_scan(&message, channel.inbox.memory, length)
            if message_next(&message) and message.kind == -NLMSG_ERROR and message.length >= 4:
                failed = -(<const int *> message.attributes)[0]
    channel_close(&channel)
    return failed


cdef bint _kernel_has(bint is_target, int nfproto, str name, int revision) except -1:
    """Whether the kernel has a revision of an extension (`IPT_SO_GET_REVISION_MATCH` and the like).

    Revision 0 counts as present even if the kernel says no.
    """
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
        _check_passing(name, errno_now)
        return True              # without privilege the kernel cannot be asked. Nothing can be written either
    memset(&request, 0, sizeof(request))
    memcpy(request.name, PyBytes_AS_STRING(label), min(PyBytes_GET_SIZE(label), 28))
    request.revision = revision
    if nfproto == NFPROTO_IPV4:
        option = IPT_SO_GET_REVISION_TARGET if is_target else IPT_SO_GET_REVISION_MATCH
    else:
        option = IP6T_SO_GET_REVISION_TARGET if is_target else IP6T_SO_GET_REVISION_MATCH
    failed = errno_now if getsockopt(fd, family.level, option, &request, &length) < 0 else 0
    close(fd)
    if failed == ENOPROTOOPT:
        failed = _ask_nf_tables(is_target, nfproto, label, revision)      # this kernel has no ip_tables
    if not failed:
        _supported[key] = True
    elif failed in (ENOENT, EPROTONOSUPPORT, ENOPROTOOPT, EINVAL):
        _supported[key] = revision == 0
    else:
        _check_passing(name, failed)
        return True
    return _supported[key]


cdef int _check_passing(str name, int failed) except -1:
    """Raise if *failed* is a passing error: the answer is remembered, so it must not be a guess."""
    if is_passing(failed):
        raise kernel_error(f"can't ask for extension {name}", failed, os.strerror(failed))
    return 0


cdef Plugin find(bint is_target, int nfproto, str name, revision):
    """Return the plugin for *name*, or None: the *revision*, or if that is None the best one that the kernel has."""
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
    if PyBytes_GET_SIZE(os_encode(name)) >= XT_EXTENSION_MAXNAMELEN:
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
    if len(_chosen) > 4096:      # names that are no extension come from users, and may be endless
        _chosen.clear()
    _chosen[key] = chosen
    if chosen is not None and chosen.row.options == NULL:
        use_family(nfproto)
        _read_options(&chosen.row)
    if revision is None and chosen is not None:
        preferred[asked] = chosen
    return chosen


cdef list _candidates(bint is_target, int nfproto, str name):
    """Return the plugins with that name for this family, the preferred first: aliases, high revisions, its own
    family."""
    cdef list found = []
    for plugin in _registered.get((is_target, name), ()):
        if plugin.family in (nfproto, NFPROTO_UNSPEC):
            found.append(plugin)
    found.sort(key=_preference, reverse=True)
    return found


def _preference(Plugin plugin):
    return plugin.real_name is not None, plugin.revision, plugin.family != NFPROTO_UNSPEC


def find_match(int nfproto, str name, revision=None):
    """Return the `Plugin` of match *name*, or None. *revision* None means the best one that the kernel has."""
    return find(False, nfproto, name, revision)


def find_target(int nfproto, str name, revision=None):
    """Return the `Plugin` of target *name*, or None. *revision* None means the best one that the kernel has."""
    return find(True, nfproto, name, revision)


def has_target(int nfproto, str name not None):
    """Whether *name* is a target of an installed extension. Then it cannot be the name of a chain."""
    try:
        return find(True, nfproto, name, None) is not None
    except Unsupported:
        return False            # no extensions are installed


cdef set _all_options = None        # the names of the options of all installed extensions, once they were needed


cpdef bint is_option(str name) except -1:
    """Whether any installed extension, of either family, has an option *name*.

    The first name that no loaded extension has loads all installed extensions.
    """
    global _all_options
    if _all_options is not None:
        return name in _all_options
    if name in _options_in_use():
        return True
    if not library_there():
        return False
    for folder in library_dirs():
        for file in sorted(_files_in(folder)):
            start, _, rest = file.partition("_")
            if start not in _PREFIXES or not rest.endswith(".so"):
                continue
            try:
                _load(_PREFIXES[start], rest.removesuffix(".so"))
            except XTablesError:
                pass            # a plugin that cannot be loaded has no options
    _all_options = _options_in_use()
    return name in _all_options


cdef dict _PREFIXES = {"libxt": NFPROTO_IPV4, "libipt": NFPROTO_IPV4, "libip6t": NFPROTO_IPV6}


cdef set _options_in_use():
    """Return the names of the options of all loaded plugins."""
    cdef set names = set()
    cdef Plugin plugin
    for plugins in _registered.values():
        for plugin in plugins:
            if plugin.row.options == NULL:
                use_family(plugin.family if plugin.family != NFPROTO_UNSPEC else NFPROTO_IPV4)
                _read_options(&plugin.row)
            names.update(plugin.options())
    return names


# The results of `find`, for code that runs without Python: a hash table with open addressing, for names of at most 28
# bytes.
cdef struct Slot:
    bint used
    uint32_t hash
    int16_t revision
    uint8_t kind
    char name[29]
    PluginRow *row

cdef enum:
    MOST_SLOTS = 1 << 17

cdef Slot *_slots = NULL
cdef size_t _slot_room = 0       # a power of two
cdef size_t _slots_used = 0


cdef inline uint32_t _hash_of(int kind, const char *name, int revision) noexcept nogil:
    cdef uint32_t hash = 2166136261u ^ <uint32_t> (kind + 16 * (revision + 1))
    while name[0]:
        hash = (hash ^ <unsigned char> name[0]) * 16777619
        name += 1
    return hash


cdef inline uint8_t _kind_of(bint is_target, int nfproto) noexcept nogil:
    return 2 * is_target + (nfproto == NFPROTO_IPV4)


cdef Slot *_slot_of(uint8_t kind, const char *name, int revision) noexcept nogil:
    """Return the slot of *name*, or the empty slot where it belongs."""
    cdef uint32_t hash = _hash_of(kind, name, revision)
    cdef size_t at = hash & (_slot_room - 1)
    cdef Slot *slot
    while True:
        slot = &_slots[at]
        if not slot.used or (slot.hash == hash and slot.kind == kind and slot.revision == revision
                             and strcmp(slot.name, name) == 0):
            slot.hash = hash
            return slot
        at = (at + 1) & (_slot_room - 1)


cdef bint known(bint is_target, int nfproto, const char *name, int revision, PluginRow **row) noexcept nogil:
    cdef Slot *slot
    if _slot_room == 0:
        return False
    slot = _slot_of(_kind_of(is_target, nfproto), name, revision)
    if not slot.used:
        return False
    row[0] = slot.row
    return True


cdef int learn(bint is_target, int nfproto, const char *name, int revision, bint may_be_none=False) except -1:
    """Find plugin *name* (at most 28 bytes) and store it for `known`. *name* may change meanwhile.

    *may_be_none*: it is no error if no plugins are installed at all; then there is no such plugin.
    """
    global _slots, _slot_room, _slots_used
    cdef bytes label = name
    cdef Plugin plugin = None
    cdef Slot *old
    cdef Slot *slot
    cdef size_t i, room
    try:
        plugin = find(is_target, nfproto, text_of(label, PyBytes_GET_SIZE(label)),
                      None if revision == PREFERRED else revision)
    except Unsupported:
        if not may_be_none:
            raise
    old = _slots
    room = _slot_room
    if 2 * (_slots_used + 1) > _slot_room:
        # names come from users, and may be endless: when there are too many, all are forgotten
        _slots = <Slot *> calloc(2 * room if 0 < room < MOST_SLOTS else 1024, sizeof(Slot))
        if _slots == NULL:
            _slots = old
            raise MemoryError
        _slot_room = 2 * room if 0 < room < MOST_SLOTS else 1024
        if room < MOST_SLOTS:
            for i in range(room):
                if old[i].used:
                    slot = _slot_of(old[i].kind, old[i].name, old[i].revision)
                    slot[0] = old[i]
        else:
            _slots_used = 0
        free(old)
    slot = _slot_of(_kind_of(is_target, nfproto), label, revision)
    if not slot.used:
        slot.used = True
        slot.revision = revision
        slot.kind = _kind_of(is_target, nfproto)
        memcpy(slot.name, PyBytes_AS_STRING(label), PyBytes_GET_SIZE(label) + 1)
        _slots_used += 1
    slot.row = &plugin.row if plugin is not None else NULL
    return 0


cdef Plugin find_for_payload(bint is_target, int nfproto, const xt_entry_match *payload):
    """Return the plugin that made a payload, by the name and revision in it, or None if no plugin can read it."""
    cdef Plugin plugin
    cdef size_t length = 0
    while length < sizeof(payload.u.user.name) and payload.u.user.name[length]:
        length += 1
    try:
        plugin = find(is_target, nfproto, text_of(payload.u.user.name, length), payload.u.user.revision)
    except (XTablesError, Unsupported):
        return None
    return plugin if plugin is not None and fits(&plugin.row, payload) else None


cdef bint fits(const PluginRow *row, const xt_entry_match *payload) noexcept nogil:
    """Whether the plugin of *row* can print a payload of this size."""
    if row.size == payload.u.match_size:
        return True
    # NFLOG prints the prefix up to its NUL, so a longer one can be printed too
    return is_long_nflog(payload)


cdef bint _has_long_prefix(const PluginRow *row) noexcept nogil:
    """Whether the plugin is NFLOG since 1.8.8: it stores a prefix of up to 127 characters in its `udata`."""
    return row.size == NFLOG_SIZE and row.c.udata_size == NFLOG_LONG_ROOM and strcmp(row.c.name, b"NFLOG") == 0


cdef size_t payload_room(const PluginRow *row) noexcept nogil:
    """Return the size that a payload of the plugin may reach."""
    return NFLOG_LONG_SIZE if _has_long_prefix(row) else row.size


cdef void take_long_prefix(const PluginRow *row, xt_entry_match *payload, const char *udata) noexcept nogil:
    """Copy the prefix from *udata* into the payload, which has `payload_room` bytes: the plugin's structure is too
    small."""
    cdef char *prefix = <char *> payload.data + NFLOG_PREFIX
    if not _has_long_prefix(row):
        return
    memset(<char *> payload + NFLOG_SIZE, 0, NFLOG_LONG_SIZE - NFLOG_SIZE)
    payload.u.match_size = NFLOG_SIZE
    if udata[NFLOG_LONG_ROOM - 1] == 0 and strlen(udata) >= NFLOG_ROOM and strncmp(udata, prefix, NFLOG_ROOM - 1) == 0:
        memcpy(prefix, udata, NFLOG_LONG_ROOM - 1)
        payload.u.match_size = NFLOG_LONG_SIZE


# ---------------------------------------------- what libxtables knows of iptables

cdef struct ProtocolCall:
    const char *name
    uint16_t number


cdef void _protocol_body(void *arg) noexcept nogil:
    cdef ProtocolCall *call = <ProtocolCall *> arg
    call.number = libxtables.parse_protocol(call.name)


def parse_protocol(str name):
    """Return the number of protocol *name* as iptables' `-p` reads it."""
    cdef ProtocolCall call
    cdef bytes text = c_text(name, "a protocol")
    call.name = text
    use_family(_family_now if _family_now != -1 else NFPROTO_IPV4)
    run_guarded(_protocol_body, &call)
    return call.number


cdef const char *protocol_name(int proto, bint ask) noexcept nogil:
    """Inside `captured`: return the name of a protocol that libxtables has, or with *ask* also a name from this host's
    database (/etc/protocols), or NULL."""
    cdef size_t i = 0
    cdef protoent *found
    while libxtables.chain_protos[i].name != NULL:
        if libxtables.chain_protos[i].num == proto:
            return libxtables.chain_protos[i].name
        i += 1
    if ask:
        found = names_protocol(proto)
        if found != NULL:
            return found.p_name
    return NULL


cdef bint prints_by_mask() except -1:
    """Whether this host's iptables is 1.8.9 or older: it prints interfaces by their masks, and protocols by
    /etc/protocols.

    False if no iptables is installed.
    """
    # xtables_strtoul_base came with 1.8.11, like the new way of printing
    return library_there() and libxtables.strtoul_base == NULL


cdef bint reads_compat_only() except -1:
    """Whether this host's iptables-nft is older than 1.8.8, and reads matches only from compat expressions."""
    # xtables_strdup came with 1.8.8, like the new way of reading
    return library_there() and libxtables.strdup == NULL


# ------------------------------------------------------------- words of saved text

cdef list read_saved(dict options, bytes text):
    """Return [(Option, negated, words)] for the text that a plugin's save function has printed."""
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
            if word == b"!" and not quoted:      # a few plugins print the negation after the option
                entries[-1] = (item, True, [])
                i += 1
            if i < count:
                entries[-1][2].append(words[i][0])
                i += 1
    return entries
