"""A trial of many changes at once: eight writers and a sender of packets, while counters are read by eBPF.

Counters tell which rule they belong to and by which change the rule got them, and each packet adds to them. So every
number of every reading is checked. `make hour` lets it run for an hour on both back ends and for both families, all at
the same time; IPTC_MINUTES says for how long.
"""

import mmap
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest
from conftest import PATIENCE
from test_bpf_source import restored, same
from test_bpf_trials import Turns, forked

import iptc

pytestmark = pytest.mark.needs("ebpf")

MINUTES = float(os.environ.get("IPTC_MINUTES", "0"))
TIMES = 6 * int(os.environ.get("IPTC_STRESS", "1"))
"""How many changes each writer makes at least. It makes more while the reader has seen few of them."""

WRITERS, RULES, IN_USE = 8, 12, 10
"""How many there are, how many rules each of them knows, and how many of these its chain has most of the time."""
VERSION, OWNER, VERSIONS = 24, 44, 1 << 20
"""A counter of packets has the packets that were sent in its lowest 24 bits, then 20 bits with the number of the change
that set it, then the number of the rule."""


class Board:
    """Numbers that all processes share: which changes have begun and which are done, and how many of each kind."""

    def __init__(self, kinds):
        self.numbers = memoryview(mmap.mmap(-1, 1 << 14)).cast("q")
        self.kinds = kinds
        self.turns = [Turns() for _ in range(WRITERS)]

    def begun(self):
        return self.numbers[:WRITERS].tolist()

    def done(self):
        return self.numbers[WRITERS : 2 * WRITERS].tolist()

    def begin(self, writer):
        """Return the number of the change that the writer begins now."""
        version = self.numbers[writer] + 1
        assert version < VERSIONS
        self.numbers[writer] = version
        return version

    def end(self, writer):
        self.numbers[WRITERS + writer] = self.numbers[writer]

    def count(self, kind, writer):
        self.numbers[(2 + kind) * WRITERS + writer] += 1

    def enough(self, *seen):
        """Whether the reader has seen enough: then the writers may end."""
        if seen:
            self.numbers[-1] = seen[0]
        return self.numbers[-1]

    def counted(self):
        """Return {kind: how often}."""
        return {
            kind: sum(self.numbers[(2 + number) * WRITERS : (3 + number) * WRITERS])
            for number, kind in enumerate(self.kinds)
        }


class Tools:
    """The texts that change chains, for iptables-restore. A rule is (writer, number)."""

    def __init__(self, host, ipv6):
        self.command = [host.tool(ipv6, "-restore"), *(["-w"] if host.backend == "legacy" else [])]
        self.other = [host.tool(not ipv6, "-restore"), *self.command[1:]]
        self.size = 148 if ipv6 else 128

    def counters(self, rule, version):
        """Return the counters (packets, bytes) that a rule is given by a change."""
        packets = (1 + rule[0] * RULES + rule[1]) << OWNER | version << VERSION
        return packets, self.size * packets

    def match(self, rule):
        """Return a match that every packet of the sender meets, and that no other rule has."""
        return f"-p udp -m udp ! --sport {5001 + rule[0] * RULES + rule[1]} --dport 9"

    def rule(self, how, rule, version):
        packets, size = self.counters(rule, version)
        return f"[{packets}:{size}] {how} {self.match(rule)}"

    def created(self, writer, rules, version):
        return [f":w{writer} - [0:0]", *(self.rule(f"-A w{writer}", rule, version) for rule in rules)]

    def used(self, writer):
        return [f"[0:0] -A OUTPUT -p udp -j w{writer}"]

    def deleted(self, writer):
        return [f"-D OUTPUT -p udp -j w{writer}", f"-F w{writer}", f"-X w{writer}"]

    def first_replaced(self, writer, rule, version):
        return [self.rule(f"-R w{writer} 1", rule, version)]

    def last_to_front(self, writer, rules, version):
        return [self.rule(f"-I w{writer} 1", rules[-1], version), f"-D w{writer} {len(rules) + 1}"]

    def all_rules(self, versions, count=IN_USE):
        """Return the commands that make an empty table the one that all writers begin with."""
        rules = [[(writer, number) for number in range(count)] for writer in range(WRITERS)]
        lines = [line for writer in range(WRITERS) for line in self.created(writer, rules[writer], versions[writer])]
        return lines + [line for writer in range(WRITERS) for line in self.used(writer)]

    def give(self, lines, table="filter", noflush=True, command=None, before=()):
        """Give *lines* to the tool. Return whether it took them: others may have been in the way."""
        text = "\n".join([f"*{table}", *lines, "COMMIT", ""])
        command = [*before, *(command or self.command), "-c", *["--noflush"] * noflush]
        return subprocess.run(command, input=text.encode(), stderr=subprocess.DEVNULL).returncode == 0

    def all_anew(self, versions):
        """Flush everything, then make it again."""
        return self.give([], noflush=False) and self.give(self.all_rules(versions), noflush=False)

    def at_once(self, versions, count=IN_USE):
        """Replace the whole table."""
        return self.give(self.all_rules(versions, count), noflush=False)

    def elsewhere(self, versions):
        """Change a table that nobody reads, and the table of the other family: they need as much memory."""
        self.give(self.all_rules(versions), table="mangle", noflush=False)
        self.give(["-A OUTPUT"] * RULES, command=self.other, noflush=False)
        self.give([], table="mangle", noflush=False)

    def another_namespace(self, versions):
        """Create a network namespace with the same rules. It ends with the tool."""
        assert self.give(self.all_rules(versions), noflush=False, before=["unshare", "-n"])


class NftTools(Tools):
    """The same for `nft -f`: ip6tables-nft-restore loses the counters that it is given."""

    def __init__(self, host, ipv6):
        super().__init__(host, ipv6)
        self.kind = "ip6" if ipv6 else "ip"
        self.base = f"chain {self.kind} filter OUTPUT {{ type filter hook output priority filter; }}"

    def rule(self, how, rule, version):
        packets, size = self.counters(rule, version)
        port = 5001 + rule[0] * RULES + rule[1]
        return f"{how} udp sport != {port} udp dport 9 counter packets {packets} bytes {size}"

    def place(self, writer):
        return f"{self.kind} filter w{writer}"

    def created(self, writer, rules, version):
        place = self.place(writer)
        head = [f"add chain {place}", f"flush chain {place}"]
        return head + [self.rule(f"add rule {place}", rule, version) for rule in rules]

    def used(self, writer):
        return [f"add rule {self.kind} filter OUTPUT meta l4proto udp counter jump w{writer}"]

    def handles(self, chain, what):
        """Return the handles of the rules of *chain* in which *what* occurs."""
        listed = subprocess.run(["nft", "-a", "list", "chain", self.kind, "filter", chain], capture_output=True)
        return re.findall(rf"{what} .*# handle (\d+)$", listed.stdout.decode(), re.MULTILINE)

    def deleted(self, writer):
        jumps = [f"delete rule {self.kind} filter OUTPUT handle {its}" for its in self.handles("OUTPUT", f"w{writer}")]
        return [*jumps, f"flush chain {self.place(writer)}", f"delete chain {self.place(writer)}"]

    def first_replaced(self, writer, rule, version):
        first = self.handles(f"w{writer}", "udp dport")[0]
        return [self.rule(f"replace rule {self.place(writer)} handle {first}", rule, version)]

    def last_to_front(self, writer, rules, version):
        last = self.handles(f"w{writer}", "udp dport")[-1]
        front = self.rule(f"insert rule {self.place(writer)}", rules[-1], version)
        return [front, f"delete rule {self.place(writer)} handle {last}"]

    def give(self, lines, table="filter", noflush=True, command=None, before=()):
        text = "\n".join([f"add table {self.kind} {table}", *lines, ""])
        return (
            subprocess.run([*before, "nft", "-f", "-"], input=text.encode(), stderr=subprocess.DEVNULL).returncode == 0
        )

    def all_anew(self, versions):
        return self.give(["flush ruleset"]) and self.at_once(versions)

    def at_once(self, versions, count=IN_USE):
        table = [f"delete table {self.kind} filter", f"add table {self.kind} filter", f"add {self.base}"]
        return self.give([*table, *self.all_rules(versions, count)])

    def elsewhere(self, versions):
        rules = ["counter packets 1 bytes 1"] * RULES
        for kind in ("ip", "ip6"):
            self.give([f"table {kind} mangle {{ chain its {{ {'; '.join(rules)}; }}; }}"], table="raw")
            self.give([f"delete table {kind} mangle"], table="raw")

    def another_namespace(self, versions):
        assert self.give([f"add {self.base}", *self.all_rules(versions)], before=["unshare", "-n"])


class Writer:
    """Changes its own chain, and now and then all."""

    KINDS = (
        "made anew",
        "made anew in another order",
        "made anew with less rules",
        "made anew twice",
        "first rule replaced",
        "last rule moved to the front",
        "deleted and created",
        "other tables changed",
        "namespaces ended",
        "first rule replaced while others wait",
        "table replaced",
        "all flushed",
    )

    def __init__(self, writer, board, tools):
        self.writer, self.board, self.tools = writer, board, tools
        self.all = [(writer, number) for number in range(RULES)]
        self.rules = self.all[:IN_USE]
        self.draw = random.Random(writer)

    def change(self, lines_of):
        """Make one change of this writer's chain: *lines_of* returns its lines. Repeat it until the kernel takes it."""
        version = self.board.begin(self.writer)
        end = time.monotonic() + PATIENCE
        while not self.tools.give(lines_of(version)):
            assert time.monotonic() < end, "no tool could change the ruleset"
        self.board.end(self.writer)

    def anew(self, rules):
        self.rules = rules
        self.change(lambda version: self.tools.created(self.writer, rules, version))

    def once(self, kind):
        """Make a change of this kind."""
        rules, draw, tools = self.rules, self.draw, self.tools
        if kind == "made anew":
            self.anew(rules)
        elif kind == "made anew in another order":
            self.anew(draw.sample(self.all, len(rules)))
        elif kind == "made anew with less rules":
            self.anew(draw.sample(self.all, draw.randrange(1, IN_USE)))
            self.anew(draw.sample(self.all, IN_USE))
        elif kind == "made anew twice":
            self.anew(rules)
            self.anew(rules)
        elif kind == "first rule replaced":
            self.replace_first()
        elif kind == "last rule moved to the front":
            self.rules = [rules[-1], *rules[:-1]]
            self.change(lambda version: tools.last_to_front(self.writer, rules, version))
        elif kind == "deleted and created":
            version = self.board.begin(self.writer)
            while not tools.give(tools.deleted(self.writer)):
                pass
            while not tools.give([*tools.created(self.writer, rules, version), *tools.used(self.writer)]):
                pass
            self.board.end(self.writer)
        elif kind == "other tables changed":
            tools.elsewhere(self.board.begun())
        elif kind == "namespaces ended":
            tools.another_namespace(self.board.begun())

    def replace_first(self):
        """Put a rule in the place of the first one. It has the handle of that one, and perhaps the memory of the rule
        before that one."""
        another = self.draw.choice([rule for rule in self.all if rule not in self.rules])
        self.rules = [another, *self.rules[1:]]
        self.change(lambda version: self.tools.first_replaced(self.writer, another, version))

    def alone(self):
        """Change nothing but the first rule for a while, so that a reader sees no other change."""
        self.learn()
        for _ in range(6):
            self.replace_first()
            time.sleep(self.draw.random() / 50)

    def everything(self, kind):
        """Replace the rules of all writers, each of which has to wait."""
        versions = [self.board.begin(writer) for writer in range(WRITERS)]
        while not (self.tools.all_anew if kind == "all flushed" else self.tools.at_once)(versions):
            pass
        for writer in range(WRITERS):
            self.board.end(writer)

    def work(self, end):
        turn = 0
        while turn < TIMES or time.monotonic() < end or not self.board.enough():
            number = self.draw.randrange(len(self.KINDS)) if turn else (self.writer + 3) % len(self.KINDS)
            kind = self.KINDS[number]
            taken = range(WRITERS) if number >= len(self.KINDS) - 3 else [self.writer]
            for its in taken:
                self.board.turns[its].acquire(timeout=PATIENCE)
            if kind == "first rule replaced while others wait":
                self.alone()
            elif len(taken) > 1:
                self.everything(kind)
            else:
                # another writer may have given this one's chain all its rules
                self.learn()
                self.once(kind)
            self.board.count(number, self.writer)
            for its in taken:
                self.board.turns[its].release()
            turn += 1

    def learn(self):
        """Forget what this writer's chain had, if everything was replaced meanwhile."""
        replaced = sum(self.board.counted()[kind] for kind in self.KINDS[-2:])
        if replaced != getattr(self, "replaced", 0):
            self.replaced, self.rules = replaced, self.all[:IN_USE]


def send(ipv6):
    """Send packets of one size until this process is killed."""
    family, address = (socket.AF_INET6, "::1") if ipv6 else (socket.AF_INET, "127.0.0.1")
    with socket.socket(family, socket.SOCK_DGRAM) as sender, socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((address, 9))  # or the kernel would answer with errors, which are counted too
        while True:
            for _ in range(20):
                sender.sendto(bytes(100), (address, 9))
            time.sleep(0.001)


class Checker:
    """Reads, and checks every number of every reading."""

    def __init__(self, board, owners, size, legacy):
        self.board, self.owners, self.size, self.legacy = board, owners, size, legacy
        # of nf_tables, packets come between the kernel's reading of the bytes and of the packets of a CPU; on a busy
        # machine it may be stopped there for a second, in which a thousand are sent
        self.apart = 0 if legacy else os.cpu_count() * 1000 * size
        self.least = {}
        self.readings = {"socket": 0, "bpf": 0}
        self.refused = self.numbers = self.given_back_later = 0
        self.rulesets = set()
        self.identities, self.slots = None, []

    def read(self, reader, source):
        """Read the kernel's numbers, without waiting for a writer that gives counters back."""
        before = self.board.done()
        scan = reader._scan
        try:
            counts, digest, _ = scan.read()
        except iptc.Unsupported as error:
            assert "the ruleset changes all the time" in str(error), f"{self}: {error}"
            self.refused += 1
            return
        after = self.board.begun()
        if scan.doubt:
            scan.rely_on(counts)
        assert getattr(scan, "source", "socket") == source, f"{self}: {scan.source_reason}"
        self.readings[source] += 1
        self.rulesets.add(digest)
        if scan.identities != self.identities:
            self.identities = scan.identities
            self.slots = struct.unpack(f"{len(self.identities) // 8}Q", self.identities)
        self.check(counts.pairs(0, counts.rules), scan.chains, before, after, f"{source}, reading {self.readings}")

    def check(self, pairs, chains, before, after, what):
        assert len(pairs) == len(self.slots)
        absent, midway = set(range(WRITERS)), before != after
        for name, _, first, end in chains:
            if not name.startswith("w"):
                assert all(abs(pair[1] - self.size * pair[0]) <= self.apart for pair in pairs[first:end])
                continue
            writer = int(name[1:])
            absent.discard(writer)
            newest, later = 0, False
            for slot in range(first, end):
                packets, size = pair = pairs[slot]
                owner = self.owners[self.slots[slot]]
                said = f"{what}: rule {owner} in {name} has {pair}, last {self.least.get(owner)}; {before} {after}"
                assert (owner - 1) // RULES == writer, said
                assert abs(size - self.size * packets) <= self.apart, said
                if packets >> VERSION == 0 and self.legacy and midway:
                    # the kernel was given the table, and not yet its counters
                    later = True
                    self.given_back_later += 1
                    continue
                assert packets >> OWNER == owner, said
                version = packets >> VERSION & VERSIONS - 1
                assert version <= after[writer], said
                newest = max(newest, version)
                last = self.least.get(owner, (0, 0))
                assert last[0] <= packets and last[1] <= size, said
                self.least[owner] = pair
            self.numbers += end - first
            # each change gives its number to one rule at least
            assert later or newest >= before[writer], f"{what}: change {before[writer]} of {name} is missing: {newest}"
        for writer in absent:
            assert before[writer] != after[writer], f"{what}: chain w{writer} is missing"

    def __str__(self):
        return (
            f"{self.readings['bpf']} readings by eBPF, {self.readings['socket']} by socket, {self.numbers} numbers, "
            f"{len(self.rulesets)} rulesets, {self.refused} readings refused, "
            f"{self.given_back_later} numbers before they were given back; "
            + ", ".join(f"{count} {kind}" for kind, count in self.board.counted().items())
        )


def in_a_namespace(host, ipv6, tools, number):
    """Read in a namespace of another name, before and after it is deleted."""
    name = f"iptc-{os.getpid()}-{number}"
    host.run("ip", "netns", "add", name)
    versions = [number % VERSIONS] * WRITERS
    before = ["ip", "netns", "exec", name]
    head = [f"add {tools.base}"] if isinstance(tools, NftTools) else []
    assert tools.give([*head, *tools.all_rules(versions)], noflush=False, before=before)
    expected = [tools.counters((w, n), versions[w]) for w in range(WRITERS) for n in range(IN_USE)]
    with (
        iptc.CounterReader(ipv6=ipv6, netns=name, source="bpf") as reader,
        iptc.CounterReader(ipv6=ipv6, netns=name) as other,
    ):
        for turn in range(3):
            snapshot = same(reader, other)
            assert [pair for w in range(WRITERS) for pair in snapshot[f"w{w}"]] == expected
            assert reader.source == "bpf"
            if turn == 0:
                host.run("ip", "netns", "delete", name)


def owners_of(host, ipv6, tools):
    """Make the rules. Return {identity of a rule: its number, from 1 on}."""
    if isinstance(tools, NftTools):
        assert tools.give([f"add {tools.base}"])
    else:
        restored(host, ipv6)
    assert tools.at_once([0] * WRITERS, RULES)
    with iptc.CounterReader(ipv6=ipv6) as reader:
        snapshot = reader.read()
        assert tools.at_once([0] * WRITERS)
        identities = struct.unpack(f"{len(snapshot)}Q", snapshot._layout.identities)
        slots = [slot for w in range(WRITERS) for slot in snapshot[f"w{w}"].slots]
    owners = {identities[slot]: number for number, slot in enumerate(slots, start=1)}
    assert len(owners) == WRITERS * RULES
    return owners


def test_every_number_while_everything_changes(host, ipv6, capfd):
    tools = (NftTools if host.backend == "nft" and ipv6 else Tools)(host, ipv6)
    host.run("ip", "link", "set", "lo", "up")
    board = Board(Writer.KINDS)
    checker = Checker(board, owners_of(host, ipv6, tools), tools.size, host.backend == "legacy")
    draw, namespaces = random.Random(ipv6), 0
    begin = time.monotonic()
    end = begin + 60 * MINUTES
    said = begin + 60
    with (
        iptc.CounterReader(ipv6=ipv6, source="bpf", source_check=0.5) as reader,
        iptc.CounterReader(ipv6=ipv6) as other,
    ):
        sender = forked(send, ipv6)
        writers = [Writer(number, board, tools) for number in range(WRITERS)]
        running = {forked(writer.work, end) for writer in writers}
        try:
            while running:
                for child in list(running):
                    done, status = os.waitpid(child, os.WNOHANG)
                    if done:
                        running.discard(child)
                        assert status == 0
                # a moment in which several changes are made
                time.sleep(draw.random() / draw.choice([50, 50, 5]))
                checker.read(other, "socket")
                for _ in range(draw.randrange(1, 30)):
                    checker.read(reader, "bpf")
                checker.read(other, "socket")
                board.enough(checker.readings["bpf"] > 100 and len(checker.rulesets) > 10)
                if time.monotonic() > said:
                    said += 60
                    in_a_namespace(host, ipv6, tools, namespaces)
                    namespaces += 1
                    with capfd.disabled():
                        print(
                            f"\n{host.tool(ipv6)}: {(time.monotonic() - begin) / 60:.0f} minutes, {checker}",
                            file=sys.stderr,
                        )
            in_a_namespace(host, ipv6, tools, namespaces)
        finally:
            for child in [sender, *running]:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        print(f"{host.tool(ipv6)}: {checker}, {namespaces + 1} namespaces read and deleted")
        same(reader, other)
        assert reader.source == "bpf", reader.source_reason
    assert board.enough()
