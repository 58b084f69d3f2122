"""eBPF cannot be used for a while: source="bpf" raises the reason, source="auto" reads by socket and returns to eBPF."""

import os
import subprocess
import sys
import time

import pytest
from conftest import PATIENCE
from test_bpf_source import REFUSED, restored, same
from untried import has_other_users, untried

import iptc
from iptc.bpf.nft import NftFinder
from iptc.bpf.scan import BpfScan
from iptc.bpf.window import Window
from iptc.nft.reader import NftScan

pytestmark = pytest.mark.one_backend("nft")

RULES = [f"-A OUTPUT -p udp --dport {port}" for port in range(1, 12)]


class Restless(NftScan):
    """Reads a table by the socket. As long as `changes` is set, it changes the table after each reading."""

    changes = True

    def read(self):
        reading = super().read()
        if self.changes:
            subprocess.run(["nft", "add", "chain", "ip", "filter", "more"], check=True)
            subprocess.run(["nft", "delete", "chain", "ip", "filter", "more"], check=True)
        return reading


@pytest.fixture
def restless(host):
    """Return a function that makes an eBPF scan of a table that changes all the time."""
    restored(host, False, *RULES)
    host.iptables("-I", "OUTPUT", "-c", "7", "700")
    made = []

    def make(falls_back, period):
        socket = Restless(iptc._core.IPV4, "filter")

        def opened():
            window = Window()
            return window, NftFinder(window, iptc._core.IPV4, "filter", socket.fileno())

        made.append(BpfScan(socket, opened, falls_back, period))
        return made[-1], socket

    yield make
    for scan in made:
        scan.close()


def until_it_is_back(read, source):
    """Read until eBPF is in use. Return the last reading."""
    limit = time.monotonic() + PATIENCE
    while True:
        reading = read()
        if source() == "bpf":
            return reading
        assert time.monotonic() < limit


@pytest.mark.needs("ebpf")
def test_a_ruleset_that_never_stops_changing_is_a_hindrance(restless):
    scan, socket = restless(False, 60.0)
    with pytest.raises(iptc.Unsupported, match="can't read the counters with eBPF: the ruleset changes all the time"):
        scan.read()
    socket.changes = False
    assert scan.read()[0].pairs(0, 1) == [(7, 700)] and (scan.source, scan.source_reason) == ("bpf", "")


@pytest.mark.needs("ebpf")
def test_auto_reads_by_socket_and_returns_to_ebpf(restless):
    scan, socket = restless(True, 0.01)
    assert scan.read()[0].pairs(0, 1) == [(7, 700)]
    assert (scan.source, scan.source_reason) == ("socket", "the ruleset changes all the time")
    socket.changes = False
    subprocess.run(["nft", "add", "chain", "ip", "filter", "name0"], check=True)
    for turn in range(3):
        counts, digest, policies = until_it_is_back(scan.read, lambda: scan.source)
        assert counts.pairs(0, 1) == [(7, 700)] and len(policies) == 3 and counts.rules == 12
        assert scan.source_reason == "" and digest == socket.read()[1]
        # once more, with rules that changed while eBPF was not in use
        socket.changes = True
        # another change would be followed, without a reading of all by the socket
        subprocess.run(["nft", "rename", "chain", "ip", "filter", f"name{turn}", f"name{turn + 1}"], check=True)
        scan.read()
        assert scan.source == "socket"
        socket.changes = False


@pytest.mark.needs("ebpf")
def test_a_table_that_is_deleted_and_created_again_is_read_again(host, ipv6, traffic):
    kind = "ip6" if ipv6 else "ip"
    with (
        iptc.CounterReader("mangle", ipv6, source="bpf") as reader,
        iptc.CounterReader("mangle", ipv6) as other,
    ):
        for turn in range(1, 4):
            assert len(same(reader, other)) == 0 and reader.source == "bpf"
            restored(host, ipv6, *RULES[:turn], "-A OUTPUT -p udp --dport 7", table="mangle")
            traffic(7, turn, ipv6)
            assert same(reader, other)["OUTPUT"][turn].packets == turn
            assert reader.source == "bpf"
            traffic(7, 1, ipv6)
            same(reader, other)
            host.run("nft", "delete", "table", kind, "mangle")


@pytest.mark.needs("ebpf")
@pytest.mark.one_backend("legacy", "nft")
def test_a_namespace_whose_name_is_deleted_is_still_read(host, traffic):
    name = f"iptc-{os.getpid()}"
    host.run("ip", "netns", "add", name)
    host.run("ip", "netns", "exec", name, host.tool(), "-A", "OUTPUT", "-c", "7", "700")
    with (
        iptc.CounterReader(netns=name, source="bpf") as reader,
        iptc.CounterReader(netns=name) as other,
        iptc.CounterReader(source="bpf") as here,
    ):
        assert same(reader, other)["OUTPUT"][0] == (7, 700) and len(here.read()) == 0
        host.run("ip", "netns", "delete", name)
        assert same(reader, other)["OUTPUT"][0] == (7, 700) and reader.source == "bpf"
        host.run("ip", "netns", "add", name)
        assert same(reader, other)["OUTPUT"][0] == (7, 700) and len(here.read()) == 0
    host.run("ip", "netns", "delete", name)


def test_a_table_that_a_process_owns_is_read_by_socket(host):
    with subprocess.Popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        print(
            "add table ip filter { flags owner; chain INPUT { type filter hook input priority 0; counter; }; }",
            file=owner.stdin,
            flush=True,
        )
        limit = time.monotonic() + PATIENCE
        while "table ip filter" not in host.run("nft", "list", "tables"):
            assert time.monotonic() < limit and owner.poll() is None
        with iptc.CounterReader(source="auto", source_check=0.01) as reader:
            assert len(reader.read()) == 1
            assert reader.source == "socket" and ("a process owns the table" in reader.source_reason or REFUSED)
            owner.stdin.close()
            owner.wait()
            if not untried(REFUSED):
                assert len(until_it_is_back(reader.read, lambda: reader.source)) == 0


def told_by_a_child(action):
    """Fork a child that runs *action*, and return what it prints."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            try:
                said = str(action())
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            os.write(theirs, said.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(theirs)
    with open(ours) as file:
        return file.read()


@pytest.mark.needs("ebpf")
@pytest.mark.one_backend("legacy", "nft")
def test_a_child_of_a_fork_opens_programs_of_its_own(host, traffic):
    restored(host, False, *RULES)
    with iptc.CounterReader(source="bpf") as reader:
        snapshot = reader.read()

        def read_by_child():
            traffic(7, 3)
            return reader.read()["OUTPUT"][6].packets, snapshot.rules[6].text, reader.source

        def read_without_rights():
            os.setresuid(65534, 65534, 65534)
            said = []
            for _ in range(2):
                try:
                    said.append(str(reader.read()))
                except iptc.IPTCError as error:
                    said.append(type(error).__name__)
            return said

        assert told_by_a_child(read_by_child) == str((3, "-p udp -m udp --dport 7", "bpf"))
        traffic(7, 2)
        assert reader.read()["OUTPUT"][6].packets == 5
        if has_other_users():
            # a child cannot use what its parent has opened, whether it is the first child or the second
            assert told_by_a_child(read_without_rights) == str(["AccessDenied"] * 2)


REFUSALS = """
import errno, os, sys, iptc
before = sorted(os.listdir("/proc/self/fd"))
try:
    iptc.CounterReader("filter", source="bpf").read()
    print("works")
except iptc.Unsupported as error:
    print(error)
except iptc.AccessDenied as error:
    print("the socket:", error)
try:
    with iptc.CounterReader("filter", source="auto") as reader:
        print(list(reader.read()), reader.source, reader.source_reason)
except iptc.AccessDenied as error:
    print("the socket:", error)
assert sorted(os.listdir("/proc/self/fd")) == before
"""


def refused(*prefix):
    """What a process that is started by *prefix* says of both sources."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*prefix, sys.executable, "-c", REFUSALS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


@pytest.mark.one_backend("legacy", "nft")
def test_auto_in_a_user_namespace_reads_by_socket(host):
    restored(host, False, "-A OUTPUT -p udp")
    text = "*filter\\n[7:70] -A OUTPUT -p udp\\nCOMMIT\\n"
    inside = f"printf '{text}' | iptables-{host.backend}-restore -c && exec \"$@\""
    first, second = refused("unshare", "-Urn", "sh", "-c", inside, "sh")
    assert "this is a user namespace, and the kernel takes programs from its first one only" in first
    assert second.startswith("[(7, 70)] socket ") and "this is a user namespace" in second


LOADED = """
import sys, iptc
iptc.CounterReader("filter").read()
print(*(name for name in sys.modules if name.startswith("iptc.bpf")))
"""


def test_reading_by_socket_does_not_load_the_modules_of_ebpf(host):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, env=environment)
    assert (done.stdout.strip(), done.stderr) == ("", "")
