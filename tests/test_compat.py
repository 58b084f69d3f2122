"""Programs written for python-iptables: the import paths, names and habits that they use."""

import importlib
import json
import pickle
import socket
import subprocess
import sys

import pytest

import iptc

PATHS = {
    "iptc": "Table Table6 Chain Rule Rule6 Match Target Policy IPTCError XTablesError is_table_available is_table6_available "
    "easy errors ip4tc ip6tc util version xtables",
    "iptc.ip4tc": "Table Chain Rule Match Target Policy IPTCError XTablesError IPTCModule is_table_available xt_align "
    "NFPROTO_IPV4 XT_INV_PROTO find_library find_libc load_kernel",
    "iptc.ip6tc": "Rule6 Table6 is_table6_available IPTCError NFPROTO_IPV6",
    "iptc.xtables": "XTablesError xtables_version NFPROTO_IPV4 NFPROTO_IPV6 NFPROTO_UNSPEC XTF_TRY_LOAD XTF_LOAD_MUST_SUCCEED "
    "XTOPT_INVERT XTOPT_MULTI XT_INV_PROTO xt_align",
    "iptc.errors": "XTablesError",
    "iptc.util": "load_kernel find_library find_libc",
    "iptc.version": "__version__ __pkgname__",
    "iptc.easy": "Rule Rule6 Table Table6 Chain IPTCError flush_all flush_table flush_chain zero_all zero_table zero_chain "
    "has_chain has_rule add_chain add_rule insert_rule delete_chain delete_rule get_tables get_chains get_rule "
    "replace_rule get_rule_counters get_rule_position test_rule test_match test_target get_policy set_policy "
    "dump_all dump_table dump_chain batch_begin batch_end batch_add_chains batch_delete_chains batch_add_rules "
    "batch_delete_rules encode_iptc_rule decode_iptc_rule",
}


@pytest.mark.parametrize("path", PATHS)
def test_old_import_paths(path):
    module = importlib.import_module(path)
    assert [name for name in PATHS[path].split() if not hasattr(module, name)] == []


def test_names_are_one_object_wherever_they_are_imported_from():
    assert iptc.ip4tc.IPTCError is iptc.IPTCError is iptc.easy.IPTCError
    assert iptc.errors.XTablesError is iptc.xtables.XTablesError is iptc.XTablesError
    assert iptc.ip4tc.Rule is iptc.Rule and iptc.ip6tc.Rule6 is iptc.Rule6
    assert issubclass(iptc.Match, iptc.ip4tc.IPTCModule) and issubclass(iptc.Target, iptc.ip4tc.IPTCModule)


def test_import_star_brings_nothing():
    names = {}
    exec("from iptc import *", names)
    assert set(names) == {"__builtins__"}


def test_versions():
    assert (iptc.version.__pkgname__, iptc.version.__version__) == ("python-iptables", "1.2.0")
    assert isinstance(iptc.xtables.xtables_version, int) and iptc.xtables.xtables_version >= 12
    assert iptc.xtables.xt_align(33) == 40


def test_libraries_can_be_found():
    assert iptc.util.find_libc().getpid() > 0
    library, major = iptc.util.find_library("nosuch", "c")
    assert library.getpid() > 0 and major == 6
    assert iptc.util.find_library("nosuch") == (None, None)


def test_a_kernel_module_that_is_not_there():
    iptc.util.load_kernel("no_such_module")
    with pytest.raises(iptc.IPTCError):
        iptc.util.load_kernel("no_such_module", exc_if_failed=True)


def raising(chain):
    """Return {message: call} for calls that fail on a table with a chain `web` that INPUT jumps to."""
    table = chain.table
    drop = table.create_rule()
    drop.create_target("DROP")
    gone, builtin = iptc.Chain(table, "NOPE"), iptc.Chain(table, "INPUT")
    no_chain = "No chain/target/match by that name"
    return {
        "can't initialize nosuch: Table does not exist (do you need to insmod?)": lambda: type(table)("nosuch"),
        "can't create chain web: Chain already exists": lambda: table.create_chain("web"),
        f"can't delete chain NOPE: {no_chain}": lambda: table.delete_chain("NOPE"),
        "can't delete chain web: Too many links": lambda: table.delete_chain("web"),
        f"can't rename chain NOPE: {no_chain}": lambda: table.rename_chain("NOPE", "X"),
        "can't rename chain web: File exists": lambda: table.rename_chain("web", "INPUT"),
        f"can't flush chain NOPE: {no_chain}": gone.flush,
        f"can't zero chain NOPE counters: {no_chain}": gone.zero_counters,
        "can't set policy RETURN on chain INPUT: Bad policy name": lambda: builtin.set_policy("RETURN"),
        f"can't append entry to chain NOPE: {no_chain}": lambda: gone.append_rule(drop),
        f"can't insert entry into chain NOPE: {no_chain}": lambda: gone.insert_rule(drop),
        f"can't replace entry in chain NOPE: {no_chain}": lambda: gone.replace_rule(drop),
        "can't delete entry from chain NOPE: Bad rule (does a matching rule exist in that chain?)": lambda: (
            gone.delete_rule(drop)
        ),
        "can't insert entry into chain INPUT: Index of insertion too big": lambda: builtin.insert_rule(drop, 9),
        "can't replace entry in chain INPUT: Index of replacement too big": lambda: builtin.replace_rule(drop, 9),
        "can't delete entry from chain INPUT: Bad rule (does a matching rule exist in that chain?)": lambda: (
            builtin.delete_rule(drop)
        ),
    }


@pytest.mark.parametrize("autocommit", [True, False])
def test_messages_that_programs_look_for(host, family, autocommit):
    table = family.Table("filter")
    chain = table.create_chain("web")
    jump = family.Rule()
    jump.create_target("web")
    iptc.Chain(table, "INPUT").append_rule(jump)
    table.autocommit = autocommit
    for message, action in raising(chain).items():
        with pytest.raises(iptc.IPTCError) as caught:
            action()
        assert message in str(caught.value)


def test_a_commit_that_fails_says_why(host, family):
    rule = family.Rule()
    rule.protocol = "tcp"
    rule.create_target("MASQUERADE")
    with pytest.raises(iptc.IPTCError, match="^can't commit: "):
        iptc.Chain(family.Table("filter"), "INPUT").append_rule(rule)


def test_without_privilege_the_message_names_the_capabilities(host):
    program = """
import iptc
try:
    iptc.Table("filter")
except iptc.IPTCError as error:
    print(error)
"""
    printed = host.run("setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", program)
    needed = "CAP_NET_ADMIN and CAP_NET_RAW" if host.backend == "legacy" else "CAP_NET_ADMIN"
    assert printed == f"can't initialize filter: Permission denied (you must be root) without {needed}\n"


@pytest.mark.parametrize("catch", [ValueError, AttributeError, iptc.XTablesError, iptc.IPTCError])
@pytest.mark.parametrize(
    "name, parameter, value",
    [("tcp", "nosuch", "1"), ("tcp", "dport", "asdf"), ("limit", "nosuch", "1"), ("limit", "limit", "asdf")],
)
def test_each_way_to_catch_a_parameter_error(catch, name, parameter, value):
    match = iptc.Rule().create_match(name)
    with pytest.raises(catch):
        setattr(match, parameter, value)


def test_a_value_of_the_wrong_type_is_a_type_error():
    match = iptc.Rule().create_match("tcp")
    for value in (80, None, b"80", 8.0):
        with pytest.raises(TypeError):
            match.dport = value


def test_loops_that_look_at_each_match(host, family):
    host.iptables("-A INPUT -p tcp -m tcp --dport 22 -m comment --comment x -j ACCEPT", ipv6=family.ipv6)
    found = [
        rule for rule in iptc.Chain(family.Table("filter"), "INPUT").rules for m in rule.matches if m.comment == "x"
    ]
    assert len(found) == 1
    assert found[0].matches[0].parameters["dport"] == "22"


def test_a_poll_loop_sees_the_counters_move(host):
    host.run("ip", "link", "set", "lo", "up")
    host.iptables("-A INPUT -i lo -p udp")
    table = iptc.Table("filter")
    held = iptc.Chain(table, "INPUT").rules[0]
    seen = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(3):
            sender.sendto(b"hello", ("127.0.0.1", 9))
            table.refresh()
            seen += [rule.get_counters() for chain in table.chains for rule in chain.rules]
    assert seen == [(1, 33), (2, 66), (3, 99)]
    assert held.counters == (0, 0)


def test_ban_and_unban(host):
    table = iptc.Table(iptc.Table.FILTER)
    chain = iptc.Chain(table, "INPUT")
    for number in (1, 2, 3, 2):
        rule = iptc.Rule()
        rule.src = f"192.0.2.{number}"
        rule.create_target("DROP")
        chain.insert_rule(rule)
    table.autocommit = False
    for rule in chain.rules:
        if rule.src.startswith("192.0.2.2/"):
            chain.delete_rule(rule)
    table.commit()
    table.refresh()
    table.autocommit = True
    assert [rule.src for rule in chain.rules] == ["192.0.2.3/255.255.255.255", "192.0.2.1/255.255.255.255"]


def test_a_rule_is_added_once_if_it_is_looked_for_first(host):
    table = iptc.Table("nat")
    chain = iptc.Chain(table, "POSTROUTING")
    for _ in range(2):
        rule = iptc.Rule()
        rule.src, rule.out_interface = "172.17.0.0/16", "!docker0"
        rule.create_target("MASQUERADE")
        if not any(rule == other for other in chain.rules):
            chain.append_rule(rule)
        dnat = iptc.Rule()
        dnat.protocol = "tcp"
        dnat.create_match("tcp").dport = "8080"
        dnat.create_target("DNAT").to_destination = "172.17.0.2:80"
        if dnat not in iptc.Chain(table, "PREROUTING").rules:
            iptc.Chain(table, "PREROUTING").insert_rule(dnat)
    assert len(host.rules()) == 2
    assert iptc.Chain(table, "PREROUTING").rules[0].target.to_destination.split(":")[0] == "172.17.0.2"


def test_collected_edits_are_committed_or_dropped(host, family):
    table = family.Table("filter")
    for fails in (True, False):
        table.autocommit = False
        try:
            chain = table.create_chain("web")
            rule = family.Rule()
            rule.create_target("ACCEPT")
            chain.append_rule(rule)
            if not fails:
                table.commit()
        finally:
            table.refresh()
            table.autocommit = True
        assert table.is_chain("web") is not fails


def test_the_variables_of_python_iptables_name_the_folder_of_plugins(host):
    program = "import iptc; print(iptc.Rule().create_match('tcp').name)"
    folder = host.run("pkg-config", "--variable=xtlibdir", "xtables").strip()
    for variables in ({"XTABLES_LIBDIR": f"/nosuch:{folder}"}, {"IPTABLES_LIBDIR": folder}):
        assert host.run("env", *(f"{k}={v}" for k, v in variables.items()), sys.executable, "-c", program) == "tcp\n"


def test_importing_writes_nothing_and_starts_nothing():
    program = """
import sys
started = []
sys.addaudithook(lambda event, args: event in ("subprocess.Popen", "os.fork", "os.exec", "os.posix_spawn", "os.system")
                 and started.append(event))
import iptc
assert started == [], started
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_one_word_stands_for_both_words_of_an_option(host, family):
    rule = family.Rule()
    rule.protocol = "tcp"
    match = rule.create_match("tcp")
    for value, read in (
        ("SYN", "SYN SYN"),
        (["SYN"], "SYN SYN"),
        ("!SYN,ACK", "!SYN,ACK SYN,ACK"),
        (["!", "RST"], "!RST RST"),
        ("SYN,ACK SYN", "SYN,ACK SYN"),
        (["SYN,ACK", "SYN"], "SYN,ACK SYN"),
    ):
        match.tcp_flags = value
        assert match.tcp_flags == read
    made = iptc.easy.encode_iptc_rule({"protocol": "tcp", "tcp": {"tcp-flags": "SYN"}, "target": "DROP"}, family.ipv6)
    assert str(made) == "-p tcp -m tcp --tcp-flags SYN SYN -j DROP"
    with pytest.raises(iptc.ParameterError):
        match.tcp_flags = "NOPE"
    with pytest.raises(iptc.ParameterError):
        match.dport = ["22", "23"]
    assert match.tcp_flags == "SYN,ACK SYN"
    # a set whose name is a direction as well; of another the direction is missing
    host.run("ipset", "create", "src", "hash:ip", "family", "inet6" if family.ipv6 else "inet")
    match = rule.create_match("set")
    match.match_set = "src"
    target = rule.create_target("SET")
    target.add_set = "src"
    assert (match.match_set, target.add_set) == ("src src", "src src")
    with pytest.raises(iptc.ParameterError, match="requires two args"):
        match.match_set = "other"


def test_iptc_iptc_is_the_package():
    assert iptc.iptc is iptc and iptc.iptc.easy.Rule is iptc.Rule


def test_a_method_may_be_put_on_what_matches_and_targets_share(monkeypatch):
    monkeypatch.setattr(iptc.ip4tc.IPTCModule, "_get_saved_buf", lambda self, ip: b"mine", raising=False)
    assert iptc.Rule().create_match("tcp")._get_saved_buf(None) == b"mine"


def test_counters_of_a_dict(host, family):
    for counters in ({"packets": 5, "bytes": 6}, [5, 6], (5, 6)):
        made = iptc.easy.encode_iptc_rule({"counters": counters, "target": "DROP"}, family.ipv6)
        assert made.counters == (5, 6)
    assert iptc.easy.encode_iptc_rule({"counters": None, "target": "DROP"}, family.ipv6).counters == (0, 0)


def test_the_message_of_an_error_is_its_first_argument(host, family):
    table = family.Table("filter")
    chain = iptc.Chain(table, "NOPE")
    for action in (lambda: chain.delete_rule_at(0), chain.flush):
        with pytest.raises(OSError, match="No chain/target/match by that name") as caught:
            action()
        error = caught.value
        assert error.args[0] == str(error) and error.errno == 2 and error.strerror
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.errno, again.args) == (str(error), error.errno, error.args)
    assert isinstance(table.strerror(), str)
    assert iptc.Chain(table, "INPUT")._get_rules() == []


def test_names_that_are_imported_unused():
    for line in (
        "from iptc.ip6tc import ip6tc",
        "from iptc.ip4tc import iptc",
        "from iptc.ip4tc import Table as Table4, Chain",
        "from iptc.errors import *",
        "import iptc; import importlib; importlib.reload(iptc)",
    ):
        exec(line, {})
    assert not hasattr(iptc.ip6tc.ip6tc, "iptc_init")


def test_policies_in_each_spelling(host, family):
    table = family.Table(family.Table.FILTER)
    chain = iptc.Chain(table, "FORWARD")
    chain.set_policy("DROP", (3, 4))
    for policy, counters in ((iptc.Policy("ACCEPT"), 0), (iptc.Policy.DROP, None), ("ACCEPT", ())):
        chain.set_policy(policy, counters)
        assert chain.get_policy() is iptc.Policy(policy if isinstance(policy, str) else policy.name)
        assert chain.get_counters() == (3, 4)
    for name in iptc.easy.get_chains("filter", family.ipv6):
        iptc.easy.set_policy("filter", name, policy=iptc.Policy("DROP"), ipv6=family.ipv6)
    assert {chain.get_policy().name for chain in table.chains} == {"DROP"}
    rule = family.Rule()
    rule.target = iptc.Target(rule, iptc.Policy.ACCEPT)
    assert str(rule) == "-j ACCEPT"


def test_what_iptables_refuses_out_of_prudence_is_taken(host, family):
    table = family.Table("nat")
    chain = iptc.Chain(table, "PREROUTING")
    rule = family.Rule()
    rule.protocol = "tcp"
    rule.create_target("DROP")
    chain.append_rule(rule)
    assert chain.ensure_rule(rule) is False
    chain.replace_rule(rule)
    iptc.easy.insert_rule("nat", "PREROUTING", {"target": "DROP"}, family.ipv6)
    assert [rule.target.name for rule in chain.rules] == ["DROP", "DROP"]
    chain.set_policy("DROP")
    assert chain.get_policy().name == "DROP"
    for line in ("-A PREROUTING -j DROP", "-P PREROUTING DROP"):
        with pytest.raises(iptc.IPTCError, match="not intended for filtering"):
            table.restore(f"*nat\n{line}\nCOMMIT\n", flush=False)


def test_a_target_that_changes_between_two_inserts(host, family):
    """A rule that drops, then the same that logs first, and the target put back."""
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    rule = family.Rule()
    rule.protocol = "udp"
    match = rule.create_match("udp")
    match.dport = match.sport = "500"
    rule.target = iptc.Target(rule, "DROP")
    chain.insert_rule(rule)
    before = rule.target
    rule.create_target("LOG")
    rule.target.log_prefix = "dropped "
    rule.target.set_parameter("log-level", "error")
    chain.insert_rule(rule)
    rule.target = before
    match.dport = match.sport = "4500"
    chain.insert_rule(rule)
    found = [(one.target.name, one.matches[0].dport) for one in chain.rules]
    assert found == [("DROP", "4500"), ("LOG", "500"), ("DROP", "500")]
    assert chain.rules.index(rule) == 0 and chain.rules[1].target.log_prefix == "dropped "


def test_a_private_name_on_a_target_is_a_note(host):
    class Redirect:
        def __init__(self):
            rule = iptc.Rule()
            rule.protocol = "tcp"
            self.target = rule.create_target("REDIRECT")
            self.target.__to_port = "8080"

    assert Redirect().target.parameters == {} and Redirect().target._Redirect__to_port == "8080"


def test_rules_are_deleted_while_they_are_counted(host, family):
    chain = iptc.Chain(family.Table("filter"), "INPUT")

    def fill():
        for number in range(4):
            rule = family.Rule(chain=chain)
            rule.in_interface = f"eth{number}"
            rule.create_target("DROP")
            rule.chain.insert_rule(rule)

    fill()
    while len(chain.rules) > 0:
        chain.delete_rule(chain.rules[0])
    fill()
    for number in range(len(chain.rules) - 1, -1, -1):
        chain.delete_rule(chain.rules[number])
    fill()
    for rule in chain.rules:
        rule.chain.delete_rule(rule)
    assert chain.rules == [] and host.rules(family.ipv6) == []


def test_rules_by_way_of_dicts_and_json(host, family):
    easy, ipv6 = iptc.easy, family.ipv6
    address = "[2001:db8::2]:80" if ipv6 else "10.0.0.2:80"
    wanted = {"protocol": "tcp", "tcp": {"dport": "8080"}, "addrtype": {"dst-type": "LOCAL"}}
    wanted["target"] = {"DNAT": {"to-destination": address}}
    easy.add_chain("nat", "sync", ipv6)
    easy.insert_rule("nat", "OUTPUT", {"target": "sync"}, ipv6)
    easy.add_rule("nat", "sync", json.loads(json.dumps(wanted)), ipv6=ipv6)
    (found,) = json.loads(json.dumps(easy.dump_chain("nat", "sync", ipv6)))
    assert found.pop("counters") == [0, 0] and found == wanted
    chain = iptc.Chain(family.Table("nat"), "sync")
    for rule in chain.rules:
        changed = easy.decode_iptc_rule(rule, ipv6)
        changed["addrtype"]["dst-type"] = "BROADCAST" if not ipv6 else "ANYCAST"
        chain.replace_rule(easy.encode_iptc_rule(changed, ipv6), chain.rules.index(rule))
    assert [rule.matches[1].dst_type for rule in chain.rules] == [changed["addrtype"]["dst-type"]]
    saved = json.dumps(easy.dump_table("nat", ipv6))
    easy.flush_table("nat", ipv6)
    easy.batch_begin("nat")
    easy.batch_add_chains("nat", ["sync"], ipv6)
    easy.batch_add_rules("nat", [(name, rule, 0) for name, rules in json.loads(saved).items() for rule in rules], ipv6)
    easy.batch_end("nat")
    assert json.dumps(easy.dump_table("nat", ipv6)) == saved
