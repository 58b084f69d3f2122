"""`iptc why`: what happens to a packet on a host, tried in a copy of the host."""

import json
import os
import re
import socket
import subprocess

import pytest
from conftest import sysctl

import iptc
from iptc.bench.bench import Bench
from iptc.bench.like_host import living_bench
from iptc.cli import main

SETS = """\
create bans hash:net family inet hashsize 1024 maxelem 65536
add bans 198.51.100.0/24
add bans 198.51.100.128/25 nomatch
create web hash:ip,port
add web 203.0.113.1,tcp:80
add web 203.0.113.1,udp:53
create ports bitmap:port range 1-1000
add ports 22-25
create both list:set
add both bans
"""
SET_RULES = """\
*filter
:INPUT DROP [0:0]
-A INPUT -m set --match-set bans src -j REJECT
-A INPUT -m set --match-set web dst,dst -j ACCEPT
-A INPUT -p udp -m set --match-set ports dst -j ACCEPT
COMMIT
"""


@pytest.fixture(params=["legacy", "nft"])
def side(request, monkeypatch):
    """Both back ends, selected as for the command."""
    monkeypatch.setenv("IPTC_BACKEND", request.param)
    return request.param


def test_sets_that_are_told(side):
    with Bench(SET_RULES, {"eth0": "203.0.113.1/24"}, sets=SETS, backend=side) as bench:
        said = [
            bench.send("eth0", src="198.51.100.9", tcp=80).verdict,
            bench.send("eth0", src="198.51.100.200", tcp=80).verdict,
            bench.send("eth0", tcp=81).verdict,
            bench.send("eth0", udp=53).verdict,
            bench.send("eth0", udp=23).step.number,
        ]
        assert said == ["REJECT", "ACCEPT", "DROP", "ACCEPT", 3]
        assert "-m set --match-set bans src" in bench.ruleset().text()
    with pytest.raises(iptc.ParameterError, match="the bench has not: bans, web, ports; sets="):
        Bench(SET_RULES, {"eth0": "203.0.113.1/24"}, backend=side).open()
    sets = {"bans": ["198.51.100.9"], "web": ("hash:ip,port", []), "ports": ("bitmap:port range 0-9", [])}
    with Bench(SET_RULES, {"eth0": "203.0.113.1/24"}, sets=sets, backend=side) as bench:
        assert bench.send("eth0", src="198.51.100.9", tcp=80).verdict == "REJECT"


def layout(host):
    """A host with two interfaces, rules, sets and a flow."""
    for name, address in (("eth0", "203.0.113.1/24"), ("eth1", "10.0.0.1/24")):
        host.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"p{name}")
        host.run("ip", "addr", "add", address, "dev", name)
        for end in (name, f"p{name}"):
            host.run("ip", "link", "set", end, "up")
    host.run("ip", "route", "add", "default", "via", "203.0.113.254")
    sysctl("net.ipv4.ip_forward=1")


RULES = """\
*nat
-A POSTROUTING -o eth0 -j SNAT --to-source 203.0.113.1
COMMIT
*filter
:INPUT DROP [0:0]
-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A INPUT -i eth1 -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""


def asked(capsys, *words):
    """The lines that `iptc why` prints."""
    assert main(["why", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_live_rules_on_a_host_that_stays_as_it_is(host, backend, capsys):
    layout(host)
    host.restore(RULES)
    # else an error message is sent and counted three seconds later, since nobody has this address
    host.run("ip", "neighbour", "add", "203.0.113.9", "lladdr", "02:00:00:00:00:09", "dev", "eth0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("203.0.113.1", 5555))
        sender.sendto(b"?", ("203.0.113.9", 53))
    before = host.save(counters=True)
    assert asked(capsys, "-i", "eth0", "--dport", "22") == ["DROP: filter INPUT policy DROP"]
    assert asked(capsys, "-i", "eth1", "--dport", "22")[0].startswith("ACCEPT: filter INPUT rule 2: -i eth1 -p tcp")
    through = asked(capsys, "-i", "eth1", "-d", "192.0.2.7", "--dport", "80")
    assert through[1].startswith("nat POSTROUTING rule 1") and through[2].startswith("out eth0: tcp 203.0.113.1:")
    answer = ["-i", "eth0", "-p", "udp", "-s", "203.0.113.9", "--sport", "53", "--dport"]
    assert asked(capsys, *answer, "5555")[0].startswith("ACCEPT: filter INPUT rule 1")
    assert asked(capsys, *answer, "5556")[0].startswith("DROP")
    assert host.save(counters=True) == before
    sysctl("net.ipv4.ip_forward=0")
    assert asked(capsys, "-i", "eth1", "-d", "192.0.2.7", "--dport", "80")[0].startswith("LOST")


def listed(sets):
    """Return the lines of `ipset save`, without the numbers that the kernel chooses."""
    return sorted(re.sub(r" initval 0x\w+", "", line) for line in sets.splitlines())


def test_the_sets_of_the_host_are_in_its_copy(host, backend, capsys):
    layout(host)
    subprocess.run(["ipset", "restore"], input=SETS, text=True, check=True)
    host.restore(SET_RULES)
    for source, port, verdict in (
        ("198.51.100.9", "80", "REJECT (icmp-port-unreachable): filter INPUT rule 1"),
        ("198.51.100.200", "80", "ACCEPT: filter INPUT rule 2"),
        ("192.0.2.9", "81", "DROP: filter INPUT policy"),
    ):
        assert asked(capsys, "-i", "eth0", "-s", source, "--dport", port)[0].startswith(verdict)
    bench, notes = living_bench()
    with bench:
        assert (notes, bench.lacking) == ([], [])
        inside = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{bench.namespace.fileno()}", "ipset", "save"]
        # only the sets that rules name, and the sets that those refer to
        copied = subprocess.run(inside, capture_output=True, text=True, check=True).stdout
    assert listed(copied) == listed(subprocess.run(["ipset", "save"], capture_output=True, text=True).stdout)


def test_packets_of_other_protocols(side, capsys, tmp_path):
    path = tmp_path / "rules.v4"
    path.write_text(
        "*filter\n:INPUT DROP [0:0]\n-A INPUT -p icmp -m icmp --icmp-type 8 -j ACCEPT\n-A INPUT -p gre -j ACCEPT\n"
        "-A INPUT -p udp -m tos --tos 0x10/0xff -m ttl --ttl-eq 3 -j ACCEPT\nCOMMIT\n"
    )
    words = [str(path), "--interface", "eth0=203.0.113.1/24", "--backend", side, "-i", "eth0"]
    assert asked(capsys, *words, "-p", "icmp")[0].startswith("ACCEPT: filter INPUT rule 1")
    assert asked(capsys, *words, "-p", "icmp", "--icmp-type", "13")[0].startswith("DROP")
    assert asked(capsys, *words, "-p", "gre")[0].startswith("ACCEPT: filter INPUT rule 2")
    assert asked(capsys, *words, "-p", "50")[0].startswith("DROP")
    of_udp = ["-p", "udp", "--dport", "53", "--ttl", "3"]
    assert asked(capsys, *words, *of_udp, "--tos", "0x10")[0].startswith("ACCEPT: filter INPUT rule 3")
    assert asked(capsys, *words, *of_udp)[0].startswith("DROP")


def test_rules_of_a_file(side, capsys, tmp_path):
    path = tmp_path / "rules.v4"
    path.write_text(RULES)
    words = [str(path), "--interface", "eth0=203.0.113.1/24", "--interface", "eth1=10.0.0.1/24", "--backend", side]
    assert asked(capsys, "-i", "eth0", "--dport", "22", *words) == ["DROP: filter INPUT policy DROP"]
    (line,) = asked(capsys, "-i", "eth1", "-p", "udp", "-d", "192.0.2.7", "--dport", "53", "--json", *words)
    said = json.loads(line)
    assert (said["verdict"], said["to"], said["out"][0]["src"]) == ("ACCEPT", "eth0", "203.0.113.1")
    way = asked(capsys, "-i", "eth1", "-d", "192.0.2.7", "--dport", "53", "-v", *words)
    assert way[0].startswith("packet  tcp 10.0.0.9:") and "out eth0: tcp 203.0.113.1:" in way[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-p", "tcp"], "goes to a port: --dport"),
        (["-p", "icmp", "--dport", "1"], "has no ports"),
        (["--dport", "1", "-i", "eth7", "--interface", "eth0=203.0.113.1/24"], "no interface eth7"),
        (["--dport", "1", "-s", "nowhere"], "no address: 'nowhere'"),
        (["--dport", "1", "--route", "x"], "no route: 'x'"),
    ],
)
def test_trouble_is_status_2(side, capsys, tmp_path, words, said):
    path = tmp_path / "rules.v4"
    path.write_text(RULES)
    assert main(["why", str(path), *words, "--backend", side]) == 2
    assert said in capsys.readouterr().err
