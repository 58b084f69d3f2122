# The edits of a table that wait for a commit, as other modules see them in C.

cdef class ChainEdit:
    cdef public object chain     # the name of the chain
    cdef public object entry     # the bytes of the rule that the edit adds, or None

cdef class ChainAppend(ChainEdit):
    cdef int _carry_out(self, view) except -1

cdef class ChainRules:
    cdef public object _nfproto
    cdef public list _entries
    cdef public object _rows
    cdef public object _stored
    cdef readonly list kept      # what `load_rules` keeps, so that the memory of rules stays Python's

    cdef int _append(self, entry) except -1

cdef class Session:
    cdef public bint open

cdef class Notes:
    cdef readonly Session session
    cdef readonly list pending
    cdef public object view
    cdef public dict heads

cdef class Recorder:
    cdef readonly Notes _own
    cdef readonly Notes _of_session
    cdef public object lock

    cdef Notes _in_use(self)
    cdef int _record(self, Notes notes, operation) except -1
    cdef object _edit(self, face, operation)

cpdef list checked_entries(face, rule, str chain)
