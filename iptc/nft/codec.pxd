# Writing a rule as the attributes of a message.

from libc.stdint cimport uint32_t

from .._core cimport Family
from .._netlink cimport Writer

cdef int write_rule(Writer *writer, Family *family, const char *entry, size_t size, bint compat) except -1
