"""The command `iptc`: what it prints, where, and how it ends."""

import json
import os
import subprocess
import sys

import pytest

import iptc


@pytest.fixture
def command(host):
    """Run `python -m iptc` in the test's namespace: (exit code, stdout, stderr)."""
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(iptc.__file__))}

    def run(*arguments):
        done = subprocess.run([sys.executable, "-m", "iptc", *arguments], env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    return run


def test_counters_as_a_table(host, command):
    host.iptables("-A", "INPUT", "-c", "12", "345", "-p", "tcp", "-m", "comment", "--comment", "a b", "-j", "DROP")
    code, out, err = command("counters")
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        "Chain INPUT (policy ACCEPT 0 packets, 0 bytes)",
        "    pkts    bytes rule",
        '      12      345 -p tcp -m comment --comment "a b" -j DROP',
    ]


def test_counters_as_json(host, command, ipv6):
    host.iptables("-A INPUT -c 12 345 -p tcp", ipv6=ipv6)
    code, out, _ = command("counters", "--format", "json", "--chain", "INPUT", *(["-6"] if ipv6 else []))
    (line,) = out.splitlines()
    said = json.loads(line)
    assert code == 0 and said["table"] == "filter" and said["ip_version"] == (6 if ipv6 else 4)
    assert [chain["name"] for chain in said["chains"]] == ["INPUT"]
    assert said["chains"][0]["rules"] == [{"packets": 12, "bytes": 345, "rule": "-p tcp", "target": "", "comment": None}]


def test_counters_again_and_again(host, command):
    host.iptables("-A INPUT -c 12 345 -p tcp")
    code, out, _ = command("counters", "--interval", "0.01", "--count", "3", "--format", "json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(lines) == 3
    assert "added_packets" not in lines[0]["chains"][0]["rules"][0]
    assert lines[2]["chains"][0]["rules"][0]["added_packets"] == 0


@pytest.mark.parametrize("arguments, code, text", [
    (["counters", "-t", "nope"], 1, "Table does not exist"),
    (["counters", "--chain", "nope"], 1, "no chain nope"),
    (["counters", "--netns", "nope"], 1, "network namespace nope"),
    (["counters", "--interval=-1"], 2, "not negative"),
    (["counters", "--count", "0"], 2, "at least 1"),
    (["nope"], 2, "invalid choice"),
    ([], 2, "COMMAND"),
])  # fmt: skip
def test_errors_go_to_stderr_and_the_exit_code(command, arguments, code, text):
    done = command(*arguments)
    assert done[0] == code and done[1] == "" and text in done[2]


def test_the_lock_is_not_obtained(command):
    with iptc.kernel.XTablesLock():
        code, out, err = command("counters", "-w", "0.05")
    assert (code, out) == (4, "") and "xtables lock" in err


def test_a_reader_that_goes_away_is_no_crash(host, command):
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(iptc.__file__))}
    script = f"{sys.executable} -m iptc counters --interval 0.001 --count 2000 | head -1"
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
