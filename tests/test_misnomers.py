"""Attributes that a rule, match or target does not have: a warning names the attribute that was probably meant."""

import copy
import os
import re
import subprocess
import sys
import warnings

import pytest

import iptc
from iptc import misnomers
from iptc.language import plugins

MEANT = {
    "source": "rule.src",
    "destination": "rule.dst",
    "saddr": "rule.src",
    "dst_ip": "rule.dst",
    "proto": "rule.protocol",
    "in_iface": "rule.in_interface",
    "out_iface": "rule.out_interface",
    "interface": "rule.in_interface",
    "Src": "rule.src",
    "in-interface": "rule.in_interface",
    "prottocol": "rule.protocol",
    "out_interfce": "rule.out_interface",
    "jump": "rule.create_target",
    "dport": 'create_match("tcp").dport',
    "destination_port": 'create_match("tcp")',
    "ctstate": 'create_match("conntrack").ctstate',
    "state": 'create_match("state")',
    "mac_source": 'create_match("mac")',
    "limit_burst": 'create_match("limit")',
    "to_destination": 'create_target("DNAT")',
    "reject_with": 'create_target("REJECT")',
    "log_prefix": 'create_target("LOG")',
    "icmpv6_type": 'create_match("icmp6")',
}


@pytest.mark.parametrize("name", MEANT)
def test_the_warning_names_what_was_probably_meant(family, name):
    rule = family.Rule()
    with pytest.warns(iptc.XTablesWarning) as caught:
        setattr(rule, name, "22")
    assert len(caught) == 1 and caught[0].filename == __file__
    assert name in str(caught[0].message) and MEANT[name] in str(caught[0].message)
    assert getattr(rule, name) == "22" and rule == family.Rule()


@pytest.mark.filterwarnings("error")
def test_notes_of_a_program_and_what_a_rule_has(family):
    class Rule(family.Rule):
        dport = None

        @property
        def source(self):
            return self.src

        @source.setter
        def source(self, value):
            self.src = value

    rule = Rule()
    for name in ("my_tag", "name", "id", "table", "position", "label", "_dport", "owner", "enabled"):
        setattr(rule, name, 1)
        assert getattr(rule, name) == 1
        delattr(rule, name)
        assert not hasattr(rule, name)
    rule.dport, rule.source, rule.chain = "22", "::1" if family.ipv6 else "10.0.0.1", None
    rule.protocol, rule.in_interface, rule.out_interface, rule.dst, rule.counters = (
        "tcp",
        "eth0",
        "eth1",
        rule.src,
        (1, 2),
    )
    rule.create_match("tcp")
    rule.target = iptc.Target(rule, "DROP")
    assert copy.copy(rule) == rule and "-m tcp -j DROP" in str(rule)


def test_a_warning_that_is_an_error_changes_nothing(family):
    rule = family.Rule()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(iptc.XTablesWarning, match="probably meant is rule.src"):
            rule.source = "10.0.0.1"
        with pytest.raises(iptc.XTablesWarning, match="no option --nosuch"):
            rule.create_match("tcp").nosuch
    assert not hasattr(rule, "source") and [match.name for match in rule.matches] == ["tcp"]
    assert iptc.errors.XTablesWarning is plugins.XTablesWarning is iptc.XTablesWarning


def test_once_for_each_place_and_attribute():
    program = """
import iptc
for number in range(3):
    rule = iptc.Rule()
    rule.dport = str(number)
    rule.source, rule.dport = "10.0.0.1", "22"
    rule.create_match("tcp").nosuch
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": ""}
    )
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if "XTablesWarning" in line]
    said = [line.split(" ")[0] + " " + re.search(r"'(\w+)'|--(\w+)", line)[0].strip("-'") for line in lines]
    assert said == ["<string>:5: dport", "<string>:6: source", "<string>:6: dport", "<string>:7: nosuch"]


@pytest.mark.filterwarnings("error")
def test_options_of_other_extensions_are_none_without_a_word(family):
    rule = family.Rule()
    for part in (
        rule.create_match("tcp"),
        rule.create_match("comment"),
        rule.create_target("ACCEPT"),
        rule.create_target("LOG"),
    ):
        for name in ("ctstate", "to_destination", "match_set", "hashlimit_name", "u32", "reqid"):
            assert getattr(part, name) is None
        assert not hasattr(part, "_nosuch")


def test_an_option_that_no_extension_has_is_warned_of(family):
    rule = family.Rule()
    match, target = rule.create_match("tcp"), rule.create_target("ACCEPT")
    with pytest.warns(iptc.XTablesWarning, match="tcp has no option --dprot, .* probably meant is 'dport'") as caught:
        assert match.dprot is None
    assert [one.filename for one in caught] == [__file__]
    for name, meant in (
        ("Dport", "dport"),
        ("SPORT", "sport"),
        ("sourcePort", "source_port"),
        ("tcpflags", "tcp_flags"),
    ):
        with pytest.warns(iptc.XTablesWarning, match=f"probably meant is '{meant}'"):
            assert getattr(match, name) is None
    with pytest.warns(iptc.XTablesWarning, match="ACCEPT has no option --nosuch"):
        assert target.nosuch is None
    with pytest.raises(iptc.ParameterError):
        match.dprot = "22"


@pytest.mark.filterwarnings("error")
def test_every_option_that_is_well_known(family):
    rule = family.Rule()
    names = misnomers._meanings()[1]
    assert {"dport", "to-ports", "icmpv6-type", "srh-tag", "ttl-set"} <= names
    for name in names:
        getattr(rule.create_match("comment"), name.replace("-", "_"))
    assert not misnomers.is_well_known("Dport") and not misnomers.is_well_known("option-of-another-release")


def test_options_of_what_is_installed_are_not_taken_for_notes():
    for name in ("match_set", "tcp_flags", "cluster_total_nodes", "bytecode", "zone_orig", "set_xmark", "queue_num"):
        assert plugins.is_option(name.replace("_", "-")) and misnomers.meant_by(name).endswith(f".{name}")
    assert not plugins.is_option("my-note") and misnomers.meant_by("my_note") is None
