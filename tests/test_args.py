"""Rule specifications: the same rules, and the same refusals, as the host's own iptables."""

import pytest
import specs
from specs import SETS
from test_extensions import accepted

import iptc
from iptc.language import printing
from iptc.language.extension import pack
from iptc.legacy.blob import stored

pytestmark = pytest.mark.filterwarnings("ignore::iptc.XTablesWarning")

# These depend on the table: whether a chain exists, which interfaces its packets have, what table nat accepts.
OF_A_TABLE = (
    "Can't use -",
    "Can't use --",
    "Couldn't load target",
    "is not a chain",
    "not intended for filtering",
    "unable to initialize table",
    "can't initialize iptables table",
)


@pytest.fixture
def sets(host):
    for line in SETS:
        host.run("ipset", *line.split())
    return host


@pytest.mark.one_backend("legacy")  # of nf_tables test_nft_codec tells the same
def test_every_specification_is_the_rule_that_iptables_makes(sets, ipv6):
    cls = iptc.Rule6 if ipv6 else iptc.Rule
    by_table = {}
    for spec in accepted(ipv6, "legacy"):
        for rule in cls.from_args(spec.text).expand():
            # as a legacy table stores it: there a log prefix is shorter than on nf_tables
            text = printing.render(rule.nfproto, stored(rule.nfproto, pack(rule, True)))
            by_table.setdefault(spec.table, []).append((spec, f"-A {spec.chain} {text}".rstrip()))
    for table, made in sorted(by_table.items(), key=lambda item: item[0] != "raw"):
        lines = [f"-A {spec.chain} {spec.text}" for spec in dict.fromkeys(spec for spec, _ in made)]
        sets.restore("\n".join([f"*{table}", ":web - [0:0]", ":log-drop - [0:0]", *lines, "COMMIT", ""]), ipv6)
        assert sorted(line for _, line in made) == sorted(line.rstrip() for line in sets.rules(ipv6, table))


@pytest.mark.parametrize("spec", specs.load_invalid(), ids=lambda spec: f"{6 if spec.ipv6 else 4} {spec.text}"[:60])
def test_what_iptables_refuses_is_refused_in_its_words(all_sets, spec):
    command = "ip6tables-legacy-restore" if spec.ipv6 else "iptables-legacy-restore"
    text = f"*{spec.table}\n:web - [0:0]\n:log-drop - [0:0]\n-A {spec.chain} {spec.text}\nCOMMIT\n"
    done = all_sets.run(command, "--test", check=False, text=text)
    refusal = None
    try:
        (iptc.Rule6 if spec.ipv6 else iptc.Rule).from_args(spec.text)
    except iptc.ParameterError as error:
        refusal = str(error)
    if done.returncode == 2 and not any(part in done.stderr for part in OF_A_TABLE):
        assert refusal is not None, done.stderr
        said = " ".join(done.stderr.replace(f"{command} v", " ").split())
        for part in refusal.split(": ")[-1:]:
            assert " ".join(part.split()) in said
    elif done.returncode == 0:
        assert refusal is None


@pytest.fixture(scope="module")
def all_sets():
    """Return a namespace with the sets that the specifications need. Nothing is committed in it."""
    from conftest import Host, enter_new_namespace, forget_tables

    enter_new_namespace()
    forget_tables()
    host = Host("legacy")
    for line in SETS:
        host.run("ipset", *line.split())
    return host


@pytest.mark.parametrize(
    "words",
    [
        ["-s", "10.0.0.0/8", "-p", "tcp", "--dport", "22", "-m", "comment", "--comment", "a b", "-j", "ACCEPT"],
        ["-p", "tcp", "-m", "tcp", "--tcp-flags", "SYN,ACK", "SYN", "-j", "LOG", "--log-prefix", "x "],
    ],
)
def test_words_and_text_are_the_same(words):
    rule = iptc.Rule.from_args(words)
    assert iptc.Rule.from_args(str(rule)) == rule
    assert iptc.Rule.from_args(rule.to_args()) == rule


def test_a_rule_made_of_text_is_written_and_found(host, family):
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    rule = family.Rule.from_args(f"-s {family.address} -p udp --dport 53 -c 5 6 -j DROP")
    chain.append_rule(rule)
    assert rule in chain.rules and rule.counters == (5, 6)
    rule.matches[0].dport = "54"
    assert "--dport 54" in str(rule)
    chain.delete_rule(family.Rule.from_args(host.rules(family.ipv6)[0].removeprefix("-A INPUT ")))
    assert chain.rules == []


def test_the_match_of_the_protocol_is_implied_once():
    assert str(iptc.Rule.from_args("-p tcp --dport 1 --sport 2")) == "-p tcp -m tcp --sport 2 --dport 1"
    assert str(iptc.Rule.from_args("-p 17 --dport 1")) == "-p udp -m udp --dport 1"
    with pytest.raises(iptc.ParameterError, match="unknown option"):
        iptc.Rule.from_args("--dport 1")


def test_abbreviations_are_unique_or_refused():
    assert str(iptc.Rule.from_args("--prot udp --jum DROP")) == "-p udp -j DROP"
    assert str(iptc.Rule.from_args("-p tcp -m tcp --destination-p 5")) == "-p tcp -m tcp --dport 5"
    with pytest.raises(iptc.ParameterError, match="unknown option"):
        iptc.Rule.from_args("-p tcp -m tcp --tcp 5")


@pytest.mark.parametrize(
    "specification",
    [
        None,
        5,
        [None],
        [b"-p"],
        "-p",
        "-p tcp --dport",
        "!",
        "! !",
        "x",
        "- x",
        "-- -p tcp",
        "-A",
        "--append",
        "-t nat",
        "-p tcp\0",
        "-p \ud800",
        ["-j", ""],
        '-i ""',
        "-m",
        "-m nosuch",
        "-j " + "x" * 29,
        "-Q",
        "--nosuch",
        "-6",
        "-s 1.2.3.4 -s 1.2.3.4",
        "! -j DROP",
        "! -m tcp",
        "-c",
        "-c 5",
        "-c x y",
        "-p tcp -f --fragments",
    ],
)
def test_what_makes_no_rule_is_our_own_exception(specification):
    with pytest.raises(iptc.ParameterError):
        iptc.Rule.from_args(specification)


def test_without_privilege_and_without_a_table(host):
    code = "import iptc; print(iptc.Rule.from_args('-p tcp --dport 22 -m conntrack --ctstate NEW -j web'))"
    import sys

    said = host.run("setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", code)
    assert said == "-p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j web\n"
    with open("/proc/net/ip_tables_names") as file:
        assert file.read() == ""


def test_several_addresses_are_as_many_rules(host, family):
    one, other = ("10.0.0.1", "10.0.0.2") if not family.ipv6 else ("fd00::1", "fd00::2")
    text = f"-s {one},{other} -d {one},{other} -j ACCEPT"
    rule = family.Rule.from_args(text)
    assert len(rule.expand()) == 4 and family.Rule.from_args(str(rule)).expand() == rule.expand()
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    for options, edit in (
        ("-A INPUT", chain.append_rule),
        ("-I INPUT", chain.insert_rule),
        ("-D INPUT", chain.delete_rule),
    ):
        host.iptables(*options.replace("INPUT", "FORWARD").split(), *text.split(), ipv6=family.ipv6)
        edit(rule)
        theirs = [line.replace("FORWARD", "INPUT") for line in host.rules(family.ipv6) if "FORWARD" in line]
        assert [line for line in host.rules(family.ipv6) if "INPUT" in line] == theirs
    with pytest.raises(iptc.ParameterError, match="does not specify a unique address"):
        chain.replace_rule(rule)
    with pytest.raises(iptc.ParameterError, match="expand"):
        rule.rule


def test_a_whole_line_of_iptables_save(host, family):
    """As a user pastes it: the chain is ignored, and the rule gets the counters."""
    make = family.Rule.from_args
    plain = make('-p tcp -m comment --comment "a -A b" -j ACCEPT')
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    plain.counters = 5, 6
    chain.append_rule(plain)
    (line,) = [line for line in host.save(family.ipv6, counters=True) if "-A INPUT" in line]
    for given in (
        line,
        line.split("] ")[1],
        f"-t filter {line.split('] ')[1]}",
        ["-A", "nosuch", *plain.to_args()],
        ["[5:6]", "--append", "INPUT", *plain.to_args()],
        "-AINPUT " + str(plain),
    ):
        rule = make(given)
        assert rule == plain and str(rule) == str(plain), given
        assert tuple(rule.counters) == ((5, 6) if given[0] in ("[", "[5:6]") else (0, 0))
    assert str(make("-A INPUT")) == str(make(""))


@pytest.mark.parametrize(
    "given",
    [
        "-A",
        "-A -p tcp",
        "-A ! -p tcp",
        "-A " + "x" * 40 + " -j ACCEPT",
        ["-A", "a b", "-j", "ACCEPT"],
        ["-A", ""],
        "-D INPUT -j ACCEPT",
        "-I INPUT -j ACCEPT",
        "-I INPUT 1 -j ACCEPT",
        "-R INPUT 1 -j DROP",
        "[5:6] -D INPUT -j DROP",
        "--delete INPUT 1",
        "[5:6] -j ACCEPT",
        "[5:x] -A INPUT -j ACCEPT",
        "-t filter -j ACCEPT",
    ],
)
def test_no_other_line_makes_a_rule(given, family):
    with pytest.raises(iptc.errors.ParameterError):
        family.Rule.from_args(given)
