# cython: freethreading_compatible=False
"""Finds the offsets of members in the kernel's structures, by reading BTF, the kernel's description of its types.

The file vmlinux describes the types of the kernel. A module has a file of its own; its type numbers begin after the
kernel's. Both may change from boot to boot. So answers are kept in the memory of the process, and not in a file.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t

from ..errors import OutOfMemory, Unsupported
from .reasons import unreadable

import os

cdef extern from "types.h" nogil:
    enum:
        TYPES_BROKEN
        TYPES_UNKNOWN_KIND
        TYPES_NO_TYPE
        TYPES_NO_MEMBER
        TYPES_BITFIELD
        TYPES_AMBIGUOUS
        TYPES_NO_MEMORY
        TYPES_UNKNOWN_FORM
    struct types:
        uint32_t count
    struct place:
        uint64_t offset
        uint64_t size
    int types_open(types *these, const void *data, size_t length, const types *base)
    void types_close(types *these)
    int types_size(const types *these, const char *name, uint64_t *size)
    int types_member(const types *these, const char *name, const char *path, place *found)
    int types_bits(const types *these, const char *name, const char *path, place *found)
    int types_variable(const types *these, const char *section, const char *name, place *found)
    int types_function(const types *these, const char *name, uint32_t *number)
    int types_typedef(const types *these, const char *name)
    int types_argument(const types *these, const char *function, const char *name, place *which)

ctypedef int (*lookup)(const types *these, const char *within, const char *name, place *found) nogil

FOLDER = "/sys/kernel/btf"


cdef class Types:
    """The types of the kernel, or those of a module on top of the kernel's."""

    cdef types found
    cdef bytes data                  # the memory to which `found` points
    cdef Types base
    cdef readonly str name           # for messages

    def __dealloc__(self):
        types_close(&self.found)

    def __init__(self, bytes data not None, Types base=None, str name="vmlinux"):
        """Read *data*. Raises `Unsupported` if it is no BTF, or is newer than iptc."""
        cdef int failed
        cdef const char *bytes_of = PyBytes_AS_STRING(data)
        cdef size_t length = PyBytes_GET_SIZE(data)
        types_close(&self.found)
        self.data, self.base, self.name = data, base, name
        with nogil:
            failed = types_open(&self.found, bytes_of, length, &base.found if base is not None else NULL)
        if failed:
            types_close(&self.found)
            self._refuse(failed, "", "")

    cdef int _refuse(self, int failed, str name, str path) except -1:
        if failed == TYPES_NO_MEMORY:
            raise OutOfMemory("can't read the kernel's BTF: no memory")
        if failed == TYPES_BROKEN:
            raise Unsupported(f"the BTF of {self.name} is broken{f' at {name}.{path}' if name else ''}")
        if failed == TYPES_UNKNOWN_FORM:
            raise Unsupported(f"the BTF of {self.name} has another byte order or version than this iptc knows")
        if failed == TYPES_UNKNOWN_KIND:
            raise Unsupported(f"the BTF of {self.name} has a kind of type that this iptc does not know")
        if failed == TYPES_NO_TYPE:
            raise Unsupported(f"the BTF of {self.name} has no {name}")
        if failed == TYPES_NO_MEMBER:
            raise Unsupported(f"{name} has no {path} in this kernel")
        if failed == TYPES_BITFIELD:
            raise Unsupported(f"{name}'s {path} is a bit-field in this kernel")
        raise Unsupported(f"the BTF of {self.name} has several {name}, which differ")

    def size(self, str name not None):
        """Return how many bytes the structure, union or typedef *name* has."""
        cdef uint64_t size = 0
        cdef bytes its_name = name.encode()
        cdef int failed = types_size(&self.found, its_name, &size)
        if failed:
            self._refuse(failed, name, "")
        return size

    def member(self, str name not None, str path not None):
        """Return (offset, size) of a member of *name*, in bytes; *path* is like "table.name" or "ptr[3]"."""
        return self._place(types_member, name, path)

    def number(self, str name not None, str path not None, int size):
        """Return the offset of a member of *name* in bytes. Raises `Unsupported` unless it has *size* bytes."""
        offset, its_size = self.member(name, path)
        if its_size != size:
            raise Unsupported(f"{name}'s {path} has {its_size} bytes in this kernel, and not {size}")
        return offset

    def bits(self, str name not None, str path not None):
        """Return (offset, width) of a member in bits. It may be a bit-field. On a little-endian machine, bit 0 is the
        lowest bit of a number."""
        return self._place(types_bits, name, path)

    def variable(self, str section not None, str name not None):
        """Return (offset, size) of the variable *name* in a section, such as ".data..percpu"."""
        return self._place(types_variable, section, name)

    cdef _place(self, lookup find, str within, str name):
        """Return (offset, size) of *name* in *within*, as the function *find* finds it."""
        cdef place found
        cdef bytes its_within = within.encode(), its_name = name.encode()
        cdef int failed = find(&self.found, its_within, its_name, &found)
        if failed:
            self._refuse(failed, within, name)
        return found.offset, found.size

    def function(self, str name not None):
        """Return the type number of the function *name*. Programs call a kernel function by it."""
        cdef uint32_t number = 0
        cdef bytes its_name = name.encode()
        cdef int failed = types_function(&self.found, its_name, &number)
        if failed:
            self._refuse(failed, f"{name}()", "")
        return number

    def has_tracepoint(self, str name not None):
        """Whether the kernel has the tracepoint *name*."""
        cdef bytes its_name = f"btf_trace_{name}".encode()
        return types_typedef(&self.found, its_name) == 1

    def argument(self, str function not None, str name not None):
        """Return (the position of the argument *name*, counted from 0, how many arguments the function has)."""
        return self._place(types_argument, function, name)

    def __len__(self):
        return self.found.count


def _read(str name):
    """Return the content of the BTF file *name*, or None if there is no such file."""
    cdef str path = f"{FOLDER}/{name}"
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from None


def kernel_types(str module=None):
    """Return the `Types` of the running kernel, or those of a *module* on top of them.

    A module that is built into the kernel, or is not loaded, has no file: then the kernel's types are returned. Raises
    `Unsupported` if the kernel has no BTF.
    """
    cdef object data
    cdef object kernel = _kept.get("vmlinux")
    cdef object found = _kept.get(module)
    if kernel is None:
        data = _read("vmlinux")
        if data is None:
            raise Unsupported(f"the kernel has no BTF: there is no {FOLDER}/vmlinux")
        kernel = Types(data)
    if found is None:
        data = _read(module) if module is not None else None
        found = kernel if data is None else Types(data, kernel, module)
    if _keepers:
        _kept["vmlinux"], _kept[module] = kernel, found
    return found


cdef dict _kept = {}
cdef int _keepers = 0


class KeepTypes:
    """Keeps the BTF in memory that was read, as long as one of these is entered: for several questions in a row."""

    def __enter__(self):
        global _keepers
        _keepers += 1
        return self

    def __exit__(self, *exc):
        global _keepers
        _keepers -= 1
        if not _keepers:
            _kept.clear()


cdef dict _answers = {}


def _identity(str name):
    """Return a value for the BTF file *name*. After the module was loaded again, it is another value."""
    try:
        status = os.stat(f"{FOLDER}/{name}")
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_ctime_ns


def ask(tuple questions not None, str module=None):
    """Return the list of answers to *questions*: ("size", name), ("member", name, path), ("number", name, path, size),
    ("bits", name, path), ("variable", section, name), ("function", name), ("has_tracepoint", name) or
    ("argument", function, name).

    The answers are kept, and refusals too. So the kernel's BTF, which has some megabytes, is read only for new
    questions, and is not kept in memory.
    """
    cdef object module_now = _identity(module) if module is not None else None
    cdef object key = (questions, module, _identity("vmlinux"), module_now)
    answers = _answers.get(key)
    if answers is None:
        types_there = kernel_types(module)
        answers = []
        try:
            for kind, *names in questions:
                answers.append(getattr(types_there, kind)(*names))
        except Unsupported as refusal:
            answers = str(refusal)   # so that it is not looked for again
        _answers[key] = answers
    if isinstance(answers, str):
        raise Unsupported(answers)
    return list(answers)
