# cython: freethreading_compatible=False
"""Tells a program whether a commit was applied, when an exception comes out of the call that made it.

The handler of a signal may raise an exception between any two steps of Python. So a commit is sent by one call of C,
and that call notes the outcome before it returns. The functions that a program calls are C around our Python: when an
exception passes through them, they read the note and add it to the exception.
"""

from contextvars import ContextVar
from types import FunctionType

from cpython.exc cimport PyErr_CheckSignals

_marks = ContextVar("the marks of what the present call has sent", default=None)


cdef class Mark:
    """What one commit has done to one table, noted where it is done: nothing, perhaps something, or all of it."""

    def __init__(self, str table=""):
        self.table = table

    def done(self):
        """Note that the table is changed."""
        self.state = APPLIED

    def clear(self):
        """Note that the table is as it was."""
        self.state = NOTHING


def mark(str table not None):
    """Return a new mark for *table*, which the call that goes on looks at in the end."""
    cdef Mark made = Mark(table)
    marks = _marks.get()
    if marks is not None:
        marks.append(made)
    return made


cdef int _tell(error, list marks, Py_ssize_t begin) except -1:
    """Note on *error* what is applied by the marks from *begin* on."""
    cdef Mark made
    cdef list names = []
    cdef bint perhaps = False
    for made in marks[begin:]:
        if made.state != NOTHING and made.table not in names:
            names.append(made.table)
            perhaps = perhaps or made.state == PERHAPS
    before = getattr(error, "committed", None)
    if not names or before == names:
        return 0
    if isinstance(before, list):
        # an inner call has told of some of them, or it says itself what is committed
        before.extend([name for name in names if name not in before])
        return 0
    error.committed = names
    error.add_note(f"{'perhaps committed' if perhaps else 'committed'} before this was raised: {', '.join(names)}")
    return 0


def telling(function):
    """Return *function* such that an exception out of it has `committed`, the names of the tables that it has changed
    by then."""

    def call(*args, **kwargs):
        cdef list marks = _marks.get()
        cdef Py_ssize_t begin = 0
        token = None
        if marks is None:
            marks = []
            token = _marks.set(marks)
        else:
            begin = len(marks)
        try:
            result = function(*args, **kwargs)
            if len(marks) > begin:
                # what has come meanwhile is raised here, where it can be told
                PyErr_CheckSignals()
            return result
        except BaseException as error:
            try:
                _tell(error, marks, begin)
            except Exception:
                pass                 # an exception that takes no attribute, or no memory to say it
            raise
        finally:
            if token is not None:
                _marks.reset(token)

    return _in_place_of(function, call)


def elsewhere(function):
    """Return *function* such that what it sends is told of by no call: it sends to places that nobody else knows."""

    def call(*args, **kwargs):
        token = _marks.set(None)
        try:
            return function(*args, **kwargs)
        finally:
            _marks.reset(token)

    return _in_place_of(function, call)


cdef _in_place_of(function, call):
    """*call* with the name and the docstring of *function*."""
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(call, name, getattr(function, name))
    call.__wrapped__ = function
    return call


def telling_functions(dict names):
    """Make each public function of the module whose globals are *names* `telling`."""
    for name, value in list(names.items()):
        if not name.startswith("_") and isinstance(value, FunctionType) and value.__module__ == names["__name__"]:
            names[name] = telling(value)


def telling_methods(cls):
    """Make each public method and property of *cls* `telling`; a decorator."""
    for name, value in list(vars(cls).items()):
        if name.startswith("_") and name not in ("__contains__", "__enter__", "__exit__"):
            continue
        if isinstance(value, property):
            setattr(cls, name, property(telling(value.fget), value.fset and telling(value.fset), value.fdel,
                                        value.__doc__))
        elif isinstance(value, FunctionType):
            setattr(cls, name, telling(value))
    return cls
