"""Maps, programs and types of bpf(2), in the kernel that runs: `iptc.bpf.kernel` and `iptc.bpf.btf`."""

import os
import select
import struct

import pytest

import iptc
from iptc.bpf import btf, kernel

RETURN_7 = bytes.fromhex("b7000000070000009500000000000000")
NO_EXIT = RETURN_7[:8]


def left_open():
    """The descriptors of this process."""
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.needs("ebpf")
def test_a_map_is_read_and_written_by_call_and_in_memory():
    made = kernel.Map(kernel.ARRAY, 8, 100, mapped=True)
    assert (made.kind, made.value_size, made.entries) == (kernel.ARRAY, 8, 100)
    made.write(3, struct.pack("Q", 77))
    assert [struct.unpack("Q", made.read(key))[0] for key in (2, 3, 4)] == [0, 77, 0]
    with pytest.raises(iptc.Unsupported, match="can't read a map"):
        made.read(100)
    other = kernel.Map.from_descriptor(made.fileno())
    made.close()
    assert struct.unpack("Q", other.read(3)) == (77,) and other.entries == 100


@pytest.mark.needs("ebpf")
def test_a_per_cpu_map_has_a_value_for_each_processor():
    made = kernel.Map(kernel.PERCPU_ARRAY, 4, 1)
    processors = kernel.possible_processors()
    assert set(range(os.cpu_count())) <= set(processors)
    assert made.read(0) == (bytes(8 * len(processors)) if len(processors) > 1 else bytes(4))


@pytest.mark.needs("ebpf")
def test_a_program_is_loaded_and_run():
    program = kernel.Program("seven", kernel.SYSCALL, RETURN_7)
    assert program.run(bytearray(16)) == 7
    taken = kernel.Program.from_descriptor(program.fileno())
    program.close()
    assert taken.run(bytearray()) == 7


@pytest.mark.needs("ebpf")
def test_the_error_has_the_last_line_of_the_verifiers_log():
    with pytest.raises(iptc.Unsupported, match="^can't load the program broken: .*last insn is not an exit or jmp"):
        kernel.Program("broken", kernel.SYSCALL, NO_EXIT)


@pytest.mark.needs("ebpf")
def test_a_tracepoint_that_does_not_exist_is_refused():
    program = kernel.Program("seven", kernel.RAW_TRACEPOINT, RETURN_7)
    trace = kernel.TracepointLink(program, "percpu_free_percpu")
    trace.close()
    with pytest.raises(iptc.Unsupported, match="can't use the tracepoint no_such_thing: .*No such file"):
        kernel.TracepointLink(program, "no_such_thing")


@pytest.mark.needs("ebpf")
def test_every_descriptor_is_closed_on_exec_and_in_the_end():
    before = left_open()
    made = kernel.Map(kernel.ARRAY, 8, 1, mapped=True)
    program = kernel.Program("seven", kernel.RAW_TRACEPOINT, RETURN_7)
    things = [
        made,
        kernel.Map.from_descriptor(made.fileno()),
        program,
        kernel.TracepointLink(program, "percpu_free_percpu"),
    ]
    assert [os.get_inheritable(thing.fileno()) for thing in things] == [False] * len(things)
    for thing in things:
        thing.close()
        thing.close()
        assert thing.fileno() == -1
    assert left_open() == before


@pytest.mark.needs("ebpf")
def test_a_number_that_belongs_to_another_by_now_is_not_closed():
    """All objects of bpf(2) share one inode, also with the descriptors of epoll and eventfd."""

    def made(kind):
        if kind == "map":
            return kernel.Map(kernel.ARRAY, 8, 1, mapped=True)
        if kind == "program":
            return kernel.Program("seven", kernel.SYSCALL, RETURN_7)
        if kind == "trace":
            return kernel.TracepointLink(kernel.Program("seven", kernel.RAW_TRACEPOINT, RETURN_7), "percpu_free_percpu")
        return select.epoll()

    kinds = ["map", "program", "trace", "epoll"]
    for kind in kinds[:-1]:
        for other in kinds:
            mine, its = made(kind), made(other)
            number = mine.fileno()
            os.close(number)
            os.dup2(its.fileno(), number)
            mine.close()
            os.fstat(number)
            os.close(number)
            its.close()


def test_members_are_where_c_has_them():
    types = btf.kernel_types()
    # of the interface between kernel and programs, and so known
    assert types.member("sockaddr_in", "sin_port") == (2, 2)
    assert types.member("ipt_entry", "counters.bcnt") == (104, 8)
    assert types.member("xt_entry_match", "u.user.name[28]") == (30, 1)
    assert types.member("xt_entry_match", "u.user.name") == (2, 29)
    assert types.size("ipt_entry") == 112
    # in a structure without a name
    assert types.member("net_generic", "ptr[3]") == (24, 8)
    assert types.has_tracepoint("percpu_free_percpu") and not types.has_tracepoint("no_such_thing")


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda types: types.member("sockaddr_in", "sin_portx"), "sockaddr_in has no sin_portx in this kernel"),
        (lambda types: types.member("sockaddr_in", "sin"), "no sin in this kernel"),
        (lambda types: types.member("sockaddr_in", "sin_addr.s_addr.x"), "no sin_addr.s_addr.x"),
        (lambda types: types.member("xt_entry_match", "u.user.name[29]"), "has no"),
        (lambda types: types.member("iphdr", "ihl"), "iphdr's ihl is a bit-field"),
        (lambda types: types.size("no_such_thing"), "the BTF of vmlinux has no no_such_thing"),
        (lambda types: types.variable(".data..percpu", "no_such_thing"), "no no_such_thing"),
        (lambda types: types.function("no_such_thing"), r"no no_such_thing\(\)"),
    ],
)
def test_the_error_names_the_type_or_member_that_does_not_exist(call, reason):
    with pytest.raises(iptc.Unsupported, match=reason):
        call(btf.kernel_types())


def test_bit_fields_are_found_by_their_bits():
    ihl, version = (btf.kernel_types().bits("iphdr", name) for name in ("ihl", "version"))
    assert (ihl, version) == ((0, 4), (4, 4))


def test_answers_are_the_same_when_they_are_asked_again():
    questions = (("size", "ipt_entry"), ("member", "sockaddr_in", "sin_port"), ("bits", "iphdr", "version"))
    first = btf.ask(questions)
    first.append("changed by its owner")
    assert btf.ask(questions) == [112, (2, 2), (4, 4)]
    # a module that is not loaded, or is built in, has no types of its own
    assert btf.ask(questions, "no_such_module") == btf.ask(questions)


def test_types_are_read_once_while_they_are_kept(monkeypatch):
    read, real = [], btf._read
    monkeypatch.setattr(btf, "_read", lambda name: read.append(name) or real(name))
    with btf.KeepTypes():
        for module in (None, "no_such_module", None):
            with btf.KeepTypes():
                assert btf.kernel_types(module).size("ipt_entry") == 112
    assert read == ["vmlinux", "no_such_module"]
    btf.kernel_types()
    btf.kernel_types()
    assert read[2:] == ["vmlinux", "vmlinux"]
