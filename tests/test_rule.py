"""Rule and Rule6: the base part, matches and target, equality, copies, text."""

import copy
import pickle

import pytest

import iptc


@pytest.fixture
def chain(host, family):
    """INPUT of filter."""
    return iptc.Chain(family.Table("filter"), "INPUT")


def full(family):
    """Return a rule with all parts of the base, a match and a target."""
    rule = family.Rule()
    rule.src, rule.dst = family.address, "!" + family.address
    rule.protocol, rule.in_interface = "tcp", "eth+"
    match = rule.create_match("tcp")
    match.dport, match.tcp_flags = "!80", ["SYN,ACK", "SYN"]
    rule.create_match("comment").comment = "it's"
    rule.create_target("REJECT").reject_with = "tcp-reset"
    rule.counters = (1, 2)
    return rule


def test_a_fresh_rule_says_nothing(family):
    rule = family.Rule()
    assert (rule.src, rule.dst) == (("::/0",) * 2 if family.ipv6 else ("0.0.0.0/0.0.0.0",) * 2)
    assert (rule.protocol, rule.in_interface, rule.out_interface) == ("ip", None, None)
    assert (rule.matches, rule.target, rule.counters, rule.chain, rule.rule) == ([], None, (0, 0), None, None)
    assert rule.nfproto == (10 if family.ipv6 else 2)


@pytest.mark.parametrize(
    "given, read",
    [
        ("10.0.0.1", "10.0.0.1/255.255.255.255"),
        ("192.168.1.77/24", "192.168.1.0/255.255.255.0"),
        ("10.1.2.3/255.0.255.0", "10.0.2.0/255.0.255.0"),
        ("!10.0.0.0/8", "!10.0.0.0/255.0.0.0"),
        ("0.0.0.0/0", "0.0.0.0/0.0.0.0"),
        ("127.0.0.1/255.0.0.0", "127.0.0.0/255.0.0.0"),
    ],
)
def test_ipv4_addresses(given, read):
    rule = iptc.Rule()
    rule.src = rule.dst = given
    assert rule.src == rule.get_src() == rule.dst == rule.get_dst() == read


@pytest.mark.parametrize(
    "given, read",
    [
        ("::1", "::1/128"),
        ("2001:db8::1/64", "2001:db8::1/64"),
        ("!2001::1/48", "!2001::1/48"),
        ("::/128", "::/128"),
        ("::1/ffff::", "::1/16"),
        ("::1/ffff:0:ffff::", "::1/ffff:0:ffff::"),
    ],
)
def test_ipv6_addresses(given, read):
    rule = iptc.Rule6()
    rule.set_src(given)
    rule.set_dst(given)
    assert rule.src == rule.dst == read


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1/-5",
        "127.0.0.1/33",
        "127.0.0.1/255.255",
        "127.0.0",
        "127.0.0.1.5",
        "256.0.0.1",
        "asdf",
        "",
        "!",
        "/8",
        "127.0.0.1/",
        "127.0.0.1/255.255.255.256",
        "localhost",
        "10.0.0.1,10.0.0.2",
        "127.0.0.1 ",
        "::1",
    ],
)
def test_addresses_that_are_none_in_ipv4(address):
    rule = iptc.Rule()
    rule.src = "10.0.0.1"
    with pytest.raises(ValueError):
        rule.src = address
    assert rule.src == "10.0.0.1/255.255.255.255"


@pytest.mark.parametrize(
    "address",
    [
        "2001:fg::/::",
        "2001/ffff::",
        "2001::/-1",
        "2001::/129",
        "::1/ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff:",
        "1.2.3.4",
        "",
    ],
)
def test_addresses_that_are_none_in_ipv6(address):
    with pytest.raises(ValueError):
        iptc.Rule6().dst = address


@pytest.mark.parametrize(
    "given, read",
    [
        ("tcp", "tcp"),
        ("TCP", "tcp"),
        ("!UDP", "!udp"),
        ("! udp", "!udp"),
        ("AH", "ah"),
        (6, "tcp"),
        ("6", "tcp"),
        (33, "33"),
        ("!33", "!33"),
        (255, "raw"),
        ("all", "ip"),
        ("ip", "ip"),
        (0, "ip"),
        ("icmpv6", "icmpv6"),
        ("gre", "gre"),
        ("dccp", "33"),
        ("udplite", "136"),
        ("ipv6-icmp", "icmpv6"),
        ("mh", "135"),
        ("vrrp", "112"),
    ],
)
def test_protocols(family, given, read):
    rule = family.Rule()
    rule.protocol = given
    assert rule.protocol == rule.get_protocol() == read


class Text(str):
    """A string of a class of its own, as programs have for what they read from a form or a file."""


def test_a_rule_is_built_of_strings_of_any_class(family):
    plain, other = family.Rule(), family.Rule()
    for rule, text in ((plain, str), (other, Text)):
        rule.src, rule.dst = text("::1" if family.ipv6 else "127.0.0.1"), text("::" if family.ipv6 else "0.0.0.0")
        rule.protocol, rule.in_interface = text("TCP"), text("lo")
        rule.create_match(text("tcp")).dport = text("22")
        rule.add_match(iptc.Match(rule, text("comment")))
        rule.matches[1].comment = text("naïve")
        assert rule.create_target(text("ACCEPT")).name == "ACCEPT"
        assert rule.create_target(text("LOG")).name == "LOG"
    assert plain.rule == other.rule and str(plain) == str(other)


@pytest.mark.parametrize("wrong", [None, 5, [], b"tcp"])
def test_names_that_are_no_strings(family, wrong):
    rule = family.Rule()
    with pytest.raises(iptc.errors.ParameterTypeError):
        rule.create_match(wrong)
    with pytest.raises(TypeError):
        iptc.Match(rule, [5])
    if wrong != 5:
        with pytest.raises(iptc.errors.ParameterTypeError):
            rule.protocol = wrong
    assert rule.matches == [] and rule.protocol == "ip"


@pytest.mark.parametrize("protocol", ["", "!", "asdf", 256, -1, "-1", "!ip", 10**30])
def test_protocols_that_are_none(family, protocol):
    with pytest.raises(ValueError):
        family.Rule().protocol = protocol


@pytest.mark.parametrize(
    "given, text",
    [
        ("eth0", "-i eth0"),
        ("eth+", "-i eth+"),
        ("!eth0", "! -i eth0"),
        ("! eth0", "! -i eth0"),
        ("interface-name1", "-i interface-name1"),
        ("interface-nam+", "-i interface-nam+"),
    ],
)
def test_interfaces(chain, family, host, given, text):
    rule = family.Rule()
    rule.in_interface = given
    rule.set_out_interface("lo")
    rule.create_target("ACCEPT")
    assert rule.in_interface == given.replace(" ", "") and rule.get_out_interface() == "lo"
    chain.table.append_entry("FORWARD", rule.rule)
    host.iptables(f"-A FORWARD {text} -o lo -j ACCEPT", ipv6=family.ipv6)
    ours, theirs = host.rules(family.ipv6)
    assert ours == theirs
    one, two = iptc.Chain(chain.table, "FORWARD").rules
    assert one == two and one.entry == two.entry


def test_any_interface(family):
    rule = family.Rule()
    rule.in_interface = "eth0"
    rule.in_interface = None
    rule.out_interface = "+"
    assert rule.in_interface is None and rule.out_interface is None


@pytest.mark.parametrize("name", ["", "!", "a" * 16, "é" * 8])
def test_interfaces_that_are_none(family, name):
    with pytest.raises(ValueError):
        family.Rule().in_interface = name


@pytest.mark.parametrize(
    "given, read",
    [
        ("1", True),
        ("true", True),
        ("asdf", True),
        (1, True),
        (True, True),
        (0, False),
        ("", False),
        (None, False),
        ("!", "!"),
    ],
)
def test_fragment(given, read):
    rule = iptc.Rule()
    rule.fragment = given
    assert rule.fragment == rule.get_fragment() == read


def test_no_fragment_in_ipv6():
    assert not hasattr(iptc.Rule6(), "fragment")
    with pytest.raises(AttributeError):
        iptc.Rule6().fragment = True


def test_negated_fragment_is_read_and_written_again(host):
    host.iptables("-A INPUT ! -f -j ACCEPT")
    chain = iptc.Chain(iptc.Table("filter"), "INPUT")
    again = iptc.easy.encode_iptc_rule(iptc.easy.decode_iptc_rule(chain.rules[0]))
    chain.append_rule(again)
    assert host.rules() == ["-A INPUT ! -f -j ACCEPT"] * 2


def test_counters(family):
    rule = family.Rule()
    rule.set_counters((1, 2**64 - 1))
    assert rule.counters == rule.get_counters() == (1, 2**64 - 1)


def test_matches_are_a_list_of_the_rules_own(family):
    rule = family.Rule()
    one, two = rule.create_match("mark"), iptc.Match(rule, "comment")
    rule.add_match(two)
    assert [m.name for m in rule.matches] == ["mark", "comment"]
    assert rule.matches[0] is one and rule.matches[1] is two
    rule.matches.clear()
    rule.remove_match(one)
    assert rule.matches == [two]
    with pytest.raises(ValueError):
        rule.remove_match(one)


def test_a_match_may_be_changed_after_it_was_added(family):
    rule = family.Rule()
    rule.create_target("ACCEPT")
    match = rule.create_match("mark")
    match.mark = "1"
    first = rule.rule
    match.mark = "2"
    assert rule.rule != first and rule.matches[0].mark == "0x2"


def test_the_target_can_be_made_set_and_replaced(family):
    rule = family.Rule()
    made = rule.create_target("DROP")
    assert rule.target is made
    other = iptc.Target(rule, "ACCEPT")
    rule.target = other
    assert rule.target is other


def test_a_rule_without_a_target_cannot_be_written(chain, family):
    with pytest.raises(ValueError, match="invalid rule"):
        chain.append_rule(family.Rule())
    assert chain.rules == []


def test_a_rule_that_only_counts(chain, family, host):
    host.iptables("-A INPUT -i lo", ipv6=family.ipv6)
    rule = family.Rule()
    rule.in_interface = "lo"
    rule.create_target("")
    chain.append_rule(rule)
    assert host.rules(family.ipv6) == ["-A INPUT -i lo"] * 2
    assert chain.rules[0] == rule and chain.rules[0].target.name == ""
    chain.delete_rule(rule)
    assert len(chain.rules) == 1


@pytest.mark.filterwarnings("ignore::iptc.XTablesWarning")
def test_other_attributes_are_the_users_own(family):
    rule = family.Rule()
    rule.dport = "8080"
    assert rule.dport == "8080"
    rule.create_target("ACCEPT")
    assert str(rule) == "-j ACCEPT"


def test_equality_is_what_the_rule_says(family):
    assert full(family) == full(family)
    assert not full(family) != full(family)
    assert hash(full(family)) == hash(full(family))
    for name, value in {
        "src": "!" + family.address,
        "protocol": "!tcp",
        "in_interface": "eth0",
        "out_interface": "lo",
    }.items():
        other = full(family)
        setattr(other, name, value)
        assert other != full(family)


def test_equality_without_counters_and_order_of_matches(family):
    one, two = family.Rule(), family.Rule()
    for rule, order in ((one, (1, 2)), (two, (2, 1))):
        for number in order:
            rule.create_match("mark").mark = str(number)
        rule.create_target("DROP")
    two.counters = (5, 6)
    assert one == two and hash(one) == hash(two)


def test_equality_with_other_things(family):
    assert family.Rule() == family.Rule()
    assert family.Rule() != None and family.Rule() != "rule"  # noqa: E711 - the operator is tested
    assert iptc.Rule() != iptc.Rule6()
    assert full(family) in [1, None, full(family)]


def test_jump_and_goto_are_not_the_same(chain, family):
    chain.table.create_chain("web")
    jump, goto = family.Rule(), family.Rule()
    jump.create_target("web")
    goto.create_target("web", goto=True)
    assert jump != goto
    chain.append_rule(goto)
    with pytest.raises(iptc.NotFound):
        chain.delete_rule(jump)
    chain.delete_rule(goto)


def test_a_rule_equals_the_kernels_copy(chain, family):
    chain.append_rule(full(family))
    assert chain.rules[0] == full(family) and full(family) in chain.rules
    rules = chain.rules
    rules.remove(full(family))
    assert rules == []


@pytest.mark.parametrize("alias", ["host-unreach", "port-unreach"])
def test_a_rule_made_by_an_alias_equals_the_kernels_copy(host, alias):
    rule = iptc.Rule()
    rule.create_target("REJECT").reject_with = alias
    chain = iptc.Chain(iptc.Table("filter"), "INPUT")
    chain.append_rule(rule)
    assert chain.rules[0] == rule
    assert chain.rules[0].target.reject_with == f"icmp-{alias}able"


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda rule: pickle.loads(pickle.dumps(rule))])
def test_copies_and_pickles_are_equal_and_own(family, clone):
    rule = full(family)
    other = clone(rule)
    assert other == rule and other.counters == rule.counters and str(other) == str(rule)
    other.src = "!" + family.address
    other.matches[0].dport = "81"
    other.create_target("DROP")
    assert rule == full(family)


def test_copies_of_half_built_rules(family):
    rule = family.Rule()
    rule.create_match("tcp")
    other = copy.deepcopy(rule)
    assert other.target is None and [m.name for m in other.matches] == ["tcp"]
    assert other == rule


def test_a_rule_that_was_read_can_be_copied(chain, family):
    chain.append_rule(full(family))
    read = chain.rules[0]
    assert pickle.loads(pickle.dumps(read)) == copy.deepcopy(read) == read


def test_a_rule_that_was_read_stays_what_it_was(chain, family):
    chain.append_rule(full(family))
    read = chain.rules[0]
    text = str(read)
    chain.flush()
    chain.table.refresh()
    chain.table.close()
    assert str(read) == text and read == full(family)


def test_changing_a_rule_that_was_read_changes_no_table(chain, family, host):
    chain.append_rule(full(family))
    before = host.save(family.ipv6)
    read = chain.rules[0]
    read.src = "!" + family.address
    read.matches[0].dport = "81"
    chain.table.set_policy("OUTPUT", "ACCEPT")
    assert host.save(family.ipv6) == before


def test_a_rule_that_was_read_can_be_changed_and_written(chain, family, host):
    chain.append_rule(full(family))
    read = chain.rules[0]
    read.matches[0].dport = "81"
    chain.replace_rule(read)
    assert "! --dport 80" not in host.rules(family.ipv6)[0] and "--dport 81" in host.rules(family.ipv6)[0]


def test_bytes_of_a_rule_make_the_rule(family):
    rule = full(family)
    rule.create_match("limit").limit = "5/min"  # its payload has bytes that only the kernel uses
    assert family.Rule(rule.rule) == rule
    assert len(rule.mask) == len(rule.rule)
    assert set(rule.mask) == {0, 0xFF}
    assert family.Rule(memoryview(rule.rule)) == rule


def test_text_is_what_iptables_save_prints(chain, family, host):
    chain.append_rule(full(family))
    assert [f"-A INPUT {chain.rules[0]}"] == [f"-A INPUT {full(family)}"] == host.rules(family.ipv6)
    assert repr(full(family)) == f"<iptc.{family.Rule.__name__} {full(family)}>"


def test_lists_of_names(host, family):
    rule = family.Rule()
    assert rule.protocols[6] == "tcp"
    assert [table.name for table in rule.tables] == family.Table.ALL
    assert rule.get_ip() is rule


def test_ipv6_mask_helper():
    assert iptc.Rule6()._create_mask(27) == [0xFF, 0xFF, 0xFF, 0xE0] + [0] * 12


def test_an_extension_without_a_plugin_shows_its_bytes(ipv6):
    rule = (iptc.Rule6 if ipv6 else iptc.Rule)()
    content = bytes(range(24))
    head = (32 + len(content)).to_bytes(2, "little") + b"nosuch".ljust(29, b"\0") + b"\3"
    match = iptc.Match(rule, match=head + content)
    assert repr(match) == f"<iptc.Match nosuch revision 3, 24 bytes {content[:16].hex()}...>"
    target = iptc.Target(rule, target=head.replace(b"nosuch", b"NOSUCH")[:32] + content)
    assert repr(target) == f"<iptc.Target NOSUCH revision 3, 24 bytes {content[:16].hex()}...>"
    rule.add_match(match)
    assert "[24 bytes of unknown data]" in str(rule) and "0001" not in str(rule)  # as iptables-save prints it
