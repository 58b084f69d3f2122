"""The cost of an edit in a transaction does not depend on the number of rules, nor on the place of the edit."""

import sys

import pytest

import iptc
from iptc.nft.table import NftTable

FEW, MANY = 64, 512


def rule(number, target="ACCEPT"):
    rule = iptc.Rule()
    rule.src = f"10.{number >> 8}.{number & 255}.1"
    rule.create_target(target)
    return rule


def chains_of(count):
    return [f":c{n} - [0:0]" for n in range(count)]


def rules_of(count):
    return [f"-A INPUT -s 10.{n >> 8}.{n & 255}.1/32 -j ACCEPT" for n in range(count)]


def jumps_of(count):
    return [
        *chains_of(count),
        *(f"-A FORWARD -s 10.{n >> 8}.{n & 255}.1/32 -j c{n}" for n in range(count)),
        *(f"-A c{n} -j ACCEPT" for n in range(count)),
    ]


def nothing(count):
    return []


def each(verb):
    """Return the result of verb(table, chain INPUT, number, count) for each number."""

    def run(table, count):
        chain = iptc.Chain(table, "INPUT")
        for number in range(count):
            verb(table, chain, number, count)

    return run


VERBS = {
    "create_chain": (nothing, each(lambda table, chain, n, count: table.create_chain(f"c{n}"))),
    "ensure_chain": (chains_of, each(lambda table, chain, n, count: table.ensure_chain(f"c{n + count // 2}"))),
    "clear_chain": (jumps_of, each(lambda table, chain, n, count: table.clear_chain(f"c{n}"))),
    "delete_chain": (chains_of, each(lambda table, chain, n, count: table.delete_chain(f"c{n}"))),
    "rename": (jumps_of, each(lambda table, chain, n, count: iptc.Chain(table, f"c{n}").rename(f"d{n}"))),
    "rename back and forth": (
        jumps_of,
        each(lambda table, chain, n, count: iptc.Chain(table, "cd"[n % 2] + "0").rename("dc"[n % 2] + "0")),
    ),
    "flush": (jumps_of, lambda table, count: table.flush()),
    "insert first": (rules_of, each(lambda table, chain, n, count: chain.insert_rule(rule(n + count)))),
    "insert second": (rules_of, each(lambda table, chain, n, count: chain.insert_rule(rule(n + count), 1))),
    "insert anywhere": (
        rules_of,
        each(lambda table, chain, n, count: chain.insert_rule(rule(n + count), n * 7919 % (n + count))),
    ),
    "insert the same": (rules_of, each(lambda table, chain, n, count: chain.insert_rule(rule(0), 1 + n // 2))),
    "replace": (rules_of, each(lambda table, chain, n, count: chain.replace_rule(rule(n + count), n))),
    "delete from the head": (rules_of, each(lambda table, chain, n, count: chain.delete_rule(rule(n)))),
    "delete from the tail": (rules_of, each(lambda table, chain, n, count: chain.delete_rule(rule(count - n - 1)))),
    "delete by number": (rules_of, each(lambda table, chain, n, count: chain.delete_rule_at((count - n) // 2))),
    "delete what is missing": (
        rules_of,
        each(lambda table, chain, n, count: chain.delete_rule(rule(n + count), missing_ok=True)),
    ),
    "ensure_rule": (rules_of, each(lambda table, chain, n, count: chain.ensure_rule(rule(n + count // 2)))),
    "ensure and delete": (
        rules_of,
        each(lambda table, chain, n, count: (chain.ensure_rule(rule(n + count)), chain.delete_rule(rule(n)))),
    ),
}


def calls(work):
    """Return how many functions and methods *work* calls, of Python and of compiled modules."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("verb", VERBS)
def test_an_edit_costs_the_same_however_much_is_there(host, verb):
    table = iptc.Table("filter")
    lines, run = VERBS[verb]
    cost = {}
    for count in (FEW, MANY):
        table.restore("\n".join(["*filter", *lines(count), "COMMIT\n"]))
        table.refresh()

        def work():
            with table.transaction():
                run(table, count)

        cost[count] = calls(work) / count
    assert cost[MANY] < 1.5 * cost[FEW] + 1


@pytest.mark.parametrize("autocommit", [True, False])
def test_edits_of_many_kinds_leave_what_the_host_has(host, autocommit):
    """The same edits by iptc in one commit and by the host's tool one after the other: duplicates, places, jumps,
    renames."""
    table = iptc.Table("filter", autocommit=autocommit)
    lines = [
        "*filter",
        ":a - [0:0]",
        ":b - [0:0]",
        *(f"-A INPUT -s 10.0.0.{n % 5}/32 -j {'ab'[n % 2]}" for n in range(40)),
        "-A a -j ACCEPT",
        "COMMIT\n",
    ]
    plan = [
        "-I INPUT 7 -s 10.0.0.1/32 -j a",
        "-D INPUT 3",
        "-D INPUT -s 10.0.0.2/32 -j a",
        "-R INPUT 9 -s 10.0.0.1/32 -j a",
        "-E a c",
        "-D INPUT -s 10.0.0.1/32 -j c",
        "-N f",
        "-A f -j b",
        "-A INPUT -j f",
        "-E f d",
        "-D INPUT 30",
        "-I INPUT 30 -s 10.0.0.3/32 -j d",
        "-D INPUT -s 10.0.0.3/32 -j d",
        "-E b e",
        "-F c",
        "-D INPUT -s 10.0.0.4/32 -j c",
        "-I INPUT 1 -s 10.0.0.0/32 -j e",
    ]
    host.restore("\n".join(lines))
    for line in plan:
        host.iptables(*line.split())
    expected = host.save(False)
    host.restore("\n".join(lines))
    table.refresh()
    with table._together():
        for line in plan:
            command, name, *words = line.split()
            chain, at = iptc.Chain(table, name), None
            if words and words[0].isdigit():
                at = int(words.pop(0)) - 1
            made = iptc.Rule.from_args(words) if words and command != "-E" else None
            {
                "-I": lambda: chain.insert_rule(made, at),
                "-R": lambda: chain.replace_rule(made, at),
                "-D": lambda: chain.delete_rule(made) if made else chain.delete_rule_at(at),
                "-A": lambda: chain.append_rule(made),
                "-E": lambda: chain.rename(words[0]),
                "-N": lambda: table.create_chain(name),
                "-F": chain.flush,
            }[command]()
        shown = [f"-A {chain.name} {rule}" for chain in table.chains for rule in chain.rules]
    table.commit()
    table.autocommit = True
    assert host.save(False) == expected
    assert shown == [line for line in expected if line.startswith("-A")]


@pytest.mark.one_backend("nft")
def test_who_asks_for_chains_reads_no_rules(host, monkeypatch):
    host.restore("\n".join(["*filter", *jumps_of(3), "COMMIT\n"]))
    monkeypatch.setattr(NftTable, "read", lambda table: pytest.fail("the whole table is read"))
    assert iptc.easy.has_chain("filter", "c1") and not iptc.easy.has_chain("filter", "c3")
    assert iptc.easy.get_chains("filter") == ["INPUT", "FORWARD", "OUTPUT", "c0", "c1", "c2"]
    assert iptc.easy.get_tables() == iptc.Table.ALL
    assert iptc.easy.get_policy("filter", "INPUT") == "ACCEPT"
    table = iptc.Table("filter")
    assert table.ensure_chain("c3") and not table.ensure_chain("c3") and not table.clear_chain("c3")
    assert (
        table.is_chain("c3")
        and not table.is_chain("c4")
        and table.builtin_chain("INPUT")
        and not table.builtin_chain("c3")
    )
    assert [chain.name for chain in table.chains][-1] == "c3"
    with table.transaction():
        assert table.is_chain("c3") and len(table.chains) == 7
    assert iptc.easy.add_chain("filter", "c4")
    iptc.easy.delete_chain("filter", "c4")
    rule(1).create_target("c0")
    assert host.save(False)[1:8] == [
        ":INPUT ACCEPT [0:0]",
        ":FORWARD ACCEPT [0:0]",
        ":OUTPUT ACCEPT [0:0]",
        ":c0 - [0:0]",
        ":c1 - [0:0]",
        ":c2 - [0:0]",
        ":c3 - [0:0]",
    ]


def test_what_is_known_of_chains_follows_edits(host):
    table = iptc.Table("filter")
    host.iptables("-N", "theirs")
    assert not table.is_chain("theirs")
    table.refresh()
    assert table.is_chain("theirs")
    table.create_chain("web")
    with table.transaction():
        assert table.is_chain("web")
        table.delete_chain("web")
        assert not table.is_chain("web")
        table.create_chain("a")
        assert [chain.name for chain in table.chains][3:] == ["a", "theirs"]
    assert [chain.name for chain in table.chains][3:] == ["a", "theirs"]
    table.autocommit = False
    table.create_chain("b")
    assert table.is_chain("b") and iptc.easy.has_chain("filter", "b")
    table.refresh()
    assert not table.is_chain("b")
    table.autocommit = True
    host.iptables("-P", "INPUT", "DROP")
    assert iptc.Chain(table, "INPUT").get_policy().name == "DROP"
