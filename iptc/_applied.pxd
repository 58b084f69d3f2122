# What one commit does to one table, as C notes it.

cdef enum:
    NOTHING
    PERHAPS
    APPLIED

cdef class Mark:
    cdef readonly str table
    cdef readonly int state
