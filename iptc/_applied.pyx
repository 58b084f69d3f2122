# cython: freethreading_compatible=False
"""Tells a program whether a commit was applied, when an exception comes out of the call that made it.

The handler of a signal may raise an exception between any two steps of Python. So a commit is sent by one call of C,
and that call notes the outcome before it returns. The functions that a program calls are C around our Python: when an
exception passes through them, they read the note and add it to the exception.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from cpython.exc cimport PyErr_CheckSignals

cdef extern from *:
    """
    /* How many calls of functions made by `telling` this thread is in, one inside the other. */
    static __thread int telling_calls;
    """
    int telling_calls

cdef extern from "Python.h":
    object PyContextVar_New(const char *name, PyObject *otherwise)
    int PyContextVar_Get(object variable, PyObject *otherwise, PyObject **value) except -1    # a new reference

# A `contextvars.ContextVar`, made without importing that module.
_marks = PyContextVar_New("the marks of what the present call has sent", NULL)
# The list of marks of a context is made with the first mark. None means that no call wants to know.
cdef object _NO_LIST = object()


cdef object _marks_now():
    """Return the list of marks of this context, or None, or `_NO_LIST`."""
    cdef PyObject *found
    PyContextVar_Get(_marks, <PyObject *> _NO_LIST, &found)
    marks = <object> found
    Py_DECREF(marks)
    return marks


cdef class Mark:
    """The outcome of one commit for one table: it changed nothing, perhaps something, or all. The code that sends sets
    it."""

    def __init__(self, str table=""):
        self.table = table

    def done(self):
        """Record that the table is changed."""
        self.state = APPLIED

    def clear(self):
        """Record that the table is as it was before."""
        self.state = NOTHING


def mark(str table not None):
    """Return a new mark for *table*. The `telling` function that is running looks at it when it ends."""
    cdef Mark made = Mark(table)
    if telling_calls:
        marks = _marks_now()
        if marks is _NO_LIST:
            _marks.set([made])
        elif marks is not None:
            (<list> marks).append(made)
    return made


cdef int _tell(error, list marks, Py_ssize_t begin) except -1:
    """Set `committed` on *error* by the marks from *begin* on."""
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
        # an inner call has set `committed` already, or the exception has such an attribute of its own
        before.extend([name for name in names if name not in before])
        return 0
    error.committed = names
    error.add_note(f"{'perhaps committed' if perhaps else 'committed'} before this was raised: {', '.join(names)}")
    return 0


def telling(function):
    """Return *function*, wrapped: an exception that leaves it gets the attribute `committed`.

    That is the list of the names of the tables that were changed before the exception.
    """

    def call(*args, **kwargs):
        global telling_calls
        # most calls send nothing, so no list is made for them
        marks = _marks_now()
        cdef Py_ssize_t begin = len(<list> marks) if isinstance(marks, list) else 0
        telling_calls += 1
        try:
            result = function(*args, **kwargs)
            marks = _marks_now()
            if isinstance(marks, list) and len(<list> marks) > begin:
                # a signal that came meanwhile raises here, where its exception can get `committed` too
                PyErr_CheckSignals()
            return result
        except BaseException as error:
            try:
                marks = _marks_now()
                if isinstance(marks, list):
                    _tell(error, <list> marks, begin)
            except Exception:
                pass                 # an exception that accepts no attributes, or no memory for it
            raise
        finally:
            telling_calls -= 1
            if not telling_calls and isinstance(marks, list):
                _marks.set(_NO_LIST)

    return _in_place_of(function, call)


def elsewhere(function):
    """Return *function*, wrapped: its commits are not recorded, since they change only a private namespace."""

    def call(*args, **kwargs):
        token = _marks.set(None)
        try:
            return function(*args, **kwargs)
        finally:
            _marks.reset(token)

    return _in_place_of(function, call)


cdef _in_place_of(function, call):
    """Return *call* with the name and the docstring of *function*."""
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(call, name, getattr(function, name))
    call.__wrapped__ = function
    return call


def telling_functions(dict names):
    """Wrap each public function of a module by `telling`. *names* are the globals of the module."""
    from types import FunctionType    # here and below: reading counters wraps nothing

    for name, value in list(names.items()):
        if not name.startswith("_") and isinstance(value, FunctionType) and value.__module__ == names["__name__"]:
            names[name] = telling(value)


def telling_methods(cls):
    """Wrap each public method and property of *cls* by `telling`. A decorator of classes."""
    from types import FunctionType

    for name, value in list(vars(cls).items()):
        if name.startswith("_") and name not in ("__contains__", "__enter__", "__exit__"):
            continue
        if isinstance(value, property):
            setattr(cls, name, property(telling(value.fget), value.fset and telling(value.fset), value.fdel,
                                        value.__doc__))
        elif isinstance(value, FunctionType):
            setattr(cls, name, telling(value))
    return cls
