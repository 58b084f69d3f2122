"""Legacy tables read by eBPF: each counter is that of its rule, also while writers replace the tables.

The counters of each rule identify the rule and the ruleset, so a counter of another rule is noticed.
"""

import ctypes
import errno
import os
import platform
import random
import struct
import subprocess
import time

import pytest
from conftest import PATIENCE
from test_bpf_source import same
from test_bpf_trials import Board, Turns, forked

import iptc
from iptc import _core
from iptc.bpf.legacy import LegacyFinder
from iptc.bpf.scan import BpfScan
from iptc.bpf.window import Window
from iptc.legacy.blob import TableScan
from iptc.legacy.settling import Settling

pytestmark = pytest.mark.needs("ebpf")

TIMES = int(os.environ.get("IPTC_STRESS", "1"))
VERSIONS = 250
BPF = 280 if platform.machine() == "aarch64" else 321  # the number of the system call
CHAINS = {
    "filter": ["INPUT", "FORWARD", "OUTPUT"],
    "nat": ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
    "mangle": ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
    "raw": ["PREROUTING", "OUTPUT"],
    "security": ["INPUT", "FORWARD", "OUTPUT"],
}
RULES = [
    "",
    "-p tcp",
    "-p udp -m udp --dport 7",
    "-p tcp -m multiport --dports 1,2,3,4,5",
    "-m comment --comment x",
    "-m mark --mark 1 -m comment --comment y -p tcp -m tcp --sport 3",
]


def counters(*identity):
    """The packets and bytes of a rule that is (ruleset, chain, number)."""
    ruleset, chain, number = identity
    packets = (ruleset << 24 | chain << 16 | number) + 1
    return packets, 3 * packets + 1


def ruleset(table, number, chains, rules, kinds=RULES):
    """The lines of a table whose counters tell what is theirs, with *rules* rules in each of its *chains*."""
    head = [f":{name} ACCEPT [{5 * n + 5}:{number + n}]" for n, name in enumerate(CHAINS[table])]
    users = [f"user{n}" for n in range(chains)]
    lines = []
    for n, name in enumerate([*CHAINS[table], *users]):
        for k in range(rules):
            packets, size = counters(number, n, k)
            lines.append(f"[{packets}:{size}] -A {name} {kinds[(k + n) % len(kinds)]}")
    return [*head, *(f":{name} - [0:0]" for name in users), *lines]


def text_of(lines, table="filter"):
    """*lines* as iptables-restore takes them."""
    return "\n".join([f"*{table}", *lines, "COMMIT", ""])


def given(host, ipv6, *lines, table="filter"):
    """Give *lines* with their counters to iptables-restore."""
    host.restore(text_of(lines, table), ipv6=ipv6, arguments=["-c"])


def nfproto_of(ipv6):
    return _core.IPV6 if ipv6 else _core.IPV4


class Counting(TableScan):
    """Counts how often the socket is read."""

    readings = 0

    def read(self):
        self.readings += 1
        return super().read()


def scan_of(table, nfproto=_core.IPV4, period=0.0):
    """A scan that reads by eBPF, the one by the socket that it learns from, and a function that returns the finder."""
    socket = Counting(nfproto, table)
    opened = []

    def finder():
        window = Window()
        opened.append((window, LegacyFinder(window, nfproto, table, socket.fileno())))
        return opened[-1]

    return BpfScan(socket, finder, False, period), socket, lambda: opened[-1][1]


def settled(scan):
    """Read as a `CounterReader` does: (counters of all rules, digest of the ruleset, counters of the policies)."""
    reading = scan.read()
    counts, digest, policies = Settling(scan).settle(reading) if scan.doubt else reading
    return counts.pairs(0, counts.rules), digest, policies


@pytest.mark.parametrize("table", CHAINS)
def test_every_counter_of_every_table_is_that_of_the_socket(host, ipv6, table):
    with iptc.CounterReader(table, ipv6, source="bpf") as reader, iptc.CounterReader(table, ipv6) as other:
        assert len(same(reader, other)) == 0
        for number, (chains, rules) in enumerate([(0, 1), (1, 0), (3, 5), (40, 20), (0, 300), (2, 700)]):
            given(host, ipv6, *ruleset(table, number, chains, rules), table=table)
            snapshot = same(reader, other)
            assert [chain.policy_counters for chain in snapshot.chains if chain.policy] == [
                (5 * n + 5, number + n) for n in range(len(CHAINS[table]))
            ]
            for n, name in enumerate([*CHAINS[table], *(f"user{n}" for n in range(chains))]):
                assert list(snapshot[name]) == [counters(number, n, k) for k in range(rules)]
            assert reader.source == "bpf"


def test_readers_of_all_tables_of_both_families_do_not_disturb_each_other(host, traffic):
    kinds = [(table, ipv6) for table in CHAINS for ipv6 in (False, True)]
    for number, (table, ipv6) in enumerate(kinds):
        given(host, ipv6, *ruleset(table, number, 3, 3), table=table)
    readers = [(iptc.CounterReader(*kind, source="bpf"), iptc.CounterReader(*kind)) for kind in kinds]
    for turn in range(3):
        for reader, other in readers:
            same(reader, other)
            assert reader.source == "bpf"
        traffic(7, 5 + turn)
        traffic(7, 2 + turn, ipv6=True)


def test_replacing_another_table_does_not_end_reading(host):
    given(host, False, *ruleset("filter", 1, 2, 30))
    scan, socket, _ = scan_of("filter")
    first, learned = settled(scan), socket.readings
    for turn in range(5):
        given(host, False, *ruleset("nat", turn, 2, 30), table="nat")
        given(host, True, *ruleset("filter", turn, 2, 30))
        assert settled(scan) == first
    assert socket.readings == learned
    host.iptables("-A INPUT")
    assert len(settled(scan)[0]) == 151 and socket.readings > learned


def test_two_replacements_between_two_readings_are_noticed(host, ipv6):
    """The second table may get the address of the table that is known. Only the freed block tells them apart."""
    given(host, ipv6, *ruleset("filter", 1, 1, 60))
    scan, _, finder = scan_of("filter", nfproto_of(ipv6))
    other = TableScan(nfproto_of(ipv6), "filter")
    number, again = 1, 0
    for turn in range(20 * TIMES):
        before = finder().info
        for _ in range(turn % 4):
            number += 1
            # rules that differ in what no size tells
            given(host, ipv6, *ruleset("filter", number % 200, 1, 60, [f"-p udp -m udp --dport {number}"]))
        mine, digest, policies = settled(scan)
        assert digest == other.read()[1]
        assert mine == [counters(number % 200, n, k) for n in range(4) for k in range(60)]
        assert policies == [(5 * n + 5, number % 200 + n) for n in range(3)]
        again += turn % 4 > 0 and finder().info == before
    print(f"{again} tables came to stand in the place of the one that was known")


def versioned(version):
    """The lines of one of the rulesets that the writers write. Its first rule and all its counters say which one."""
    lines = ruleset("filter", version, 1, 20 + version % 5 // 4, ["-p udp -m udp --dport 65000"])
    first = next(number for number, line in enumerate(lines) if line.startswith("["))
    lines[first] = lines[first].replace("65000", str(version + 1))
    return lines


@pytest.fixture
def versions(host, ipv6):
    """{identity of the first rule: version}."""
    given(host, ipv6, *(f"-A INPUT -p udp -m udp --dport {version + 1}" for version in range(VERSIONS)))
    scan = TableScan(nfproto_of(ipv6), "filter")
    scan.read()
    return {its: version for version, its in enumerate(struct.unpack(f"{VERSIONS}Q", scan.identities))}


def write(writer, board, tool, times):
    """What one writer does: the next version in place of the last one, when it is its turn."""
    draw = random.Random(writer)
    for _ in range(times):
        board.lock.acquire(timeout=PATIENCE)
        version = (board[0] + 1) % VERSIONS
        text = text_of(versioned(version)).encode()
        if not draw.randrange(8):
            subprocess.run([tool, "-w"], input=b"*filter\nCOMMIT\n", check=True)
        subprocess.run([tool, "-w", "-c"], input=text, check=True)
        board[0] = version
        board.lock.release()


def test_eight_writers_cause_no_wrong_number(host, ipv6, versions):
    """Each reading is of the last known version or a later one. Each counter is that of its rule, or was not given back
    yet."""
    board = Board()
    board.lock = Turns()
    write(0, board, host.tool(ipv6, "-restore"), 1)
    scan, socket, _ = scan_of("filter", nfproto_of(ipv6), 0.5)
    running = {forked(write, number, board, host.tool(ipv6, "-restore"), 12 * TIMES) for number in range(8)}
    draw, wrong, missed, seen, readings, refused = random.Random(ipv6), [], [], set(), 0, 0
    while running:
        for child in list(running):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                assert status == 0
                running.discard(child)
        # a moment in which several versions are written, and the last one comes to stand where the known one was
        time.sleep(draw.random() / 50)
        for _ in range(draw.randrange(1, 30)):
            committed = board[0]
            try:
                counts, digest, _ = scan.read()
            except iptc.Unsupported as refusal:
                assert "the ruleset changes all the time" in str(refusal)
                refused += 1
                continue
            readings += 1
            if scan.doubt:
                # whether its writer has given the counters back does not matter here
                scan.rely_on(counts)
            if not counts.rules:
                continue
            version = versions[struct.unpack_from("Q", scan.identities)[0]]
            seen.add(version)
            if 0 < (committed - version) % VERSIONS < VERSIONS // 2:
                missed.append((version, committed))
            rules = 20 + version % 5 // 4
            expected = [counters(version, n, k) for n in range(4) for k in range(rules)]
            pairs = zip(counts.pairs(0, counts.rules), expected, strict=True)
            wrong += [(mine, its) for mine, its in pairs if mine not in (its, (0, 0))]
    print(f"{readings} readings, {socket.readings} by socket too, {len(seen)} versions, {refused} refused")
    assert (wrong[:9], missed[:9]) == ([], [])
    assert len(seen) > 1 and socket.readings < readings


def links():
    """The descriptors of this process behind which the kernel counts what is freed."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if "bpf_link" in os.readlink(f"/proc/self/fd/{name}"):
                found.add(int(name))
        except OSError:
            pass  # that of the folder itself
    return found


@pytest.mark.parametrize("taken", [False, True], ids=["closed", "taken by another reader"])
def test_a_closed_link_of_the_tracepoint_is_noticed(host, taken):
    """Without the link, a freed table is not noticed. So no number is returned, and everything is opened anew."""
    given(host, False, *ruleset("filter", 1, 1, 60))
    foreign, others = links(), []
    with iptc.CounterReader(source="bpf") as reader, iptc.CounterReader(source="auto", source_check=0.01) as patient:
        for turn in range(3):
            reader.read(), patient.read()
            for number in links() - foreign:
                os.close(number)
            if taken:
                others.append(iptc.CounterReader(source="bpf"))
                others[-1].read()
                foreign |= links()
            for number in range(2):
                given(host, False, *ruleset("filter", 10 + 2 * turn + number, 1, 60, [f"-p udp --dport {number + 1}"]))
            expected = [counters(11 + 2 * turn, n, k) for n in range(4) for k in range(60)]
            with pytest.raises(iptc.Unsupported, match="can't read the counters with eBPF: the programs cannot be run"):
                reader.read()
            assert list(reader.read()) == list(patient.read()) == expected
            with iptc.CounterReader() as other:
                same(reader, other)
            limit = time.monotonic() + PATIENCE
            while patient.source != "bpf":
                assert list(patient.read()) == expected and time.monotonic() < limit
    for other in others:
        other.close()


def test_a_link_cannot_be_taken_off(host):
    """A tool that detaches links with BPF_LINK_DETACH gets an error, and the reader goes on."""
    detach = 34  # BPF_LINK_DETACH
    before = links()
    with iptc.CounterReader(source="bpf") as reader:
        reader.read()
        (link,) = links() - before
        libc = ctypes.CDLL(None, use_errno=True)
        attributes = ctypes.create_string_buffer(struct.pack("I", link), 16)
        assert libc.syscall(BPF, detach, attributes, 16) == -1 and ctypes.get_errno() == errno.EOPNOTSUPP
        reader.read()
        assert reader.source == "bpf"


def test_a_namespace_that_ends(host, traffic):
    """The tables of the namespace are freed. Other tables at the same addresses are not taken for them."""
    name = f"iptc-{os.getpid()}"
    host.run("ip", "netns", "add", name)
    host.run("ip", "netns", "exec", name, host.tool(verb="-restore"), "-c", text=text_of(ruleset("filter", 1, 1, 60)))
    given(host, False, *ruleset("filter", 2, 1, 60))
    with iptc.CounterReader(source="bpf") as here, iptc.CounterReader() as other:
        first = same(here, other)
        with iptc.CounterReader(netns=name, source="bpf") as reader, iptc.CounterReader(netns=name) as its:
            assert list(same(reader, its)) == [counters(1, n, k) for n in range(4) for k in range(60)]
            host.run("ip", "netns", "delete", name)
            assert list(same(reader, its)) == [counters(1, n, k) for n in range(4) for k in range(60)]
            assert list(same(here, other)) == list(first)
        for turn in range(4):
            given(host, False, *ruleset("filter", 3 + turn, 1, 60))
            assert list(same(here, other)) == [counters(3 + turn, n, k) for n in range(4) for k in range(60)]
        assert here.source == "bpf"
