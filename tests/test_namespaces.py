"""Tables of several network namespaces in one process: namespaces that are named, entered by the program, or deleted."""

import contextlib
import copy
import ctypes
import os
import pickle
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import CLONE_NEWNET, PATIENCE, Host, enter_new_namespace

import iptc
from iptc import _netns
from iptc.legacy.blob import TableBlob

LIBC = ctypes.CDLL(None, use_errno=True)


class Other:
    """A namespace that a process keeps alive, with the host's tools in it."""

    def __init__(self):
        self.process = subprocess.Popen(["unshare", "-n", "sleep", "1000"])
        self.pid = self.process.pid
        self.path = f"/proc/{self.pid}/ns/net"
        while os.readlink(self.path) == os.readlink("/proc/thread-self/ns/net"):
            time.sleep(0.01)

    def rules(self, ipv6=False):
        command = ["nsenter", f"--net={self.path}", Host(os.environ["IPTC_BACKEND"]).tool(ipv6, "-save")]
        return [line for line in subprocess.check_output(command, text=True).splitlines() if line.startswith("-A")]

    def end(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def other(host):
    made = Other()
    yield made
    made.end()


@contextlib.contextmanager
def entered(path):
    """Let this thread enter the namespace at *path*, and leave it at the end."""
    with open("/proc/thread-self/ns/net") as here, open(path) as there:
        assert LIBC.setns(there.fileno(), CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert LIBC.setns(here.fileno(), CLONE_NEWNET) == 0


def names_of(other, stack):
    """Return all ways to name the namespace: a path, a pid, a descriptor, a file object, a name."""
    file = stack.enter_context(open(other.path))
    os.makedirs("/run/netns", exist_ok=True)
    name = f"iptc-test-{os.getpid()}"
    with open(f"/run/netns/{name}", "w"):
        pass
    stack.callback(os.unlink, f"/run/netns/{name}")
    subprocess.check_call(["mount", "--bind", other.path, f"/run/netns/{name}"])
    stack.callback(subprocess.check_call, ["umount", f"/run/netns/{name}"])
    return [other.path, other.pid, file.fileno(), file, name]


def drop(table):
    rule = table.create_rule()
    rule.create_target("DROP")
    return rule


def test_a_table_of_a_named_namespace(host, family, other):
    with contextlib.ExitStack() as stack:
        tables = [family.Table("filter", netns=netns) for netns in names_of(other, stack)]
        here = family.Table("filter")
        assert here.netns is None and tables[0].netns == other.path
        assert tables[0] is family.Table("filter", netns=other.path) and tables[3] is tables[2] is not tables[0]
        iptc.Chain(tables[0], "INPUT").append_rule(drop(here))
        with tables[0].transaction():
            tables[0].create_chain("web").append_rule(drop(here))
        assert other.rules(family.ipv6) == ["-A INPUT -j DROP", "-A web -j DROP"]
        assert host.rules(family.ipv6) == [] and not here.is_chain("web")
        assert iptc.Chain(here, "web") is not iptc.Chain(tables[0], "web")
        # rules can jump to a chain of that table
        jump = here.create_rule()
        jump.create_target("web")
        iptc.Chain(tables[0], "INPUT").append_rule(jump)
        assert other.rules(family.ipv6)[1] == "-A INPUT -j web"


def test_each_way_to_name_it_alone(host, family, other):
    with contextlib.ExitStack() as stack:
        for number, netns in enumerate(names_of(other, stack)):
            family.Table._cache.clear()
            table = family.Table("filter", netns=netns)
            iptc.Chain(table, "INPUT").append_rule(drop(table))
            table.refresh()
            assert len(iptc.Chain(table, "INPUT").rules) == number + 1
            with iptc.CounterReader("filter", family.ipv6, netns=netns) as reader:
                assert len(reader.read()["INPUT"]) == number + 1
    assert host.rules(family.ipv6) == []


@pytest.mark.parametrize("wrong", ["nosuch", "/nosuch", "", "a\0b", 2**30, -1, True, 1.5, b"x", []], ids=ascii)
def test_what_names_no_namespace_is_refused(host, family, wrong):
    with pytest.raises(iptc.IPTCError):
        family.Table("filter", netns=wrong)
    with pytest.raises(iptc.NotFound, match="can't open network namespace nosuch: No such file or directory"):
        family.Table("filter", netns="nosuch")


@pytest.mark.one_backend("legacy")
def test_one_transaction_over_namespaces_and_families(host, other):
    tables = [
        iptc.Table("filter"),
        iptc.Table6("filter"),
        iptc.Table("filter", netns=other.pid),
        iptc.Table6("filter", netns=other.pid),
    ]
    for bad in (None, 1, 3):
        with contextlib.ExitStack() as stack:
            if bad is not None:
                stack.enter_context(pytest.raises(iptc.KernelError, match="can't commit"))
            with iptc.transaction(*tables):
                for number, table in enumerate(tables):
                    rule = drop(table)
                    if number == bad:
                        rule.create_match("tcp").dport = "80"
                    iptc.Chain(table, "INPUT").append_rule(rule)
        for ipv6 in (False, True):
            assert host.rules(ipv6) == other.rules(ipv6) == ["-A INPUT -j DROP"]


def test_after_setns_a_name_means_the_table_here(host, family, other):
    first = family.Table("filter")
    iptc.Chain(first, "INPUT").append_rule(drop(first))
    with entered(other.path):
        second = family.Table("filter")
        assert second is not first and second is family.Table("filter")
        assert iptc.Chain(second, "INPUT").rules == []
        iptc.Chain(second, "INPUT").append_rule(drop(second))
        second.create_chain("web").append_rule(drop(second))
        iptc.easy.add_rule("filter", "web", {"target": "ACCEPT"}, ipv6=family.ipv6)
        for use in (first.refresh, lambda: first.create_chain("web"), lambda: iptc.Chain(first, "INPUT").flush()):
            with pytest.raises(iptc.KernelError, match="not the one in which the table was opened") as caught:
                use()
            assert caught.value.errno == 116
    assert family.Table("filter") is first
    assert host.rules(family.ipv6) == ["-A INPUT -j DROP"] and not first.is_chain("web")
    assert other.rules(family.ipv6) == ["-A INPUT -j DROP", "-A web -j DROP", "-A web -j ACCEPT"]
    with pytest.raises(iptc.KernelError, match="not the one"):
        second.refresh()
    first.create_chain("www")


def test_gathered_changes_go_nowhere_else(host, family, other):
    table = family.Table("filter", autocommit=False)
    table.create_chain("web")
    with entered(other.path):
        with pytest.raises(iptc.KernelError, match="not the one"):
            table.commit()
    assert other.rules(family.ipv6) == host.rules(family.ipv6) == []


def test_a_named_table_goes_to_its_own_namespace_from_anywhere(host, family, other):
    table = family.Table("filter", netns=other.pid)
    enter_new_namespace()
    with iptc.transaction(table, family.Table("filter")):
        iptc.Chain(table, "INPUT").append_rule(drop(table))
    thread = threading.Thread(target=lambda: iptc.Chain(table, "OUTPUT").append_rule(drop(table)))
    thread.start()
    thread.join()
    assert other.rules(family.ipv6) == ["-A INPUT -j DROP", "-A OUTPUT -j DROP"]
    assert host.rules(family.ipv6) == []


def test_a_named_table_of_the_namespace_that_the_thread_was_in(host, family, other):
    here, named = family.Table("filter"), family.Table("filter", netns=os.getpid())
    assert named is not here
    iptc.Chain(named, "INPUT").append_rule(drop(named))
    iptc.Chain(here, "INPUT").append_rule(drop(here))
    assert len(host.rules(family.ipv6)) == 2
    kept = family.Table("filter", netns=f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net")

    def elsewhere():
        with entered(other.path):
            iptc.Chain(kept, "INPUT").append_rule(drop(kept))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(host.rules(family.ipv6)) == 3 and other.rules(family.ipv6) == []


def test_a_thread_of_its_own_namespace(host, family, other):
    def work():
        with entered(other.path):
            table = family.Table("filter")
            iptc.Chain(table, "INPUT").append_rule(drop(table))
            assert family.Rule.from_args("-j DROP") in iptc.Chain(table, "INPUT")

    here = family.Table("filter")
    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(20):
        iptc.Chain(here, "INPUT").append_rule(drop(here))
    thread.join()
    assert len(host.rules(family.ipv6)) == 20 and len(other.rules(family.ipv6)) == 1


def test_a_name_that_means_another_namespace_now_is_refused(host, family, tmp_path):
    one, two = Other(), Other()
    link = tmp_path / "ns"
    link.symlink_to(one.path)
    table = family.Table("filter", netns=str(link))
    table.create_chain("web")
    link.unlink()
    link.symlink_to(two.path)
    for use in (table.refresh, lambda: table.create_chain("www")):
        with pytest.raises(iptc.KernelError, match=f"network namespace {link} is not the one"):
            use()
    fresh = family.Table("filter", netns=str(link))
    assert fresh is not table and not fresh.is_chain("web")
    two.end()
    with pytest.raises(iptc.NotFound, match="can't open network namespace"):
        fresh.refresh()
    one.end()


def test_closed_tables_keep_no_dead_namespace_alive(host, family):
    """The end of a veth pair in this namespace shows it: it is deleted when the namespace of the other end is."""
    other = Other()
    host.run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", str(other.pid))
    table = family.Table("filter", autocommit=False, netns=other.pid)
    table.create_chain("web")
    chain = iptc.Chain(table, "web")
    chain.append_rule(drop(table))
    table.commit()
    assert len(chain.rules) == 1
    with entered(other.path):
        kept = family.Table("mangle")
        kept.create_chain("web")
    # on nf_tables a socket stays open as long as a table is open
    table.close()
    kept.close()
    other.end()
    end = time.monotonic() + PATIENCE
    while "v0" in host.run("ip", "-o", "link") and time.monotonic() < end:
        time.sleep(0.02)
    assert "v0" not in host.run("ip", "-o", "link")
    for use in (table.refresh, kept.refresh):
        with pytest.raises(iptc.KernelError):
            use()


def test_tables_of_many_namespaces_are_let_go(host, family):
    tables = family.Table._cache
    batch = family.Table("mangle", autocommit=False)
    batch.create_chain("web")
    start = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    for _ in range(100):
        assert LIBC.unshare(CLONE_NEWNET) == 0
        family.Table("filter")
    assert len(tables) <= 65
    assert LIBC.setns(start, CLONE_NEWNET) == 0
    os.close(start)
    # a table with pending edits is not closed
    assert family.Table("mangle") is batch and batch.is_chain("web")


@pytest.mark.one_backend
def test_threads_that_create_the_same_table_at_once(family):
    """The kernel answers EEXIST to all threads but one. Those threads read the table that exists now."""
    start = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    read = []

    def work(there, together):
        assert LIBC.setns(there, CLONE_NEWNET) == 0
        together.wait()
        read.append(len(TableBlob(socket.AF_INET6 if family.ipv6 else socket.AF_INET, "filter").chains))

    try:
        for _ in range(40):
            assert LIBC.unshare(CLONE_NEWNET) == 0
            with open("/proc/thread-self/ns/net") as there:
                together = threading.Barrier(4)
                threads = [threading.Thread(target=work, args=(there.fileno(), together)) for _ in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
    finally:
        LIBC.setns(start, CLONE_NEWNET)
        os.close(start)
    assert read == [3] * 160


def test_the_same_namespace_has_one_cookie_and_others_have_others(other):
    here = _netns.namespace_cookie()
    with entered(other.path):
        there = _netns.namespace_cookie()
    assert here != there and _netns.namespace_cookie() == here == TableBlob(2, "filter").cookie


def test_copies_and_pickles(host, family, other):
    table = family.Table("filter", netns=other.path)
    assert copy.deepcopy(table) is copy.copy(table) is pickle.loads(pickle.dumps(table)) is table
    chain = iptc.Chain(table, "INPUT")
    assert copy.deepcopy(chain) is chain


def test_no_descriptor_is_left(host, family, other):
    def work():
        table = family.Table("filter", netns=other.pid)
        table.refresh()
        table.ensure_chain("web")
        with pytest.raises(iptc.IPTCError):
            family.Table("filter", netns="nosuch")
        with pytest.raises(iptc.IPTCError):
            family.Table("nosuch", netns=other.pid)

    work()
    before = os.listdir("/proc/self/fd")
    for _ in range(20):
        work()
    assert os.listdir("/proc/self/fd") == before


def test_the_command_reads_a_named_namespace(host, other):
    table = iptc.Table("filter", netns=other.pid)
    iptc.Chain(table, "INPUT").append_rule(drop(table))
    for netns in (str(other.pid), other.path):
        command = [sys.executable, "-m", "iptc", "counters", "--netns", netns, "-w", "5"]
        assert "-j DROP" in subprocess.check_output(command, text=True)


@pytest.mark.one_backend("nft")
def test_one_batch_of_nf_tables_is_of_one_namespace(host):
    other = Other()
    try:
        here, there = iptc.Table("filter"), iptc.Table("filter", netns=other.pid)
        with pytest.raises(iptc.Unsupported, match="cannot span several network namespaces"):
            with iptc.transaction(here, there):
                here.create_chain("web")
                there.create_chain("web")
        assert not here.is_chain("web") and not there.is_chain("web")
    finally:
        other.end()
