"""iptc.Bench: what the kernel does with made-up packets under a ruleset in a private network namespace."""

import os
import pathlib
import subprocess
import sys

import pytest
from untried import no_other_users

import iptc
from iptc import _netns
from iptc.bench import packet_bytes
from iptc.bench.bench import Bench

BOTH = pytest.mark.parametrize("side", ["legacy", "nft"])
ALL = pytest.mark.parametrize("side", ["legacy", "nft", "legacy without tun", "nft without tun"])
FAMILIES = pytest.mark.parametrize("version", [4, 6])

INTERFACES = {"eth0": "203.0.113.1/24 2001:db8::1/64", "eth1": "10.0.0.1/24 fd00::1/64"}
OUTSIDE = {4: "198.51.100.9", 6: "2001:db8:9::9"}
INSIDE = {4: "10.0.0.5", 6: "fd00::5"}
HOST = {4: "203.0.113.1", 6: "2001:db8::1"}
TARGET = {4: "10.0.0.5:443", 6: "[fd00::5]:443"}

RULES = """\
*mangle
-A PREROUTING -p tcp -m tcp --dport 666 -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -i eth0 -p tcp -m tcp --dport 8443 -j DNAT --to-destination {target}
-A POSTROUTING -o eth0 -j MASQUERADE
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:web - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -i eth1 -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -p tcp -m tcp --dport 80 -j web
-A INPUT -p udp -j REJECT
-A INPUT -p tcp -m tcp --dport 113 -j REJECT --reject-with tcp-reset
-A INPUT -p tcp -m tcp --dport 99 -j NFQUEUE --queue-num 3
-A FORWARD -i eth1 -o eth0 -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT
-A OUTPUT -p tcp -m tcp --dport 25 -j DROP
-A web -s {bad} -m comment --comment "bad ones" -j DROP
-A web -j ACCEPT
COMMIT
"""
BAD = {4: "198.51.100.66", 6: "2001:db8:9::66"}


def rules(version):
    return RULES.format(target=TARGET[version], bad=BAD[version])


@pytest.fixture(scope="module")
def benches():
    """{(back end, version): bench}, each made when it is first asked for."""
    made = {}

    def bench(side, version):
        if (side, version) not in made:
            name, _, rest = side.partition(" ")
            made[side, version] = Bench(rules(version), INTERFACES, backend=name, ipv6=version == 6, tun=not rest)
        return made[side, version]

    yield bench
    for one in made.values():
        one.close()


@ALL
@FAMILIES
def test_each_verdict_is_reported_with_its_rule(benches, side, version):
    bench = benches(side, version)
    far, near, host = OUTSIDE[version], INSIDE[version], HOST[version]

    def said(verdict):
        return verdict.verdict, str(verdict.step).partition(": ")[0], verdict.to

    def send(interface, src, dst, **words):
        return bench.send(interface, src=src, dst=dst, **words)

    assert said(send("eth0", far, host, tcp=22)) == ("DROP", "filter INPUT policy DROP", None)
    assert said(send("eth1", near, host, tcp=22)) == ("ACCEPT", "filter INPUT rule 3", "host")
    assert said(send("eth0", far, host, tcp=80)) == ("ACCEPT", "filter web rule 2", "host")
    assert said(send("eth0", far, host, tcp=666)) == ("DROP", "mangle PREROUTING rule 1", None)
    assert said(send("eth0", far, host, tcp=99)) == ("QUEUE", "filter INPUT rule 7", None)
    assert said(send("eth1", near, far, tcp=80)) == ("ACCEPT", "filter FORWARD rule 1", "eth0")
    assert said(send(None, host, far, tcp=25)) == ("DROP", "filter OUTPUT rule 1", None)
    assert send(None, host, far, tcp=26).to == "eth0"

    bad = send("eth0", BAD[version], host, tcp=80)
    assert said(bad) == ("DROP", "filter web rule 1", None)
    assert isinstance(bad.rule, iptc.Rule) and bad.rule.matches[0].parameters["comment"] == "bad ones"
    assert [step.verdict for step in bad.path if step.kind == "rule"] == ["JUMP", "DROP"]
    assert "filter web rule 1: -s " in bad.way() and bad.as_dict()["rule"]["comment"] == "bad ones"


@ALL
@FAMILIES
def test_rejections_are_seen_by_their_answers(benches, side, version):
    bench = benches(side, version)
    refused = bench.send("eth0", src=OUTSIDE[version], dst=HOST[version], udp=53)
    assert (refused.verdict, refused.reject) == (
        "REJECT",
        "icmp-port-unreachable" if version == 4 else "icmp6-port-unreachable",
    )
    (answer,) = refused.out
    assert answer.interface == "eth0" and answer.header.icmp == ((3, 3) if version == 4 else (1, 4))
    reset = bench.send("eth0", src=OUTSIDE[version], dst=HOST[version], tcp=113)
    assert (reset.verdict, reset.reject) == ("REJECT", "tcp-reset")
    assert "RST" in reset.out[0].header.flags


@ALL
@FAMILIES
def test_nat_is_seen_in_what_leaves(benches, side, version):
    bench = benches(side, version)
    verdict = bench.send("eth0", src=OUTSIDE[version], dst=HOST[version], tcp=8443, sport=5000)
    (out,) = verdict.out
    assert (out.interface, out.dst, out.dport, out.src, out.sport) == (
        "eth1",
        INSIDE[version],
        443,
        OUTSIDE[version],
        5000,
    )
    assert ["DNAT" in str(step) for step in verdict.nat] == [True]
    verdict = bench.send("eth1", src=INSIDE[version], dst=OUTSIDE[version], udp=53)
    (out,) = verdict.out
    ttl = packet_bytes.TTL - 1
    assert (out.interface, out.src, out.dst, out.header.ttl) == ("eth0", HOST[version], OUTSIDE[version], ttl)


@ALL
@FAMILIES
def test_packets_to_the_host_itself(benches, side, version):
    bench = benches(side, version)
    for dst in (packet_bytes.LOOPBACK[version], HOST[version]):
        for _ in range(20):
            verdict = bench.send(None, src=dst, dst=dst, tcp=80)
            assert (verdict.verdict, verdict.to, verdict.step.number) == ("ACCEPT", "host", 1)
            hooks = [step.hook for step in verdict.path]
            assert hooks.index("OUTPUT") < hooks.index("INPUT")


@ALL
@FAMILIES
def test_packets_that_no_rule_drops_and_that_do_not_arrive(benches, side, version):
    bench = benches(side, version)
    spent = bench.send("eth1", src=INSIDE[version], dst=OUTSIDE[version], tcp=80, ttl=1)
    assert (spent.verdict, spent.rule, spent.reason) == ("LOST", None, "its TTL was used up")
    if version == 4:
        own = bench.send("eth1", src="10.0.0.1", dst=OUTSIDE[4], tcp=80)
        assert own.verdict == "LOST" and "martian" in own.reason
        broken = bytearray(packet_bytes.packet(OUTSIDE[4], HOST[4], ident=7, tcp=80).data)
        broken[2] += 1
        assert bench.send("eth0", raw=bytes(broken)).verdict == "LOST"


@BOTH
def test_without_a_route(side):
    with Bench("*filter\nCOMMIT\n", {"eth0": "203.0.113.1/24"}, routes=[], backend=side) as bench:
        verdict = bench.send("eth0", src="203.0.113.9", dst="192.0.2.7", tcp=80)
        assert (verdict.verdict, verdict.reason) == ("LOST", "no route to 192.0.2.7")
        assert bench.send(None, src="203.0.113.1", dst="192.0.2.7", tcp=80).reason.startswith("no route to 192.0.2.7")


@BOTH
def test_marks_and_whole_packets(side):
    text = "*filter\n-A OUTPUT -m mark --mark 0x7 -j DROP\n-A INPUT -m ttl --ttl-eq 9 -j DROP\nCOMMIT\n"
    with Bench(text, {"eth0": "203.0.113.1/24"}, backend=side) as bench:
        assert bench.send(None, dst="203.0.113.9", udp=1, mark=7).verdict == "DROP"
        assert bench.send(None, dst="203.0.113.9", udp=1, mark=8).verdict == "ACCEPT"
        whole = packet_bytes.packet("203.0.113.9", "203.0.113.1", ident=1, udp=9, ttl=9).data
        assert bench.send("eth0", raw=whole).verdict == "DROP"
        assert bench.send("eth0", protocol="gre", payload=b"\0" * 8, ttl=9).verdict == "DROP"


def test_the_interfaces_that_the_rules_name_are_made_up():
    text = "*filter\n-A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n-A FORWARD -i wg+ -j DROP\nCOMMIT\n"
    with Bench(text, backend="nft") as bench:
        assert list(bench.layout.interfaces) == ["docker0"]
        assert bench.send("docker0", tcp=1).verdict == "ACCEPT"


def test_both_families_in_one_bench():
    value = iptc.Ruleset.read("*filter\n:INPUT DROP [0:0]\nCOMMIT\n", backend="nft") | iptc.Ruleset.read(
        "*filter\n-A INPUT -p icmpv6 -j REJECT\nCOMMIT\n", ipv6=True, backend="nft"
    )
    for bench in (Bench(value, INTERFACES), Bench(value.text(), INTERFACES, backend="nft")):
        with bench:
            assert bench.send("eth0", icmp=True).verdict == "DROP"
            assert bench.send("eth0", src=OUTSIDE[6], icmp=True).verdict == "REJECT"


def test_a_ruleset_that_the_kernel_refuses_names_the_line():
    with pytest.raises(iptc.IPTCError, match="line 2"):
        Bench("*filter\n-A INPUT -j NO_SUCH_CHAIN\nCOMMIT\n", backend="legacy").open()
    with pytest.raises(iptc.ParameterError, match="no name of an interface"):
        Bench("*filter\nCOMMIT\n", {"eth0": "203.0.113.1/24", "lo/1": None}, backend="nft").open()


# ------------------------------------------------------------ an ordinary user

ORDINARY = """
import json, os, sys
import iptc
with iptc.Bench(sys.argv[1], {"eth0": "203.0.113.1/24 2001:db8::1/64", "eth1": "10.0.0.1/24"}, backend=sys.argv[2]) as bench:
    print(os.geteuid() != 0, bench.send("eth0", tcp=22), bench.send("eth1", dst="192.0.2.1", tcp=1).out[0].src, sep="\\n")
"""


def as_ordinary_user(*words):
    """Run Python with *words* as a user without rights. Where this user is the only one, it gets another number and loses its
    rights in a namespace within this one."""
    if not no_other_users():
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", sys.executable]
    else:
        command = ["unshare", "--user", "--map-user=65534", "--map-group=65534", sys.executable]
    environment = {
        **os.environ,
        "PYTHONPATH": str(pathlib.Path(iptc.__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run([*command, *words], capture_output=True, text=True, env=environment, cwd="/")


@BOTH
def test_as_an_ordinary_user(side):
    done = as_ordinary_user("-c", ORDINARY, rules(4), side)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True", "DROP: filter INPUT policy DROP", "203.0.113.1"]


def test_the_agent_opens_sockets_and_files_where_it_lives_and_ends_with_its_namespace():
    here = _netns.namespace_cookie()
    there = _netns.new_namespace_of_agent()
    assert there.cookie() not in (here, 0) and _netns.is_agent(there.fileno())
    descriptor = there.open_file(b"/proc/sys/net/ipv4/ip_forward", os.O_RDWR)
    os.write(descriptor, b"1")
    os.close(descriptor)
    assert there.read_file(b"/proc/sys/net/ipv4/ip_forward") == b"1\n"
    with pytest.raises(FileNotFoundError):
        there.open_file(b"/no/such/file", os.O_RDONLY)
    with pytest.raises(OSError, match="File name too long"):
        there.open_file(b"/" * 10000, os.O_RDONLY)
    number = there.fileno()
    there.close()
    there.close()
    assert not _netns.is_agent(number)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, 0x40000000 | os.WNOHANG)
    with pytest.raises(iptc.KernelError):
        there.open_file(b"/proc/self/stat", os.O_RDONLY)


# ---------------------------------------------------------------- connections

STATES = """\
*nat
-A POSTROUTING -o eth0 -j MASQUERADE
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT DROP [0:0]
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -m connlimit --connlimit-above 2 -j REJECT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -p udp -m recent --name asked --set -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -i eth1 -j ACCEPT
-A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A OUTPUT -p tcp -m tcp --dport 80 -j ACCEPT
COMMIT
"""


@ALL
@FAMILIES
def test_both_sides_of_a_connection(side, version):
    name, _, rest = side.partition(" ")
    with Bench(STATES, INTERFACES, backend=name, ipv6=version == 6, tun=not rest) as bench:
        for interface, words in (
            ("eth0", {"src": OUTSIDE[version], "dst": HOST[version], "tcp": 22}),
            ("eth1", {"src": INSIDE[version], "dst": OUTSIDE[version], "tcp": 443}),
            (None, {"src": HOST[version], "dst": OUTSIDE[version], "tcp": 80}),
            ("eth0", {"src": OUTSIDE[version], "dst": HOST[version], "udp": 53}),
            ("eth1", {"src": INSIDE[version], "dst": OUTSIDE[version], "icmp": True}),
        ):
            flow = bench.flow(interface, **words)
            assert flow.answer(b"well?").verdict == "ACCEPT" and flow.is_open, flow.verdict
            assert "ESTABLISHED" in str(flow.send(b"well!").step)
            if interface == "eth1":
                assert flow.verdict.out[0].src == HOST[version]
                assert "ESTABLISHED" in str(flow.related().step) and flow.verdict.out[0].dst == INSIDE[version]
            flow.close()
        # an answer without a request
        assert bench.send("eth0", src=OUTSIDE[version], dst=HOST[version], tcp=9, flags="SYN,ACK").verdict == "DROP"
        refused = bench.flow("eth0", src=OUTSIDE[version], dst=HOST[version], tcp=23)
        assert refused.verdict.verdict == "DROP" and not refused.is_open
        with pytest.raises(iptc.TransactionError):
            refused.answer()
        # connlimit really counts connections, and counts each host by itself
        near = {4: "198.51.100.77", 6: "2001:db8:9::77"}[version]
        words = {"src": near, "dst": HOST[version], "tcp": 22}
        assert [bench.flow("eth0", **words).verdicts[0].verdict for _ in range(3)] == ["ACCEPT", "ACCEPT", "REJECT"]
        # the host sends packets by itself again
        assert "RST" in bench.send("eth0", src=OUTSIDE[version], dst=HOST[version], tcp=22).answers[0].before.flags


def test_flags_are_no_truth_values():
    with pytest.raises(iptc.ParameterTypeError, match="not bool"):
        packet_bytes.flags_of(True)
    assert [packet_bytes.flags_of(said) for said in (None, "SYN", ["syn"], 2)] == [2, 2, 2, 2]
