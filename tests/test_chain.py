"""Chain: its rules in their order, and every edit of them."""

import copy
import gc
import pickle

import pytest

import iptc


@pytest.fixture
def chain(host, family):
    """A new user chain in filter."""
    return family.Table("filter").create_chain("web")


def rule(family, number, target="ACCEPT"):
    """A rule that can be told from others by its mark."""
    made = family.Rule()
    made.create_match("mark").mark = hex(number)
    made.create_target(target)
    return made


def marks(chain):
    return [int(r.matches[0].mark, 16) for r in chain.rules]


def test_a_chain_is_one_object_as_long_as_it_is_held(chain, family):
    table = family.Table("filter")
    assert iptc.Chain(table, "web") is chain
    assert chain in table.chains
    assert iptc.Chain(table, "INPUT") is not chain
    assert iptc.Chain(family.Table("raw"), "web") is not chain


def test_families_do_not_share_chains(host):
    assert iptc.Chain(iptc.Table("filter"), "INPUT") is not iptc.Chain(iptc.Table6("filter"), "INPUT")


def test_a_chain_that_nobody_holds_is_let_go(host, family):
    table = family.Table("filter")
    iptc.Chain(table, "nobody")
    gc.collect()
    assert all(key[2] != "nobody" for key in iptc.Chain._cache)


def test_making_a_chain_object_creates_nothing(host, family):
    ghost = iptc.Chain(family.Table("filter"), "ghost")
    assert ghost.rules == []
    assert not ghost.table.is_chain(ghost)


def test_copies_and_pickles_of_a_chain_are_the_chain(chain):
    assert copy.deepcopy(chain) is copy.copy(chain) is chain
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(chain, protocol)) is chain


def test_name_table_and_repr(chain, family):
    assert chain.name == "web" and chain.table is family.Table("filter")
    assert repr(chain) == f"<iptc.Chain web of <iptc.{family.Table.__name__} filter>>"


def test_append_and_insert(chain, family):
    chain.append_rule(rule(family, 1))
    chain.append_rule(rule(family, 2))
    chain.insert_rule(rule(family, 3))
    chain.insert_rule(rule(family, 4), 1)
    chain.insert_rule(rule(family, 5), position=4)
    assert marks(chain) == [3, 4, 1, 2, 5]


def test_replace(chain, family):
    for number in (1, 2, 3):
        chain.append_rule(rule(family, number))
    chain.replace_rule(rule(family, 8))
    chain.replace_rule(rule(family, 9), 2)
    assert marks(chain) == [8, 2, 9]


def test_delete_takes_the_first_rule_that_says_the_same(chain, family):
    for number in (1, 2, 1):
        chain.append_rule(rule(family, number))
    chain.delete_rule(rule(family, 1))
    assert marks(chain) == [2, 1]


def test_edits_return_none_and_delete_whether_there_was_a_rule(chain, family):
    assert chain.append_rule(rule(family, 1)) is None
    assert chain.insert_rule(rule(family, 1)) is None
    assert chain.replace_rule(rule(family, 2)) is None
    assert chain.delete_rule(rule(family, 2)) is True


def test_rules_that_were_read_can_be_deleted_one_by_one(chain, family):
    for number in range(6):
        chain.append_rule(rule(family, number))
    for held in chain.rules:
        if int(held.matches[0].mark, 16) % 2:
            chain.delete_rule(held)
    assert marks(chain) == [0, 2, 4]


def test_rules_is_a_new_list_each_time(chain, family):
    chain.append_rule(rule(family, 1))
    chain.rules.clear()
    assert len(chain.rules) == 1
    assert chain.rules[0].chain is chain
    assert chain.rules[0] == chain.rules[0]


def test_rule_in_rules(chain, family):
    chain.append_rule(rule(family, 1))
    assert rule(family, 1) in chain.rules
    assert rule(family, 2) not in chain.rules


def test_a_rule_object_can_be_used_again(chain, family, host):
    made = rule(family, 1)
    for interface, target in (("eth0", "ACCEPT"), ("eth1", "DROP")):
        made.in_interface = interface
        made.create_target(target)
        chain.append_rule(made)
    assert host.rules(family.ipv6) == [
        "-A web -i eth0 -m mark --mark 0x1 -j ACCEPT",
        "-A web -i eth1 -m mark --mark 0x1 -j DROP",
    ]


def test_flush_and_delete(chain, family, host):
    chain.append_rule(rule(family, 1))
    chain.flush()
    assert chain.rules == []
    chain.delete()
    assert not chain.table.is_chain("web")


def test_rename_keeps_the_object(chain, family):
    chain.append_rule(rule(family, 1))
    chain.rename("www")
    assert chain.name == "www" and marks(chain) == [1]
    assert iptc.Chain(chain.table, "www") is chain
    assert iptc.Chain(chain.table, "web") is not chain


def test_counters_and_zero(host, family):
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    counted = rule(family, 1)
    counted.counters = (1, 2)
    chain.append_rule(counted)
    chain.set_policy("ACCEPT", (10, 20))
    saved = host.save(family.ipv6, counters=True)
    assert ":INPUT ACCEPT [10:20]" in saved and saved[-2].startswith("[1:2] -A INPUT ")
    chain.table.refresh()
    assert chain.get_counters() == (10, 20)
    assert chain.rules[0].get_counters() == (1, 2)
    chain.zero_counters()
    assert chain.get_counters() == (0, 0)
    assert chain.rules[0].get_counters() == (0, 0)


def test_policy(host, family):
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    drop = iptc.Policy("DROP")
    chain.set_policy(drop)
    assert chain.get_policy() is drop
    chain.set_policy("ACCEPT", counters=(1, 2))
    assert chain.get_policy().name == "ACCEPT"
    assert ":INPUT ACCEPT [1:2]" in host.save(family.ipv6, counters=True)


def test_a_user_chain_has_no_policy_and_no_counters(chain):
    assert chain.get_policy() is None
    assert chain.get_counters() is None
    assert not chain.is_builtin()
    assert iptc.Chain(chain.table, "INPUT").is_builtin()


def test_get_target(chain, family):
    assert chain.get_target(rule(family, 1, "DROP")) == b"DROP"


def test_policies_are_one_object_for_each_name():
    assert iptc.Policy("DROP") is iptc.Policy(iptc.Policy.DROP)
    assert [iptc.Policy.ACCEPT, iptc.Policy.QUEUE, iptc.Policy.RETURN] == ["ACCEPT", "QUEUE", "RETURN"]
    drop = iptc.Policy("DROP")
    assert copy.deepcopy(drop) is copy.copy(drop) is drop
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(drop, protocol)) is drop


def test_a_rule_of_the_other_family_is_refused(chain, family):
    other = (iptc.Rule if family.ipv6 else iptc.Rule6)()
    other.create_target("ACCEPT")
    with pytest.raises(TypeError, match="must be a Rule"):
        chain.append_rule(other)


def test_counters_go_with_the_rule(chain, family, host):
    counted = rule(family, 1)
    counted.counters = (11, 22)
    chain.append_rule(counted)
    assert chain.rules[0].counters == (11, 22)
    assert "[11:22] -A web -m mark --mark 0x1 -j ACCEPT" in host.save(family.ipv6, counters=True)


def test_pending_edits_show_in_their_order(chain, family, host):
    chain.append_rule(rule(family, 1))
    chain.table.autocommit = False
    chain.insert_rule(rule(family, 2))
    chain.append_rule(rule(family, 3))
    chain.replace_rule(rule(family, 4), 1)
    chain.delete_rule(rule(family, 3))
    assert marks(chain) == [2, 4]
    assert len(host.rules(family.ipv6)) == 1
    chain.table.commit()
    chain.table.refresh()
    assert marks(chain) == [2, 4]


def test_pending_edits_mean_the_rule_they_named(chain, family, host):
    for number in (1, 2, 3):
        chain.append_rule(rule(family, number))
    chain.table.autocommit = False
    chain.replace_rule(rule(family, 9), 1)
    chain.insert_rule(rule(family, 8), 2)
    host.iptables("-I", "web", "-j", "DROP", ipv6=family.ipv6)
    chain.table.commit()
    assert [line.split()[5] for line in host.rules(family.ipv6)[1:]] == ["0x1", "0x9", "0x8", "0x3"]


def test_an_edit_of_a_rule_that_is_gone_is_a_conflict(chain, family, host):
    for number in (1, 2):
        chain.append_rule(rule(family, number))
    chain.table.autocommit = False
    chain.replace_rule(rule(family, 9), 1)
    host.iptables("-D", "web", "2", ipv6=family.ipv6)
    with pytest.raises(iptc.Conflict, match="position 1 is gone"):
        chain.table.commit()
    assert marks(chain) == [1]


MEANINGLESS = [
    ("filter", "INPUT", "-o"),
    ("mangle", "PREROUTING", "-o"),
    ("filter", "OUTPUT", "-i"),
    ("nat", "POSTROUTING", "-i"),
]


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("table, name, option", MEANINGLESS)
def test_an_interface_that_packets_do_not_have_there_is_refused(host, family, autocommit, table, name, option):
    """As iptables refuses it: `! -o eth0 -j ACCEPT` in INPUT would accept everything."""
    table = family.Table(table, autocommit)
    chain = iptc.Chain(table, name)
    chain.append_rule(family.Rule.from_args("-j DROP"))
    table.commit()
    before = host.rules(family.ipv6)
    words = ["-t", table.name, "-A", name, option, "eth0"]
    said = host.iptables(*words, ipv6=family.ipv6, check=False).stderr.split("): ", 1)[1].split("\n")[0]
    for text in ("{} eth0 -j ACCEPT", "! {} eth0 -j ACCEPT", "{} eth+ -j ACCEPT", "{} + -j ACCEPT", "! {} + -j ACCEPT"):
        rule = family.Rule.from_args(text.format(option))
        for attempt in (
            lambda: chain.append_rule(rule),
            lambda: chain.insert_rule(rule),
            lambda: chain.replace_rule(rule),
            lambda: chain.ensure_rule(rule),
            lambda: chain.ensure_rule(rule, 0),
            lambda: table.append_entry(name, rule.rule),
            lambda: table.insert_entry(name, rule.rule, 0),
            lambda: table.replace_entry(chain, rule.rule, 0),
        ):
            with pytest.raises(iptc.ParameterError) as caught:
                attempt()
            assert str(caught.value) == said
    made = family.Rule()
    setattr(made, "out_interface" if option == "-o" else "in_interface", "!eth0")
    made.create_target("ACCEPT")
    with pytest.raises(iptc.ParameterError), table.transaction():
        chain.append_rule(family.Rule.from_args("-p tcp -j DROP"))
        chain.append_rule(made)
    if autocommit:
        with pytest.raises(iptc.ParameterError):
            iptc.easy.add_rule(table.name, name, iptc.easy.decode_iptc_rule(made), ipv6=family.ipv6)
        with pytest.raises(iptc.ParameterError):
            iptc.easy.batch_add_rules(
                table.name, [(name, {"target": "DROP"}, 0), (name, iptc.easy.decode_iptc_rule(made), 0)], family.ipv6
            )
    table.commit()
    assert host.rules(family.ipv6) == before


def test_an_interface_is_taken_where_packets_may_have_it(host, family):
    table = family.Table("filter")
    chains = [table.create_chain("web"), iptc.Chain(table, "FORWARD")]
    for option in ("-i", "-o"):
        chains.append(iptc.Chain(table, {"-i": "INPUT", "-o": "OUTPUT"}[option]))
        for chain in chains:
            chain.append_rule(family.Rule.from_args(f"{option} eth0 -j ACCEPT"))
        chains.pop()
    assert len(host.rules(family.ipv6)) == 6
    # a rule that another program has added can be found and deleted
    strange = iptc.Chain(table, "INPUT")
    assert not strange.has_rule(family.Rule.from_args("-o eth0 -j ACCEPT"))
    with pytest.raises(iptc.NotFound):
        strange.delete_rule(family.Rule.from_args("-o eth0 -j ACCEPT"))
