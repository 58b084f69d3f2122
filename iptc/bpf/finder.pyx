# cython: freethreading_compatible=False
"""Finds where the counters of a table are: what the finders of both back ends have in common."""


cdef class Finder:
    """Finds where the counters of one table are."""

    cdef int mark(self, Marks *marks) except -1:
        """Say what changes when the ruleset does, and set `has_marks`."""

    cdef int find(self) except -1:
        """Look where everything is. 0, or an errno: what was found is of no use if the marks have changed meanwhile."""

    cdef bint is_known(self) except -1:
        """Whether what was found is what was kept: the same rules, and their counters where they were."""

    cdef int keep(self) except -1:
        """Keep what was found, to compare it with what is found later."""

    cdef bytes addresses(self):
        """Return the addresses of all counters that were found, as uint64: those of the rules, then of the policies."""

    cdef bytes places(self, object scan, Marks *marks):
        """Return which of them each slot of *scan* has, and then each policy: int32, -1 for none.

        None if the scan has read a ruleset that is not the one which was found. *marks* are those of that. Where there
        are no marks, since there is no table yet: None unless the scan has read nothing either.
        """
