# cython: freethreading_compatible=False
"""Hashes passwords with the `crypt` of the C library, in all ways that it knows.

libcrypt is loaded when a password is first hashed, so a host without it can use everything else.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdlib cimport calloc, free

from ..errors import Unsupported

cdef extern from "<dlfcn.h>" nogil:
    void *dlopen(const char *name, int flags)
    void *dlsym(void *library, const char *name)
    int RTLD_NOW

ctypedef char *(*CryptR)(const char *, const char *, void *) noexcept nogil

cdef enum:
    ROOM = 1 << 18               # the memory for crypt_r: the largest of all C libraries needs 131,232 bytes


def hashed(bytes password not None, bytes setting not None):
    """Return *password* hashed in the same way and with the same salt as *setting*, which is a hash. Return b"" if this
    system does not know the way."""
    cdef CryptR crypt_r = _find()
    cdef void *room = calloc(1, ROOM)
    cdef const char *given = PyBytes_AS_STRING(password)
    cdef const char *wanted = PyBytes_AS_STRING(setting)
    cdef char *answer
    if room == NULL:
        raise MemoryError
    try:
        with nogil:
            answer = crypt_r(given, wanted, room)
        return b"" if answer == NULL else <bytes> answer
    finally:
        free(room)


cdef CryptR _find() except NULL:
    cdef void *library
    cdef void *found = NULL
    for name in (b"libcrypt.so.1", b"libcrypt.so.2", b"libc.so"):
        library = dlopen(PyBytes_AS_STRING(name), RTLD_NOW)
        if library != NULL:
            found = dlsym(library, "crypt_r")
            if found != NULL:
                return <CryptR> found
    raise Unsupported("this system has no crypt(), which passwords of the endpoint need")
