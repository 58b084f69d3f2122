"""The legacy back end compared with libiptc: the same edits make the same table, and are refused with the same
messages."""

import os
import subprocess
import sys

import pytest
from conftest import preloading
from faults import library  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import iptc
from iptc._core import IPV4, IPV6, standard_target, without_counters
from iptc.language.extension import pack
from iptc.legacy.blob import TableBlob
from iptc.legacy.libiptc import Handle
from iptc.legacy.reference import LibiptcTable
from iptc.legacy.restore import TableDraft
from iptc.namespace import Place

pytestmark = pytest.mark.one_backend("legacy")

EXAMPLES = 60 * int(os.environ.get("IPTC_STRESS", "1"))
CHAINS = ["INPUT", "OUTPUT", "one", "two", "three", "a" * 28, "b" * 29, "c" * 40, "", "ACCEPT", "-x"]
TARGETS = ["ACCEPT", "DROP", "RETURN", "one", "two", "three", "INPUT", "nowhere", "", "LOG"]
"""Verdicts, chains that may exist, one that may not be jumped to, one that never exists, no target, an extension."""


def entry_of(family, number, target):
    """Return the bytes of a rule that is different for each *number*."""
    rule = family.Rule()
    rule.set_counters((number, 2**62))
    rule.protocol = "udp"
    rule.create_match("udp").dport = str(number + 1)
    if target == "LOG":
        rule.create_target("LOG")
        return pack(rule, True)
    rule.create_target("ACCEPT")
    entry = pack(rule, True)
    payload = standard_target(target)
    return entry[: -len(payload)] + payload


name = st.sampled_from(CHAINS)
position = st.integers(0, 4)
number = st.integers(0, 3)
target = st.sampled_from(TARGETS)
counters = st.one_of(st.none(), st.tuples(st.integers(0, 2**63), st.integers(0, 2**63)))
VERBS = {
    "append": (name, st.tuples(number, target)),
    "insert": (name, st.tuples(number, target), position),
    "replace": (name, st.tuples(number, target), position),
    "delete": (name, position),
    "flush": (name,),
    "zero": (name,),
    "zero_rule": (name, position),
    "create_chain": (name,),
    "delete_chain": (name,),
    "rename_chain": (name, name),
    "set_policy": (name, st.sampled_from(["ACCEPT", "DROP", "RETURN", "QUEUE", "one"]), counters),
}
edits = st.lists(st.one_of([st.tuples(st.just(verb), *arguments) for verb, arguments in VERBS.items()]), max_size=14)
BEGINNING = ["one", "two"]


random_trials = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="IPTC_STRESS" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


def outcome(call, *arguments, **more):
    """Return how a call ended: class, errno and message of its exception, or nothing."""
    try:
        call(*arguments, **more)
    except iptc.IPTCError as error:
        return type(error).__name__, getattr(error, "errno", None), str(error)
    except OSError as error:
        return "OSError", error.errno, ""
    return None


def table_of(nfproto, counters=True):
    """Return the table in the kernel, without the counters of policies, which libiptc does not keep, and only with
    *counters* with those of rules."""
    blob = TableBlob(nfproto, "filter")
    shown = [(chain, policy, blob.chain_entries(first, end)) for chain, policy, _, first, end in blob.chains]
    return shown if counters else [(*chain, without_counters(nfproto, entries)) for *chain, entries in shown]


def but_for_policies(lines):
    """Return *lines* of iptables-save without the counters that libiptc loses."""
    return [line.partition(" [")[0] if line.startswith(":") else line for line in lines]


def start_again(family, more=""):
    """Let the table have the chains `one` and `two`, and the rules *more* too."""
    family.Table("filter").restore(
        f"*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n:one -\n:two -\n-A two -p tcp -j one\n{more}COMMIT\n"
    )


@pytest.mark.parametrize("commits", ["each", "once"])
def test_the_draft_and_libiptc_do_the_same_and_refuse_the_same(host, family, commits):
    nfproto = IPV6 if family.ipv6 else IPV4

    def run(make, sequence):
        start_again(family, "-A OUTPUT -j two\n")  # so that a jump from `one` to `two` is a loop
        handle, said = make(), []
        for verb, *arguments in sequence:
            arguments = [
                entry_of(family, *value) if isinstance(value, tuple) and isinstance(value[1], str) else value
                for value in arguments
            ]
            said.append(outcome(getattr(handle, verb), *arguments))
            if commits == "each":
                said.append(outcome(handle.commit))
                handle.close()
                handle = make()
        said.append(outcome(handle.commit))
        handle.close()
        # libiptc does not zero what is new in the same commit
        zeroed = commits == "once" and any(verb.startswith("zero") for verb, *_ in sequence)
        return said, table_of(nfproto, counters=not zeroed)

    @random_trials
    @given(edits)
    def same(sequence):
        ours = run(lambda: TableDraft(TableBlob(nfproto, "filter")), sequence)
        assert ours == run(lambda: Handle(nfproto, "filter"), sequence)

    same()


def test_programs_do_the_same_on_both_engines(host, family):
    """By the public classes: with a commit for each edit, and with all edits in one transaction."""

    def program(backend, together):
        start_again(family)
        table = family.Table("filter", backend=backend)
        chain = iptc.Chain(table, "INPUT")
        rules = [family.Rule.from_args(f"-p tcp --dport {port} -j one") for port in range(1, 6)]

        def steps():
            table.create_chain("new")
            for rule in rules:
                chain.append_rule(rule)
            chain.insert_rule(rules[2], 1)
            chain.delete_rule(rules[2])
            chain.replace_rule(family.Rule.from_args("-p udp -c 7 8 -j new"), 0)
            chain.set_policy("DROP", (5, 6))
            iptc.Chain(table, "two").rename("zwei")
            chain.ensure_rule(rules[0])
            chain.ensure_rule(rules[0])
            chain.delete_rule_at(1)

        said = []
        if together:
            with table.transaction():
                steps()
        else:
            steps()
        said.append(outcome(iptc.Chain(table, "zwei").delete))
        said.append(outcome(table.create_chain, "new"))
        said.append(outcome(iptc.Chain(table, "new").delete))
        said.append(outcome(chain.delete_rule_at, 99))
        said.append(outcome(chain.append_rule, family.Rule.from_args("-j zwei")))
        loop = iptc.Chain(table, "new")
        said.append(outcome(loop.append_rule, family.Rule.from_args("-j new")))
        said.append([str(rule) for rule in chain.rules])
        said.append(but_for_policies(table.save().split("\n")[1:-2]))
        return said, but_for_policies(host.save(ipv6=family.ipv6))

    for together in (False, True):
        ours = program("legacy", together)
        theirs = program("libiptc", together)
        assert ours == theirs
        assert "-A INPUT -p udp -j new" in ours[1]


TEXT = """*filter
:INPUT DROP [3:4]
:one - [0:0]
:three - [0:0]
[5:6] -A INPUT -p tcp -m tcp --dport 80 -j three
-A INPUT -p tcp -m tcp --dport 81 -g one
-A three -j LOG
-I INPUT 2 -p udp -j ACCEPT
-R INPUT 1 -p icmp -j DROP
-D INPUT -p udp -j ACCEPT
-Z INPUT 1
-N four
-E four five
-A five
-F three
-X three2
COMMIT
"""


@pytest.mark.parametrize("flush", [True, False])
def test_a_text_is_restored_as_by_the_draft(host, family, flush):
    text = TEXT.replace("-p icmp", "-p ipv6-icmp") if family.ipv6 else TEXT
    for given in (text, text.replace("-X three2\n", ""), text.replace("-X three2", "-X three\n-F INPUT\n-X three")):
        results = []
        for backend in ("legacy", "libiptc"):
            start_again(family)
            table = family.Table("filter", backend=backend)
            said = outcome(lambda: table.restore(given, counters=True, flush=flush))
            results.append((said, host.save(ipv6=family.ipv6, counters=True)))
        assert results[0] == results[1]


there = ["INPUT", "FORWARD", "one", "two", "three"]
words = st.sampled_from([*there * 6, "OUTPUT", "c" * 29, "nope"])
conditions = st.sampled_from(
    ["", "-p udp ", "-p udp --dport 1 ", "-i lo ", "-s 0/0 ", "-c 3 4 ", "-p tcp -m tcp --syn "]
)
jumps = st.sampled_from(
    [*["", "-j ACCEPT", "-j DROP", "-j LOG", "-j one", "-j two", "-g three"] * 4, "-j RETURN", "-j INPUT", "-j nope"]
)
numbers = st.sampled_from([*[1, 2] * 6, 3, 0, 9])
new = st.sampled_from([*["four", "five"] * 4, "b" * 28, "c" * 29, "one", "INPUT", "ACCEPT"])
COMMANDS = [
    st.tuples(st.sampled_from(["-A", "-A", "-D", "-C"]), words, conditions, jumps),
    st.tuples(st.just("-A"), st.sampled_from(["INPUT", "one", "two"]), conditions, jumps),
    st.tuples(st.just("-I"), words, conditions, jumps),
    st.tuples(st.sampled_from(["-I", "-R"]), words, numbers, conditions, jumps),
    st.tuples(st.sampled_from(["-D", "-Z"]), words, numbers),
    st.tuples(st.sampled_from(["-F", "-F", "-X", "-Z"]), words),
    st.tuples(st.just("-N"), new),
    st.tuples(st.sampled_from(["-F", "-X", "-Z"])),
    st.tuples(st.just("-E"), words, new),
    st.tuples(
        st.just("-P"),
        st.sampled_from([*["INPUT", "FORWARD"] * 4, "one"]),
        st.sampled_from(["DROP", "ACCEPT", "DROP", "one"]),
    ),
    st.tuples(st.just(":INPUT"), st.sampled_from(["ACCEPT", "DROP", "-"]), st.sampled_from(["[5:6]", ""])),
    st.builds(lambda name: (f":{name}", "- [7:8]"), new),
]
texts = st.lists(st.one_of(COMMANDS).map(lambda parts: " ".join(map(str, parts))), max_size=12)
"""Commands of which most can be carried out after those of `BEFORE`."""
BEFORE = [
    "*filter",
    ":one -",
    ":two -",
    ":three -",
    "-A one -p udp",
    *(f"-A {name} -p tcp -j ACCEPT" for name in there),
]


def test_random_texts_are_restored_as_by_the_draft(host, family):
    nfproto = IPV6 if family.ipv6 else IPV4

    @random_trials
    @given(texts, st.booleans(), st.booleans())
    def same(lines, flush, counters):
        text = "\n".join([*BEFORE, *lines, "COMMIT", ""])
        results = []
        for backend in ("legacy", "libiptc"):
            start_again(family)
            table = family.Table("filter", backend=backend)
            said = outcome(table.restore, text, flush=flush, counters=counters)
            results.append((said, table_of(nfproto, counters="-Z" not in text)))
        assert results[0] == results[1], text

    same()


MISTAKES = [
    "-X INPUT",
    "-X two",
    "-X one",
    "-X nope",
    "-N one",
    "-E one two",
    "-E nope x",
    "-E INPUT x",
    "-E one ACCEPT",
    "-P one DROP",
    "-P INPUT FOO",
    "-F nope",
    "-Z nope",
    "-Z one 9",
    "-D INPUT 9",
    "-D nope 1",
    "-D INPUT -j DROP",
    "-D nope -j DROP",
    "-R INPUT 9 -j DROP",
    "-R nope 1 -j DROP",
    "-I INPUT 9 -j DROP",
    "-I nope -j DROP",
    "-A nope -j DROP",
    "-A INPUT -j nope",
    "-A nope -j nope",
    "-I INPUT 9 -j nope",
    "-D INPUT -j nope",
    "-A INPUT -g ACCEPT",
    "-A INPUT -g nope",
    "-A INPUT -j OUTPUT",
    "-C INPUT -j DROP",
    ":one FOO",
    ":INPUT FOO [0:0]",
    ":one - [0:0]",
    ":ACCEPT - [0:0]",
    "-A two -j DROP\n-A two -j ACCEPT\n-A two -j nope",
    "-E two a\n-X",
    "-N a\n-A a -j DROP\n-X",
    "-A two -j DROP\n-A nope -j DROP",
]


def test_mistakes_of_a_text_are_refused_in_the_same_words(host, family):
    """On both engines. If the text is sent later, the table in memory refuses them already, except for the targets of
    jumps."""
    start_again(family)
    tables = [family.Table("filter", backend=backend) for backend in ("legacy", "libiptc")]
    for mistake in MISTAKES:
        text = f"*filter\n:INPUT ACCEPT [0:0]\n:one - [0:0]\n:two - [0:0]\n-A two -j one\n{mistake}\nCOMMIT\n"
        said = [outcome(lambda: table.restore(text, test=True)) for table in tables]
        assert said[0] == said[1]
        assert said[0][2].startswith(f"line {6 + mistake.count(chr(10))}"), (mistake, said)
        if "nope'" not in said[0][2] and not any(
            word in mistake for word in ("ACCEPT", "-j OUTPUT", "-g nope", "-j nope")
        ):
            with pytest.raises(iptc.IPTCError) as refused, tables[0].transaction():
                tables[0].restore(text)
            assert str(refused.value) == said[0][2]


def test_it_is_used_where_it_is_asked_for(host, monkeypatch):
    assert iptc.backend() == "legacy"
    monkeypatch.setenv("IPTC_BACKEND", "libiptc")
    assert iptc.backend() == "libiptc"
    table = iptc.Table("filter")
    assert table.backend == "libiptc"
    iptc.Chain(table, "INPUT").append_rule(iptc.Rule.from_args("-p tcp -j ACCEPT"))
    assert host.rules() == ["-A INPUT -p tcp -j ACCEPT"]
    assert iptc.easy.dump_chain("filter", "INPUT") == [{"protocol": "tcp", "target": "ACCEPT", "counters": (0, 0)}]
    with iptc.CounterReader("filter") as reader:
        assert list(reader.read()["INPUT"]) == [(0, 0)]
    assert "-A INPUT -p tcp -j ACCEPT\n" in iptc.save()


def test_several_tables_are_put_back_where_a_later_one_is_refused(host, family):
    filter, mangle = (family.Table(name, backend="libiptc") for name in ("filter", "mangle"))
    iptc.Chain(filter, "INPUT").append_rule(family.Rule.from_args("-p tcp -c 3 4 -j ACCEPT"))
    iptc.Chain(mangle, "INPUT")
    before = host.save(ipv6=family.ipv6, counters=True)
    with pytest.raises(iptc.KernelError), iptc.transaction(filter, mangle):
        iptc.Chain(filter, "INPUT").flush()
        loop = mangle.create_chain("loop")
        loop.append_rule(family.Rule.from_args("-j loop"))
        iptc.Chain(mangle, "INPUT").append_rule(family.Rule.from_args("-j loop"))
    assert host.save(ipv6=family.ipv6, counters=True) == before


def test_a_closed_handle_and_a_table_that_is_not_there_are_errors(host, family):
    handle = Handle(IPV6 if family.ipv6 else IPV4, "filter")
    handle.close()
    handle.close()
    for call in (handle.chains, handle.commit, lambda: handle.flush("INPUT")):
        with pytest.raises(iptc.KernelError, match="closed"):
            call()
    with pytest.raises(iptc.KernelError, match="closed"):
        Handle.__new__(Handle).chains()
    assert outcome(Handle, handle.nfproto, "nowhere") == outcome(TableBlob, handle.nfproto, "nowhere")
    assert outcome(Handle, handle.nfproto, "x" * 40) == outcome(TableBlob, handle.nfproto, "x" * 40)


WITHOUT = """
import iptc
for make in (lambda: iptc.Table("filter", backend="libiptc"), lambda: iptc.Table6("filter", backend="libiptc")):
    try:
        make()
    except iptc.Unsupported as error:
        print(error)
table = iptc.Table("filter", backend="legacy")
iptc.Chain(table, "INPUT").append_rule(iptc.Rule.from_args("-j ACCEPT"))
print(iptc.Chain(table, "INPUT").rules[0])
"""


def test_where_the_libraries_are_not_there_only_this_engine_is_missing(host, library):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        env={**preloading(library), "FAULTS_MISSING": "libip"},
        capture_output=True,
        text=True,
        check=True,
    )
    printed = done.stdout.splitlines()
    assert printed == [
        "the back end libiptc needs libip4tc.so.2, which is not there: Debian's package libip4tc2 has it, Fedora's iptables-libs",
        "the back end libiptc needs libip6tc.so.2, which is not there: Debian's package libip6tc2 has it, Fedora's iptables-libs",
        "-j ACCEPT",
    ]


def test_a_chain_is_arranged_as_by_the_draft(host, family):
    nfproto = IPV6 if family.ipv6 else IPV4
    results = []
    for make in (
        lambda: TableDraft(TableBlob(nfproto, "filter")),
        lambda: LibiptcTable(nfproto, "filter", Place())._open(),
    ):
        start_again(family)
        for port in range(4):
            host.iptables(f"-A INPUT -p udp --dport {port + 1} -c {port} 9 -j ACCEPT", ipv6=family.ipv6)
        handle = make()
        said = [outcome(handle.arrange, "INPUT", [7]), outcome(handle.arrange, "none", [])]
        handle.arrange("INPUT", [3, entry_of(family, 8, "one"), 0])
        handle.commit()
        handle.close()
        results.append((said, table_of(nfproto)))
    assert results[0] == results[1]
