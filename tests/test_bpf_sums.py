"""`iptc/bpf/sums.c`: its plans and sums, for any number of CPUs, equal those computed in Python; and the memory of a
reader is bounded."""

import ctypes
import os
import pathlib
import random
import struct
import subprocess
import sysconfig

import pytest

import iptc
from iptc.bpf import copies

SOURCE_FOLDER = pathlib.Path(__file__).parent.parent / "iptc" / "bpf"
PAGE, BANK_PAGES = 4096, 15
BANK = (BANK_PAGES + 1) * PAGE
CPUS = [1, 2, 3, 64, 128, 256]
TIMES = 3 * int(os.environ.get("IPTC_STRESS", "1"))
u16, u32, u64 = ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64


class Format(ctypes.Structure):
    _fields_ = [("size", u32), ("packets", u32), ("bytes", u32)]


class Spot(ctypes.Structure):
    _fields_ = [("at", u32), ("slot", u32)]


class Sheet(ctypes.Structure):
    _fields_ = [("first", u32), ("copy", u32), ("used", u32), ("plain", u32)]


class Copy(ctypes.Structure):
    _fields_ = [("start", u64), ("page", u32), ("begin", u16), ("size", u16)]


class Plan(ctypes.Structure):
    _fields_ = [
        ("slots", u32),
        ("rules", u32),
        ("rule", Format),
        ("policy", Format),
        ("spots", ctypes.POINTER(Spot)),
        ("spot_count", u32),
        ("sheets", ctypes.POINTER(Sheet)),
        ("sheet_count", u32),
        ("copies", ctypes.POINTER(Copy)),
        ("copy_count", u32),
    ]


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    """sums.c as a library."""
    made = tmp_path_factory.mktemp("sums") / "sums.so"
    compiler = os.environ.get("CC") or (sysconfig.get_config_var("CC") or "cc").split()[0]
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", made, SOURCE_FOLDER / "sums.c"], check=True
    )
    library = ctypes.CDLL(str(made))
    library.sum_sheet.restype = None
    return library


class Counters:
    """Counters at per-CPU addresses, the plan that the library makes of them, and what it copies."""

    def __init__(self, sums, addresses, rules, rule, policy, slack=0):
        self.sums, self.addresses, self.rules, self.formats = sums, addresses, rules, (rule, policy)
        count = len(addresses)
        pages = count * (max(rule[0], policy[0]) + slack) // (PAGE // 2) + 3
        self.room = [(Spot * (count + 1))(), (Sheet * (pages + 1))(), (Copy * (count + 1))()]
        self.plan = Plan(
            count, rules, Format(*rule), Format(*policy), self.room[0], 0, self.room[1], 0, self.room[2], 0
        )
        rows, order = (u64 * count)(*addresses), (u32 * (2 * count + 1))()
        self.failed = sums.plan_copies(ctypes.byref(self.plan), rows, slack, order)
        assert self.plan.sheet_count < pages

    def format(self, slot):
        return self.formats[slot >= self.rules]

    def copied(self):
        """[(first address, end)] of what is copied of each CPU."""
        return [(copy.start, copy.start + copy.size) for copy in self.plan.copies[: self.plan.copy_count]]

    def owned(self):
        """[(first address, end)] of the counters."""
        return [(at, at + self.format(slot)[0]) for slot, at in enumerate(self.addresses) if at]

    def memory(self, cpus, stride, value):
        """The pages of all CPUs, filled as the program in the kernel does; *value*(cpu, address) is the byte there."""
        pages = cpus * stride
        memory = bytearray(-(-pages // BANK_PAGES) * BANK)
        for cpu in range(cpus):
            for copy in self.plan.copies[: self.plan.copy_count]:
                page = copy.page + cpu * stride
                place = page // BANK_PAGES * BANK + page % BANK_PAGES * PAGE + copy.begin
                assert copy.begin + copy.size <= PAGE
                memory[place : place + copy.size] = value(cpu, copy.start, copy.size)
        return memory

    def add(self, memory, cpus, stride, packets=None, sizes=None, sheets=None):
        """The sums of all slots, (packets, bytes); of these *sheets* only, if they are given."""
        count = len(self.addresses)
        packets, sizes = packets or (u64 * count)(), sizes or (u64 * count)()
        pages = (ctypes.c_char * len(memory)).from_buffer(memory)
        for number in range(self.plan.sheet_count) if sheets is None else sheets:
            self.sums.sum_sheet(ctypes.byref(self.plan), number, pages, number, stride, cpus, packets, sizes)
        return packets, sizes


NFT = (16, 8, 0), (16, 8, 0)
LEGACY = (16, 0, 8), (16, 0, 8)
LATER = (24, 16, 0), (24, 0, 8)
"""Formats of a rule's counter and of a policy's: (size, offset of the packets, offset of the bytes)."""


def side_by_side(count, size, draw):
    """Addresses one beside the other, as the kernel gives them to rules that are made at once."""
    return [0x1000 + size * number for number in range(count)]


def here_and_there(count, size, draw):
    """Addresses with memory of others between them, in any order; some rules have no counter."""
    places = draw.sample(range(1, 8 * count), count)
    return [0 if draw.random() < 0.1 else 0x10000 + 8 * ((size + 7) // 8) * place for place in places]


@pytest.mark.parametrize("cpus", CPUS)
@pytest.mark.parametrize("layout", [side_by_side, here_and_there])
@pytest.mark.parametrize("formats", [NFT, LEGACY, LATER], ids=["nft", "legacy", "later"])
def test_the_sums_equal_those_computed_in_python(sums, cpus, layout, formats):
    draw = random.Random(f"{cpus} {layout.__name__} {formats}")
    for _ in range(TIMES):
        rules = draw.choice([0, 1, 255, 256, draw.randrange(900)])
        addresses = layout(rules + 3, formats[0][0], draw)
        counters = Counters(sums, addresses, rules, *formats)
        stride = counters.plan.sheet_count + draw.randrange(3)
        seen = {}

        def value(cpu, start, length, seen=seen):
            # of each counter of each CPU any number, as a reset leaves them too: below zero
            return seen.setdefault((cpu, start), draw.randbytes(length))

        memory = counters.memory(cpus, stride, value)
        packets, sizes = counters.add(memory, cpus, stride)
        of_address = {}
        for (_, start), data in seen.items():
            of_address.setdefault(start, []).append(data)
        starts = sorted(of_address)
        for slot, address in enumerate(addresses):
            expected = [0, 0]
            if address:
                start = max(its for its in starts if its <= address) if len(starts) < 40 else _before(starts, address)
                for data in of_address[start]:
                    for which, offset in enumerate(counters.format(slot)[1:]):
                        expected[which] += struct.unpack_from("<Q", data, address - start + offset)[0]
            assert (packets[slot], sizes[slot]) == tuple(number % (1 << 64) for number in expected)


def _before(starts, address):
    import bisect

    return starts[bisect.bisect_right(starts, address) - 1]


@pytest.mark.parametrize("layout", [side_by_side, here_and_there])
def test_pages_without_a_change_keep_their_sums(sums, layout):
    draw = random.Random(layout.__name__)
    counters = Counters(sums, layout(3000, 16, draw), 2997, *NFT)
    stride, cpus = counters.plan.sheet_count, 3
    assert stride > 8
    before = counters.memory(cpus, stride, lambda cpu, start, length: draw.randbytes(length))
    packets, sizes = counters.add(before, cpus, stride)
    kept = list(packets)
    after = bytearray(before)
    changed = draw.randrange(stride)
    spots = counters.plan.spots[counters.plan.sheets[changed].first : counters.plan.sheets[changed + 1].first]
    page = changed + 2 * stride
    place = page // BANK_PAGES * BANK + page % BANK_PAGES * PAGE + spots[0].at % PAGE
    struct.pack_into("<QQ", after, place, *(number + 7 for number in struct.unpack_from("<QQ", before, place)))
    differing = [
        number
        for number in range(stride)
        if any(
            sums.sheet_differs(ctypes.byref(counters.plan.sheets[number]), _page(before, page), _page(after, page))
            for page in range(number, cpus * stride, stride)
        )
    ]
    assert differing == [changed]
    counters.add(after, cpus, stride, packets, sizes, differing)
    kept[spots[0].slot] += 7
    assert list(packets) == kept
    assert list(packets) == list(counters.add(after, cpus, stride)[0])


def _page(memory, page):
    begin = page // BANK_PAGES * BANK + page % BANK_PAGES * PAGE
    return bytes(memory[begin : begin + PAGE])


@pytest.mark.parametrize("formats", [NFT, LEGACY, LATER], ids=["nft", "legacy", "later"])
@pytest.mark.parametrize("layout", [side_by_side, here_and_there])
def test_no_memory_of_other_counters_is_copied(sums, layout, formats):
    draw = random.Random(f"{layout.__name__} {formats}")
    for _ in range(TIMES):
        counters = Counters(sums, layout(draw.randrange(1, 2000), formats[0][0], draw), 10, *formats)
        owned = sorted(counters.owned())
        # run by run, what is copied is what the counters are
        joined = []
        for first, end in owned:
            if joined and joined[-1][1] == first:
                joined[-1][1] = end
            else:
                joined.append([first, end])
        covered = []
        for first, end in counters.copied():
            if covered and covered[-1][1] == first:
                covered[-1][1] = end
            else:
                covered.append([first, end])
        assert covered == joined


def test_bytes_between_counters_are_copied_only_within_one_block(sums):
    """Legacy tables only: each of their blocks belongs to one table."""
    draw = random.Random(7)
    addresses = sorted(draw.sample(range(0x1000, 0x9000, 16), 700))
    counters = Counters(sums, addresses, 697, *LEGACY, slack=64)
    for first, end in counters.copied():
        inside = [at for at in addresses if first <= at < end]
        gaps = [(one + 16, other) for one, other in zip(inside, inside[1:]) if other != one + 16]
        assert all(other - one <= 64 and one - 1 >> 12 == other >> 12 for one, other in gaps)


def test_two_rules_with_one_counter_are_refused(sums):
    assert Counters(sums, [0x1000, 0x2000, 0x1000], 3, *NFT).failed == -1
    assert Counters(sums, [0x1000, 0x1008], 2, *NFT).failed == -1
    assert Counters(sums, [0x1000, 0, 0, 0x1010], 2, *NFT).failed == 0


def room(sums, rules, cpus):
    """(bytes of the copies of so many rules of nf_tables, sheets that are in them at once, all sheets)."""
    sheets, stride, needed = -(-rules // 256), u32(), u32()
    sums.room_for.restype = u32
    banks = sums.room_for(
        sheets, cpus, u64(copies.MOST_MEMORY), u64(copies.PIECE), ctypes.byref(stride), ctypes.byref(needed)
    )
    assert needed.value <= banks and 2 * cpus * stride.value <= needed.value * BANK_PAGES
    return banks * BANK, stride.value, sheets


@pytest.mark.parametrize("cpus", [*CPUS, 4096, 8192])
def test_the_memory_of_copies_is_bounded(sums, cpus):
    for rules in (0, 1, 100, 1000, 10_000, 17_000, 100_000, 1_000_000):
        size, stride, sheets = room(sums, rules, cpus)
        assert size <= copies.MOST_MEMORY
        if stride >= sheets:
            # two copies of 16 bytes of each rule and CPU, in whole pages and banks, and a quarter more
            assert size <= 1.25 * 2 * cpus * (16 * rules + PAGE) * 16 / 15 + 2 * BANK
        else:
            assert size <= copies.PIECE * 16 / 15 + BANK or stride == 1
    # as docs/counters.md says
    assert room(sums, 17_000, 128)[1:] == (67, 67) and room(sums, 18_000, 128)[1] == 4
    assert room(sums, 1_000_000, 2)[1:] == (3907, 3907)


def maps_of(process="self"):
    """How many bytes the maps of bpf(2) take that a process has open."""
    size = 0
    for name in os.listdir(f"/proc/{process}/fd"):
        try:
            if os.readlink(f"/proc/{process}/fd/{name}") == "anon_inode:bpf-map":
                with open(f"/proc/{process}/fdinfo/{name}") as facts:
                    size += sum(int(line.split()[1]) for line in facts if line.startswith("memlock:"))
        except FileNotFoundError:
            pass
    return size


@pytest.mark.one_backend("nft")
@pytest.mark.parametrize("count", [0, 3000])
@pytest.mark.needs("ebpf")
def test_the_maps_of_a_reader_have_the_computed_size(host, sums, count):
    host.restore("*filter\n" + "-A INPUT -p udp\n" * count + "COMMIT\n")
    before = maps_of()
    with iptc.CounterReader(source="bpf") as reader:
        assert len(reader.read()) == count
        cpus = len(iptc.bpf.kernel.possible_processors())
        # addresses have 16 bytes, and some pages are for what is looked at while rules are learned
        assert 0 < maps_of() - before <= room(sums, count + 256, cpus)[0] + 20 * count + 5 * BANK
    assert maps_of() == before


@pytest.mark.needs("ebpf")
@pytest.mark.one_backend("nft")
def test_a_table_beyond_the_memory_limit_is_copied_in_pieces(host, monkeypatch, traffic):
    monkeypatch.setattr(copies, "MOST_MEMORY", 0)
    monkeypatch.setattr(copies, "PIECE", 1)
    rules = [f"[{number}:{7 * number}] -A OUTPUT -p udp" for number in range(1, 1500)]
    host.restore("\n".join(["*filter", *rules, "COMMIT", ""]), arguments=["-c"])
    with iptc.CounterReader(source="bpf") as reader, iptc.CounterReader() as other:
        for turn in range(4):
            assert list(reader.read()) == list(other.read())
            assert [packets for packets, _ in reader.read()] == [number + turn for number in range(1, 1500)]
            traffic(7, 1)
        host.iptables("-D OUTPUT 700")
        assert list(reader.read()) == list(other.read()) and reader.source == "bpf"
