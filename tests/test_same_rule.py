"""When two rules are the same: `has_rule`, `delete_rule`, `ensure_rule` and `-D` in texts find the rule that `iptables
-C` and `-D` of that back end find."""

import copy
import re

import pytest
import specs

import iptc

pytestmark = pytest.mark.filterwarnings("ignore::iptc.XTablesWarning")

MATCHES = [
    "-m limit --limit 1/sec",
    "-m mark --mark 0x1",
    "-m comment --comment a",
    "-m recent --set --name n",
    "-m quota --quota 1000",
]
"""Pairs of rules. One is in the table, and the other is looked for, in both orders."""

DETAILS = """
-p tcp --dport 22 -j ACCEPT | -p tcp -m tcp --dport 22:22 -j ACCEPT
-p tcp --dport 22 -j ACCEPT | -p tcp -m tcp --dport 22 -m tcp -j ACCEPT
-p tcp -j ACCEPT | -p tcp -m tcp -j ACCEPT
-p tcp -j ACCEPT | ! -p tcp -j ACCEPT
-p all -j ACCEPT | -j ACCEPT
-j ACCEPT | -p all -j ACCEPT
-i + -j ACCEPT | -j ACCEPT
-j ACCEPT | -i + -j ACCEPT
-i eth+ -j ACCEPT | -i eth -j ACCEPT
-i eth0 -j ACCEPT | ! -i eth0 -j ACCEPT
-i eth0 -j ACCEPT | -o eth0 -j ACCEPT
-c 5 6 -j ACCEPT | -j ACCEPT
-c 5 6 -m limit --limit 5/min -j ACCEPT | -m limit --limit 5/min -j ACCEPT
-m limit --limit 60/min -j ACCEPT | -m limit --limit 1/sec --limit-burst 5 -j ACCEPT
-m limit --limit 1/sec -j ACCEPT | -m limit --limit 1/sec --limit-burst 6 -j ACCEPT
-m quota --quota 1000 -j ACCEPT | -m quota --quota 1000 -j ACCEPT
-m quota --quota 1000 -j ACCEPT | -m quota --quota 1001 -j ACCEPT
-m quota --quota 1000 -j ACCEPT | -m quota ! --quota 1000 -j ACCEPT
-m mark --mark 1 -j ACCEPT | -m mark --mark 0x1/0xffffffff -j ACCEPT
-m mark --mark 1 -j ACCEPT | -m mark --mark 0x1/0xff -j ACCEPT
-m mark --mark 1 -m mark --mark 2 -j ACCEPT | -m mark --mark 2 -m mark --mark 1 -j ACCEPT
-m comment --comment a -j ACCEPT | -m comment --comment b -j ACCEPT
-m comment --comment a -j ACCEPT | -j ACCEPT
-m comment --comment a -m comment --comment b -j ACCEPT | -m comment --comment a -j ACCEPT
-m recent --set -j ACCEPT | -m recent --set --name DEFAULT --rsource -j ACCEPT
-m recent --set -j ACCEPT | -m recent --set --rdest -j ACCEPT
-m statistic --mode nth --every 3 -j ACCEPT | -m statistic --mode nth --every 3 --packet 0 -j ACCEPT
-m statistic --mode nth --every 3 -j ACCEPT | -m statistic --mode nth --every 3 --packet 1 -j ACCEPT
-m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT | -m conntrack --ctstate ESTABLISHED,NEW -j ACCEPT
-m conntrack --ctstate NEW -j ACCEPT | -m state --state NEW -j ACCEPT
-m state --state NEW -j ACCEPT | -m conntrack --ctstate NEW -j ACCEPT
-p tcp -m multiport --dports 1,2 -j ACCEPT | -p tcp -m multiport --dports 2,1 -j ACCEPT
-p tcp -m multiport --dports 1,2 -j ACCEPT | -p tcp -m multiport --ports 1,2 -j ACCEPT
-p tcp -m tcp --tcp-flags SYN,ACK SYN -j ACCEPT | -p tcp -m tcp --tcp-flags ACK,SYN SYN -j ACCEPT
-m hashlimit --hashlimit-upto 1/sec --hashlimit-name h -j ACCEPT | -m hashlimit --hashlimit-upto 60/min --hashlimit-name h -j ACCEPT
-m hashlimit --hashlimit-upto 1/sec --hashlimit-name h -j ACCEPT | -m hashlimit --hashlimit-upto 1/sec --hashlimit-name g -j ACCEPT
-m connlimit --connlimit-above 3 -j ACCEPT | -m connlimit --connlimit-above 3 --connlimit-saddr -j ACCEPT
-j LOG | -j LOG --log-level 4
-j LOG --log-prefix x | -j LOG --log-prefix y
-j web | -g web
-g web | -g web
-j web | -j log-drop
-p tcp | -p tcp -j ACCEPT
-j REJECT | -p tcp -j REJECT
-j NFLOG --nflog-prefix x | -j NFLOG --nflog-prefix x
"""


def reordered(rule):
    """Return *rule* with its matches in reverse order."""
    other = copy.deepcopy(rule)
    for match in other.matches:
        other.remove_match(match)
    for match in reversed(rule.matches):
        other.add_match(copy.deepcopy(match))
    return other


def pairs(family):
    """Return pairs of texts: (the rule in the table, the rule that is looked for)."""
    found = [(f"{one} {two} -j ACCEPT", f"{two} {one} -j ACCEPT") for one in MATCHES for two in MATCHES if one < two]
    found += [(one, one) for one, _ in found]
    found += [tuple(part.strip() for part in line.split(" | ")) for line in DETAILS.strip().split("\n")]
    net = "2001:db8::/32" if family.ipv6 else "10.0.0.0/8"
    found += [
        (f"-s {net} -j ACCEPT", f"-d {net} -j ACCEPT"),
        (f"-s {net} -j ACCEPT", f"! -s {net} -j ACCEPT"),
        (f"-s {net} -j ACCEPT", f"-s {net.replace('::', '::9') if family.ipv6 else '10.1.2.3/8'} -j ACCEPT"),
    ]
    for spec in specs.load_taken(family.ipv6):
        if spec.table != "filter" or "RATEEST" in spec.text or "rateest" in spec.text:
            continue
        rule = family.Rule.from_args(spec.text)
        if len(rule.matches) > 1 and rule._networks is None:
            found += [(str(rule), str(rule)), (str(rule), str(reordered(rule)))]
    return found


def is_taken(family, text):
    try:
        family.Rule.from_args(text)
    except iptc.ParameterError:
        return False
    return True


def is_lost(host, text):
    """Whether `iptables-nft -C` does not find the rule that it has written. Since 1.8.10 it reads two matches with one
    name as one."""
    names = re.findall(r"-m (\S+)", text)
    return host.backend == "nft" and host.release >= (1, 8, 10) and len(set(names)) < len(names)


@pytest.fixture
def asked(prepared, family):
    """The host's tool puts the first rule of each pair into a chain of its own. Return [(chain, text of the rule that is
    looked for)]."""
    found = [
        (f"c{number}", *pair)
        for number, pair in enumerate(pairs(family))
        if all(is_taken(family, text) and not is_lost(prepared, text) for text in pair)
    ]
    lines = [f":{chain} - [0:0]" for chain, _, _ in found] + [f"-A {chain} {there}" for chain, there, _ in found]
    prepared.restore("\n".join(["*filter", *lines, "COMMIT", ""]), family.ipv6, ["--noflush"])
    return [(chain, text) for chain, _, text in found]


def answers_of(host, family, asked, guesses):
    """What `iptables -C` says, of those that are thought to be there all at once. Of legacy what `-D` says:
    `ip6tables-legacy -C` of 1.8.9 finds rules that its own `-D` does not, since it does not look at the options of
    their matches."""
    verb, arguments = ("-D", ["--noflush", "--test"]) if host.backend == "legacy" else ("-C", ["--noflush"])

    def finds(*some):
        lines = [f"{verb} {chain} {text}" for chain, text in some]
        text = "\n".join(["*filter", *lines, "COMMIT", ""])
        return host.run(host.tool(family.ipv6, "-restore"), *arguments, text=text, check=False).returncode == 0

    together = finds(*(one for one, guess in zip(asked, guesses) if guess))
    return [guess and together or finds(one) for one, guess in zip(asked, guesses)]


def test_the_same_rules_are_found_as_the_host_finds(prepared, family, asked):
    table = family.Table("filter")
    rules = [family.Rule.from_args(text) for _, text in asked]
    found = [iptc.Chain(table, chain).has_rule(rule) for (chain, _), rule in zip(asked, rules)]
    expected = answers_of(prepared, family, asked, found)
    wrong = [(text, answer) for (_, text), answer, right in zip(asked, found, expected) if answer != right]
    assert not wrong
    assert any(expected) and not all(expected)
    # from the third question on an index answers; `in` and `easy` use the same comparison
    for (chain, text), rule, answer in zip(asked, rules, found):
        held = iptc.Chain(table, chain)
        assert [rule in held for _ in range(3)] == 3 * [answer], text
    # `-C` of a text, and what is edited
    for (chain, text), answer in zip(asked, found):
        lines = f"*filter\n-C {chain} {text}\nCOMMIT\n"
        if answer:
            table.restore(lines, flush=False, test=True)
        else:
            with pytest.raises(iptc.NotFound, match="Bad rule"):
                table.restore(lines, flush=False, test=True)
    with table.transaction():
        for (chain, text), rule, answer in zip(asked, rules, found):
            held = iptc.Chain(table, chain)
            assert held.ensure_rule(rule) is not answer, text
            assert held.delete_rule(rule) is True
            assert held.delete_rule(rule, missing_ok=True) is False, text
            assert len(held.rules) == (0 if answer else 1), text


def test_texts_delete_the_rule_that_delete_rule_deletes(prepared, family):
    """Restored legacy texts compare the bytes of a draft under masks, all other code compares keys. Both must agree."""
    known = [pair for pair in pairs(family) if all(is_taken(family, text) and "-c " not in text for text in pair)]
    lines = [f"-A {name} {there}" for name in ("a", "b") for there, _ in known]
    prepared.restore(
        "\n".join(["*filter", ":a - [0:0]", ":b - [0:0]", *lines, "COMMIT", ""]), family.ipv6, ["--noflush"]
    )
    table = family.Table("filter")
    asked = [text for _, text in reversed(known)] + [text for text, _ in known[::2]]
    with table.transaction():
        found = [text for text in asked if table["b"].delete_rule(family.Rule.from_args(text), missing_ok=True)]
    assert 0 < len(table["b"].rules) < len(known) > len(asked) - len(found) > 0
    table.restore("\n".join(["*filter", *(f"-D a {text}" for text in found), "COMMIT", ""]), flush=False)
    left = [line.removeprefix("-A a ") for line in prepared.rules(family.ipv6) if line.startswith("-A a ")]
    assert left == [line.removeprefix("-A b ") for line in prepared.rules(family.ipv6) if line.startswith("-A b ")]
    # and it finds no rule if `delete_rule` finds none
    for text in sorted({*asked}):
        present = family.Rule.from_args(text) in table["b"]
        try:
            table.restore(f"*filter\n-C a {text}\nCOMMIT\n", flush=False, test=True)
        except iptc.NotFound:
            assert not present, text
        else:
            assert present, text


ORDERS = ("-m limit --limit 1/sec -m mark --mark 0x1", "-m mark --mark 0x1 -m limit --limit 1/sec")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("autocommit", [True, False])
def test_the_rule_that_is_named_is_the_one_deleted(host, family, number, autocommit):
    for order in ORDERS:
        host.iptables(f"-A INPUT {order} -j ACCEPT", ipv6=family.ipv6)
    chain = iptc.Chain(family.Table("filter", autocommit), "INPUT")
    rules = chain.rules
    assert rules[0] == rules[1] and rules[1] in chain.rules
    chain.delete_rule(rules[number])
    assert chain.has_rule(rules[1 - number]) and not chain.has_rule(rules[number])
    assert chain.ensure_rule(rules[number]) and not chain.ensure_rule(rules[1 - number])
    chain.delete_rule(rules[number])
    chain.table.commit()
    assert host.rules(family.ipv6) == [f"-A INPUT {ORDERS[1 - number]} -j ACCEPT"]


@pytest.mark.parametrize("number", [0, 1])
def test_easy_and_texts_find_the_same_rule(host, family, number):
    """`easy`, restored texts, replaced rules and entries."""
    for order in ORDERS:
        host.iptables(f"-A INPUT {order} -j ACCEPT", ipv6=family.ipv6)
    table = family.Table("filter")
    chain, easy = iptc.Chain(table, "INPUT"), iptc.easy
    rules = chain.rules
    meant = easy.decode_iptc_rule(rules[number])
    at = "filter", "INPUT", meant
    assert easy.get_rule_position(*at, family.ipv6) == number and easy.has_rule(*at, family.ipv6)
    lines = [f"-A INPUT {order} -j ACCEPT" for order in ORDERS]
    easy.replace_rule("filter", "INPUT", meant, {"target": "DROP"}, family.ipv6)
    assert host.rules(family.ipv6)[number] == "-A INPUT -j DROP" and not easy.has_rule(*at, family.ipv6)
    chain.replace_rule(rules[number], number)
    assert host.rules(family.ipv6) == lines
    easy.delete_rule(*at, family.ipv6)
    assert host.rules(family.ipv6) == [lines[1 - number]]
    chain.insert_rule(rules[number], number)
    table.delete_entry("INPUT", rules[number].rule)
    assert host.rules(family.ipv6) == [lines[1 - number]]
    chain.insert_rule(rules[number], number)
    assert host.rules(family.ipv6) == lines
    table.restore(f"*filter\n{lines[number].replace('-A', '-D')}\nCOMMIT\n", flush=False)
    assert host.rules(family.ipv6) == [lines[1 - number]]


def test_counters_follow_the_rule_that_counted(host, family):
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    rules = [
        family.Rule.from_args(f"-c {count} {100 * count} {order} -j ACCEPT") for count, order in zip((10, 20), ORDERS)
    ]
    for rule in rules:
        chain.append_rule(rule)
    with iptc.CounterReader("filter", ipv6=family.ipv6) as reader:
        before = reader.read()
        with chain.table.transaction():
            chain.delete_rule(rules[0])
            chain.append_rule(rules[0])
        after = reader.read()
        delta = after.since(before)
    assert after["INPUT"].packets.tolist() == [20, 10]
    assert delta.packets.tolist() == [0, 0] and list(delta.flags) == [0, 0]


NOT_WRITTEN_AGAIN = (
    "--cluster-local-node 32",
    "--seconds 4294967295",
    "--monthdays 0",
    "--weekdays 8",
    "--hmark-src-prefix 33",
    "-j QUEUE",
    "! -s 0.0.0.0/0",
    "! -s ::/0",
)
"""Extensions whose own text iptables refuses, or whose rule nf_tables refuses."""


def text_of(rule_d, ipv6):
    """Return the text of the rule of a dict, or None if the dict makes no rule."""
    try:
        rule = iptc.easy.encode_iptc_rule(rule_d, ipv6)
        rule.final_check()
        return str(rule)
    except iptc.ParameterError:
        return None


def shortest(rule_d, ipv6):
    """Return *rule_d* without the parameters that the extension adds by itself: as a person would write it."""
    kept, text = dict(rule_d), text_of(rule_d, ipv6)
    for key, value in rule_d.items():
        target = key == "target" and isinstance(value, dict)
        parameters = next(iter(value.values())) if target else value
        if not isinstance(parameters, dict):
            continue
        for name in parameters:
            less = {other: words for other, words in parameters.items() if other != name}
            shorter = {**kept, key: {next(iter(value)): less} if target else less}
            if text_of(shorter, ipv6) == text:
                kept, parameters = shorter, less
    return kept


def test_each_dict_finds_the_rule_that_it_made(prepared, ipv6):
    """For every extension: the whole dict, and a dict without the parameters that the extension or the kernel adds."""
    easy, made, shorter = iptc.easy, {}, 0
    for spec in specs.load_taken(ipv6):
        if any(words in spec.text for words in NOT_WRITTEN_AGAIN):
            continue
        whole = easy.decode_iptc_rule((iptc.Rule6 if ipv6 else iptc.Rule).from_args(spec.text))
        short = shortest(whole, ipv6)
        shorter += short != whole
        made.setdefault(spec.table, []).extend((spec.chain, rule_d, 0) for rule_d in (whole, short))
    assert shorter > 100
    for table, rules in made.items():
        easy.batch_add_rules(table, rules, ipv6)
        opened = (iptc.Table6 if ipv6 else iptc.Table)(table)
        with opened.transaction():
            for chain, rule_d, _ in rules:
                rule = easy.encode_iptc_rule(rule_d, ipv6)
                assert rule in opened[chain] and not opened[chain].ensure_rule(rule), rule_d
                opened[chain].delete_rule(rule)
        assert not prepared.rules(ipv6, table) or table == "raw"
        assert not any(opened[chain].rules for chain in {chain for chain, *_ in rules})
        # and one by one, as the kernel stores it
        for chain, rule_d, _ in rules[1::24]:
            easy.add_rule(table, chain, rule_d, ipv6=ipv6)
            assert easy.has_rule(table, chain, rule_d, ipv6), rule_d
            easy.delete_rule(table, chain, rule_d, ipv6)
        assert not any(opened[chain].rules for chain in {chain for chain, *_ in rules})
