"""The verdicts of a bench are compared with what happens to the same packets on a host with two networks. Also: rulesets
of other programs, and what is left after a bench is killed."""

import os
import pathlib
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys

import pytest
from conftest import PATIENCE, enter_new_namespace, sysctl

import iptc
from iptc import _netns
from iptc.bench.bench import Bench
from iptc.bench.pairs import on_one_processor
from iptc.tracing.headers import read_packet

ROUNDS = 6 * max(1, int(os.environ.get("IPTC_STRESS", "1")))
PACKETS = 10
FOLDER = pathlib.Path(__file__).parent / "rulesets"

ADDRESSES = {4: {"eth0": "203.0.113.1/24", "eth1": "10.0.0.1/24"}, 6: {"eth0": "2001:db8::1/64", "eth1": "fd00::1/64"}}
FAR = {
    4: {"eth0": ["203.0.113.9", "203.0.113.77"], "eth1": ["10.0.0.9", "10.0.0.77"]},
    6: {"eth0": ["2001:db8::9", "2001:db8::77"], "eth1": ["fd00::9", "fd00::77"]},
}
HOST = {4: ["203.0.113.1", "10.0.0.1"], 6: ["2001:db8::1", "fd00::1"]}
PORTS = [22, 80, 443, 8080]
MARKER = 0x88B5


def ruleset(chance, version):
    """A ruleset made at random."""
    everyone = [address for addresses in FAR[version].values() for address in addresses] + HOST[version]

    def match():
        words = []
        if chance.random() < 0.4:
            words += [chance.choice(["", "! "]) + f"-s {chance.choice(everyone)}"]
        if chance.random() < 0.3:
            words += [f"-d {chance.choice(everyone)}"]
        if chance.random() < 0.7:
            protocol = chance.choice(["tcp", "udp", "icmp" if version == 4 else "ipv6-icmp"])
            words += [f"-p {protocol}"]
            if protocol in ("tcp", "udp") and chance.random() < 0.7:
                words += [f"-m {protocol} --dport {chance.choice(PORTS)}"]
        if chance.random() < 0.3:
            words += [f"-m conntrack --ctstate {chance.choice(['NEW', 'ESTABLISHED,RELATED', 'INVALID', 'DNAT'])}"]
        if chance.random() < 0.2:
            words += ["-m mark --mark 0x1/0x1"]
        if chance.random() < 0.2:
            words += (
                [f"-m multiport -p tcp --dports {chance.choice(PORTS)},{chance.choice(PORTS)}"]
                if not any("-p " in word for word in words)
                else []
            )
        return " ".join(words)

    def rules(chain, ends, count):
        return [f"-A {chain} {match()} -j {chance.choice(ends)}" for _ in range(chance.randrange(count))]

    ends = ["ACCEPT", "DROP", "REJECT", "one", "RETURN", "MARK"]
    inside, outside = FAR[version]["eth1"][0], HOST[version][0]
    bracketed = f"[{inside}]" if version == 6 else inside
    lines = [
        "*mangle",
        *rules("PREROUTING", ["MARK", "ACCEPT", "DROP"], 3),
        *rules("FORWARD", ["MARK", "ACCEPT"], 3),
        "COMMIT",
    ]
    lines += ["*nat"]
    lines += [f"-A PREROUTING -p tcp -m tcp --dport {chance.choice(PORTS)} -j DNAT --to-destination {bracketed}:80"] * (
        chance.random() < 0.5
    )
    lines += [f"-A POSTROUTING -o eth0 -j SNAT --to-source {outside}"] * (chance.random() < 0.5)
    lines += ["COMMIT", "*filter"]
    lines += [f":{chain} {chance.choice(['ACCEPT', 'DROP'])} [0:0]" for chain in ("INPUT", "FORWARD", "OUTPUT")]
    lines += [":one - [0:0]", ":two - [0:0]"]
    lines += rules("INPUT", ends, 6) + rules("FORWARD", ends, 6) + rules("OUTPUT", ["ACCEPT", "DROP", "two"], 3)
    lines += rules("one", ["ACCEPT", "DROP", "REJECT", "two", "RETURN"], 4) + rules(
        "two", ["ACCEPT", "DROP", "RETURN"], 3
    )
    return "\n".join([*(line.replace("-j MARK", "-j MARK --set-xmark 0x1/0x1") for line in lines), "COMMIT", ""])


def packets(chance, version, start):
    """Packets made at random: (interface, arguments of Bench.make). None is of the connection of another: *start* is a
    number of its own for each ruleset."""
    for number in range(start, start + PACKETS):
        interface = chance.choice(["eth0", "eth1"])
        other = "eth1" if interface == "eth0" else "eth0"
        words = {"src": chance.choice(FAR[version][interface]), "sport": 1024 + number % 60000}
        words["dst"] = chance.choice([*FAR[version][other], HOST[version][interface == "eth1"]])
        kind = chance.choice(["tcp", "udp", "icmp"])
        words[kind] = True if kind == "icmp" else chance.choice(PORTS)
        if kind == "icmp":
            del words["sport"]
            words["echo"] = 1 + number % 65000, 1
        yield interface, words


class Router:
    """A host with two networks, which is this namespace: packets come from other namespaces, and are seen there."""

    def __init__(self, version):
        self.version = version
        run = self.run
        sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.icmp_ratemask=0")
        sysctl("net.ipv6.icmp.ratelimit=0", "net.ipv4.conf.all.rp_filter=0")
        sysctl("net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.default.send_redirects=0")
        if version == 6:
            # the rules of OUTPUT would count packets that a host sends to its neighbours by itself
            quiet = "accept_dad=0", "router_solicitations=0", "mldv2_unsolicited_report_interval=1"
            sysctl(*(f"net.ipv6.conf.default.{each}" for each in quiet))
        run("ip", "link", "set", "lo", "up")
        self.spaces, self.taps, self.inner, self.macs = {}, {}, {}, {}
        for number, (name, address) in enumerate(ADDRESSES[version].items()):
            self.spaces[name] = space = _netns.new_namespace()
            mac, far = f"02:00:00:00:00:0{number}", f"02:00:00:00:01:0{number}"
            run("ip", "link", "add", name, "address", mac, "type", "veth", "peer", "name", "far", "address", far)
            run("ip", "link", "set", "far", "netns", f"/proc/{os.getpid()}/fd/{space.fileno()}")
            run("ip", "addr", "add", address, "dev", name, *(["nodad"] if version == 6 else []))
            run("ip", "link", "set", name, "up")
            self._set_up(space)
            for neighbour in FAR[version][name]:
                run("ip", "neigh", "add", neighbour, "lladdr", far, "nud", "permanent", "dev", name)
            self.macs[name] = [bytes.fromhex(each.replace(":", "")) for each in (mac, far)]
            self.taps[name] = self._tap(space, "far", 3)
            self.inner[name] = self._tap(_netns.Namespace(), name, MARKER)
        for name in self.taps:
            for there in (True, False):
                self._until_it_passes(name, there)

    @staticmethod
    def run(*command):
        subprocess.run(command, check=True)

    @staticmethod
    def sent():
        """Return how many IPv6 packets this host has sent so far, with those that a rule has dropped."""
        lines = pathlib.Path("/proc/net/snmp6").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("Ip6OutRequests")))

    @staticmethod
    def _set_up(space):
        from iptc.bench.links import Links
        from iptc.bench.private_namespace import write_setting

        write_setting(space, "net/ipv6/conf/all/disable_ipv6", "1")
        links = Links(space)
        links.set_up("far")
        links.close()

    @staticmethod
    def _tap(space, name, protocol):
        tap = socket.socket(fileno=space.open_socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        tap.settimeout(PATIENCE)
        tap.bind((name, protocol))
        return tap

    def _frame(self, name, there, kind, data):
        near, far = self.macs[name]
        return (near + far if there else far + near) + struct.pack("!H", kind) + data

    def _until_it_passes(self, name, there):
        receiver = self.inner[name] if there else self.taps[name]
        receiver.settimeout(0.01)
        while True:
            try:
                self._mark(name, there, os.urandom(46))
                break
            except TimeoutError:
                continue
        receiver.settimeout(PATIENCE)

    def _mark(self, name, there, label):
        """Send a marker, and return the packets that come before it."""
        sender, receiver = (self.taps[name], self.inner[name]) if there else (self.inner[name], self.taps[name])
        sender.send(self._frame(name, there, MARKER, label))
        found = []
        while True:
            data, where = receiver.recvfrom(70000)
            if where[2] == 4:
                continue
            if data[14:] == label:
                return found
            if data[12:14] in (b"\x08\x00", b"\x86\xdd"):
                found.append(data[14:])

    def send(self, interface, data):
        """Let a packet come in. Return the packets that leave because of it: [(interface, bytes)]."""
        kind = 0x0800 if self.version == 4 else 0x86DD
        with on_one_processor():
            self.taps[interface].send(self._frame(interface, True, kind, data))
            self._mark(interface, True, os.urandom(46))
            left = []
            for name in self.taps:
                left += [(name, each) for each in self._mark(name, False, os.urandom(46))]
        return left


def said(interface, data):
    """Return what is compared of a packet that leaves: all fields of its headers except numbers that the kernel chooses."""
    header = read_packet(data)
    if header.number == 58 and header.icmp[0] in range(130, 144):
        return None
    own = header.icmp is not None and header.icmp[0] in (0, 1, 3, 129) or "RST" in header.flags
    return interface, str(header), header.ttl, header.tos, None if own else header.ident


def hits(save):
    """Return {rule: packets} of an output of iptables-save -c, in its order."""
    found, table = [], ""
    for line in save.splitlines():
        table = line if line.startswith("*") else table
        if line.startswith("["):
            count, _, rule = line.partition(" ")
            found.append((f"{table[1:]} {rule[3:]}", int(count[1:].partition(":")[0])))
    return found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("side", ["legacy", "nft"])
def test_the_verdict_is_what_happens_on_a_host_with_two_networks(side, version, monkeypatch):
    monkeypatch.setenv("IPTC_BACKEND", side)
    enter_new_namespace()
    router = Router(version)
    ipv6 = version == 6
    for number in range(ROUNDS):
        chance = random.Random(f"{side} {version} {number}")
        text = ruleset(chance, version)
        iptc.restore(text, ipv6, backend=side)
        with Bench(text, ADDRESSES[version], backend=side, ipv6=ipv6) as bench:
            for interface, words in packets(chance, version, PACKETS * number):
                made = bench.make(interface, **words)
                sent, before = router.sent(), hits(iptc.save(ipv6, True, backend=side))
                left = router.send(interface, made.data)
                after, sent = hits(iptc.save(ipv6, True, backend=side)), router.sent() - sent
                verdict = bench.judge(interface, made)
                where = f"ruleset {number}, {interface} {words}\n{text}\n{verdict.way()}\nleft: {left}"
                happened = sorted(filter(None, (said(*each) for each in left)), key=str)
                assert happened == sorted((said(one.interface, one.data) for one in verdict.out), key=str), where
                rose = [rule for (rule, was), (_, now) in zip(before, after) if now > was]
                steps = verdict.path + [step for packet in verdict.answers for step in packet.path]
                named = {f"{step.table} {step.chain} {step.text}" for step in steps if step.kind == "rule"}
                if ipv6 and sent > len(verdict.answers):
                    # A host also speaks of its own accord, which a bench does not: it sends a redirect to a neighbour, as
                    # often as its limit lets it, and says which multicast groups it is in.
                    own = "filter OUTPUT", "filter two", "mangle OUTPUT", "nat OUTPUT", "nat POSTROUTING"
                    rose = [rule for rule in rose if rule in named or not rule.startswith(own)]
                assert set(rose) == named, where
                if verdict.rule is not None:
                    assert f"{verdict.step.table} {verdict.step.chain} {verdict.step.text}" in rose, where


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.rules")))
@pytest.mark.parametrize("side", ["legacy", "nft"])
def test_rulesets_of_others_load_with_interfaces_that_are_made_up(side, name):
    ipv6 = name.endswith("6.rules")
    text = (FOLDER / name).read_text()
    sets = {found: [] for found in re.findall(r"--match-set (\S+)", text)}
    with Bench(text, backend=side, ipv6=ipv6, sets=sets) as bench:
        first = next(iter(bench.layout.interfaces))
        far = "2001:db8:9::9" if ipv6 else "198.51.100.9"
        verdict = bench.send(first, src=far, tcp=9)
        assert verdict.verdict in ("ACCEPT", "DROP", "REJECT") and verdict.path


KILLED = """
import os, sys
import iptc
bench = iptc.Bench("*filter\\nCOMMIT\\n", {"eth0": "203.0.113.1/24"}, backend="nft")
if sys.argv[1] == "agent":
    from iptc.bench import bench as module
    from iptc import _netns
    module.new_place = _netns.new_namespace_of_agent
bench.open()
print("ready", flush=True)
while True:
    bench.send("eth0", tcp=1)
"""


@pytest.mark.parametrize("kind", ["root", "agent"])
def test_nothing_is_left_of_a_bench_that_is_killed(kind):
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(iptc.__file__).parents[1])}
    for _ in range(3 * ROUNDS // 6):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, kind], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdout.readline() == "ready\n"
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == (kind == "agent")
        waiting = [os.pidfd_open(int(child)) for child in children]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for descriptor in waiting:
            # its agent notices the end, and ends too
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            assert poll.poll(PATIENCE * 1000)
            os.close(descriptor)
