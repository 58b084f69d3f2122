"""Target: verdicts, jumps, and extensions with their parameters."""

import contextlib
import copy
import pickle

import pytest

import iptc


def target(name, ipv6=False, protocol=None, **parameters):
    """A target of a rule of its own."""
    rule = iptc.Rule6() if ipv6 else iptc.Rule()
    if protocol:
        rule.protocol = protocol
    made = rule.create_target(name)
    for key, value in parameters.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize("name", ["ACCEPT", "DROP", "RETURN", "QUEUE", ""])
def test_verdicts(family, name):
    made = target(name, family.ipv6)
    assert made.name == made.standard_target == name
    assert made.parameters == made.get_all_parameters() == {}
    assert made.goto is False
    with pytest.warns(iptc.XTablesWarning, match="has no option --foo") if name else contextlib.nullcontext():
        assert made.foo is None
    assert name in iptc.Target.STANDARD_TARGETS or name == "QUEUE"


@pytest.mark.parametrize("name", [5, ["ACCEPT"], {}, b"ACCEPT"])
def test_a_name_that_is_no_string_is_refused(name):
    for create in (iptc.Rule().create_target, iptc.Rule().create_match):
        with pytest.raises(iptc.ParameterTypeError, match="the name of a match or target must be a string, not"):
            create(name)


def test_a_verdict_takes_no_parameter():
    with pytest.raises(AttributeError, match="invalid parameter foo"):
        target("DROP").foo = "1"


def test_jump_and_goto(host, family):
    table = family.Table("filter")
    table.create_chain("web")
    for goto in (False, True):
        rule = family.Rule()
        assert rule.create_target("web", goto=goto).goto is goto
        iptc.Chain(table, "INPUT").append_rule(rule)
    assert host.rules(family.ipv6) == ["-A INPUT -j web", "-A INPUT -g web"]
    assert [(r.target.name, r.target.goto) for r in iptc.Chain(table, "INPUT").rules] == [("web", False), ("web", True)]


def test_a_jump_to_a_chain_that_another_program_has_just_made(host, family):
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    assert chain.rules == []
    host.iptables("-N later", ipv6=family.ipv6)
    rule = family.Rule()
    rule.create_target("later")
    chain.append_rule(rule)
    assert host.rules(family.ipv6) == ["-A INPUT -j later"]


def test_a_target_of_nothing_or_of_no_extension(host):
    with pytest.raises(ValueError, match="can't create target based on nothing"):
        iptc.Target(iptc.Rule())
    with pytest.raises(iptc.XTablesError, match="can't find target jump_to_chain"):
        iptc.Target(iptc.Rule(), "jump_to_chain")
    with pytest.raises(iptc.XTablesError, match="can't find target tcp"):
        iptc.Target(iptc.Rule(), "tcp")


def test_goto_needs_a_chain(host):
    for name in ("nosuch", "REJECT"):
        with pytest.raises(iptc.XTablesError, match=f"goto '{name}' is not a chain"):
            iptc.Rule().create_target(name, goto=True)


def test_standard_target_turns_it_into_that(host):
    rule = iptc.Rule()
    made = rule.create_target("MARK")
    made.set_mark = "1"
    made.standard_target = "DROP"
    assert made.name == "DROP" and made.parameters == {}
    assert str(rule) == "-j DROP"


@pytest.mark.parametrize(
    "name, protocol, given, read",
    [
        ("MARK", None, {"set_mark": "0x123"}, {"set_xmark": "0x123/0xffffffff"}),
        ("REJECT", None, {}, {"reject_with": "icmp-port-unreachable"}),
        ("REJECT", "tcp", {"reject_with": "tcp-reset"}, {"reject_with": "tcp-reset"}),
        ("DNAT", "tcp", {"to_destination": "1.2.3.4:80"}, {"to_destination": "1.2.3.4:80"}),
        (
            "DNAT",
            "tcp",
            {"to_destination": "1.2.3.4:80-90", "random": "1", "persistent": "1"},
            {"to_destination": "1.2.3.4:80-90", "random": "", "persistent": ""},
        ),
        ("SNAT", None, {"to_source": "1.2.3.4-1.2.3.9"}, {"to_source": "1.2.3.4-1.2.3.9"}),
        ("MASQUERADE", "tcp", {"to_ports": "1234-2345"}, {"to_ports": "1234-2345"}),
        ("REDIRECT", "tcp", {"to_ports": "1234"}, {"to_ports": "1234"}),
        ("TOS", None, {"set_tos": "Minimize-Delay"}, {"set_tos": "0x10/0x3f"}),
        ("TOS", None, {"and_tos": "0x04"}, {"set_tos": "0x00/0xfb"}),
        ("CT", None, {"notrack": "true"}, {"notrack": ""}),
        ("LOG", None, {"log_prefix": 'a "b" ', "log_level": "4"}, {"log_prefix": 'a "b" '}),
        ("NFQUEUE", None, {"queue_num": "3", "queue_bypass": ""}, {"queue_num": "3", "queue_bypass": ""}),
        (
            "CONNMARK",
            None,
            {"nfmask": "0xdeadbeef", "ctmask": "0xfefefefe", "save_mark": ""},
            {"nfmask": "0xdeadbeef", "ctmask": "0xfefefefe", "save_mark": ""},
        ),
    ],
)
def test_parameters(name, protocol, given, read):
    assert target(name, protocol=protocol, **given).parameters == read


@pytest.mark.parametrize(
    "name, option, value",
    [
        ("REDIRECT", "to_ports", "1234567"),
        ("REDIRECT", "to_ports", "2345-1234"),
        ("MASQUERADE", "to_ports", "asdf"),
        ("TOS", "and_tos", "0x1234"),
        ("TOS", "set_tos", "Minimize-Bullshit"),
        ("DNAT", "to_destination", "asdf"),
        ("REJECT", "reject_with", "nosuch"),
        ("MARK", "set_mark", "0xfffffffff"),
        ("CLUSTERIP", "hashmode", "asdf"),
    ],
)
def test_a_value_that_iptables_refuses(name, option, value):
    made = target(name, protocol="tcp")
    with pytest.raises(iptc.XTablesError) as caught:
        setattr(made, option, value)
    assert isinstance(caught.value, ValueError)


def test_a_port_needs_a_protocol():
    with pytest.raises(ValueError, match="TCP, UDP"):
        target("DNAT").to_destination = "1.2.3.4:80"


def test_reset_goes_back_to_the_defaults():
    made = target("CONNMARK", nfmask="0x1", save_mark="")
    made.reset()
    assert made.parameters == target("CONNMARK").parameters and len(made.parameters) == 1


def test_a_parameter_that_python_has_too():
    made = target("CONNSECMARK")
    made.set_parameter("save")
    assert made.get_all_parameters() == {"save": []}
    made = target("CONNSECMARK")
    made.save = ""
    assert made.get_all_parameters() == {"save": []}


def test_targets_compare_by_what_they_say():
    assert target("MARK", set_mark="0x1") == target("MARK", set_mark="1")
    assert target("MARK", set_mark="0x1") != target("MARK", set_mark="2")
    assert target("DROP") == target("DROP") != target("ACCEPT")
    assert hash(target("DROP")) == hash(target("DROP"))
    assert target("DROP") != None and target("DROP") != "DROP"  # noqa: E711 - the operator is tested


def test_two_targets_of_one_extension_share_nothing():
    one, two = target("MARK", set_mark="1"), target("MARK", set_mark="2")
    assert (one.set_xmark, two.set_xmark) == ("0x1/0xffffffff", "0x2/0xffffffff")


def test_copies_and_pickles_are_equal_and_own():
    made = target("MARK", set_mark="1")
    for other in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other == made
        other.set_mark = "2"
        assert made.set_xmark == "0x1/0xffffffff"


def test_notrack_is_known_by_its_name(host, family):
    rule = family.Rule()
    rule.create_target("NOTRACK")
    chain = iptc.Chain(family.Table("raw"), "PREROUTING")
    chain.append_rule(rule)
    assert chain.rules[0].target.name in ("NOTRACK", "CT")
    chain.append_rule(iptc.easy.encode_iptc_rule(iptc.easy.decode_iptc_rule(chain.rules[0]), family.ipv6))
    one, two = host.rules(family.ipv6)
    assert one == two
    assert chain.rules[1] == rule


NAT = {
    "DNAT": {"to_destination": ("192.0.2.9", "2001:db8::9")},
    "SNAT": {"to_source": ("192.0.2.9", "2001:db8::9")},
    "MASQUERADE": {"random": ("", "")},
    "REDIRECT": {"random": ("", "")},
    "TCPMSS": {"set_mss": ("1000", "1000")},
    "TPROXY": {"on_port": ("80", "80")},
    "TEE": {"gateway": ("192.0.2.9", "2001:db8::9")},
    "DSCP": {"set_dscp": ("1", "1")},
    "HMARK": {"hmark_mod": ("5", "5"), "hmark_sport_mask": ("255", "255")},
}


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0), (1, 0, 1)])
@pytest.mark.parametrize("name", NAT)
def test_both_families_in_one_process_in_any_order(name, order):
    for ipv6 in order:
        parameters = {key: values[ipv6] for key, values in NAT[name].items()}
        made = target(name, ipv6, "tcp", **parameters)
        read = made.parameters
        assert all(read[k] == v or int(read[k], 0) == int(v) for k, v in parameters.items())


def test_repr_shows_name_and_parameters():
    assert repr(target("MARK", set_mark="1")) == "<iptc.Target MARK {'set_xmark': '0x1/0xffffffff'}>"
