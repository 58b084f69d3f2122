# Maps, BPF programs and their types in the kernel, by bpf(2) alone. Code that polls calls `run_in`, without the GIL.

from libc.stdint cimport uint32_t, uint64_t

from .._netns cimport Held

cdef extern from "calls.h" nogil:
    enum:
        BPF_KIND_ARRAY
        BPF_KIND_PERCPU_ARRAY
        BPF_MAP_MMAPABLE
        BPF_PROGRAM_RAW_TRACEPOINT
        BPF_PROGRAM_SYSCALL
        BPF_PROGRAM_SLEEPABLE
    int bpf_call_get(int map, uint32_t key, void *value)
    int bpf_call_put(int map, uint32_t key, const void *value)
    struct bpf_link_facts:
        uint32_t kind
        uint32_t id
        uint32_t program
    int bpf_call_run(int program, void *context, uint32_t length, uint32_t *result)
    int bpf_call_link(int link, bpf_link_facts *facts)

cdef class Descriptor:
    cdef Held held                   # -1: none
    cdef uint64_t identity           # which object of the kernel it stands for; 0: not known

    cdef void _drop(self) noexcept
    cdef bint _keep(self, int fd) noexcept
    cdef int _copy(self, int descriptor) except -1
    cdef void _give_up(self) noexcept

cdef class Map(Descriptor):
    cdef unsigned char *memory       # of a map that is mapped, otherwise NULL
    cdef size_t length               # bytes that are mapped
    cdef readonly uint32_t kind
    cdef readonly uint32_t value_size
    cdef readonly uint32_t entries

    cdef int _map(self) except -1

cdef class ProgramTypes(Descriptor):
    pass

cdef class Program(Descriptor):
    cdef int run_in(self, void *context, uint32_t length, uint32_t *result) noexcept nogil

cdef class TracepointLink(Descriptor):
    cdef Program program
    cdef bpf_link_facts facts

    cdef int _note(self) noexcept
    cdef bint runs(self) noexcept nogil
