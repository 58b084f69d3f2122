# Rules that `iptables -D` takes for each other, compared in C.

from .._core cimport Family

cdef bint same_under_mask(Family *family, const char *one, const char *other, const char *mask,
                          bint with_target) noexcept nogil
