"""The commands diff, plan and apply: their output, their exit statuses, and that diff and plan change nothing."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import running
from test_managing import EMPTY, filter_table, ports

import iptc
from iptc.cli import main

ROOT = os.path.dirname(os.path.dirname(iptc.__file__))


@pytest.fixture
def command(host, capfd):
    """Run `iptc` in the test's namespace: (exit status, stdout, stderr)."""

    def run(*arguments):
        capfd.readouterr()
        status = main(list(arguments))
        return (status, *capfd.readouterr())

    return run


@pytest.fixture
def file(tmp_path):
    """Write a text to a file, and return its path."""

    def write(text, name="rules"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_diff(host, command, file):
    host.restore(filter_table(*ports(1, 2)))
    one, other = file(filter_table(*ports(1, 2)), "one"), file(filter_table(*ports(1, 3)), "other")
    assert command("diff", "live", one) == command("diff", one, one) == command("diff", "live", "live") == (0, "", "")
    status, out, err = command("diff", one, other, "-U", "0")
    assert (status, err) == (1, "")
    assert (
        out
        == f"""\
--- {one}
+++ {other}
@@ -2,1 +2,1 @@ IPv4 filter INPUT
--A INPUT -p tcp -m tcp --dport 2 -j ACCEPT
+-A INPUT -p tcp -m tcp --dport 3 -j ACCEPT
"""
    )
    assert command("diff", "live", other, "-q") == (1, "", "")
    status, out, _ = command("diff", other, "live", "--format", "json")
    told = json.loads(out)
    assert status == 1 and told["schema"] == 1 and not told["same"] and told["chains"][0]["changed"][0]["number"] == 2
    status, out, _ = command("diff", "live", other, "--color", "always")
    assert "\x1b[32m+-A INPUT" in out and "\x1b[31m--A INPUT" in out


def test_diff_of_a_file_and_live_looks_at_the_tables_of_the_file(host, command, file):
    host.iptables("-t raw -A PREROUTING -j ACCEPT")
    host.iptables("-A INPUT -j ACCEPT", ipv6=True)
    assert command("diff", "live", file(EMPTY)) == command("diff", file(EMPTY), "live") == (0, "", "")
    assert command("diff", "-6", "live", file(EMPTY))[0] == 1


def test_diff_with_another_namespace(host, command, file):
    host.restore(filter_table(*ports(1)))
    with running("unshare", "-n", "sh", "-c", "echo; exec sleep 600") as process:
        status, out, _ = command("diff", "live", f"live:{process.pid}")
        assert status == 1 and "--A INPUT -p tcp -m tcp --dport 1 -j ACCEPT\n" in out
        assert command("diff", f"live:{process.pid}", file(EMPTY))[0] == 0


def test_plan_and_apply(host, command, file):
    host.restore(filter_table(*ports(1, 2)))
    path = file(filter_table(*ports(1, 3)))
    told = command("plan", path)
    assert told[0] == 1 and "+-A INPUT -p tcp -m tcp --dport 3" in told[1]
    assert command("apply", path, "--check") == told
    assert host.rules() == ports(1, 2)
    assert command("apply", path) == (0, "1 rule changed\n", "")
    assert host.rules() == ports(1, 3)
    assert command("plan", path) == command("apply", "--check", path) == (0, "", "")
    assert command("apply", path) == (0, "nothing to do\n", "")
    assert json.loads(command("plan", path, "--format", "json")[1]) == {
        "schema": 1,
        "same": True,
        "chains": [],
        "kept": [],
    }


def test_saved_once_it_is_applied(host, command, file, tmp_path):
    host.iptables("-t mangle -A PREROUTING -j ACCEPT")
    saved = tmp_path / "saved"
    assert command("apply", file(filter_table(*ports(1))), "--save", str(saved))[0] == 0
    assert iptc.Ruleset.read(saved) == iptc.Ruleset.live(False) and "*mangle\n" in saved.read_text()
    assert command("apply", file(filter_table(*ports(1))), "--save", "/nonexistent/file")[0] == 1


def test_families(host, command, file):
    both = file("# IPv4\n" + filter_table(*ports(4)) + "# IPv6\n" + filter_table(*ports(6)), "both")
    assert command("apply", both, "-6")[0] == 0 and host.rules() == [] and host.rules(ipv6=True) == ports(6)
    assert command("apply", both)[0] == 0 and host.rules() == ports(4)
    one = file(EMPTY, "one")
    assert command("apply", "-6", one)[0] == 0 and host.rules() == ports(4) and host.rules(ipv6=True) == []
    status, _, err = command("plan", "-a", one)
    assert status == 2 and "# IPv4" in err
    assert command("diff", "-a", one, one)[0] == 2 and command("apply", "-a", one)[0] == 2


def test_scope(host, command, file):
    host.restore(filter_table(*ports(1), "-A DOCKER -j DROP", chains=["DOCKER", "other"]))
    path = file(filter_table(*ports(2)))
    assert command("apply", path, "--only", "filter:INPUT") == (0, "1 rule changed\n", "")
    assert command("apply", path, "--keep", "DOCKER*") == (0, "1 chain removed\n", "")
    assert host.rules() == [*ports(2), "-A DOCKER -j DROP"]


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["diff", "/nonexistent", "live"], "/nonexistent"),
        (["plan", "/nonexistent"], "/nonexistent"),
        (["apply", "--check", "/nonexistent"], "/nonexistent"),
        (["diff", "-", "-"], "standard input"),
        (["plan", "{bad}"], "line 6"),
        (["diff", "{bad}", "live"], "line 6"),
        (["plan", "{lost}"], "no chain nosuch"),
        (["diff", "live:/nonexistent", "live"], "/nonexistent"),
        (["plan", "{bad}", "--only", "nosuch"], "nosuch"),
    ],
)
def test_trouble_is_2(host, command, file, arguments, text):
    paths = {
        "bad": file(filter_table("-A INPUT", "-A INPUT --nosuch"), "bad"),
        "lost": file(filter_table("-A INPUT -j nosuch"), "lost"),
    }
    status, out, err = command(*(argument.format(**paths) for argument in arguments))
    assert (status, out) == (2, "") and text in err and err.count("\n") == 1


def test_trouble_of_apply_is_as_of_restore(host, command, file):
    assert command("apply", file(filter_table("-A INPUT --nosuch")))[0] == 2
    assert command("apply", "/nonexistent")[0] == 1
    loop = filter_table("-A INPUT -j a", "-A a -j b", "-A b -j a", chains=["a", "b"])
    assert command("apply", file(loop))[0] == command("restore", file(loop))[0] and host.rules() == []


def test_a_terminal_obeys_nothing_in_a_rule(host, command, file):
    path = file(filter_table('-A INPUT -m comment --comment "a\x1b[31mb" -j DROP'))
    assert "a\\x1b[31mb" in command("plan", path, "--color", "always")[1]
    assert "a\x1b[31mb" in command("plan", path)[1]


def traced(path, *arguments):
    """Run `iptc` with *arguments* under strace. Return (the system calls that could change something, exit status)."""
    command = [
        "strace",
        "-f",
        "-o",
        path,
        "-e",
        "trace=setsockopt,sendto,sendmsg,write",
        "-e",
        "abbrev=none",
        "-xx",
        "-s",
        "64",
        sys.executable,
        "-m",
        "iptc",
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ROOT})
    with open(path) as file:
        return [line for line in file.read().splitlines() if is_write(line)], done.returncode


def is_write(line):
    """Whether a line of strace is a call that changes rules: a replacement of a legacy table, a batch of nf_tables."""
    if re.search(r"setsockopt\(\d+, (SOL_IP|SOL_IPV6|0x0|0x29), ", line):
        # IPT_SO_SET_REPLACE, IPT_SO_SET_ADD_COUNTERS
        return bool(re.search(r"SO_SET_REPLACE|SO_SET_ADD_COUNTERS|, (0x40|0x41|64|65),", line))
    # the kernel accepts changes only in a batch, which begins with NFNL_MSG_BATCH_BEGIN
    return bool(
        re.search(r'send(to|msg)\(.*(NFNL_MSG_BATCH|NFT_MSG_(NEW|DEL))|sendmsg\(.*iov_base="(\\x..){4}\\x10\\x00', line)
    )


def test_only_looking_makes_no_write_call(host, file, tmp_path):
    host.restore(filter_table(*ports(1, 2)))
    before = host.save(counters=True), host.run("nft", "list", "ruleset")
    names = host.run("sh", "-c", "cat /proc/net/ip*_tables_names")
    path, trace = (
        file("# IPv4\n" + filter_table(*ports(1, 3)) + "*nat\nCOMMIT\n# IPv6\n" + filter_table(*ports(5))),
        str(tmp_path / "trace"),
    )
    for arguments in (["diff", "live", path], ["plan", path], ["apply", path, "--check"]):
        assert traced(trace, *arguments) == ([], 1)
    assert (host.save(counters=True), host.run("nft", "list", "ruleset")) == before
    assert host.run("sh", "-c", "cat /proc/net/ip*_tables_names") == names
    # the trial sees those that there are
    writes, status = traced(trace, "apply", path)
    assert status == 0 and writes
    assert host.rules() == ports(1, 3)
