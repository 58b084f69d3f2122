"""Counters that are read by eBPF equal those that are read by the socket, whatever happens to the rules."""

import ctypes
import gc
import json
import os
import pickle
import re
import subprocess
import sys

import pytest
from test_structure import ROOT
from untried import EXPECTED, no_ebpf, untried

import iptc
from iptc.bpf import nft
from iptc.cli import main

REFUSED = no_ebpf()
SOURCE = "auto" if REFUSED else "bpf"
IN_USE = "socket" if REFUSED else "bpf"


def same(reader, other):
    """Read with both, and compare all that they say. Nothing may be counted meanwhile."""
    one, two = reader.read(), other.read()
    assert list(one) == list(two)
    assert one.generation == two.generation
    assert [(c.name, c.policy, c.policy_counters, c.slots) for c in one.chains] == [
        (c.name, c.policy, c.policy_counters, c.slots) for c in two.chains
    ]
    return one


@pytest.fixture
def readers(host, ipv6):
    """A function that opens a reader by eBPF, and one by the socket."""
    untried(REFUSED)
    opened = []

    def open_both(table="filter", **how):
        opened.append(iptc.CounterReader(table, ipv6, source=SOURCE, **how))
        opened.append(iptc.CounterReader(table, ipv6, **how))
        return opened[-2:]

    yield open_both
    for reader in opened:
        reader.close()


def restored(host, ipv6, *lines, table="filter"):
    """Give *lines* to iptables-restore."""
    host.restore("\n".join([f"*{table}", *lines, "COMMIT", ""]), ipv6=ipv6)


def test_the_reason_of_a_refusal_is_raised():
    if REFUSED:
        assert re.search(EXPECTED, REFUSED)
        with pytest.raises(iptc.Unsupported, match=EXPECTED):
            iptc.CounterReader(source="bpf")
        with iptc.CounterReader(source="auto") as reader:
            assert reader.source == "socket" and re.search(EXPECTED, reader.source_reason)
    with pytest.raises(iptc.ParameterError, match="there is no source 'xdp'"):
        iptc.CounterReader(source="xdp")


@pytest.mark.parametrize("source", [None, b"bpf", 1, True, ["bpf"], object])
def test_a_source_that_is_no_string_is_refused(source):
    with pytest.raises(iptc.ParameterTypeError, match="a source must be a string, not "):
        iptc.CounterReader(source=source)
    with pytest.raises(iptc.ParameterTypeError, match="a source must be a string, not "):
        iptc.Sampler(source=source)


@pytest.mark.parametrize("source", ["socket", "bpf", "auto"])
@pytest.mark.parametrize(
    ("seconds", "raised"),
    [(text, iptc.ParameterTypeError) for text in ("60", b"5", None, True, [], 1j)]
    + [(number, iptc.ParameterError) for number in (-1, -0.5, float("nan"), float("-inf"), -(10**400))],
)
def test_a_time_between_comparisons_that_is_none_is_refused(source, seconds, raised):
    with pytest.raises(raised, match="source_check must be seconds"):
        iptc.CounterReader(source=source, source_check=seconds)


@pytest.mark.parametrize("seconds", [0, 1e-300, 1e308, float("inf"), 10**400])
def test_any_time_between_comparisons_will_do(host, ipv6, seconds):
    restored(host, ipv6, "-A OUTPUT -p udp")
    with iptc.CounterReader(ipv6=ipv6, source="auto", source_check=seconds) as reader:
        for _ in range(3):
            assert len(reader.read()) == 1 and reader.source == IN_USE


def test_the_numbers_are_those_of_the_socket(host, readers, ipv6, traffic):
    restored(host, ipv6, ":OUTPUT ACCEPT [0:0]", ":web - [0:0]", "-A OUTPUT -p udp --dport 7 -j web", "-A web -p udp")
    traffic(7, 3, ipv6)
    reader, other = readers()
    assert (reader.source, other.source) == (IN_USE, "socket")
    assert bool(reader.source_reason) == bool(REFUSED) and other.source_reason == ""
    assert same(reader, other)["web"][0].packets == 3
    traffic(7, 2, ipv6)
    snapshot = same(reader, other)
    assert snapshot["web"][0].packets == 5 and snapshot["OUTPUT"].policy_counters.packets >= 5
    assert snapshot is not reader.read() and snapshot._layout is reader.read()._layout
    assert reader.source == IN_USE


def test_a_snapshot_outlives_its_reader(host, ipv6, traffic):
    restored(host, ipv6, "-A OUTPUT -p udp --dport 7")
    before = iptc.CounterReader("filter", ipv6, source=SOURCE).read()
    reader = iptc.CounterReader("filter", ipv6, source=SOURCE)
    for _ in range(3):
        traffic(7, 1, ipv6)
        snapshot = reader.read()
    del reader
    gc.collect()
    assert [rule.text for rule in snapshot.rules] == [rule.text for rule in before.rules] == ["-p udp -m udp --dport 7"]
    assert list(snapshot.since(before)) == list(pickle.loads(pickle.dumps(snapshot)).since(before)) != [(0, 0)]
    assert snapshot.time > before.time


def test_a_child_of_fork_in_c_reads_the_right_numbers(host, readers, ipv6, traffic):
    restored(host, ipv6, "-A OUTPUT -p udp --dport 7")
    reader, _ = readers()
    before = reader.read()
    reader.read()
    programs = reader._scan
    child = ctypes.CDLL(None).fork()
    if not child:
        traffic(7, 2, ipv6)
        # what the parent has opened is not used, also by those who ask again
        good = [reader.read()[0].packets for _ in range(3)] == [before[0].packets + 2] * 3
        os._exit(0 if good and reader._scan is not programs and reader.source == IN_USE else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert reader.read()[0].packets == before[0].packets + 2 and reader._scan is programs


def test_rules_that_are_added_and_deleted_are_followed(host, readers, ipv6, traffic):
    restored(host, ipv6, *[f"-A OUTPUT -p udp --dport {port}" for port in range(1, 40)])
    reader, other = readers()
    before = same(reader, other)
    for command in (
        "-I OUTPUT 5 -p udp --dport 7",
        "-D OUTPUT 1",
        "-N web",
        "-A web -p udp --dport 7",
        "-I OUTPUT -j web",
        "-R OUTPUT 3 -p udp --dport 8",
        "-Z OUTPUT",
        "-D OUTPUT 1",
        "-F web",
        "-X web",
        "-N web",
        "-A web -p tcp",
        "-P FORWARD DROP",
        "-F OUTPUT",
        "-A OUTPUT -p udp --dport 7",
    ):
        traffic(7, 2, ipv6)
        host.iptables(command, ipv6=ipv6)
        traffic(7, 1, ipv6)
        snapshot = same(reader, other)
        delta, its = snapshot.since(before), other.read().since(before)
        assert (list(delta), delta.flags) == (list(its), its.flags)
        before = snapshot
    assert reader.source == IN_USE


def test_only_new_rules_are_read_by_the_socket(host, readers, ipv6, traffic):
    rules = [f"-A OUTPUT -p udp --dport {port}" for port in range(1, 200)]
    restored(host, ipv6, ":web - [0:0]", *rules, "-A OUTPUT -j web", "-A web -p udp")
    reader, other = readers()
    same(reader, other)
    follows = IN_USE == "bpf" and reader.backend == "nft"
    expected = 0
    for followed, *commands in (
        # nothing tells yet whether the second commit uses what the first one freed
        (False, "-A OUTPUT -p udp", "-D OUTPUT 7"),
        (True, "-A OUTPUT -p udp"),
        (True, "-I web -p udp --dport 7"),
        # a rule that replaces another one has its handle
        (True, "-R web 1 -p udp --dport 8"),
        (True, "-N none"),
        # what was freed by the first of two commits may be used by the second
        (True, "-A OUTPUT -p udp", "-D OUTPUT 7"),
        (True, "-R OUTPUT 8 -p udp --dport 1000", "-R OUTPUT 8 -p udp --dport 1001"),
        (True, *("-R OUTPUT 9 -p udp", "-R OUTPUT 9 -p udp --dport 9") * 4, "-t mangle -A OUTPUT -p udp"),
        (True, "-P FORWARD DROP"),
        # rules that jump to the chain have another text, and the same handles
        (False, "-E web www"),
        (True, "-D OUTPUT 1"),
        (True, "-X none"),
        (True, "-I www -p udp --dport 7"),
        # the same rules, with other handles
        (False, "-S"),
        (True, "-D www 1"),
    ):
        for command in commands:
            if command == "-S":
                restored(host, ipv6, ":www - [0:0]", *rules, "-A OUTPUT -j www", "-A www -p udp")
            else:
                host.iptables(command, ipv6=ipv6)
        traffic(7, 3, ipv6)
        snapshot = same(reader, other)
        traffic(7, 2, ipv6)
        assert [rule.text for rule in snapshot.rules] == [rule.text for rule in other.read().rules]
        expected += followed and follows
        assert getattr(reader._scan, "followed", 0) == expected, commands
        same(reader, other)
    assert reader.source == IN_USE


def test_a_rule_that_gets_the_handle_and_the_counter_of_another_one_is_noticed(host, readers, ipv6):
    restored(host, ipv6, "-A OUTPUT -p udp --dport 1", *["-A OUTPUT -p udp --dport 999"] * 99)
    reader, other = readers()
    same(reader, other)
    for number in range(1, 31):
        # the last of these often gets the memory that the kernel has freed after the first
        for port in (1000 + number, 2000 + number, 3000 + number)[number % 2 :]:
            host.iptables(f"-R OUTPUT 1 -p udp --dport {port}", ipv6=ipv6)
        assert same(reader, other).rules[0].text == f"-p udp -m udp --dport {port}"
    assert reader.source == IN_USE


def test_what_is_followed_is_compared_when_it_is_due(host, readers, ipv6, traffic):
    restored(host, ipv6, "-A OUTPUT -p udp --dport 7")
    reader, other = readers(source_check=1e-6)
    for _ in range(3):
        host.iptables("-I OUTPUT -p udp", ipv6=ipv6)
        traffic(7, 1, ipv6)
        same(reader, other)
    assert getattr(reader._scan, "followed", 0) == 0 and reader.source == IN_USE


def test_a_table_that_does_not_exist_reads_as_empty(host, readers, ipv6, traffic):
    reader, other = readers("mangle")
    assert len(same(reader, other)) == 0
    host.iptables("-t mangle -A OUTPUT -p udp --dport 7", ipv6=ipv6)
    traffic(7, 3, ipv6)
    assert same(reader, other)["OUTPUT"][0].packets == 3


@pytest.mark.parametrize("ipv6", [False])
def test_iptc_counters_takes_the_source(host, ipv6, capsys):
    untried(REFUSED)
    restored(host, ipv6, "-A OUTPUT -p udp --dport 7 -c 5 140")
    said = []
    for source in ("socket", SOURCE, "auto"):
        assert main(["counters", "--source", source]) == 0
        said.append(capsys.readouterr())
        assert main(["counters", "--source", source, "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["source"] == ("socket" if source == "socket" else IN_USE)
    assert said[0].out == said[1].out == said[2].out and "140" in said[0].out
    assert (said[0].err, bool(said[2].err)) == ("", bool(REFUSED))


@pytest.mark.parametrize("ipv6", [False])
@pytest.mark.parametrize("source", ["socket", SOURCE])
def test_sampler_top_and_exporter_take_the_source(host, ipv6, source, capsys):
    untried(REFUSED)
    restored(host, ipv6, "-A OUTPUT -p udp --dport 7 -c 5 140")
    in_use = "socket" if source == "socket" else IN_USE
    sampler = iptc.Sampler(1.0, ["filter"], ipv6=False, source=source)
    poller = sampler.poller()
    (table,) = poller.poll()
    assert (sampler.source, table.source, bool(table.source_reason)) == (source, in_use, in_use != source)
    poller.close()
    assert main(["top", "--once", "--json", "-4", "-t", "filter", "--source", source, "--interval", "0.01"]) == 0
    (said,) = json.loads(capsys.readouterr().out)["sources"]
    assert (said["ip_version"], said["table"], said["source"]) == (4, "filter", in_use)
    assert main(["exporter", "--once", "-t", "filter", "-4", "--source", source]) == 0
    assert f'table="filter",source="{in_use}"}} 1\n' in capsys.readouterr().out
    with pytest.raises(iptc.ParameterError, match="there is no source 'xdp'"):
        iptc.Sampler(source="xdp")


REFUSES = """
import iptc.bpf.opening
from iptc.errors import Unsupported

def _open(*arguments):
    raise Unsupported("a reason of this test's own")

iptc.bpf.opening._open = _open
from iptc.cli import main
"""


@pytest.mark.parametrize("ipv6", [False])
@pytest.mark.parametrize("command", ["counters --count 2 --interval 0.01", "top --count 2", "exporter --once"])
def test_the_reason_for_reading_by_socket_is_printed_once(host, ipv6, command):
    restored(host, ipv6, "-A OUTPUT -p udp --dport 7")
    words = [*command.split(), "-4", "-t", "filter", "--source", "auto"]
    words += ["--interval", "0.01"] if command.startswith("top") else []
    done = subprocess.run(
        [sys.executable, "-c", f"{REFUSES}\nmain({words})"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert re.fullmatch(r"iptc: IPv4.* table filter: source socket: a reason of this test's own\n", done.stderr)


@pytest.mark.one_backend("nft")
@pytest.mark.parametrize("ipv6", [False])
def test_the_sequence_count_of_each_cpu_is_used(host, readers, ipv6, traffic, monkeypatch):
    """Older kernels have such a count for nf_tables. The test uses that of legacy tables in its place, which does not
    change here."""
    monkeypatch.setattr(nft, "SEQUENCE", "xt_recseq")
    restored(host, ipv6, "-A OUTPUT -p udp --dport 7")
    reader, other = readers()
    for _ in range(3):
        traffic(7, 3, ipv6)
        assert same(reader, other)["OUTPUT"][0].packets % 3 == 0
    assert reader.source == IN_USE


@pytest.mark.parametrize(
    ("old", "new"), [("INPUT", "FORWARD"), ("FORWARD", "INPUT"), ("a", "b"), ("b", "a"), ("OUTPUT", "a")]
)
def test_equal_rules_in_another_chain_are_another_ruleset(host, readers, ipv6, old, new):
    heads = [":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", ":a - [0:0]", ":b - [0:0]"]
    reader, other = readers()
    for rules in ["-j ACCEPT"], ["-j RETURN"], ["-p udp", "-p tcp"], ["-p udp"] * 3:
        restored(host, ipv6, *heads, *(f"-A {old} {rule}" for rule in rules))
        before = same(reader, other)
        restored(host, ipv6, *heads, *(f"-A {new} {rule}" for rule in rules))
        after = same(reader, other)
        assert (len(before[old]), len(before[new])) == (len(after[new]), len(after[old])) == (len(rules), 0)
        assert before.generation != after.generation


@pytest.mark.one_backend("nft")
def test_a_new_rule_that_the_kernel_shows_only_in_a_dump_is_read(host, readers, ipv6):
    """The kernel answers EPERM to a request for one rule if the rule is longer than 3.5 KiB."""
    restored(host, ipv6, *(f"-A INPUT -p udp --dport {n}" for n in range(1, 40)))
    reader, other = readers()
    same(reader, other)
    tests = " ".join(f"meta mark != {n}" for n in range(60))
    host.run("nft", f"insert rule {'ip6' if ipv6 else 'ip'} filter INPUT {tests} counter packets 3 bytes 4")
    assert same(reader, other)[0] == (3, 4)
    assert reader.source == IN_USE
