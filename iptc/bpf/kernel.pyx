# cython: freethreading_compatible=False
"""Creates and uses maps, programs and their types in the kernel, by bpf(2) alone.

Each object owns one descriptor, which the kernel closes on exec. No Python code runs between a call and storing the
descriptor that it returned, so an interrupt loses none. A refusal of the kernel raises `Unsupported` with the reason.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, EINVAL, ENOSPC
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport _SC_PAGESIZE, sysconf

from .._linux cimport F_DUPFD_CLOEXEC, errno_now, fcntl, strnlen
from .._netns cimport held_close, held_set

from ..errors import ParameterError, Unsupported, kernel_error
from . import reasons             # imported now: when no descriptor is free, an import fails

import os

cdef extern from "calls.h" nogil:
    struct bpf_program_text:
        uint32_t kind
        uint32_t flags
        const void *instructions
        uint32_t instruction_count
        int types
        const void *functions
        uint32_t function_count
        const char *name
        char *log
        uint32_t log_size
    struct bpf_map_facts:
        uint32_t kind
        uint32_t key_size
        uint32_t value_size
        uint32_t entries
        uint32_t flags
    struct bpf_names:
        uint32_t kind
        char of_map[16]
        char of_program[16]
    int bpf_call_names(int descriptor, bpf_names *names)
    int bpf_call_identity(int fd, uint64_t *identity)
    int bpf_call_map(uint32_t kind, uint32_t value_size, uint32_t entries, uint32_t flags, const char *name)
    int bpf_call_facts(int map, bpf_map_facts *facts)
    int bpf_call_types(const void *types, uint32_t length, char *log, uint32_t log_size)
    int bpf_call_program(const bpf_program_text *text)
    int bpf_call_trace(int program, const char *tracepoint)

ARRAY = BPF_KIND_ARRAY
PERCPU_ARRAY = BPF_KIND_PERCPU_ARRAY
SYSCALL = BPF_PROGRAM_SYSCALL
RAW_TRACEPOINT = BPF_PROGRAM_RAW_TRACEPOINT
RAW_TRACEPOINT_LINK = 1              # BPF_LINK_TYPE_RAW_TRACEPOINT

cdef enum:
    LOG_ROOM = 1 << 20               # bytes for the verifier's log, at first
    MOST_LOG = 1 << 24
    PATIENCE = 100                   # how often a call is repeated at most that signals interrupt
    LONGEST_CONTEXT = 0xffff         # bytes
    INSTRUCTION = 8                  # bytes
    LOAD_IMMEDIATE = 0x18            # BPF_LD | BPF_DW | BPF_IMM: two instructions long, loads the address of a map
    MAP_ADDRESS = 1                  # BPF_PSEUDO_MAP_FD, in place of the source register
    MAP_MEMORY = 2                   # BPF_PSEUDO_MAP_VALUE


cdef void _refuse(int error, str doing, str log="") except *:
    """Raise the exception for the negative errno *error*."""
    raise reasons.bpf_error(doing, -error, log)


cdef bint _again(int answer, int *tries) except -1:
    """Whether to repeat a call that returned *answer*: a signal interrupted it. Its handler runs first."""
    if answer != -EAGAIN and answer != -EINTR or tries[0] >= PATIENCE:
        return False
    tries[0] += 1
    PyErr_CheckSignals()
    return True


cdef bint _is_full(int error) except -1:
    """Whether the negative errno *error* means that there is no room, and not that something is refused."""
    return error in reasons.FULL


cdef class Descriptor:
    """An object of bpf(2), by its descriptor: the base class of maps, types, programs and links."""

    def __cinit__(self):
        self.held.fd = -1

    def __dealloc__(self):
        self._drop()

    cdef void _drop(self) noexcept:
        """Close the descriptor, unless other code of this process has closed it and its number belongs to another file.

        The inode cannot tell the two files apart: all objects of bpf(2) share one inode.
        """
        cdef uint64_t now
        cdef int failed
        if self.held.fd < 0:
            return
        if self.identity:
            failed = bpf_call_identity(self.held.fd, &now)
            if failed == -EINVAL or not failed and now != self.identity:
                self.held.fd = -1
        held_close(&self.held)

    cdef bint _keep(self, int fd) noexcept:
        """Store the descriptor that a call returned, before anything else can fail. Return whether it is one."""
        held_set(&self.held, fd if fd >= 0 else -1)
        if fd < 0 or bpf_call_identity(fd, &self.identity):
            self.identity = 0
        return fd >= 0

    cdef int _copy(self, int descriptor) except -1:
        """Own a copy of *descriptor*, which belongs to another object."""
        cdef int fd = fcntl(descriptor, F_DUPFD_CLOEXEC, 3)
        if fd < 0:
            raise kernel_error("can't take a descriptor over", errno_now, os.strerror(errno_now))
        self._keep(fd)
        return 0

    cdef void _give_up(self) noexcept:
        """Stop owning the descriptor: another object closes it."""
        held_set(&self.held, -1)

    @classmethod
    def of(cls, int descriptor):
        """Return an object that owns a copy of *descriptor*, of whatever kind it is."""
        cdef Descriptor made = cls.__new__(cls)
        made._copy(descriptor)
        return made

    def names(self):
        """Return (the number of its kind, its name if it is a map, its name if it is a program). The kind is 0 if it is
        nothing of bpf(2). Raises if this process may not ask."""
        cdef bpf_names names
        cdef int failed = bpf_call_names(self.held.fd, &names)
        if failed == -EINVAL:
            return 0, "", ""
        if -failed in reasons.FULL:
            _refuse(failed, "can't ask what a descriptor stands for")
        if failed < 0:
            # asking needs no capability, as running does not
            raise Unsupported(f"can't ask what a descriptor stands for: {reasons.why_not_run(-failed)}")
        return (names.kind, (<bytes> names.of_map[:strnlen(names.of_map, 16)]).decode("utf-8", "replace"),
                (<bytes> names.of_program[:strnlen(names.of_program, 16)]).decode("utf-8", "replace"))

    def fileno(self):
        """Return the descriptor, -1 once it is closed."""
        return self.held.fd

    def close(self):
        """Close the descriptor. A second call does nothing."""
        self._drop()

    def __reduce_ex__(self, protocol):
        raise TypeError(f"a {type(self).__name__} has a descriptor and cannot be copied")


cdef class Map(Descriptor):
    """An array in the kernel. An entry has one value, and can be mapped into memory, or one for each processor."""

    def __cinit__(self):
        self.memory = NULL
        self.length = 0

    def __init__(self, uint32_t kind, uint32_t value_size, uint32_t entries, bint mapped=False, str name="iptc"):
        """Make an array of *kind* `ARRAY` or `PERCPU_ARRAY`, all zeros. *mapped*: map its memory into this process."""
        cdef bytes its_name = name.encode()
        cdef const char *text = its_name
        cdef uint32_t flags = BPF_MAP_MMAPABLE if mapped else 0
        cdef int fd
        self._drop()
        with nogil:
            fd = bpf_call_map(kind, value_size, entries, flags, text)
        if not self._keep(fd):
            _refuse(fd, f"can't make a map of {entries} times {value_size} bytes")
        self.kind, self.value_size, self.entries = kind, value_size, entries
        if mapped:
            self._map()

    @classmethod
    def from_descriptor(cls, int descriptor):
        """Return the map of another process whose *descriptor* was handed over. The object owns a copy of it."""
        cdef bpf_map_facts facts
        cdef Map taken = Map.__new__(Map)
        cdef int failed
        taken._copy(descriptor)
        with nogil:
            failed = bpf_call_facts(taken.held.fd, &facts)
        if failed < 0:
            _refuse(failed, "can't ask what kind of map it is")
        taken.kind, taken.value_size, taken.entries = facts.kind, facts.value_size, facts.entries
        if facts.kind not in (BPF_KIND_ARRAY, BPF_KIND_PERCPU_ARRAY) or facts.key_size != 4:
            raise ParameterError("the descriptor is not that of an array of bpf(2)")
        if facts.flags & BPF_MAP_MMAPABLE:
            taken._map()
        return taken

    cdef int _map(self) except -1:
        """Map its memory. It can be written, since this process passes numbers to programs in it."""
        cdef size_t page = sysconf(_SC_PAGESIZE)
        cdef size_t stride = (<size_t> self.value_size + 7) // 8 * 8
        cdef size_t length = (stride * self.entries + page - 1) // page * page
        cdef void *memory
        with nogil:
            memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, self.held.fd, 0)
        if memory == MAP_FAILED:
            raise kernel_error("can't map the memory of a map", errno_now, os.strerror(errno_now))
        self.memory, self.length = <unsigned char *> memory, length
        return 0

    cdef void _drop(self) noexcept:
        if self.memory != NULL:
            munmap(self.memory, self.length)
        self.memory = NULL
        self.length = 0
        Descriptor._drop(self)

    def read(self, uint32_t key):
        """Return the value at *key*. If each processor has one, return all, each with a multiple of 8 bytes."""
        cdef size_t processors = 1
        cdef size_t stride = (<size_t> self.value_size + 7) // 8 * 8
        cdef bytes value
        cdef char *room
        cdef int failed
        if self.kind == BPF_KIND_PERCPU_ARRAY:
            processors = len(possible_processors())
        value = PyBytes_FromStringAndSize(NULL, stride * processors)
        room = PyBytes_AS_STRING(value)
        with nogil:
            failed = bpf_call_get(self.held.fd, key, room)
        if failed < 0:
            _refuse(failed, "can't read a map")
        return value if processors > 1 else value[:self.value_size]

    def write(self, uint32_t key, bytes value not None):
        """Set the value at *key*, in a map with one value for all processors."""
        cdef const char *data = value
        cdef int failed
        if PyBytes_GET_SIZE(value) != self.value_size or self.kind != BPF_KIND_ARRAY:
            raise ParameterError(f"a value of this map has {self.value_size} bytes")
        with nogil:
            failed = bpf_call_put(self.held.fd, key, data)
        if failed < 0:
            _refuse(failed, "can't write a map")


def possible_processors():
    """Return the numbers of all possible processors. Some may be absent now, and some numbers may be left out."""
    cdef list numbers = []
    cdef str path = "/sys/devices/system/cpu/possible"
    try:
        parts = reasons.content(path).strip().split(",")
    except OSError as error:
        raise reasons.unreadable(path, error) from None
    for part in parts:
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


# Room for the log of the kernel's verifier.
cdef struct Log:
    char *text
    uint32_t size


cdef bint _room(Log *log) noexcept nogil:
    """Make room; each further call makes four times as much. Return whether more room is possible."""
    cdef uint32_t size = 4 * log.size if log.size else LOG_ROOM
    if size > MOST_LOG:
        return False
    free(log.text)
    log.text = <char *> calloc(size, 1)
    log.size = size if log.text != NULL else 0
    return log.text != NULL


cdef str _said(const Log *log):
    """Return the text of the log."""
    return "" if log.text == NULL else log.text[:strnlen(log.text, log.size)].decode("utf-8", "replace")


cdef class ProgramTypes(Descriptor):
    """The types of a program's functions in the kernel, which needs them for programs with several functions."""

    def __init__(self, bytes types not None):
        """Load *types*, which are BTF."""
        cdef const char *data = types
        cdef uint32_t length = PyBytes_GET_SIZE(types)
        cdef int fd, answer
        cdef Log log
        self._drop()
        log.text, log.size = NULL, 0
        with nogil:
            fd = bpf_call_types(data, length, NULL, 0)
        try:
            if fd < 0 and not _is_full(-fd) and _room(&log):
                # once more with a log, to get the reason
                with nogil:
                    answer = bpf_call_types(data, length, log.text, log.size)
                if answer >= 0:
                    fd = answer
            if not self._keep(fd):
                _refuse(fd, "can't load the types of the programs", _said(&log))
        finally:
            free(log.text)


cdef bytes _patched(bytes code, object maps, dict given):
    """Return *code* with the descriptors of maps inserted. *given*: {name: `Map`}. *maps*: (number of the instruction,
    name of the map, whether it means the map's memory, offset in that memory)."""
    cdef bytes patched = bytes(bytearray(code))     # a real copy: `bytes(code)` would be the same object
    cdef char *memory = PyBytes_AS_STRING(patched)
    cdef Py_ssize_t count = PyBytes_GET_SIZE(code) // INSTRUCTION, at
    cdef Map its
    cdef int32_t descriptor, offset
    cdef int meant
    if maps and given is None:
        raise ParameterError("the program needs maps")
    for at, name, within, its_offset in maps:
        if not 0 <= at < count - 1 or <uint8_t> memory[at * INSTRUCTION] != LOAD_IMMEDIATE:
            raise ParameterError("the program takes no map there")
        its = given[name]
        descriptor, offset = its.held.fd, its_offset
        meant = MAP_MEMORY if within else MAP_ADDRESS
        memory[at * INSTRUCTION + 1] = memory[at * INSTRUCTION + 1] & 0x0f | meant << 4
        memcpy(memory + at * INSTRUCTION + 4, &descriptor, 4)
        memcpy(memory + (at + 1) * INSTRUCTION + 4, &offset, 4)
    return patched


cdef class Program(Descriptor):
    """A BPF program, which the kernel has checked and loaded."""

    def __init__(self, str name not None, uint32_t kind, bytes code not None, ProgramTypes types=None,
                 bytes functions=b"", maps=(), dict given=None):
        """Load *code*, instructions of 8 bytes. *kind*: `SYSCALL` or `RAW_TRACEPOINT`.

        *types* and *functions* (`struct bpf_func_info`) describe its functions; a program with one function needs
        neither. *maps* and *given* are as for `_patched`: which instructions use which maps.
        """
        cdef bpf_program_text text
        cdef bytes its_name = name.encode(), patched = _patched(code, maps, given)
        cdef Log log
        cdef int fd, answer, tries = 0
        self._drop()
        log.text, log.size = NULL, 0
        text.kind, text.flags = kind, BPF_PROGRAM_SLEEPABLE if kind == BPF_PROGRAM_SYSCALL else 0
        text.instructions, text.instruction_count = PyBytes_AS_STRING(patched), PyBytes_GET_SIZE(code) // INSTRUCTION
        text.types = types.held.fd if types is not None else 0
        text.functions = NULL
        text.function_count = 0
        if functions:
            text.functions, text.function_count = PyBytes_AS_STRING(functions), PyBytes_GET_SIZE(functions) // 8
        text.name, text.log, text.log_size = its_name, NULL, 0
        while True:
            with nogil:
                fd = bpf_call_program(&text)
            if not _again(fd, &tries):
                break
        try:
            answer = fd
            # once more with a log, to get the reason; a kernel before 6.4 needs room for the whole log
            while answer < 0 and not _is_full(-answer) and _room(&log):
                text.log, text.log_size = log.text, log.size
                with nogil:
                    answer = bpf_call_program(&text)
                if answer >= 0:
                    fd = answer
                if answer != -ENOSPC:
                    break
            if not self._keep(fd):
                _refuse(fd, f"can't load the program {name}", _said(&log))
        finally:
            free(log.text)

    @classmethod
    def from_descriptor(cls, int descriptor):
        """Return the program of another process whose *descriptor* was handed over. The object owns a copy of it."""
        cdef Program taken = Program.__new__(Program)
        taken._copy(descriptor)
        return taken

    cdef int run_in(self, void *context, uint32_t length, uint32_t *result) noexcept nogil:
        """Run a program of the kind `SYSCALL`. It reads and writes *context*. Return 0 or a negative errno."""
        return bpf_call_run(self.held.fd, context, length, result)

    def run(self, bytearray context not None):
        """Run a program of the kind `SYSCALL`, and return its result. It reads and writes *context*."""
        cdef Py_buffer memory
        cdef uint32_t length = len(context), result = 0
        cdef int failed, tries = 0
        if len(context) > LONGEST_CONTEXT:
            raise ParameterError("a context has 65535 bytes at most")
        PyObject_GetBuffer(context, &memory, PyBUF_WRITABLE)    # the bytearray cannot be resized meanwhile
        try:
            while True:
                with nogil:
                    failed = self.run_in(memory.buf if length else NULL, length, &result)
                if not _again(failed, &tries):
                    break
        finally:
            PyBuffer_Release(&memory)
        if failed < 0:
            _refuse(failed, "can't run a program")
        return result


cdef class TracepointLink(Descriptor):
    """Lets a BPF program run each time the kernel reaches a tracepoint, until `close`."""

    def __init__(self, Program program not None, str tracepoint not None):
        """Let *program*, of the kind `RAW_TRACEPOINT`, run at *tracepoint*."""
        cdef bytes name = tracepoint.encode()
        cdef const char *text = name
        cdef int fd
        self._drop()
        self.program = program
        with nogil:
            fd = bpf_call_trace(program.held.fd, text)
        if not self._keep(fd):
            _refuse(fd, f"can't use the tracepoint {tracepoint}")
        fd = self._note()
        if fd < 0:
            _refuse(fd, f"can't use the tracepoint {tracepoint}")

    @classmethod
    def from_descriptor(cls, int descriptor):
        """Return the link of another process whose *descriptor* was handed over. The object owns a copy of it."""
        cdef TracepointLink taken = TracepointLink.__new__(TracepointLink)
        cdef int failed
        taken._copy(descriptor)
        failed = taken._note()
        if failed < 0:
            _refuse(failed, "can't take a tracepoint over")
        return taken

    cdef int _note(self) noexcept:
        """Store which link the descriptor is."""
        cdef int failed
        with nogil:
            failed = bpf_call_link(self.held.fd, &self.facts)
        return failed

    cdef bint runs(self) noexcept nogil:
        """Whether the descriptor still is this link. If other code has closed it, the program may have stopped running
        at the tracepoint."""
        cdef bpf_link_facts facts
        return (bpf_call_link(self.held.fd, &facts) == 0
                and memcmp(&facts, &self.facts, sizeof(bpf_link_facts)) == 0)
