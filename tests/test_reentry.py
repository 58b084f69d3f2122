"""Calls from within a call: from the handler of a signal, or from the function that delete_rules was given. They work
or raise, and end."""

import fcntl
import os

import pytest
from faults import library, start  # noqa: F401

import iptc

HEAD = """
import signal, time
rule, other_rule = iptc.Rule.from_args("-j DROP"), iptc.Rule.from_args("-p tcp -j DROP")
table = iptc.Table("filter")
chain = iptc.Chain(table, "INPUT")
TEXT = "*filter\\n:INPUT ACCEPT [0:0]\\n-A INPUT -j DROP\\nCOMMIT\\n"
reader, locked = iptc.CounterReader(), iptc.CounterReader(lock=True)

def from_within():
    "What is called from within another call of this thread: how each of them ended."
    for action in (reader.read, locked.read, lambda: iptc.restore(TEXT), lambda: iptc.restore(TEXT, test=True), lambda: table.restore(TEXT),
                   lambda: table.restore(TEXT, test=True), lambda: chain.append_rule(other_rule), table.refresh, lambda: chain.rules,
                   table.save, iptc.save, lambda: iptc.CounterReader(lock=True).read(), lambda: iptc.Table("filter", wait=None).flush(),
                   lambda: iptc.Table("mangle").refresh(), lambda: iptc.easy.add_rule("filter", "FORWARD", {"target": "DROP"}), lambda: reader.since):
        try:
            action()
            outcomes.append(True)
        except (iptc.IPTCError, AttributeError) as error:
            outcomes.append(error)

outcomes = []
"""

HANDLER = """
calls = {"legacy": ("socket", "info", "entries", "replace", "add", "flock", "open lock", "unlock"), "nft": ("socket", "send", "recv", "sendmsg")}

def transaction():
    with iptc.transaction(table, iptc.Table6("filter")):
        chain.append_rule(rule)

handled = 0

def handler(number, frame):
    global handled
    handled += 1
    from_within()

signal.signal(signal.SIGUSR1, handler)
for action in (reader.read, locked.read, lambda: chain.append_rule(rule), transaction, lambda: iptc.restore(TEXT), table.refresh,
               lambda: chain.delete_rules(lambda _: True)):
    for name in calls[iptc.backend()]:
        for nth in (0, 1):
            got, _ = attempt(action, name, nth, -signal.SIGUSR1)
            assert not isinstance(got, Exception) or isinstance(got, iptc.IPTCError), got
            # nothing is held, and all of it works
            iptc.restore(TEXT)
            assert len(reader.read()) == len(locked.read()) == 1
assert handled > 20
print({type(outcome).__name__ for outcome in outcomes} <= {"bool", "TransactionError", "AttributeError"}, True in outcomes)
"""


def test_from_the_handler_of_a_signal_at_each_call_of_the_kernel(start):
    assert start(HEAD + HANDLER) == ["True True"]


FUNCTION = """
iptc.restore(TEXT)
assert chain.delete_rules(lambda _: from_within() or True) == 1
# what changes something is refused, on both back ends
refused = [type(outcome).__name__ for outcome in outcomes if outcome is not True]
print(refused.count("TransactionError") >= 7, chain.rules)
"""


def test_from_the_function_that_delete_rules_was_given(start):
    assert start(HEAD + FUNCTION) == ["True []"]


END = """
def end(number, frame):
    reader.close()
    sys.exit(7)

signal.signal(signal.SIGTERM, end)
name, nth = sys.argv[1], int(sys.argv[2])
try:
    attempt(reader.read, name, nth, -signal.SIGTERM)
except SystemExit as ended:
    # from within the call: the reader is closed, and says so
    try:
        reader.read()
    except iptc.KernelError as error:
        print(ended.code, error.errno == errno.EBADF)
"""


def test_the_handler_that_closes_the_reader_ends_the_program(start, backend):
    for name in ("info", "entries") if backend == "legacy" else ("send", "recv"):
        assert start(HEAD + END, name, "0") == ["7 True"]


INSIDE = """
# in the midst of a read, where memory is asked for: a finalizer that the collector of garbage runs
class Loop:
    def __init__(self):
        self.me = self

    def __del__(self):
        if work and not done:
            done.append(True)
            try:
                work.pop()()
            except iptc.TransactionError:
                pass            # the collector may run while the reader is being read

iptc.restore("*filter\\n" + "".join(f":c{n} - [0:0]\\n" for n in range(300)) + "COMMIT\\n")
work, done, closed = [], [], 0
gc.set_threshold(1)
for turn in range(300):
    reader = iptc.CounterReader()
    done.clear()
    work[:] = [reader.close if turn % 2 else reader.read]
    loops = [Loop() for _ in range(3)]
    del loops
    try:
        reader.read()
    except iptc.IPTCError as error:
        closed += 1
    reader.close()
print("done")
"""


def test_from_a_finalizer_that_runs_inside_a_read(start):
    assert start(HEAD + INSIDE) == ["done"]


def test_a_lock_file_that_is_a_fifo_is_waited_for_as_long_as_asked(host, family, tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    table = family.Table("filter", wait=0.01, lock_file=path)
    table.create_chain("web")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    if host.backend == "legacy":
        with pytest.raises(iptc.LockTimeout):
            table.create_chain("www")
    os.close(descriptor)
    table.wait, table.lock_file = None, None
