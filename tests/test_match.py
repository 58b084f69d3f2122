"""Match: parameters of all kinds in and out, for extensions of both parser generations."""

import copy
import pickle

import pytest

import iptc


def match(name, protocol=None, ipv6=False, **parameters):
    """A match of a rule of its own, which the match keeps to itself."""
    rule = iptc.Rule6() if ipv6 else iptc.Rule()
    if protocol:
        rule.protocol = protocol
    made = rule.create_match(name)
    for key, value in parameters.items():
        setattr(made, key, value)
    return made


def test_an_option_is_an_attribute(ipv6):
    made = match("tcp", "tcp", ipv6, dport="80", sport="1:2")
    assert (made.dport, made.sport) == ("80", "1:2")
    assert made.parameters == {"dport": "80", "sport": "1:2"}
    assert made.get_all_parameters() == {"dport": ["80"], "sport": ["1:2"]}


def test_an_option_that_is_not_set_or_not_there_reads_none(ipv6):
    made = match("tcp", "tcp", ipv6)
    assert made.dport is None and made.comment is None
    assert made.parameters == {}


@pytest.mark.parametrize("value", ["!80", "! 80", ["!", "80"]])
@pytest.mark.parametrize("name, option", [("tcp", "dport"), ("udp", "sport"), ("mark", "mark")])
def test_negation(name, option, value):
    made = match(name, name if name != "mark" else None, **{option: value})
    text = "!80" if name != "mark" else "!0x50"
    assert getattr(made, option) == text
    assert made.get_all_parameters() == {option: ["!", text[1:]]}


def test_setting_again_replaces():
    made = match("tcp", "tcp", dport="!80")
    made.dport = "443"
    assert made.parameters == {"dport": "443"}


def test_two_names_of_one_option_are_one():
    made = match("tcp", "tcp", dport="80")
    made.destination_port = "443"
    assert made.parameters == {"dport": "443"}


def test_a_value_that_is_refused_changes_nothing():
    made = match("tcp", "tcp", dport="80")
    with pytest.raises(ValueError):
        made.dport = "99999"
    assert made.parameters == {"dport": "80"}


def test_dashes_and_underscores_are_the_same():
    made = match("tcp", "tcp")
    made.set_parameter("tcp-option", "5")
    assert made.tcp_option == "5"
    made.set_parameter("tcp_option", "6")
    assert made.parameters == {"tcp_option": "6"} and made.get_all_parameters() == {"tcp-option": ["6"]}
    made.parse("tcp-option", "7")
    assert made.tcp_option == "7"


@pytest.mark.parametrize("value", [["SYN,RST,ACK", "SYN"], "SYN,RST,ACK SYN"])
def test_an_option_of_two_words(value):
    made = match("tcp", "tcp", tcp_flags=value)
    assert made.tcp_flags == "SYN,RST,ACK SYN"
    assert made.get_all_parameters() == {"tcp-flags": ["SYN,RST,ACK", "SYN"]}


def test_a_flag_takes_no_value(ipv6):
    made = match("socket", ipv6=ipv6, transparent="")
    assert made.transparent == "" and made.get_all_parameters() == {"transparent": []}
    made = match("recent")
    made.set_parameter("set")
    assert made.set == ""


def test_a_flag_can_be_negated():
    made = match("physdev", physdev_is_in=["!"])
    assert made.physdev_is_in == "!"
    assert made.get_all_parameters() == {"physdev-is-in": ["!"]}


def test_options_that_python_objects_have_too():
    made = match("recent", set="")
    made.name = "list"
    assert made.name == "recent"
    assert made.parameters["name"] == "list"


def test_defaults_show():
    made = match("recent", set="")
    assert made.parameters == {"set": "", "name": "DEFAULT", "mask": "255.255.255.255", "rsource": ""}


@pytest.mark.parametrize("value, text", [("1/sec", "1/sec"), ("5/minute", "5/min"), ("3/h", "3/hour")])
def test_limit(value, text):
    assert match("limit", limit=value).limit == text


@pytest.mark.parametrize(
    "name, option, value",
    [
        ("udp", "sport", "-1"),
        ("udp", "sport", "asdf"),
        ("udp", "dport", "!asdf"),
        ("mark", "mark", "0xffffffffff"),
        ("mark", "mark", "1234:1233"),
        ("limit", "limit", "123/1"),
        ("limit", "limit", "!1/second"),
        ("multiport", "dports", "1,2,x"),
        ("conntrack", "ctstate", "NEW,FOO"),
        ("icmp", "icmp_type", "nosuch"),
    ],
)
def test_a_value_that_iptables_refuses(name, option, value):
    made = match(name, "udp")
    with pytest.raises((ValueError, iptc.XTablesError)) as caught:
        setattr(made, option, value)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, iptc.XTablesError)


def test_what_libxtables_says_is_what_iptables_says(host):
    made = match("tcp", "tcp")
    with pytest.raises(iptc.ParameterError) as caught:
        made.dport = "asdf"
    said = host.iptables("-A INPUT -p tcp --dport asdf", check=False).stderr
    assert str(caught.value) in said


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "two words",
        "tab\there",
        "new\nline",
        "häß",
        "$x `y` ;z #",
        "%s%n",
        'say "x"',
        "back\\slash",
        "don't",
        "a -- b",
        "!bang",
        "!",
        "--starts",
        "-",
        " edge ",
        "c" * 255,
    ],
)
def test_text_goes_there_and_back(host, family, text):
    rule = family.Rule()
    rule.create_match("comment").comment = text
    rule.create_target("ACCEPT")
    assert rule.matches[0].get_all_parameters() == {"comment": [text]}
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    chain.append_rule(rule)
    read = chain.rules[0]
    assert read.matches[0].get_all_parameters() == {"comment": [text]} and read == rule
    chain.append_rule(iptc.easy.encode_iptc_rule(iptc.easy.decode_iptc_rule(read), family.ipv6))
    assert chain.rules[1] == rule
    chain.delete_rule(rule)
    chain.delete_rule(read)
    assert chain.rules == []


def test_text_is_stored_as_iptables_stores_it(host, family):
    text = 'it\'s "so" \\ !x'
    rule = family.Rule()
    rule.create_match("comment").comment = text
    rule.create_target("ACCEPT")
    iptc.Chain(family.Table("filter"), "INPUT").append_rule(rule)
    host.iptables("-A", "INPUT", "-m", "comment", "--comment", text, "-j", "ACCEPT", ipv6=family.ipv6)
    ours, theirs = host.rules(family.ipv6)
    assert ours == theirs


def test_a_comment_that_is_not_utf8(host, family):
    host.iptables("-A", "INPUT", "-m", "comment", "--comment", "\udcff\udc80x", ipv6=family.ipv6)
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    before = host.save(family.ipv6)
    read = chain.rules[0]
    assert read.matches[0].comment == "\udcff\udc80x"
    chain.replace_rule(read)
    assert host.save(family.ipv6) == before
    chain.delete_rule(read)
    assert chain.rules == []


def test_a_rule_can_match_a_set(host, family):
    host.run("ipset", "create", "blacklist", "hash:ip", "family", "inet6" if family.ipv6 else "inet")
    rule = family.Rule()
    rule.create_match("set").match_set = ["blacklist", "src"]
    rule.create_target("DROP")
    iptc.Chain(family.Table("filter"), "INPUT").insert_rule(rule)
    assert host.rules(family.ipv6) == ["-A INPUT -m set --match-set blacklist src -j DROP"]


def test_state_keeps_its_name(host, family):
    rule = family.Rule()
    rule.create_match("state").state = "RELATED,ESTABLISHED"
    rule.create_target("ACCEPT")
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    chain.append_rule(rule)
    read = chain.rules[0].matches[0]
    assert (read.name, read.state) == ("state", "RELATED,ESTABLISHED")
    assert chain.rules[0] == rule


def test_reset_goes_back_to_the_defaults():
    made = match("tcp", "tcp", dport="80")
    made.reset()
    assert made.parameters == {}
    made = match("limit", limit="1/min")
    made.reset()
    assert made == match("limit")


def test_matches_compare_by_what_they_say():
    assert match("udp", "udp", sport="1:2", dport="!3") == match("udp", "udp", dport="!3", sport="1:2")
    assert match("udp", "udp", sport="1") != match("udp", "udp", sport="2")
    assert match("udp", "udp", sport="1") != match("tcp", "tcp", sport="1")
    assert hash(match("mark", mark="1")) == hash(match("mark", mark="1"))
    assert match("mark") != "mark" and match("mark") != None  # noqa: E711 - the operator is tested


def test_two_matches_of_one_extension_share_nothing():
    rule = iptc.Rule()
    one, two = rule.create_match("mark"), rule.create_match("mark")
    one.mark = "0x1"
    two.mark = "0x2"
    assert (one.mark, two.mark) == ("0x1", "0x2")


def test_copies_and_pickles_are_equal_and_own(ipv6):
    made = match("tcp", "tcp", ipv6, dport="!80", tcp_flags=["SYN,ACK", "SYN"])
    for other in (copy.deepcopy(made), copy.copy(made), pickle.loads(pickle.dumps(made))):
        assert other == made and other.parameters == made.parameters
        other.dport = "81"
        assert made.dport == "!80"


def test_save():
    made = match("tcp", "tcp", dport="80")
    assert made.save(None) == {"dport": "80"} and made.save("dport") == "80" and made.save("sport") is None


def test_sizes_and_bytes():
    made = match("tcp", "tcp")
    assert len(made.match_buf) == len(made.match) == made.size
    assert 32 < made.usersize <= made.size
    assert iptc.Match(iptc.Rule(), match=made.match) == made


def test_a_revision_can_be_asked_for():
    assert match("multiport").revision == 1
    assert iptc.Rule().create_match("multiport", revision=0).revision == 0
    with pytest.raises(iptc.XTablesError, match="can't find match multiport"):
        iptc.Rule().create_match("multiport", revision=9)


def test_a_match_of_nothing_or_of_no_extension():
    with pytest.raises(ValueError, match="can't create match based on nothing"):
        iptc.Match(iptc.Rule())
    with pytest.raises(iptc.XTablesError, match="can't find match nosuch"):
        iptc.Match(iptc.Rule(), "nosuch")


def test_what_is_missing_is_said_when_the_rule_is_written(host):
    rule = iptc.Rule()
    rule.create_match("statistic")
    rule.create_target("ACCEPT")
    with pytest.raises(iptc.XTablesError, match="mode"):
        rule.final_check()
    with pytest.raises(iptc.XTablesError, match="mode"):
        iptc.Chain(iptc.Table("filter"), "INPUT").append_rule(rule)


def test_options_that_exclude_each_other_displace_each_other():
    made = match("conntrack", ctstate="NEW", ctproto="tcp")
    assert made.parameters == {"ctstate": "NEW", "ctproto": "6"}
    made = match("hashlimit", hashlimit_upto="5/sec", hashlimit_name="x")
    made.hashlimit_above = "7/sec"
    assert made.hashlimit_upto is None and made.hashlimit_above == "7/sec"


def test_repr_shows_name_and_parameters():
    assert repr(match("tcp", "tcp", dport="80")) == "<iptc.Match tcp {'dport': '80'}>"
