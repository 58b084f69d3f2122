"""Verbs that can be repeated: they return whether anything changed, and decide by the table as it is at the commit, not
as it was read."""

import os
import subprocess
import sys

import pytest

import iptc
from iptc.language import comparing, printing


@pytest.fixture(params=[True, False], ids=["autocommit", "batch"])
def chain(request, host, family):
    """Return INPUT, in a table that sends each edit at once, or at the commit of the test."""
    return iptc.Chain(family.Table("filter", autocommit=request.param), "INPUT")


def rule(family, number, comment=None):
    made = family.Rule()
    made.protocol = "tcp"
    made.create_match("tcp").dport = str(number)
    if comment is not None:
        made.create_match("comment").comment = comment
    made.create_target("ACCEPT")
    return made


def ports(host, chain):
    """Commit, and return the ports of the rules in the kernel."""
    chain.table.commit()
    return [int(line.split("--dport ")[1].split()[0]) for line in host.rules("6" in type(chain.table).__name__)]


def test_ensure_rule(host, family, chain):
    assert chain.ensure_rule(rule(family, 1)) is True
    assert chain.ensure_rule(rule(family, 1)) is False
    assert chain.ensure_rule(rule(family, 2), position=0) is True
    assert chain.ensure_rule(rule(family, 3), position=1) is True
    assert chain.ensure_rule(rule(family, 4), 3) is True
    assert chain.ensure_rule(rule(family, 1), position=0) is False
    assert ports(host, chain) == [2, 3, 1, 4]
    with pytest.raises(iptc.KernelError, match="can't insert entry into chain INPUT: Index of insertion too big"):
        chain.ensure_rule(rule(family, 5), position=5)
    for wrong in (-1, "0", 1.0, True):
        with pytest.raises(iptc.ParameterError):
            chain.ensure_rule(rule(family, 5), position=wrong)
    assert ports(host, chain) == [2, 3, 1, 4]


def test_ensure_rule_in_a_chain_that_is_not_there(host, family, chain):
    with pytest.raises(iptc.NotFound, match="can't append entry to chain web: No chain/target/match by that name"):
        iptc.Chain(chain.table, "web").ensure_rule(rule(family, 1))


def test_what_is_ensured_is_looked_for_in_the_table_as_it_is(host, family, chain):
    assert not chain.has_rule(rule(family, 1))
    host.iptables("-A INPUT -p tcp -m tcp --dport 1 -j ACCEPT", ipv6=family.ipv6)
    chain.ensure_rule(rule(family, 1))
    host.iptables("-A INPUT -p tcp -m tcp --dport 2 -j ACCEPT", ipv6=family.ipv6)
    assert ports(host, chain) == [1, 2]


def test_nothing_is_sent_where_there_is_nothing_to_do(host, family, chain):
    chain.append_rule(rule(family, 1))
    chain.table.commit()
    # a replacement of the table would give the foot of a user chain new counters; the digest of a snapshot stays as it
    # is
    host.iptables("-N web", ipv6=family.ipv6)
    before = os.stat("/proc/self/ns/net")
    chain.ensure_rule(rule(family, 1))
    chain.table.ensure_chain("web")
    chain.delete_rule(rule(family, 9), missing_ok=True)
    assert chain.delete_rules(lambda _: False) == 0
    chain.table.clear_chain("web")
    chain.table.commit()
    assert os.stat("/proc/self/ns/net") == before and ports(host, chain) == [1]


def test_counters_tell_no_rule_from_another(host, family, chain):
    counted = rule(family, 1)
    counted.counters = (5, 6)
    chain.append_rule(counted)
    assert chain.has_rule(rule(family, 1)) and chain.ensure_rule(rule(family, 1)) is False


def test_has_rule_is_as_iptables_check(host, family, chain):
    chain.table.autocommit = True
    texts = [
        "-p tcp --dport 1 -j ACCEPT",
        "-p tcp -m tcp --dport 1 -m comment --comment x -j ACCEPT",
        "-p tcp -j DROP",
        "-j REJECT",
        "-p udp -m multiport --dports 1,2 -j ACCEPT",
        "-i eth+ -j DROP",
        "! -p tcp -j DROP",
        "-m limit --limit 5/min -j LOG --log-prefix x",
    ]
    for text in texts[::2]:
        host.iptables(f"-A INPUT {text}", ipv6=family.ipv6)
    chain.table.refresh()
    for text in texts:
        made = family.Rule.from_args(text)
        there = host.iptables(f"-C INPUT {text}", ipv6=family.ipv6, check=False).returncode == 0
        assert chain.has_rule(made) is (made in chain) is there, text


def test_has_rule_follows_every_edit(host, family, chain):
    one, two, three = (rule(family, n) for n in (1, 2, 3))
    assert one not in chain
    chain.append_rule(one)
    assert one in chain and two not in chain
    chain.insert_rule(two)
    assert two in chain
    chain.replace_rule(three, 0)
    assert three in chain and two not in chain
    chain.delete_rule(one)
    assert one not in chain and three in chain
    chain.flush()
    assert three not in chain
    assert iptc.Chain(chain.table, "nosuch").has_rule(one) is False
    with pytest.raises(iptc.ParameterError):
        chain.has_rule("-j DROP")


def test_rules_that_differ_in_unused_bytes_only_are_equal_but_not_the_same(host, family, chain):
    """Plugins may leave in bytes that nobody reads what their text does not show: `==` lets the text decide, `iptables
    -C` does not."""
    text = "-p tcp -m tcp --dport 1 -m recent --set --name x -j ACCEPT"
    host.iptables(f"-A INPUT {text}", ipv6=family.ipv6)
    made = family.Rule.from_args(text)
    entry = bytearray(made.rule)
    place = entry.find(b"x\0", entry.find(b"recent") + 40)
    entry[place + 3] = 7
    chain.table.refresh()
    assert family.Rule(bytes(entry)) == made and family.Rule(bytes(entry)) in chain.rules
    assert chain.has_rule(made) and not chain.has_rule(family.Rule(bytes(entry)))
    assert not chain.has_rule(family.Rule.from_args(text.replace("name x", "name y")))


def test_delete_rule(host, family, chain):
    for number in (1, 2, 1):
        chain.append_rule(rule(family, number))
    assert chain.delete_rule(rule(family, 1)) is True
    assert chain.delete_rule(rule(family, 9), missing_ok=True) is False
    with pytest.raises(iptc.NotFound, match="can't delete entry from chain INPUT: Bad rule"):
        chain.delete_rule(rule(family, 9))
    assert iptc.Chain(chain.table, "nosuch").delete_rule(rule(family, 9), missing_ok=True) is False
    assert ports(host, chain) == [2, 1]


def test_delete_rule_at(host, family, chain):
    for number in (1, 2, 3):
        chain.append_rule(rule(family, number))
    chain.delete_rule_at(1)
    assert ports(host, chain) == [1, 3]
    with pytest.raises(iptc.KernelError, match="Index of deletion too big"):
        chain.delete_rule_at(2)
    for wrong in (-1, "0", None):
        with pytest.raises(iptc.ParameterError):
            chain.delete_rule_at(wrong)
    assert ports(host, chain) == [1, 3]


def test_delete_rule_at_means_the_rule_that_was_read_there(host, family, chain):
    for number in (1, 2, 3):
        chain.append_rule(rule(family, number))
    chain.table.commit()
    assert len(chain.rules) == 3
    host.iptables("-I INPUT -p tcp -m tcp --dport 9 -j ACCEPT", ipv6=family.ipv6)
    chain.delete_rule_at(1)
    assert ports(host, chain) == [9, 1, 3]
    assert len(chain.rules) == 3
    host.iptables("-D INPUT 3", ipv6=family.ipv6)
    with pytest.raises(iptc.Conflict, match="position 2 is gone"):
        chain.delete_rule_at(2)
        chain.table.commit()
    assert ports(host, chain) == [9, 1]


def test_delete_rules(host, family, chain):
    for number, comment in ((1, "a"), (2, None), (3, "b"), (4, "a"), (5, "ab")):
        chain.append_rule(rule(family, number, comment))
    assert chain.delete_rules(comment="a") == 2
    assert chain.delete_rules(comment="a") == 0
    assert ports(host, chain) == [2, 3, 5]
    assert chain.delete_rules(lambda r: r.matches[0].dport == "2") == 1
    assert chain.delete_rules(lambda r: r.matches[0].dport == "3", comment="ab") == 0
    assert chain.delete_rules(lambda r: True, comment="ab") == 1
    assert ports(host, chain) == [3]
    for wrong in ({}, {"predicate": "x"}, {"comment": 5}, {"predicate": 5, "comment": "x"}):
        with pytest.raises(iptc.ParameterError):
            chain.delete_rules(**wrong)
    with pytest.raises(ZeroDivisionError):
        chain.delete_rules(lambda r: 1 / 0)
    with pytest.raises(iptc.NotFound):
        iptc.Chain(chain.table, "nosuch").delete_rules(comment="a")
    assert ports(host, chain) == [3]


def test_ensure_and_clear_chain(host, family, chain):
    table = chain.table
    assert table.ensure_chain("web") is True and table.ensure_chain("web") is False
    assert table.ensure_chain(iptc.Chain(table, "web")) is False
    assert table.ensure_chain("INPUT") is False
    iptc.Chain(table, "web").append_rule(rule(family, 1))
    assert table.clear_chain("web") is True and table.clear_chain("web") is False
    assert table.clear_chain("new") is True
    chain.append_rule(rule(family, 2))
    assert table.clear_chain("INPUT") is True
    for wrong in ("", "DROP", "x" * 29, "-a", 5, None):
        with pytest.raises(iptc.ParameterError):
            table.ensure_chain(wrong)
    table.commit()
    assert [line for line in host.save(family.ipv6) if line.startswith(":") and " - " in line] == [
        ":new - [0:0]",
        ":web - [0:0]",
    ]
    assert host.rules(family.ipv6) == []


ENSURER = """
import sys, iptc
sys.stdin.read(1)
table = (iptc.Table6 if sys.argv[1] == "6" else iptc.Table)("filter")
added = 0
for number in range(1, 26):
    table.ensure_chain("web")
    rule = table.create_rule()
    rule.protocol = "tcp"
    rule.create_match("tcp").dport = str(number)
    rule.create_target("ACCEPT")
    chain = iptc.Chain(table, "web")
    if number % 2:
        added += chain.ensure_rule(rule)
    else:
        with table.transaction():
            chain.ensure_rule(rule, position=0)
print(added)
"""


def test_processes_that_ensure_the_same_leave_it_once(host, family):
    command = [sys.executable, "-c", ENSURER, "6" if family.ipv6 else "4"]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    for process in processes:
        process.stdin.write("x")
        process.stdin.flush()
    added = sum(int(process.communicate()[0]) for process in processes)
    numbers = [int(line.split("--dport ")[1].split()[0]) for line in host.rules(family.ipv6)]
    assert sorted(numbers) == list(range(1, 26))
    assert added == 13


def test_lookup_among_many_is_not_by_comparing_with_each(host, family, monkeypatch):
    """From the second question on, the rules of a chain are not read again, whether the rule is there or not."""
    host.restore(
        "*filter\n" + "".join(f"-A INPUT -p tcp -m tcp --dport {n} -j ACCEPT\n" for n in range(1, 2001)) + "COMMIT\n",
        family.ipv6,
    )
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    for number in (3000, 3001):
        assert rule(family, number) not in chain
    worked = []
    for module, name in ((comparing, "compare_key"), (printing, "render")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real: worked.append(a) or real(*a))
    for number in range(1991, 2011):
        assert (rule(family, number) in chain) is (number <= 2000)
    # one key for each lookup
    assert len(worked) == 20
