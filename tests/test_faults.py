"""Each kernel call fails, once or always, with each errno it may return. The exception is a documented one, nothing is
changed, and nothing is left open.

`faults.c` is preloaded into a process of its own. Calls that do not fail go to the real kernel.
"""

import pytest
from faults import library, start  # noqa: F401  (fixtures)

HEAD = """
family = sys.argv[1]
Table, Rule = (iptc.Table6, iptc.Rule6) if family == "6" else (iptc.Table, iptc.Rule)

def saved():
    names = [name + "-legacy-save" for name in ("iptables", "ip6tables")]
    return [line for name in names for line in subprocess.check_output([name, "-c"], text=True).splitlines() if line[0] != "#"]

rule = Rule.from_args("-p tcp -m tcp --dport 22 -j ACCEPT")
table, other = Table("filter", wait=0.01), Table("mangle", wait=0.01)
named = Table("filter", netns=os.getpid(), wait=0.01)
iptc.Chain(table, "INPUT").append_rule(rule)
iptc.Chain(table, "INPUT").set_policy("ACCEPT", (5, 50))
ERRORS = [errno.ENOMEM, errno.EPERM, errno.EINTR, errno.EAGAIN, errno.ENOBUFS, errno.EINVAL, errno.ENOENT]
"""


@pytest.fixture
def run(start, ipv6):
    """Run a program after HEAD, for one family."""
    return lambda program: start(HEAD + program, "6" if ipv6 else "4")


WRITES = """
def edit():
    iptc.Chain(table, "INPUT").insert_rule(rule)

def transaction():
    with iptc.transaction(table, other):
        iptc.Chain(table, "INPUT").flush()
        table.create_chain("web").append_rule(rule)
        iptc.Chain(other, "INPUT").append_rule(rule)

def in_namespace():
    iptc.Chain(named, "INPUT").insert_rule(rule)

def undo(action):
    iptc.Chain(table, "INPUT").flush(), iptc.Chain(other, "INPUT").flush()
    if table.clear_chain("web") or table.is_chain("web"):
        table.delete_chain("web")
    iptc.Chain(table, "INPUT").append_rule(rule)

before, files = saved(), left()
raised, passed = {}, 0
for action in (edit, transaction, in_namespace):
    for name in ("socket", "info", "entries", "replace", "flock", "open lock", "setns", "open namespace"):
        for number in ERRORS:
            # what asks for a lock is told EAGAIN where somebody has it; Python itself opens again after EINTR
            nth = 0
            while True:
                got, calls = attempt(action, name, nth, number)
                if nth >= calls:
                    assert got is None, (action, name, nth, got)
                    undo(action)
                    break
                if got is None:
                    # it was tried again, and done; a lock file that is not there is made
                    again = ("entries", "replace", "flock", "open lock", "open namespace")
                    assert number in (errno.EAGAIN, errno.EINTR) and name in again or (name, number) == ("open lock", errno.ENOENT)
                    undo(action)
                    passed += 1
                else:
                    assert isinstance(got, iptc.IPTCError), (action, name, number, got)
                    assert isinstance(got, iptc.LockTimeout) or got.errno == number, (action, name, number, got)
                    raised[type(got).__name__] = raised.get(type(got).__name__, 0) + 1
                assert saved() == before, (action, name, nth, number, got, saved(), before)
                assert left() == files, (action, name, number, left())
                nth += 1
print(*sorted(raised))
print(sum(raised.values()) > 150, passed > 10)
"""


def test_each_call_of_a_write_fails_once(run):
    assert run(WRITES) == ["AccessDenied Conflict KernelError NotFound OutOfMemory", "True True"]


COUNTERS = """
# the table is the new one when its counters cannot be added: what passes is tried again, what does not is undone
before, files = saved(), left()
def transaction():
    with iptc.transaction(table, other):
        iptc.Chain(other, "INPUT").append_rule(rule)
        iptc.Chain(table, "INPUT").append_rule(rule)

for number in ERRORS:
    got, calls = attempt(transaction, "add", 0, number)
    assert got is None and calls == 3, (got, calls)
    iptc.Chain(other, "INPUT").flush(), iptc.Chain(table, "INPUT").delete_rule_at(1)
    assert saved() == before
    for nth in (0, 1):
        got, calls = attempt(transaction, "add", nth, number, True)
        assert isinstance(got, iptc.PartialCommit if nth == 0 else iptc.IPTCError), got
        # the rules are as they were, whatever became of the counters
        strip = lambda lines: [line.partition("[")[0] + line.partition("]")[2] for line in lines]
        assert strip(saved()) == strip(before), saved()
        assert left() == files
        iptc.Chain(table, "INPUT").set_policy("ACCEPT", (5, 50))
        assert saved() == before, (saved(), before)
print("kept")
"""


def test_counters_that_cannot_be_put_back(run):
    assert run(COUNTERS) == ["kept"]


PARTIAL = """
# the second table is refused, and so is putting the first one back: the exception says what was changed
def transaction():
    with iptc.transaction(table, other):
        iptc.Chain(table, "INPUT").append_rule(rule)
        iptc.Chain(other, "INPUT").append_rule(rule)

got, calls = attempt(transaction, "replace", 1, errno.ENOBUFS, True)
assert type(got) is iptc.PartialCommit and isinstance(got.__cause__, iptc.KernelError), got
print(got)
print(got.committed, len(iptc.Chain(table, "INPUT").rules), len(iptc.Chain(other, "INPUT").rules))
"""


def test_what_cannot_be_put_back_is_named(run, ipv6):
    first = f"IPv{6 if ipv6 else 4} table filter"
    reason = "No buffer space available"
    assert run(PARTIAL) == [
        f"can't commit: {reason}; committed, and not put back: {first} (can't put table filter back: {reason})",
        f"['{first}'] 2 0",
    ]


FOR_EVER = """
# nothing is tried for ever
before, files = saved(), left()
def edit():
    iptc.Chain(named, "INPUT").append_rule(rule)

for name in ("socket", "info", "entries", "replace", "flock", "setns"):
    for number in ERRORS:
        if (name, number) == ("flock", errno.EINTR):
            continue
        got, calls = attempt(edit, name, 0, number, True)
        assert isinstance(got, iptc.IPTCError) and 0 < calls < 2000, (name, number, got, calls)
        assert saved() == before and left() == files
        if number == errno.EAGAIN:
            print(name, type(got).__name__, calls)
"""


def test_calls_that_always_fail(run):
    assert run(FOR_EVER)[1:4] == ["info Conflict 1", "entries Conflict 64", "replace Conflict 16"]


READS = """
before, files = saved(), left()
reader = iptc.CounterReader("filter", family == "6")
for action in (table.refresh, lambda: named.refresh(), reader.read, lambda: Table("raw", netns=os.getpid()).close(),
               lambda: iptc.CounterReader("filter", family == "6", netns=os.getpid(), lock=0.01).close()):
    for name in ("socket", "cookie", "info", "entries", "setns", "open namespace"):
        for number in ERRORS:
            nth = 0
            while True:
                files = left()
                got, calls = attempt(action, name, nth, number)
                if nth >= calls:
                    assert not isinstance(got, Exception), got
                    break
                assert not isinstance(got, Exception) or isinstance(got, iptc.IPTCError), (name, number, got)
                assert left() == files and calls < 100, (name, number, files, left())
                nth += 1
print("done")
"""


def test_each_call_of_a_read_fails_once(run):
    assert run(READS) == ["done"]


MEMORY = """
def transaction():
    with iptc.transaction(table, other):
        iptc.Chain(other, "INPUT").append_rule(rule)
        iptc.Chain(table, "INPUT").append_rule(rule)

def rounds(count):
    for _ in range(count):
        for name, nth in (("socket", 0), ("socket", 3), ("info", 1), ("entries", 1), ("replace", 0), ("replace", 1), ("flock", 0), ("open lock", 0)):
            got, _ = attempt(transaction, name, nth, errno.ENOMEM)
            assert isinstance(got, iptc.IPTCError), (name, nth, got)

for number in range(300):
    iptc.Chain(table, "OUTPUT").append_rule(rule) if number % 100 == 0 else None
rounds(100)
grown = residence.growth(lambda: (rounds(600), gc.collect()), 2**20)
print(grown < 2**20, grown)
"""


def test_failures_leave_no_memory_behind(run):
    assert run(MEMORY)[0].startswith("True")


OLD = """
# before Linux 5.14 there is no cookie: the number of the namespace's file stands for it
import threading
faults.fault_arm(b"cookie", 0, errno.ENOPROTOOPT, True)
Table._cache.clear()
fresh = Table("filter")
fresh.create_chain("web")
assert Table("filter") is fresh and fresh._state.place.cookie == os.stat("/proc/self/ns/net").st_ino
named = Table("filter", netns=os.getpid())
assert named is not fresh and named.is_chain("web")
libc = ctypes.CDLL(None)
def elsewhere():
    assert libc.unshare(0x40000000) == 0
    assert Table("filter") is not fresh and not Table("filter").is_chain("web")
    try:
        fresh.refresh()
    except iptc.KernelError as error:
        print(error.errno == errno.ESTALE)
thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
"""


def test_a_kernel_that_has_no_cookies(run):
    assert run(OLD) == ["True"]


LACKING = """
import re
def tables():
    return re.findall(r"^\\*(\\w+)$", iptc.save(family == "6", all_tables=True), re.MULTILINE)

everything = tables()
# the first calls are of the two tables that are in use
for number in (errno.ENOENT, errno.EPERM):
    found = [attempt(tables, "info", nth, number)[0] for nth in range(2, len(everything))]
    print(*(" ".join(sorted({*everything} - {*names})) for names in found), sep=",")
print(len(everything), sorted(line[1:] for line in saved() if line[0] == "*"))
"""


def test_all_tables_are_those_that_the_kernel_has(run):
    lacking, unknown, rest = run(LACKING)
    assert sorted(lacking.split(",")) == ["nat", "raw", "security"]
    assert set(unknown.split(",")) == {""}
    # looking for the other tables creates none
    assert rest == "5 ['filter', 'mangle']"


NO_WAY_BACK = """
from iptc import _netns
there = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
there.stdout.readline()
netns = _netns.Namespace(f"/proc/{there.pid}/ns/net".encode())
actions = {
    "reader": lambda: iptc.CounterReader("filter", family == "6", netns=there.pid),
    "table": lambda: iptc.Chain(Table("filter", netns=there.pid), "INPUT").append_rule(rule),
    "socket": lambda: netns.open_socket(2, 2, 0),
    "open": lambda: netns.open_file(b"/proc/self/stat", os.O_RDONLY),
    "read": lambda: netns.read_file(b"/proc/self/stat"),
    "new": _netns.new_namespace,
}
here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
libc, files = ctypes.CDLL(None), left()
faults.fault_threads(1)
for name, action in actions.items():
    # without a thread of its own, this one enters its own namespace, the other one, and its own again
    got, calls = attempt(action, "setns", 1 if name == "new" else 2, errno.ENOMEM, True)
    assert libc.setns(here, 0x40000000) == 0
    print(name, type(got).__name__, got, calls > 3)
    assert left() == files, (name, left())
faults.fault_threads(0)
there.communicate()
"""


def test_a_thread_that_cannot_come_back_to_its_namespace_is_told(run):
    told = [line.split(" ", 1) for line in run(NO_WAY_BACK)]
    assert [name for name, _ in told] == ["reader", "table", "socket", "open", "read", "new"]
    assert {said for _, said in told} == {"KernelError this thread can't come back to its network namespace True"}


TRIED = """
ERRORS = {errno.EMFILE: "Too many open files", errno.ENOMEM: "Cannot allocate memory"}
text = "*filter\\n-A INPUT -j MASQUERADE\\nCOMMIT\\n"
print(attempt(lambda: iptc.check(text, family == "6"), "no call", 0, 0)[0])
for name in ("open namespace", "setns", "socket", "info"):
    for number, words in ERRORS.items():
        nth = calls = 0
        while calls >= nth:
            got, calls = attempt(lambda: iptc.check(text, family == "6"), name, nth, number)
            if "Invalid argument" not in str(got) and words not in str(got):
                print(name, nth, repr(got))
            nth += 1
"""


def test_a_trial_that_cannot_be_made_is_not_one_that_went_well(run):
    refused, *odd = run(TRIED)
    assert "Invalid argument" in refused and not odd, odd
