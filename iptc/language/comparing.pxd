# The comparison of `iptables -D`, in C.

from .._core cimport Family

cdef bint same_under_mask(Family *family, const char *one, const char *other, const char *mask,
                          bint with_target) noexcept nogil
