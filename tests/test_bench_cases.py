"""Rulesets tested by cases in a file, and by the pytest plugin."""

import os
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as xml

import pytest

import iptc
from iptc.bench import cases, packet_bytes
from iptc.bench.coverage import Coverage
from iptc.bench.firewall import Firewall
from iptc.cli import main

ROOT = pathlib.Path(iptc.__file__).parents[1]

RULES = """\
*nat
-A PREROUTING -i eth0 -p tcp -m tcp --dport 8443 -j DNAT --to-destination 10.0.0.5:443
-A POSTROUTING -o eth0 -j MASQUERADE
COMMIT
*filter
:INPUT DROP [0:0]
-A INPUT -i eth1 -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -s 198.51.100.7/32 -j DROP
-A INPUT -p udp -j REJECT
COMMIT
"""
INTERFACES = {"eth0": "203.0.113.1/24", "eth1": "10.0.0.1/24"}

CASES = """\
interfaces = { eth0 = "203.0.113.1/24", eth1 = "10.0.0.1/24" }

[[case]]
name = "ssh from inside"
in = "eth1"
tcp = 22
expect = "ACCEPT"
rule = "filter INPUT rule 1"

[[case]]
name = "the web server"
in = "eth0"
tcp = 8443
expect = "accept"
to = "10.0.0.5:443"
out = "eth1"

[[case]]
name = "masqueraded <& all>"
in = "eth1"
dst = "192.0.2.1"
icmp = "echo-request"
expect = "ACCEPT"
source = "203.0.113.1"
"""
WRONG = """
[[case]]
name = "no DNS"
in = "eth0"
udp = 53
expect = "DROP"
"""


@pytest.fixture(params=["legacy", "nft"])
def files(request, tmp_path):
    """Return the paths of the rules and of the cases, and the arguments that select the back end."""
    (tmp_path / "rules.v4").write_text(RULES)
    (tmp_path / "cases.toml").write_text(CASES)
    return str(tmp_path / "rules.v4"), tmp_path / "cases.toml", ["--backend", request.param]


@pytest.fixture(autouse=True)
def _no_backend(monkeypatch):
    """`--backend` sets IPTC_BACKEND for the process."""
    monkeypatch.setenv("IPTC_BACKEND", "nft")


def test_cases_that_pass(files, capsys):
    rules, path, words = files
    assert main(["test", rules, str(path), *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 of 3 cases are as expected"


def test_tap_junit_and_coverage(files, capsys, tmp_path):
    rules, path, words = files
    path.write_text(CASES + WRONG)
    junit = tmp_path / "out.xml"
    assert main(["test", rules, str(path), *words, "--format", "tap", "--junit", str(junit), "--coverage", "80"]) == 1
    shown = capsys.readouterr().out
    assert re.findall(r"^(?:not )?ok \d - .*", shown, re.MULTILINE) == [
        "ok 1 - ssh from inside",
        "ok 2 - the web server",
        "ok 3 - masqueraded <& all>",
        "not ok 4 - no DNS",
    ]
    assert shown.startswith("TAP version 13\n1..4\n")
    assert "  got: REJECT\n  wanted: DROP\n" in shown
    assert "#   filter INPUT rule 2: -s 198.51.100.7/32 -j DROP\n" in shown and "# all" in shown
    suite = xml.fromstring(junit.read_text()).find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("4", "1")
    assert [case.get("name") for case in suite][2] == "masqueraded <& all>"
    assert "filter INPUT rule 3: -p udp -j REJECT" in suite[3].find("failure").text


def test_too_low_coverage_fails(files, capsys):
    rules, path, words = files
    assert main(["test", rules, str(path), *words, "--coverage", "90"]) == 1
    assert "60.0% of the rules were hit; 90% were asked for" in capsys.readouterr().out
    assert main(["test", rules, str(path), *words, "--coverage", "60"]) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[case]]\ntcp = 1\n", "does not say what to expect"),
        ("[[case]]\nexpect = 'x'\ntcp = 1\n", "no verdict: 'x'"),
        ("[[case]]\nexpect = 'DROP'\ntpc = 1\n", "there is no tpc"),
        ("[[case]]\nexpect = 'DROP'\nin = 'eth7'\ntcp = 1\n", "no interface eth7"),
        ("[[case]]\nexpect = 'DROP'\nin = 'eth0'\n", "a packet needs one of"),
        ("[case]\n", "cases are written as"),
        ("tables = 1\n", "there is no tables"),
        ("case = [\n", "cases.toml"),
    ],
)
def test_cases_that_say_nothing_right(files, capsys, text, said):
    rules, path, words = files
    path.write_text(text)
    assert main(["test", rules, str(path), *words]) == 2
    assert said in capsys.readouterr().err


def test_trouble_is_status_2(files, capsys, tmp_path):
    rules, path, words = files
    assert main(["test", str(tmp_path / "none"), str(path), *words]) == 2
    pathlib.Path(rules).write_text("*filter\n-A INPUT -j NOTHING\nCOMMIT\n")
    assert main(["test", rules, str(path), *words]) == 2
    assert "line 2" in capsys.readouterr().err


def test_questions_and_answers():
    firewall = Firewall(interfaces=INTERFACES, backend="nft")
    firewall.load(RULES)
    assert firewall.accepts("eth1", tcp=22)
    assert firewall.rejects("eth0", udp=1, reject="icmp-port-unreachable")
    assert firewall.nats("eth1", dst="192.0.2.1", tcp=1, source="203.0.113.1", out="eth0")
    assert firewall.loses("eth1", dst="192.0.2.1", tcp=1, ttl=1)
    answer = firewall.drops("eth1", tcp=22, rule="policy")
    assert not answer and len(answer.wrong) == 2 and firewall.failed == [answer]
    assert repr(answer).startswith("<DROP was expected, and it is ACCEPT: filter INPUT rule 1")
    assert not firewall.nats("eth0", tcp=22)
    firewall.load(RULES)
    assert firewall.drops("eth0", src="198.51.100.7", tcp=22)
    firewall.close()
    assert firewall.coverage.percent == 80 and firewall.coverage.missed == [
        "nat PREROUTING rule 1: -i eth0 -p tcp -m tcp --dport 8443 -j DNAT --to-destination 10.0.0.5:443"
    ]


def test_coverage_of_many_rules_is_a_short_table():
    coverage = Coverage()
    for number in range(1, 101):
        coverage.note(("", "ipv6", "filter", "INPUT", number), "-j ACCEPT", number % 10)
    assert coverage.table().splitlines()[1].split()[-10:][-2:] == ["90,", "100"]
    other = Coverage()
    other.merge(coverage.rows())
    assert other.rows() == coverage.rows() and other.percent == 90


TESTS = """
def test_one(firewall):
    firewall.load()
    assert firewall.accepts("eth1", tcp=22)

def test_two(firewall):
    firewall.load()
    assert firewall.drops("eth1", tcp=22)
"""


@pytest.mark.parametrize(
    "words, said",
    [
        ({"tcp": "nosuch"}, "no service: 'nosuch'"),
        ({"tcp": 65536}, "a port must be from 0 to 65535, not 65536"),
        ({"udp": []}, "a port must be a number"),
        ({"tcp": 22, "flags": "SYN,NO"}, "no flag of TCP: 'NO'"),
        ({"tcp": 22, "flags": ["SYN", 2]}, "no flag of TCP: 2"),
        ({"tcp": 22, "flags": 1.5}, "flags must be"),
        ({"tcp": 22, "flags": True}, "flags must be"),
        ({"udp": 22, "flags": "SYN"}, "only packets of TCP have flags"),
        ({"icmp": "nosuch"}, "no type of ICMP: 'nosuch'"),
        ({"icmp": 256}, "a type of ICMP must be from 0 to 255, not 256"),
        ({"icmp": (3, 256)}, "a code of ICMP must be from 0 to 255"),
        ({"icmp": (3,)}, "no type of ICMP"),
        ({"icmp": True, "sport": 5}, "only packets of TCP and UDP come from a port"),
        ({"protocol": "nosuch"}, "no protocol: 'nosuch'"),
        ({"protocol": 256}, "a protocol must be from 0 to 255"),
        ({"tcp": 22, "ttl": 256}, "a TTL must be from 0 to 255"),
        ({"tcp": 22, "tos": -1}, "a TOS must be from 0 to 255"),
        ({"tcp": 22, "udp": 22}, "a packet needs one of"),
        ({"raw": b"\x45"}, "a whole packet"),
        ({"raw": b""}, "a whole packet"),
    ],
)
def test_an_impossible_packet_is_refused(words, said):
    with pytest.raises(iptc.IPTCError, match=re.escape(said)):
        packet_bytes.packet("192.0.2.1", "192.0.2.2", ident=1, **words)


def test_each_way_to_name_what_a_packet_is():
    def packet(src="192.0.2.1", dst="192.0.2.2", **words):
        return packet_bytes.packet(src, dst, ident=7, **words)

    assert (
        packet(tcp="ssh", sport=1).data
        == packet(tcp=22, sport="1", flags="SYN").data
        == packet(tcp=22, sport=1, flags=2).data
    )
    assert packet(tcp=22, sport=1, flags="SYN ack").data == packet(tcp=22, sport=1, flags=["ack", "SYN"]).data
    pings = [True, "ping", 8, "8", "8/0", (8, 0), "echo-request"]
    assert len({packet(icmp=ping).data for ping in pings}) == 1
    six = {"src": "2001:db8::1", "dst": "2001:db8::2"}
    assert len({packet(icmp=ping, **six).data for ping in [True, "ping", 128, "128/0", (128, 0)]}) == 1
    assert packet(protocol="gre").data == packet(protocol=47).data == packet(protocol="47").data
    assert packet(udp=53, sport=1, payload="x").data == packet(udp=53, sport=1, payload=b"x").data
    # a whole packet gets another number, and what it says stays
    for whole in (packet(udp=53, sport=1), packet(udp=53, sport=1, **six)):
        again = packet_bytes.packet(None, None, ident=7, raw=whole.data)
        assert (again.data, again.src, again.dst, again.protocol) == (whole.data, whole.src, whole.dst, 17)
        other = packet_bytes.packet(None, None, ident=9, raw=whole.data)
        assert packet_bytes.ident_of(other.data) == 9 and other.data[20:] != b"" and other.version == whole.version
    with pytest.raises(iptc.ParameterError, match="not of one family"):
        packet(dst="2001:db8::2", tcp=1)


def test_the_pytest_plugin_passes_and_fails_tests(tmp_path):
    (tmp_path / "rules.v4").write_text(RULES)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\niptc_rules = rules.v4\niptc_backend = nft\niptc_interfaces =\n  eth0=203.0.113.1/24\n  eth1=10.0.0.1/24\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "iptc.bench.plugin", "-p", "no:cacheprovider", "-p", "no:xdist"]
    # if iptc is installed, pytest finds the plugin by itself, and would load it twice
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [*command, "--rule-coverage-min", "90"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "firewall.drops('eth1', tcp=22)\nDROP was expected, and it is ACCEPT: filter INPUT rule 1" in done.stdout
    assert "packet  tcp 10.0.0.9:4000" in done.stdout
    assert "FAIL: 20.0% of the rules were hit; 90% were asked for" in done.stdout


def test_the_plugin_costs_other_tests_next_to_nothing():
    code = "import sys, pytest; before = set(sys.modules); import iptc.bench.plugin; print(*set(sys.modules) - before)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert set(done.stdout.split()) == {"iptc", "iptc.bench", "iptc.bench.plugin"}
    assert 'iptc = "iptc.bench.plugin"' in (ROOT / "pyproject.toml").read_text()


def test_the_example_of_the_documentation_is_one():
    text = (ROOT / "docs" / "testing.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    import tomllib

    said = tomllib.loads(example)
    assert [cases.Case(number, case).expected for number, case in enumerate(said["case"])] == ["ACCEPT", "REJECT"]


def test_sets_in_a_file_of_cases(files, capsys):
    rules, path, words = files
    pathlib.Path(rules).write_text("*filter\n-A INPUT -m set --match-set bans src -j DROP\nCOMMIT\n")
    case = "[[case]]\nin = 'eth0'\nsrc = '192.0.2.7'\ntcp = 1\nexpect = 'DROP'\n"
    path.write_text(case + "[sets]\nbans = ['192.0.2.0/24']\n")
    assert main(["test", rules, str(path), *words]) == 0
    path.write_text(case + "[sets]\nbans = ['hash:ip', ['192.0.2.7']]\n")
    assert main(["test", rules, str(path), *words]) == 0
    path.write_text(case)
    assert main(["test", rules, str(path), *words]) == 2
    assert "sets= says" in capsys.readouterr().err
