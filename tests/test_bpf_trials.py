"""Trials of reading nf_tables by eBPF: beside writers that never stop, with memory that is used again, under traffic, and
with rules of `nft`.

The counters of each rule identify the rule, so a counter of another rule is noticed. Each commit has a number that the
next reading must show. With IPTC_STRESS=600 the writers write for about ten minutes.
"""

import mmap
import os
import random
import re
import socket
import struct
import subprocess
import threading
import time

import pytest
from conftest import PATIENCE
from test_bpf_source import restored, same

import iptc

pytestmark = [pytest.mark.one_backend("nft"), pytest.mark.needs("ebpf")]

TIMES = int(os.environ.get("IPTC_STRESS", "1"))
WRITERS = 8
VERSIONS = 400
RULES = 12


def line(writer, number):
    """One rule of a writer, without its chain: all are of one size, and the port says which one it is."""
    return f"-s 10.{writer}.0.0/24 -p udp -m udp --dport {number + 1}"


def counters(writer, number):
    """Its counters: (packets, bytes), which no other rule has."""
    return writer * 100_000 + number + 1, (writer * 100_000 + number + 1) * 1001


def with_counters(writer, number):
    """A rule of iptables-restore, with its chain and its counters."""
    return "[{}:{}] -A w{} {}".format(*counters(writer, number), writer, line(writer, number))


@pytest.fixture
def known(host):
    """{identity: (writer, number)} of every rule that a writer may make."""
    text = [f":w{writer} - [0:0]" for writer in range(WRITERS)]
    text += [with_counters(writer, number) for writer in range(WRITERS) for number in range(VERSIONS)]
    host.restore("\n".join(["*filter", *text, "COMMIT", ""]), arguments=["-c"])
    with iptc.CounterReader() as reader:
        identities = struct.unpack(f"{WRITERS * VERSIONS}Q", reader.read()._layout.identities)
    host.run("nft", "flush", "ruleset")
    found = {its: divmod(slot, VERSIONS) for slot, its in enumerate(identities)}
    assert len(found) == WRITERS * VERSIONS
    return found


class Board:
    """Numbers that writers and the reader share: of each writer the version that it has committed for sure."""

    def __init__(self):
        # each is written at once: struct would write zeros first
        self.numbers = memoryview(mmap.mmap(-1, 4096)).cast("q")
        self.lock = Turns()

    def __getitem__(self, number):
        return self.numbers[number]

    def __setitem__(self, number, value):
        self.numbers[number] = value


def commit(text, tool="iptables-nft-restore"):
    """Give *text* to a tool; whether it took it."""
    command = [tool, "--noflush", "-c"] if tool != "nft" else ["nft", "-f", "-"]
    return subprocess.run(command, input=text.encode(), stderr=subprocess.DEVNULL).returncode == 0


def rules_of(version, draw):
    """The numbers of a version's rules: first that of the version, then any, each once."""
    return [version, *draw.sample([number for number in range(VERSIONS) if number != version], RULES - 1)]


def write(writer, board, times):
    """What one writer does: its own chain anew, rules in place of others, none at all, and tables of others."""
    draw = random.Random(writer)
    version, numbers = 0, []

    def anew():
        nonlocal numbers
        numbers = rules_of(version % VERSIONS, draw)
        rules = [with_counters(writer, number) for number in numbers]
        return commit("\n".join(["*filter", f":w{writer} - [0:0]", *rules, "COMMIT", ""]))

    def one_for_another():
        nonlocal numbers
        numbers = [version % VERSIONS, *(number for number in numbers[1:] if number != version % VERSIONS)]
        first = with_counters(writer, numbers[0]).replace(f"-A w{writer}", f"-R w{writer} 1")
        return commit("\n".join(["*filter", first, "COMMIT", ""]))

    def inserted():
        nonlocal numbers
        numbers = [version % VERSIONS, *(number for number in numbers[1:] if number != version % VERSIONS)]
        first = with_counters(writer, numbers[0]).replace(f"-A w{writer}", f"-I w{writer} 1")
        return commit("\n".join(["*filter", first, f"-D w{writer} 2", "COMMIT", ""]))

    def gone_and_back():
        # A B A: the same bytes in the same places, but for the first rule
        rules = [with_counters(writer, number) for number in numbers]
        commit("\n".join(["*filter", f"-F w{writer}", f"-X w{writer}", "COMMIT", ""]))
        commit("\n".join(["*filter", f":w{writer} - [0:0]", *rules, "COMMIT", ""]))
        return anew()

    def of_others():
        commit(f"add table ip x{writer}\nadd chain ip x{writer} y\nadd rule ip x{writer} y counter", "nft")
        commit(f"delete table ip x{writer}", "nft")
        return one_for_another()

    while not anew():
        pass
    for _ in range(times):
        version += 1
        while not draw.choice([anew, anew, one_for_another, one_for_another, inserted, gone_and_back, of_others])():
            # the chain was taken away, or others were in the way for too long
            while not anew():
                pass
        board[writer] = version


def replace(writer, board, times):
    """Another kind of writer: the whole ruleset anew, with the rules of the version and nothing else. Each in turn."""
    draw = random.Random(writer)
    for _ in range(times):
        while not board.lock.acquire(timeout=PATIENCE):
            pass
        with_turn = board[0] + 1
        numbers = rules_of(with_turn % VERSIONS, draw)
        rules = [with_counters(0, number) for number in numbers]
        text = "\n".join(["*filter", ":w0 - [0:0]", *rules, "COMMIT", ""])
        kind = draw.randrange(3)
        if kind == 0:
            subprocess.run(["iptables-nft-restore", "-c"], input=text.encode(), check=True)
        elif kind == 1:
            subprocess.run(["nft", "flush", "ruleset"], check=True)
            subprocess.run(["iptables-nft-restore", "-c"], input=text.encode(), check=True)
        else:
            subprocess.run(["nft", "delete", "table", "ip", "filter"], stderr=subprocess.DEVNULL)
            subprocess.run(["iptables-nft-restore", "-c"], input=text.encode(), check=True)
        board[0] = with_turn
        board.lock.release()


class Turns:
    """A lock of several processes, as a pipe with one byte in it."""

    def __init__(self):
        self.ours, self.theirs = os.pipe()
        self.release()

    def acquire(self, timeout):
        return os.read(self.ours, 1) == b"x"

    def release(self):
        os.write(self.theirs, b"x")


class Tally:
    """What the reader has seen."""

    def __init__(self):
        self.readings = self.rulesets = self.refused = self.by_socket = 0
        self.wrong, self.missed, self.generations = [], [], set()

    def __str__(self):
        return (
            f"{self.readings} readings, {len(self.generations)} rulesets, {self.refused} refused, "
            f"{self.by_socket} by socket, {len(self.wrong)} wrong, {len(self.missed)} missed"
        )


def watch(reader, board, known, children, least):
    """Read as long as the writers write, and check every number and every version."""
    tally, writers = Tally(), len(children)
    children = set(children)
    while children or tally.readings < least:
        if children:
            for child in list(children):
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    assert status == 0
                    children.discard(child)
        for _ in range(20):
            committed = [board[writer] for writer in range(writers)]
            try:
                snapshot = reader.read()
            except iptc.Unsupported as error:
                assert "the ruleset changes all the time" in str(error)
                tally.refused += 1
                continue
            tally.readings += 1
            tally.by_socket += reader.source == "socket"
            layout = snapshot._layout
            tally.generations.add(layout.generation)
            identities = struct.unpack(f"{len(snapshot)}Q", layout.identities)
            for its, pair in zip(identities, snapshot):
                if pair != counters(*known[its]):
                    tally.wrong.append((known[its], pair))
            for name, _, first, end in layout.chains:
                if not name.startswith("w") or first == end:
                    continue
                writer, number = known[identities[first]]
                # versions begin again, and a reading is never half of them behind
                behind = (committed[writer] - number) % VERSIONS
                if f"w{writer}" != name or 0 < behind < VERSIONS // 2:
                    tally.missed.append((name, number, committed[writer]))
    return tally


def forked(work, *arguments):
    """The process that does *work*."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work(*arguments)
            status = 0
        finally:
            os._exit(status)
    return child


def at_work(host, known, work, times, source):
    """The tally of a reader beside eight writers; and afterwards, at rest, what it reads is what the socket reads."""
    board = Board()
    with iptc.CounterReader(source=source, source_check=0.5) as reader, iptc.CounterReader() as other:
        children = [forked(work, writer, board, times) for writer in range(WRITERS)]
        tally = watch(reader, board, known, children, 100)
        print(tally)
        assert (tally.wrong, tally.missed) == ([], [])
        limit = time.monotonic() + PATIENCE
        while reader.source != "bpf":
            reader.read()
            assert time.monotonic() < limit, reader.source_reason
        same(reader, other)
    assert len(tally.generations) > times and tally.by_socket < tally.readings


@pytest.mark.parametrize("source", ["bpf", "auto"])
def test_eight_writers_of_rules_cause_no_wrong_number(host, known, source):
    at_work(host, known, write, 6 * TIMES, source)


def test_eight_writers_of_whole_rulesets_cause_no_wrong_number(host, known):
    at_work(host, known, replace, 4 * TIMES, "bpf")


def test_the_same_rules_in_new_memory_are_noticed(host, ipv6):
    """Ruleset A is replaced by B and again by A between two readings: equal rules, with other counters."""
    kind = "ip6" if ipv6 else "ip"

    def ruleset(first):
        rules = [f"counter packets {first + number} bytes {10 * (first + number)}" for number in range(40)]
        body = "; ".join(["type filter hook input priority filter", *rules])
        return f"table {kind} filter {{ chain INPUT {{ {body}; }}; }}\n"

    renewed = [f"delete table {kind} filter\n", f"flush chain {kind} filter INPUT\n"]
    commit(ruleset(0), "nft")
    with iptc.CounterReader(ipv6=ipv6, source="bpf") as reader, iptc.CounterReader(ipv6=ipv6) as other:
        for turn in range(20 * TIMES):
            for first in (turn * 2000, 100 + turn * 2000, turn * 2000):
                assert commit(renewed[turn % 2] + ruleset(first), "nft")
            assert same(reader, other)[0] == (turn * 2000, turn * 20_000)
        assert reader.source == "bpf"


def test_a_rule_that_replaces_another_is_told_from_it(host, ipv6):
    """A rule that replaces another one has its handle. After the second time it may have the memory of its counter too."""
    place, number = f"{'ip6' if ipv6 else 'ip'} filter w", 0
    kinds = {
        "without a counter": "udp dport {}",
        "with a counter": "udp dport {0} counter packets {0} bytes {0}",
        "with another comment": 'udp dport 1 counter comment "{}"',
    }
    for kind in kinds.values():
        commit(f"add table {place[:-2]}\nadd chain {place}\nadd rule {place} {kind.format(0)}", "nft")
    handles = re.findall("udp.*# handle ([0-9]+)", host.run("nft", "-a", "list", "chain", *place.split()))
    with iptc.CounterReader(ipv6=ipv6, source="bpf") as reader, iptc.CounterReader(ipv6=ipv6) as other:
        same(reader, other)
        for turn in range(30 * TIMES):
            which = turn // 2 % len(kinds)
            for _ in range(1 + turn % 2):
                number += 1
                rule = list(kinds.values())[which].format(number)
                assert commit(f"replace rule {place} handle {handles[which]} {rule}", "nft")
            # of the same generation: rules with the same content
            same(reader, other)
        assert reader.source == "bpf"


@pytest.mark.one_backend("legacy", "nft")
def test_each_reading_lies_between_two_readings_of_the_socket(host, ipv6, traffic):
    """Two threads send packets. The packets and bytes of a rule differ by one packet for each CPU at most. Those of a
    legacy rule belong together, because the kernel marks a CPU that is in the middle of counting."""
    restored(host, ipv6, *["-A OUTPUT -p udp"] * 300, "-A INPUT -p udp --dport 7", "-A INPUT -p udp --dport 8")
    size, stop = 100 + (48 if ipv6 else 28), threading.Event()

    def keep_sending(port):
        while not stop.is_set():
            traffic(port, 50, ipv6)

    threads = [threading.Thread(target=keep_sending, args=(port,)) for port in (7, 8)]
    apart = os.cpu_count() * size if host.backend == "nft" else 0
    with iptc.CounterReader(ipv6=ipv6, source="bpf") as reader, iptc.CounterReader(ipv6=ipv6) as other:
        for thread in threads:
            thread.start()
        try:
            together = 0
            for _ in range(150 * TIMES):
                before, snapshot, after = other.read(), reader.read(), other.read()
                for least, pair, most in zip(before, snapshot, after):
                    assert least[0] <= pair[0] <= most[0] and least[1] <= pair[1] <= most[1]
                    assert abs(pair[1] - size * pair[0]) <= apart
                    together += pair[1] == size * pair[0]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        snapshot = same(reader, other)
        assert all(pair[1] == size * pair[0] for pair in snapshot) and snapshot[0].packets > 150
        assert together > 0.9 * 302 * 150 * TIMES and reader.source == "bpf"


OTHERS = """
table KIND filter {
    counter named { packets 5 bytes 500; }
    quota spent { over 25 mbytes; }
    set seen { type ADDRESS; flags dynamic; counter; size 1000; elements = { LOCAL counter packets 1 bytes 100 }; }
    set paced { type ADDRESS; flags dynamic; size 1000; timeout 1h; }
    set known { type ADDRESS; counter; elements = { LOCAL counter packets 2 bytes 200 }; }
    map verdicts { type inet_service : verdict; counter; elements = { 7 counter packets 3 bytes 300 : continue }; }
    chain INPUT {
        type filter hook input priority filter; policy accept;
        counter packets 1 bytes 10
        udp dport 7 counter packets 2 bytes 20 quota over 5 kbytes counter packets 99 bytes 990
        udp dport 7 limit rate 5/second burst 3 packets counter packets 3 bytes 30
        counter name named
        quota name "spent"
        udp dport vmap @verdicts
        FAMILY saddr @known counter packets 4 bytes 40
        add @seen { FAMILY saddr counter }
        update @paced { FAMILY saddr limit rate 10/second } counter packets 5 bytes 50
        meta mark set mark and 0xff counter packets 6 bytes 60
        udp dport 7 log prefix "seen " group 3
        udp dport { 1-100, 200 } counter packets 7 bytes 70 log group 3
        ct state new counter packets 8 bytes 80
        counter packets 9 bytes 90 jump others
        limit rate over 1 mbytes/second counter packets 10 bytes 100
        numgen random mod 2 0 counter packets 11 bytes 110
    }
    chain others {
        counter packets 12 bytes 120 comment "more words than a rule of iptables has"
        return
    }
    chain empty { }
    chain OUTPUT { type filter hook output priority 7; counter packets 13 bytes 130; }
}
table KIND mine { chain its { type filter hook input priority 3; counter packets 1000 bytes 1000; }; }
table inet filter { chain INPUT { type filter hook input priority 3; counter packets 1000 bytes 1000; }; }
"""


def test_rules_of_nft_are_read_too(host, ipv6, traffic):
    words = {"ADDRESS": "ipv6_addr", "LOCAL": "::1", "FAMILY": "ip6", "KIND": "ip6"}
    words = words if ipv6 else {"ADDRESS": "ipv4_addr", "LOCAL": "127.0.0.1", "FAMILY": "ip", "KIND": "ip"}
    text = OTHERS
    for word, its in words.items():
        text = text.replace(word, its)
    host.run("nft", "-f", "-", text=text)
    with iptc.CounterReader(ipv6=ipv6, source="bpf") as reader, iptc.CounterReader(ipv6=ipv6) as other:
        snapshot = same(reader, other)
        assert [pair[0] for pair in snapshot["INPUT"]][:3] == [1, 2, 3] and snapshot["others"][0] == (12, 120)
        for _ in range(3):
            traffic(7, 40, ipv6)
            same(reader, other)
            # an element more, and so another number of the ruleset
            kind, address = ("ip6", "2001:db8::{}") if ipv6 else ("ip", "192.0.2.{}")
            host.run(
                "nft", "add", "element", kind, "filter", "known", "{", address.format(random.randrange(1, 200)), "}"
            )
        assert same(reader, other)["INPUT"][0].packets == 121
        before, its_before = reader.read(), other.read()
        reset(ipv6)
        snapshot = same(reader, other)
        assert snapshot.since(before).flags == other.read().since(its_before).flags
        traffic(7, 1, ipv6)
        same(reader, other)
        assert reader.source == "bpf"


def reset(ipv6):
    """Have the kernel set the counters of the table filter to zero, which leaves the number of the ruleset as it is
    (Linux 6.2)."""
    netfilter, reset_rules, asked_for_all, table = 12, 10 << 8 | 25, 0x301, 1
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    body = struct.pack("=BBH", family, 0, 0) + struct.pack("=HH8s", 11, table, b"filter")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netfilter) as channel:
        channel.send(struct.pack("=IHHII", 16 + len(body), reset_rules, asked_for_all, 1, 0) + body)
        while struct.unpack_from("=IH", channel.recv(1 << 16))[1] >= 16:
            pass


def random_change(pick, names):
    """Return a random command of iptables, or the lines of a random iptables-restore. *names*: those of user chains."""
    chain, place, port = pick.choice(["OUTPUT", "INPUT", *names]), pick.randint(1, 5), pick.randint(1, 9)
    made = f"n{pick.randint(0, 99)}"
    return pick.choice(
        [
            f"-I {chain} -p udp --dport {port}",
            f"-A {chain} -p udp",
            f"-D {chain} {place}",
            f"-R {chain} {place} -p udp -m limit --limit 5/s",
            f"-N {made}",
            f"-E {pick.choice(names)} {made}",
            f"-X {names[-1]}",
            f"-Z {chain}",
            f"-F {chain}",
            f"-P FORWARD {pick.choice(['DROP', 'ACCEPT'])}",
            f"-A OUTPUT -j {pick.choice(names)}",
            "-t raw -A OUTPUT",
            [f"-A {chain} -p udp --dport {port}" for port in range(1, pick.randint(2, 30))],
        ]
    )


def test_random_changes_are_followed(host, ipv6, traffic):
    pick = random.Random(TIMES)
    rules = [f"-A OUTPUT -p udp --dport {port}" for port in range(1, 300)]
    restored(host, ipv6, ":c0 - [0:0]", ":c1 - [0:0]", *rules)
    with iptc.CounterReader(ipv6=ipv6, source="bpf") as reader, iptc.CounterReader(ipv6=ipv6) as other:
        same(reader, other)
        for number in range(40 * TIMES):
            names = [chain.name for chain in other.read().chains if chain.policy is None]
            for _ in range(pick.randint(1, 6)):
                change = random_change(pick, names or ["c0"])
                # some have no rule or no chain to work on
                if isinstance(change, list):
                    lines = "\n".join(["*filter", *change, "COMMIT", ""])
                    host.run(host.tool(ipv6, "-restore"), "--noflush", text=lines, check=False)
                else:
                    host.iptables(change, ipv6=ipv6, check=False)
            traffic(pick.randint(1, 9), pick.randint(0, 3), ipv6)
            snapshot = same(reader, other)
            if number % 20 == 0:
                assert [rule.text for rule in snapshot.rules] == [rule.text for rule in other.read().rules]
        # the first of them only if it is a single commit, and never if a chain is renamed or many rules are new
        assert reader.source == "bpf" and 10 * TIMES < reader._scan.followed < 40 * TIMES
