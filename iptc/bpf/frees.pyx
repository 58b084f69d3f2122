# cython: freethreading_compatible=False
"""Tells which per-CPU memory the kernel has freed, so that one knows whether an address still means the same counter.

A program at the tracepoint `percpu_free_percpu` writes a log. All readers of a process share it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from .window cimport trace_freed

import os
import weakref

from .kernel import ARRAY

cdef extern from "program.h" nogil:
    enum:
        FREES
    struct frees:
        uint64_t count
        uint64_t address[1]

cdef extern from *:
    """
    /* What stands before this in the program is read before it, and what stands after it is read after it. */
    #define frees_counted(log) \
        (__atomic_thread_fence(__ATOMIC_ACQUIRE), __atomic_load_n(&(log)->count, __ATOMIC_ACQUIRE))
    """
    uint64_t frees_counted(frees *log) nogil

# The log of this process: (its process id, weak reference).
_shared = (0, None)


cdef class Frees:
    """A log of the addresses of freed per-CPU memory. It ends when the object is deleted."""

    def __init__(self):
        """Begin. Raises `Unsupported` or `KernelError` if the kernel does not let us."""
        self.log = Map(ARRAY, sizeof(uint64_t) * (1 + FREES), 1, True, "iptc_frees")
        self.link = trace_freed("log_free", {"frees": self.log})

    cdef uint64_t count(self) noexcept nogil:
        """Return how many blocks were freed since the log began."""
        return frees_counted(<frees *> self.log.memory)

    cdef bytes after(self, uint64_t first):
        """Return the addresses, as uint64, that were freed after `count` returned *first*. None: some are lost.

        What `shared_frees` returned has been logging until now.
        """
        cdef frees *log = <frees *> self.log.memory
        cdef uint64_t number, count = self.count() - first
        cdef uint64_t *address
        cdef bytes found
        if count > FREES:
            return None
        found = PyBytes_FromStringAndSize(NULL, 8 * count)
        address = <uint64_t *> PyBytes_AS_STRING(found)
        for number in range(count):
            address[number] = log.address[(first + number) % FREES]
        # what was written meanwhile may have replaced some that were to be read
        return found if self.count() - first <= FREES else None


cdef Frees shared_frees():
    """Return the log of this process, and begin it if it has none that works: other code may have closed its link."""
    global _shared
    cdef Frees kept
    cdef object process = os.getpid()
    number, reference = _shared
    kept = reference() if number == process and reference is not None else None
    if kept is None or not kept.link.runs():
        kept = Frees()
        _shared = process, weakref.ref(kept)
    return kept
