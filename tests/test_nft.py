"""The nf_tables back end: iptables-nft and nft read what it writes, it reads what they write, and other writers do not
disturb it."""

import contextlib
import errno
import gc
import io
import json
import multiprocessing
import os
import pickle
import random
import re
import socket
import subprocess
import sys

import pytest
from conftest import PATIENCE, Host, batch_room, enter_new_namespace, forget_tables
from untried import untried

import iptc
from iptc import _core, _netlink, cli
from iptc.language import extension
from iptc.model import edits
from iptc.namespace import Place
from iptc.nft import codec
from iptc.nft.reader import BUILTIN_CHAINS
from iptc.nft.table import NftTable

pytestmark = pytest.mark.one_backend("nft")

BASE_CHAINS = [(table, _core.HOOKS[hook]) for table, hooks in BUILTIN_CHAINS.items() for hook, _, _ in hooks]


def entry(number=1, target="ACCEPT", ipv6=False, counters=(0, 0)):
    """Return the bytes of a rule whose comment differs from that of all others."""
    rule = (iptc.Rule6 if ipv6 else iptc.Rule)()
    rule.create_match("comment").comment = f"rule {number}"
    rule.counters = counters
    if target in ("", "LOG"):
        rule.create_target(target)
        return extension.pack(rule, True)
    rule.create_target("ACCEPT")
    # a rule can be built with a jump to a chain that does not exist
    return _core.retarget(rule.nfproto, extension.pack(rule, True), "ACCEPT", target)


def bad_entry(ipv6=False):
    """Return a rule that the kernel refuses: MASQUERADE outside of table nat."""
    rule = (iptc.Rule6 if ipv6 else iptc.Rule)()
    rule.create_match("comment").comment = "the bad one"
    rule.create_target("MASQUERADE")
    return extension.pack(rule, True)


def table_of(name="filter", ipv6=False):
    """The back end's own table, in this namespace."""
    return NftTable(_core.IPV6 if ipv6 else _core.IPV4, name, Place())


def commit(*operations, name="filter", ipv6=False):
    table_of(name, ipv6).commit(list(operations), None)


def ruleset(host):
    """Return the whole ruleset of nf_tables, without handles."""
    return host.run("nft", "list", "ruleset")


# ---------------------------------------------------------- what is created


@pytest.mark.parametrize("table, chain", BASE_CHAINS)
def test_a_first_rule_leaves_what_iptables_leaves(host, ipv6, table, chain):
    host.iptables(
        "-t", table, "-P", chain, "ACCEPT", ipv6=ipv6
    )  # so that 1.8.9 also creates the counters of the policy
    host.iptables("-t", table, "-A", chain, "-j", "ACCEPT", ipv6=ipv6)
    theirs, printed = ruleset(host), host.save(ipv6, counters=True)
    enter_new_namespace()
    forget_tables()
    rule = (iptc.Rule6 if ipv6 else iptc.Rule)()
    rule.create_target("ACCEPT")
    iptc.Chain((iptc.Table6 if ipv6 else iptc.Table)(table), chain).append_rule(rule)
    assert ruleset(host) == theirs
    assert host.save(ipv6, counters=True) == printed


def test_looking_creates_nothing(host, family):
    for name in family.Table.ALL:
        table = family.Table(name)
        assert [chain.name for chain in table.chains] == [chain for other, chain in BASE_CHAINS if other == name]
        assert all(chain.rules == [] and chain.get_policy().name == "ACCEPT" for chain in table.chains)
        assert len(iptc.CounterReader(name, family.ipv6).read()) == 0
    assert ruleset(host) == ""
    assert open("/proc/net/ip_tables_names").read() == ""


def test_flushing_and_zeroing_what_is_not_there_creates_nothing(host):
    table = iptc.Table("filter")
    table.flush()
    table.zero_entries("INPUT")
    assert ruleset(host) == ""


def test_a_table_that_iptables_does_not_know(host):
    host.run("nft", "add", "table", "ip", "mine")
    with pytest.raises(iptc.NotFound, match="can't initialize mine: Table does not exist"):
        iptc.Table("mine")


def test_the_policy_counts_packets(host):
    host.run("ip", "link", "set", "lo", "up")
    iptc.Chain(iptc.Table("filter"), "OUTPUT").set_policy("ACCEPT")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(3):
            sender.sendto(bytes(100), ("127.0.0.1", 9))
    packets, size = iptc.Chain(iptc.Table("filter"), "OUTPUT").get_counters()
    assert packets >= 3 and size >= 3 * 128
    assert iptc.CounterReader().read()["OUTPUT"].policy_counters[0] >= packets
    iptc.Chain(iptc.Table("filter"), "OUTPUT").set_policy("DROP")
    assert iptc.Chain(iptc.Table("filter"), "OUTPUT").get_counters() >= (packets, size)


# ------------------------------------------------------- the same on both back ends

CHAINS = ["INPUT", "OUTPUT", "one", "two", "three"]


def some_operation(rng, number, known):
    chain = rng.choice(CHAINS if rng.random() < 0.1 else known)
    position = rng.randrange(3)
    # no loops of jumps: legacy xtables and nf_tables find them at different moments
    targets = ["ACCEPT", "DROP", "", "LOG"] + [name for name in known if name in ("one", "two")] * (
        chain not in ("one", "two")
    )
    made = entry(number % 7, rng.choice(targets), counters=(number, rng.randrange(2)))
    return rng.choice(
        [
            edits.Append(chain, made),
            edits.Append(chain, made),
            edits.Append(chain, made),
            edits.Insert(chain, made, 0),
            edits.Insert(chain, made, position),
            edits.Replace(chain, made, position),
            edits.Replace(chain, made, position),
            edits.Delete(chain, position),
            edits.Flush(chain),
            edits.Zero(chain),
            edits.CreateChain(rng.choice(CHAINS)),
            edits.DeleteChain(chain),
            edits.RenameChain("three", "four"),
            edits.RenameChain("four", "three"),
            edits.SetPolicy(chain, rng.choice(["ACCEPT", "DROP"])),
            edits.SetPolicy(chain, "ACCEPT", (number, number)),
        ]
    )


def outcome_of(table, operations, lock):
    """Return "done", or the name of the exception."""
    view = table.read()
    try:
        for operation in operations:
            if operation.binds:
                operation.bind(view)
            operation.apply(view)
        table.commit(operations, lock)
    except iptc.IPTCError as error:
        return type(error)
    return "done"


@pytest.mark.parametrize("seed", range(6))
def test_random_edits_do_the_same_as_on_the_legacy_back_end(host, seed):
    from iptc.legacy.table import LegacyTable
    from iptc.lock import XTablesLock

    legacy = Host("legacy")
    tables = [LegacyTable(_core.IPV4, "filter", Place()), table_of()]
    done = 0
    for step in range(120):
        outcomes = []
        known = [name for name in tables[1].read().chains if name != "FORWARD"]
        for table in tables:
            rng = random.Random(f"{seed} {step}")
            operations = [some_operation(rng, 100 * step + i, known) for i in range(rng.choice([1, 1, 2, 3, 6]))]
            outcomes.append(outcome_of(table, operations, XTablesLock()))
        done += outcomes[0] == "done"
        assert outcomes[0] == outcomes[1]
        assert saved_alike(host.save(counters=True)) == saved_alike(legacy.save(counters=True)), (
            seed,
            step,
            operations,
        )
    assert done > 40


def saved_alike(lines):
    """Return the lines that both tools print: iptables-nft-save does not print tables that were never used."""
    return [
        line
        for line in lines
        if line not in ("*filter", "COMMIT", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]")
    ]


# ------------------------------------------------------------ whole or not at all


def test_a_bad_rule_among_a_thousand_in_two_tables_and_both_families(host):
    commit(edits.Append("INPUT", entry(0)))
    before = ruleset(host), generation()
    each = min(250, batch_room() // 2400)
    parts = []
    for ipv6 in (False, True):
        for name in ("filter", "mangle"):
            rules = [edits.Append("OUTPUT", entry(number, ipv6=ipv6)) for number in range(each)]
            if ipv6 and name == "mangle":
                rules[each // 2] = edits.Append("OUTPUT", bad_entry(ipv6))
            parts.append((table_of(name, ipv6), rules))
    with pytest.raises(iptc.KernelError) as refused:
        NftTable.commit_together(parts, None)
    assert str(refused.value).startswith("can't commit: Invalid argument: RULE_APPEND failed: rule in chain OUTPUT: ")
    assert '-m comment --comment "the bad one" -j MASQUERADE' in str(refused.value)
    assert refused.value.errno == errno.EINVAL
    assert (ruleset(host), generation()) == before
    del parts[3][1][each // 2]
    NftTable.commit_together(parts, None)
    assert len(host.rules()) == 2 * each + 1 and len(host.rules(ipv6=True)) == 2 * each - 1


def test_the_first_of_very_many_errors_is_named(host):
    rules = [edits.Append("INPUT", entry(number)) for number in range(5)]
    rules += [edits.Append("INPUT", bad_entry()) for _ in range(min(30000, batch_room() // 500))]
    rules[5] = edits.Insert("INPUT", bad_entry(), 0)
    with pytest.raises(iptc.KernelError, match="RULE_INSERT failed"):
        commit(*rules)
    assert ruleset(host) == ""


def test_a_jump_to_a_missing_chain_is_refused(host):
    operation = edits.Append("INPUT", entry(1, "web"))
    with pytest.raises(
        iptc.NotFound, match="Chain 'web' does not exist: RULE_APPEND failed: rule in chain INPUT: .*-j web"
    ):
        commit(operation)


def test_a_loop_of_jumps_is_refused(host):
    commit(
        edits.CreateChain("one"),
        edits.CreateChain("two"),
        edits.Append("one", entry(1, "two")),
        edits.Append("INPUT", entry(1, "one")),
    )
    with pytest.raises(iptc.KernelError, match="Too many links: RULE_APPEND failed: rule in chain two") as refused:
        commit(edits.Append("two", entry(1, "one")))
    assert refused.value.errno == errno.EMLINK


@pytest.mark.parametrize(
    "operations, errno_, said",
    [
        (
            [edits.Append("none", entry())],
            errno.ENOENT,
            "can't append entry to chain none: No chain/target/match by that name",
        ),
        ([edits.CreateChain("web")], errno.EEXIST, "can't create chain web: Chain already exists"),
        ([edits.CreateChain("INPUT")], errno.EEXIST, "can't create chain INPUT: Chain already exists"),
        ([edits.DeleteChain("other")], errno.ENOTEMPTY, "can't delete chain other: Directory not empty"),
        ([edits.DeleteChain("web")], errno.EMLINK, "can't delete chain web: Too many links"),
        ([edits.DeleteChain("INPUT")], errno.EINVAL, "can't delete chain INPUT: Invalid argument"),
        ([edits.DeleteChain("none")], errno.ENOENT, "can't delete chain none: No chain/target/match by that name"),
        ([edits.RenameChain("web", "INPUT")], errno.EEXIST, "can't rename chain web: File exists"),
        ([edits.RenameChain("web", "other")], errno.EEXIST, "can't rename chain web: File exists"),
        (
            [edits.RenameChain("INPUT", "new")],
            errno.ENOENT,
            "can't rename chain INPUT: No chain/target/match by that name",
        ),
        ([edits.SetPolicy("web", "DROP")], errno.ENOENT, "can't set policy DROP on chain web: Bad built-in chain name"),
        ([edits.SetPolicy("INPUT", "RETURN")], errno.EINVAL, "can't set policy RETURN on chain INPUT: Bad policy name"),
        (
            [edits.Insert("web", entry(), 5)],
            errno.E2BIG,
            "can't insert entry into chain web: Index of insertion too big",
        ),
        (
            [edits.Replace("web", entry(), 5)],
            errno.E2BIG,
            "can't replace entry in chain web: Index of replacement too big",
        ),
        ([edits.Delete("web", 5)], errno.E2BIG, "can't delete entry from chain web: Index of deletion too big"),
        ([edits.Flush("none")], errno.ENOENT, "can't flush chain none: No chain/target/match by that name"),
        ([edits.Zero("none")], errno.ENOENT, "can't zero chain none counters: No chain/target/match by that name"),
    ],
)
def test_refusals_in_the_words_of_iptables(host, operations, errno_, said):
    host.iptables("-N web")
    host.iptables("-N other")
    host.iptables("-A web -j ACCEPT")
    host.iptables("-A other -j ACCEPT")
    host.iptables("-A INPUT -j web")
    before = ruleset(host)
    with pytest.raises(iptc.KernelError) as refused:
        commit(edits.Append("OUTPUT", entry()), *operations)
    assert (str(refused.value), refused.value.errno) == (said, errno_)
    assert ruleset(host) == before


def test_a_dry_run_changes_nothing_and_says_what_is_wrong(host):
    commit(edits.Append("INPUT", entry(1)))
    before = ruleset(host), generation()
    table_of().rehearse(
        [edits.Append("INPUT", entry(2)), edits.CreateChain("web"), edits.SetPolicy("OUTPUT", "DROP")], None
    )
    with pytest.raises(iptc.KernelError, match="the bad one"):
        table_of().rehearse([edits.Append("INPUT", bad_entry())], None)
    assert (ruleset(host), generation()) == before


def generation():
    with _netlink.Socket() as channel:
        return channel.generation()


# -------------------------------------------------------------- writers beside us


class Meddling(edits.Delete):
    """Deletes a rule while another process inserts a rule before it."""

    def __init__(self, host, chain, position):
        super().__init__(chain, position)
        self.host, self.times = host, 0

    def do(self, handle, look):
        super().do(handle, look)
        if self.times < 3:
            self.times += 1
            self.host.iptables("-I", "INPUT", "-s", f"10.0.0.{self.times}")


def test_a_plan_that_is_out_of_date_is_made_again(host):
    commit(*(edits.Append("INPUT", entry(number)) for number in range(4)))
    operation = Meddling(host, "INPUT", 2)
    operation.bind(table_of().read())
    commit(operation)
    assert operation.times == 3
    assert [line.split('"')[1] for line in host.rules() if "comment" in line] == ["rule 0", "rule 1", "rule 3"]
    assert len(host.rules()) == 6


def test_a_rule_that_went_away_meanwhile_is_a_conflict(host):
    commit(*(edits.Append("INPUT", entry(number)) for number in range(3)))
    operation = edits.Delete("INPUT", 1)
    operation.bind(table_of().read())
    host.iptables("-D INPUT 2")
    with pytest.raises(iptc.Conflict, match="the rule that stood at position 1 is gone"):
        commit(operation)


WRITER = """
import sys, iptc
chain = iptc.Chain(iptc.Table("filter"), "INPUT")
for number in range(100):
    rule = iptc.Rule()
    rule.create_match("comment").comment = f"{sys.argv[1]}-{number}"
    rule.create_target("ACCEPT")
    chain.append_rule(rule)
    if number % 10 == 5:
        chain.delete_rule(rule)
        chain.insert_rule(rule, 2)
"""


def test_nothing_is_lost_beside_iptables_and_nft(host):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    beside = [
        subprocess.Popen(
            ["sh", "-c", "i=0; while :; do iptables-nft -A FORWARD -m comment --comment $i || exit 1; i=$((i+1)); done"]
        ),
        subprocess.Popen(
            [
                "sh",
                "-c",
                "nft add table ip other; nft add chain ip other c; while :; do nft add rule ip other c accept; done",
            ]
        ),
    ]
    try:
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(number)], env=environment) for number in range(4)
        ]
        assert [writer.wait() for writer in writers] == [0] * 4
        assert [other.poll() for other in beside] == [None, None]
    finally:
        for other in beside:
            other.kill()
            other.wait()
    comments = [line.split()[5] for line in host.rules() if line.startswith("-A INPUT")]
    assert sorted(comments) == sorted(f"{writer}-{number}" for writer in range(4) for number in range(100))
    theirs = [int(line.split()[5]) for line in host.rules() if line.startswith("-A FORWARD")]
    assert theirs == list(range(len(theirs))) and theirs


@pytest.mark.parametrize("ipv6", [False, True])
def test_a_chain_is_read_with_its_rules_while_one_commit_creates_its_table_anew(host, ipv6, tmp_path):
    """Near the end of such a commit, the kernel lists the new chains, but looks for their rules in the old table."""
    table, ruleset = f"{'ip6' if ipv6 else 'ip'} filter", []
    for command in ("add", "delete", "add"):
        ruleset.append(f"{command} table {table}")
    ruleset.append(f"add chain {table} OUTPUT {{ type filter hook output priority 0 ; }}")
    for chain in "abcdefgh":
        rules = [f"add rule {table} {chain} udp dport {port} counter" for port in range(8)]
        ruleset += [f"add chain {table} {chain}", *rules]
    host.run("nft", "-f", "-", text="\n".join(ruleset))
    # each line is a commit
    commits = tmp_path / "commits"
    commits.write_text(("; ".join(ruleset) + "\n") * 200)
    with iptc.CounterReader("filter", ipv6) as reader, contextlib.ExitStack() as stack:
        first = reader.read()
        writers = []
        for _ in range(3):
            lines = stack.enter_context(commits.open())
            writers.append(stack.enter_context(subprocess.Popen(["nft", "-i"], stdin=lines, stdout=subprocess.DEVNULL)))
        while any(writer.poll() is None for writer in writers):
            snapshot = reader.read()
            assert [len(snapshot[chain]) for chain in "abcdefgh"] == [8] * 8
            assert snapshot.generation == first.generation
    assert [writer.returncode for writer in writers] == [0] * 3


def _swap_until_told(stop, ready):
    """Replace one of two sets of rules by the other again and again, each time in one batch; also commit in another table."""
    sets = [[codec.encode(_core.IPV4, entry(number + shift)) for number in range(300)] for shift in (0, 1000)]
    with _netlink.Socket() as channel:
        turn = 0
        while not stop.is_set():
            batch = _netlink.Batch()
            batch.delete_rule(_core.IPV4, b"filter", b"web")
            for rule in sets[turn % 2]:
                batch.add_rule(_core.IPV4, b"filter", b"web", rule)
            assert channel.send(batch) == []
            ready.set()
            turn += 1


def test_a_snapshot_is_never_torn(host):
    commit(edits.CreateChain("web"), *(edits.Append("INPUT", entry(number)) for number in range(900)))
    context = multiprocessing.get_context("fork")
    stop, ready = context.Event(), context.Event()
    writer = context.Process(target=_swap_until_told, args=(stop, ready))
    writer.start()
    try:
        assert ready.wait(PATIENCE)
        seen, reads = set(), 0
        with iptc.CounterReader() as reader:
            while reads < 60 or len(seen) < 2:
                assert writer.is_alive()
                reads += 1
                snapshot = reader.read()
                assert len(snapshot["INPUT"]) == 900 and len(snapshot["web"]) == 300
                seen.add(snapshot.generation)
            view = table_of().read()
            first = [
                _core.load_rules(iptc.Rule, _core.IPV4, [e], None)[0].matches[0].comment
                for e in view.chains["web"].entries
            ]
            assert first in ([f"rule {n}" for n in range(300)], [f"rule {n}" for n in range(1000, 1300)])
        assert len(seen) == 2
    finally:
        stop.set()
        writer.join()
    assert writer.exitcode == 0


# ------------------------------------------------------ what others have written

FOREIGN = """
table ip filter {
    set known { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } }
    chain INPUT {
        type filter hook input priority filter; policy accept;
        ip saddr @known counter packets 5 bytes 6 accept
        ct state established,related counter packets 7 bytes 8 accept comment "theirs"
        tcp dport { 22, 80 } counter packets 9 bytes 10 accept
        tcp dport 7 reject with tcp reset
    }
    chain nat_like { type nat hook prerouting priority -90; }
    chain mine { }
}
"""


@pytest.fixture
def foreign(host):
    """A table with rules that `nft` has written, followed by a rule of iptables."""
    host.run("nft", "-f", "-", text=FOREIGN)
    commit(edits.Append("INPUT", entry(1, counters=(1, 2))))
    return host


def test_rules_of_others_are_listed_and_counted(foreign):
    table = iptc.Table("filter")
    assert [chain.name for chain in table.chains] == ["INPUT", "FORWARD", "OUTPUT", "mine"]
    rules = iptc.Chain(table, "INPUT").rules
    assert len(rules) == 5
    assert [rule.get_counters() for rule in rules] == [(5, 6), (7, 8), (9, 10), (0, 0), (1, 2)]
    assert all("-j nft [" in str(rule) and "bytes of unknown data]" in str(rule) for rule in rules[:3])
    assert str(rules[4]) == '-m comment --comment "rule 1" -j ACCEPT'
    snapshot = iptc.CounterReader().read()
    assert list(snapshot) == [(5, 6), (7, 8), (9, 10), (0, 0), (1, 2)]
    assert [rule.text for rule in snapshot.rules] == [str(rule) for rule in rules]


def test_it_is_said_what_rules_of_others_consist_of(foreign, capfd):
    foreign.run("nft", "add rule ip filter INPUT ct state new jump mine; add rule ip filter mine counter drop")
    rules = iptc.Chain(iptc.Table("filter"), "INPUT").rules
    said = [rule.target.expressions for rule in rules]
    assert said[0] == ["payload", "lookup @known", "counter", "immediate accept"]
    assert said[5] == ["ct", "bitwise", "cmp", "immediate jump mine"]
    # a rule of iptables, and a rule with an extension that iptables does not have
    assert said[4] is iptc.Rule.from_args("-j LOG").target.expressions is None
    assert pickle.loads(pickle.dumps(rules[0])).target.expressions == said[0]
    assert cli.main(["list", "INPUT"]) == 0
    shown = capfd.readouterr().out.splitlines()[1:]
    expected = [
        str(rule) if texts is None else f"{str(rule).rstrip()} # {', '.join(texts)}" for rule, texts in zip(rules, said)
    ]
    assert shown == [f"-A INPUT {text}" for text in expected]
    assert cli.main(["list", "--format", "json", "INPUT"]) == 0
    described = json.loads(capfd.readouterr().out)["chains"][0]["rules"]
    assert [rule.get("expressions") for rule in described] == said
    # a target that is cut short or changed is not read beyond its end
    whole = rules[0].target.target
    for length in range(32, len(whole)):
        target = bytearray(whole[:length])
        target[:2] = length.to_bytes(2, sys.byteorder)
        assert codec.target_expressions(bytes(target)) is None or length > len(whole) - 8
    for at in range(32, len(whole)):
        for value in (0, 1, 3, 0x7F, 0xFF):
            said = codec.target_expressions(whole[:at] + bytes([value]) + whole[at + 1 :])
            assert said is None or all(isinstance(text, str) for text in said)


def test_rules_of_others_can_be_deleted(foreign):
    chain = iptc.Chain(iptc.Table("filter"), "INPUT")
    chain.delete_rule(chain.rules[1])
    assert "ct state" not in ruleset(foreign) and "@known" in ruleset(foreign)
    assert len(chain.rules) == 4
    chain.table.refresh()
    chain.delete_rule(chain.rules[0])
    assert "ip saddr @known" not in ruleset(foreign)


def test_rules_of_others_survive_zeroing_renaming_and_edits_beside_them(foreign):
    expected = [line.strip() for line in FOREIGN.splitlines() if "counter" in line or "reject" in line]
    foreign.run("nft", "add", "rule", "ip", "filter", "INPUT", "ct", "state", "new", "jump", "mine")
    table = iptc.Table("filter")
    table.rename_chain("mine", "other")
    iptc.Chain(table, "INPUT").insert_rule(iptc.Rule(entry(2)), 2)
    table.zero_entries("INPUT")
    found = [line.strip() for line in ruleset(foreign).splitlines()]
    zero = [
        " ".join(
            "0" if word.isdigit() and before in ("packets", "bytes") else word
            for before, word in zip(["", *line.split()], line.split())
        )
        for line in expected
    ]
    # without numbers of ports, which nft prints as sets
    for line in zero:
        assert line in found, line
    assert "ct state new jump other" in found


def test_chains_that_iptables_does_not_know_are_left_alone(foreign):
    before = [line for line in ruleset(foreign).splitlines() if "nat_like" in line or "priority -90" in line]
    table = iptc.Table("filter")
    table.create_chain("web")
    table.flush()
    assert [line for line in ruleset(foreign).splitlines() if "nat_like" in line or "priority -90" in line] == before
    assert not table.is_chain("nat_like")


def test_a_chain_with_a_name_of_iptables_and_another_hook(host):
    host.run(
        "nft", "-f", "-", text="table ip filter { chain INPUT { type filter hook input priority 5; counter accept; }; }"
    )
    before = ruleset(host)
    chain = iptc.Chain(iptc.Table("filter"), "INPUT")
    assert chain.rules == [] and chain.get_policy().name == "ACCEPT"
    with pytest.raises(iptc.KernelError, match="table `filter' is incompatible, use 'nft' tool."):
        chain.append_rule(iptc.Rule(entry()))
    assert ruleset(host) == before
    iptc.Chain(iptc.Table("filter"), "OUTPUT").append_rule(iptc.Rule(entry()))
    assert len(host.run("nft", "list", "chain", "ip", "filter", "OUTPUT")) > 0


def test_a_table_that_is_deleted_under_us(host):
    reader = iptc.CounterReader()
    chain = iptc.Chain(iptc.Table("filter"), "INPUT")
    chain.append_rule(iptc.Rule(entry()))
    assert len(reader.read()) == 1 and len(chain.rules) == 1
    host.run("nft", "delete", "table", "ip", "filter")
    assert len(reader.read()) == 0
    with pytest.raises(iptc.NotFound, match="Bad rule"):
        chain.delete_rule(iptc.Rule(entry()))
    chain.append_rule(iptc.Rule(entry()))
    assert len(host.rules()) == 1


# ---------------------------------------------------------------------- counters


def test_counters_are_those_that_iptables_prints(host, ipv6):
    family = _core.IPV6 if ipv6 else _core.IPV4
    rng = random.Random(3)
    operations = [edits.CreateChain(f"c{number}") for number in range(40)]
    for number in range(600):
        chain = f"c{rng.randrange(40)}" if number % 3 else rng.choice(["INPUT", "FORWARD", "OUTPUT"])
        operations.append(
            edits.Append(chain, entry(number, ipv6=ipv6, counters=(rng.getrandbits(40), rng.getrandbits(60))))
        )
    NftTable(family, "filter", Place()).commit(operations, None)
    snapshot = iptc.CounterReader(ipv6=ipv6).read()
    saved = [line for line in host.save(ipv6, counters=True) if line.startswith("[")]
    ours = [f"[{packets}:{size}] -A {chain.name}" for chain in snapshot.chains for packets, size in chain]
    assert ours == [" ".join(line.split()[:3]) for line in saved]
    assert [chain.name for chain in snapshot.chains] == [
        line.split()[0][1:] for line in host.save(ipv6) if line.startswith(":")
    ]


def sockets():
    """Return how many descriptors of this process are sockets."""
    return sum(
        os.path.exists(f"/proc/self/fd/{fd}") and os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        for fd in os.listdir("/proc/self/fd")
    )


@pytest.mark.parametrize("where", ["here", "elsewhere", "one core"])
def test_much_is_read_on_two_sockets(host, where):
    """There are two sockets if there are two processors. Both are in the reader's namespace, wherever this thread is."""
    commit(*(edits.CreateChain(f"c{number:02}") for number in range(40)))
    for first in range(0, 1500, 500):
        commit(
            *(
                edits.Append(
                    f"c{number % 40:02}" if number % 5 else "INPUT", entry(number, counters=(number, number << 20))
                )
                for number in range(first, first + 500)
            )
        )
    saved = [line.split()[:3] for line in host.save(counters=True) if line.startswith("[")]
    gc.collect()  # close what earlier tests have dropped now, and not while sockets are counted
    cores, before = os.sched_getaffinity(0), sockets()
    reader = iptc.CounterReader()
    if where == "elsewhere":
        enter_new_namespace()
    elif where == "one core":
        os.sched_setaffinity(0, {min(cores)})
    try:
        for _ in range(3):
            snapshot = reader.read()
            assert [[f"[{p}:{b}]", "-A", chain.name] for chain in snapshot.chains for p, b in chain] == saved
        assert sockets() - before == (2 if where != "one core" and len(cores) > 1 else 1)
        assert len(snapshot.rules) == 1500
        if where == "here":
            assert [line.split()[:3] for line in iptc.save(counters=True).splitlines() if line.startswith("[")] == saved
    finally:
        os.sched_setaffinity(0, cores)
        reader.close()
    assert sockets() == before


def test_the_generation_is_that_of_the_ruleset_not_of_the_commits(host):
    commit(edits.Append("INPUT", entry(1)), edits.Append("INPUT", entry(2)))
    reader = iptc.CounterReader()
    first = reader.read().generation
    commit(edits.Append("INPUT", entry(3)))
    assert reader.read().generation != first
    commit(edits.Delete("INPUT", 2))
    assert reader.read().generation == first
    commit(edits.Delete("INPUT", 0), edits.Insert("INPUT", entry(1, counters=(5, 5)), 0))
    assert reader.read().generation == first
    host.run("nft", "add", "table", "ip", "other")
    assert reader.read().generation == first
    commit(edits.SetPolicy("FORWARD", "DROP"))
    assert reader.read().generation != first


def test_rules_that_moved_are_followed(host):
    commit(*(edits.Append("INPUT", entry(number, counters=(number, number))) for number in range(5)))
    reader = iptc.CounterReader()
    first = reader.read()
    commit(edits.Delete("INPUT", 0), edits.Insert("INPUT", entry(9, counters=(7, 7)), 0))
    delta = reader.read().since(first)
    assert list(delta) == [(7, 7), (0, 0), (0, 0), (0, 0), (0, 0)]
    assert list(delta.flags) == [delta.NEW, 0, 0, 0, 0]


# -------------------------------------------------------------------- the transport


def test_attributes_come_back_as_they_went():
    parts = [(3, b""), (4, b"a"), (5, b"abcd"), (0x3FFF, bytes(1000))]
    data = b"".join(_netlink.attribute(kind, payload) for kind, payload in parts)
    assert len(data) % 4 == 0 and _netlink.attributes(data) == parts
    for length in range(len(data)):
        assert _netlink.attributes(data[:length]) == parts[: len(_netlink.attributes(data[:length]))]
    with pytest.raises(iptc.KernelError):
        _netlink.attribute(1, bytes(65536))


def test_garbage_is_no_message_and_no_attribute():
    rng = random.Random(1)
    for _ in range(20000):
        data = bytes(rng.choice((0, 1, 4, 16, 20, 255, rng.getrandbits(8))) for _ in range(rng.randrange(64)))
        assert sum(len(payload) + 4 for _, payload in _netlink.attributes(data)) <= len(data)
        assert sum(len(payload) + 16 for _, _, payload in _netlink.messages_in(data)) <= len(data)


def test_a_closed_socket_raises(host):
    channel = _netlink.Socket()
    channel.close()
    channel.close()
    assert channel.closed
    for use in (
        channel.generation,
        lambda: channel.get(4, 2),
        lambda: channel.dump(4, 2),
        lambda: channel.send(_netlink.Batch()),
    ):
        with pytest.raises(iptc.KernelError, match="closed"):
            use()


def test_without_privilege(host):
    code = "import iptc\ntry: iptc.Table('filter')\nexcept iptc.AccessDenied as error: print(error.errno)"
    assert (
        host.run("setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", code) == f"{errno.EPERM}\n"
    )


TOO_MUCH = """
import iptc
text = "*filter\\n" + "-A INPUT -m comment --comment x -j ACCEPT\\n" * 50000 + "COMMIT\\n"
try:
    iptc.restore(text)
except iptc.KernelError as error:
    print(error, error.errno)
print(len(iptc.CounterReader().read()))
"""


def test_more_than_a_user_may_send(host):
    """Root of a user namespace may not set a socket buffer larger than the limit of the system."""
    if host.run("unshare", "-Ur", "true", check=False).returncode:
        untried("no user namespace can be made here")
        assert host.run(sys.executable, "-c", TOO_MUCH).splitlines() == ["50000"]
        return
    lines = host.run("unshare", "-Urn", sys.executable, "-c", TOO_MUCH).splitlines()
    assert re.fullmatch(
        r"line 50002 failed: can't commit: a batch of \d+ bytes is more than this process may send "
        rf"\(net\.core\.wmem_max\) {errno.EMSGSIZE}",
        lines[0],
    )
    assert lines[1:] == ["0"]


def test_long_chains(host):
    count = min(20000, batch_room() // 1000 * 2)
    commit(*(edits.Append("INPUT", entry(number)) for number in range(count)))
    commit(edits.Insert("INPUT", entry(-1), count // 2), edits.Delete("INPUT", count))
    snapshot = iptc.CounterReader().read()
    assert len(snapshot) == count
    assert [rule.comment for rule in snapshot.rules[count // 2 - 1 : count // 2 + 2]] == [
        f"rule {n}" for n in (count // 2 - 1, -1, count // 2)
    ]


# ----------------------------------------------------------- whole rulesets

TEXT = """*filter
:INPUT DROP [5:6]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:web - [0:0]
[1:2] -A INPUT -p tcp --dport 22 -j ACCEPT
[3:4] -A INPUT -j web
-A web -s 10.0.0.0/8 -j RETURN
-A web -m comment --comment "a b" -j DROP
-I web 2 -p udp -j ACCEPT
-A web -p icmp -j ACCEPT
-D web 4
-D web -s 10.0.0.0/8 -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8080
COMMIT
"""


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("counters", [True, False])
def test_a_restore_leaves_what_iptables_leaves(host, flush, counters):
    # iptables-nft-restore 1.8.9 still counts the rules that it has flushed itself
    text = TEXT if flush else TEXT.replace("-I web 2 ", "-A web ").replace("-D web 4", "-D web -p icmp -j ACCEPT")
    before = [
        "-N old",
        "-A old -j ACCEPT",
        "-A OUTPUT -j old",
        "-N web",
        "-A web -j LOG",
        "-P INPUT ACCEPT",
        "-A FORWARD -p udp -j DROP",
    ]
    left = []
    arguments = ["-c"] * counters + ["--noflush"] * (not flush)
    for restore in (
        lambda: host.restore(text, arguments=arguments),
        lambda: iptc.restore(text, counters=counters, flush=flush),
    ):
        enter_new_namespace()
        forget_tables()
        for line in before:
            host.iptables(line)
        restore()
        left.append(host.save(counters=True))
    assert left[0] == left[1]
    saved = iptc.save(counters=True)
    assert [line for line in saved.splitlines() if not line.startswith("#")] == left[1]


def test_a_builtin_chain_that_a_text_does_not_name_is_as_if_it_had_never_been_used(host, family):
    """So a text that was saved while a chain was not in use restores that state, policies included."""
    host.iptables("-A INPUT -j ACCEPT", ipv6=family.ipv6)
    before, saved = host.save(family.ipv6, counters=True), iptc.save(ipv6=family.ipv6, counters=True)
    for restore in (
        lambda: host.restore(saved, family.ipv6, ["--counters"]),
        lambda: iptc.restore(saved, ipv6=family.ipv6, counters=True),
    ):
        for line in ("-P OUTPUT DROP", "-A FORWARD -j DROP", "-P FORWARD DROP"):
            host.iptables(line, ipv6=family.ipv6)
        restore()
        assert host.save(family.ipv6, counters=True) == before
    iptc.restore(saved, ipv6=family.ipv6, counters=True)
    host.iptables("-P FORWARD DROP", ipv6=family.ipv6)
    iptc.restore("*filter\n-A FORWARD -j ACCEPT\nCOMMIT\n", ipv6=family.ipv6, flush=False)
    assert ":FORWARD DROP [0:0]" in host.save(family.ipv6)
    iptc.restore("*filter\n-A FORWARD -j ACCEPT\nCOMMIT\n", ipv6=family.ipv6)
    assert host.save(family.ipv6)[1:] == [
        ":INPUT ACCEPT [0:0]",
        ":FORWARD ACCEPT [0:0]",
        ":OUTPUT ACCEPT [0:0]",
        "-A FORWARD -j ACCEPT",
        "COMMIT",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "-A INPUT -j DROP\nCOMMIT",
        ":new DROP\nCOMMIT\n",
        ":new - x y\nCOMMIT\n",
        ":new - [x:y]\n-A new -j DROP\nCOMMIT\n",
        ":INPUT - [5:6]\nCOMMIT\n",
        ":INPUT -\nCOMMIT\n",
        ":INPUT DROP\nCOMMIT\n",
        ":INPUT DROP [5:y]\nCOMMIT\n",
        ":LOG - [0:0]\n-A INPUT -j LOG\nCOMMIT\n",
        f":{'x' * 29} - [0:0]\nCOMMIT\n",
        "-A INPUT -m udp --dport 5 -j DROP\nCOMMIT\n",
        "-A INPUT -g DROP\nCOMMIT\n",
        "-6 -A INPUT -g DROP\n-A INPUT -j DROP\nCOMMIT\n",
        "-A INPUT -I FORWARD\nCOMMIT\n",
    ],
)
@pytest.mark.parametrize("flush", [True, False])
def test_what_only_iptables_nft_restore_takes_or_refuses(host, text, flush):
    """Counters of user chains are ignored, and the last line needs no line feed. Refusals have the tool's words."""
    text, arguments = f"*filter\n{text}", ["--counters", *([] if flush else ["--noflush"])]
    host.iptables("-P INPUT DROP -c 1 2")
    before = host.save(counters=True)
    done = host.run(host.tool(verb="-restore"), *arguments, text=text, check=False)
    expected = host.save(counters=True)
    host.restore("\n".join([*before, ""]), arguments=["--counters"])
    said = None
    try:
        iptc.restore(io.StringIO(text), counters=True, flush=flush)
    except (iptc.ParameterError, iptc.KernelError) as error:
        said = str(error)
    assert (said is None) == (done.returncode == 0), done.stderr
    if said is not None:
        assert re.search(r"\(nf_tables\): (.*)", done.stderr)[1] in said
    assert host.save(counters=True) == expected


@pytest.mark.parametrize(
    "bad, said",
    [
        (":INPUT LOG [0:0]", "line 8 failed: Bad policy name"),
        (":ACCEPT - [0:0]", "line 8: chain name may not clash with target name"),
        (":-x - [0:0]", "line 8: chain name not allowed to start with `-'"),
        ("-A INPUT -g nowhere", "line 8 failed: Chain 'nowhere' does not exist"),
        ('-A "" -j ACCEPT', "line 8 failed: No chain/target/match by that name"),
        (
            "-A INPUT -j MASQUERADE",
            "line 8 failed: Invalid argument: RULE_APPEND failed: rule in chain INPUT: -j MASQUERADE",
        ),
        ("-A nowhere -j ACCEPT", "line 8 failed: No chain/target/match by that name"),
        ("-D web 9", "line 8 failed: Index of deletion too big"),
        ("-D web -p esp", "line 8 failed: Bad rule (does a matching rule exist in that chain?)"),
    ],
)
def test_a_bad_line_of_a_restore_is_named_and_changes_nothing(host, bad, said):
    commit(edits.Append("INPUT", entry(1)))
    before = ruleset(host)
    lines = TEXT.splitlines()
    lines.insert(7, bad)
    with pytest.raises((iptc.KernelError, iptc.ParameterError)) as refused:
        iptc.restore("\n".join([*lines, ""]))
    assert str(refused.value).startswith(said) and refused.value.line == 8
    assert ruleset(host) == before
