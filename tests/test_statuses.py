"""`iptc restore` ends with the exit status of iptables-restore for the same text, however odd the text is."""

import io
import sys

import pytest
from conftest import enter_new_namespace, forget_tables

import iptc
from iptc import cli

pytestmark = pytest.mark.filterwarnings("ignore::iptc.XTablesWarning", "ignore::RuntimeWarning")

# Left out: lines that only list, which are refused here; and `-E` of a chain that the same text makes, which
# iptables-nft cannot do.
TEXTS = {
    "unknown table": "*nope\nCOMMIT\n",
    "table cr": "*filter\r\nCOMMIT\r\n",
    "table cr 2": "*filter\r\nCOMMIT\n",
    "two commits": "*filter\nCOMMIT\nCOMMIT\n",
    "bom": "\ufeff*filter\nCOMMIT\n",
    "no commit": "*filter\n-A INPUT -j DROP\n",
    "no commit, empty": "*filter\n",
    "blank before table": " *filter\nCOMMIT\n",
    "blank before commit": "*filter\n COMMIT\n",
    "blank after commit": "*filter\nCOMMIT \n",
    "commit cr": "*filter\nCOMMIT\r\n",
    "commit no lf": "*filter\nCOMMIT",
    "commit lower": "*filter\ncommit\n",
    "rule before table": "-A INPUT -j DROP\n*filter\nCOMMIT\n",
    "chain before table": ":INPUT ACCEPT\n*filter\nCOMMIT\n",
    "garbage": "hello\n",
    "empty": "",
    "only comment": "# x\n",
    "blank lines": "\n\n*filter\n\nCOMMIT\n\n",
    "table in table": "*filter\n*nat\nCOMMIT\n",
    "bare star": "*\nCOMMIT\n",
    "long table": "*" + "x" * 300 + "\nCOMMIT\n",
    "jump missing": "*filter\n-A INPUT -j nosuch\nCOMMIT\n",
    "goto missing": "*filter\n-A INPUT -g nosuch\nCOMMIT\n",
    "append missing": "*filter\n-A nosuch -j ACCEPT\nCOMMIT\n",
    "insert missing": "*filter\n-I nosuch -j ACCEPT\nCOMMIT\n",
    "delete missing rule": "*filter\n-D INPUT -j ACCEPT\nCOMMIT\n",
    "check missing rule": "*filter\n-C INPUT -j ACCEPT\nCOMMIT\n",
    "delete num": "*filter\n-D INPUT 5\nCOMMIT\n",
    "insert num": "*filter\n-I INPUT 5 -j ACCEPT\nCOMMIT\n",
    "insert num 0": "*filter\n-I INPUT 0 -j ACCEPT\nCOMMIT\n",
    "replace num": "*filter\n-R INPUT 5 -j ACCEPT\nCOMMIT\n",
    "replace num 0": "*filter\n-R INPUT 0 -j ACCEPT\nCOMMIT\n",
    "zero num": "*filter\n-Z INPUT 5\nCOMMIT\n",
    "flush missing": "*filter\n-F nosuch\nCOMMIT\n",
    "zero missing": "*filter\n-Z nosuch\nCOMMIT\n",
    "X missing": "*filter\n-X nosuch\nCOMMIT\n",
    "X builtin": "*filter\n-X INPUT\nCOMMIT\n",
    "X referenced": "*filter\n:a - [0:0]\n-A INPUT -j a\n-X a\nCOMMIT\n",
    "X not empty": "*filter\n:a - [0:0]\n-A a -j DROP\n-X a\nCOMMIT\n",
    "N twice": "*filter\n-N a\n-N a\nCOMMIT\n",
    "N builtin": "*filter\n-N INPUT\nCOMMIT\n",
    "N verdict": "*filter\n-N ACCEPT\nCOMMIT\n",
    ": twice": "*filter\n:a - [0:0]\n:a - [0:0]\nCOMMIT\n",
    ": verdict": "*filter\n:ACCEPT - [0:0]\nCOMMIT\n",
    ": long": "*filter\n:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa - [0:0]\nCOMMIT\n",
    ": no policy": "*filter\n:INPUT\nCOMMIT\n",
    ": no name": "*filter\n:\nCOMMIT\n",
    ": bad policy": "*filter\n:INPUT FOO [0:0]\nCOMMIT\n",
    ": policy of user chain": "*filter\n:a ACCEPT [0:0]\nCOMMIT\n",
    ": policy reject": "*filter\n:INPUT REJECT [0:0]\nCOMMIT\n",
    ": builtin no policy": "*filter\n:INPUT - [0:0]\nCOMMIT\n",
    ": bad counters": "*filter\n:INPUT ACCEPT [x:0]\nCOMMIT\n",
    ": no counters": "*filter\n:INPUT ACCEPT\nCOMMIT\n",
    "P missing": "*filter\n-P nosuch ACCEPT\nCOMMIT\n",
    "P bad": "*filter\n-P INPUT FOO\nCOMMIT\n",
    "P user": "*filter\n-N a\n-P a ACCEPT\nCOMMIT\n",
    "E missing": "*filter\n-E nosuch b\nCOMMIT\n",
    "E builtin": "*filter\n-E INPUT b\nCOMMIT\n",
    "E there": "*filter\n-N a\n-N b\n-E a b\nCOMMIT\n",
    "jump builtin": "*filter\n-A INPUT -j OUTPUT\nCOMMIT\n",
    "goto verdict": "*filter\n-A INPUT -g ACCEPT\nCOMMIT\n",
    "goto extension": "*filter\n-A INPUT -g LOG\nCOMMIT\n",
    "loop": "*filter\n:a - [0:0]\n:b - [0:0]\n-A a -j b\n-A b -j a\n-A INPUT -j a\nCOMMIT\n",
    "loop not reached": "*filter\n:a - [0:0]\n:b - [0:0]\n-A a -j b\n-A b -j a\nCOMMIT\n",
    "self loop": "*filter\n:a - [0:0]\n-A a -j a\n-A INPUT -j a\nCOMMIT\n",
    "unknown option": "*filter\n-A INPUT --nosuch\nCOMMIT\n",
    "unknown match": "*filter\n-A INPUT -m nosuch\nCOMMIT\n",
    "bad port": "*filter\n-A INPUT -p tcp --dport x\nCOMMIT\n",
    "bad proto": "*filter\n-A INPUT -p nosuch\nCOMMIT\n",
    "bad address": "*filter\n-A INPUT -s 1.2.3.4.5.6::7\nCOMMIT\n",
    "masq in filter": "*filter\n-A INPUT -j MASQUERADE\nCOMMIT\n",
    "masq in nat pre": "*nat\n-A PREROUTING -j MASQUERADE\nCOMMIT\n",
    "snat in pre": "*nat\n-A PREROUTING -j SNAT --to 1.2.3.4\nCOMMIT\n",
    "dnat in post": "*nat\n-A POSTROUTING -j DNAT --to 1.2.3.4\nCOMMIT\n",
    "dnat in filter": "*filter\n-A INPUT -j DNAT --to 1.2.3.4\nCOMMIT\n",
    "redirect in post": "*nat\n-A POSTROUTING -j REDIRECT\nCOMMIT\n",
    "reject in nat": "*nat\n-A PREROUTING -j REJECT\nCOMMIT\n",
    "reject mangle": "*mangle\n-A INPUT -j REJECT\nCOMMIT\n",
    "reject tcp-reset no tcp": "*filter\n-A INPUT -j REJECT --reject-with tcp-reset\nCOMMIT\n",
    "drop in nat": "*nat\n-A PREROUTING -j DROP\nCOMMIT\n",
    "tproxy filter": "*filter\n-A INPUT -p tcp -j TPROXY --on-port 1\nCOMMIT\n",
    "tproxy mangle input": "*mangle\n-A INPUT -p tcp -j TPROXY --on-port 1\nCOMMIT\n",
    "notrack filter": "*filter\n-A INPUT -j NOTRACK\nCOMMIT\n",
    "ct filter": "*filter\n-A INPUT -j CT --notrack\nCOMMIT\n",
    "tcpmss in input": "*mangle\n-A INPUT -p tcp -j TCPMSS --set-mss 1000\nCOMMIT\n",
    "tcpmss clamp input": "*mangle\n-A INPUT -p tcp --tcp-flags SYN SYN -j TCPMSS --clamp-mss-to-pmtu\nCOMMIT\n",
    "tcpmss clamp filter input": "*filter\n-A INPUT -p tcp --tcp-flags SYN SYN -j TCPMSS --clamp-mss-to-pmtu\nCOMMIT\n",
    "classify input": "*filter\n-A INPUT -j CLASSIFY --set-class 1:1\nCOMMIT\n",
    "classify mangle input": "*mangle\n-A INPUT -j CLASSIFY --set-class 1:1\nCOMMIT\n",
    "dscp filter": "*filter\n-A INPUT -j DSCP --set-dscp 1\nCOMMIT\n",
    "tos filter": "*filter\n-A INPUT -j TOS --set-tos 1\nCOMMIT\n",
    "ttl filter": "*filter\n-A INPUT -j TTL --ttl-set 1\nCOMMIT\n",
    "hl filter": "*filter\n-A INPUT -j HL --hl-set 1\nCOMMIT\n",
    "mark filter": "*filter\n-A INPUT -j MARK --set-mark 1\nCOMMIT\n",
    "owner in INPUT": "*filter\n-A INPUT -m owner --uid-owner 0\nCOMMIT\n",
    "physdev-out in OUTPUT": "*filter\n-A OUTPUT -m physdev --physdev-out x\nCOMMIT\n",
    "policy in OUTPUT": "*filter\n-A OUTPUT -m policy --dir in --pol ipsec\nCOMMIT\n",
    "-o INPUT": "*filter\n-A INPUT -o x\nCOMMIT\n",
    "-i OUTPUT": "*filter\n-A OUTPUT -i x\nCOMMIT\n",
    "set missing": "*filter\n-A INPUT -m set --match-set nosuch src\nCOMMIT\n",
    "rateest missing": "*filter\n-A INPUT -m rateest --rateest nosuch --rateest-lt --rateest-pps 1\nCOMMIT\n",
    "nflog": "*filter\n-A INPUT -j NFLOG\nCOMMIT\n",
    "state bad": "*filter\n-A INPUT -m state --state FOO\nCOMMIT\n",
    "bpf": "*filter\n-A INPUT -m bpf --bytecode '1,6 0 0 0'\nCOMMIT\n",
    "bpf bad": "*filter\n-A INPUT -m bpf --bytecode '1,255 0 0 0'\nCOMMIT\n",
    "string": "*filter\n-A INPUT -m string --algo nosuch --string x\nCOMMIT\n",
    "recent": "*filter\n-A INPUT -m recent --rcheck --name a/b\nCOMMIT\n",
    "hashlimit bad": "*filter\n-A INPUT -m hashlimit --hashlimit-upto 1/s --hashlimit-name a/b\nCOMMIT\n",
    "cgroup": "*filter\n-A INPUT -m cgroup --path /nosuch\nCOMMIT\n",
    "connlimit": "*filter\n-A INPUT -m connlimit --connlimit-above 1 --connlimit-mask 99\nCOMMIT\n",
    "limit": "*filter\n-A INPUT -m limit --limit 1000000/s\nCOMMIT\n",
    "ct helper": "*raw\n-A PREROUTING -p tcp -j CT --helper nosuch\nCOMMIT\n",
    "ct timeout": "*raw\n-A PREROUTING -p tcp -j CT --timeout nosuch\nCOMMIT\n",
    "led": "*filter\n-A INPUT -j LED --led-trigger-id x\nCOMMIT\n",
    "idletimer": "*filter\n-A INPUT -j IDLETIMER --timeout 0 --label x\nCOMMIT\n",
    "secmark": "*mangle\n-A INPUT -j SECMARK --selctx x\nCOMMIT\n",
    "connsecmark filter": "*filter\n-A INPUT -j CONNSECMARK --save\nCOMMIT\n",
    "audit": "*filter\n-A INPUT -j AUDIT --type accept\nCOMMIT\n",
    "checksum": "*filter\n-A INPUT -j CHECKSUM --checksum-fill\nCOMMIT\n",
    "netmap": "*filter\n-A INPUT -j NETMAP --to 1.2.3.0/24\nCOMMIT\n",
    "netmap nat input": "*nat\n-A INPUT -j NETMAP --to 1.2.3.0/24\nCOMMIT\n",
    "synproxy": "*filter\n-A OUTPUT -p tcp -j SYNPROXY\nCOMMIT\n",
    "tee": "*filter\n-A INPUT -j TEE --gateway 0.0.0.0\nCOMMIT\n",
    "rpfilter": "*filter\n-A INPUT -m rpfilter\nCOMMIT\n",
    "addrtype": "*filter\n-A OUTPUT -m addrtype --src-type LOCAL --limit-iface-in\nCOMMIT\n",
    "socket filter output": "*filter\n-A OUTPUT -m socket\nCOMMIT\n",
    "mac output": "*filter\n-A OUTPUT -m mac --mac-source 00:00:00:00:00:01\nCOMMIT\n",
    "ecn": "*filter\n-A INPUT -m ecn --ecn-tcp-ece\nCOMMIT\n",
    "realm": "*filter\n-A OUTPUT -m realm --realm 1\nCOMMIT\n",
    "clusterip": "*filter\n-A INPUT -j CLUSTERIP --new\nCOMMIT\n",
    "time": "*filter\n-A INPUT -m time --datestart 2030-01-01 --datestop 2020-01-01\nCOMMIT\n",
    "two commands": "*filter\n-A INPUT -D INPUT\nCOMMIT\n",
    "no command": "*filter\n-j DROP\nCOMMIT\n",
    "-t in line": "*filter\n-A INPUT -t nat\nCOMMIT\n",
    "-A no chain": "*filter\n-A\nCOMMIT\n",
    "quote": '*filter\n-A INPUT -m comment --comment "x\nCOMMIT\n',
    "counters bad": "*filter\n[x -A INPUT\nCOMMIT\n",
    "counters bad2": "*filter\n[1] -A INPUT\nCOMMIT\n",
    "counters": "*filter\n[1:2] -A INPUT\nCOMMIT\n",
    "security": "*security\n-A INPUT -j ACCEPT\nCOMMIT\n",
    "raw input": "*raw\n-A INPUT -j ACCEPT\nCOMMIT\n",
    "nat forward": "*nat\n-A FORWARD -j ACCEPT\nCOMMIT\n",
    "other family": "*filter\n-A INPUT -p icmpv6 -j ACCEPT\nCOMMIT\n",
    "cr in rule": "*filter\n-A INPUT -j ACCEPT\r\nCOMMIT\n",
    "cr after chain": "*filter\n:INPUT ACCEPT [0:0]\r\nCOMMIT\n",
    "cr chain": "*filter\n:a\r - [0:0]\nCOMMIT\n",
    "comment long": "*filter\n-A INPUT -m comment --comment " + "x" * 300 + "\nCOMMIT\n",
    "later table fails": "*filter\n-A INPUT -j DROP\nCOMMIT\n*nat\n-A NOPE -j DROP\nCOMMIT\n",
    "utf-16": "\ufeff*\x00f\x00",
    "blank cr": "\r\n*filter\nCOMMIT\n",
    "rename, later": "*filter\n-E INPUT b\nCOMMIT\n",
}


@pytest.fixture
def ended(monkeypatch, capfd):
    """Run a command on a text: (exit status, what it says)."""

    def run(text, *arguments):
        stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
        monkeypatch.setattr(sys, "stdin", stdin)
        capfd.readouterr()
        code = cli.main(arguments)
        return code, capfd.readouterr().err

    return run


def test_the_exit_status_is_that_of_iptables_restore(host, ipv6, ended):
    family = "-6" if ipv6 else "-4"
    different = {}
    for name, text in TEXTS.items():
        enter_new_namespace()
        theirs = host.run(host.tool(ipv6, "-restore"), text=text, check=False)
        enter_new_namespace()
        forget_tables()
        code, said = ended(text, "restore", family)
        if code != theirs.returncode or bool(said) != bool(code) or said.count("\n") != bool(code) or "\r" in said:
            different[name] = code, said, theirs.returncode, theirs.stderr
    assert different == {}


@pytest.mark.parametrize(
    "line, words",
    [
        ("\ufeff*filter", "line 1 failed: a byte order mark (BOM)"),
        (" *filter", "line 1 failed: blanks in front of `*' or `#'"),
        ("\t# x", "line 1 failed: blanks in front of `*' or `#'"),
        ("\r", "line 1 failed: an empty line has no blanks and no carriage return"),
        ("  ", "line 1 failed: an empty line has no"),
        ("COMMIT", "line 1 failed: COMMIT of no table"),
        (
            "*filter\nCOMMIT\n COMMIT",
            "line 3 failed: COMMIT of no table: one ends the table already, or none has begun",
        ),
        ("-A INPUT", "line 1 failed: a chain or rule of no table: a line such as `*filter' comes first"),
        (":INPUT ACCEPT", "line 1 failed: a chain or rule of no table"),
        ("[1:2] -A INPUT", "line 1 failed: a chain or rule of no table"),
        ("hello", "line 1 failed: neither `*TABLE' nor a comment (`#')"),
        ("*filter\r", "unable to initialize table 'filter\\r'"),
        ("*filter\n-A INPUT -j ACCEPT\r", "ACCEPT\\r'"),
        (
            "*filter\n COMMIT",
            "line 2: COMMIT stands alone at the start of its line, and a line feed ends it: Bad argument `COMMIT'",
        ),
        (
            "*filter\nCOMMIT\r",
            "COMMIT stands alone at the start of its line, and a line feed ends it: Bad argument `COMMIT\\r'",
        ),
    ],
)
def test_the_message_says_what_is_wrong(host, line, words):
    with pytest.raises(iptc.IPTCError) as refused:
        iptc.restore(f"{line}\nCOMMIT\n")
    assert words in str(refused.value) and refused.value.line == line.count("\n") + 1
    assert refused.value.status == (1 if " failed: " in words else 2)


def test_a_jump_to_a_chain_that_is_not_there_is_one_class(host, ipv6):
    for option in ("-j", "-g"):
        for test in (False, True):
            with pytest.raises(iptc.errors.Missing) as refused:
                iptc.restore(f"*filter\n-A INPUT {option} nosuch\nCOMMIT\n", ipv6, test=test)
            assert (
                isinstance(refused.value, (iptc.ParameterError, LookupError))
                and refused.value.line == refused.value.status == 2
            )
    assert host.rules(ipv6) == []


def test_a_status_survives_pickling(host):
    import pickle

    with pytest.raises(iptc.KernelError) as refused:
        iptc.restore("*nope\nCOMMIT\n")
    again = pickle.loads(pickle.dumps(refused.value))
    assert (again.status, again.line, str(again), again.errno) == (2, 1, str(refused.value), refused.value.errno)


# ------------------------------------------------------------------------- check

# A rule that names an object of its network namespace, such as a set, cannot be tried in another namespace.
BOUND = {"rateest missing", "ct helper", "ct timeout"}


def test_check_finds_what_restore_is_refused(host, ipv6, ended):
    family = "-6" if ipv6 else "-4"
    different = {}
    for name, text in TEXTS.items():
        enter_new_namespace()
        forget_tables()
        checked = ended(text, "check", family)
        assert host.rules(ipv6) == []
        restored = ended(text, "restore", family)
        if checked != restored and not (host.backend == "legacy" and name in BOUND):
            different[name] = checked, restored
    assert different == {}


def test_the_rule_that_the_kernel_refuses_is_named(host, ended):
    rules = "".join(f"-A INPUT -p tcp --dport {port} -j ACCEPT\n" for port in range(1, 40))
    text = f"*filter\n{rules}-A INPUT -j MASQUERADE\n{rules}COMMIT\n"
    for command in ("restore", "check"):
        for arguments in ((), ("-n",)):
            code, said = ended(text, command, *arguments)
            assert (
                code == (4 if host.backend == "nft" else 1)
                and "INPUT" in said
                and "-j MASQUERADE" in said
                and "line 41" in said
            )
    assert host.rules() == []


def test_a_refusal_is_named_by_a_table_too_and_tells_of_no_commit(host, family):
    """The trial in another namespace, which finds the rule, does not count as a change that this program has made."""
    text = "*filter\n:a - [0:0]\n-A INPUT -j a\n-A a -j MASQUERADE\n-A INPUT -j ACCEPT\nCOMMIT\n"
    table = family.Table("filter")
    for restore in (table.restore, lambda *given, **named: iptc.restore(*given, ipv6=family.ipv6, **named)):
        for named in ({}, {"flush": False}):
            with pytest.raises(iptc.IPTCError) as refused:
                restore(text, **named)
            error = refused.value
            assert not hasattr(error, "committed") and not getattr(error, "__notes__", None)
            assert error.line == (6 if host.backend == "legacy" else 4)
            assert "line 4" in str(error) and " a" in str(error) and "-j MASQUERADE" in str(error), error
    assert host.rules(family.ipv6) == []


def test_an_interrupt_while_the_rule_is_looked_for_tells_of_no_commit(host, family, monkeypatch):
    if host.backend == "nft":
        # the kernel's answer names the rule
        named = [1]
    else:
        named = []
        send = iptc.trial._send

        def interrupted(*arguments):
            refused = send(*arguments)
            if refused is None:
                named.append(1)
                raise KeyboardInterrupt
            return refused

        monkeypatch.setattr(iptc.trial, "_send", interrupted)
    text = "*filter\n-A INPUT -j ACCEPT\n-A INPUT -j MASQUERADE\nCOMMIT\n"
    for restore in (family.Table("filter").restore, lambda text: iptc.restore(text, ipv6=family.ipv6)):
        with pytest.raises((KeyboardInterrupt, iptc.IPTCError)) as stopped:
            restore(text)
        assert not hasattr(stopped.value, "committed")
    assert named and host.rules(family.ipv6) == []


def test_a_loop_with_rules_that_are_there_is_found(host, ended):
    host.restore("*filter\n:a - [0:0]\n:b - [0:0]\n-A INPUT -j a\n-A a -j b\nCOMMIT\n")
    before = host.save()
    for command in ("check", "restore"):
        code, said = ended("*filter\n-A b -j a\nCOMMIT\n", command, "-n")
        assert code == (4 if host.backend == "nft" else 1) and ("Too many l" in said) and host.save() == before
    assert ended("*filter\n-A b -j ACCEPT\nCOMMIT\n", "check", "-n")[0] == 0


def test_syntax_reads_as_the_back_end_does(host, ended):
    """iptables-nft-restore accepts a last COMMIT without a line feed."""
    for command in (["restore"], ["check"], ["check", "--syntax"]):
        assert ended("*filter\nCOMMIT", *command)[0] == (2 if host.backend == "legacy" else 0)
