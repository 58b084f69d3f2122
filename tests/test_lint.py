"""What `iptc lint` finds, and that the kernel bears it out."""

import json
import os
import random
import subprocess
import sys

import pytest
from conftest import PATIENCE

import iptc
from iptc.bench.lint import lint

STRESS = int(os.environ.get("IPTC_STRESS", "1"))

RULES = """*filter
:INPUT DROP
:FORWARD ACCEPT
:OUTPUT ACCEPT
:empty -
:lone -
:web -
-A INPUT -p tcp --dport 22 -j ACCEPT
-A INPUT -s 10.0.0.0/8 -p tcp --dport 22 -j DROP
-A INPUT -p tcp --dport 22 -j ACCEPT
-A INPUT -j empty
-A INPUT -p udp -m limit --limit 1/sec -j ACCEPT
-A INPUT -p udp --dport 53 -j ACCEPT
-A INPUT -i eth0 -p tcp -j web
-A FORWARD -i eth+ -j DROP
-A FORWARD -i eth0 -o eth1 -p udp -j ACCEPT
-A OUTPUT -d 192.0.2.0/24 -j REJECT
-A OUTPUT -d 192.0.2.7 -j ACCEPT
-A OUTPUT -p icmp -j LOG
-A OUTPUT -p icmp -j LOG
-A web -p tcp --dport 80:90 -j ACCEPT
-A web -p tcp --dport 85 -j DROP
-A web -p tcp --dport 100 -g empty
-A web -m mark --mark 1 -j ACCEPT
-A web -m mark --mark 1 -j DROP
COMMIT
"""


def found_in(text, backend):
    with iptc.Bench(text, backend=backend) as bench:
        return lint(iptc.Ruleset.read(text), bench)


def test_each_kind_of_finding_is_found(host):
    found = found_in(RULES, host.backend)
    assert [(one.kind, one.chain, one.number) for one in found] == [
        ("empty", "INPUT", 4),
        ("unreachable", "INPUT", 2),
        ("duplicate", "INPUT", 3),
        ("unreachable", "FORWARD", 2),
        ("unreachable", "OUTPUT", 2),
        ("duplicate", "OUTPUT", 4),
        ("unused", "lone", None),
        ("empty", "web", 3),
        ("unreachable", "web", 2),
        ("unreachable", "web", 5),
    ]
    sure = {(one.chain, one.number): one.sure for one in found}
    for key in (("INPUT", 2), ("INPUT", 3), ("FORWARD", 2), ("OUTPUT", 2), ("web", 2)):
        assert sure[key].startswith("shown: "), key
    assert sure["web", 5].startswith("it follows")


@pytest.mark.parametrize(
    "rules",
    [
        "-m limit --limit 1/sec -j ACCEPT|-j DROP",
        "-m statistic --mode random --probability 0.5 -j ACCEPT|-m statistic --mode random --probability 0.5 -j DROP",
        "-p tcp --dport 22 -j ACCEPT|-p tcp --dport 20:30 -j DROP",
        "! -s 10.0.0.0/8 -j ACCEPT|-s 10.0.0.0/8 -j DROP",
        "-i eth0 -j ACCEPT|-i eth+ -j DROP",
        "-j LOG|-j DROP",
        "-p udp ! --dport 53 -j ACCEPT|-p udp --dport 53 -j DROP",
        "-m mark --mark 1 -j ACCEPT|-j MARK --set-mark 1|-m mark --mark 1 -j ACCEPT",
        "-s 10.0.0.0/16 -j ACCEPT|-s 10.0.0.0/8 -j DROP",
        "-p tcp -m tcp --dport 1 -j ACCEPT|-p tcp -j DROP",
    ],
)
def test_what_is_reached_is_left_alone(host, rules):
    lines = "".join(f"-A PREROUTING {rule}\n" for rule in rules.split("|") if "REJECT" not in rule)
    text = f"*mangle\n:PREROUTING ACCEPT [0:0]\n{lines}COMMIT\n"
    assert [one.kind for one in found_in(text, host.backend) if one.kind != "unhit"] == []


def test_no_packet_reaches_what_is_called_unreachable(host):
    """Random rules, and random packets."""
    dice = random.Random(20261128)

    def rule():
        words = []
        if dice.random() < 0.4:
            words += ["-s", dice.choice(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "198.51.100.0/24"])]
        if dice.random() < 0.3:
            words += ["-i", dice.choice(["eth0", "eth1", "eth+"])]
        if dice.random() < 0.8:
            words += ["-p", protocol := dice.choice(["tcp", "udp"])]
            if dice.random() < 0.7:
                words += dice.choice([[], ["!"]] if dice.random() < 0.2 else [[]])
                words += ["--dport", dice.choice(["5", "1:9", "7:", ":6", "8"])]
            elif protocol == "tcp" and dice.random() < 0.5:
                words += ["--syn"]
        return " ".join([*words, "-j", dice.choice(["ACCEPT", "DROP", "RETURN", "REJECT", "one"])])

    claims = 0
    for _ in range(6 * STRESS):
        lines = [f"-A INPUT {rule()}" for _ in range(12)] + [
            f"-A one {rule().replace('-j one', '-j ACCEPT')}" for _ in range(6)
        ]
        text = "\n".join(["*filter", ":INPUT ACCEPT [0:0]", ":one - [0:0]", *lines, "COMMIT", ""])
        found = [one for one in found_in(text, host.backend) if one.kind in ("unreachable", "duplicate")]
        dead = {(one.chain, one.number) for one in found}
        claims += len(dead)
        with iptc.Bench(text, {"eth0": "203.0.113.1/24", "eth1": "10.9.0.1/24"}, backend=host.backend) as bench:
            for _ in range(40):
                kind = dice.choice(["tcp", "udp"])
                source = dice.choice(["10.2.2.2", "10.1.2.3", "10.1.9.9", "198.51.100.7", "192.0.2.1"])
                verdict = bench.send(
                    dice.choice(["eth0", "eth1"]),
                    src=source,
                    dst="203.0.113.1",
                    **{kind: dice.choice([3, 5, 6, 7, 8, 11])},
                )
                hit = {(step.chain, step.number) for step in verdict.path if step.kind == "rule"}
                assert not hit & dead, (text, verdict.path)
    assert claims


def test_counters_say_what_is_not_hit(host, tmp_path):
    host.run("ip", "link", "set", "lo", "up")
    for port in range(100, 160):
        host.iptables(f"-A INPUT -p udp --dport {port} -j ACCEPT")
    host.iptables("-A INPUT -p udp --dport 9 -j DROP")
    host.run(sys.executable, "-ISc", "import socket\nsocket.socket(2, 2).sendto(b'x', ('127.0.0.1', 9))")
    done = subprocess.run(
        [sys.executable, "-m", "iptc", "lint", "live", "--json"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["number"] for one in found if one["kind"] == "unhit"] == list(range(1, 61))
    assert [one["chain"] for one in found if one["kind"] == "costly"] == ["INPUT"]
    clean = tmp_path / "rules"
    clean.write_text("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -j DROP\nCOMMIT\n")
    done = subprocess.run([sys.executable, "-m", "iptc", "lint", clean], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    done = subprocess.run([sys.executable, "-m", "iptc", "lint", tmp_path / "none"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_sets_come_from_a_file(host, tmp_path):
    rules, sets = tmp_path / "rules", tmp_path / "sets"
    rules.write_text(
        "*filter\n:INPUT ACCEPT\n-A INPUT -m set --match-set bad src -j DROP\n-A INPUT -m set --match-set bad src -j DROP\nCOMMIT\n"
    )
    sets.write_text("create bad hash:ip family inet\nadd bad 192.0.2.1\n")
    words = [sys.executable, "-m", "iptc", "lint", rules]
    done = subprocess.run([*words, "--sets", sets], capture_output=True, text=True)
    assert (
        done.returncode == 1
        and "INPUT rule 2: -m set --match-set bad src -j DROP\n    duplicate: rule 1" in done.stdout
    )
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and "bad" in done.stderr
