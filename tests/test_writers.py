"""Many writers at once: iptc and the host's tools, some of which are killed. No edit is lost or half done.

`IPTC_STRESS=20` makes each test twenty times as long; `make stress` does.
"""

import fcntl
import gc
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import residence
from conftest import Host
from test_namespaces import Other

import iptc
from iptc.lock import lock_path
from iptc.nft import sockets

STRESS = int(os.environ.get("IPTC_STRESS", "1"))


def start(program, *arguments):
    """A Python process that waits for a byte on its standard input before it begins."""
    head = "import sys, iptc\nfrom iptc import Chain, Rule, Rule6, Table, Table6\nsys.stdin.read(1)\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + program, *map(str, arguments)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run_together(processes):
    """Let all processes begin at once. Return the standard error of each."""
    for process in processes:
        process.stdin.write(b"x\n")
        process.stdin.flush()
    return [process.communicate()[1].decode() for process in processes]


def tool(family, name):
    return Host(os.environ["IPTC_BACKEND"]).tool(family.ipv6, name)


def shell(text):
    """A shell that waits as `start` does."""
    command = ["sh", "-ec", f"read -r go; {text}"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)


# ------------------------------------------------------------------- appends

APPENDER = """
family, who, count = sys.argv[1:]
table = (Table6 if family == "6" else Table)("filter")
chain = Chain(table, "INPUT")
for number in range(int(count)):
    rule = (Rule6 if family == "6" else Rule).from_args(f"-m comment --comment {who}-{number} -j ACCEPT")
    if number % 3 == 0:
        chain.append_rule(rule)
    elif number % 3 == 1:
        chain.insert_rule(rule)
    else:
        with table.transaction():
            chain.ensure_rule(rule)
"""


def test_eight_writers_beside_the_hosts_tools(host, family):
    count = 10 * STRESS
    ours = [start(APPENDER, 6 if family.ipv6 else 4, f"p{who}", count) for who in range(8)]
    add = f"{tool(family, '')} -w -A INPUT -m comment --comment $1-$n -j DROP"
    theirs = [shell(f"set -- t{who}; for n in $(seq 0 {count - 1}); do {add}; done") for who in range(2)]
    restore = (
        f"for n in $(seq 0 {count - 1}); do printf '*filter\\n-A INPUT -m comment --comment r-%s -j DROP\\nCOMMIT\\n' $n"
        f" | {tool(family, '-restore')} -w --noflush; done"
    )
    errors = run_together([*ours, *theirs, shell(restore)])
    assert [re.sub("Another app is currently holding.*\n", "", error) for error in errors] == [""] * 11
    expected = {f"{who}-{n}" for who in [*(f"p{i}" for i in range(8)), "t0", "t1", "r"] for n in range(count)}
    there = [re.search("--comment (\\S+)", line)[1] for line in host.rules(family.ipv6)]
    assert sorted(there) == sorted(expected)


# ------------------------------------------- writers that keep the number of entries

REPLACER = """
family, who, count = sys.argv[1:]
table = (Table6 if family == "6" else Table)("filter")
chain = Chain(table, "INPUT")
def rule(version):
    return (Rule6 if family == "6" else Rule).from_args(f"-m comment --comment {who}-{version} -j ACCEPT")
def position(version):
    return next(at for at, found in enumerate(chain.rules) if found == rule(version))
for version in range(int(count)):
    if version % 2:
        while True:
            table.refresh()
            try:
                chain.replace_rule(rule(version + 1), position(version))
                break
            except iptc.Conflict:
                pass
    else:
        with table.transaction():
            chain.delete_rule(rule(version))
            chain.insert_rule(rule(version + 1))
"""


def test_writers_that_keep_the_number_of_rules(host, family):
    count = 20 * STRESS
    writers = 5
    host.restore(
        "*filter\n"
        + "".join(f"-A INPUT -m comment --comment p{who}-0 -j ACCEPT\n" for who in range(writers))
        + "-A INPUT -m comment --comment r-0 -j ACCEPT\nCOMMIT\n",
        family.ipv6,
    )
    ours = [start(REPLACER, 6 if family.ipv6 else 4, f"p{who}", count) for who in range(writers)]
    rule = "INPUT -m comment --comment r-%s -j ACCEPT"
    theirs = shell(
        f"for n in $(seq 0 {count - 1}); do printf '*filter\\n-D {rule}\\n-A {rule}\\nCOMMIT\\n' $n $((n + 1))"
        f" | {tool(family, '-restore')} -w --noflush; done"
    )
    errors = run_together([*ours, theirs])
    assert [re.sub("Another app is currently holding.*\n", "", error) for error in errors] == [""] * (writers + 1)
    there = sorted(re.search("--comment (\\S+)", line)[1] for line in host.rules(family.ipv6))
    assert there == [*(f"p{who}-{count}" for who in range(writers)), f"r-{count}"]


LOCKLESS = """
family, who, count = sys.argv[1:]
table = (Table6 if family == "6" else Table)("filter", lock_file=None if who == "locks" else False)
chain = Chain(table, "INPUT")
for number in range(int(count)):
    while True:
        try:
            chain.append_rule((Rule6 if family == "6" else Rule).from_args(f"-m comment --comment {who}-{number} -j ACCEPT"))
        except iptc.Conflict:
            continue        # the other was first, too often
        except iptc.PartialCommit as error:
            # the other came between the table and its counters
            assert "counters" in str(error) and error.committed == [f"IPv{family} table filter"], error
        break
"""


def test_a_writer_that_takes_no_lock_is_noticed(host, family):
    """The kernel answers EAGAIN if the number of entries changed between our read and our commit. The edit is done again
    on the new table."""
    count = 100 * STRESS
    names = ["locks", "none"]
    writers = [start(LOCKLESS, 6 if family.ipv6 else 4, name, count) for name in names]
    assert run_together(writers) == ["", ""]
    there = [re.search("--comment (\\S+)", line)[1] for line in host.rules(family.ipv6)]
    assert sorted(there) == sorted(f"{name}-{number}" for name in names for number in range(count))


# -------------------------------------------------------------------- kill -9


def is_free():
    with open(lock_path(), "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def flip_for_ever(table, ready):
    """Change all rules of the table from one state to another, again and again."""
    chain = iptc.Chain(table, "INPUT")
    while True:
        for target in ("DROP", "ACCEPT"):
            with table.transaction():
                chain.flush()
                table.clear_chain("web")
                for number in range(60):
                    rule = table.create_rule()
                    rule.create_match("comment").comment = f"{number}"
                    rule.create_target(target)
                    chain.append_rule(rule)
                    iptc.Chain(table, "web").insert_rule(rule)
            os.write(ready, b"x")


def test_killed_at_any_moment(host, family):
    table = family.Table("filter")
    table.create_chain("web")
    seen = {}
    for _ in range(20 * STRESS):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                flip_for_ever(table, write)
            finally:
                os._exit(1)
        os.read(read, 1)
        time.sleep(random.random() * 0.005)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert is_free()
        os.close(read), os.close(write)
        targets = [line.split()[-1] for line in host.rules(family.ipv6)]
        assert len(targets) == 120 and len(set(targets)) == 1
        seen[targets[0]] = seen.get(targets[0], 0) + 1
    assert sum(seen.values()) == 20 * STRESS
    # the table can be written at once, by any process
    host.iptables("-w 1 -F", ipv6=family.ipv6)
    assert table.ensure_chain("web") is False


# ---------------------------------------------- threads, families, namespaces

FIXED = "*filter\n:INPUT ACCEPT [5:50]\n:fixed - [0:0]\n[7:70] -A fixed -p tcp -j DROP\n[9:90] -A fixed -p udp -j DROP\nCOMMIT\n"


class Workers:
    """Threads that work until each has done its part. It keeps the errors of all threads."""

    def __init__(self):
        self.over = False
        self.wrong = []

    def run(self, rounds, works):
        """Run each of *works* at least *rounds* times. A thread that is done goes on until all are, to disturb the others."""
        parts = [threading.Semaphore(0) for _ in works]
        threads = [
            threading.Thread(target=self._loop, args=(work, part, rounds))
            for work, part in zip(works, parts, strict=True)
        ]
        for thread in threads:
            thread.start()
        for part in parts:
            for _ in range(rounds):
                part.acquire()
        self.over = True
        for thread in threads:
            thread.join()

    def _loop(self, work, part, rounds):
        try:
            while not self.over and not self.wrong:
                work()
                part.release()
        except BaseException as error:
            self.wrong.append(error)
        part.release(rounds)


def poll(reader):
    snapshot = reader.read()
    assert list(snapshot["fixed"]) == [(7, 70), (9, 90)]
    assert snapshot["INPUT"].policy_counters == (5, 50)


def look(table):
    table.refresh()
    assert [rule.counters for rule in iptc.Chain(table, "fixed").rules] == [(7, 70), (9, 90)]
    assert table.create_rule(iptc.Chain(table, "fixed").rules[0].rule) in iptc.Chain(table, "fixed")
    assert iptc.Chain(table, "INPUT").get_counters() == (5, 50)


def edit(table):
    rule = table.create_rule()
    rule.protocol = "tcp"
    rule.create_match("tcp").dport = str(random.randrange(1, 60000))
    rule.create_target("ACCEPT")
    chain, own = iptc.Chain(table, "INPUT"), f"of-{threading.get_ident() % 10**9}"
    chain.append_rule(rule)
    with table.transaction():
        table.ensure_chain(own)
        iptc.Chain(table, own).insert_rule(rule)
        chain.set_policy("ACCEPT")
    chain.delete_rule(rule)
    table.clear_chain(own)
    table.delete_chain(own)


def descriptors_in_use():
    """Return how many descriptors are open, without the netlink sockets that are kept for later use."""
    for kept in list(sockets._all.values()):
        kept.drop()
    return len(os.listdir("/proc/self/fd"))


def test_threads_poll_while_others_edit(host):
    other = Other()
    try:
        for ipv6 in (False, True):
            for netns in (None, other.pid):
                # ip6tables-nft-restore 1.8.9 ignores -c
                iptc.restore(FIXED, ipv6, counters=True, netns=netns)
        tables = [cls("filter", netns=netns) for cls in (iptc.Table, iptc.Table6) for netns in (None, other.pid)]
        readers = [
            iptc.CounterReader("filter", ipv6, netns=netns, lock=True)
            for ipv6 in (False, True)
            for netns in (None, other.pid)
        ]
        # readers of rules take no lock, so they read a table that no thread writes
        still = [cls("mangle", netns=other.pid) for cls in (iptc.Table, iptc.Table6)]
        for ipv6 in (False, True):
            iptc.restore(FIXED.replace("filter", "mangle"), ipv6, counters=True, netns=other.pid)
        works = [
            *(lambda reader=reader: poll(reader) for reader in readers * 2),
            *(lambda table=table: look(table) for table in still),
            lambda: edit(tables[0]),
            lambda: edit(tables[3]),
            lambda: edit(random.choice(tables)),
        ]
        wrong = []

        def together(rounds=8 * STRESS):
            workers = Workers()
            workers.run(rounds, works)
            wrong.extend(workers.wrong)
            gc.collect()

        together(3)
        descriptors = descriptors_in_use()
        # how much the allocator keeps for each thread depends on how they run
        grown = residence.growth(together, 4 * 2**20)
        assert wrong == [] and descriptors_in_use() == descriptors
        print(f"grown by {grown} bytes")
        assert grown < 4 * 2**20
        for reader in readers:
            reader.close()
    finally:
        other.end()
    assert [line for line in host.save(counters=True) if "fixed" in line][1:] == [
        "[7:70] -A fixed -p tcp -j DROP",
        "[9:90] -A fixed -p udp -j DROP",
    ]
