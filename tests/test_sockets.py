"""Sockets and other descriptors are made in the right namespace even if system calls fail, are never leaked, and are
closed only by their owner."""

import os
import subprocess

import pytest
from conftest import Host
from faults import library, start  # noqa: F401

import iptc


@pytest.fixture
def other(host):
    """The pid of a process in a namespace of its own."""
    process = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo ready; exec sleep 1000"], stdout=subprocess.PIPE)
    process.stdout.readline()
    yield process.pid
    process.kill()
    process.communicate()


def rules_in(pid):
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", Host(os.environ["IPTC_BACKEND"]).tool(False, "-save")]
    return [line for line in subprocess.check_output(command, text=True).splitlines() if line.startswith("-A")]


HEAD = """
import random, signal
other = int(sys.argv[1])
here = os.readlink("/proc/thread-self/ns/net")
rule = iptc.Rule.from_args("-j DROP")

def use():
    table = iptc.Table("filter", netns=other)
    iptc.Chain(table, "INPUT").append_rule(rule)
    with iptc.CounterReader(netns=other) as reader:
        assert len(reader.read()) == len(iptc.Chain(table, "INPUT").rules)
    iptc.save(netns=other)
"""

REFUSED = """
use()
faults.fault_threads(1)
use()
assert os.readlink("/proc/thread-self/ns/net") == here
# each step of the way there and back fails once: it is tried again, or an error, and this thread is where it was
for number in (errno.EPERM, errno.ENOMEM):
    nth, outcomes = 0, []
    while True:
        iptc.Table._cache.clear()
        got, calls = attempt(use, "setns", nth, number)
        assert os.readlink("/proc/thread-self/ns/net") == here
        assert got is None or isinstance(got, iptc.KernelError), got
        outcomes.append(got is None)
        if nth >= calls:
            break
        nth += 1
    # the way back is tried again
    assert outcomes[:3] == [False, False, True] and outcomes[-1], outcomes
print("done")
"""


def test_without_threads_other_namespaces_are_still_reached(start, other):
    assert start(HEAD + REFUSED, str(other)) == ["done"]
    assert len(rules_in(other)) > 2


AT_THE_END = """
import atexit

class Last:
    def __init__(self, table):
        self.table = table

    def __del__(self):
        iptc.Chain(self.table, "INPUT").append_rule(rule)

def at_exit():
    iptc.Chain(iptc.Table("filter", netns=other), "OUTPUT").append_rule(rule)

use()
atexit.register(at_exit)
named, plain = Last(iptc.Table("filter", netns=other)), Last(iptc.Table("filter"))
# until the interpreter takes everything apart
sys.modules["last"] = plain
"""


def test_tables_work_until_the_interpreter_has_ended(start, host, other):
    assert start(HEAD + AT_THE_END, str(other)) == []
    assert rules_in(other) == ["-A INPUT -j DROP"] * 2 + ["-A OUTPUT -j DROP"]
    assert host.rules() == ["-A INPUT -j DROP"]


INTERRUPTED_OPENING = """
class Interrupt(BaseException):
    pass

def opening(nth):
    "Open a reader, and be interrupted at the nth step; whether there was one."
    steps = 0
    def trace(frame, event, argument):
        nonlocal steps
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps += 1
            if steps == nth:
                raise Interrupt
        return trace
    try:
        sys.settrace(trace)
        reader = iptc.CounterReader(netns=other)
        sys.settrace(None)
        reader.close()
    except Interrupt:
        return True
    finally:
        sys.settrace(None)
    return False

sys.unraisablehook = lambda _: None
opening(0)
before, nth = left(), 1
while opening(nth):
    assert left() == before, (nth, left())
    nth += 1
print(nth > 50)
"""


def test_an_interrupt_while_a_reader_opens_loses_no_descriptor(start, other):
    assert start(HEAD + INTERRUPTED_OPENING, str(other)) == ["True"]


CLOSED = """
reader = iptc.CounterReader(netns=other)
assert len(reader.read()) == 0
for name in os.listdir("/proc/self/fd"):
    if int(name) > 2:
        try:
            os.close(int(name))
        except OSError:
            pass
files = [open("/dev/null") for _ in range(6)] + [__import__("socket").socket() for _ in range(6)]
numbers = left()
for action in (reader.read, reader.close, reader.read):
    try:
        action()
    except iptc.KernelError as error:
        assert error.errno == errno.EBADF
    assert left() == numbers
del reader
gc.collect()
use()
iptc.Table("filter", netns=other).close()
assert [os.fstat(file.fileno()) for file in files] and left() == numbers, left()
print("done")
"""


def test_a_descriptor_that_is_somebody_elses_by_now_is_left_alone(start, other):
    assert start(HEAD + CLOSED, str(other)) == ["done"]


KEPT = """
table, six = iptc.Table("filter"), iptc.Table6("filter")
chain = iptc.Chain(table, "INPUT")
for number in range(3):
    chain.append_rule(rule)
before = left()
sockets = [name for name in before if name.startswith("socket:")]
for number in range(3):
    chain.append_rule(rule)
    chain.delete_rule(rule)
    chain.set_policy("DROP" if number % 2 else "ACCEPT")
    six.refresh()
# one for both families, and the same one
assert left() == before and len(sockets) == 1, (before, left())

# a child has its own, and leaves the parent's alone
child = os.fork()
if not child:
    assert not set(sockets) & set(left())
    chain.append_rule(rule)
    os._exit(0 if not set(sockets) & set(left()) else 1)
assert os.waitpid(child, 0)[1] == 0
chain.append_rule(rule)
assert left() == before

# a program that closes all descriptors and opens files under their numbers
for name in os.listdir("/proc/self/fd"):
    try:
        if int(name) > 2 and os.readlink(f"/proc/self/fd/{name}") in sockets:
            os.close(int(name))
            number = int(name)
    except OSError:
        pass
file = open("/dev/null", "w")
assert file.fileno() == number
chain.append_rule(rule)
assert len([name for name in left() if name.startswith("socket:")]) == 1
assert os.readlink(f"/proc/self/fd/{number}") == "/dev/null"
file.close()

# from many threads at a time
import threading
threads = [threading.Thread(target=lambda: [chain.append_rule(rule) or six.refresh() for _ in range(20)]) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len([name for name in left() if name.startswith("socket:")]) <= 4

table.close()
assert [name for name in left() if name.startswith("socket:")]
six.close()
assert not [name for name in left() if name.startswith("socket:")]
table.refresh()
chain.flush()
print("done")
"""


@pytest.mark.one_backend("nft")
def test_a_socket_is_kept_as_long_as_a_table_is_open(start, other):
    assert start(HEAD + KEPT, str(other)) == ["done"]


@pytest.mark.one_backend("nft")
def test_sockets_of_few_namespaces_are_kept(host, monkeypatch):
    monkeypatch.setattr("iptc.nft.sockets._NAMESPACES_MOST", 2)
    others = [
        subprocess.Popen(["unshare", "-n", "sh", "-c", "echo ready; exec sleep 1000"], stdout=subprocess.PIPE)
        for _ in range(5)
    ]
    try:
        for process in others:
            process.stdout.readline()
        before = len(os.listdir("/proc/self/fd"))
        tables = [iptc.Table("filter", netns=process.pid) for process in others]
        for _ in range(2):
            for table in tables:
                table.ensure_chain("web")
                table.refresh()
        assert len(os.listdir("/proc/self/fd")) - before == 2
        for table in tables:
            table.close()
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        for process in others:
            process.kill()
            process.communicate()
