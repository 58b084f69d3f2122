"""Table and Table6: which tables open, what a table remembers, and when edits reach the kernel."""

import copy
import pickle

import pytest

import iptc


def rule(family, target="ACCEPT", src=None):
    """Return a rule with one source address: *src*, or an address of the family."""
    made = family.Rule()
    made.src = src or family.address
    made.create_target(target)
    return made


def filled(family):
    """Return the filter table with one user chain and one rule."""
    table = family.Table("filter")
    table.create_chain("web").append_rule(rule(family))
    return table


def test_names_of_tables():
    assert [iptc.Table.FILTER, iptc.Table.NAT, iptc.Table.MANGLE, iptc.Table.RAW, iptc.Table.SECURITY] == [
        "filter",
        "nat",
        "mangle",
        "raw",
        "security",
    ]
    assert iptc.Table.ALL == iptc.Table6.ALL == ["filter", "mangle", "raw", "nat", "security"]
    assert issubclass(iptc.Table6, iptc.Table)


@pytest.mark.parametrize("name", iptc.Table.ALL)
def test_each_table_has_the_chains_that_iptables_shows(host, family, name):
    lines = [f":{chain.name} {chain.get_policy().name} [0:0]" for chain in family.Table(name).chains]
    assert lines == [line for line in host.save(family.ipv6, table=name) if line.startswith(":")]


def test_a_table_is_one_object_for_its_name(host, family):
    table = family.Table("filter")
    assert family.Table("filter") is table
    assert family.Table("nat") is not table
    assert iptc.Table("filter") is not iptc.Table6("filter")


def test_copies_and_pickles_of_a_table_are_the_table(host, family):
    table = family.Table("filter")
    assert copy.deepcopy(table) is copy.copy(table) is table
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(table, protocol)) is table


def test_autocommit_is_on_unless_said_otherwise(host, family):
    assert family.Table("filter").autocommit is True
    assert family.Table("filter", False).autocommit is False
    assert family.Table("filter").autocommit is False
    assert family.Table("filter", True).autocommit is True
    assert family.Table("nat", autocommit=False).autocommit is False


def test_an_unknown_table_is_not_found(host, family):
    with pytest.raises(iptc.NotFound, match="can't initialize nosuch: Table does not exist"):
        family.Table("nosuch")


def test_availability_of_tables(host):
    assert iptc.is_table_available("filter") and iptc.is_table6_available("filter")
    assert not iptc.is_table_available("nosuch") and not iptc.is_table6_available("nosuch")


def test_only_the_table_that_is_used_comes_into_being(host, family):
    family.Table("raw").create_chain("web")
    assert [line for line in host.save(family.ipv6) if line.startswith("*")] == ["*raw"]


def test_chains_are_builtin_first_then_by_name(host, family):
    table = family.Table("filter")
    for name in ("zebra", "Apple", "mango"):
        table.create_chain(name)
    assert [chain.name for chain in table.chains] == ["INPUT", "FORWARD", "OUTPUT", "Apple", "mango", "zebra"]


def test_create_chain_takes_a_name_or_a_chain(host, family):
    table = family.Table("filter")
    assert table.create_chain("one") is iptc.Chain(table, "one")
    assert table.create_chain(iptc.Chain(table, "two")).name == "two"
    assert table.is_chain("one") and table.is_chain(iptc.Chain(table, "two"))
    assert {":one - [0:0]", ":two - [0:0]"} <= set(host.save(family.ipv6))


def test_delete_chain(host, family):
    table = filled(family)
    table.flush_entries("web")
    table.delete_chain("web")
    assert not table.is_chain("web")
    assert ":web - [0:0]" not in host.save(family.ipv6)


def test_rename_chain_and_jumps_to_it_follow(host, family):
    table = filled(family)
    chain = iptc.Chain(table, "web")
    iptc.Chain(table, "INPUT").append_rule(rule(family, "web"))
    table.rename_chain("web", "www")
    assert chain.name == "www" and chain is iptc.Chain(table, "www")
    assert iptc.Chain(table, "INPUT").rules[0].target.name == "www"
    assert host.rules(family.ipv6)[0].endswith("-j www")


def test_builtin_chain(host, family):
    table = filled(family)
    assert table.builtin_chain("INPUT") and table.builtin_chain(iptc.Chain(table, "INPUT"))
    assert not table.builtin_chain("web") and not table.builtin_chain("nosuch")


def test_flush_empties_all_chains_and_keeps_policies(host, family):
    table = filled(family)
    other = table.create_chain("other")
    other.append_rule(rule(family, "web"))
    iptc.Chain(table, "web").append_rule(rule(family, "other"))
    iptc.Chain(table, "INPUT").append_rule(rule(family))
    table.set_policy("FORWARD", "DROP")
    table.flush()
    assert host.save(family.ipv6) == [
        "*filter",
        ":INPUT ACCEPT [0:0]",
        ":FORWARD DROP [0:0]",
        ":OUTPUT ACCEPT [0:0]",
        "COMMIT",
    ]


def test_policy_and_its_counters(host, family):
    table = family.Table("filter")
    table.set_policy("INPUT", iptc.Policy("DROP"), (3, 4))
    assert table.get_policy("INPUT") == (iptc.Policy("DROP"), (3, 4))
    table.set_policy(iptc.Chain(table, "INPUT"), "ACCEPT")
    assert ":INPUT ACCEPT [3:4]" in host.save(family.ipv6, counters=True)


def test_a_user_chain_has_no_policy(host, family):
    table = filled(family)
    assert table.get_policy("web") == (None, None)


def test_zero_entries(host, family):
    table = family.Table("filter")
    counted = rule(family)
    counted.counters = (5, 6)
    iptc.Chain(table, "INPUT").append_rule(counted)
    table.set_policy("INPUT", "DROP", (7, 8))
    table.zero_entries("INPUT")
    assert iptc.Chain(table, "INPUT").rules[0].counters == (0, 0)
    assert ":INPUT DROP [0:0]" in host.save(family.ipv6, counters=True)
    assert all("[5:6]" not in line for line in host.save(family.ipv6, counters=True))


def test_without_autocommit_nothing_goes_out_before_commit(host, family):
    table = family.Table("filter", False)
    chain = table.create_chain("web")
    chain.append_rule(rule(family))
    assert len(chain.rules) == 1 and chain in table.chains
    assert host.rules(family.ipv6) == []
    table.commit()
    assert len(host.rules(family.ipv6)) == 1


def test_commit_again_after_further_changes(host, family):
    table = family.Table("filter", False)
    for _ in range(3):
        iptc.Chain(table, "INPUT").append_rule(rule(family))
        table.commit()
    assert len(host.rules(family.ipv6)) == 3


def test_commit_of_nothing_is_nothing(host, family):
    table = family.Table("filter")
    table.commit()
    table.commit()


def test_refresh_without_autocommit_drops_what_was_gathered(host, family):
    table = family.Table("filter", False)
    table.create_chain("web")
    table.refresh()
    assert not table.is_chain("web")
    table.commit()
    assert ":web - [0:0]" not in host.save(family.ipv6)


def test_switching_autocommit_on_sends_with_the_next_use(host, family):
    table = family.Table("filter", False)
    iptc.Chain(table, "INPUT").append_rule(rule(family))
    table.autocommit = True
    assert host.rules(family.ipv6) == []
    table.get_policy("INPUT")
    assert len(host.rules(family.ipv6)) == 1


def test_a_failed_commit_changes_nothing_and_is_over(host, family):
    table = family.Table("filter", False)
    iptc.Chain(table, "INPUT").append_rule(rule(family))
    bad = family.Rule()
    bad.create_target("ACCEPT")
    bad.create_match("tcp").dport = "80"  # without -p tcp
    iptc.Chain(table, "INPUT").append_rule(bad)
    with pytest.raises(iptc.IPTCError, match="can't commit: Invalid argument"):
        table.commit()
    assert host.rules(family.ipv6) == []
    assert iptc.Chain(table, "INPUT").rules == []
    table.commit()


def test_refresh_sees_what_others_did(host, family):
    table = family.Table("filter")
    assert iptc.Chain(table, "INPUT").rules == []
    host.iptables("-A INPUT -j DROP", ipv6=family.ipv6)
    assert iptc.Chain(table, "INPUT").rules == []
    table.refresh()
    assert [r.target.name for r in iptc.Chain(table, "INPUT").rules] == ["DROP"]


def test_a_change_does_not_undo_what_others_did(host, family):
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    assert chain.rules == []
    host.iptables("-A INPUT -j DROP", ipv6=family.ipv6)
    chain.append_rule(rule(family))
    assert [r.target.name for r in chain.rules] == ["DROP", "ACCEPT"]


def test_counters_of_policies_survive_a_commit(host, family):
    host.restore("*filter\n:INPUT ACCEPT [10:20]\nCOMMIT\n", family.ipv6, ["-c"])
    iptc.Chain(family.Table("filter"), "OUTPUT").append_rule(rule(family))
    assert ":INPUT ACCEPT [10:20]" in host.save(family.ipv6, counters=True)


def test_entries_as_bytes(host, family):
    table = family.Table("filter")
    one, two = rule(family), rule(family, "DROP")
    table.append_entry("INPUT", one.rule)
    table.insert_entry("INPUT", two.rule, 0)
    assert [table.get_target(r.rule) for r in iptc.Chain(table, "INPUT").rules] == [b"DROP", b"ACCEPT"]
    table.replace_entry("INPUT", one.rule, 0)
    table.delete_entry("INPUT", one.rule, one.mask)
    assert len(host.rules(family.ipv6)) == 1


def test_walk_over_entries(host, family):
    table = family.Table("filter")
    for target in ("ACCEPT", "DROP"):
        iptc.Chain(table, "INPUT").append_rule(rule(family, target))
    entry, names = table.first_rule("INPUT"), []
    while entry:
        names.append(table.create_rule(entry).target.name)
        entry = table.next_rule(entry)
    assert names == ["ACCEPT", "DROP"]
    assert table.first_rule("OUTPUT") is None


def test_create_rule_is_of_the_family_of_the_table(host, family):
    assert type(family.Table("filter").create_rule()) is family.Rule


def test_closing_twice_and_opening_again(host, family):
    table = filled(family)
    table.close()
    table.close()
    assert family.Table("filter") is table
    assert table.is_chain("web")
    table.close()
    table.refresh()
    assert table.is_chain("web")


def test_repr_names_family_and_table(host, family):
    assert repr(family.Table("filter")) == f"<iptc.{family.Table.__name__} filter>"


def test_a_restore_is_an_edit_like_others(host, family):
    """With autocommit off or in a transaction it is pending: it is seen, saved, taken back and sent like other edits."""
    host.iptables("-A", "INPUT", "-j", "DROP", ipv6=family.ipv6)
    text = "*filter\n:INPUT DROP [5:6]\n:web - [0:0]\n-A INPUT -j web\n-I web -p tcp -j DROP\n-P FORWARD DROP\n-A web -g web2\nCOMMIT\n"
    text = text.replace("-A web -g", ":web2 -\n:gone -\n-N made\n-E made renamed\n-F gone\n-X gone\n-Z\n-A web -g")
    text = text.replace(
        "COMMIT",
        "-R INPUT 1 -p udp -j web\n-C INPUT -p udp -j web\n-A web -j RETURN\n-D web 1\n-D web -j RETURN\n-Z web 1\nCOMMIT",
    )
    table = family.Table("filter", autocommit=False)
    before = host.save(family.ipv6)
    assert table.restore(text) == 5
    seen = table.save()
    assert host.save(family.ipv6) == before
    assert [str(rule) for rule in iptc.Chain(table, "INPUT").rules] == ["-p udp -j web"]
    table.refresh()
    assert [str(rule) for rule in iptc.Chain(table, "INPUT").rules] == ["-j DROP"]
    with pytest.raises(iptc.IPTCError) as caught:
        table.restore(text.replace("-D web 1", "-D web 7"), flush=False)
    assert caught.value.line == 18
    table.refresh()
    table.autocommit = True
    with table.transaction():
        table.restore(text)
        assert host.save(family.ipv6) == before
    after = host.save(family.ipv6, counters=True)
    assert [line for line in seen.splitlines() if not line.startswith("#")] == host.save(
        family.ipv6
    ) and "-A web -g web2" in seen
    table.restore("\n".join([*after, ""]), counters=True)
    assert host.save(family.ipv6, counters=True) == after
    with pytest.raises(iptc.ParameterError, match="no table filter"):
        table.restore("*nat\nCOMMIT\n")


def test_setting_a_policy_says_whether_anything_changed(host, family):
    table = family.Table("filter")
    chain = iptc.Chain(table, "INPUT")
    steps = [
        (("DROP",), True),
        (("DROP",), False),
        (("DROP", (1, 2)), True),
        (("DROP", (1, 2)), False),
        (("DROP", (1, 3)), True),
        (("ACCEPT", (1, 3)), True),
        (("ACCEPT",), False),
    ]
    for arguments, changed in steps:
        assert chain.set_policy(*arguments) is changed, arguments
    assert ":INPUT ACCEPT [1:3]" in host.save(family.ipv6, counters=True)
    assert table.set_policy("INPUT", iptc.Policy("DROP")) is True
    with table.transaction():
        assert [chain.set_policy(*arguments) for arguments, _ in steps] == [
            False,
            *(changed for _, changed in steps[1:]),
        ]
    table.autocommit = False
    assert [chain.set_policy("DROP"), chain.set_policy("DROP", (1, 3)), chain.set_policy("DROP", (0, 0))] == [
        True,
        False,
        True,
    ]
    table.commit()
    table.autocommit = True
    # decided by the table as it is now, and not as it was read
    assert len(chain.rules) == 0
    host.iptables("-P INPUT ACCEPT", ipv6=family.ipv6)
    assert iptc.easy.set_policy("filter", "INPUT", "DROP", family.ipv6) is True
    assert iptc.easy.set_policy("filter", "INPUT", "DROP", family.ipv6) is False
    host.iptables("-P INPUT ACCEPT", ipv6=family.ipv6)
    assert chain.set_policy("DROP") is True
    # a table that nobody has used has this policy
    assert family.Table("mangle").set_policy("INPUT", "ACCEPT") is False


def test_the_back_end_libiptc_says_whether_a_policy_changed(host, family):
    chain = iptc.Chain(family.Table("filter", backend="libiptc"), "INPUT")
    given = [("DROP",), ("DROP",), ("DROP", (1, 2)), ("DROP", (1, 2)), ("ACCEPT", (1, 2))]
    assert [chain.set_policy(*arguments) for arguments in given] == [True, False, True, False, True]
