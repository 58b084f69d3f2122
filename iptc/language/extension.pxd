# The payload of one match or target, as other modules see it in C.

from .._core cimport Base, RuleValue, xt_entry_match
from .plugins cimport Option, Plugin

cdef class Extension:
    cdef Base base                          # the base part of its rule, which decides how options are read
    cdef object owner                       # a weak reference to its rule
    cdef readonly bint goto                 # whether a target was given by `-g` and not by `-j`
    cdef Plugin plugin                      # the plugin that reads its options; None for an opaque payload or a verdict
    cdef Plugin printer                     # the plugin that prints it: the same, except for an alias
    cdef readonly bint is_target
    cdef bytes given                        # the payload as it was read, until it is changed
    cdef xt_entry_match *data               # the payload that is being built, or NULL
    cdef void *udata
    cdef unsigned int flags
    # [(Option, negated, words)] that were set, in order; None if it is as it was read
    cdef list journal

    cdef int _miss_plugin(self) except -1
    cdef int _create(self, RuleValue rule, bint is_target, str name, revision) except -1
    cdef int _read(self, RuleValue rule, bint is_target, bytes payload) except -1
    cpdef int _become_verdict(self, RuleValue rule, bytes payload, bint goto) except -1
    cdef int _clear(self, int nfproto) except -1
    cdef const xt_entry_match *_raw(self) except NULL
    cdef int _belong(self, RuleValue rule) except -1
    cdef Option _option(self, str name, bint must)
    cdef int _set(self, str parameter, value) except -1
    cdef tuple _strip_negation(self, Option item, bytes word)
    cdef int _apply(self, Option item, bint negated, list words, bint again) except -1
    cdef int _replay(self, list entries, Py_ssize_t new) except -1
    cdef int _parse(self, tuple entry) except -1
    cdef int _put_back(self, const char *backup, size_t size) except -1
    cdef bytes _saved(self)
    cdef list _entries(self)
    cdef object _joined(self, str name, list words)
    cpdef bint _looks_negated(self, str name, list words) except -1
    cpdef bytes _bytes(self)
    cpdef bytes _packed_or_bytes(self)
    cpdef bytes _packed(self)

cdef bytes packed(RuleValue rule, bint checked)
