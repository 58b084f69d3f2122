"""A ruleset as a value, the difference of two rulesets, and the fewest edits that lead from one to the other."""

import os
import random
import re
import socket
import sys
import threading

import pytest
import rulesets
from conftest import enter_new_namespace, forget_tables, tables_of
from grammar import rules
from hypothesis import given, settings
from hypothesis import strategies as st
from rulesets import generator
from test_grammar import NOT_FROM_ZERO, appended, relaxed

import iptc
from iptc.managing import numbering
from iptc.nft import arranging

STRESS = "IPTC_STRESS" in os.environ

EMPTY = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"


def filter_table(*lines, chains=(), policies=("ACCEPT", "ACCEPT", "ACCEPT")):
    """A text of the filter table."""
    declared = [f":{name} {policy} [0:0]" for name, policy in zip(("INPUT", "FORWARD", "OUTPUT"), policies)]
    return "\n".join(["*filter", *declared, *(f":{chain} - [0:0]" for chain in chains), *lines, "COMMIT", ""])


def ports(*numbers, chain="INPUT"):
    """Rules that differ in their port."""
    return [f"-A {chain} -p tcp -m tcp --dport {number} -j ACCEPT" for number in numbers]


# ------------------------------------------------------------- the value


def test_of_a_text(host):
    ruleset = iptc.Ruleset.read(filter_table("-A INPUT -p tcp --dport 22 -j web", "-A web -j DROP", chains=["web"]))
    assert list(ruleset) == [(4, "filter")] and (4, "filter") in ruleset and (6, "filter") not in ruleset
    table = ruleset[4, "filter"]
    assert table["INPUT"].rules == ["-p tcp -m tcp --dport 22 -j web"] and list(table["web"]) == ["-j DROP"]
    assert table["INPUT"].policy == "ACCEPT" and table["web"].policy is None
    assert str(ruleset) == filter_table("-A INPUT -p tcp -m tcp --dport 22 -j web", "-A web -j DROP", chains=["web"])


def test_equal_by_what_it_says(host):
    one = iptc.Ruleset.read(filter_table("-A INPUT -p tcp --dport 22 -s 10.1.2.3/8 -j ACCEPT", "-A INPUT -p 6 -j DROP"))
    other = iptc.Ruleset.read(
        filter_table("-I INPUT -j DROP -p tcp", "-I INPUT -j ACCEPT --source 10.0.0.0/8 -p tcp -m tcp --dport ssh")
    )
    assert one == other and hash(one) == hash(other) and not iptc.diff(one, other)
    assert one != iptc.Ruleset.read(EMPTY) and one != "text"
    # an unused table counts as missing
    assert iptc.Ruleset.read(EMPTY) == iptc.Ruleset() and hash(iptc.Ruleset.read(EMPTY)) == hash(iptc.Ruleset())


def test_built(host):
    built = iptc.Ruleset.built(
        {"filter": {"INPUT": ["-p tcp --dport 22 -j web", "-s 10.0.0.1,10.0.0.2 -j DROP"], "web": []}},
        {("filter", "FORWARD"): "DROP"},
    )
    text = filter_table(
        "-A INPUT -p tcp -m tcp --dport 22 -j web",
        "-A INPUT -s 10.0.0.1/32 -j DROP",
        "-A INPUT -s 10.0.0.2/32 -j DROP",
        chains=["web"],
        policies=("ACCEPT", "DROP", "ACCEPT"),
    )
    assert built == iptc.Ruleset.read(text)
    rule = iptc.Rule6.from_args("-s 2001:db8::1 -j DROP")
    both = built | iptc.Ruleset.built({"raw": {"PREROUTING": [rule]}}, ipv6=True)
    assert list(both) == [(4, "filter"), (6, "raw")]
    with pytest.raises(iptc.ParameterError):
        iptc.Ruleset.built({"filter": {"INPUT": [rule]}})
    with pytest.raises(iptc.ParameterError):
        iptc.Ruleset.built({"filter": {"web": []}}, {("filter", "web"): "DROP"})
    with pytest.raises(iptc.NotFound):
        iptc.Ruleset.built({"nosuch": {}})


def test_a_rule_without_a_target_is_refused_as_by_a_chain(host):
    with pytest.raises(iptc.ParameterError, match="invalid rule"):
        iptc.Ruleset.built({"filter": {"INPUT": [iptc.Rule()]}})
    assert list(iptc.Ruleset.built({"filter": {"INPUT": ["-p tcp"]}})[4, "filter"]["INPUT"]) == ["-p tcp"]


@pytest.mark.parametrize(
    "chain, option", [("INPUT", "-o"), ("PREROUTING", "-o"), ("OUTPUT", "-i"), ("POSTROUTING", "-i")]
)
@pytest.mark.parametrize("negated", ["", "! "])
def test_a_built_ruleset_has_no_interface_that_packets_do_not_have(host, ipv6, chain, option, negated):
    text = f"{negated}{option} eth0 -j ACCEPT"
    # since 1.8.11 iptables says the long name
    word = {"-i": "--in-interface", "-o": "--out-interface"}[option]
    for rule in (text, (iptc.Rule6 if ipv6 else iptc.Rule).from_args(text)):
        with pytest.raises(iptc.ParameterError, match=f"Can't use ({option}|{word}) with {chain}"):
            iptc.Ruleset.built({"mangle": {chain: [rule]}}, ipv6=ipv6)


def test_both_families_in_one_text(host):
    text = "# IPv4\n" + filter_table(*ports(22)) + "# IPv6\n" + filter_table(*ports(80))
    both = iptc.Ruleset.read(text)
    assert list(both) == [(4, "filter"), (6, "filter")] and both.text() == text
    assert list(iptc.Ruleset.read(text, ipv6=True)) == [(6, "filter")]
    # a text without headings has one family
    assert list(iptc.Ruleset.read(EMPTY)) == [(4, "filter")] and list(iptc.Ruleset.read(EMPTY, ipv6=True)) == [
        (6, "filter")
    ]
    with pytest.raises(iptc.ParameterError, match="# IPv6"):
        iptc.Ruleset.read("# IPv4\n" + EMPTY, ipv6=True)
    with pytest.raises(iptc.ParameterError, match="second"):
        iptc.Ruleset.read("# IPv4\n# IPv6\n# IPv4\n" + EMPTY)
    with pytest.raises(iptc.ParameterError, match="before the first"):
        iptc.Ruleset.read(EMPTY + "# IPv4\n" + EMPTY)
    # in the order of the text
    assert list(iptc.Ruleset.read("# a comment\n\n# IPv6\n" + EMPTY + "# IPv4\n" + EMPTY)) == [
        (6, "filter"),
        (4, "filter"),
    ]


@pytest.mark.parametrize(
    "text, line",
    [
        (filter_table("-A INPUT -j ACCEPT", "-A INPUT --nosuch"), 6),
        ("*filter\n-A nosuch -j DROP\nCOMMIT\n", 2),
        ("*nosuch\nCOMMIT\n", 1),
        ("# IPv4\n*filter\nCOMMIT\n# IPv6\n*filter\n-A INPUT -s 10.0.0.1\nCOMMIT\n", 6),
    ],
)
def test_mistakes_have_the_number_of_their_line(host, text, line):
    with pytest.raises(iptc.IPTCError) as caught:
        iptc.Ruleset.read(text)
    assert caught.value.line == line


def test_live_is_what_the_tools_save(host):
    host.restore(
        filter_table(*ports(22, 80), "-A INPUT -j web", "-A web -m limit --limit 5/min -j RETURN", chains=["web"])
    )
    host.iptables("-t mangle -A PREROUTING -j MARK --set-mark 1", ipv6=True)
    live = iptc.Ruleset.live()
    assert set(live) >= {(4, "filter"), (6, "mangle")}
    for ipv6, version in ((False, 4), (True, 6)):
        expected = sorted(tables_of("\n".join([*host.save(ipv6), ""])))
        told = [re.sub(r"\[\d+:\d+\]", "[0:0]", part) for part in str(iptc.Ruleset.live(ipv6)).split("\n")]
        assert sorted(tables_of("\n".join(told))) == [
            (name, [re.sub(r"\[\d+:\d+\]", "[0:0]", line) for line in lines]) for name, lines in expected
        ]
        assert {key[0] for key in iptc.Ruleset.live(ipv6)} == {version}


def test_live_creates_no_table(host):
    before = [host.run("sh", "-c", f"cat /proc/net/ip{six}_tables_names; nft list tables") for six in ("", "6")]
    iptc.Ruleset.live()
    assert not iptc.plan(EMPTY) and iptc.plan(filter_table(*ports(22)))
    assert [host.run("sh", "-c", f"cat /proc/net/ip{six}_tables_names; nft list tables") for six in ("", "6")] == before


# ------------------------------------------------------------ differences


def difference(before, after):
    return iptc.diff(iptc.Ruleset.read(before), iptc.Ruleset.read(after))


def test_kinds_of_changes(host):
    before = filter_table(*ports(1, 2, 3, 4, 5, 6), chains=["old"])
    after = filter_table(
        *ports(1, 30, 4, 5, 2, 6, 7), "-A new -j DROP", chains=["new"], policies=("DROP", "ACCEPT", "ACCEPT")
    )
    found = difference(before, after)
    rule = "-p tcp -m tcp --dport {} -j ACCEPT".format
    assert [tuple(change)[3:] for change in found.changed] == [("INPUT", 2, 3, rule(30), rule(3))]
    assert [tuple(change)[3:] for change in found.moved] == [("INPUT", 5, 2, rule(2), rule(2))]
    assert [(change.chain, change.number, change.rule) for change in found.added] == [
        ("INPUT", 7, rule(7)),
        ("new", 1, "-j DROP"),
    ]
    assert found.removed == [] and [tuple(change) for change in found.policies] == [
        ("policy", 4, "filter", "INPUT", None, None, "DROP", "ACCEPT")
    ]
    assert (
        found.summary()
        == "1 chain added, 1 chain removed, 1 policy changed, 2 rules added, 1 rule changed, 1 rule moved"
    )
    assert len(found) == 7 and found and not difference(after, after) and difference(after, after).summary() == ""


def test_as_a_unified_diff(host):
    before = filter_table(*ports(*range(1, 20)))
    after = filter_table(*ports(1, *range(3, 12), 120, *range(12, 20)), policies=("DROP", "ACCEPT", "ACCEPT"))
    assert (
        difference(before, after).text(("old", "new"), context=1)
        == """\
--- old
+++ new
@@ IPv4 filter INPUT @@
-:INPUT ACCEPT
+:INPUT DROP
@@ -1,3 +1,2 @@ IPv4 filter INPUT
 -A INPUT -p tcp -m tcp --dport 1 -j ACCEPT
--A INPUT -p tcp -m tcp --dport 2 -j ACCEPT
 -A INPUT -p tcp -m tcp --dport 3 -j ACCEPT
@@ -11,2 +10,3 @@ IPv4 filter INPUT
 -A INPUT -p tcp -m tcp --dport 11 -j ACCEPT
+-A INPUT -p tcp -m tcp --dport 120 -j ACCEPT
 -A INPUT -p tcp -m tcp --dport 12 -j ACCEPT
"""
    )
    coloured = difference(before, after).text(colour=True)
    assert re.sub(r"\x1b\[\d*m", "", coloured) == difference(before, after).text() != coloured


def patched(rules, text):
    """Return *rules* with the hunks of the unified diff *text* applied, as `patch` does."""
    done, at = [], 0
    for hunk in re.split(r"^@@ ", text, flags=re.MULTILINE)[1:]:
        head, *lines = hunk.splitlines()
        start, count = map(int, head[1:].split(" ")[0].split(","))
        start -= count > 0
        done += rules[at:start]
        assert [line[1:] for line in lines if line[0] in " -"] == rules[start : start + count]
        done += [line[1:] for line in lines if line[0] in " +"]
        at = start + count
    return done + rules[at:]


def test_a_diff_can_be_applied_as_a_patch(host):
    dice = random.Random(2)
    for _ in range(100):
        sides = [ports(*(dice.randrange(1, 15) for _ in range(dice.randrange(30)))) for _ in range(2)]
        text = difference(*(filter_table(*side) for side in sides)).text(context=dice.randrange(4))
        assert patched(sides[0], text) == sides[1]


def test_as_a_dict(host):
    described = difference(
        filter_table(*ports(1, 2, 3)), filter_table(*ports(2, 1, 4), policies=("ACCEPT", "DROP", "ACCEPT"))
    ).as_dict()
    rule = "-p tcp -m tcp --dport {} -j ACCEPT".format
    assert described == {
        "schema": 1,
        "same": False,
        "chains": [
            {
                "ip_version": 4,
                "table": "filter",
                "chain": "INPUT",
                "state": "there",
                "policy": None,
                "added": [],
                "removed": [],
                "moved": [{"number": 2, "from": 1, "rule": rule(1)}],
                "changed": [{"number": 3, "from": 3, "rule": rule(4), "old_rule": rule(3)}],
            },
            {
                "ip_version": 4,
                "table": "filter",
                "chain": "FORWARD",
                "state": "there",
                "policy": {"from": "ACCEPT", "to": "DROP"},
                "added": [],
                "removed": [],
                "moved": [],
                "changed": [],
            },
        ],
    }


def test_of_several_rules_in_one_place_those_are_changed_that_have_most_in_common(host):
    found = difference(
        filter_table(*ports(1), "-A INPUT -s 10.0.0.1/32 -j DROP", *ports(2)),
        filter_table(*ports(7), "-A INPUT -i eth0 -j RETURN", "-A INPUT -s 10.0.0.2/32 -j DROP", *ports(8)),
    )
    assert [change.number for change in found.changed] == [1, 3, 4] and [change.number for change in found.added] == [2]


# ------------------------------------------------------------- plan, apply

SINGLE = (
    "-j ACCEPT",
    "-j DROP",
    "-p tcp -m tcp --dport 22 -j ACCEPT",
    "-p udp -m udp --sport 53 -j RETURN",
    "-m addrtype --dst-type LOCAL",
    "-m pkttype --pkt-type broadcast -j DROP",
    "-m conntrack --ctstate NEW -j ACCEPT",
    '-m comment --comment "a b" -j DROP',
    "-m quota --quota 10 -j ACCEPT",
    "-j MARK --set-mark 1",
    "-m limit --limit 5/min -j ACCEPT",
    "-p tcp -m multiport --dports 80,443 -j ACCEPT",
    "-j LOG --log-prefix x",
    "-m mark --mark 1",
    "",
    "-m recent --set --name r1",
    "-p tcp -m tcp --syn -m connlimit --connlimit-above 3 -j DROP",
    "-m statistic --mode random --probability 0.5",
)


def any_table(dice, name, ipv6, like=None):
    """Return a random table, or *like*, another table, with a few changes."""
    builtin = generator.BUILTIN[name]
    users = [f"u{number}" for number in range(dice.randrange(6))]
    rules = {} if like is None else {chain: list(rules) for chain, rules in like.items()}
    if like is None:
        rules = {chain: [] for chain in (*builtin, *users)}
    else:
        for chain in [chain for chain in rules if chain not in builtin and dice.random() < 0.3]:
            del rules[chain]
        rules.update({f"n{dice.randrange(5)}": [] for _ in range(dice.randrange(3))})
    names = [chain for chain in rules if chain not in builtin]
    for chain in rules:
        # no loops: a chain jumps only to later chains
        below = names[names.index(chain) + 1 :] if chain in names else names
        own = [rule for rule in rules[chain] if rule.split(" ")[-1] in below or not re.search(r"-[jg] [un]\d$", rule)]
        for _ in range(dice.choice((0, 1, 2, 30)) if like is None else dice.randrange(4)):
            what = dice.random()
            new = [f"-{dice.choice('jg')} {dice.choice(below)}"] if below and what < 0.2 else [dice.choice(SINGLE)]
            if what > 0.9:
                new = [f"-s {generator.address(dice.randrange(1000), ipv6)} -j DROP"]
            where = dice.randrange(len(own) + 1)
            own[where : where + dice.choice((0, 0, 1, 2))] = new
        if like is not None and dice.random() < 0.3:
            where = dice.randrange(len(own) + 1)
            own = own[where:] + own[:where]
        if like is not None and dice.random() < 0.3:
            del own[dice.randrange(len(own) + 1) :]
        rules[chain] = own
    return rules


def text_of(dice, tables):
    lines = []
    for name, chains in tables.items():
        lines.append(f"*{name}")
        for chain in chains:
            policy = (
                dice.choice(("ACCEPT", "ACCEPT", "DROP"))
                if chain in generator.BUILTIN[name] and name != "nat"
                else "ACCEPT"
            )
            lines.append(f":{chain} {policy if chain in generator.BUILTIN[name] else '-'} [0:0]")
        lines += [f"-A {chain} {rule}" for chain, own in chains.items() for rule in own]
        lines.append("COMMIT")
    return "\n".join([*lines, ""])


def pair(dice, ipv6):
    """Return two rulesets that are more or less similar."""
    names = dice.sample(("filter", "mangle", "raw"), dice.randrange(1, 4))
    before = {name: any_table(dice, name, ipv6) for name in names}
    after = {name: any_table(dice, name, ipv6, before[name] if dice.random() < 0.8 else None) for name in names}
    return text_of(dice, before), text_of(dice, after)


def uncounted(lines):
    return [re.sub(r"\[\d+:\d+\]", "[0:0]", line) for line in lines]


def check_pair(host, before, after, ipv6):
    """Apply *after* to *before*. The result must be the same as that of the host's own restore."""
    host.restore(before, ipv6)
    plan = iptc.plan(after, ipv6=ipv6)
    applied = iptc.apply(plan)
    assert applied is plan and bool(plan) == bool(plan.difference)
    got = host.save(ipv6)
    assert not iptc.plan(after, ipv6=ipv6), str(iptc.plan(after, ipv6=ipv6))
    wanted = iptc.Ruleset.read(after, ipv6)
    assert iptc.Ruleset.live(ipv6).only([(table.nfproto, table.name) for table in wanted.tables]) == wanted
    host.restore(after, ipv6)
    assert uncounted(got) == uncounted(host.save(ipv6))


@pytest.mark.parametrize("number", range(75 if STRESS else 6))
def test_random_pairs(host, ipv6, number):
    dice = random.Random(number)
    for _ in range(1 if STRESS else 2):
        check_pair(host, *pair(dice, ipv6), ipv6)


@pytest.mark.one_backend("nft")
def test_pairs_whose_chains_are_made_anew(host, ipv6, monkeypatch):
    """If editing a chain rule by rule is too much work for the kernel, all its rules are sent again."""
    monkeypatch.setattr(arranging, "_STEPS_MOST", 0)
    dice = random.Random(5)
    for _ in range(4):
        check_pair(host, *pair(dice, ipv6), ipv6)
    if not host.loses_counters(ipv6):
        host.run("nft", "flush", "ruleset")
        kept = [f"[{number}:{number * 60}] {rule}" for number, rule in enumerate(ports(*range(1, 9)), 1)]
        host.restore(filter_table(*kept), ipv6, arguments=["-c"])
        after = ports(3, 1, 2, 20, *range(4, 9))
        iptc.apply(filter_table(*after), ipv6=ipv6)
        assert counted(host, ipv6) == {
            rule: int(re.search(r"dport (\d+)", rule)[1]) * ("20" not in rule) for rule in after
        }


@pytest.mark.filterwarnings("ignore::iptc.language.plugins.XTablesWarning")
@given(data=st.data())
@settings(relaxed, max_examples=40 if STRESS else 3)
def test_rules_of_the_grammar(prepared, ipv6, data):
    """All rules that iptables accepts: what it saves is what is live, and any order and selection of them is
    reached."""
    made = data.draw(st.lists(rules(ipv6), min_size=20, max_size=40))
    appended(prepared, ipv6, [text for text in made if prepared.backend == "legacy" or not NOT_FROM_ZERO.search(text)])
    saved = uncounted(prepared.save(ipv6, table="filter"))
    assert not iptc.plan("\n".join([*saved, ""]), ipv6=ipv6)
    own = [line for line in saved if line.startswith("-A INPUT")]
    chosen = data.draw(st.permutations(own[: len(own) // 2] + own[-3:])) + own[len(own) // 2 :]
    wanted = [line for line in saved[:-1] if line not in own]
    place = next((place for place, line in enumerate(wanted) if line.startswith("-A")), len(wanted))
    wanted[place:place] = chosen
    iptc.apply("\n".join([*wanted, "COMMIT", ""]), ipv6=ipv6)
    assert uncounted(prepared.save(ipv6, table="filter")) == [*wanted, "COMMIT"]
    assert not iptc.plan("\n".join([*wanted, "COMMIT", ""]), ipv6=ipv6)
    prepared.iptables("-F INPUT", ipv6=ipv6)


@pytest.mark.parametrize("name", ["docker", "libvirt", "ufw", "fail2ban"])
def test_public_rulesets(host, name):
    for line in rulesets.SETS:
        host.run("ipset", *line.split())
    text = rulesets.load(name, False)
    other = rulesets.load("mixed", False)
    check_pair(host, other, text, False)
    check_pair(host, text, other, False)


def counted(host, ipv6=False):
    """Return {rule: packets} of the rules that have counted."""
    return {
        line.partition(" ")[2]: int(line[1:].partition(":")[0])
        for line in host.save(ipv6, counters=True)
        if line.startswith("[")
    }


def test_counters_of_what_stays_go_on(host):
    kept = [f"[{number}:{number * 60}] {rule}" for number, rule in enumerate(ports(*range(1, 50)), 1)]
    host.restore(
        filter_table(*kept, policies=("DROP", "ACCEPT", "ACCEPT")).replace("DROP [0:0]", "DROP [7:8]"), arguments=["-c"]
    )
    after = ports(*range(40, 50), *range(1, 20), 200, *range(21, 40))
    plan = iptc.apply(filter_table(*after, policies=("ACCEPT", "DROP", "ACCEPT")))
    assert plan.difference.counts() == {"policy": 2, "changed": 1, "moved": 10}
    assert counted(host) == {rule: int(re.search(r"dport (\d+)", rule)[1]) * ("200" not in rule) for rule in after}
    assert ":INPUT ACCEPT [7:8]" in host.save(counters=True)


def test_counters_never_fall_beside_traffic(host):
    host.run("ip", "link", "set", "lo", "up")
    kept = [f"-A OUTPUT -p udp -m udp --dport {port}" for port in range(9000, 9008)]
    host.restore(filter_table(*kept))
    done = threading.Event()

    def send():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not done.is_set():
                for port in range(9000, 9008):
                    try:
                        sender.sendto(b"x", ("127.0.0.1", port))
                    except ConnectionRefusedError:
                        pass

    sending = threading.Thread(target=send)
    sending.start()
    try:
        dice, before = random.Random(1), {}
        for number in range(30):
            rules = kept[:]
            for _ in range(dice.randrange(1, 4)):
                rules.insert(dice.randrange(len(rules) + 1), f"-A OUTPUT -s 10.0.0.{number}/32 -j DROP")
            iptc.apply(filter_table(*rules))
            now = counted(host)
            assert all(now[rule] >= before.get(rule, 0) for rule in kept)
            before = {rule: now[rule] for rule in kept}
        assert all(before.values())
    finally:
        done.set()
        sending.join()


def test_what_the_kernel_notes_in_a_rule_makes_it_no_other(host):
    """A `limit` keeps its state in the rule, so two equal rules may have different bytes after use."""
    host.run("ip", "link", "set", "lo", "up")
    text = filter_table(
        *["-A OUTPUT -p udp -m limit --limit 5/min -m udp --dport 9 -j ACCEPT"] * 2,
        *["-A OUTPUT -m quota --quota 9999 -j ACCEPT"] * 2,
    )
    iptc.apply(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", 9))
    assert not iptc.plan(text) and iptc.Ruleset.live(False) == iptc.Ruleset.read(text)


def test_same_numbers_for_what_says_the_same(host):
    limit = "-s 10.0.0.1 -m limit --limit 5/min"
    entries = [
        iptc.Rule.from_args(text).rule for text in (limit, f"-c 5 6 {limit}", "-s 10.0.0.2 -m limit --limit 5/min")
    ]
    # the last bytes of the match are a pointer of the kernel's
    other, end = bytearray(entries[0]), 112 + int.from_bytes(entries[0][112:114], sys.byteorder)
    other[end - 8 : end] = b"pointer!"
    one, another = numbering.number(2, entries, [bytes(other), entries[2], entries[0]])
    assert list(one) == [0, 0, 2] and list(another) == [0, 2, 0]
    assert [list(side) for side in numbering.number(2, [], [])] == [[], []]
    with pytest.raises(iptc.ParameterError, match="short"):
        numbering.number(2, [b"x"], [])


def test_a_plan_names_the_fewest_edits(host):
    host.restore(filter_table(*ports(*range(1, 100))))
    plan = iptc.plan(filter_table(*ports(*range(2, 50), 1, *range(51, 100), 300)))
    assert plan.difference.counts() == {"moved": 1, "removed": 1, "added": 1}


def test_only_and_keep(host):
    host.restore(
        filter_table(
            *ports(1),
            *ports(1, chain="FORWARD"),
            "-A INPUT -j DOCKER-USER",
            "-A DOCKER-USER -j helper",
            "-A helper -j DROP",
            "-A lonely -j DROP",
            chains=["DOCKER-USER", "helper", "lonely"],
        )
    )
    host.iptables("-t raw -A PREROUTING -i lo -j ACCEPT")
    wanted = filter_table(*ports(2), "-A INPUT -j DOCKER-USER", *ports(2, chain="FORWARD")) + "*raw\nCOMMIT\n"
    kept = iptc.plan(wanted.replace("*raw\nCOMMIT\n", ""), keep="DOCKER*")
    # a chain that a kept chain jumps to must stay
    assert kept.kept == [(4, "filter", "helper")]
    assert kept.text().endswith("\n# stays, since a chain that is kept jumps there: IPv4 filter helper\n")
    assert {(change.kind, change.chain) for change in kept} == {
        ("changed", "INPUT"),
        ("changed", "FORWARD"),
        ("chain removed", "lonely"),
        ("removed", "lonely"),
    }
    only = iptc.plan(wanted, only=["filter:INPUT", "raw"], keep=["DOCKER*"])
    assert {(change.table, change.kind, change.chain) for change in only} == {
        ("filter", "changed", "INPUT"),
        ("raw", "removed", "PREROUTING"),
    }
    iptc.apply(kept)
    assert host.rules(table="filter") == [
        *ports(2),
        "-A INPUT -j DOCKER-USER",
        *ports(2, chain="FORWARD"),
        "-A DOCKER-USER -j helper",
        "-A helper -j DROP",
    ]
    with pytest.raises(iptc.Conflict):
        only.apply()
    assert not iptc.plan(wanted, only="filter", keep="DOCKER*")
    # a table that the target does not have is left alone
    iptc.apply(EMPTY)
    assert host.rules() == ["-A PREROUTING -i lo -j ACCEPT"]
    for wrong in ({"only": "nosuch"}, {"only": [""]}, {"keep": [1]}):
        with pytest.raises(iptc.IPTCError):
            iptc.plan(EMPTY, **wrong)


def test_what_would_jump_nowhere_is_refused(host):
    host.restore(filter_table("-A INPUT -j web", "-A web -j DROP", chains=["web"]))
    before = host.save()
    for text in (
        filter_table("-A INPUT -j nosuch"),
        filter_table("-A INPUT -j web"),
        filter_table("-A INPUT -j INPUT"),
    ):
        with pytest.raises(iptc.IPTCError):
            iptc.plan(text)
    assert host.save() == before
    iptc.apply(filter_table(*ports(1), "-A INPUT -j web"), keep="web")
    assert host.rules() == [*ports(1), "-A INPUT -j web", "-A web -j DROP"]


def test_a_word_that_is_the_name_of_a_chain_is_no_jump(host):
    host.restore(filter_table("-A web -j DROP", chains=["web"]))
    text = filter_table(
        "-A INPUT -m comment --comment web", "-A INPUT -p tcp -j REJECT --reject-with icmp-port-unreachable"
    )
    iptc.apply(text)
    assert not iptc.plan(text) and not any(line.startswith(":web") for line in host.save())


def test_chains_that_call_each_other(host):
    host.restore(filter_table("-A INPUT -j a", "-A a -j b", "-A b -j c", "-A c -j DROP", chains=["a", "b", "c"]))
    iptc.apply(filter_table("-A INPUT -j z", "-A z -j y", "-A y -j x", "-A x -j DROP", chains=["x", "y", "z"]))
    assert host.rules() == ["-A INPUT -j z", "-A x -j DROP", "-A y -j x", "-A z -j y"]
    iptc.apply(filter_table("-A INPUT -g x", "-A y -j DROP", "-A x -j y", chains=["x", "y"]))
    assert host.rules() == ["-A INPUT -g x", "-A x -j y", "-A y -j DROP"]


@pytest.mark.parametrize(
    "change",
    [
        "-A INPUT -j DROP",
        "-D INPUT 1",
        "-R INPUT 1 -p udp",
        "-P INPUT DROP",
        "-N other",
        "-X empty",
        "-F web",
    ],
)
def test_a_plan_is_done_as_it_is_or_not_at_all(host, change):
    host.restore(filter_table(*ports(1, 2), "-A web -j DROP", chains=["web", "empty"]))
    plan = iptc.plan(filter_table(*ports(1, 3, 2), chains=["web"]))
    host.iptables(change)
    before = host.save()
    with pytest.raises(iptc.Conflict, match="filter"):
        iptc.apply(plan)
    assert host.save() == before


def test_what_others_do_elsewhere_is_no_conflict(host):
    host.restore(filter_table(*ports(1, 2), "-A kept -j DROP", chains=["kept"]))
    plan = iptc.plan(filter_table(*ports(1, 3, 2)), keep="kept")
    host.iptables("-A kept -j ACCEPT")
    host.iptables("-t mangle -A PREROUTING -j ACCEPT")
    host.iptables("-A INPUT -j ACCEPT", ipv6=True)
    host.iptables("-Z")
    iptc.apply(plan)
    assert host.rules(table="filter") == [*ports(1, 3, 2), "-A kept -j DROP", "-A kept -j ACCEPT"]


def test_both_families_together_or_neither(host):
    text = "# IPv4\n" + filter_table(*ports(1)) + "# IPv6\n" + filter_table(*ports(2))
    plan = iptc.plan(text)
    assert {change.ip_version for change in plan} == {4, 6}
    host.iptables("-A INPUT -j DROP", ipv6=True)
    with pytest.raises(iptc.Conflict):
        iptc.apply(plan)
    assert host.rules() == []
    iptc.apply(text)
    assert host.rules() == ports(1) and host.rules(ipv6=True) == ports(2)
    # a target with one family leaves the other family alone
    iptc.apply(EMPTY)
    assert host.rules() == [] and host.rules(ipv6=True) == ports(2)


def test_what_the_kernel_refuses_changes_nothing(host):
    host.restore(filter_table(*ports(1)))
    before = host.save()
    loop = filter_table("-A INPUT -j a", "-A a -j b", "-A b -j a", chains=["a", "b"])
    with pytest.raises(iptc.KernelError):
        iptc.apply(loop + "*mangle\n-A PREROUTING -j ACCEPT\nCOMMIT\n")
    assert host.save(table="filter") == before and host.rules(table="mangle") == []


def test_tables_that_are_open_see_what_was_applied(host):
    chain = iptc.Chain(iptc.Table("filter"), "INPUT")
    assert chain.rules == []
    iptc.apply(filter_table(*ports(1)))
    assert [str(rule) for rule in chain.rules] == ["-p tcp -m tcp --dport 1 -j ACCEPT"]


def test_of_another_back_end(host):
    wanted = iptc.Ruleset.read(
        filter_table(*ports(1), "-A INPUT -i + -j DROP"), backend="nft" if host.backend == "legacy" else "legacy"
    )
    iptc.apply(wanted)
    assert not iptc.plan(wanted) and len(host.rules()) == 2


@pytest.mark.one_backend("legacy")
def test_policies_that_a_text_does_not_name_stay(host):
    host.iptables("-P INPUT DROP")
    assert not iptc.plan("*filter\n:INPUT - [0:0]\nCOMMIT\n") and not iptc.plan("*filter\nCOMMIT\n")
    iptc.apply("*filter\n-A INPUT -j ACCEPT\nCOMMIT\n")
    assert ":INPUT DROP [0:0]" in host.save()


@pytest.mark.one_backend("nft")
def test_rules_of_nft_are_told_apart_and_tables_of_nft_left_alone(host):
    host.iptables("-A INPUT -j ACCEPT")
    host.run("nft", "add rule ip filter INPUT meta mark 1 numgen inc mod 2 == 0 counter drop")
    host.run("nft", "add rule ip filter INPUT meta mark 2 numgen inc mod 2 == 0 counter drop")
    host.run(
        "nft",
        "add table ip foreign; add chain ip foreign INPUT { type filter hook input priority 5; }; "
        "add rule ip foreign INPUT accept",
    )
    live = iptc.Ruleset.live()
    assert live == iptc.Ruleset.live() and len(set(live[4, "filter"]["INPUT"].keys)) == 3
    foreign = host.run("nft", "list table ip foreign")
    plan = iptc.plan(filter_table(*ports(1)))
    assert plan.difference.counts() == {"changed": 1, "removed": 2}
    iptc.apply(plan)
    assert host.rules() == ports(1) and host.run("nft", "list table ip foreign") == foreign


def test_in_another_namespace(host):
    host.restore(filter_table(*ports(1)))
    pid = os.getpid()
    descriptor = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        enter_new_namespace()
        forget_tables()
        assert host.rules() == []
        plan = iptc.plan(filter_table(*ports(2)), netns=descriptor)
        assert [change.old_rule for change in plan] == ["-p tcp -m tcp --dport 1 -j ACCEPT"] and pid == os.getpid()
        iptc.apply(plan)
        assert host.rules() == []
        assert iptc.Ruleset.live(netns=descriptor)[4, "filter"]["INPUT"].rules == ["-p tcp -m tcp --dport 2 -j ACCEPT"]
    finally:
        os.close(descriptor)
