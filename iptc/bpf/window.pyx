# cython: freethreading_compatible=False
"""Reads the kernel's memory, for a process that may load programs: the bytes at an address, where the memory of each
CPU begins, and the structure behind a descriptor.
"""

from libc.errno cimport EFAULT
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ..errors import Unsupported
from .btf import ask
from .kernel import ARRAY, PERCPU_ARRAY, possible_processors
from .reasons import not_run
from .shipped import load

cdef extern from "program.h" nogil:
    struct peek:
        uint64_t from_ "from"
        uint32_t length
        uint32_t page
        uint32_t failed
        uint64_t task
    struct measure:
        uint32_t cpus
        uint32_t failed

cdef enum:
    BANKS = 4                        # how many banks a peek can fill
    AT_ONCE = BANKS * BANK_PAGES * PAGE

_WAY = (
    ("number", "task_struct", "files", 8),
    ("number", "files_struct", "fdt", 8),
    ("number", "fdtable", "max_fds", 4),
    ("number", "fdtable", "fd", 8),
    ("number", "file", "private_data", 8),
)
# the function that the tracepoint calls; its first argument is not one of the tracepoint
_FREED = (("argument", "__traceiter_percpu_free_percpu", "ptr"),)
_ARRAY = (("member", "bpf_array", "pptrs"), ("number", "bpf_array", "map.value_size", 4),
          ("number", "bpf_array", "map.max_entries", 4))


cdef TracepointLink trace_freed(str name, dict maps):
    """Let the program *name* run each time that the kernel frees per-CPU memory. Return the `TracepointLink`."""
    if ask(_FREED) != [(3, 4)]:
        raise Unsupported("the tracepoint percpu_free_percpu tells other things than iptc knows")
    return TracepointLink(load(name, maps), "percpu_free_percpu")


cdef class Window:
    """Reads the kernel's memory. Raises `Unsupported` with the reason if the kernel does not allow it."""

    def __dealloc__(self):
        free(self.offsets)

    def __init__(self):
        numbers = possible_processors()
        self.cpus = len(numbers)
        self.peek_map = Map(ARRAY, BANK, BANKS, True, "iptc_peek")
        self.freed = Map(ARRAY, 16, 1, True, "iptc_freed")
        self.peeking = load("peek", {"pages": self.peek_map})
        free(self.offsets)
        self.offsets = <uint64_t *> calloc(self.cpus, sizeof(uint64_t))
        if self.offsets == NULL:
            raise MemoryError
        self._measure(numbers)

    cdef int _measure(self, list numbers) except -1:
        """Find the offset that each CPU adds to a per-CPU address, by means of a per-CPU value of our own."""
        cdef Map cpus = Map(ARRAY, 8, self.cpus, True, "iptc_cpus")
        cdef Map ruler = Map(PERCPU_ARRAY, 8, 1, False, "iptc_ruler")
        cdef Program measuring = load("measure", {"cpus": cpus, "ruler": ruler})
        cdef uint64_t *row = <uint64_t *> cpus.memory
        cdef measure request
        cdef uint64_t array, begin
        cdef uint32_t i, result
        (pointers, _), value_size, entries = ask(_ARRAY)
        for i in range(self.cpus):
            row[i] = numbers[i]
        request.cpus, request.failed = self.cpus, 0
        self.lost = -measuring.run_in(&request, sizeof(request), &result)
        self.check()
        if request.failed:
            raise Unsupported("the kernel does not say where the memory of each CPU begins")
        array = self.private_of(ruler.held.fd)
        begin = self.word(array + <uint64_t> pointers)
        if (self.word(array + <uint64_t> value_size) & 0xffffffff != 8
                or self.word(array + <uint64_t> entries) & 0xffffffff != 1 or not begin):
            self.check()
            raise Unsupported("a map of bpf(2) is not laid out as the kernel's BTF says")
        for i in range(self.cpus):
            self.offsets[i] = row[i] - begin
        return 0

    cdef int check(self) except -1:
        """Raise `Hindrance` if a program could not be run since the last check."""
        cdef int number = self.lost
        self.lost = 0
        if number:
            raise not_run(number)
        return 0

    cdef int look(self, uint64_t at, void *to, size_t length) noexcept nogil:
        """Copy *length* bytes of the kernel's memory from the address *at*. Return 0, -EFAULT if there is no memory, or
        another negative errno if the program cannot be run."""
        cdef peek request
        cdef uint32_t result = 0
        cdef size_t part, done, piece
        cdef int failed
        while length:
            part = min(length, <size_t> AT_ONCE)
            request.from_, request.length, request.page, request.failed = at, part, 0, 0
            failed = self.peeking.run_in(&request, sizeof(request), &result)
            if failed:
                self.lost = -failed
                return failed
            self.task = request.task
            if request.failed:
                return -EFAULT
            done = 0
            while done < part:
                piece = min(part - done, <size_t> PAGE)
                memcpy(<char *> to + done, page_at(self.peek_map.memory, done // PAGE), piece)
                done += piece
            at += part
            to = <char *> to + part
            length -= part
        return 0

    cdef uint64_t word(self, uint64_t at) noexcept nogil:
        """Return the eight bytes at an address, or 0 if there is no memory."""
        cdef uint64_t found = 0
        if self.look(at, &found, sizeof(found)):
            return 0
        return found

    cdef uint64_t private_of(self, int descriptor) except 0:
        """Return `private_data` of the file behind *descriptor*: the address of the kernel's structure for it."""
        cdef uint64_t table, file, found = 0
        files, fdt, limit, descriptors, private = ask(_WAY)
        self.word(0)                 # sets `task`
        table = self.word(self.word(self.task + <uint64_t> files) + <uint64_t> fdt)
        if descriptor < (self.word(table + <uint64_t> limit) & 0xffffffff):
            file = self.word(self.word(table + <uint64_t> descriptors) + 8 * <uint64_t> descriptor)
            found = self.word(file + <uint64_t> private)
        if not found:
            self.check()
            raise Unsupported("the kernel's table of descriptors is not laid out as its BTF says")
        return found

    cdef int watch(self, uint64_t address) except -1:
        """Count from now on how often the per-CPU block at *address* is freed. Only one block is watched at a time."""
        if self.trace is None:
            self.trace = trace_freed("free_percpu", {"freed": self.freed})
        (<uint64_t *> self.freed.memory)[1] = address
        return 0
