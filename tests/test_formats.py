"""`iptc counters` for programs: its formats, several tables and namespaces, and telegraf's ways of asking."""

import csv
import io
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from conftest import PATIENCE
from prometheus_client.parser import text_string_to_metric_families as read_text

import iptc

ROOT = pathlib.Path(iptc.__file__).parent.parent
COUNTERS = [sys.executable, "-m", "iptc", "counters"]

RULES = """*filter
:INPUT DROP [1:2]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [3:4]
:web - [0:0]
[5:500] -A INPUT -p tcp -m comment --comment "to the, web=\\"1\\"" -j web
[7:700] -A web -p udp
[8:800] -A web -p udp
COMMIT
*nat
:OUTPUT ACCEPT [0:0]
[9:900] -A OUTPUT -p tcp -j ACCEPT
COMMIT
"""


@pytest.fixture
def command(host):
    """Run `iptc counters`, which must succeed. Return its output."""

    def run(*arguments, status=0, text=None):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([*COUNTERS, *arguments], env=environment, capture_output=True, text=True, input=text)
        assert done.returncode == status, done.stderr
        return done.stdout

    return run


def test_line_formats_have_one_line_for_each_rule(host, command, ipv6):
    iptc.restore(RULES, ipv6, counters=True)
    family = ["-6"] if ipv6 else []
    said = [json.loads(line) for line in command(*family, "--format", "jsonl", "--all-tables").splitlines()]
    assert {one.pop("schema") for one in said} == {1} and {one.pop("ip_version") for one in said} == {6 if ipv6 else 4}
    assert all(one.pop("time") > 1e9 for one in said)
    names = ["table", "chain", "position", "rule", "comment", "target", "packets", "bytes"]
    comment = 'to the, web="1"'
    wanted = [
        ("filter", "INPUT", 1, '-p tcp -m comment --comment "to the, web=\\"1\\"" -j web', comment, "web", 5, 500),
        ("filter", "web", 1, "-p udp", None, "", 7, 700),
        ("filter", "web", 2, "-p udp", None, "", 8, 800),
        ("nat", "OUTPUT", 1, "-p tcp -j ACCEPT", None, "ACCEPT", 9, 900),
    ]
    assert sorted(said, key=lambda one: (one["table"], one["chain"], one["position"])) == [
        dict(zip(names, row)) for row in wanted
    ]
    rows = list(csv.DictReader(io.StringIO(command(*family, "--format", "csv", "-t", "filter", "-t", "nat"))))
    assert [[row[name] for name in names] for row in rows] == [
        ["" if cell is None else str(cell) for cell in row] for row in wanted
    ]
    assert {row["added_packets"] for row in rows} == {""}
    lines = command(*family, "--format", "influx", "-t", "filter").splitlines()
    version = 6 if ipv6 else 4
    assert [line.rpartition(" ")[0] for line in lines] == [
        f'iptables,ip_version={version},table=filter,chain=INPUT,ruleid=to\\ the\\,\\ web\\="1",target=web'
        " pkts=5i,bytes=500i",
        f"iptables,ip_version={version},table=filter,chain=web,rule=-p\\ udp pkts=7i,bytes=700i",
        f"iptables,ip_version={version},table=filter,chain=web,rule=-p\\ udp,duplicate=2 pkts=8i,bytes=800i",
    ]
    assert all(len(line.rpartition(" ")[2]) == 19 for line in lines)


def test_what_is_awkward_in_line_protocol(host, command):
    chain = iptc.Chain(iptc.Table("filter"), "INPUT")
    for comment in "ends in \\\\", "two\nlines\tand\rmore", "\udcff", "\\":
        rule = iptc.Rule()
        rule.create_match("comment").comment = comment
        rule.create_target("ACCEPT")
        chain.append_rule(rule)
    ids = [
        line.partition(",ruleid=")[2].partition(",target=")[0] for line in command("--format", "influx").splitlines()
    ]
    assert ids == ["ends\\ in\\ ", "two\\nlines\\tand\\rmore", "\\xff", ""]


def test_again_with_what_was_added(host, command):
    iptc.restore(RULES, counters=True)
    again = ["--interval", "0", "--count", "2"]
    rows = list(csv.DictReader(io.StringIO(command("--format", "csv", *again))))
    assert [row["added_packets"] for row in rows] == ["", "", "", "0", "0", "0"]
    said = [json.loads(line) for line in command("--format", "jsonl", *again).splitlines()]
    assert [one.get("added_bytes") for one in said] == [None, None, None, 0, 0, 0]


def test_both_families_and_what_is_chosen(host, command):
    for ipv6 in False, True:
        iptc.restore(RULES, ipv6, counters=True)
    said = [json.loads(line) for line in command("-a", "--format", "jsonl", "--rule", "udp").splitlines()]
    assert [(one["ip_version"], one["packets"]) for one in said] == [(4, 7), (4, 8), (6, 7), (6, 8)]
    text = command("-a", "--chain", "w*", "--comment", "*")
    assert "Table filter of IPv4\n" in text and "Table filter of IPv6\n" in text and "udp" not in text
    metrics = {family.name for family in read_text(command("-a", "--format", "prometheus"))}
    assert {"iptables_rule_packets", "iptables_scrape_success"} <= metrics


def test_json_is_one_object_a_table(host, command):
    iptc.restore(RULES, counters=True)
    said = [json.loads(line) for line in command("--format", "json", "-t", "filter", "-t", "nat").splitlines()]
    assert [one["table"] for one in said] == ["filter", "nat"]
    assert {frozenset(one) for one in said} == {
        frozenset({"table", "ip_version", "time", "source", "generation", "chains"})
    }


def test_a_namespace_that_is_not_there_among_others(host, command):
    name = f"iptc{os.getpid()}"
    host.run("ip", "netns", "add", name)
    try:
        host.run("ip", "netns", "exec", name, host.tool(), "-A", "INPUT", "-p", "tcp")
        said = command("--format", "jsonl", "--netns", name, "--netns", "nope", status=1).splitlines()
        assert [(json.loads(line)["netns"], json.loads(line)["rule"]) for line in said] == [(name, "-p tcp")]
    finally:
        host.run("ip", "netns", "delete", name)


# ----------------------------------------------------------- telegraf's execd


@pytest.mark.one_backend("legacy")
def test_asked_by_lines(host, command):
    host.iptables("-A INPUT -p tcp")
    assert len(command("--format", "influx", "--signal", "STDIN", text="\n\n\n").splitlines()) == 3


@pytest.mark.one_backend("legacy")
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_asked_by_signals(host, name):
    host.iptables("-A INPUT -p tcp")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # blocked from the beginning, so that no signal is too early, however long the command takes to load
    number = signal.Signals[name]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        command = [*COUNTERS, "--format", "influx", "--signal", name]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with process:
        try:
            for _ in range(3):
                process.send_signal(number)
                assert process.stdout.readline().startswith(
                    "iptables,ip_version=4,table=filter,chain=INPUT,rule=-p\\ tcp "
                )
            process.terminate()
            assert process.wait(PATIENCE) == 128 + signal.SIGTERM and process.stdout.read() == ""
        finally:
            process.kill()
