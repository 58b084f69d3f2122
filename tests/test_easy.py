"""iptc.easy: names and dicts in, names and dicts out."""

import pytest

import iptc
from iptc import easy

SSH = {"protocol": "tcp", "tcp": {"dport": "22"}, "target": "ACCEPT"}


@pytest.fixture
def chain(host, ipv6):
    """A user chain `web` in filter."""
    easy.add_chain("filter", "web", ipv6)
    return "web"


def bare(rule_d):
    """A rule without its counters."""
    return {key: value for key, value in rule_d.items() if key != "counters"}


def sources(chain, ipv6):
    return [rule_d["src"] for rule_d in easy.dump_chain("filter", chain, ipv6)]


def from_(number, ipv6):
    """Return a rule that is identified by its source."""
    return {"src": f"2001:db8::{number}/128" if ipv6 else f"192.0.2.{number}/32", "target": "DROP"}


def test_tables_and_chains(chain, ipv6):
    assert easy.get_tables(ipv6) == iptc.Table.ALL
    assert easy.get_chains("filter", ipv6) == ["INPUT", "FORWARD", "OUTPUT", "web"]
    assert easy.has_chain("filter", "web", ipv6) and not easy.has_chain("filter", "nosuch", ipv6)


def test_add_chain_says_whether_it_did(host, ipv6):
    assert easy.add_chain("filter", "web", ipv6) is True
    assert easy.add_chain("filter", "web", ipv6, raise_exc=False) is False
    with pytest.raises(iptc.IPTCError, match="Chain already exists"):
        easy.add_chain("filter", "web", ipv6)


def test_delete_chain(chain, ipv6):
    easy.add_rule("filter", "web", SSH, ipv6=ipv6)
    with pytest.raises(iptc.IPTCError):
        easy.delete_chain("filter", "web", ipv6)
    easy.delete_chain("filter", "web", ipv6, raise_exc=False)
    assert easy.has_chain("filter", "web", ipv6)
    easy.delete_chain("filter", "web", ipv6, flush=True)
    assert not easy.has_chain("filter", "web", ipv6)


def test_positions_of_added_rules(chain, ipv6):
    for number, position in ((1, 0), (2, 0), (3, 1), (4, 2), (5, -1), (6, -99)):
        easy.add_rule("filter", "web", from_(number, ipv6), position, ipv6)
    easy.insert_rule("filter", "web", from_(7, ipv6), ipv6)
    assert sources("web", ipv6) == [from_(number, ipv6)["src"] for number in (7, 6, 3, 4, 1, 5, 2)]


def test_get_rule(chain, ipv6):
    for number in (1, 2, 3):
        easy.add_rule("filter", "web", from_(number, ipv6), ipv6=ipv6)
    assert bare(easy.get_rule("filter", "web", 1, ipv6)) == from_(1, ipv6)
    assert bare(easy.get_rule("filter", "web", -1, ipv6)) == from_(3, ipv6)
    assert easy.get_rule("filter", "web", ipv6=ipv6) == easy.dump_chain("filter", "web", ipv6)
    assert easy.get_rule("filter", "web", 9, ipv6, raise_exc=False) is None
    with pytest.raises(IndexError):
        easy.get_rule("filter", "web", 9, ipv6)


def test_has_position_counters_and_delete(chain, host, ipv6):
    easy.add_rule("filter", "web", from_(1, ipv6), ipv6=ipv6)
    easy.add_rule("filter", "web", {**SSH, "counters": (3, 4)}, ipv6=ipv6)
    assert easy.has_rule("filter", "web", SSH, ipv6)
    assert easy.get_rule_position("filter", "web", SSH, ipv6) == 1
    assert easy.get_rule_counters("filter", "web", SSH, ipv6) == (3, 4)
    easy.delete_rule("filter", "web", SSH, ipv6)
    assert not easy.has_rule("filter", "web", SSH, ipv6)
    easy.delete_rule("filter", "web", SSH, ipv6, raise_exc=False)
    with pytest.raises(iptc.IPTCError, match="Bad rule"):
        easy.delete_rule("filter", "web", SSH, ipv6)


def test_replace_rule(chain, ipv6):
    for number in (1, 2):
        easy.add_rule("filter", "web", from_(number, ipv6), ipv6=ipv6)
    easy.replace_rule("filter", "web", from_(2, ipv6), from_(3, ipv6), ipv6)
    assert sources("web", ipv6) == [from_(1, ipv6)["src"], from_(3, ipv6)["src"]]
    with pytest.raises(ValueError):
        easy.replace_rule("filter", "web", SSH, SSH, ipv6)


def test_a_missing_chain_or_rule_raises(chain, ipv6):
    with pytest.raises(AttributeError, match="Table <filter> has no chain <NOPE>"):
        easy.dump_chain("filter", "NOPE", ipv6)
    with pytest.raises(AttributeError):
        easy.get_rule_position("filter", "web", SSH, ipv6)
    with pytest.raises(AttributeError):
        easy.get_rule_counters("filter", "web", SSH, ipv6)


def test_policies(chain, ipv6):
    easy.set_policy("filter", "INPUT", "DROP", ipv6)
    assert easy.get_policy("filter", "INPUT", ipv6) == "DROP"
    easy.set_policy("filter", "INPUT", ipv6=ipv6)
    assert easy.get_policy("filter", "INPUT", ipv6) == "ACCEPT"
    assert easy.get_policy("filter", "web", ipv6) is None


def test_flush_and_zero(chain, host, ipv6):
    counted = {**SSH, "counters": (1, 2)}
    easy.add_rule("filter", "INPUT", counted, ipv6=ipv6)
    easy.add_rule("mangle", "INPUT", counted, ipv6=ipv6)
    easy.zero_chain("filter", "INPUT", ipv6)
    assert easy.get_rule_counters("filter", "INPUT", SSH, ipv6) == (0, 0)
    easy.zero_table("mangle", ipv6)
    assert easy.get_rule_counters("mangle", "INPUT", SSH, ipv6) == (0, 0)
    easy.zero_all("filter", ipv6)
    easy.zero_all(ipv6=ipv6)
    easy.flush_chain("filter", "INPUT", ipv6)
    assert len(host.rules(ipv6)) == 1
    easy.flush_table("filter", ipv6)
    assert not easy.has_chain("filter", "web", ipv6)
    easy.flush_all(ipv6)
    assert host.rules(ipv6) == []


def test_dumps(chain, ipv6):
    easy.add_rule("filter", "web", SSH, ipv6=ipv6)
    assert easy.dump_chain("filter", "web", ipv6) == [{**SSH, "counters": (0, 0)}]
    assert easy.dump_table("filter", ipv6)["web"] == [{**SSH, "counters": (0, 0)}]
    assert easy.dump_all(ipv6)["filter"] == easy.dump_table("filter", ipv6)
    assert list(easy.dump_all(ipv6)) == iptc.Table.ALL


def test_a_dump_can_be_loaded_again(host, ipv6):
    address = "2001:db8::/64" if ipv6 else "192.0.2.0/24"
    for line in (
        f"! -s {address} -i eth+ ! -o lo -p tcp -m tcp --dport 1:2 --tcp-flags SYN,ACK SYN -j LOG --log-prefix don't",
        "-m mark ! --mark 1 -m comment --comment x -m mark --mark 2 -j ACCEPT",
        "-m set --match-set s src,dst -m set ! --match-set s dst -j DROP",
        "-p udp -m multiport ! --dports 1,2:3 -g web",
        "-m policy --dir in --pol ipsec --strict --reqid 1 --next --reqid 2 -j RETURN",
        "-m comment --comment counted",
    ):
        if "set" in line and "--match-set" in line:
            host.run("ipset", "create", "s", "hash:net,iface", "family", "inet6" if ipv6 else "inet")
        if "-g web" in line:
            host.iptables("-N web", ipv6=ipv6)
        host.iptables(f"-A FORWARD {line}", ipv6=ipv6)
    before = host.save(ipv6)
    dump = easy.dump_chain("filter", "FORWARD", ipv6)
    easy.flush_chain("filter", "FORWARD", ipv6)
    easy.batch_add_rules("filter", [("FORWARD", rule_d, 0) for rule_d in dump], ipv6)
    assert host.save(ipv6) == before
    assert easy.dump_chain("filter", "FORWARD", ipv6) == dump


def test_dicts_have_the_form_of_python_iptables(host):
    host.iptables("-N web")
    host.iptables("-A FORWARD -s 10.0.0.0/24 ! -d 10.1.0.1 ! -i eth0 -o eth+ -p tcp -f -m comment --comment x -g web")
    assert easy.dump_chain("filter", "FORWARD") == [
        {
            "src": "10.0.0.0/24",
            "dst": "!10.1.0.1/32",
            "protocol": "tcp",
            "in-interface": "!eth0",
            "out-interface": "eth+",
            "fragment": True,
            "comment": {"comment": "x"},
            "target": {"goto": "web"},
            "counters": (0, 0),
        }
    ]


def test_values_of_a_dict():
    rule_d = {
        "protocol": "tcp",
        "tcp": {"dport": ["!", "22"], "tcp-flags": ["SYN,ACK", "SYN"]},
        "mark": [{"mark": "0x1"}, {"mark": ["!", "0x2"]}],
        "recent": {"set": "", "name": "x", "mask": "255.255.255.255", "rsource": ""},
        "target": {"REJECT": {"reject-with": "tcp-reset"}},
        "counters": (5, 6),
    }
    assert easy.decode_iptc_rule(easy.encode_iptc_rule(rule_d)) == rule_d


@pytest.mark.parametrize(
    ("words", "decoded"),
    [
        ('-m comment --comment "!fw3" -j ACCEPT', "!fw3"),
        ('-m comment --comment "! fw3" -j ACCEPT', "! fw3"),
        ('-m comment --comment "!" -j ACCEPT', "!"),
        ('-j LOG --log-prefix "!x: "', "!x: "),
        ('-j NFLOG --nflog-prefix "!x"', "!x"),
        # for these options, text that begins with ! is a negation
        ('-m string --string "!x" --algo bm -j ACCEPT', ["!x"]),
        ('-m string ! --string "!x" --algo bm -j ACCEPT', ["!", "!x"]),
        ('-m string --string "!" --algo bm -j ACCEPT', ["!"]),
        ('-m string ! --string "!" --algo bm -j ACCEPT', ["!", "!"]),
        ('-m string ! --string "x" --algo bm -j ACCEPT', ["!", "x"]),
    ],
)
def test_text_that_begins_as_a_negation_does(chain, ipv6, words, decoded):
    rule = (iptc.Rule6 if ipv6 else iptc.Rule).from_args(words)
    iptc.Chain((iptc.Table6 if ipv6 else iptc.Table)("filter"), chain).append_rule(rule)
    (rule_d,) = easy.dump_chain("filter", chain, ipv6)
    part = next(rule_d[key] for key in ("comment", "string", "target") if key in rule_d)
    part = next(iter(part.values())) if "target" in rule_d and part is rule_d["target"] else part
    name = next(name for name in ("comment", "string", "log-prefix", "nflog-prefix") if name in part)
    assert part[name] == decoded
    assert easy.has_rule("filter", chain, rule_d, ipv6) and str(easy.encode_iptc_rule(rule_d, ipv6)) == str(rule)
    if decoded != "!":
        # dicts of earlier releases
        part[name] = [decoded] if isinstance(decoded, str) else decoded
        assert easy.has_rule("filter", chain, rule_d, ipv6)


def test_a_negation_of_what_cannot_be_negated_is_refused():
    with pytest.raises(iptc.ParameterError):
        easy.encode_iptc_rule({"comment": {"comment": ["!", "x"]}, "target": "ACCEPT"})
    match = iptc.Rule().create_match("string")
    match.algo, match.string = "bm", ["!"]
    assert match.string == match.parameters["string"] == ["!"]


def test_interleaved_matches_keep_their_order():
    rule = iptc.Rule()
    for name in ("mark", "comment", "mark"):
        match = rule.create_match(name)
        match.set_parameter(name, "1")
    rule.create_target("DROP")
    decoded = easy.decode_iptc_rule(rule)
    assert list(decoded) == ["mark", "comment", "mark#2", "target", "counters"]
    assert str(easy.encode_iptc_rule(decoded)) == str(rule)


def test_the_match_dst_beside_the_address_dst():
    rule = iptc.Rule6()
    rule.dst = "2001:db8::/64"
    rule.create_match("dst").dst_len = "8"
    rule.create_target("DROP")
    decoded = easy.decode_iptc_rule(rule, True)
    assert str(easy.encode_iptc_rule(decoded, True)) == str(rule)


def test_integers_are_taken_as_text():
    rule_d = {"protocol": 6, "tcp": {"dport": 22}, "mark": {"mark": 5}, "target": {"MARK": {"set-mark": 1}}}
    assert str(easy.encode_iptc_rule(rule_d)) == (
        "-p tcp -m tcp --dport 22 -m mark --mark 0x5 -j MARK --set-xmark 0x1/0xffffffff"
    )


def test_the_callers_dict_is_not_changed():
    rule_d = {"src": "10.0.0.1"}
    easy.encode_iptc_rule(rule_d)
    assert rule_d == {"src": "10.0.0.1"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"dprot": "22"},
        {"multiprot": {"dports": "1"}},
        {"in_interface": "eth0"},
        {"tcp": {"dprot": "22"}},
        {"tcp": {"dport": 22.5}},
        {"tcp": {"dport": None}},
        {"tcp": {"dport": []}},
        {"tcp": {"dport": "x"}},
        {"tcp": None},
        {"tcp": []},
        {"src": None},
        {"src": []},
        {"src": ["10.0.0.1", "10.0.0.2"]},
        {"src": "nowhere"},
        {"protocol": None},
        {"in-interface": None},
        {5: 6},
        {"target": None},
        {"target": {}},
        {"target": "NOPE"},
        {"target": {"NOPE": {}}},
        {"target": {"REJECT": "x"}},
        {"target": {"DROP": {"x": "y"}}},
        {"target": {"goto": "NOPE"}},
        {"counters": {"packets": 1, "size": 2}},
        {"comment": {"opaque": "zz"}},
    ],
)
def test_what_cannot_be_encoded_is_refused_and_nothing_is_added(host, ipv6, wrong):
    rule_d = {"protocol": "tcp", "target": "ACCEPT", **wrong}
    assert easy.test_rule(rule_d, ipv6) is False
    with pytest.raises(iptc.XTablesError):
        easy.add_rule("filter", "INPUT", rule_d, ipv6=ipv6)
    assert host.rules(ipv6) == []


def test_tests_of_parts(ipv6):
    assert easy.test_rule(SSH, ipv6) and not easy.test_rule(None, ipv6)
    assert easy.test_match("mark", {"mark": "1"}, ipv6) and not easy.test_match("mark", {"mark": "zzz"}, ipv6)
    assert not easy.test_match("nosuch", {}, ipv6)
    assert easy.test_target("MARK", {"set-mark": "1"}, ipv6) and not easy.test_target(
        "REJECT", {"reject-with": "x"}, ipv6
    )


def test_batches_of_chains(host, ipv6):
    easy.batch_add_chains("filter", ["a", "b"], ipv6)
    easy.add_rule("filter", "a", {"target": "b"}, ipv6=ipv6)
    easy.batch_add_chains("filter", ["a", "c"], ipv6, flush=False)
    assert len(host.rules(ipv6)) == 1
    easy.add_rule("filter", "b", {"target": "a"}, ipv6=ipv6)
    easy.batch_delete_chains("filter", ["a", "b", "nosuch"], ipv6)
    assert easy.get_chains("filter", ipv6) == ["INPUT", "FORWARD", "OUTPUT", "c"]


def test_batches_of_rules(chain, host, ipv6):
    easy.batch_add_rules("filter", [("web", from_(1, ipv6), 0), ("web", from_(2, ipv6), 1), ("INPUT", SSH, 0)], ipv6)
    assert sources("web", ipv6) == [from_(2, ipv6)["src"], from_(1, ipv6)["src"]]
    easy.batch_delete_rules("filter", [("web", from_(1, ipv6)), ("INPUT", SSH)], ipv6)
    assert len(host.rules(ipv6)) == 1


@pytest.mark.parametrize(
    "last", [("web", {"tcp": {"dport": "22"}, "target": "ACCEPT"}, 0), ("web", {"nosuch": {}}, 0), ("NOPE", SSH, 0)]
)
def test_a_batch_is_done_whole_or_not_at_all(chain, host, ipv6, last):
    before = host.save(ipv6)
    with pytest.raises(iptc.IPTCError):
        easy.batch_add_rules("filter", [("web", SSH, 0), last], ipv6)
    easy.dump_chain("filter", "web", ipv6)
    assert host.save(ipv6) == before
    assert (iptc.Table6 if ipv6 else iptc.Table)("filter").autocommit is True


def test_a_batch_of_the_callers_own(chain, host, ipv6):
    easy.batch_begin("filter", ipv6)
    easy.add_rule("filter", "web", SSH, ipv6=ipv6)
    easy.add_rule("filter", "INPUT", SSH, ipv6=ipv6)
    assert len(easy.dump_chain("filter", "web", ipv6)) == 1
    assert host.rules(ipv6) == []
    easy.batch_end("filter", ipv6)
    assert len(host.rules(ipv6)) == 2


def test_a_batch_over_all_tables_is_sent_at_its_end(host, ipv6):
    easy.batch_begin(ipv6=ipv6)
    easy.add_rule("raw", "OUTPUT", SSH, ipv6=ipv6)
    easy.add_rule("filter", "OUTPUT", SSH, ipv6=ipv6)
    assert host.rules(ipv6) == []
    easy.batch_end(ipv6=ipv6)
    assert len(host.rules(ipv6)) == 2


def test_what_failed_inside_a_batch_is_taken_back_alone(chain, host, ipv6):
    easy.batch_begin("filter", ipv6)
    easy.add_rule("filter", "web", from_(1, ipv6), ipv6=ipv6)
    with pytest.raises(AttributeError):
        easy.batch_add_rules("filter", [("web", from_(2, ipv6), 0), ("NOPE", SSH, 0)], ipv6)
    easy.batch_end("filter", ipv6)
    assert sources("web", ipv6) == [from_(1, ipv6)["src"]]


def test_each_call_sees_what_others_did(host, ipv6):
    easy.dump_table("filter", ipv6)
    host.iptables("-N later", ipv6=ipv6)
    easy.add_rule("filter", "later", SSH, ipv6=ipv6)
    easy.add_rule("filter", "INPUT", {"target": "later"}, ipv6=ipv6)
    assert len(host.rules(ipv6)) == 2


@pytest.mark.parametrize("there", [0, 2])
def test_a_position_beyond_the_chain_is_its_end(host, there):
    for number in range(there):
        iptc.easy.add_rule("filter", "INPUT", {"dst": f"10.0.0.{number}/32"})
    model = [f"10.0.0.{number}/32" for number in range(there)]
    for number, position in enumerate([2, 9, -9, -1, 3, 1, 0, -3], 20):
        iptc.easy.add_rule("filter", "INPUT", {"dst": f"10.0.0.{number}/32"}, position=position)
        model.insert(len(model) if position == 0 else position - 1 if position > 0 else position, f"10.0.0.{number}/32")
        assert [rule.split()[3] for rule in host.rules()] == model
