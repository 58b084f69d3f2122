# cython: freethreading_compatible=False
"""Tells a program whether a commit was applied, when an exception comes out of the call that made it.

The handler of a signal may raise an exception between any two steps of Python. So a commit is sent by one call of C,
and that call notes the outcome before it returns. The functions that a program calls are C around our Python: when an
exception passes through them, they read the note and add it to the exception.
"""

from contextvars import ContextVar
from types import FunctionType

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from cpython.exc cimport PyErr_CheckSignals

cdef extern from *:
    """
    /* How many calls that tell this thread is in, one within the other. */
    static __thread int telling_calls;
    """
    int telling_calls

cdef extern from "Python.h":
    int PyContextVar_Get(object variable, PyObject *otherwise, PyObject **value) except -1    # a new reference

_marks = ContextVar("the marks of what the present call has sent")
# a list, once the first is made; None where nobody wants to know
cdef object _NO_LIST = object()


cdef object _marks_now():
    """The list of marks of this context, or None, or `_NO_LIST`."""
    cdef PyObject *found
    PyContextVar_Get(_marks, <PyObject *> _NO_LIST, &found)
    marks = <object> found
    Py_DECREF(marks)
    return marks


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
    if telling_calls:
        marks = _marks_now()
        if marks is _NO_LIST:
            _marks.set([made])
        elif marks is not None:
            (<list> marks).append(made)
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
        global telling_calls
        # most calls send nothing, and then there is nothing to be kept for them
        marks = _marks_now()
        cdef Py_ssize_t begin = len(<list> marks) if isinstance(marks, list) else 0
        telling_calls += 1
        try:
            result = function(*args, **kwargs)
            marks = _marks_now()
            if isinstance(marks, list) and len(<list> marks) > begin:
                # what has come meanwhile is raised here, where it can be told
                PyErr_CheckSignals()
            return result
        except BaseException as error:
            try:
                marks = _marks_now()
                if isinstance(marks, list):
                    _tell(error, <list> marks, begin)
            except Exception:
                pass                 # an exception that takes no attribute, or no memory to say it
            raise
        finally:
            telling_calls -= 1
            if not telling_calls and isinstance(marks, list):
                _marks.set(_NO_LIST)

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
