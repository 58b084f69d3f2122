"""The offsets of all that eBPF reads come from BTF: with another layout others are used, and what is missing is named."""

import copy
import os
import random
import re

import pytest
from made_btf import made_of
from test_bpf_source import restored

import iptc
from iptc.bpf import btf, nft, scan

# ------------------------------------------------------------------------------- a kernel that does not exist

WORD, LIST = 64, 128
PERNET, NET = "nftables_pernet", "net"
SHAPES = {
    NET: (4096, {"nft.base_seq": (2048 * 8, 32), "nft.gencursor": (2052 * 8, 8)}),
    PERNET: (256, {"tables.next": (0, WORD), "gc_seq": (200 * 8, 32)}),
    "nft_table": (
        352,
        {
            "list.next": (0, WORD),
            "list.prev": (WORD, WORD),
            "chains.next": (24 * 8, WORD),
            "name": (200 * 8, WORD),
            "handle": (208 * 8, WORD),
            "family": (220 * 8, 6),
            "flags": (220 * 8 + 6, 8),
            "genmask": (220 * 8 + 14, 2),
        },
    ),
    "nft_chain": (
        160,
        {
            "blob_gen_0": (0, WORD),
            "blob_gen_1": (WORD, WORD),
            "list.next": (32 * 8, WORD),
            "list.prev": (40 * 8, WORD),
            "handle": (80 * 8, WORD),
            "flags": (92 * 8, 5),
            "genmask": (92 * 8 + 6, 2),
            "name": (96 * 8, WORD),
        },
    ),
    "nft_base_chain": (320, {"policy": (88 * 8, 8), "stats": (96 * 8, WORD), "chain": (104 * 8, 160 * 8)}),
    "nft_rule_blob": (8, {"size": (0, WORD), "data": (WORD, 0)}),
    "nft_rule_dp": (8, {"is_last": (0, 1), "dlen": (1, 12), "handle": (13, 42), "data": (WORD, 0)}),
    "nft_expr": (8, {"ops": (0, WORD), "data": (WORD, 0)}),
    "nft_expr_ops": (152, {"size": (16 * 8, 32), "type": (128 * 8, WORD)}),
    "nft_expr_type": (72, {"name": (40 * 8, WORD), "owner": (48 * 8, WORD)}),
    "nft_counter_percpu_priv": (8, {"counter": (0, WORD)}),
    "nft_counter": (16, {"bytes": (0, WORD), "packets": (WORD, WORD)}),
    "nft_stats": (24, {"bytes": (0, WORD), "pkts": (WORD, WORD)}),
}


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Returns a function that makes the BTF of a kernel that has nf_tables built in, of shapes like those above."""
    monkeypatch.setattr(btf, "FOLDER", str(tmp_path))

    def make(data):
        (tmp_path / "next").write_bytes(data)
        (tmp_path / "next").replace(tmp_path / "vmlinux")  # a file of its own: answers are kept by its inode

    return make


def changed(structure, its_bytes=None, /, **members):
    """SHAPES with a structure of other *its_bytes*, and with other *members*: (offset, width), None for one that is not there."""
    shapes = copy.deepcopy(SHAPES)
    its_size, its = shapes[structure]
    for name, place in members.items():
        path = name.replace("__", ".")
        if place is None:
            del its[path]
        else:
            its[path] = place
    shapes[structure] = (its_bytes or its_size, its)
    return shapes


def test_the_layout_is_what_the_btf_says(kernel):
    kernel(made_of(SHAPES))
    its = nft.layout()
    assert (its["base_seq"], its["gencursor"], its["seq_is_ours"], its["gc_seq"]) == (2048, 2052, False, 200)
    assert its["blobs"] == [0, 8] and its["rule_handle"] == {"at": 13, "width": 42} and its["rule_data"] == 8
    assert its["chain_flags"] == {"at": 92 * 8, "width": 5} and its["base_chain"] == 104
    assert (its["private_size"], its["private_counter"], its["data"], its["ops"]) == (8, 0, 8, 0)
    assert (its["counter"], its["stats"]) == (
        {"size": 16, "packets": 8, "bytes": 0},
        {"size": 24, "packets": 8, "bytes": 0},
    )


def without_seq_of_net():
    """The generation number is in the memory of nf_tables, and elsewhere in it than in any kernel."""
    shapes = changed(NET, nft__base_seq=None)
    shapes[PERNET][1]["base_seq"] = (248 * 8, 32)
    return shapes


@pytest.mark.parametrize(
    ("shapes", "difference"),
    [
        # the private part of a counter with a pointer to a namespace after the one to the counter, before it, and more
        (changed("nft_counter_percpu_priv", 16, net=(WORD, WORD)), {"private_size": 16}),
        (
            changed("nft_counter_percpu_priv", 16, net=(0, WORD), counter=(WORD, WORD)),
            {"private_size": 16, "private_counter": 8},
        ),
        (changed("nft_counter_percpu_priv", 88, counter=(80 * 8, WORD)), {"private_size": 88, "private_counter": 80}),
        (changed("nft_counter", 40, bytes=(256, WORD)), {"counter": {"size": 40, "packets": 8, "bytes": 32}}),
        (changed("nft_stats", 32, pkts=(192, WORD)), {"stats": {"size": 32, "packets": 24, "bytes": 0}}),
        # a larger header of rules, and one with whole numbers
        (changed("nft_rule_dp", 16, data=(128, 0)), {"rule_data": 16}),
        (
            changed("nft_rule_dp", 24, is_last=(160, 8), dlen=(128, 32), handle=(WORD, WORD), data=(192, 0)),
            {
                "rule_last": {"at": 160, "width": 8},
                "rule_length": {"at": 128, "width": 32},
                "rule_handle": {"at": 64, "width": 64},
                "rule_data": 24,
            },
        ),
        (changed("nft_expr", 24, ops=(WORD, WORD), data=(192, 0)), {"ops": 8, "data": 24}),
        (changed("nft_expr_ops", 256, size=(0, 32), type=(248 * 8, WORD)), {"ops_size": 0, "ops_type": 248}),
        (changed(NET, nft__base_seq=(4000 * 8, 32), nft__gencursor=(9 * 8, 8)), {"base_seq": 4000, "gencursor": 9}),
        (without_seq_of_net(), {"base_seq": 248, "seq_is_ours": True}),
        (changed(PERNET, gc_seq=None), {"gc_seq": 0}),
        (changed(PERNET, gc_seq=(32 * 8, 8), tables__next=(72 * 8, WORD)), {"gc_seq": 32, "tables": 72}),
        (changed("nft_rule_blob", 24, size=(WORD, WORD), data=(192, 0)), {"blob_size": 8, "blob_data": 24}),
        (changed("nft_chain", 168, list__next=(16, WORD), list__prev=(160 * 8, WORD)), None),
    ],
)
def test_another_layout_gives_other_offsets(kernel, shapes, difference):
    kernel(made_of(SHAPES))
    usual = nft.layout()
    kernel(made_of(shapes))
    its = nft.layout()
    if difference is not None:
        assert {name: value for name, value in its.items() if value != usual[name]} == difference
    else:
        assert (its["chain_size"], its["chain_next"], its["chain_prev"]) == (168, 2, 160)


@pytest.mark.parametrize(
    ("structure", "path"),
    [
        (structure, path)
        for structure, (_, members) in SHAPES.items()
        for path in members
        if path not in ("gc_seq", "nft.base_seq")
    ],
)
def test_a_member_with_another_name_is_named(kernel, structure, path):
    size, members = copy.deepcopy(SHAPES[structure])
    first, dot, rest = path.partition(".")
    members[f"{first}{dot}{rest}_of_later"] = members.pop(path)
    kernel(made_of(SHAPES | {structure: (size, members)}))
    with pytest.raises(iptc.Unsupported, match=f"{structure} has no {re.escape(path)} in this kernel"):
        nft.layout()


def test_a_kernel_without_a_generation_number_is_refused(kernel):
    kernel(made_of(changed(NET, nft__base_seq=None)))
    with pytest.raises(iptc.Unsupported, match="nftables_pernet has no base_seq in this kernel"):
        nft.layout()


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        (changed("nft_counter", bytes=(0, 32)), "nft_counter's bytes has 4 bytes in this kernel, and not 8"),
        (changed("nft_base_chain", policy=(0, 32)), "nft_base_chain's policy has 4 bytes in this kernel, and not 1"),
        (changed("nft_expr_ops", size=(0, 16)), "nft_expr_ops's size has 2 bytes in this kernel, and not 4"),
        (changed("nft_counter", 72), "nft_counter has 72 bytes in this kernel, more than iptc reads"),
        (changed("nft_table", 1024), "nft_table has 1024 bytes in this kernel, more than iptc reads"),
        (changed("nft_rule_dp", 16, handle=(5, 64)), "nft_rule_dp's handle has 64 bits in this kernel, more than"),
        (changed("nft_rule_dp", 16, data=(0, 0)), "nft_rule_dp's is_last is not before its data in this kernel"),
        (changed("nft_expr", data=(0, 0)), "nft_expr's ops is not before its data in this kernel"),
        (changed("nft_chain", name=(160 * 8, WORD)), "the BTF of vmlinux is broken at nft_chain.name"),
        ({name: shape for name, shape in SHAPES.items() if name != "nft_stats"}, "the BTF of vmlinux has no nft_stats"),
    ],
)
def test_a_layout_that_cannot_be_read_is_named(kernel, shapes, reason):
    kernel(made_of(shapes))
    with pytest.raises(iptc.Unsupported, match=reason):
        nft.layout()


def test_a_damaged_description_of_nf_tables_is_read_or_refused(kernel):
    data, draw, read = made_of(SHAPES), random.Random(7), 0
    for _ in range(300 * int(os.environ.get("IPTC_STRESS", "1"))):
        damaged = bytearray(data)
        for _ in range(draw.randrange(1, 4)):
            damaged[draw.randrange(24, len(data))] ^= 1 << draw.randrange(8)
        kernel(damaged)
        try:
            its = nft.layout()
        except iptc.Unsupported:
            continue
        read += 1
        assert max(its["table_size"], its["chain_size"]) <= 512 and max(its["blobs"]) + 8 <= its["chain_size"]
        assert its["table_next"] + 8 <= its["table_size"] and its["private_counter"] + 8 <= its["private_size"]
        assert max(its["counter"]["packets"], its["counter"]["bytes"]) + 8 <= its["counter"]["size"] <= 64
    assert read > 10


# -------------------------------------------------------------------------------- this kernel, as it is and changed


class Recorder:
    """Answers as `Types` does, and keeps the answers as what `made_of` takes."""

    def __init__(self, types, shapes, functions, variables, typedefs):
        self.types = types
        self.shapes, self.functions, self.variables, self.typedefs = shapes, functions, variables, typedefs

    def its(self, name):
        size, members = self.shapes.setdefault(name, (None, {}))
        if size is None:
            self.shapes[name] = (self.types.size(name), members)
        return members

    def size(self, name):
        self.its(name)
        return self.types.size(name)

    def bits(self, name, path):
        answer = self.types.bits(name, path)
        self.its(name)[path] = answer
        return answer

    def member(self, name, path):
        offset, size = self.types.member(name, path)
        self.its(name)[path] = (offset * 8, size * 8)
        return offset, size

    def number(self, name, path, size):
        offset = self.types.number(name, path, size)
        self.its(name)[path] = (offset * 8, size * 8)
        return offset

    def variable(self, section, name):
        self.variables.setdefault(section, {})[name] = self.types.variable(section, name)
        return self.variables[section][name]

    def has_tracepoint(self, name):
        if self.types.has_tracepoint(name):
            self.typedefs.append(f"btf_trace_{name}")
        return self.types.has_tracepoint(name)

    def argument(self, function, name):
        at, count = self.types.argument(function, name)
        self.functions[function] = [name if number == at else f"other{number}" for number in range(count)]
        return at, count


OPTIONAL = re.compile(
    r"gc_seq"  # older kernels do not have it
    r"|runqueues|nft_counter_seq|xt_recseq|^rq\b|cfs_rq|^module\b"  # for the sequence count, without which eBPF reads too
)
ASKED = {}
"""What both back ends have asked this kernel's BTF: the shapes and all else that `made_of` takes."""


@pytest.fixture
def as_asked(host, kernel, monkeypatch, tmp_path):
    """Returns what the back end asks this kernel's BTF, and makes BTF the source of other answers from now on."""
    restored(host, False, ":OUTPUT ACCEPT [0:0]", ":web - [7:9]", "-A OUTPUT -p udp --dport 7 -j web", "-A web -p udp")
    if host.backend not in ASKED:
        found = ASKED[host.backend] = ({}, {}, {}, [])
        with open("/sys/kernel/btf/vmlinux", "rb") as file:
            kernel(file.read())
        for module in os.listdir("/sys/kernel/btf"):
            if module != "vmlinux":
                (tmp_path / module).symlink_to(f"/sys/kernel/btf/{module}")
        asked = btf.kernel_types
        with monkeypatch.context() as patch:
            patch.setattr(btf, "kernel_types", lambda module=None: Recorder(asked(module), *found))
            iptc.CounterReader("filter", backend=host.backend, source="bpf").close()
        for module in os.listdir(tmp_path):
            if module != "vmlinux":
                (tmp_path / module).unlink()
    return copy.deepcopy(ASKED[host.backend])


def numbers(host, source="bpf"):
    """Read with eBPF, or say why that is refused."""
    try:
        with iptc.CounterReader("filter", backend=host.backend, source=source) as reader:
            return list(reader.read())
    except iptc.Unsupported as refusal:
        return str(refusal)


@pytest.mark.needs("ebpf")
@pytest.mark.one_backend("legacy", "nft")
def test_the_answers_are_all_that_is_used_of_the_kernels_btf(host, kernel, as_asked, traffic):
    traffic(7, 3)
    kernel(made_of(*as_asked))
    assert numbers(host) == numbers(host, "socket") and numbers(host)[0][0] == 3


@pytest.mark.needs("ebpf")
@pytest.mark.one_backend("legacy", "nft")
def test_each_member_that_has_another_name_is_named(host, kernel, as_asked):
    right = numbers(host, "socket")
    shapes, *rest = as_asked
    refused = 0
    for structure, (size, members) in shapes.items():
        for path in members:
            others = {name: place for name, place in members.items() if name != path}
            kernel(made_of(shapes | {structure: (size, others)}, *rest))
            said = numbers(host)
            if OPTIONAL.search(f"{structure}.{path}"):
                assert said == right
            elif said != right or path != "nft.base_seq":
                refused += 1
                assert re.search(rf"\b{structure} has no {re.escape(path)} in this kernel", said) or (
                    path == "nft.base_seq" and "nftables_pernet has no base_seq in this kernel" in said
                ), (structure, path)
    assert refused > 20


@pytest.mark.needs("ebpf")
@pytest.mark.one_backend("legacy", "nft")
def test_a_wrong_offset_never_gives_a_wrong_number(host, kernel, as_asked, traffic, monkeypatch):
    """The kernel's memory is not laid out as the BTF says: the doubt ends the use of eBPF."""
    monkeypatch.setattr(scan, "PATIENCE", 0.1)
    traffic(7, 3)
    right = numbers(host, "socket")
    shapes, *rest = as_asked
    refused = 0
    moves = [(structure, path, shift) for structure in shapes for path in shapes[structure][1] for shift in (8, -8)]
    for structure, path, shift in moves:
        size, members = shapes[structure]
        offset, width = members[path]
        moved = (size + 8, members | {path: (max(offset + 8 * shift, 0), width)})
        kernel(made_of(shapes | {structure: moved}, *rest))
        said = numbers(host)
        assert said == right or isinstance(said, str), (structure, path, shift)
        refused += said != right
    assert refused > len(moves) // 3
