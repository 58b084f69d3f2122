"""A reader without the lock reads while writers are between the two steps of a commit. Its deltas still add up."""

import fcntl
import os
import pickle
import signal
import socket
import subprocess
import sys

import pytest
from conftest import PATIENCE, preloading
from faults import library  # noqa: F401

import iptc
from iptc import _core
from iptc.counters import Delta
from iptc.legacy import settling
from iptc.legacy.blob import TableScan

KNOWN = 1_000_000

WRITERS = {
    "iptc": """
import sys, iptc
table = iptc.Table("filter")
if "unlocked" in sys.argv:
    table.lock_file = False
chain = iptc.Chain(table, "FORWARD")
print("ready", flush=True)
while True:
    chain.append_rule(iptc.Rule.from_args("-p udp -j ACCEPT"))
    chain.delete_rule(chain.rules[-1])
    chain.set_policy("ACCEPT")
""",
    "host": """
import subprocess, sys
tool = sys.argv[1]
print("ready", flush=True)
while True:
    subprocess.run([tool, "-w", "--noflush"], input=b"*filter\\n-A FORWARD -j ACCEPT\\n-D FORWARD -j ACCEPT\\nCOMMIT\\n", check=True)
""",
}


@pytest.fixture(params=["socket", "auto"])
def source(request):
    """The source of the counters: the socket, and eBPF if that is possible."""
    return request.param


@pytest.fixture
def counted(host):
    """A rule with a million packets, one that counts datagrams, and a function that sends some."""
    host.run("ip", "link", "set", "lo", "up")
    host.restore(
        f"*filter\n:INPUT ACCEPT [5:500]\n[{KNOWN}:{60 * KNOWN}] -A INPUT -p tcp --dport 22 -j ACCEPT\n"
        "[0:0] -A OUTPUT -p udp --dport 7\nCOMMIT\n",
        arguments=["--counters"],
    )

    def send(count):
        for _ in range(count):
            sender.sendto(bytes(100), ("127.0.0.1", 7))

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(("127.0.0.1", 7))
        yield send


class Held:
    """A commit of the host's tool that stops between its two steps."""

    def __init__(self, host, library, arguments, **environment):
        command = [host.tool(), *arguments.split()]
        self.process = subprocess.Popen(command, env={**preloading(library), "FAULTS_STOP": "1", **environment})
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)
        assert self.process.wait() == 0

    def die(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def hold(host, library):
    """Start a commit that stops between its steps; it ends with the test."""
    begun = []

    def start(arguments, **environment):
        begun.append(Held(host, library, arguments, **environment))
        return begun[-1]

    yield start
    for held in begun:
        held.die()


@pytest.mark.one_backend("legacy")
@pytest.mark.parametrize("commit", ["-P FORWARD ACCEPT", "-A FORWARD -j ACCEPT", "-I INPUT -p udp --dport 9", "-N web"])
def test_a_writer_between_its_steps_adds_nothing_to_the_sum(counted, hold, commit, source):
    reader = iptc.CounterReader(source=source)
    seen = [reader.read()]
    counted(3)
    held = hold(commit)
    for _ in range(3):
        counted(4)
        seen.append(reader.read())
    # without packets between the last read and the first step, which the writer adds
    assert seen[-1]["INPUT"].policy_counters == (5 + 12, 500 + 12 * 128)
    seen[-1] = pickle.loads(pickle.dumps(seen[-1]))
    held.go_on()
    counted(2)
    seen += [reader.read(), reader.read()]
    deltas = [later.since(earlier) for earlier, later in zip(seen, seen[1:])]
    slot = 1 if commit.startswith("-I INPUT") else 0
    for delta in deltas:
        assert delta.resets == []
        assert delta.packets[slot] == 0
    assert sum(delta["OUTPUT"][0][0] for delta in deltas) == 17
    assert seen[-1]["INPUT"].sum()[0] == KNOWN


@pytest.mark.one_backend("legacy")
def test_a_first_read_between_the_steps_is_not_known_until_the_writer_goes_on(counted, hold, source):
    counted(2)
    held = hold("-P FORWARD ACCEPT")
    counted(3)
    reader = iptc.CounterReader(source=source)
    first, second = reader.read(), reader.read()
    assert list(first.packets) == [0, 3] and set(second.since(first).flags) == {Delta.NEW}
    held.go_on()
    third = reader.read()
    delta = third.since(second)
    assert list(third.packets) == [KNOWN, 5] and list(delta.packets) == [KNOWN, 2]
    assert set(delta.flags) == {Delta.NEW}
    assert set(reader.read().since(third).flags) == {0}


@pytest.mark.one_backend("legacy")
def test_a_history_that_dies_with_its_writer_is_flagged_and_nothing_is_counted_twice(counted, hold, source):
    reader = iptc.CounterReader(source=source)
    counted(30)
    before = reader.read()
    held = hold("-P FORWARD ACCEPT")
    counted(4)
    between = reader.read()
    assert list(between.since(before).packets) == [0, 4]
    held.die()
    counted(5)
    after = reader.read()
    delta = after.since(pickle.loads(pickle.dumps(between)))
    assert list(after.packets) == [0, 9]
    assert list(delta.packets) == [0, 5] and list(delta.flags) == [Delta.RESET, Delta.RESET]


@pytest.mark.one_backend("legacy")
def test_counters_set_back_while_the_lock_is_held_are_flagged_when_it_is_free(counted, host, tmp_path, source):
    reader = iptc.CounterReader(source=source)
    before = reader.read()
    with open(tmp_path / "xtables.lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        counted(3)
        assert list(reader.read().since(before).packets) == [0, 3]
        host.run("env", f"XTABLES_LOCKFILE={tmp_path / 'other'}", host.tool(), "-Z")
        counted(2)
        between = reader.read()
        assert list(between.since(before).packets) == [0, 5]
    delta = reader.read().since(between)
    assert list(delta.flags) == [Delta.RESET, Delta.RESET] and list(delta.packets) == [0, 0]


@pytest.mark.parametrize("lock", ["free", "missing", "closed"])
def test_counters_that_are_set_back_are_flagged(counted, host, monkeypatch, tmp_path, lock, source):
    counted(3)
    host.iptables("-L -n")
    if lock == "missing":
        monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "nowhere" / "lock"))
    elif lock == "closed":
        # as for a program that may not open the lock file, whatever rights this process has
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "file" / "lock"))
    reader = iptc.CounterReader(source=source)
    before = reader.read()
    assert list(before.packets) == [KNOWN, 3]
    host.run("env", f"XTABLES_LOCKFILE={tmp_path / 'xtables.lock'}", host.tool(), "-Z")
    counted(2)
    delta = reader.read().since(before)
    assert list(delta.packets) == [0, 2] and list(delta.flags) == [Delta.RESET, Delta.RESET]


@pytest.mark.parametrize("writer", ["iptc", "unlocked", "host"])
def test_deltas_beside_a_writer_that_never_stops_add_up_to_what_was_sent(counted, host, writer, monkeypatch, source):
    # a busy machine lets a writer wait between its steps for longer than a reader is usually patient
    monkeypatch.setattr(settling, "_WITHOUT_LOCK", PATIENCE)
    monkeypatch.setattr(settling, "_FOR_LOCK", PATIENCE)
    if writer == "host":
        command = [sys.executable, "-c", WRITERS["host"], host.tool(verb="-restore")]
    else:
        command = [sys.executable, "-c", WRITERS["iptc"], writer]
    reader = iptc.CounterReader(source=source)
    seen = reader.read()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        assert seen["INPUT"].sum()[0] == KNOWN
        sent = total = 0
        for number in range(20_000 if host.backend == "legacy" else 2_000):
            if number % 50 == 0:
                counted(3)
                sent += 3
            later = reader.read()
            delta = later.since(seen)
            assert delta["INPUT"] == [(0, 0)] and not delta.resets
            total += delta["OUTPUT"][0][0]
            seen = later
        assert total == sent
        # the first counters are certain only if the writers take the lock
        for _ in range(0 if writer == "unlocked" else 100):
            with iptc.CounterReader(source=source) as reader:
                assert reader.read()["INPUT"].sum()[0] == KNOWN
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_sums_beyond_64_bits_are_exact(host):
    most = 2**64 - 1
    host.iptables("-N web")
    for _ in range(3):
        rule = iptc.Rule.from_args("-p udp")
        rule.counters = most, most - 1
        iptc.Chain(iptc.Table("filter"), "web").append_rule(rule)
    chain = iptc.CounterReader().read()["web"]
    assert chain.sum() == (3 * most, 3 * (most - 1))
    assert list(chain) == [(most, most - 1)] * 3


class Closes(tuple):
    """The counters of a policy; whoever reads them has the scan closed, as a finalizer may do."""

    __slots__ = ()
    scan = None

    def __iter__(self):
        Closes.scan.close()
        return super().__iter__()


@pytest.mark.one_backend("legacy")
def test_a_scan_may_be_closed_while_counters_are_added(host, monkeypatch):
    host.run("iptables-legacy", "-A", "OUTPUT", "-c", "7", "70")
    scan = TableScan(_core.IPV4, "filter")
    monkeypatch.setattr(Closes, "scan", scan)
    counts, _, policies = scan.read()
    scan.rely_on(counts)
    whole, added = scan.with_aside(counts, [Closes(each) for each in policies])
    assert whole.pairs(0, 1) == [(14, 140)] and added == [(2 * packets, 2 * size) for packets, size in policies]
    assert scan.closed
