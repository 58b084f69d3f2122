# cython: freethreading_compatible=False
"""Records an edit of a table until it is committed. A batch records thousands of edits, so each step is C.

Python classes are built on these: the edits (`model.edits`), the chains in memory (`model.views`), and the open tables
(`state`).
"""

cimport cython

from libc.errno cimport ENOENT

from ..language.specification cimport entries_of
from ..errors import ParameterTypeError


@cython.no_gc                        # strings and bytes, which refer to nothing: there is nothing to collect
cdef class ChainEdit:
    """An edit of one chain: the name of the chain, and the entry that the edit adds to it, if it adds one."""

    def __init__(self, chain, entry):
        self.chain = chain
        self.entry = entry


@cython.no_gc
cdef class ChainAppend(ChainEdit):
    """How an entry is appended to a chain: what the edit `Append` does."""

    cdef int _carry_out(self, view) except -1:
        chain = (<dict?> view.chains).get(self.chain)
        if chain is None:
            raise self.refused(ENOENT)
        (<ChainRules?> chain)._append(self.entry)
        return 0

    def apply(self, view):
        """As `Operation.apply`."""
        self._carry_out(view)

    def do(self, handle, look):
        """As `Operation.do`."""
        handle.append(self.chain, self.entry)


cdef class ChainRules:
    """The rules of a chain in memory. They are a list while they are only read and appended; the first other edit turns
    them into rows (`ChainView`), and the list is then made again when it is needed.

    stored(nfproto, entry) returns what the back end makes of an entry.
    """

    def __cinit__(self):
        self.kept = []

    def append(self, entry):
        """Add *entry* at the end."""
        self._append(entry)

    cdef int _append(self, entry) except -1:
        if self._rows is not None:
            self.insert(len(self._rows), entry)
            return 0
        if self._stored is not None:
            entry = self._stored(self._nfproto, entry)
        if self._entries is None:
            self.entries             # reads them
        self._entries.append(entry)
        return 0


cdef class Session:
    """A transaction that is open: edits of its tables are collected. When `open` becomes False, they are forgotten."""

    def __cinit__(self):
        self.open = True


cdef class Notes:
    """The pending edits of a table, and what was read of it: the whole table (`view`) or only its chains (`heads`)."""

    def __cinit__(self, Session session=None):
        self.session = session
        self.pending = []

    def forget(self):
        """Forget what was read."""
        self.view = None
        self.heads = None

    def take(self):
        """Return the pending edits, and forget them."""
        cdef list pending = self.pending
        self.pending = []
        return pending


cpdef list checked_entries(face, rule, str chain):
    """Return the entries of *rule*, as `entries_of` does. *chain*: the one to which they will be added, or None.

    Raises `ParameterTypeError` if it is no rule of the family of *face*, a `Table`.
    """
    cdef list entries = entries_of(rule, face._nfproto, chain)
    if entries is None:
        raise ParameterTypeError(
            f"a rule of {face!r} must be a {face._rule_class.__name__}, not {type(rule).__name__}")
    return entries


cdef class Recorder:
    """Has the notes of an open table, and records its edits there.

    The class that is built on it sets `lock`, which is held while the table is edited. Its load() returns the table
    with its pending edits, as a `View`, and its execute(operation) sends an edit at once. *face* is the `Table`: it
    says whether edits are collected.
    """

    def __cinit__(self):
        self._own = Notes()

    cdef Notes _in_use(self):
        cdef Notes notes = self._of_session
        return notes if notes is not None and notes.session is not None and notes.session.open else self._own

    def note_in(self, Session session):
        """Note edits in *session* from now on, as long as it is open."""
        self._of_session = Notes(session)

    def discard(self):
        """Forget the pending edits and what was read."""
        self._own = Notes()
        self._of_session = None

    @property
    def _notes(self):
        """The notes in use: those of the session while it is open, otherwise the table's own.

        So one assignment to `Session.open` ends a session for all its tables, whatever interrupts the rest.
        """
        return self._in_use()

    @property
    def gathering(self):
        """Whether edits are collected in a session."""
        return self._in_use() is not self._own

    @property
    def pending(self):
        """Whether there are edits that are not committed."""
        return bool(self._in_use().pending)

    cdef int _record(self, Notes notes, operation) except -1:
        view = notes.view
        if view is None:
            view = self.load()
        if isinstance(operation, ChainAppend):       # most of a batch
            (<ChainAppend> operation)._carry_out(view)
        else:
            if operation.binds:
                operation.bind(view)
            operation.apply(view)
        notes.pending.append(operation)
        return 0

    def record(self, operation):
        """Apply *operation* to the view and keep it for `commit`."""
        self._record(self._in_use(), operation)

    cdef object _edit(self, face, operation):
        cdef Notes notes
        lock = self.lock
        # in C, `with` takes twice as long, and crashes if there is no memory for a traceback
        lock.acquire()
        try:
            notes = self._in_use()
            if notes is self._own and face.autocommit:
                face._flush_pending()
                self.execute(operation)
            else:
                self._record(notes, operation)
        finally:
            lock.release()
        return operation.changed

    def edit(self, face, operation):
        """Send *operation* at once, or collect it. Return whether it changes anything, as far as that is known now."""
        return self._edit(face, operation)

    def edit_each(self, face, str chain not None, rule, operation, bint adds=True):
        """Make an edit with operation(name of the chain, entry) for each entry of *rule*, and send them together.

        Return whether any of them changes anything. *adds* says that the edit puts the entry into this chain.
        """
        cdef list entries = checked_entries(face, rule, chain if adds else None)
        cdef list operations = []
        if len(entries) == 1:
            return bool(self._edit(face, operation(chain, entries[0])))
        for entry in entries:
            operations.append(operation(chain, entry))
        return face._edit_together(operations)
