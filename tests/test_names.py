"""While a name is looked up, only the calling thread waits. The answers are those of the host's tools."""

import pathlib
import subprocess
import sys

import pytest
from conftest import PATIENCE, preloading

import iptc

PROGRAM = """
import ctypes, os, sys, threading, iptc
blocking = ctypes.CDLL(None)
lock = sys.argv[1]

def beside(action):
    'What action returned, which waits for names; before they are found this thread does all that one does with rules.'
    say, wait = os.pipe(), os.pipe()
    blocking.block_on(say[1], wait[0])
    results = []
    thread = threading.Thread(target=lambda: results.append(action()), daemon=True)
    thread.start()
    os.read(say[0], 1)
    for table, rule, ipv6 in ((iptc.Table, iptc.Rule, False), (iptc.Table6, iptc.Rule6, True)):
        chain = iptc.Chain(table("filter"), "FORWARD")
        chain.append_rule(rule.from_args("-p tcp -m multiport --dports 22,http -m limit --limit 5/sec -j ACCEPT"))
        assert [str(found) for found in chain.rules] == ["-p tcp -m multiport --dports 22,80 -m limit --limit 5/sec -j ACCEPT"]
        assert "--dports 22,80" in table("filter").save()
        assert iptc.restore("*mangle\\n-A INPUT -p udp --dport domain -j DROP\\nCOMMIT\\n", ipv6=ipv6, lock_file=lock) == 1
        match = chain.rules[0].matches[1]
        match.limit = "7/min"
        assert match.parameters["limit"] == "7/min"
        chain.flush()
    assert thread.is_alive() and results == []
    os.write(wait[1], b"x" * 64)
    thread.join()
    return results[0]

def with_parameter(name, parameter, value):
    rule = iptc.Rule()
    rule.protocol = "tcp"
    match = rule.create_match(name)
    setattr(match, parameter, value)
    return str(match.parameters)

def with_protocol(name):
    rule = iptc.Rule()
    rule.protocol = name
    return rule.protocol

def restored(text, **given):
    iptc.restore(text, **given)
    return [str(rule) for rule in iptc.Chain(iptc.Table("raw"), "OUTPUT").rules]
"""

ACTIONS = {
    'str(iptc.Rule.from_args("-s slow.example -j ACCEPT"))': "-s 192.0.2.1/32 -j ACCEPT",
    'str(iptc.Rule6.from_args("-d slow.example -j ACCEPT"))': "-d 2001:db8::1/128 -j ACCEPT",
    '[str(rule) for rule in iptc.Rule.from_args("-s slow.one,10.0.0.1,slow.two -p slowproto -m tcp --dport slowport -j ACCEPT").expand()]': str(
        [f"-s {a}/32 -p tcp -m tcp --dport 22 -j ACCEPT" for a in ("192.0.2.1", "10.0.0.1", "192.0.2.1")]
    ),
    'str(iptc.Rule.from_args("-p tcp -m multiport --dports slow1,23,slow2 -j ACCEPT"))': "-p tcp -m multiport --dports 22,23,22 -j ACCEPT",
    'str(iptc.Rule.from_args("-m owner --uid-owner slowuser --gid-owner slowgroup"))': "-m owner --uid-owner 0 --gid-owner 0",
    'with_parameter("tcp", "dport", "slowservice")': str({"dport": "22"}),
    'with_parameter("multiport", "dports", "slow3,slow4")': str({"dports": "22,22"}),
    'with_parameter("owner", "uid_owner", "slowother")': str({"uid_owner": "0"}),
    'with_protocol("slowproto2")': "tcp",
    'str(iptc.easy.encode_iptc_rule({"protocol": "tcp", "tcp": {"dport": "slow6"}, "target": "ACCEPT"}))': "-p tcp -m tcp --dport 22 -j ACCEPT",
    'restored("*raw\\n-A OUTPUT -s slow.example -p tcp --dport slow5 -j ACCEPT\\n-A OUTPUT -d slow.other,slow.example -j ACCEPT\\nCOMMIT\\n")': str(
        ["-s 192.0.2.1/32 -p tcp -m tcp --dport 22 -j ACCEPT", "-d 192.0.2.1/32 -j ACCEPT", "-d 192.0.2.1/32 -j ACCEPT"]
    ),
}
PRINTED = {
    'str(iptc.Rule.from_args("-p 250 -j ACCEPT"))': "-p 250 -j ACCEPT",
    '[line for line in iptc.Table("nat").save().split("\\n") if "250" in line]': str(["-A OUTPUT -p 250 -j ACCEPT"]),
}
"""Before 1.8.10, libxtables looks up the names of protocols that it does not know when a rule is printed."""


@pytest.fixture(scope="module")
def blocking(tmp_path_factory):
    """blocking.c as a library to preload."""
    made = tmp_path_factory.mktemp("blocking") / "blocking.so"
    source = pathlib.Path(__file__).with_name("blocking.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", made, source, "-ldl"], check=True)
    return made


def test_a_look_up_stops_its_own_thread_only(host, blocking, tmp_path):
    actions = dict(ACTIONS)
    if host.release < (1, 8, 10):
        host.iptables("-t nat -A OUTPUT -p 250 -j ACCEPT")
        actions.update(PRINTED)
    program = PROGRAM + "".join(f"print(beside(lambda: {action}))\n" for action in actions)
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "lock"],
        env=preloading(blocking),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert dict(zip(actions, done.stdout.splitlines(), strict=True)) == actions


def test_names_are_the_hosts(family):
    for text in ("-p tcp --dport ssh", "-p udp --sport domain:bootps", "-m owner --uid-owner root --gid-owner daemon"):
        rule = family.Rule.from_args(text)
        assert family.Rule.from_args(str(rule)) == rule
    for text in (
        "-p tcp --dport nosuch",
        "-p nosuch",
        "-s nosuch.invalid",
        "-m owner --uid-owner nosuch",
        "-s " + "x" * 5000,
        "-p " + "x" * 5000,
    ):
        with pytest.raises(iptc.ParameterError, match="nosuch|x{50}|too long"):
            family.Rule.from_args(text)
