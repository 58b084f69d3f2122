# cython: freethreading_compatible=False
"""Tells which per-CPU memory the kernel has freed, so that one knows whether an address still means the same counter.

A program at the tracepoint `percpu_free_percpu` writes a log. All readers of a process share it.
"""

from libc.stdlib cimport calloc, free

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

    cdef bint gather(self, uint64_t since, Addresses *into) except -1:
        """Put the addresses into *into*, an empty set, that were freed after `count` returned *since*.

        Return whether it has all of them. The caller frees `into.places`.
        """
        cdef frees *log = <frees *> self.log.memory
        cdef uint64_t end, number, address
        cdef size_t room = 16
        # other code of this process may have closed the descriptor
        if not self.link.runs():
            return False
        end = self.count()
        if end - since > FREES:
            return False
        if end == since:
            return True
        while room < 2 * (end - since):
            room *= 2
        into.places, into.mask = <uint64_t *> calloc(room, sizeof(uint64_t)), room - 1
        if into.places == NULL:
            raise MemoryError
        for number in range(since, end):
            address = log.address[number % FREES]
            if address:
                into.places[address_place(into, address)] = address
        # what was written meanwhile may have replaced some that were to be read
        if self.count() - since > FREES:
            free(into.places)
            into.places = NULL
            return False
        return True


cdef Frees shared_frees():
    """Return the log of this process, and begin it if it has none that works."""
    global _shared
    cdef Frees kept
    cdef object process = os.getpid()
    number, reference = _shared
    kept = reference() if number == process and reference is not None else None
    if kept is None or not kept.link.runs():
        kept = Frees()
        _shared = process, weakref.ref(kept)
    return kept
