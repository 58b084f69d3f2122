# cython: freethreading_compatible=False
"""The base class of the finders of both back ends. A finder finds where the counters of a table are in the kernel."""


cdef class Finder:
    """Finds the addresses of the counters of one table. Each back end has a class of its own, derived from this."""

    cdef int mark(self, Marks *marks) except -1:
        """Set *marks* to the addresses of words that change whenever the ruleset changes, and set `has_marks`."""

    cdef int find(self, const Marks *marks) except -1:
        """Find all rules and counters. Return 0 or an errno. The result is of no use if the marks changed meanwhile."""

    cdef bint is_known(self, const Marks *marks) except -1:
        """Whether the last find gave what was kept: the same rules, with their counters in the same places."""

    cdef int keep(self, const Marks *marks) except -1:
        """Keep the result of the last find, to compare later ones with it."""

    cdef bytes addresses(self):
        """Return the addresses of all counters that were found, as uint64: of the rules, then of the policies."""

    cdef bytes owners(self):
        """Return where the kernel keeps each of these addresses, as uint64.

        Return None if the marks are enough to know that the counters are still there.
        """
        return None

    cdef tuple follow(self, object scan, Marks *marks, bytearray asked):
        """Have *scan* read only what has changed between what was kept and the last find, and return its reading.

        Put into *asked* a byte for each rule that was found: whether *scan* has read its counters. Return None if that
        is impossible, or takes longer than to read all.
        """
        return None

    cdef bint may_read(self, object scan) except -1:
        """Whether the kernel lets this thread read the table by *scan*. A process may have given up its rights, gone
        into a user namespace, or put a filter of system calls into force."""
        return True

    cdef bytes places(self, object scan, Marks *marks):
        """Return int32 numbers: which counter of `addresses` each slot of *scan* has, then each policy; -1 for none.

        Return None if *scan* has read another ruleset than the finder. *marks* are those of the finder's ruleset. If
        there is no table yet, there are no marks: then None is returned unless *scan* has read nothing either.
        """
