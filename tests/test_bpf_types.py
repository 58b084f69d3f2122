"""Reading BTF: answers from BTF made by the tests; damaged BTF is refused, and no memory outside of it is read."""

import os
import pathlib
import struct
import subprocess
import sysconfig

import pytest
from made_btf import ARRAY, CONST, DATASEC, FUNC, FUNC_PROTO, INT, PTR, STRUCT, TYPEDEF, UNION, VAR, Made
from untried import untried

import iptc
from iptc.bpf import btf

HERE = pathlib.Path(__file__).parent
VMLINUX = "/sys/kernel/btf/vmlinux"
TIMES = 2000 * int(os.environ.get("IPTC_STRESS", "1"))


def sample():
    """A bit of everything."""
    made = Made()
    u32 = made.number()
    pointer = made.add(PTR, "", u32)
    array = made.add(ARRAY, "", 0, struct.pack("<III", pointer, u32, 5))
    flexible = made.add(ARRAY, "", 0, struct.pack("<III", u32, u32, 0))
    of_bits = made.number("bits", 4, 3, 2)
    inner = made.structure("", 16, [("a", u32, 0), ("bits", of_bits, 32)])
    union = made.structure("", 16, [("", inner, 0), ("b", pointer, 64)], UNION)
    alias = made.add(TYPEDEF, "alias", made.add(CONST, "", inner))
    made.structure("whole", 88, [("list", array, 0), ("", union, 320), ("named", alias, 448), ("tail", flexible, 576)])
    made.structure("fields", 8, [("one", u32, 1 << 24), ("rest", u32, 31 << 24 | 1), ("all", u32, 32)], flag=1)
    made.structure("twin", 4, [("same", u32, 0), ("other", u32, 0)])
    made.structure("twin", 8, [("same", u32, 0), ("other", u32, 32)])
    proto = made.add(FUNC_PROTO, "", u32, struct.pack("<II", 0, pointer), 1)
    made.add(FUNC, "call", proto)
    named = struct.pack("<IIII", made.text("first"), pointer, made.text("second"), u32)
    made.add(FUNC, "told", made.add(FUNC_PROTO, "", u32, named, 2))
    made.add(TYPEDEF, "btf_trace_free", pointer)
    variable = made.add(VAR, "mine", u32, struct.pack("<I", 0))
    made.add(DATASEC, ".data..percpu", 64, struct.pack("<III", variable, 16, 4), 1)
    return made


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("list", (0, 40)),
        ("list[4]", (32, 8)),
        ("a", (40, 4)),
        ("b", (48, 8)),
        ("named.a", (56, 4)),
        ("tail", (72, 0)),
        ("tail[1000]", (4072, 4)),
    ],
)
def test_members_are_found_by_their_paths(path, place):
    types = btf.Types(sample().data())
    assert types.member("whole", path) == place
    assert types.bits("whole", path) == (place[0] * 8, place[1] * 8)


def test_sizes_variables_functions_and_arguments_are_found():
    types = btf.Types(sample().data())
    assert [types.size(name) for name in ("whole", "alias", "fields")] == [88, 16, 8]
    assert types.bits("fields", "rest") == (1, 31) and types.member("fields", "all") == (4, 4)
    assert types.number("fields", "all", 4) == 4
    assert types.bits("whole", "bits") == (320 + 32 + 2, 3)
    assert types.variable(".data..percpu", "mine") == (16, 4)
    assert types.function("call") == sample().number_of["call"]
    assert [types.argument("told", name) for name in ("first", "second")] == [(0, 2), (1, 2)]
    assert types.has_tracepoint("free") and not types.has_tracepoint("call")
    assert types.member("twin", "same") == (0, 4)


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (("member", "whole", "c"), "whole has no c"),
        (("member", "whole", "list[5]"), "has no list"),
        (("member", "whole", "list[]"), "has no list"),
        (("member", "whole", "list[1"), "has no list"),
        (("member", "whole", "list[99999999999999999999]"), "has no list"),
        (("member", "whole", "a[0]"), "has no a"),
        (("member", "whole", "a.b"), "has no a.b"),
        (("member", "whole", ""), "has no "),
        (("member", "whole", "named..a"), "has no"),
        (("member", "fields", "one"), "a bit-field"),
        (("member", "whole", "bits"), "a bit-field"),
        (("member", "fields", "one.x"), "has no one.x"),
        (("member", "twin", "other"), "several twin, which differ"),
        (("size", "twin"), "several twin, which differ"),
        (("number", "whole", "a", 8), "whole's a has 4 bytes in this kernel, and not 8"),
        (("member", "call", "x"), "has no call"),
        (("variable", "twin", "mine"), "twin has no mine"),
        (("argument", "told", "third"), "told has no third"),
        (("argument", "call", "first"), "call has no first"),
        (("argument", "whole", "first"), "has no whole"),
    ],
)
def test_a_name_that_does_not_exist_is_refused(question, reason):
    name, *arguments = question
    with pytest.raises(iptc.Unsupported, match=reason):
        getattr(btf.Types(sample().data()), name)(*arguments)


def test_types_of_a_module_are_numbered_after_those_of_the_kernel():
    base = sample()
    kernel = btf.Types(base.data())
    made = Made(base.next, len(base.strings))
    # its types are of the kernel's, and one is its own that the kernel has too
    made.structure("its", 96, [("a", 1, 32), ("whole", base.number_of["whole"], 64)])
    made.structure("fields", 4, [("all", 1, 0)])
    module = btf.Types(made.data(), kernel, "some")
    assert module.member("its", "whole.list[1]") == (16, 8)
    assert (module.member("fields", "all"), kernel.member("fields", "all")) == ((0, 4), (4, 4))
    assert module.size("whole") == 88 and module.variable(".data..percpu", "mine") == (16, 4)
    with pytest.raises(iptc.Unsupported, match="the BTF of some has no nothing"):
        module.size("nothing")


def test_types_that_contain_themselves_are_refused():
    made = Made()
    made.add(TYPEDEF, "round", 1)
    made.structure("within", 8, [("", 2, 0)])
    made.structure("big", 8, [("many", 4, 0)])
    made.add(ARRAY, "", 0, struct.pack("<III", 4, 1, 1 << 20))
    types = btf.Types(made.data())
    for question in (("size", "round"), ("member", "round", "x"), ("member", "within", "x"), ("member", "big", "many")):
        with pytest.raises(iptc.Unsupported):
            getattr(types, question[0])(*question[1:])


@pytest.mark.parametrize(
    ("offset", "type_of"),
    [(1, "u32"), (32, "u32"), (0xFFFFFFFF, "u32"), (0, "huge"), (0, "many"), (0, "nothing"), (0, "around")],
)
def test_a_member_that_lies_outside_of_its_structure_is_refused(offset, type_of):
    made = Made()
    made.number()
    made.structure("huge", 0xFFFFFFFF, [])
    made.add(ARRAY, "many", 0, struct.pack("<III", 2, 1, 0xFFFFFFFF))
    made.add(TYPEDEF, "nothing", 0)
    made.add(TYPEDEF, "around", 5)
    made.structure("whole", 4, [("it", made.number_of[type_of], offset)])
    made.structure("without a name", 4, [("", made.structure("", 8, [("inner", 1, 0)]), 0)])
    types = btf.Types(made.data())
    for name, path in (("whole", "it"), ("without a name", "inner")):
        for question in (types.member, types.bits):
            with pytest.raises(iptc.Unsupported, match=f"the BTF of vmlinux is broken at {name}.{path}"):
                question(name, path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x9f\xea", "is broken"),
        (b"\0\0", "is broken"),
        (b"\xeb\x9f", "has another byte order or version than this iptc knows"),
        (b"\x9f\xeb\2", "has another byte order or version than this iptc knows"),
    ],
)
def test_another_form_of_btf_is_refused(data, reason):
    with pytest.raises(iptc.Unsupported, match=f"the BTF of vmlinux {reason}"):
        btf.Types(data + sample().data()[len(data) :])


def test_a_longer_header_and_more_parts_after_the_types_are_read():
    data = sample().data()
    (types_length,) = struct.unpack_from("<I", data, 12)
    head = bytearray(data[:24] + struct.pack("<II", types_length, 8))
    struct.pack_into("<I", head, 4, len(head))
    struct.pack_into("<I", head, 16, types_length + 8)
    types = btf.Types(bytes(head) + data[24 : 24 + types_length] + bytes(8) + data[24 + types_length :])
    assert types.member("whole", "list[4]") == (32, 8)


@pytest.mark.parametrize("kind", [INT, ARRAY, STRUCT, UNION, 6, FUNC_PROTO, DATASEC, 19])
@pytest.mark.parametrize("count", [1, 0xFFFF, 0xFFFFFF])
def test_a_count_of_members_that_goes_past_the_end_is_refused(kind, count):
    made = Made()
    made.add(kind, "last", 4, b"", count)
    with pytest.raises(iptc.Unsupported, match="the BTF of vmlinux is broken"):
        btf.Types(made.data())


def test_more_members_than_16_bits_can_count_are_read():
    made = Made()
    made.number()
    made.structure("large", 4 << 17, [("", 0, 0)] * 65536)
    made.structure("after", 4, [("it", 1, 0)])
    types = btf.Types(made.data())
    assert types.member("after", "it") == (0, 4) and len(types) == 3
    with pytest.raises(iptc.Unsupported):
        types.member("large", "it")


def test_names_that_are_empty_or_outside_of_the_strings_are_no_names():
    made = sample()
    made.add(STRUCT, "", 8)
    made.records.append(struct.pack("<III", 0xFFFFFFFF, STRUCT << 24, 8))
    made.records.append(struct.pack("<III", 0, TYPEDEF << 24, 1))
    types = btf.Types(made.data())
    for name in ("", "\xff"):
        for question in (
            (types.size, name),
            (types.member, name, "a"),
            (types.function, name),
            (types.member, "whole", ""),
        ):
            with pytest.raises(iptc.Unsupported):
                question[0](*question[1:])
    assert types.size("whole") == 88


@pytest.mark.parametrize("cut", [0, 1, 3, 23, 24, 40, -1])
def test_btf_with_a_broken_part_is_refused(cut):
    with pytest.raises(iptc.Unsupported, match="the BTF of vmlinux is broken"):
        btf.Types(sample().data()[:cut])


def test_the_error_names_an_unknown_kind_of_type():
    for kind in (20, 25, 31, 0x7F, 0):
        made = sample()
        made.add(kind, "of later")
        with pytest.raises(iptc.Unsupported, match="kind of type that this iptc does not know"):
            btf.Types(made.data())


def test_no_memory_outside_of_the_btf_is_read(tmp_path):
    """Of a small BTF, and of the kernel's own one if it has any, damaged at random places or cut off."""
    compiler = os.environ.get("CC") or (sysconfig.get_config_var("CC") or "cc").split()[0]
    source, made = HERE.parent / "iptc" / "bpf", tmp_path / "btf"
    command = [compiler, "-g", "-O1", "-Wall", "-Werror", f"-I{source}", HERE / "btf.c", source / "types.c", "-o", made]
    checked = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    if subprocess.run([*command, *checked], capture_output=True).returncode:
        untried("this compiler has no AddressSanitizer; only what ends the process is found")
        subprocess.run(command, check=True)
    names = ["whole", "alias", "fields", "twin", "call", "list", "a", "b", "named", "tail", "bits", "one", "rest"]
    names += ["free", "mine", ".data..percpu", "same", "other", "u32", "from", "told", "first", "second"]
    (tmp_path / "sample").write_bytes(sample().data())
    members = "net nft base_seq gencursor nft_chain name handle xt_table private task_struct files file module list"
    of_kernel = [*members.split(), *names]
    runs = [(tmp_path / "sample", seed, TIMES, len(names), names) for seed in (1, 2)]
    if not untried("" if os.access(VMLINUX, os.R_OK) else "the kernel has no BTF"):
        runs.append((VMLINUX, 3, TIMES // 400, 4, of_kernel))
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    for *words, times, asked, its_names in runs:
        command = [made, *map(str, (*words, times, asked)), *its_names]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr[:3000]
        opened, answers = map(int, done.stdout.split())
        assert opened > times // 10 and answers > (opened if asked == len(names) else 0)
