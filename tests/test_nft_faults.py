"""Each netlink call fails once, or always, with each errno that it can have. An edit is then done once, or not at all,
and an error says so.

All other calls go to the real kernel. `faults.c` is preloaded into a process of its own.
"""

import os
import signal
import subprocess
import sys

import faults
import pytest
from conftest import preloading
from faults import library, start  # noqa: F401  (fixtures)

pytestmark = pytest.mark.one_backend("nft")

HEAD = """
from iptc import Chain, Rule, Table, Table6
NAMES = ["socket", "option", "buffer", "send", "sendmsg", "recv", "lost"]
ERRORS = [errno.ENOMEM, errno.EPERM, errno.EAGAIN, errno.ENOENT, errno.EINTR, errno.EINVAL, errno.ENOBUFS]

def saved():
    # nft warns of rules of iptables-nft that it cannot print
    return subprocess.check_output(["nft", "list", "ruleset"], text=True, stderr=subprocess.DEVNULL).splitlines()

TEXT = '''*filter
:INPUT DROP [5:50]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:old - [0:0]
[1:2] -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
[3:4] -A INPUT -j old
[5:6] -A old -s 10.0.0.0/8 -j DROP
COMMIT
'''
rule, rule6 = (cls.from_args("-p tcp -m tcp --dport 23 -j ACCEPT") for cls in (Rule, iptc.Rule6))
iptc.restore(TEXT, counters=True)
table, other, six = Table("filter"), Table("mangle"), Table6("filter")
named = Table("filter", netns=os.getpid())
reader = iptc.CounterReader("filter")
Chain(other, "INPUT").append_rule(rule), Chain(six, "INPUT").append_rule(rule6)

def reset():
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    iptc.restore(TEXT, counters=True)
    Chain(other, "INPUT").append_rule(rule), Chain(six, "INPUT").append_rule(rule6)
    table.refresh(), other.refresh(), six.refresh(), named.refresh()
"""


@pytest.fixture
def run(start):
    """Run a program behind HEAD."""
    return lambda program, *arguments: start(HEAD + program, *arguments)


WRITES = """
def edit():
    Chain(table, "INPUT").insert_rule(rule)

def first():
    Chain(Table("nat"), "PREROUTING").append_rule(rule)

def by_rule():
    Chain(table, "INPUT").delete_rule(Rule.from_args("-j old"))

def transaction():
    with iptc.transaction(table, other, six):
        Chain(table, "INPUT").flush()
        table.create_chain("web").append_rule(rule)
        Chain(other, "INPUT").append_rule(rule)
        Chain(six, "INPUT").append_rule(rule6)

def in_namespace():
    Chain(named, "INPUT").insert_rule(rule)

def restore():
    iptc.restore(TEXT.replace("22", "24"), counters=True)

def zero():
    table.zero_entries("INPUT")

def rename():
    table.rename_chain("old", "young")

reset()
before, files = saved(), left()
for_ever, errors = sys.argv[1] == "always", ERRORS if sys.argv[1] == "always" else [errno.EPERM, errno.EINTR, errno.ENOBUFS]
raised, attempts = set(), 0
for action in (edit, first, by_rule, transaction, in_namespace, restore, zero, rename):
    action()
    after = saved()
    reset()
    assert saved() == before != after
    for name in NAMES:
        for number in errors:
            if name == "lost" and number == errno.EINTR:
                continue            # nothing is received then
            nth = 0
            while True:
                got, calls = attempt(action, name, nth, number, for_ever)
                now, what = saved(), (action.__name__, name, errno.errorcode[number], nth, got)
                assert now in (before, after), what
                assert left() == files and calls < 2000, (what, calls, left())
                attempts += 1
                if isinstance(got, iptc.PartialCommit):
                    # what the kernel said of the batch is lost, or perhaps is
                    assert name in ("recv", "lost") and now == after and "perhaps committed: IPv4 table" in str(got), what
                elif isinstance(got, Exception):
                    assert isinstance(got, iptc.KernelError) and now == before, what
                    assert got.errno in (number, errno.ENOBUFS if number == errno.EAGAIN or name == "lost" else number) or for_ever, what
                else:
                    # done, though buffers stayed as they are or a call was made again
                    assert got is None and now == after, what
                raised.add(type(got).__name__)
                if now == after:
                    reset()
                    assert saved() == before
                nth += 1
                if nth > calls or for_ever:
                    break
print(attempts > 200, *sorted(raised))
"""


@pytest.mark.parametrize("times", ["once", "always"])
def test_each_call_of_a_write_fails(run, times):
    kinds = (
        "KernelError NoneType PartialCommit"
        if times == "once"
        else "Conflict KernelError NoneType NotFound OutOfMemory"
    )
    assert run(WRITES, times) == [f"True AccessDenied {kinds}"]


READS = """
import warnings
from iptc import backends
warnings.simplefilter("ignore")
iptc.restore("*filter\\n" + "".join(f"-A old -s 10.1.0.{n} -j DROP\\n" for n in range(200)) + "COMMIT\\n", flush=False)

def listed(table):
    table.refresh()
    return [(chain.name, [str(rule) for rule in chain.rules]) for chain in table.chains]

def poll():
    return [(chain.name, list(chain), chain.policy_counters) for chain in reader.read().chains]

def poll_anew():
    with iptc.CounterReader("filter") as one:
        return [info.text for info in one.read().rules]

def save():
    return [line for line in iptc.save(counters=True).splitlines() if line[0] != "#"]

def has():
    return Chain(table, "old").has_rule(Rule.from_args("-s 10.1.0.7 -j DROP"))

def rehearse():
    return iptc.restore(TEXT, test=True)

def decide():
    backends._decided.clear()
    del os.environ["IPTC_BACKEND"]
    try:
        return iptc.backend()
    finally:
        os.environ["IPTC_BACKEND"] = "nft"

before, attempts = saved(), 0
for action in (lambda: listed(table), lambda: listed(named), poll, poll_anew, save, has, rehearse, decide):
    expected, files = action(), left()
    for name in NAMES:
        for number in ERRORS[2:]:
            # a kernel without nf_tables says so; and nothing is received after EINTR
            if name == "lost" and number == errno.EINTR or action is decide and number in (errno.EINVAL, errno.ENOENT):
                continue
            for for_ever in (False, True):
                nth = 0
                while True:
                    got, calls = attempt(action, name, nth, number, for_ever)
                    what = action.__name__, name, errno.errorcode[number], nth, got
                    if isinstance(got, Exception):
                        assert isinstance(got, iptc.KernelError), what
                        assert got.errno in (number, errno.ENOBUFS) or isinstance(got, iptc.Conflict), what
                    else:
                        assert got == expected, what
                    assert left() == files and calls < 2000, (what, calls, left())
                    attempts += 1
                    # whatever was left of a dump, the next call is not disturbed
                    assert action() == expected, what
                    nth += 1
                    if nth > calls or for_ever:
                        break
assert saved() == before
print(attempts > 1000)
"""


def test_each_call_of_a_read_fails(run):
    assert run(READS) == ["True"]


MANY = """
# so many rules are read on two sockets at a time
iptc.restore("*filter\\n" + "".join(f":c{n} - [0:0]\\n" + f"[{n}:7] -A c{n} -s 10.1.0.{n} -j DROP\\n" * 60 for n in range(24)) + "COMMIT\\n",
             counters=True)

def poll():
    return [(chain.name, list(chain)) for chain in reader.read().chains]

def poll_anew():
    with iptc.CounterReader("filter") as one:
        return [(chain.name, list(chain)) for chain in one.read().chains]

expected, files, failed = poll(), left(), 0
assert expected == poll_anew() == [(name, []) for name in ("INPUT", "FORWARD", "OUTPUT")] + [
    (f"c{n}", [(n, 7)] * 60) for n in sorted(range(24), key=str)]
for action in (poll, poll_anew):
    for name in ("socket", "cookie", "send", "recv", "lost"):
        calls = attempt(action, name, -1, 0)[1]
        for number in (errno.ENOMEM, errno.ENOBUFS):
            for nth in range(0, calls, 3):
                got = attempt(action, name, nth, number)[0]
                assert got == expected or isinstance(got, iptc.KernelError) and got.errno == number, (action, name, nth, got)
                assert left() == files and action() == expected, (action, name, nth)
                failed += got != expected
print(failed > 100, failed)
"""


def test_a_read_on_two_sockets_fails(run):
    assert run(MANY)[0].startswith("True")


MEMORY = """
def transaction():
    with iptc.transaction(table, other, six):
        Chain(table, "INPUT").flush()
        table.create_chain("web").append_rule(rule)
        Chain(six, "INPUT").append_rule(rule6)

def rounds(count):
    for _ in range(count):
        for name, nth in (("socket", 0), ("send", 0), ("send", 2), ("recv", 1), ("recv", 4), ("sendmsg", 0)):
            for action in (transaction, reader.read, table.refresh):
                attempt(action, name, nth, errno.ENOMEM)

before = saved()
rounds(50)
grown = residence.growth(lambda: (rounds(300), gc.collect()), 2**20)
print(grown < 2**20, saved() == before, grown)
"""


def test_failures_leave_no_memory_behind(run):
    assert run(MEMORY)[0].startswith("True True")


ANSWERS = """
before = saved()
def dry():
    iptc.restore(TEXT.replace("22", "24"), test=True)

faults.fault_arm(b"recv", 10000, 0, False)
dry()
print(type(attempt(dry, "lost", faults.fault_disarm() - 1, errno.ENOBUFS)[0]).__name__, saved() == before)

# the kernel's own ENOBUFS: it has more to say than the buffer holds, whose size cannot be changed
bad = "*filter\\n-A INPUT -j ACCEPT\\n" + "-A INPUT -j MASQUERADE\\n" * 700 + "COMMIT\\n"
print(attempt(lambda: iptc.restore(bad), "buffer", 0, errno.EPERM, True)[0], saved() == before)

# what others have written is zeroed where it stands, behind the commit
subprocess.run(["nft", "add", "rule", "ip", "filter", "INPUT", "ct", "state", "new", "counter", "packets", "5", "bytes", "6"], check=True)
table.refresh()
with iptc.CounterReader("filter") as reader:
    faults.fault_arm(b"send", 10000, 0, False)
    table.zero_entries("INPUT")
    calls = faults.fault_disarm()
    assert list(reader.read()["INPUT"]) == [(0, 0)] * 3
    subprocess.run(["nft", "add", "rule", "ip", "filter", "INPUT", "ct", "state", "new", "counter", "packets", "5", "bytes", "6"], check=True)
    table.refresh()
    got = attempt(lambda: table.zero_entries("INPUT"), "send", calls - 1, errno.ENOBUFS)[0]
    print(type(got).__name__, got, got.committed, list(reader.read()["INPUT"]))
"""


def test_what_the_kernel_says_is_lost(run):
    said = run(ANSWERS)
    assert said[0] == "KernelError True"
    assert said[1].startswith("line 3 failed: Invalid argument: RULE_APPEND failed: rule in chain INPUT: -j MASQUERADE")
    assert said[1].endswith(" True")
    assert said[2] == (
        "PartialCommit can't zero rules of nft: No buffer space available; committed but for that: IPv4 table filter"
        " ['IPv4 table filter'] [(0, 0), (0, 0), (0, 0), (5, 6)]"
    )


GARBAGE = """
import warnings
warnings.simplefilter("ignore")
iptc.restore("*filter\\n" + "".join(f":c{n} - [0:0]\\n-A c{n} -s 10.1.0.{n} -p tcp --dport {n} -m comment --comment c{n} -j DROP\\n"
                                   for n in range(20)) + "COMMIT\\n", flush=False)
subprocess.run(["nft", "add", "rule", "ip", "filter", "INPUT", "tcp", "dport", "{ 1, 2 }", "counter", "reject"], check=True,
               stderr=subprocess.DEVNULL)

def listed():
    table.refresh()
    return [(chain.name, [str(rule) for rule in chain.rules]) for chain in table.chains]

def poll():
    # one that was told nonsense believes it until the ruleset changes
    with iptc.CounterReader("filter") as one:
        one.read()
        snapshot = one.read()
        return list(snapshot), [info.text for info in snapshot.rules], [chain.policy_counters for chain in snapshot.chains]

def has():
    return Chain(table, "c7").has_rule(Rule.from_args("-s 10.1.0.7 -p tcp --dport 7 -m comment --comment c7 -j DROP"))

def save():
    return [line for line in iptc.save(counters=True).splitlines() if line[0] != "#"]

def rehearse():
    return iptc.restore("*filter\\n-A INPUT -j ACCEPT\\n-A INPUT -j nowhere\\n-D c7 1\\nCOMMIT\\n", flush=False, test=True)

def plain(action):
    try:
        return action()
    except iptc.IPTCError as error:
        return str(error)

before, files, actions = saved(), left(), (listed, poll, has, save, rehearse)
expected, failed, count = [plain(action) for action in actions], 0, 0
for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    action = actions[seed % len(actions)]
    faults.fault_arm(b"send", -1, 0, False)
    faults.fault_spoil(seed)
    try:
        action()
    except iptc.IPTCError:
        failed += 1
    faults.fault_spoil(0)
    count += faults.fault_disarm()
    if seed % 50 == 0:
        assert [plain(action) for action in actions] == expected
        # a second socket, for the large table that nonsense told of, is kept with the first
        assert set(files) <= set(left()) and len(left()) <= len(files) + 1, (files, left())
assert saved() == before
print(failed, count, file=sys.stderr) if len(sys.argv) > 3 else None
print(failed > 100)
"""


def test_garbage_from_the_kernel_is_an_error_or_not_noticed(run):
    assert run(GARBAGE, "1", "1500") == ["True"]


STOPS = """
import signal
reader = iptc.CounterReader()
# before each request
faults.fault_arm(b"send", 0, -signal.SIGSTOP, True)
try:
    snapshot = reader.read()
except iptc.KernelError as error:
    print("refused" if error.errno == errno.EAGAIN else error)
else:
    print(len(snapshot["w"]) if "w" in [chain.name for chain in snapshot.chains] else "no chain")
"""


@pytest.mark.parametrize("turns", ["TTFT", "TTFTFTT"])
def test_a_chain_is_read_with_its_rules_while_its_table_comes_and_goes(host, library, turns):
    """The chains of a table that is created again have the same handles as before. *turns*: whether there is a table
    when the next request is sent."""
    there, number = False, 0
    command = [sys.executable, "-c", faults.HEAD + STOPS]
    process = subprocess.Popen(command, env=preloading(library), stdout=subprocess.PIPE, text=True)
    while True:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            break
        if there != (turns[number % len(turns)] == "T"):
            whole = "add table ip filter; add chain ip filter w; " + "add rule ip filter w counter; " * 3
            host.run("nft", "delete table ip filter" if there else whole)
            there = not there
        number += 1
        os.kill(process.pid, signal.SIGCONT)
    with process.stdout:
        said = process.stdout.read().strip()
    assert os.waitstatus_to_exitcode(status) == 0 and said in ("3", "no chain", "refused")
