"""Counters of legacy tables that are read by eBPF: they are those of their rules, whatever replaces the table meanwhile.

Each rule has counters that tell which rule of which ruleset it is, so a number that came to the wrong rule is seen.
"""

import os
import random
import subprocess
import sys
import time

import pytest
from conftest import PATIENCE
from test_bpf_source import IN_USE, REFUSED, SOURCE, same

import iptc
from iptc import _core
from iptc.bpf.legacy import LegacyFinder
from iptc.bpf.scan import BpfScan
from iptc.bpf.window import Window
from iptc.legacy.blob import TableScan
from iptc.legacy.settling import Settling

TIMES = int(os.environ.get("IPTC_STRESS", "1"))
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


def given(host, ipv6, *lines, table="filter"):
    """Give *lines* with their counters to iptables-restore."""
    host.restore("\n".join([f"*{table}", *lines, "COMMIT", ""]), ipv6=ipv6, arguments=["-c"])


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
def test_every_counter_of_every_table(host, ipv6, table):
    with iptc.CounterReader(table, ipv6, source=SOURCE) as reader, iptc.CounterReader(table, ipv6) as other:
        assert len(same(reader, other)) == 0
        for number, (chains, rules) in enumerate([(0, 1), (1, 0), (3, 5), (40, 20), (0, 300), (2, 700)]):
            given(host, ipv6, *ruleset(table, number, chains, rules), table=table)
            snapshot = same(reader, other)
            assert [chain.policy_counters for chain in snapshot.chains if chain.policy] == [
                (5 * n + 5, number + n) for n in range(len(CHAINS[table]))
            ]
            for n, name in enumerate([*CHAINS[table], *(f"user{n}" for n in range(chains))]):
                assert list(snapshot[name]) == [counters(number, n, k) for k in range(rules)]
            assert reader.source == IN_USE


def test_all_tables_of_both_families_at_once(host, traffic):
    kinds = [(table, ipv6) for table in CHAINS for ipv6 in (False, True)]
    for number, (table, ipv6) in enumerate(kinds):
        given(host, ipv6, *ruleset(table, number, 3, 3), table=table)
    readers = [(iptc.CounterReader(*kind, source=SOURCE), iptc.CounterReader(*kind)) for kind in kinds]
    for turn in range(3):
        for reader, other in readers:
            same(reader, other)
            assert reader.source == IN_USE
        traffic(7, 5 + turn)
        traffic(7, 2 + turn, ipv6=True)


def test_another_table_that_is_replaced_does_not_matter(host):
    if REFUSED:
        return
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


def test_two_replacements_between_readings(host, ipv6):
    """The second may come to stand where the table was that is known: nothing but what was freed tells the two apart."""
    if REFUSED:
        return
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


WRITER = """
import random, subprocess, sys
tool, *files = sys.argv[1:]
texts = [open(file, "rb").read() for file in files]
draw = random.Random(files[0])
print("ready", flush=True)
while True:
    subprocess.run([tool, "-w", "-c"], input=draw.choice(texts), check=True)
"""


@pytest.fixture
def writers(host, ipv6, tmp_path):
    """{digest: counters of all rules} of eight rulesets that eight processes write without end, in any order."""
    scan, known, files = TableScan(nfproto_of(ipv6), "filter"), {}, []
    for number in range(8):
        # most are of one size
        lines = ruleset("filter", number, 1, 20 + number // 6, [f"-p udp -m udp --dport {number}"])
        given(host, ipv6, *lines)
        counts, digest, _ = scan.read()
        known[digest] = counts.pairs(0, counts.rules)
        files.append(tmp_path / str(number))
        files[-1].write_text("\n".join(["*filter", *lines, "COMMIT", ""]))
    command = [sys.executable, "-c", WRITER, host.tool(ipv6, "-restore")]
    running = [subprocess.Popen([*command, *files[k:], *files[:k]], stdout=subprocess.PIPE) for k in range(8)]
    try:
        for writer in running:
            writer.stdout.readline()
        yield known
        assert [writer.poll() for writer in running] == [None] * 8
    finally:
        for writer in running:
            writer.kill()
            writer.wait()
            writer.stdout.close()


def test_eight_writers_and_no_wrong_number(writers, ipv6):
    """Each reading is of one ruleset, and its counters are those of that, or not given back yet."""
    if REFUSED:
        return
    scan, socket, _ = scan_of("filter", nfproto_of(ipv6))
    limit, left, wrong, seen, readings, refusals = time.monotonic() + PATIENCE, 2000 * TIMES, [], set(), 0, set()
    draw = random.Random(ipv6)
    while left or len(seen) < len(writers):
        assert time.monotonic() < limit + left
        left -= bool(left)
        if draw.random() < 0.04:
            # let several others be written meanwhile, and the last one come to stand where the known one was
            time.sleep(draw.random() / 50)
        try:
            counts, digest, _ = scan.read()
        except iptc.Unsupported as refusal:
            refusals.add(str(refusal))
            continue
        if scan.doubt:
            # whether its writer has given the counters back does not matter here
            scan.rely_on(counts)
        readings += 1
        seen.add(digest)
        pairs = zip(counts.pairs(0, counts.rules), writers[digest], strict=True)
        wrong += [(mine, its) for mine, its in pairs if mine not in (its, (0, 0))]
    assert wrong == []
    assert refusals <= {"can't read the counters with eBPF: the ruleset changes all the time"}
    print(f"{readings} readings, {readings - socket.readings} of them without the socket")
