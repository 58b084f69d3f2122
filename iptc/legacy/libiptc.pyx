# cython: freethreading_compatible=False
"""libiptc: the library that `iptables` itself reads and writes legacy tables with, bound for both families.

`libip4tc` and `libip6tc` have the same functions under other names. They are loaded when the first table is opened, and
looked up once into one table of function pointers for each family. A `Handle` is a table that was read (`iptc_init`),
is edited in memory, and replaces the table in the kernel with `commit`. Its verbs are those of `legacy.draft.Draft`,
and so are its errors.

libiptc loses two things that a draft keeps: a commit zeroes the counters of the policies, and what rules count while
the table is replaced is not given back exactly.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EBADF, ENOENT
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from .._linux cimport errno_now
from .._core cimport (
    NFPROTO_IPV4, XT_EXTENSION_MAXNAMELEN, Family, check_entry, family_of, os_decode,
    target_offset, xt_counters,
)
from .._applied cimport APPLIED, Mark
from .._netns cimport Namespace, call_in, cookie_of_socket
from .blob cimport entry_of, stored, table_label
from .._core import chain_label, text_bytes
from ..errors import KernelError, Unsupported, is_passing, kernel_error
from .blob import table_strerror

# The functions of libiptc that are used here. A function that returns int returns 0 if it fails, and sets errno.
cdef extern from * nogil:
    """
    #include "library.h"

    struct xtc_handle;
    struct xt_counters;

    struct libiptc {
        struct xtc_handle *(*init)(const char *table);
        void (*free)(struct xtc_handle *h);
        const char *(*first_chain)(struct xtc_handle *h);
        const char *(*next_chain)(struct xtc_handle *h);
        const void *(*first_rule)(const char *chain, struct xtc_handle *h);
        const void *(*next_rule)(const void *previous, struct xtc_handle *h);
        const char *(*get_target)(const void *entry, struct xtc_handle *h);
        const char *(*get_policy)(const char *chain, struct xt_counters *counters, struct xtc_handle *h);
        int (*is_chain)(const char *chain, struct xtc_handle *h);
        int (*append_entry)(const char *chain, const void *entry, struct xtc_handle *h);
        int (*insert_entry)(const char *chain, const void *entry, unsigned int position, struct xtc_handle *h);
        int (*replace_entry)(const char *chain, const void *entry, unsigned int position, struct xtc_handle *h);
        int (*delete_num_entry)(const char *chain, unsigned int position, struct xtc_handle *h);
        int (*flush_entries)(const char *chain, struct xtc_handle *h);
        int (*zero_entries)(const char *chain, struct xtc_handle *h);
        int (*zero_counter)(const char *chain, unsigned int number, struct xtc_handle *h);
        int (*create_chain)(const char *chain, struct xtc_handle *h);
        int (*delete_chain)(const char *chain, struct xtc_handle *h);
        int (*rename_chain)(const char *chain, const char *name, struct xtc_handle *h);
        int (*set_policy)(const char *chain, const char *policy, struct xt_counters *counters, struct xtc_handle *h);
        int (*commit)(struct xtc_handle *h);
        const char *(*strerror)(int error);
    };

    static const struct library_symbol libiptc_functions[] = {
    #define FUNCTION(name) {#name, offsetof(struct libiptc, name), 0}
        FUNCTION(init), FUNCTION(free), FUNCTION(first_chain), FUNCTION(next_chain), FUNCTION(first_rule),
        FUNCTION(next_rule), FUNCTION(get_target), FUNCTION(get_policy), FUNCTION(is_chain), FUNCTION(append_entry),
        FUNCTION(insert_entry), FUNCTION(replace_entry),
        FUNCTION(delete_num_entry), FUNCTION(flush_entries), FUNCTION(zero_entries), FUNCTION(zero_counter),
        FUNCTION(create_chain), FUNCTION(delete_chain), FUNCTION(rename_chain), FUNCTION(set_policy), FUNCTION(commit),
        FUNCTION(strerror),
    #undef FUNCTION
    };

    /* Fill *functions with the functions of *library*, whose names begin with *prefix*. Return 0 or -1. */
    static int libiptc_load(struct libiptc *functions, const char *library, const char *prefix,
                            struct library_failure *why)
    {
        return library_load(library, RTLD_NOW, prefix, libiptc_functions,
                            sizeof(libiptc_functions) / sizeof(libiptc_functions[0]), functions, why) != NULL ? 0 : -1;
    }
    """
    struct xtc_handle:
        pass

    struct libiptc:
        xtc_handle *(*init)(const char *table) noexcept nogil
        void (*free)(xtc_handle *h) noexcept nogil
        const char *(*first_chain)(xtc_handle *h) noexcept nogil
        const char *(*next_chain)(xtc_handle *h) noexcept nogil
        const void *(*first_rule)(const char *chain, xtc_handle *h) noexcept nogil
        const void *(*next_rule)(const void *previous, xtc_handle *h) noexcept nogil
        const char *(*get_target)(const void *entry, xtc_handle *h) noexcept nogil
        const char *(*get_policy)(const char *chain, xt_counters *counters, xtc_handle *h) noexcept nogil
        int (*is_chain)(const char *chain, xtc_handle *h) noexcept nogil
        int (*append_entry)(const char *chain, const void *entry, xtc_handle *h) noexcept nogil
        int (*insert_entry)(const char *chain, const void *entry, unsigned int position, xtc_handle *h) noexcept nogil
        int (*replace_entry)(const char *chain, const void *entry, unsigned int position, xtc_handle *h) noexcept nogil
        int (*delete_num_entry)(const char *chain, unsigned int position, xtc_handle *h) noexcept nogil
        int (*flush_entries)(const char *chain, xtc_handle *h) noexcept nogil
        int (*zero_entries)(const char *chain, xtc_handle *h) noexcept nogil
        int (*zero_counter)(const char *chain, unsigned int number, xtc_handle *h) noexcept nogil
        int (*create_chain)(const char *chain, xtc_handle *h) noexcept nogil
        int (*delete_chain)(const char *chain, xtc_handle *h) noexcept nogil
        int (*rename_chain)(const char *chain, const char *name, xtc_handle *h) noexcept nogil
        int (*set_policy)(const char *chain, const char *policy, xt_counters *counters, xtc_handle *h) noexcept nogil
        int (*commit)(xtc_handle *h) noexcept nogil
        const char *(*strerror)(int error) noexcept nogil

    struct library_failure:
        int error
        const char *text
    int libiptc_load(libiptc *functions, const char *library, const char *prefix, library_failure *why)

cdef enum:
    LABEL_ROOM = 32          # the size of the buffer that libiptc's functions expect for the name of a chain

cdef libiptc _libraries[2]   # for IPv4 and IPv6
cdef bint _loaded[2]


cdef libiptc *_library(Family *family) except NULL:
    """Return the functions for *family*. The library is loaded when it is first needed."""
    cdef int which = family.nfproto != NFPROTO_IPV4
    cdef library_failure failure
    cdef bytes name = b"libip6tc.so.2" if which else b"libip4tc.so.2"
    if not _loaded[which]:
        if libiptc_load(&_libraries[which], name, b"ip6tc_" if which else b"iptc_", &failure) < 0:
            if is_passing(failure.error):
                raise kernel_error(f"can't load {name.decode()}", failure.error, os.strerror(failure.error))
            what = failure.text.decode("utf-8", "replace")
            if not failure.error:
                what = f"has no {what}"
            elif what:
                what = f"can't be loaded ({what})"
            package = "libip6tc2" if which else "libip4tc2"
            raise Unsupported(f"the back end libiptc needs {name.decode()}, which {what or 'is not there'}: "
                              f"Debian's package {package} has it, Fedora's iptables-libs")
        _loaded[which] = True
    return &_libraries[which]


cdef struct Opening:
    libiptc *functions
    const char *table
    xtc_handle *handle
    int failed


cdef void _init(void *context) noexcept nogil:
    cdef Opening *opening = <Opening *> context
    opening.handle = opening.functions.init(opening.table)
    opening.failed = errno_now


cdef class Handle:
    """A table that libiptc has read. It is edited, and sent with `commit`.

    Chains are named by `str`. Entries are bytes that have the name of a verdict or chain in the target. Positions count
    from
    0. A method that fails raises `OSError` with libiptc's errno; the caller makes iptables' message of it.
    """

    cdef Family *family
    cdef libiptc *functions
    cdef xtc_handle *handle
    cdef char label[LABEL_ROOM]
    cdef readonly str name
    cdef readonly uint64_t cookie    # of the network namespace that it was read in
    cdef readonly bint changed

    def __cinit__(self):
        self.family = family_of(NFPROTO_IPV4)

    def __dealloc__(self):
        self._free()

    cdef void _free(self) noexcept:
        if self.handle != NULL:
            self.functions.free(self.handle)
        self.handle = NULL

    def __init__(self, int nfproto, str name not None, Namespace there=None):
        """Read the table (`iptc_init`) in the network namespace *there*, or without it in that of this thread."""
        cdef bytes label = table_label(name)
        cdef int netns = -1 if there is None else there.where(), failed
        cdef Opening opening
        self._free()
        self.family = family_of(nfproto)
        self.functions = _library(self.family)
        self.name = name
        self.changed = False
        opening.functions, opening.table, opening.handle, opening.failed = self.functions, label, NULL, 0
        with nogil:
            failed = call_in(netns, _init, &opening)
        self.handle = opening.handle
        if failed:
            self._free()
            there.check(failed, "can't enter the network namespace")
        if self.handle == NULL:
            raise kernel_error(f"can't initialize {name}", opening.failed, table_strerror(opening.failed))
        # libiptc's handle begins with its socket
        self.cookie = cookie_of_socket((<int *> self.handle)[0], netns)

    @property
    def nfproto(self):
        """The family of the table: 2 (IPv4) or 10 (IPv6)."""
        return self.family.nfproto

    def close(self):
        """Free the table (`iptc_free`)."""
        self._free()

    cdef xtc_handle *_open(self) except NULL:
        if self.handle == NULL:
            raise KernelError("this handle of libiptc is closed", EBADF, "Bad file descriptor")
        return self.handle

    cdef const char *_chain(self, chain) except NULL:
        """Return the name of *chain* in a buffer of the size that libiptc expects. The next call overwrites it."""
        cdef bytes text = text_bytes(chain, "a chain name")
        if not 0 < PyBytes_GET_SIZE(text) < XT_EXTENSION_MAXNAMELEN:
            raise OSError(ENOENT, "no such chain")
        return self._label(text)

    cdef const char *_label(self, bytes text) except NULL:
        self._open()
        memset(self.label, 0, LABEL_ROOM)
        memcpy(self.label, PyBytes_AS_STRING(text), min(PyBytes_GET_SIZE(text), LABEL_ROOM - 1))
        return self.label

    cdef int _done(self, int done) except -1:
        """Raise `OSError` with libiptc's errno if *done*, the result of a function, is 0."""
        cdef int failed = errno_now
        if not done:
            raise OSError(failed, self.functions.strerror(failed).decode("utf-8", "replace"))
        self.changed = True
        return 0

    cdef const char *_entry(self, bytes entry) except NULL:
        check_entry(self.family, entry)
        return PyBytes_AS_STRING(entry)

    # reading

    def chains(self):
        """Return a list of (name, policy or None, (packets, bytes) or None, entries) for all chains.

        Builtin chains come first, and then user chains by name.
        """
        cdef xtc_handle *handle = self._open()
        cdef const char *name = self.functions.first_chain(handle)
        cdef const char *policy
        cdef xt_counters counters
        cdef list found = []
        while name != NULL:
            policy = self.functions.get_policy(name, &counters, handle)
            if policy == NULL:
                found.append((os_decode(name), None, None, self._rules(name)))
            else:
                found.append((os_decode(name), policy.decode(), (counters.pcnt, counters.bcnt), self._rules(name)))
            name = self.functions.next_chain(handle)
        return found

    cdef list _rules(self, const char *chain):
        cdef const char *entry = <const char *> self.functions.first_rule(chain, self.handle)
        cdef const char *target
        cdef list rules = []
        while entry != NULL:
            target = NULL
            if not entry[target_offset(self.family, entry) + 2]:
                target = self.functions.get_target(entry, self.handle)
            rules.append(entry_of(self.family, entry, target))
            entry = <const char *> self.functions.next_rule(entry, self.handle)
        return rules

    def policy_of(self, chain):
        """Return the policy of a chain, "" for a user chain, None if there is no such chain."""
        cdef bytes text = text_bytes(chain, "a chain name")
        cdef const char *policy
        cdef xt_counters counters
        if PyBytes_GET_SIZE(text) >= XT_EXTENSION_MAXNAMELEN or not self.functions.is_chain(self._label(text),
                                                                                            self.handle):
            return None
        policy = self.functions.get_policy(self.label, &counters, self.handle)
        return "" if policy == NULL else policy.decode()

    def chain_names(self, of_users):
        """Return the names of all chains, or with *of_users* those of the user chains."""
        cdef xtc_handle *handle = self._open()
        cdef const char *name = self.functions.first_chain(handle)
        cdef xt_counters counters
        cdef list found = []
        while name != NULL:
            if not of_users or self.functions.get_policy(name, &counters, handle) == NULL:
                found.append(os_decode(name))
            name = self.functions.next_chain(handle)
        return found

    def entries(self, chain):
        """Return the rules of *chain* as bytes."""
        if self.policy_of(chain) is None:
            raise OSError(ENOENT, "no such chain")
        return self._rules(self._chain(chain))

    # edits

    def append(self, chain, bytes entry not None):
        """Add *entry* at the end of *chain* (`iptc_append_entry`)."""
        entry = stored(self.nfproto, entry)
        cdef const char *raw = self._entry(entry)
        self._done(self.functions.append_entry(self._chain(chain), raw, self.handle))

    def insert(self, chain, bytes entry not None, unsigned int position):
        """Insert *entry* before the rule at *position* (`iptc_insert_entry`)."""
        entry = stored(self.nfproto, entry)
        cdef const char *raw = self._entry(entry)
        self._done(self.functions.insert_entry(self._chain(chain), raw, position, self.handle))

    def replace(self, chain, bytes entry not None, unsigned int position):
        """Replace the rule at *position* by *entry* (`iptc_replace_entry`)."""
        entry = stored(self.nfproto, entry)
        cdef const char *raw = self._entry(entry)
        self._done(self.functions.replace_entry(self._chain(chain), raw, position, self.handle))

    def delete(self, chain, unsigned int position):
        """Delete the rule at *position* (`iptc_delete_num_entry`)."""
        self._done(self.functions.delete_num_entry(self._chain(chain), position, self.handle))

    def flush(self, chain):
        """Delete all rules of *chain* (`iptc_flush_entries`)."""
        self._done(self.functions.flush_entries(self._chain(chain), self.handle))

    def zero(self, chain):
        """Zero the counters of *chain* and its rules (`iptc_zero_entries`)."""
        self._done(self.functions.zero_entries(self._chain(chain), self.handle))

    def zero_rule(self, chain, unsigned int position):
        """Zero the counters of the rule at *position* (`iptc_zero_counter`, which counts from 1)."""
        self._done(self.functions.zero_counter(self._chain(chain), position + 1, self.handle))

    def create_chain(self, chain):
        """Create user chain *chain* (`iptc_create_chain`)."""
        self._done(self.functions.create_chain(self._label(chain_label(chain)), self.handle))

    def delete_chain(self, chain):
        """Delete user chain *chain* (`iptc_delete_chain`)."""
        self._done(self.functions.delete_chain(self._chain(chain), self.handle))

    def rename_chain(self, chain, new):
        """Rename user chain *chain* to *new* (`iptc_rename_chain`)."""
        cdef bytes old = text_bytes(chain, "a chain name"), label = chain_label(new) + bytes(LABEL_ROOM)
        # libiptc checks the new name before the old one. An old name that is too long becomes "", which no chain has
        cdef const char *name = self._label(old if PyBytes_GET_SIZE(old) < XT_EXTENSION_MAXNAMELEN else b"")
        self._done(self.functions.rename_chain(name, label, self.handle))

    def set_policy(self, chain, policy, counters=None):
        """Set the policy, and the counters if a (packets, bytes) pair is given (`iptc_set_policy`). Return whether they
        differ from before."""
        cdef xt_counters given, now
        cdef const char *before
        cdef const char *name = self._chain(chain)
        cdef bint differs = False
        cdef bytes word = text_bytes(policy, "a policy") + bytes(LABEL_ROOM)
        if counters is not None:
            given.pcnt, given.bcnt = counters
        before = self.functions.get_policy(name, &now, self.handle)
        if before != NULL:
            differs = before != policy.encode() or counters is not None and (now.pcnt, now.bcnt) != tuple(counters)
        self._done(self.functions.set_policy(name, word, &given if counters is not None else NULL, self.handle))
        return differs

    # sending

    def commit(self, Mark made=None):
        """Replace the table in the kernel (`iptc_commit`) if anything was edited. Record the outcome on *made*."""
        cdef xtc_handle *handle = self._open()
        cdef int done, failed
        if not self.changed:
            return
        with nogil:
            done = self.functions.commit(handle)
            failed = errno_now
        if not done:
            raise kernel_error("can't commit", failed, self.functions.strerror(failed).decode("utf-8", "replace"))
        if made is not None:
            made.state = APPLIED
        self._free()
