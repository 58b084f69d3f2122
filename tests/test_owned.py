"""Rules that belong to a name among rules of others."""

import gc
import json
import os
import socket
import subprocess
import sys

import pytest
from untried import untried

import iptc
from iptc.owning import families, owners
from iptc.owning.marks import OwnerMark

ALL = (False, True)


def lines(host, ipv6=False, counters=False):
    """What the host's own tool prints of the table filter, without comments."""
    return [line for line in host.save(ipv6, counters, "filter") if not line.startswith("#")]


def rules(host, chain="INPUT", ipv6=False):
    return [line.split(" ", 2)[2] for line in lines(host, ipv6) if line.startswith(f"-A {chain} ")]


def others(host):
    """A table with rules and chains of others."""
    for arguments in (
        "-N DOCKER",
        "-N EMPTY",
        "-A INPUT -p tcp --dport 22 -j ACCEPT",
        "-A INPUT -j DOCKER",
        "-A INPUT -m comment --comment drop-all -j DROP",
        "-A DOCKER -s 10.0.0.0/8 -j RETURN",
    ):
        host.iptables(arguments)


def web(rules=("-p tcp --dport 80 -j ACCEPT", "-p tcp --dport 443 -j ACCEPT"), **place):
    owned = iptc.Owned("web")
    owned.set("filter", "INPUT", rules, **place)
    return owned


@pytest.mark.parametrize(
    "place, anchor, at",
    [
        ("first", None, 0),
        ("last", None, 3),
        ("before", "comment:drop-all", 2),
        ("after", "comment:drop-all", 3),
        ("before", "-p tcp -m tcp --dport ssh -j ACCEPT", 0),
        ("after", "--protocol tcp --dport 22 -j ACCEPT", 1),
        ("before", iptc.Rule.from_args("-j DOCKER"), 1),
    ],
)
def test_stand_in_their_place_and_leave_no_trace(host, place, anchor, at):
    others(host)
    before = lines(host)
    owned = web(place=place, anchor=anchor)
    assert lines(host) == before
    plan = owned.plan()
    assert plan and [change.kind for change in plan] == ["added", "added"] and lines(host) == before
    done = owned.apply()
    assert done and len(done) == 2
    assert [index for index, rule in enumerate(rules(host)) if "web:" in rule] == [at, at + 1]
    assert [str(rule) for rule in owned.rules] == [
        f'-p tcp -m tcp --dport {port} -m comment --comment "web:" -j ACCEPT' for port in (80, 443)
    ]
    assert [line for line in lines(host) if "web:" not in line] == before
    assert not owned.plan() and not owned.apply()
    # another program knows them by the name alone
    assert iptc.Owned("web").remove() and lines(host) == before and not iptc.Owned("web").remove()


def test_what_others_do_to_them_is_undone_and_theirs_is_left(host):
    others(host)
    owned = web(place="before", anchor="comment:drop-all")
    owned.apply()
    wanted = lines(host)
    for damage in (
        "-D INPUT -p tcp --dport 80 -m comment --comment web: -j ACCEPT",
        "-I INPUT -p tcp --dport 443 -m comment --comment web: -j ACCEPT",
        "-A INPUT -p tcp --dport 80 -m comment --comment web: -j ACCEPT",
        "-R INPUT 3 -p tcp --dport 81 -m comment --comment web: -j ACCEPT",
    ):
        host.iptables(damage)
        assert owned.plan() and owned.apply() and lines(host) == wanted, damage
    # what others add stays, where they put it
    host.iptables("-I INPUT -p udp -j ACCEPT")
    host.iptables("-A INPUT -p udp -j DROP")
    assert not owned.apply()
    assert rules(host)[0] == "-p udp -j ACCEPT" and rules(host)[-1] == "-p udp -j DROP"


def test_first_is_first_again(host):
    owned = web(place="first")
    owned.apply()
    host.iptables("-I INPUT -j DROP")
    assert [change.kind for change in owned.apply()] and "web:" in rules(host)[0] and rules(host)[2] == "-j DROP"
    host.iptables("-F INPUT")
    assert owned.apply() and len(rules(host)) == 2


def test_counters_of_all_rules_go_on(host):
    host.restore(
        "*filter\n:INPUT ACCEPT [5:6]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
        "[1:2] -A INPUT -p udp -j ACCEPT\n[3:4] -A INPUT -p tcp -j ACCEPT\nCOMMIT\n",
        False,
        ["-c"],
    )
    web(place="after", anchor="-p udp -j ACCEPT").apply()
    assert [line.split(" ")[0] for line in lines(host, counters=True) if line.startswith("[")] == [
        "[1:2]",
        "[0:0]",
        "[0:0]",
        "[3:4]",
    ]


def test_chains_of_its_own_come_and_go(host):
    others(host)
    before = lines(host)
    owned = iptc.Owned("web")
    owned.set("filter", "INPUT", ["-p tcp --dport 80 -j web-in"], place="last")
    owned.set("filter", "web-in", ["-s 10.0.0.0/8 -j web-deep", "-j ACCEPT"])
    owned.set("filter", "web-deep", [])
    owned.set("filter", "PORTAL", ["-j DROP"])
    owned.set("filter", "EMPTY", ["-p udp -j DROP"])
    assert owned.apply()
    assert [line for line in lines(host) if line[0] == ":" and "ACCEPT" not in line] == [
        ":DOCKER - [0:0]",
        ":EMPTY - [0:0]",
        ":PORTAL - [0:0]",
        ":web-deep - [0:0]",
        ":web-in - [0:0]",
    ]
    assert rules(host, "PORTAL") == ['-m comment --comment "web: own chain" -j DROP']
    assert rules(host, "web-deep") == ['-m comment --comment "web:"']
    assert not owned.apply()
    # a chain that is not wanted any more goes, one of others stays
    owned.set("filter", "web-in", ["-j ACCEPT"])
    owned.forget("filter", "web-deep")
    assert owned.apply() and not any("web-deep" in line for line in lines(host))
    assert iptc.Owned("web").remove() and lines(host) == before


def test_a_chain_that_others_use_stays(host):
    owned = iptc.Owned("web")
    owned.set("filter", "web-in", ["-j ACCEPT"])
    owned.apply()
    host.iptables("-A INPUT -j web-in")
    plan = iptc.Owned("web").remove()
    assert plan.kept == [(4, "filter", "web-in")] and rules(host) == ["-j web-in"]
    host.iptables("-F INPUT")
    host.iptables("-A web-in -p udp")
    iptc.Owned("web").remove()
    assert rules(host, "web-in") == ["-p udp"]


def test_a_chain_that_somebody_has_emptied_goes_too(host):
    owned = iptc.Owned("web")
    owned.set("filter", "web-in", ["-j ACCEPT"])
    before = lines(host)
    owned.apply()
    host.iptables("-F web-in")
    owned.remove()
    assert [line for line in lines(host) if "web" in line] == [] and (before == [] or lines(host) == before)


def test_both_families_each_in_its_words(host):
    owned = iptc.Owned("web")
    texts = [
        "-p icmp --icmp-type echo-request -j ACCEPT",
        "-s 192.0.2.0/24 -j ACCEPT",
        "-s 2001:db8::/32 -j ACCEPT",
        "-p tcp --dport 25 -j REJECT --reject-with icmp-host-prohibited",
        "-j REJECT",
    ]
    owned.set("filter", "FORWARD", texts, family="both")
    owned.apply()
    mark = '-m comment --comment "web:"'
    assert rules(host, "FORWARD") == [
        f"-p icmp -m icmp --icmp-type 8 {mark} -j ACCEPT",
        f"-s 192.0.2.0/24 {mark} -j ACCEPT",
        f"-p tcp -m tcp --dport 25 {mark} -j REJECT --reject-with icmp-host-prohibited",
        f"{mark} -j REJECT --reject-with icmp-port-unreachable",
    ]
    assert rules(host, "FORWARD", True) == [
        f"-p ipv6-icmp -m icmp6 --icmpv6-type 128 {mark} -j ACCEPT",
        f"-s 2001:db8::/32 {mark} -j ACCEPT",
        f"-p tcp -m tcp --dport 25 {mark} -j REJECT --reject-with icmp6-adm-prohibited",
        f"{mark} -j REJECT --reject-with icmp6-port-unreachable",
    ]
    assert not owned.apply() and owned.remove() and rules(host, "FORWARD") == rules(host, "FORWARD", True) == []


@pytest.mark.one_backend("legacy")
def test_every_word_of_one_family_makes_a_rule_of_the_other(host):
    for pairs, option in ((families._TYPES, "{} -j DROP"), (families._REFUSALS, "-j REJECT --reject-with {}")):
        for four, six in pairs:
            for nfproto, kind, word in ((2, iptc.Rule, six), (10, iptc.Rule6, four)):
                text = option.format(word)
                if pairs is families._TYPES:
                    text = f"-p icmp --icmp-type {word} -j DROP"
                if word == "tcp-reset":
                    text = f"-p tcp {text}"
                assert kind.from_args(families.said_for(nfproto, families.words_in(text)))
    with pytest.raises(iptc.ParameterError, match="source-quench"):
        iptc.Owned("web").set("filter", "INPUT", ["-p icmp --icmp-type source-quench"], family="both")


@pytest.mark.one_backend("legacy")
def test_any_type_of_icmp_is_the_protocol_alone_in_ipv6():
    def said(text):
        return str(iptc.Rule6.from_args(families.said_for(10, families.words_in(text))))

    for text in ("--icmp-type any", "--icmp-type=any", "-m icmp --icmp-type any", "-m icmp --icmp-type=any"):
        assert said(f"-p icmp {text} ! -i eth0 -j ACCEPT") == "! -i eth0 -p ipv6-icmp -j ACCEPT"
    assert said("-p icmp --icmp-type=8 -j ACCEPT") == "-p ipv6-icmp -m icmp6 --icmpv6-type 128 -j ACCEPT"
    # what matches no packet must not become the negation of what follows
    for text in ("! --icmp-type any", "! --icmp-type=any"):
        with pytest.raises(iptc.ParameterError, match="any"):
            said(f"-p icmp {text} -i eth0 -j ACCEPT")


@pytest.mark.one_backend("legacy")
def test_addresses_with_an_equals_sign_are_of_one_family():
    four, six = (families.said_for(nfproto, ["--source=192.0.2.1,2001:db8::1"]) for nfproto in (2, 10))
    assert (four, six) == (["--source=192.0.2.1"], ["--source=2001:db8::1"])
    assert families.said_for(10, ["--dst=192.0.2.1"]) is None
    assert families.said_for(10, ["-s", "0.0.0.0/0"]) == ["-s", "::/0"]


def test_a_comment_of_the_rule_stays_behind_whose_it_is(host):
    owned = iptc.Owned("web", comment="kept by web")
    owned.set("filter", "INPUT", ['-p tcp -m comment --comment "for all" -m tcp --dport 80 -j ACCEPT', "-j DROP"])
    owned.apply()
    assert rules(host) == [
        '-p tcp -m comment --comment "kept by web for all" -m tcp --dport 80 -j ACCEPT',
        '-m comment --comment "kept by web" -j DROP',
    ]
    # who is called so, or goes on so, is another
    assert not iptc.Owned("web").rules and not iptc.Owned("kept by we", comment="kept by we").rules
    assert len(iptc.Owned("web", comment="kept by web").rules) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("filter", "INPUT", ["-j NOWHERE --to 5"]),
        ("filter", "INPUT", ["-p tcp --dport"]),
        ("filter", "INPUT", ["-o eth0 -j ACCEPT"]),
        ("filter", "INPUT", "-j ACCEPT"),
        ("filter", "INPUT", [5]),
        ("filter", "INPUT", None),
        ("filter", "INPUT", [iptc.Rule6.from_args("-j DROP"), iptc.Rule.from_args("-j DROP")]),
        ("nowhere", "INPUT", []),
        ("filter", "a" * 29, []),
        ("filter", "a b", []),
        ("filter", "", []),
        ("filter", "ACCEPT", []),
        ("filter", "INPUT", [f"-m comment --comment {'x' * 252} -j DROP"]),
        ("filter", "INPUT", [], "middle"),
        ("filter", "INPUT", [], "before"),
        ("filter", "INPUT", [], "first", "-j DROP"),
        ("filter", "INPUT", [], "after", "-p nonsense"),
        ("filter", "INPUT", [], "first", None, "ipv5"),
    ],
)
def test_what_makes_no_rule_is_refused_and_changes_nothing(host, arguments):
    owned = web()
    with pytest.raises(iptc.IPTCError):
        owned.set(*arguments)
    assert owned.apply() and len(owned.rules) == 2


@pytest.mark.parametrize("name", ["", " web", "w:b", "a\nb", "a\0b", "x" * 255, 5, None])
def test_names_that_cannot_be_found_again_are_refused(host, name):
    with pytest.raises(iptc.IPTCError):
        iptc.Owned(name)


def test_an_anchor_that_is_not_there_is_said_and_nothing_done(host):
    others(host)
    before = lines(host)
    owned = web(place="before", anchor="comment:nobody")
    for verb in (owned.plan, owned.apply):
        with pytest.raises(iptc.NotFound, match="no rule with the comment 'nobody' in chain INPUT"):
            verb()
    assert lines(host) == before


def test_owners_do_not_see_each_other(host):
    one, other = iptc.Owned("web"), iptc.Owned("webs")
    one.set("filter", "INPUT", ["-p tcp -j ACCEPT"])
    other.set("filter", "INPUT", ["-p udp -j ACCEPT"], place="last")
    assert one.apply() and other.apply() and not one.apply() and not other.apply()
    assert len(one.rules) == len(other.rules) == 1
    assert one.remove() and len(other.rules) == 1


def test_shares_of_a_ruleset(host):
    others(host)
    before = "\n".join(lines(host)) + "\n"
    owned = web(place="last")
    owned.set("filter", "web-in", ["-j DROP"])
    owned.apply()
    live = iptc.Ruleset.live(False)
    assert owners.without(live, ["web", "nobody"]).text() == before
    share = owners.share_text(owners.only(live, "web"))
    assert share.startswith("*filter\n:web-in - [0:0]\n-A INPUT ") and ":INPUT" not in share
    owned.remove()
    iptc.restore(share, flush=False)
    assert [str(rule) for rule in iptc.Owned("web").rules] == [
        rule for line in share.split("\n") if line[:3] == "-A " for rule in [line.split(" ", 2)[2]]
    ]


def test_mark_on_a_payload_that_only_looks_like_it(host):
    host.iptables("-A", "INPUT", "-p", "tcp", "-m", "comment", "--comment", "not web: mine", "-j", "ACCEPT")
    host.iptables("-A INPUT -m comment --comment web:x -j ACCEPT")
    assert not iptc.Owned("web").rules
    assert OwnerMark("web").positions(iptc.Ruleset.live(False)[4, "filter"]["INPUT"]) == []


def run(host, *words, text=None, env=None):
    done = subprocess.run([sys.executable, "-m", "iptc", *words], input=text, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


FILE = """owner = "web"
[[chain]]
chain = "INPUT"
place = "before"
anchor = "comment:drop-all"
rules = ["-p tcp --dport 80 -j web-in"]

[[chain]]
chain = "web-in"
family = "both"
rules = ["-j ACCEPT"]
"""


def test_the_command_owned_plans_applies_shows_and_removes(host, tmp_path):
    others(host)
    before = lines(host)
    file = tmp_path / "web.toml"
    file.write_text(FILE)
    assert run(host, "owned", "web", "plan", str(file))[0] == 1 and lines(host) == before
    assert run(host, "owned", "web", "apply", str(file))[:2] == (0, "2 chains added, 3 rules added\n")
    assert run(host, "owned", "web", "apply", "-", text=FILE)[:2] == (0, "nothing to do\n")
    assert run(host, "owned", "web", "plan", str(file))[:2] == (0, "")
    shown = run(host, "owned", "web", "show", "-4")
    assert shown == (
        0,
        "# IPv4 filter\n"
        '-A INPUT -p tcp -m tcp --dport 80 -m comment --comment "web:" -j web-in\n'
        '-A web-in -m comment --comment "web:" -j ACCEPT\n',
        "",
    )
    said = json.loads(run(host, "owned", "web", "show", "--format", "json")[1])
    assert said["schema"] == 1 and [row["family"] for row in said["rules"]] == ["ipv4", "ipv4", "ipv6"]
    saved = run(host, "save", "--owned", "web")[1]
    assert "web-in" in saved and "drop-all" not in saved
    assert [line for line in run(host, "save", "--except", "web")[1].split("\n") if line] == before
    assert run(host, "owned", "web", "remove")[0] == 0 and lines(host) == before
    # the share of an owner, as it was saved, says the same
    assert run(host, "owned", "web", "apply", "-", text=saved)[0] == 0
    assert run(host, "save", "--owned", "web")[1].count("-A ") == 2


@pytest.mark.parametrize(
    "words, text",
    [
        (("web", "apply"), None),
        (("web", "show", "x"), None),
        (("web", "apply", "/nowhere"), None),
        (("web", "apply", "-"), "[[chain]]\nchain = 5\nrules = []\n"),
        (("web", "apply", "-"), "[[chain]]\nchain = 'INPUT'\nrules = ['-p']\n"),
        (("web", "apply", "-"), "[[chain]]\nchain = 'INPUT'\nrules = 'x'\n"),
        (("web", "apply", "-"), "chain = 5\n"),
        (("web", "apply", "-"), "rules = []\n"),
        (("web", "apply", "-"), "*filter\n-D INPUT 1\nCOMMIT\n"),
        (("web", "apply", "-"), "nonsense"),
        (("a:b", "show"), None),
    ],
)
@pytest.mark.one_backend("legacy")
def test_what_the_command_refuses_in_one_line(host, words, text):
    status, out, error = run(host, "owned", *words, text=text)
    assert status in (1, 2) and not out and error.startswith("iptc: ") and error.count("\n") == 1


def test_looking_writes_nothing(host, tmp_path):
    others(host)
    file = tmp_path / "web.toml"
    file.write_text(FILE)
    trace = tmp_path / "trace"
    subprocess.run(
        [
            "strace",
            "-f",
            "-o",
            str(trace),
            "-e",
            "trace=setsockopt,sendmsg,sendto,write,writev,pwrite64",
            sys.executable,
            "-m",
            "iptc",
            "owned",
            "web",
            "plan",
            str(file),
        ],
        capture_output=True,
    )
    seen = trace.read_text()
    # IPT_SO_SET_REPLACE and IPT_SO_SET_ADD_COUNTERS; a batch of nf_tables begins with its own message
    assert "NFNL_MSG_BATCH_BEGIN" not in seen and "0x40 /* IP" not in seen
    assert not [line for line in seen.split("\n") if "setsockopt(" in line and "SOL_IP" in line]


# ------------------------------------------------------- a table of its own


def own_table(host):
    """An `Owned` with a table of its own; None where this kernel has none that stay (before Linux 6.9)."""
    owned = iptc.Owned("web", own_table=True)
    rules = ["-p udp --dport 9 -j web-in", "-s 192.0.2.0/24 -j DROP", "-i lo -m comment --comment hi -j ACCEPT"]
    owned.set("filter", "INPUT", rules, family="both")
    owned.set("filter", "web-in", ["-j DROP"], family="both")
    owned.set("filter", "web-empty", [])
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 9):
        with pytest.raises(iptc.Unsupported, match=r"Linux 6\.9"):
            owned.apply()
        untried("a table of nf_tables that outlives its owner needs Linux 6.9")
        return None
    assert owned.apply()
    return owned


@pytest.mark.one_backend("nft")
def test_nobody_else_can_change_a_table_of_its_own(host):
    owned = own_table(host)
    if owned is None:
        return
    assert not owned.plan() and not owned.apply()
    assert [(table, chain, str(rule)) for table, chain, rule in owned.rows()][:3] == [
        ("filter", "INPUT", '-p udp -m udp --dport 9 -m comment --comment "web:" -j web-in'),
        ("filter", "INPUT", '-s 192.0.2.0/24 -m comment --comment "web:" -j DROP'),
        ("filter", "INPUT", '-i lo -m comment --comment "web: hi" -j ACCEPT'),
    ]
    # iptables' own tables are as they were, and its tools read them
    assert host.save() == []
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    refused = subprocess.run(["nft", "delete", "table", "inet", "iptc-web"], capture_output=True, text=True)
    assert "Operation not permitted" in refused.stderr and not owned.plan()
    # it drops what it is to drop
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", 9))
    counted = {(chain, str(rule)): rule.get_counters() for _, chain, rule in owned.rows() if rule.nfproto == 2}
    assert counted["web-in", '-m comment --comment "web:" -j DROP'] == (1, 29)
    # another process may not touch it, and has nothing done
    program = "import iptc\ntry: iptc.Owned('web', own_table=True).remove()\nexcept iptc.AccessDenied: print('denied')"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "denied\n"
    assert len(owned.rules) > 5
    assert (
        owned.remove()
        and "iptc-web" not in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
    )


@pytest.mark.one_backend("nft")
def test_a_table_of_its_own_stays_and_is_adopted(host):
    owned = own_table(host)
    if owned is None:
        return
    count = len(owned.rules)
    del owned
    gc.collect()
    again = iptc.Owned("web", own_table=True)
    assert len(again.rules) == count
    again.set("filter", "INPUT", ["-p tcp -j DROP"])
    plan = again.plan()
    assert plan and plan.difference.summary() and again.apply() and len(again.rules) == 1 and not again.apply()
    # the same rules are no difference, but the table must be adopted
    again._own_table._ours = False
    assert again.plan() and not again.plan().difference


@pytest.mark.one_backend("nft")
@pytest.mark.parametrize(
    "arguments, words",
    [
        (("filter", "INPUT", ["-m conntrack --ctstate NEW -j DROP"]), "match conntrack has no native form"),
        (("filter", "INPUT", ["-j REJECT"]), "target REJECT has no native form"),
        (("filter", "INPUT", ["-j DROP"], "after", "-j ACCEPT"), "nothing to stand after"),
    ],
)
def test_what_a_table_of_its_own_cannot_have_is_named(host, arguments, words):
    owned = iptc.Owned("web", own_table=True)
    owned.set(*arguments)
    for verb in (owned.plan, owned.apply):
        with pytest.raises(iptc.Unsupported, match=words):
            verb()
    assert owned.rules == []


@pytest.mark.one_backend("legacy")
def test_a_table_of_its_own_is_for_nf_tables(host):
    with pytest.raises(iptc.Unsupported, match="nf_tables alone"):
        iptc.Owned("web", own_table=True)
