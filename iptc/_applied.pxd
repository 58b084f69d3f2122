# The outcome of one commit for one table, as C records it.

cdef enum:
    NOTHING
    PERHAPS
    APPLIED

cdef class Mark:
    cdef readonly str table
    cdef readonly int state
