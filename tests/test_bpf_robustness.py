"""A reader by eBPF returns the right numbers or raises the reason, goes on, and leaves nothing open: with failing calls,
closed descriptors, signals, threads and forks."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import PATIENCE
from faults import library, start  # noqa: F401  (fixtures)
from test_bpf_falling_back import refused, until_it_is_back
from untried import untried

import iptc

pytestmark = [pytest.mark.one_backend("nft", "legacy"), pytest.mark.needs("ebpf")]

STRESS = "IPTC_STRESS" in os.environ

STEPS = """
import time
backend = os.environ["IPTC_BACKEND"]
rules = "".join(f"[{5 + n}:{50 + n}] -A OUTPUT -p udp --dport {n + 1}\\n" for n in range(20))
text = "*filter\\n:OUTPUT ACCEPT [0:0]\\n" + rules + "COMMIT\\n"
subprocess.run([f"iptables-{backend}-restore", "-c"], input=text.encode(), check=True)
numbers = [(5 + n, 50 + n) for n in range(20)]
mangle = iptc.Table("mangle")
chain = iptc.Chain(mangle, "OUTPUT")
rule = iptc.Rule.from_args("-p udp")

def change():
    # another number of the ruleset, of which the table is not a part
    chain.append_rule(rule)
    chain.delete_rule(rule)

def compared(snapshot):
    assert list(snapshot) == numbers, list(snapshot)

def read(source):
    with iptc.CounterReader("filter", source=source, source_check=0.001) as reader:
        compared(reader.read())
        change()
        compared(reader.read())
        compared(reader.read())
    return "done"

def count(action, *arguments):
    return attempt(lambda: action(*arguments), "bpf", 1 << 30, errno.EPERM)[1]

assert read("bpf") == read("auto") == "done"
"""

SWEEP = """
before, kinds, tried = left(), {}, 0
step = int(sys.argv[1])
for source in ("auto", "bpf"):
    calls = count(read, source)
    for number in (errno.EMFILE, errno.ENOMEM, errno.EPERM, errno.EINTR, errno.EAGAIN, errno.EINVAL, errno.EFAULT):
        for for_ever in (False, True):
            for nth in range(tried % step, calls, step):
                got, _ = attempt(lambda: read(source), "bpf", nth, number, for_ever)
                if got != "done":
                    assert source == "bpf" and isinstance(got, iptc.IPTCError), (source, nth, number, for_ever, repr(got))
                    kinds.setdefault(errno.errorcode[number], set()).add(type(got).__name__)
                del got
                gc.collect()
                assert left() == before, (source, nth, number, left())
                tried += 1
assert read("bpf") == read("auto") == "done"
for number, names in kinds.items():
    print(number, *sorted(names))
"""


def test_each_failing_call_of_bpf_is_survived(start):
    raised = {number: set(names) for number, *names in map(str.split, start(STEPS + SWEEP, "1" if STRESS else "43"))}
    assert raised["EMFILE"] <= {"KernelError", "Unsupported"} and raised["ENOMEM"] <= {"OutOfMemory", "Unsupported"}
    for number in ("EPERM", "EINVAL"):
        assert raised[number] == {"Unsupported"}


LATER = """
for number in (errno.EMFILE, errno.ENOMEM, errno.EAGAIN):
    for nth in (0, 3, count(lambda: iptc.CounterReader(source="bpf"))):
        faults.fault_arm(b"bpf", nth, number, True)
        with iptc.CounterReader("filter", source="auto", source_check=0.001) as reader:
            compared(reader.read())
            change()
            compared(reader.read())
            assert reader.source == "socket" and reader.source_reason, (number, nth)
            faults.fault_disarm()
            limit = time.monotonic() + 600
            while reader.source != "bpf" and (number != errno.EAGAIN or "cannot be run" in reader.source_reason):
                compared(reader.read())
                assert time.monotonic() < limit, reader.source_reason
print("done")
"""


def test_auto_returns_to_ebpf_once_resources_are_free_again(start):
    assert start(STEPS + LATER) == ["done"]


ROOM = """
import resource
most = max(int(name) for name in os.listdir("/proc/self/fd"))
before, came_back = left(), 0
for room in range(3, most + 40):
    resource.setrlimit(resource.RLIMIT_NOFILE, (room, 4096))
    got, reader = None, None
    try:
        read("bpf")
    except iptc.IPTCError as error:
        assert error.errno == errno.EMFILE, error
    try:
        reader = iptc.CounterReader("filter", source="auto", source_check=0.001)
        got = list(reader.read())
    except iptc.KernelError as error:
        got = error.errno
    said = reader.source if reader is not None else "none"
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    assert got in (numbers, errno.EMFILE), got
    if said == "socket":
        limit = time.monotonic() + 600
        while reader.source != "bpf":
            compared(reader.read())
            assert time.monotonic() < limit, reader.source_reason
        came_back += 1
    if reader is not None:
        reader.close()
    del reader
    gc.collect()
    assert left() == before, room
assert said == "bpf" and came_back, (said, came_back)
print("done")
"""


def test_every_step_without_a_free_descriptor_is_reported(start):
    assert start(STEPS + ROOM) == ["done"]


def descriptors(kinds="anon_inode:bpf"):
    """{number: what it is} of the descriptors of *kinds* that this process has open: the beginnings of what they are
    linked to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            its = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if its.startswith(kinds):
            found[int(name)] = its
    return found


@pytest.fixture
def numbers(host):
    """A table with counters that are known; another one with others."""
    restore = f"iptables-{host.backend}-restore"
    for table, first in (("filter", 1), ("mangle", 100)):
        rules = "".join(f"[{first + number}:{number}] -A OUTPUT -p udp\n" for number in range(10))
        host.run(restore, "-c", "--noflush", text=f"*{table}\n:OUTPUT ACCEPT [0:0]\n{rules}COMMIT\n")
    return [(1 + number, number) for number in range(10)], [(100 + number, number) for number in range(10)]


@pytest.mark.parametrize("source", ["bpf", "auto"])
def test_a_program_that_closes_descriptors_of_a_reader_gets_right_numbers(host, numbers, source):
    """Each descriptor is closed, and then all of them. Then other files and other readers get these numbers."""
    mine, others = numbers
    at_first = descriptors()
    with iptc.CounterReader(source=source) as reader:
        reader.read()
        count = len(descriptors()) - len(at_first)
    assert count >= 8 and descriptors() == at_first
    for which in [*range(count), None]:
        for reused in (False, True) if which is None else (which % 2 == 0,):
            reader = iptc.CounterReader(source=source, source_check=0.001)
            assert list(reader.read()) == mine
            opened = sorted(set(descriptors()) - set(at_first))
            closed = opened if which is None else [opened[which]]
            for number in closed:
                os.close(number)
            with iptc.CounterReader("mangle", source="bpf") as other:
                if reused:
                    assert list(other.read()) == others
                for _ in range(2):
                    try:
                        assert list(reader.read()) == mine
                    except iptc.Unsupported as error:
                        assert source == "bpf" and "can't read the counters with eBPF" in str(error)
                if source == "auto":
                    assert list(until_it_is_back(reader.read, lambda r=reader: r.source)) == mine
                assert list(reader.read()) == mine and list(other.read()) == others
                reader.close()
                del reader
                # what has the numbers now is left alone
                host.run(f"iptables-{host.backend}", "-t", "mangle", "-Z")
                assert list(other.read()) == [(0, 0)] * 10 and other.source == "bpf"
            host.run(
                f"iptables-{host.backend}-restore",
                "-c",
                "--noflush",
                text="*mangle\n"
                + "".join(f"-R OUTPUT {number + 1} -p udp -c {100 + number} {number}\n" for number in range(10))
                + "COMMIT\n",
            )
            assert descriptors() == at_first


@pytest.mark.parametrize("source", ["socket", "bpf", "auto"])
def test_a_program_that_closes_the_socket_too_is_told_so(host, numbers, source):
    """Without its socket, a reader does not know any more which network namespace it reads."""
    with iptc.CounterReader(source=source) as first:
        first.read()  # whatever is opened once for all readers
        kinds = "anon_inode:bpf", "socket:"
        before = descriptors(kinds)
        with iptc.CounterReader(source=source) as reader:
            assert list(reader.read()) == numbers[0]
            for number in descriptors(kinds).keys() - before.keys():
                os.close(number)
            raised = []
            for _ in range(3):
                with pytest.raises(iptc.IPTCError) as error:
                    reader.read()
                raised.append(error)
            if source == "bpf":
                assert "their descriptors were closed" in str(raised.pop(0).value)
            assert all(error.type is iptc.KernelError and error.match("this reader is closed") for error in raised)
        assert descriptors(kinds) == before and list(first.read()) == numbers[0]


def test_other_files_with_these_numbers_stay_open(host, numbers):
    before = descriptors()
    with iptc.CounterReader(source="auto") as reader:
        reader.read()
        opened = sorted(set(descriptors()) - set(before))
        for number in opened:
            os.close(number)
        # epoll and the objects of bpf(2) share one inode
        event = select.epoll()
        for number in opened:
            os.dup2(event.fileno(), number)
        assert list(reader.read()) == numbers[0]
    del reader
    for number in opened:
        assert os.readlink(f"/proc/self/fd/{number}") == "anon_inode:[eventpoll]"
    for number in {*opened, event.fileno()}:
        os.close(number)


class Interrupted(Exception):
    pass


def test_interrupts_at_any_time_lose_nothing(host, numbers):
    """Each reading is right, or ends with the exception that the signal handler raises."""

    def interrupt(number, frame):
        raise Interrupted

    def work():
        with iptc.CounterReader(source="auto") as reader:
            for _ in range(4):
                assert list(reader.read()) == numbers[0]

    work()
    began = time.monotonic()
    work()
    takes, before = time.monotonic() - began, descriptors()
    old = signal.signal(signal.SIGALRM, interrupt)
    ended, times = 0, 1000 if STRESS else 60
    try:
        for turn in range(times):
            try:
                signal.setitimer(signal.ITIMER_REAL, takes * (turn + 1) / times)
                work()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                ended += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert ended
    work()
    assert descriptors() == before
    with iptc.CounterReader(source="bpf") as reader:
        signal.signal(signal.SIGALRM, interrupt)
        try:
            for turn in range(times):
                host.iptables("-t mangle -Z")
                with contextlib.suppress(Interrupted):
                    signal.setitimer(signal.ITIMER_REAL, takes * (turn + 1) / times / 10)
                    while True:
                        assert list(reader.read()) == numbers[0]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
        assert list(reader.read()) == numbers[0] and reader.source == "bpf"


def test_a_signal_handler_reads_right_numbers_or_is_refused(host, numbers):
    said = set()
    with iptc.CounterReader(source="bpf") as reader:

        def read(number, frame):
            try:
                said.add(list(reader.read()) == numbers[0])
            except iptc.TransactionError:
                said.add("refused")

        old = signal.signal(signal.SIGALRM, read)
        signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
        limit = time.monotonic() + PATIENCE
        try:
            while said != {True, "refused"} and time.monotonic() < limit:
                assert list(reader.read()) == numbers[0]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
    assert said == {True, "refused"}


def test_a_reader_opens_while_signals_arrive_all_the_time(host, numbers):
    """The kernel stops checking a program as soon as a signal arrives."""
    arrived = []
    old = signal.signal(signal.SIGALRM, lambda number, frame: arrived.append(number))
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    try:
        for _ in range(5):
            with iptc.CounterReader(source="bpf") as reader:
                assert list(reader.read()) == numbers[0]
                fds = reader.fds()
                with iptc.CounterReader.from_fds(fds) as other:
                    assert list(other.read()) == numbers[0]
                for fd in fds:
                    os.close(fd)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert arrived


def test_threads_can_read_while_another_thread_closes(host, numbers):
    before = descriptors()
    for _ in range(5):
        reader = iptc.CounterReader(source="bpf")
        wrong, began = [], threading.Barrier(4)

        def keep_reading(reader=reader, wrong=wrong, began=began):
            began.wait()
            try:
                while True:
                    if list(reader.read()) != numbers[0]:
                        wrong.append("numbers")
            except iptc.KernelError as error:
                if not reader.closed:
                    wrong.append(error)
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=keep_reading) for _ in range(3)]
        for thread in threads:
            thread.start()
        began.wait()
        for _ in range(20):
            assert list(reader.read()) == numbers[0]
        reader.close()
        for thread in threads:
            thread.join()
        assert wrong == [] and reader.closed
        with pytest.raises(iptc.KernelError, match="closed"):
            reader.read()
        assert descriptors() == before


def test_a_closed_reader_raises(host, numbers):
    reader = iptc.CounterReader(source="bpf")
    snapshot = reader.read()
    reader.close()
    reader.close()
    with pytest.raises(iptc.KernelError, match="closed"):
        reader.read()
    assert list(snapshot) == numbers[0] and reader.source == "bpf"


@pytest.mark.parametrize(
    ("rights", "reason"),
    [
        (["bpf"], "this process has no CAP_PERFMON"),
        (["perfmon"], "this process has no CAP_BPF"),
        ([], "this process has no CAP_BPF and no CAP_PERFMON"),
        (["bpf", "perfmon"], ""),
    ],
)
def test_auto_without_capabilities_reads_by_socket(host, numbers, rights, reason):
    named = ",".join(["-all", *(f"+{name}" for name in [*rights, "net_admin", "net_raw"])])
    first, second = refused("setpriv", "--inh-caps=-all", f"--bounding-set={named}")
    if reason:
        assert first.startswith("can't read the counters with eBPF: can't ") and first.endswith(": " + reason)
        assert second.startswith(f"{numbers[0]} socket ") and second.endswith(": " + reason)
    else:
        assert (first, second) == ("works", f"{numbers[0]} bpf ")


def test_auto_without_btf_reads_by_socket(host, numbers):
    hidden = 'mount --make-rprivate / && mount -t tmpfs none /sys/kernel/btf && exec "$@"'
    if subprocess.run(["unshare", "-m", "sh", "-c", hidden, "sh", "true"], capture_output=True).returncode:
        untried("nothing can be mounted here, so BTF cannot be hidden")
        return
    first, second = refused("unshare", "-m", "sh", "-c", hidden, "sh")
    assert first == "can't read the counters with eBPF: the kernel has no BTF: there is no /sys/kernel/btf/vmlinux"
    assert second == f"{numbers[0]} socket the kernel has no BTF: there is no /sys/kernel/btf/vmlinux"


ANOTHER_INTERPRETER = """
import os
try:
    import _interpreters as interpreters
    run = interpreters.exec
except ImportError:
    import _xxsubinterpreters as interpreters
    run = interpreters.run_string
import iptc

code = '''
import os
try:
    import iptc
    said = f"read {iptc.CounterReader(source='bpf').read()}"
except ImportError as error:
    said = f"refused: {error}"
os.write(OUTPUT, said.encode())
'''
with iptc.CounterReader(source="bpf") as reader:
    before = list(reader.read())
    for _ in range(3):
        ours, theirs = os.pipe()
        interpreter = interpreters.create()
        run(interpreter, code.replace("OUTPUT", str(theirs)))
        os.close(theirs)
        print(os.read(ours, 1000).decode().partition(":")[0])
        os.close(ours)
        interpreters.destroy(interpreter)
        assert list(reader.read()) == before and reader.source == "bpf"
"""


def test_another_interpreter_of_the_process_is_refused(host, numbers):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", ANOTHER_INTERPRETER], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "refused\n" * 3), done.stderr


CLOSED_BY_A_FINALIZER = """
import gc, socket, iptc

class Closing:
    def __init__(self, reader):
        self.reader, self.itself = reader, self

    def __del__(self):
        self.reader.close()
        closed.append(self)

gc.disable()
sender = socket.socket(type=socket.SOCK_DGRAM)
held, closed = [], []
for turn in range(40):
    reader = iptc.CounterReader(source="bpf", source_check=0)
    for _ in range(2):
        reader.read()
    # new objects come from the allocator then, and not from the free ones that the interpreter keeps
    held.append(([[] for _ in range(300)], [(number, turn) for number in range(4000)]))
    Closing(reader)
    sender.sendto(b"x", ("127.0.0.1", 9))
    gc.set_threshold(gc.get_count()[0] + turn % 20, 1, 1)
    gc.enable()
    try:
        reader.read()
    except iptc.KernelError as error:
        assert "closed" in str(error)
    gc.disable()
    reader.close()
gc.collect()
print(len(closed))
"""


def test_a_finalizer_may_close_the_reader_that_is_reading(host, numbers, traffic):
    """The garbage collector may run when a reading makes its objects."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-X", "faulthandler", "-c", CLOSED_BY_A_FINALIZER]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "40\n"), done.stderr[-2000:]
