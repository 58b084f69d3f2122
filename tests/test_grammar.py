"""Rules of a grammar: read, printed and read again they are equal, and they print the text of iptables-save.

The rules are the same in each run; with `IPTC_STRESS` they are different each time.
"""

import os
import re

import pytest
import specs
from grammar import rules
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_parity import ask_with, difference

import iptc

pytestmark = pytest.mark.filterwarnings("ignore::iptc.XTablesWarning")

# hypothesis would shrink a failing list slowly, and its rule is named anyway
relaxed = settings(
    max_examples=80,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    derandomize="IPTC_STRESS" not in os.environ,
)

# iptables-nft writes, and so shows, `! --sport 0:5` as `--sport 6:65535`
NOT_FROM_ZERO = re.compile(r"! --[a-z]*port[= ]0?:")


@given(data=st.data())
@relaxed
def test_read_printed_and_read_again_it_is_the_same(ipv6, data):
    cls = iptc.Rule6 if ipv6 else iptc.Rule
    for text in data.draw(st.lists(rules(ipv6), min_size=1, max_size=10)):
        rule = cls.from_args(text)
        again = cls.from_args(str(rule))
        assert again == rule and str(again) == str(rule), text
        assert cls.from_args(rule.to_args()) == rule, text


def appended(host, ipv6, made):
    """Append the rules in one file, or one by one if the kernel refuses some. Return those that it accepts."""
    lines = [f"-A INPUT {text}" for text in made]
    for several in ([lines], [[line] for line in lines]):
        taken = []
        for chosen in several:
            text = "\n".join(["*filter", *chosen, "COMMIT", ""])
            done = host.run(host.tool(ipv6, "-restore"), "--noflush", "--counters", text=text, check=False)
            # the parser accepts all of them. The kernel wants the same options for each use of a recent list, and no
            # slow limits
            assert done.returncode in (0, 1, 4), done.stderr
            taken += [] if done.returncode else chosen
        if taken:
            break
    return [line.removeprefix("-A INPUT ") for line in taken]


@given(data=st.data())
@relaxed
def test_printed_it_is_what_iptables_save_prints(prepared, ipv6, data):
    cls = iptc.Rule6 if ipv6 else iptc.Rule
    lines = []
    made = data.draw(st.lists(rules(ipv6), min_size=1, max_size=25))
    for text in appended(
        prepared, ipv6, [text for text in made if prepared.backend == "legacy" or not NOT_FROM_ZERO.search(text)]
    ):
        rule = cls.from_args(text)
        lines.append(f"[{rule.counters[0]}:{rule.counters[1]}] -A INPUT {rule}".rstrip())
    saved = [line.rstrip() for line in prepared.save(ipv6, counters=True, table="filter") if "-A INPUT" in line]
    prepared.iptables("-F INPUT", ipv6=ipv6)
    if prepared.loses_counters(ipv6):
        lines, saved = ([line.partition("] ")[2] for line in part] for part in (lines, saved))
    assert lines == saved


# Words in any order. Nearly all of them are refused, in different ways.
WORDS = (
    "!",
    "--",
    "-",
    "",
    "-s",
    "1.2.3.4",
    "a::1",
    "1.2.3.4,5.6.7.8",
    "-d",
    "-p",
    "tcp",
    "udp",
    "17",
    "0",
    "icmp",
    "icmpv6",
    "-i",
    "eth0",
    "-o",
    "+",
    "-f",
    "-c",
    "1",
    "2",
    "1,2",
    "-j",
    "-g",
    "ACCEPT",
    "LOG",
    "MARK",
    "web",
    "nosuch",
    "-m",
    "tcp",
    "mark",
    "connmark",
    "comment",
    "limit",
    "multiport",
    "recent",
    "conntrack",
    "set",
    "--dport",
    "--sport",
    "22",
    "--syn",
    "--tcp-flags",
    "SYN",
    "--mark",
    "--set",
    "--comment",
    "--limit",
    "1/s",
    "--dports",
    "--name",
    "--log-prefix",
    "--log-level",
    "--set-mark",
    "--source",
    "--src",
    "--de",
    "--pro",
    "--dport=5",
    "--mark=1",
    "--comment=",
    "-ptcp",
    "-fi",
    "-jLOG",
    "-mmark",
    "-m tcp",
    "--nosuch",
    "-q",
    "--set-counters",
    "--icmp-type",
    "8",
)


@given(words=st.lists(st.sampled_from(WORDS), max_size=9))
@settings(relaxed, max_examples=400)
def test_any_words_are_judged_as_iptables_judges_them(prepared, ipv6, words):
    spec = specs.Spec(ipv6, "filter", "INPUT", " ".join(words))
    assert difference(prepared, ask_with(prepared, spec, words), spec, words) is None
