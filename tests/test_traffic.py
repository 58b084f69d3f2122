"""Counters while packets pass and rules are committed: no packet that the kernel counted is lost or counted twice."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

import iptc

SENDER = """
import os, select, socket, sys
# one processor, and so one queue: the packet that is sent last arrives last
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
to = (sys.argv[1], 9)
out = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET, socket.SOCK_DGRAM)
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(50):
        try:
            out.sendto(b"x" * 20, to)
        except OSError:
            pass        # nobody listens there: the answer says so
socket.create_connection((to[0], 10)).close()
"""


@contextlib.contextmanager
def traffic(host, ipv6):
    """UDP packets that arrive over a veth pair from another namespace, as fast as they can be sent, until the function
    that it gives is called."""
    neighbour = subprocess.Popen(["unshare", "-n", "sleep", "1000"])
    sender = None
    try:
        while os.readlink(f"/proc/{neighbour.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            time.sleep(0.01)
        inside = ["nsenter", "-t", str(neighbour.pid), "-n"]
        host.run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", str(neighbour.pid))
        prefix, extra = ("2001:db8::", ["nodad"]) if ipv6 else ("192.0.2.", [])
        length = "/64" if ipv6 else "/24"
        host.run("ip", "addr", "add", f"{prefix}1{length}", "dev", "v0", *extra)
        host.run(*inside, "ip", "addr", "add", f"{prefix}2{length}", "dev", "v1", *extra)
        host.run("ip", "link", "set", "v0", "up")
        host.run(*inside, "ip", "link", "set", "v1", "up")
        sender = subprocess.Popen([*inside, sys.executable, "-c", SENDER, f"{prefix}1"], stdin=subprocess.PIPE)
        with socket.create_server((f"{prefix}1", 10), family=socket.AF_INET6 if ipv6 else socket.AF_INET) as last:

            def end():
                """Let the sender end. It connects at last: when that arrives, all earlier packets have been counted."""
                sender.stdin.close()
                last.accept()[0].close()

            yield end
    finally:
        for process in filter(None, (sender, neighbour)):
            process.send_signal(signal.SIGKILL)
            process.wait()


def seen(host, family, table, what):
    """The (packets, bytes) of the line of *table* that ends with or starts with *what*."""
    for line in host.save(family.ipv6, counters=True, table=table):
        if what in line:
            return tuple(map(int, re.search(r"\[(\d+):(\d+)\]", line).groups()))
    raise AssertionError(f"no {what} in {table}")


def rule(family, comment, protocol="udp"):
    made = family.Rule()
    made.protocol = protocol
    made.create_match("comment").comment = comment
    made.create_target("")
    return made


def edits(table, family):
    """Do commits of every kind. None may change the counters of INPUT's policy and of its rule `counted`."""
    chain = iptc.Chain(table, "INPUT")
    chain.insert_rule(rule(family, "before"))
    chain.append_rule(rule(family, "behind", "tcp"))
    chain.replace_rule(rule(family, "instead"), 0)
    chain.delete_rule(rule(family, "instead"))
    chain.delete_rule(rule(family, "behind", "tcp"))
    table.create_chain("web").rename("www")
    chain.set_policy("ACCEPT")
    table.delete_chain("www")


def test_what_passes_during_commits_is_counted_once(host, family):

    def iptables(words):
        return host.iptables(words, ipv6=family.ipv6)

    # what is counted independently: in a table that nobody commits meanwhile
    iptables("-P INPUT ACCEPT")  # before this, iptables-nft has no counters for the policy
    iptables("-t raw -A PREROUTING -p udp -m comment --comment all")
    iptables("-A INPUT -p udp -m comment --comment counted")
    iptables("-A INPUT ! -p udp -j ACCEPT")
    table = family.Table("filter")
    commits = 0
    with traffic(host, family.ipv6) as end:
        while seen(host, family, "raw", "all")[0] < 100:
            time.sleep(0.01)
        while commits < 200 or seen(host, family, "raw", "all")[0] < 1000:
            edits(table, family)
            commits += 8
        end()
        everything = seen(host, family, "raw", "all")
    assert seen(host, family, "filter", "counted") == everything
    assert seen(host, family, "filter", ":INPUT") == everything


def test_what_passes_while_a_table_is_put_back_is_counted_once(host, family):
    """Again and again, the kernel refuses the second table of a transaction after the first one was replaced."""

    def iptables(words):
        return host.iptables(words, ipv6=family.ipv6)

    iptables("-P INPUT ACCEPT")  # before this, iptables-nft has no counters for the policy
    iptables("-t raw -A PREROUTING -p udp -m comment --comment all")
    iptables("-A INPUT -p udp -m comment --comment counted")
    iptables("-A INPUT ! -p udp -j ACCEPT")
    table, other = family.Table("filter"), family.Table("mangle")
    chain = iptc.Chain(table, "INPUT")
    bad = family.Rule()
    bad.create_match("tcp").dport = "80"  # without -p tcp
    bad.create_target("ACCEPT")
    refused = 0
    with traffic(host, family.ipv6) as end:
        while seen(host, family, "raw", "all")[0] < 100:
            time.sleep(0.01)
        while refused < 100:
            with pytest.raises(iptc.KernelError, match="Invalid argument"):
                with iptc.transaction(table, other):
                    chain.insert_rule(rule(family, "before"))
                    chain.append_rule(rule(family, "behind"))
                    iptc.Chain(other, "INPUT").append_rule(bad)
            refused += 1
        end()
        everything = seen(host, family, "raw", "all")
    assert seen(host, family, "filter", "counted") == seen(host, family, "filter", ":INPUT") == everything


def test_zeroing_loses_nothing_that_comes_after(host, family):
    host.iptables("-A INPUT -p udp -m comment --comment counted", ipv6=family.ipv6)
    host.iptables("-A INPUT ! -p udp -j ACCEPT", ipv6=family.ipv6)
    table = family.Table("filter")
    with traffic(host, family.ipv6) as end:
        while seen(host, family, "filter", "counted")[0] < 100:
            time.sleep(0.01)
        for _ in range(20):
            table.zero_entries("INPUT")
        end()
    rule_packets, rule_bytes = seen(host, family, "filter", "counted")
    policy_packets, policy_bytes = seen(host, family, "filter", ":INPUT")
    # Legacy exchanges the whole table, so both are zeroed at the same moment and count the same packets since. The
    # commit of nf_tables first exchanges the rules of the chain and then the counters of its policy: of the packets
    # that are under way at that moment, at most one on each processor, one of the two may miss each.
    under_way = os.cpu_count() if host.backend == "nft" else 0
    assert abs(rule_packets - policy_packets) <= under_way
    size = 20 + 8 + (40 if family.ipv6 else 20)  # the size of SENDER's packets, with UDP and IP header
    assert (rule_bytes, policy_bytes) == (rule_packets * size, policy_packets * size)


@pytest.mark.parametrize(
    "edit",
    [
        lambda table: iptc.Chain(table, "OUTPUT").append_rule(rule(type("F", (), {"Rule": table._rule_class}), "new")),
        lambda table: table.create_chain("web"),
        lambda table: iptc.Chain(table, "INPUT").set_policy("ACCEPT"),
        lambda table: iptc.Chain(table, "FORWARD").set_policy("DROP"),
    ],
    ids=["append", "create", "policy", "other policy"],
)
def test_counters_are_the_same_before_and_after(host, family, edit):
    host.restore(
        "*filter\n:INPUT DROP [11:22]\n:FORWARD ACCEPT [33:44]\n:OUTPUT ACCEPT [18446744073709551000:55]\n:user - [0:0]\n"
        "[66:77] -A INPUT -j user\n[88:99] -A user -p tcp\nCOMMIT\n",
        family.ipv6,
        ["-c"],
    )
    counted = lambda: [  # noqa: E731
        re.search(r"\[(\d+):(\d+)\]", line).groups() for line in host.save(family.ipv6, True, "filter") if "[" in line
    ]
    before = counted()
    edit(family.Table("filter"))
    assert [pair for pair in counted() if pair != ("0", "0")] == [pair for pair in before if pair != ("0", "0")]
