"""Traced packets: the kernel reports which rule takes them, on both back ends."""

import asyncio
import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import PATIENCE

import iptc
from iptc.namespace import Place
from iptc.tracing.gathering import Gatherer
from iptc.tracing.headers import read_headers, read_packet
from iptc.tracing.legacy_reports import LegacyReports
from iptc.tracing.lookup import LegacyRules, NftRules
from iptc.tracing.mark import MarkTable, everything
from iptc.tracing.nft_reports import NftReports

STRESS = int(os.environ.get("IPTC_STRESS", "1"))
LOGGERS = [pathlib.Path(f"/proc/sys/net/netfilter/nf_log/{family}") for family in (2, 10)]
LOCAL = {False: "127.0.0.1", True: "::1"}


class Reports:
    """The readers of reports alone, without `Trace`: all packets are traced."""

    def __init__(self):
        place = Place()
        self.mark = MarkTable(place, everything([socket.AF_INET, socket.AF_INET6]))
        for path in LOGGERS:
            path.write_text("nfnetlink_log")
        self.nft, self.legacy = NftReports(place), LegacyReports(place)
        self.gatherer = Gatherer(place, self.mark.name, NftRules(place), LegacyRules(place))

    def packets(self):
        legacy, nft = self.legacy.read(), self.nft.read()
        return self.gatherer.take(nft, legacy + self.legacy.read()) + self.gatherer.flush()


def knock(port, ipv6=False, kind=socket.SOCK_DGRAM):
    """Send one packet to a port of this host."""
    with socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, kind) as sender:
        sender.setblocking(False)
        try:
            sender.connect((LOCAL[ipv6], port))
            sender.send(b"x")
        except OSError:
            pass


@pytest.mark.parametrize("ipv6", [False, True])
def test_the_way_of_a_packet_is_put_together(host, ipv6):
    host.run("ip", "link", "set", "lo", "up")
    host.iptables("-N web", ipv6=ipv6)
    host.iptables("-A web -p udp --dport 80 -j ACCEPT", ipv6=ipv6)
    host.iptables("-A web -p udp --dport 22 -j DROP", ipv6=ipv6)
    host.iptables("-A INPUT -i lo -j web", ipv6=ipv6)
    host.iptables("-A INPUT -p udp --dport 99 -j REJECT", ipv6=ipv6)
    host.iptables("-P INPUT DROP", ipv6=ipv6)
    reports = Reports()
    for port, verdict, text in [
        (80, "ACCEPT", "-p udp -m udp --dport 80 -j ACCEPT"),
        (22, "DROP", "-p udp -m udp --dport 22 -j DROP"),
        (99, "REJECT", "-p udp -m udp --dport 99 -j REJECT"),
        (7, "DROP", None),
    ]:
        knock(port, ipv6)
        packet = next(one for one in reports.packets() if one.in_interface == "lo" and one.before.dport == port)
        assert packet.verdict == verdict and packet.sure
        assert packet.hook == "INPUT" and packet.ip_version == (6 if ipv6 else 4)
        assert text is None and packet.rule is None or str(packet.rule).startswith(text)
        steps = [str(step) for step in packet.path if step.table == "filter"]
        assert steps[0] == "filter INPUT rule 1: -i lo -j web"
        if verdict == "REJECT" or text is None:
            assert steps[1] == "filter web end"
        if text is None:
            assert steps[2] == "filter INPUT policy DROP"


def test_headers_are_read_within_their_bounds():
    """The part of a packet that the kernel reports may end anywhere."""
    udp = bytes.fromhex("4500001d00010000401100000a0000010a000002" + "003500350009" + "000078")
    assert str(read_packet(udp)) == "udp 10.0.0.1:53 > 10.0.0.2:53"
    fragment = bytes.fromhex("60000000000d2c40" + "20010db8" + "00" * 12 + "20010db8" + "00" * 11 + "01")
    fragment += bytes.fromhex("1100000100000001")
    assert read_packet(fragment + udp[20:]).sport == 53
    assert read_packet(fragment[:-6] + bytes.fromhex("0009") + fragment[-4:] + udp[20:]).sport is None
    for packet in (udp, fragment + udp[20:]):
        for length in range(len(packet)):
            header = read_packet(packet[:length])
            assert header is None or header.src
    assert read_headers(b"", None) is None


def loggers():
    return [path.read_text() for path in LOGGERS]


def tables_of_ours(host):
    return [line for line in host.run("nft", "list", "tables").splitlines() if "iptc-trace" in line]


def one(trace, chosen=lambda packet: packet.in_interface is not None):
    """Return the next packet of *trace* for which chosen(packet) is true."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for packet in trace.wait(PATIENCE):
            if chosen(packet):
                return packet
    raise AssertionError("no packet came")


@pytest.fixture
def local(host):
    host.run("ip", "link", "set", "lo", "up")
    return host


@contextlib.contextmanager
def neighbour(host, device, number):
    """Make another network namespace behind *device*, with 10.0.NUMBER.2 and fd00:NUMBER::2; this one is its router.
    Return the beginning of a command line that runs a command there."""
    other = subprocess.Popen(["unshare", "-n", "sleep", "1000"])
    try:
        while os.readlink(f"/proc/{other.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            time.sleep(0.01)
        inside = ["nsenter", "-t", str(other.pid), "-n"]
        host.run("ip", "link", "add", device, "type", "veth", "peer", "name", "home", "netns", str(other.pid))
        for place, name, last in (([], device, 1), (inside, "home", 2)):
            host.run(*place, "ip", "addr", "add", f"10.0.{number}.{last}/24", "dev", name)
            host.run(*place, "ip", "addr", "add", f"fd00:{number}::{last}/64", "dev", name, "nodad")
            host.run(*place, "ip", "link", "set", name, "up")
        host.run(*inside, "ip", "route", "add", "default", "via", f"10.0.{number}.1")
        host.run(*inside, "ip", "-6", "route", "add", "default", "via", f"fd00:{number}::1")
        yield inside
    finally:
        other.kill()
        other.wait()


@pytest.fixture
def router(host):
    """This namespace forwards between two others. The value begins a command line that runs in the first of them."""
    for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        pathlib.Path(f"/proc/sys/net/{path}").write_text("1")
    with neighbour(host, "lan", 1) as inside, neighbour(host, "wan", 2):
        yield inside


def far(number, ipv6, last=2):
    return f"fd00:{number}::{last}" if ipv6 else f"10.0.{number}.{last}"


SEND = """
import socket, sys
out = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
out.bind(("", 4711))
for _ in range(int(sys.argv[3])):
    out.sendto(b"x", (sys.argv[1], int(sys.argv[2])))
"""


def send(host, inside, address, port, count=1):
    """Send UDP packets from another namespace."""
    host.run(*inside, sys.executable, "-ISc", SEND, address, str(port), str(count))


@pytest.mark.parametrize("ipv6", [False, True])
def test_a_forwarded_packet_shows_its_addresses_before_and_after_nat(router, host, ipv6):
    server = f"[{far(2, ipv6)}]:80" if ipv6 else f"{far(2, ipv6)}:80"
    host.iptables(f"-t nat -A PREROUTING -i lan -p udp --dport 8080 -j DNAT --to-destination {server}", ipv6=ipv6)
    host.iptables("-t nat -A POSTROUTING -o wan -j MASQUERADE", ipv6=ipv6)
    host.iptables("-t mangle -A PREROUTING -p udp -j MARK --set-mark 7", ipv6=ipv6)
    host.iptables("-A FORWARD -p udp --dport 80 -m comment --comment web -j ACCEPT", ipv6=ipv6)
    host.iptables("-P FORWARD DROP", ipv6=ipv6)
    with iptc.Trace("-p udp -i lan") as trace:
        send(host, router, far(1, ipv6, 1), 8080)
        packet = one(trace)
        assert packet.verdict == "ACCEPT" and packet.sure
        assert (packet.in_interface, packet.out_interface, packet.mark) == ("lan", "wan", 7)
        assert packet.before.addresses[1:] == (4711, far(1, ipv6, 1), 8080)
        assert packet.after.addresses == (far(2, ipv6, 1), packet.after.sport, far(2, ipv6), 80)
        assert packet.before.src == far(1, ipv6) and packet.hook == "POSTROUTING"
        assert str(packet.rule) == "-p udp -m udp --dport 80 -m comment --comment web -j ACCEPT"
        assert packet.step.comment == "web" and packet.step.number == 1
        assert [step.rule.target.name for step in packet.nat] == ["DNAT", "MASQUERADE"]
        rules = [(step.hook, step.table) for step in packet.path if step.kind == "rule"]
        assert rules == [("PREROUTING", "mangle"), ("PREROUTING", "nat"), ("FORWARD", "filter"), ("POSTROUTING", "nat")]
        send(host, router, far(2, ipv6), 81)
        packet = one(trace)
        assert (packet.verdict, packet.rule, packet.hook) == ("DROP", None, "FORWARD")
        assert str(packet.path[-1]) == "filter FORWARD policy DROP"
        assert trace.lost == 0


@pytest.mark.parametrize("ipv6", [False, True])
def test_jumps_gotos_and_returns(local, ipv6):
    host = local
    for chain in ("one", "two"):
        host.iptables(f"-N {chain}", ipv6=ipv6)
    host.iptables("-A one -p udp -j RETURN", ipv6=ipv6)
    host.iptables("-A one -j DROP", ipv6=ipv6)
    host.iptables("-A two -p udp", ipv6=ipv6)
    host.iptables("-A INPUT -p udp -j one", ipv6=ipv6)
    host.iptables("-A INPUT -p udp -m comment --comment go -g two", ipv6=ipv6)
    host.iptables("-A INPUT -j DROP", ipv6=ipv6)
    with iptc.Trace("-p udp", ipv6=ipv6) as trace:
        knock(9, ipv6)
        packet = one(trace)
    steps = [step for step in packet.path if step.table == "filter"]
    assert [(step.chain, step.kind, step.verdict, step.to) for step in steps] == [
        ("INPUT", "rule", "JUMP", "one"),
        ("one", "rule", "RETURN", None),
        ("INPUT", "rule", "GOTO", "two"),
        ("two", "rule", "CONTINUE", None),
        ("two", "return", "RETURN", None),
        ("INPUT", "policy", "ACCEPT", None),
    ]
    assert packet.verdict == "ACCEPT" and packet.rule is None


def test_a_rule_without_matches_is_no_policy(local):
    """Legacy xtables reports such a rule as a policy."""
    local.iptables("-N all")
    local.iptables("-A all -j DROP")
    local.iptables("-A INPUT -p udp --dport 9 -j all")
    local.iptables("-A INPUT -j ACCEPT")
    with iptc.Trace("-p udp") as trace:
        knock(9)
        packet = one(trace)
        assert str(packet.step) == "filter all rule 1: -j DROP" and packet.verdict == "DROP"
        knock(10)
        packet = one(trace)
        assert str(packet.step) == "filter INPUT rule 1: -j ACCEPT" or str(packet.step) == (
            "filter INPUT rule 2: -j ACCEPT"
        )
        assert str(packet.rule) == "-j ACCEPT"


def test_tables_of_nft_itself_show_too(local):
    local.run(
        "nft",
        "-f",
        "-",
        text='table inet own {\nchain enter {\ntype filter hook input priority -5\nudp dport 9 counter reject comment "no"\n}\n}\n',
    )
    local.iptables("-A INPUT -j ACCEPT")
    with iptc.Trace("-p udp") as trace:
        knock(9)
        packet = one(trace)
    assert packet.verdict == "REJECT"
    assert packet.step.place == "inet own enter" and packet.step.comment == "no" and packet.step.handle
    assert "reject" in packet.step.text


def test_nothing_of_the_tables_is_touched(local):
    local.iptables("-A INPUT -p udp -j ACCEPT")
    before, old = local.save(), loggers()
    with iptc.Trace("-p udp") as trace:
        assert local.save() == before
        assert tables_of_ours(local)
        assert (loggers() != old) == (local.backend == "legacy")
        knock(9)
        assert one(trace).verdict == "ACCEPT"
    assert local.rules() == [line for line in before if line.startswith("-A")]
    assert loggers() == old and tables_of_ours(local) == []


def test_no_more_packets_are_chosen_than_the_limit_says(router, host):
    """The packets that the limit allows during the time of the test are added."""
    began = time.monotonic()
    with iptc.Trace("-p udp -i lan", limit=10) as trace:
        send(host, router, far(2, False), 9, 300)
        send(host, router, far(2, False), 10, 0)
        found = trace.read()
        while packets := trace.wait(0.0):
            found += packets
    assert 1 <= len(found) <= 10 + 10 * (time.monotonic() - began) + 1


def test_several_packets_at_once_are_kept_apart(router, host):
    host.iptables("-A FORWARD -p udp --dport 20:29 -j DROP")
    with iptc.Trace("-p udp -i lan", limit=None) as trace:
        host.run(
            *router,
            sys.executable,
            "-ISc",
            "import socket\nout = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            "for number in range(200): out.sendto(b'x', ('10.0.2.2', 10 + number % 40))",
        )
        found = []
        while len(found) < 200:
            found += trace.wait(PATIENCE)
    for packet in found:
        assert packet.verdict == ("DROP" if 20 <= packet.before.dport < 30 else "ACCEPT")
        assert len([step for step in packet.path if step.table == "filter"]) == 1


def test_a_rule_that_was_changed_is_not_named_wrongly(local):
    local.iptables("-A INPUT -p udp --dport 9 -j ACCEPT")
    local.iptables("-A INPUT -p udp --dport 10 -j DROP")
    with iptc.Trace("-p udp --dport 10") as trace:
        knock(10)
        local.iptables("-D INPUT 1")
        local.iptables("-A INPUT -p tcp -j ACCEPT")
        packet = one(trace)
        assert packet.verdict == ("DROP" if local.backend == "nft" else packet.verdict)
        if local.backend == "nft":
            assert str(packet.rule) == "-p udp -m udp --dport 10 -j DROP" and packet.step.number is None
        else:
            assert packet.rule is None
        notes = [step.note for step in packet.path if step.note and step.table == "filter"]
        assert notes and all("meanwhile" in note for note in notes)
        # later packets are looked up in the rules that exist now
        knock(10)
        assert str(one(trace).rule) == "-p udp -m udp --dport 10 -j DROP"


def test_two_tracers_see_each_its_own(local):
    local.iptables("-A INPUT -p udp -j ACCEPT")
    with iptc.Trace("-p udp --dport 9") as first:
        if local.backend == "legacy":
            with pytest.raises(iptc.Conflict, match="group 0 of nfnetlink_log is taken"):
                iptc.Trace("-p udp")
        with iptc.Trace("-p udp --dport 10", backend="nft") as second:
            knock(9)
            knock(10)
            assert one(second).before.dport == 10
            assert one(first).before.dport == 9
            assert all(packet.before.dport == 9 for packet in first.read())


@pytest.mark.one_backend("legacy")
def test_a_group_that_is_taken_is_said(local):
    local.iptables("-A INPUT -j ACCEPT")
    old = loggers()
    other = LegacyReports(Place())
    with pytest.raises(iptc.Conflict, match="ulogd"):
        iptc.Trace("-p udp")
    assert loggers() == old and tables_of_ours(local) == []
    other.close()
    iptc.Trace("-p udp").close()
    assert loggers() == old


@pytest.mark.parametrize(
    ("specification", "words"),
    [
        ("-m conntrack --ctstate NEW", "-m conntrack can't choose packets"),
        ("-i one -o two", "choose them by -i alone"),
        ("-p tcp -j DROP", "without a target"),
        ("-m recent --name x --rcheck", "-m recent can't choose packets"),
        ("-i one -m owner --uid-owner 0", "-m owner chooses packets where they are made"),
        ("-p nothing", "unknown protocol"),
        ("-m tcp --nothing", "unknown option"),
        ("-4 -s ::1", "not found"),
    ],
)
@pytest.mark.one_backend("nft")
def test_what_can_not_choose_packets_is_refused(host, specification, words):
    with pytest.raises((iptc.ParameterError, iptc.Unsupported)) as caught:
        iptc.Trace(specification)
    assert words in str(caught.value)
    assert tables_of_ours(host) == []


@pytest.mark.one_backend("nft")
def test_the_specification_is_that_of_iptables(router, host):
    """With extensions that nf_tables has itself, and with others."""
    for specification, chosen in [
        ("-p udp --dport 9 -s 10.0.1.2,10.9.9.9", True),
        ("-p udp ! --dport 9", False),
        (["-p", "udp", "-m", "string", "--algo", "bm", "--string", "x"], True),
        ("-m multiport -p udp --sports 4711,4712", True),
        ("-i wan", False),
        ("-m mark --mark 1", False),
        ("", True),
    ]:
        with iptc.Trace(specification, ipv6=False) as all_of_it, iptc.Trace("-p udp -i lan") as trace:
            send(host, router, "10.0.2.2", 9)
            one(trace)
            assert bool([one for one in all_of_it.read() if one.in_interface == "lan"]) == chosen, specification


TRACER = """
import sys, iptc
with iptc.Trace("-p udp") as trace:
    print("traces", flush=True)
    for packet in trace:
        pass
"""


def test_a_killed_tracer_leaves_nothing(local):
    local.iptables("-A INPUT -p udp -j ACCEPT")
    before, old = local.rules(), loggers()
    dice = random.Random(20261128)
    for attempt in range(4 * STRESS):
        process = subprocess.Popen([sys.executable, "-c", TRACER], stdout=subprocess.PIPE)
        if attempt % 2:
            process.stdout.readline()
            knock(9)
        else:
            time.sleep(dice.random() * 0.4)
        process.kill()
        process.communicate()
        until(lambda: loggers() == old and tables_of_ours(local) == [] and helpers() == [])
        assert local.rules() == before
    iptc.Trace("-p udp").close()


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def helpers():
    """Return the helper processes in this network namespace that set the old logger again."""
    here, found = os.readlink("/proc/self/ns/net"), []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(path / "ns/net") == here and b"nfnetlink_log" in (path / "cmdline").read_bytes():
                found.append(path.name)
    return found


def test_a_process_that_was_forked_off_keeps_nothing(local):
    local.iptables("-A INPUT -p udp -j ACCEPT")
    old = loggers()
    code = TRACER.replace("    print", "    import os, time\n    if os.fork() == 0: time.sleep(1000)\n    print")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    try:
        process.stdout.readline()
        process.kill()
        process.wait()
        until(lambda: loggers() == old and tables_of_ours(local) == [])
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def test_closing_from_another_thread_ends_the_loop(local):
    trace = iptc.Trace("-p udp")
    closing = threading.Timer(0.05, trace.close)
    closing.start()
    assert list(trace) == []
    closing.join()
    assert trace.closed and tables_of_ours(local) == [] and trace.lost == 0
    with pytest.raises(iptc.KernelError, match="closed"):
        trace.read()


def test_for_async(local):
    local.iptables("-A INPUT -p udp -j ACCEPT")

    async def take():
        with iptc.Trace("-p udp --dport 9") as trace:
            knock(9)
            async for packet in trace:
                if packet.in_interface:
                    return packet

    assert str(asyncio.run(take()).rule) == "-p udp -j ACCEPT"


def command(*words, **options):
    return subprocess.run([sys.executable, "-m", "iptc", "trace", *words], capture_output=True, text=True, **options)


def test_the_command_trace_prints_packets(local):
    local.iptables("-A INPUT -p udp --dport 9 -j DROP")
    for words in (["--json", "--count", "1", "-p", "udp", "-i", "lo"], ["-p udp -i lo", "--count", "1"]):
        with subprocess.Popen(
            [sys.executable, "-m", "iptc", "trace", *words], stdout=subprocess.PIPE, text=True
        ) as process:
            until(lambda: tables_of_ours(local))
            until(lambda: knock(9) or process.poll() is not None)
            said = process.stdout.read()
        assert process.returncode == 0
        if "--json" in words:
            packet = json.loads(said)
            assert (packet["verdict"], packet["rule"]["rule"]) == ("DROP", "-p udp -m udp --dport 9 -j DROP")
        else:
            assert "filter INPUT rule 1: -p udp -m udp --dport 9 -j DROP\n" in said and ": DROP\n" in said
    assert command("--timeout", "0", "-p", "udp").returncode == 1
    done = command("--timeout", "0", "-m", "conntrack", "--ctstate", "NEW")
    assert done.returncode == 1 and "can't choose packets" in done.stderr and done.stderr.count("\n") == 1
    assert command("--count", "none").returncode == 2
    process = subprocess.Popen([sys.executable, "-m", "iptc", "trace", "-p", "udp"])
    until(lambda: tables_of_ours(local))
    process.terminate()
    assert process.wait() == 0
    assert tables_of_ours(local) == []
