"""Every installed extension: a rule that iptables has written is read, and written again in three ways, exactly."""

import functools
import re
import shlex
import subprocess

import pytest
import specs
from specs import SETS

import iptc

# iptables-restore refuses the text that iptables-save prints for these. Only the rule itself can be written again.
UNREADABLE = (
    "--seconds -1 ",
    "--monthdays  ",
    "--weekdays  ",
    "--cluster-local-nodemask 0x80000000 ",
    "--hmark-src-prefix -1 ",
)


def unreadable(rule):
    return any(part in str(rule) for part in UNREADABLE)


pytestmark = pytest.mark.filterwarnings("ignore::iptc.XTablesWarning")


@functools.cache
def accepted(ipv6, backend):
    """Return the specifications that this host's iptables and this kernel accept, tried in a namespace of their own.

    Releases of iptables differ in a few lines, and a user namespace has no users for the match `owner`.
    """
    script = [f"ipset {line}" for line in SETS]
    known = specs.load(ipv6)
    command = f"{'ip6tables' if ipv6 else 'iptables'}-{backend}"
    for table in iptc.Table.ALL:
        script += [f"{command} -t {table} -N web", f"{command} -t {table} -N log-drop"]
    restore = f"{command}-restore --noflush"
    script += [
        f"printf '%s\\n' {shlex.quote(f'*{spec.table}')} {shlex.quote(f'-A {spec.chain} {spec.text}')} COMMIT | {restore} || echo {number}"
        for number, spec in enumerate(known)
    ]
    done = subprocess.run(["unshare", "-n", "sh"], input="\n".join(script), capture_output=True, text=True)
    refused = set(map(int, done.stdout.split()))
    assert len(refused) < len(known) / 20, done.stderr
    return [spec for number, spec in enumerate(known) if number not in refused]


@pytest.fixture
def filled(host, ipv6):
    """Return a table with all specifications of a family, written by iptables itself."""
    for line in SETS:
        host.run("ipset", *line.split())
    tables = {}
    for spec in accepted(ipv6, host.backend):
        tables.setdefault(spec.table, []).append(f"-A {spec.chain} {spec.text}")
    text = ""
    # RATEEST creates rate estimators in raw; the match uses them in the other tables
    for table, lines in sorted(tables.items(), key=lambda item: item[0] != "raw"):
        text += "\n".join([f"*{table}", ":web - [0:0]", ":log-drop - [0:0]", *lines, "COMMIT", ""])
    host.restore(text, ipv6)
    assert host.rules(ipv6)
    return host


def tables(ipv6):
    return [(iptc.Table6 if ipv6 else iptc.Table)(name) for name in iptc.Table.ALL]


def rewrite(ipv6, again):
    """Empty each chain and append again(rule) for each of its rules, with one commit for each table."""
    for table in tables(ipv6):
        table.refresh()
        read = {chain: chain.rules for chain in table.chains}
        table.autocommit = False
        for chain, rules in read.items():
            chain.flush()
            for rule in rules:
                chain.append_rule(rule if unreadable(rule) else again(rule))
        table.commit()
        table.autocommit = True


def rebuilt(rule):
    """Return a new rule with the same attributes as *rule*."""
    new = type(rule)()
    for name in ("src", "dst", "protocol", "in_interface", "out_interface"):
        setattr(new, name, getattr(rule, name))
    if rule.nfproto == 2:
        new.fragment = rule.fragment
    new.counters = rule.counters
    for match in rule.matches:
        copy = new.create_match(match.name)
        for name, value in match.parameters.items():
            setattr(copy, name, value)
    copy = new.create_target(rule.target.name, goto=rule.target.goto)
    for name, value in rule.target.parameters.items():
        setattr(copy, name, value)
    return new


def from_dict(rule):
    decoded = iptc.easy.decode_iptc_rule(rule, rule.nfproto == 10)
    return iptc.easy.encode_iptc_rule(decoded, rule.nfproto == 10)


def test_text_is_what_iptables_save_prints(filled, ipv6):
    ours = [
        f"-A {chain.name} {rule}".rstrip()
        for table in reversed(tables(ipv6))
        for chain in table.chains
        for rule in chain.rules
    ]
    theirs = [line.rstrip() for line in filled.rules(ipv6)]
    assert sorted(ours) == sorted(theirs)


@pytest.mark.parametrize("again", [from_dict, rebuilt, lambda rule: rule], ids=["dict", "attributes", "object"])
def test_written_again_it_is_the_same(filled, ipv6, again):
    before = filled.save(ipv6, counters=True)
    rewrite(ipv6, again)
    assert filled.save(ipv6, counters=True) == before


def test_a_rule_equals_its_copies(filled, ipv6):
    for table in tables(ipv6):
        for chain in table.chains:
            for rule in chain.rules:
                if not unreadable(rule):
                    assert rebuilt(rule) == rule == from_dict(rule)
                    assert hash(rebuilt(rule)) == hash(rule)


def test_iptables_itself_does_not_read_these_back(filled, ipv6):
    found = [
        (table.name, f"-A {chain.name} {rule}")
        for table in tables(ipv6)
        for chain in table.chains
        for rule in chain.rules
        if unreadable(rule)
    ]
    assert len(found) >= 3  # how many of them there are differs between releases
    for table, line in found:
        with pytest.raises(AssertionError):
            filled.restore(f"*{table}\n{line}\nCOMMIT\n", ipv6, ["--noflush"])


def test_each_rule_read_can_be_deleted(filled, ipv6):
    for table in tables(ipv6):
        table.autocommit = False
        for chain in table.chains:
            for rule in chain.rules:
                chain.delete_rule(rule)
        table.commit()
        table.autocommit = True
    assert filled.rules(ipv6) == []


def test_all_of_them_are_saved_and_restored(filled, ipv6):
    saved = iptc.save(ipv6=ipv6, counters=True)
    assert [line for line in saved.split("\n") if not line.startswith("#")] == [*filled.save(ipv6, counters=True), ""]
    # iptables-restore reads no word longer than 1023 bytes; the program of a match bpf may be longer
    left_out = re.compile("|".join(map(re.escape, UNREADABLE)))
    readable = "\n".join(line for line in saved.split("\n") if len(line) < 1000 and not left_out.search(line))
    filled.restore(readable, ipv6, ["--counters"])
    expected = filled.save(ipv6, counters=True)
    iptc.restore(readable, ipv6=ipv6, counters=True)
    assert filled.save(ipv6, counters=True) == expected
