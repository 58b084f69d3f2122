# cython: freethreading_compatible=False
"""Finds the per-CPU variables of the kernel and of its modules.

BTF knows where a variable is in its section; where the section begins, only symbols tell, which not every kernel has.
So the section of the kernel is found by its run queues: each thread leads to that of its CPU. That of a module is found
in the list of modules.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from .window cimport PAGE, Window

from ..errors import Unsupported
from .btf import ask
from .kernel import possible_processors

cdef enum:
    # limits of iptc: what is longer or larger is given up
    MOST_MODULES = 4096
    ROOM = 4096                      # bytes of a module's structure that are read at most

cdef str SECTION = ".data..percpu"
_QUEUES = (("variable", SECTION, "runqueues"), ("number", "rq", "cpu", 4), ("number", "task_struct", "se.cfs_rq", 8),
           ("number", "cfs_rq", "rq", 8))
_MODULES = (("number", "module", "list.next", 8), ("member", "module", "name"), ("number", "module", "percpu", 8))


cdef int prepare_for(str name, str module) except -1:
    """Ask BTF all that `variable_at` will ask."""
    for questions, its in ((_QUEUES, None), ((("variable", SECTION, name),), None), (_MODULES, None),
                           ((("variable", SECTION, name),), module)):
        try:
            ask(questions, its)
        except Unsupported:
            pass
    return 0


cdef uint64_t variable_at(Window window, str name, str module, uint64_t other) except? 0:
    """Return the per-CPU address of the variable *name*, of the kernel or of *module*; 0 if it cannot be found.

    *other*: the address of any module, 0 for none.
    """
    cdef tuple question = (("variable", SECTION, name),)
    cdef uint64_t begin
    try:
        try:
            begin = _of_kernel(window)
            at, _ = ask(question)[0]
        except Unsupported:
            begin = _of_module(window, module.encode(), other)
            at, _ = ask(question, module)[0]
    except Unsupported:
        return 0
    return begin + <uint64_t> at


cdef uint64_t _of_kernel(Window window) except? 0:
    """Return where the section of the kernel begins. That may be 0."""
    cdef uint64_t queue, begin, its_queue, its_number
    cdef uint32_t i
    (variable, _), number, of_thread, of_group = ask(_QUEUES)
    cdef list numbers = possible_processors()
    window.word(0)                   # sets `window.task`
    queue = window.word(window.word(window.task + <uint64_t> of_thread) + <uint64_t> of_group)
    its_number = window.word(queue + <uint64_t> number) & 0xffffffff
    if len(numbers) == window.cpus and its_number in numbers:
        begin = queue - window.offsets[numbers.index(its_number)] - <uint64_t> variable
        for i in range(window.cpus):
            its_queue = window.offsets[i] + begin + <uint64_t> variable
            if window.word(its_queue + <uint64_t> number) & 0xffffffff != <uint64_t> numbers[i]:
                break
        else:
            return begin
    window.check()
    raise Unsupported("the run queues are not laid out as the kernel's BTF says")


cdef uint64_t _of_module(Window window, bytes name, uint64_t other) except? 0:
    """Return where the section of the module *name* begins."""
    cdef char memory[ROOM]
    cdef uint64_t at = other, found = 0
    cdef size_t size
    cdef int _i
    following, (named, its_room), section = ask(_MODULES)
    size = max(following + 8, named + its_room, section + 8)
    for _i in range(MOST_MODULES):
        # the head of the list is no module: the bytes around it are compared too, but they are not this name
        if at <= PAGE or size > ROOM or len(name) >= its_room or window.look(at, memory, size):
            break
        if memcmp(memory + <size_t> named, <const char *> name, len(name) + 1) == 0:
            memcpy(&found, memory + <size_t> section, 8)
            break
        memcpy(&at, memory + <size_t> following, 8)
        at -= <uint64_t> following
        if at == other:
            break
    window.check()
    if not found:
        raise Unsupported("the kernel's modules are not laid out as its BTF says")
    return found
