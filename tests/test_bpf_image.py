"""program.bin has the programs of program.c, and damaged files are refused: `scripts/bpf` and `iptc.bpf.image`."""

import importlib.util
import json
import os
import pathlib
import re
import struct

import pytest
from untried import no_ebpf, untried

import iptc
from iptc.bpf import image, kernel, shipped

SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"
KINDS = {"syscall": kernel.SYSCALL, "raw_tp": kernel.RAW_TRACEPOINT}

# all that programs are made of: a function that is called back, one that is called, a map, memory of its own
TINY = """
#include <linux/bpf.h>
#include <linux/types.h>
#define SEC(name) __attribute__((section(name), used))
static void *(*const map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const loop)(__u32 times, void *body, void *context, __u64 flags) = (void *)BPF_FUNC_loop;
struct map { int nothing; };
struct map numbers SEC("maps");
struct request { __u64 times, sum; };
__u64 seen;
static __attribute__((noinline)) __u64 square(__u64 number) { return number * number; }
static long step(__u32 number, struct request *request)
{
    __u64 *value = map_lookup(&numbers, &number);
    if (!value)
        return 1;
    request->sum += square(*value);
    return 0;
}
SEC("syscall") int squares(struct request *request)
{
    struct request mine = { request->times, 0 };
    loop(mine.times, step, &mine, 0);
    request->sum = mine.sum;
    seen += 1;
    return square(3);
}
SEC("raw_tp/percpu_free_percpu") int nothing(void *arguments) { return 0; }
char said_license[] SEC("license") = "Dual MIT/GPL";
"""


@pytest.fixture(scope="module")
def tool():
    """scripts/bpf.py as a module."""
    spec = importlib.util.spec_from_file_location("bpf_script", SCRIPTS / "bpf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(read, name, types, given):
    """The program *name* in the kernel."""
    text = read.programs[name]
    return kernel.Program(name, KINDS[text.kind.partition("/")[0]], text.code, types, text.functions, text.maps, given)


@pytest.fixture
def written(tmp_path):
    """Writes a file with some fields changed, and reads it."""

    def write(**changed):
        program = {"kind": "syscall", "code": "twAAAAcAAACVAAAAAAAAAA==", "functions": [[0, 1]], "maps": []}
        program |= {name: value for name, value in changed.items() if name in program}
        said = {"form": image.FORM, "clang": "clang", "source": "00", "types": "", "programs": {"seven": program}}
        said |= {name: value for name, value in changed.items() if name in said}
        (tmp_path / "program.bin").write_text(json.dumps(said))
        return image.read(str(tmp_path / "program.bin"))

    return write


@pytest.mark.needs("ebpf")
def test_what_clang_makes_is_linked_and_runs(tool, tmp_path):
    source = tmp_path / "tiny.c"
    source.write_text(TINY)
    if untried("" if tool.clang_version() else "there is no clang that makes programs for the kernel"):
        return
    made = tool.build(sources=[source])
    assert tool.build(sources=[source]) == made
    (tmp_path / "program.bin").write_bytes(made)
    read = image.read(str(tmp_path / "program.bin"))
    assert sorted(read.programs) == ["nothing", "squares"] and read.clang == tool.clang_version()
    given = {"numbers": kernel.Map(kernel.ARRAY, 8, 10), ".bss": kernel.Map(kernel.ARRAY, 8, 1)}
    for number in range(10):
        given["numbers"].write(number, struct.pack("Q", number))
    types = kernel.ProgramTypes(read.types)
    context = bytearray(struct.pack("QQ", 5, 0))
    squares = load(read, "squares", types, given)
    assert (squares.run(context), struct.unpack("QQ", context)) == (9, (5, 30))
    assert struct.unpack("Q", given[".bss"].read(0)) == (1,)
    kernel.TracepointLink(load(read, "nothing", types, given), "percpu_free_percpu").close()


@pytest.mark.needs("ebpf")
def test_a_sound_file_is_read(written):
    read = written()
    assert kernel.Program("seven", kernel.SYSCALL, read.programs["seven"].code).run(bytearray()) == 7


@pytest.mark.parametrize(
    "changed",
    [
        {"form": 2},
        {"code": ""},
        {"code": "twAAAAcAAACVAAAAAAAA"},
        {"code": "not base64"},
        {"functions": [[2, 1]]},
        {"functions": [[0, -1]]},
        {"functions": [[0]]},
        {"functions": 7},
        {"maps": [[1, "numbers", False, 0]]},
        {"maps": [[0, 1, False, 0]]},
        {"maps": [[0.0, "numbers", False, 0]]},
        {"programs": []},
        {"programs": {"../x": {}}},
        {"types": None},
    ],
)
def test_a_damaged_file_is_refused(written, changed):
    with pytest.raises(iptc.Unsupported, match="is not what it has to be"):
        written(**changed)


def test_a_file_that_is_cut_off_or_gone_is_refused(written, tmp_path):
    written()
    path = tmp_path / "program.bin"
    path.write_bytes(path.read_bytes()[:-20])
    for said in ("is not what it has to be", "can't read .*: No such file"):
        with pytest.raises(iptc.Unsupported, match=said):
            image.read(str(path))
        path.unlink(missing_ok=True)


@pytest.mark.needs("ebpf")
def test_a_map_where_the_program_takes_none_is_refused():
    code = bytes.fromhex("b7000000070000009500000000000000")
    given = {"numbers": kernel.Map(kernel.ARRAY, 8, 10)}
    for maps in ([(0, "numbers", False, 0)], [(1, "numbers", False, 0)], [(-1, "numbers", False, 0)]):
        with pytest.raises(iptc.ParameterError, match="takes no map"):
            kernel.Program("seven", kernel.SYSCALL, code, maps=maps, given=given)


@pytest.mark.one_backend("legacy", "nft")
def test_the_shipped_programs_are_what_the_source_gives(host, tool, tmp_path, monkeypatch):
    """By the clang that made them, byte by byte. What the usual clang makes does the same, whichever version it has."""
    read = image.read()
    assert read.source == tool.source_hash(), "program.c was changed: run scripts/bpf"
    assert read.clang.startswith("Debian clang version ")
    if untried("" if tool.clang_version() else "there is no clang that makes programs for the kernel"):
        return
    its_name = re.match(r"Debian (clang) version (\d+)\.", read.clang).expand(r"\1-\2")
    makers = [clang for clang in ("clang", its_name) if tool.clang_version(clang) == read.clang]
    here = tool.clang_version()
    if not untried("" if makers else f"the shipped programs were made by {read.clang}, and here is {here}"):
        assert pathlib.Path(image.PATH).read_bytes() == tool.build(makers[0])
    made = tool.build()
    (tmp_path / "program.bin").write_bytes(made)
    mine = image.read(str(tmp_path / "program.bin"))
    assert {name: (text.kind, {its[1] for its in text.maps}) for name, text in mine.programs.items()} == {
        name: (text.kind, {its[1] for its in text.maps}) for name, text in read.programs.items()
    }
    monkeypatch.setattr(shipped, "_read", lambda: mine)
    host.restore(
        "*filter\n:INPUT ACCEPT [7:700]\n[3:4] -A INPUT -p tcp\n[5:6] -A INPUT -p udp\nCOMMIT\n", arguments=["-c"]
    )
    if untried(no_ebpf()):
        return
    with iptc.CounterReader("filter", backend=host.backend, source="bpf") as reader:
        assert list(reader.read()["INPUT"]) == [(3, 4), (5, 6)]
        descriptors = reader.fds()
        try:
            with iptc.CounterReader.from_fds(descriptors) as handed:
                assert list(handed.read()["INPUT"]) == [(3, 4), (5, 6)]
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
