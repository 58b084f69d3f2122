# What the printing of one rule needs: C's own stdout, and the rule taken apart.

from ._core cimport Family, xt_entry_match
from ._plugins cimport xtables_match

cdef extern from "<stdio.h>" nogil:
    void *stdout_now "stdout"
    int fputs(const char *text, void *stream)

cdef struct RenderItem:
    const xtables_match *c      # NULL: opaque
    const xt_entry_match *payload

cdef struct RenderCall:
    Family *family
    const char *entry
    RenderItem *items
    size_t count
    bint by_mask                # iptables before 1.8.10 prints interfaces by their masks
