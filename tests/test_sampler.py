"""iptc.Sampler: it polls on time whatever the consumer does, its sums are exact, and it always ends cleanly."""

import asyncio
import errno
import gc
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading

import pytest
from conftest import PATIENCE
from test_structure import ROOT

import iptc
from iptc.monitoring import events, sampler, sources
from iptc.monitoring.clock import Clock

SECOND = 1_000_000_000


class Steps(Clock):
    """A clock that the test moves: each `step` lets the thread poll once, `late` seconds after the moment is due."""

    def __init__(self):
        self.time = 0
        self.asked = []
        self._steps = queue.Queue()
        self._polled = threading.Semaphore(0)

    def now(self):
        return self.time

    def wait(self, bell, due):
        self.asked.append(due)
        self._polled.release()
        while not bell.acquire(timeout=0.005):
            try:
                self.time = due + self._steps.get_nowait()
            except queue.Empty:
                continue
            return False
        return True

    def started(self):
        """Wait until the thread waits for the first time."""
        self._polled.acquire()

    def step(self, late=0):
        """Have the thread poll, and wait until it waits again."""
        self._steps.put(round(late * SECOND))
        self._polled.acquire()


@pytest.fixture
def clock(monkeypatch):
    made = Steps()
    monkeypatch.setattr(sampler.Sampler, "_clock", made)
    return made


@pytest.fixture
def host(host):
    host.run("ip", "link", "set", "lo", "up")
    return host


def send(count, port=9, address="127.0.0.1"):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(b"x" * 72, (address, port))


def settled(run):
    """Wait until the thread of *run* has ended. It has closed its readers then."""
    assert run._mail.done.acquire(timeout=PATIENCE)


def names(sample):
    return [str(event) for event in sample.events]


# ----------------------------------------------------------------- rates


def test_the_first_sample_comes_after_one_interval(host, clock, family):
    host.iptables("-A OUTPUT -p udp --dport 9", ipv6=family.ipv6)
    run = iter(iptc.Sampler(0.5, ["filter"]))
    clock.started()
    assert clock.asked == [SECOND // 2] and run._mail.box == []
    send(3, address="::1" if family.ipv6 else "127.0.0.1")
    clock.step()
    sample = next(run)
    table = sample["filter", family.ipv6]
    assert (table.table, table.ipv6, len(table)) == ("filter", family.ipv6, 1)
    assert list(table.delta) == [(3, 3 * (120 if family.ipv6 else 100))]
    assert sample.polls == 1 and sample.errors == () and sample.seconds > 0 and sample.time[0] > 0
    ((rule, packets, size),) = table
    assert rule.chain == "OUTPUT" and packets == 3 / table.delta.seconds and round(size / packets) in (100, 120)
    clock.step()
    assert list(next(run)["filter", family.ipv6].delta) == [(0, 0)]
    run.close()


def test_without_names_the_tables_in_use_are_taken(host, clock):
    host.iptables("-t mangle -A INPUT -p tcp")
    run = iter(iptc.Sampler())
    clock.started()
    clock.step()
    sample = next(run)
    assert [(table.table, table.ipv6) for table in sample] == [("mangle", False)] and sample.events == ()
    host.iptables("-t raw -A OUTPUT -p tcp", ipv6=True)
    clock.step()
    sample = next(run)
    assert [(table.table, table.ipv6) for table in sample] == [("mangle", False), ("raw", True)]
    assert names(sample) == ["IPv6 table raw back"] and list(sample["raw", True].delta) == [(0, 0)]
    with pytest.raises(KeyError):
        sample["filter"]
    run.close()


def test_one_family_and_one_namespace(host, clock):
    for ipv6 in (False, True):
        host.iptables("-A INPUT -p tcp", ipv6=ipv6)
    place = f"/proc/{os.getpid()}/ns/net"
    run = iter(iptc.Sampler(1, netns=place, ipv6=True, backend=host.backend))
    clock.started()
    clock.step()
    assert [(table.table, table.ipv6) for table in next(run)] == [("filter", True)]
    run.close()


# ---------------------------------------------------------------- events


def test_every_event_of_rules(host, clock, family):
    six = family.ipv6
    for port in (1, 2, 3, 4):
        host.iptables(f"-A INPUT -p tcp --dport {port}", ipv6=six)
    host.iptables("-A OUTPUT -p udp --dport 9", ipv6=six)
    send(2, address="::1" if six else "127.0.0.1")
    run = iter(iptc.Sampler(1, ["filter"], ipv6=six))
    clock.started()
    host.iptables("-D INPUT -p tcp --dport 2", ipv6=six)
    host.iptables("-D INPUT -p tcp --dport 4", ipv6=six)
    host.iptables("-I INPUT -p tcp --dport 4", ipv6=six)
    host.iptables("-I INPUT 2 -p tcp --dport 5", ipv6=six)
    host.iptables("-Z OUTPUT", ipv6=six)
    clock.step()
    sample = next(run)
    v, m = ("IPv6" if six else "IPv4"), "-p tcp -m tcp --dport"
    assert names(sample) == [
        f"{v} filter INPUT disappeared: {m} 2",
        f"{v} filter INPUT moved: {m} 4",
        f"{v} filter INPUT appeared: {m} 5",
        f"{v} filter OUTPUT reset: -p udp -m udp --dport 9",
    ]
    gone, moved, new, reset = sample.events
    assert (gone.kind, gone.position, gone.before) == (iptc.Event.DISAPPEARED, None, 1)
    assert (moved.kind, moved.position, moved.before) == (iptc.Event.MOVED, 0, 3)
    assert (new.kind, new.position, new.before) == (iptc.Event.APPEARED, 1, None)
    assert (reset.kind, reset.position, reset.table, reset.chain) == (iptc.Event.RESET, 0, "filter", "OUTPUT")
    assert sample.events is sample.events
    clock.step()
    assert next(run).events == ()
    run.close()


def test_rules_that_stay_did_not_move():
    assert events._longest_rising([]) == set()
    assert events._longest_rising([3, 0, 1, 2]) == {0, 1, 2}
    assert events._longest_rising([0, 5, 1, 2, 9, 8]) in ({0, 1, 2, 9}, {0, 1, 2, 8})
    assert len(events._longest_rising(list(range(1000))[::-1])) == 1


@pytest.mark.one_backend("nft")
def test_a_table_that_goes_and_comes_back(host, clock):
    host.iptables("-A OUTPUT -p udp --dport 9")
    run = iter(iptc.Sampler(1, ["filter", "nat"]))
    clock.started()
    host.run("nft", "delete", "table", "ip", "filter")
    clock.step()
    sample = next(run)
    assert names(sample) == ["IPv4 table filter gone"] and sample.tables == () and sample.errors == ()
    clock.step()
    assert next(run).events == ()
    host.iptables("-A OUTPUT -p udp --dport 9")
    send(1)
    clock.step()
    sample = next(run)
    assert names(sample) == ["IPv4 table filter back"] and list(sample["filter"].delta) == [(0, 0)]
    send(2)
    clock.step()
    assert list(next(run)["filter"].delta) == [(2, 200)]
    # everything happens between two samples that the consumer takes
    host.run("nft", "delete", "table", "ip", "filter")
    clock.step()
    host.iptables("-A OUTPUT -p udp --dport 9")
    clock.step()
    send(5)
    clock.step()
    sample = next(run)
    assert sample.polls == 3 and names(sample) == ["IPv4 table filter gone", "IPv4 table filter back"]
    assert list(sample["filter"].delta) == [(5, 500)]
    run.close()


@pytest.mark.one_backend("nft")
def test_a_namespace_that_is_made_anew(host, clock):
    name = f"iptc-sampler-{os.getpid()}"
    there = ["ip", "netns", "exec", name]
    host.run("ip", "netns", "add", name)
    try:
        host.run(*there, "iptables-nft", "-A", "INPUT")
        run = iter(iptc.Sampler(1, netns=name))
        clock.started()
        host.run("ip", "netns", "delete", name)
        clock.step()
        assert names(next(run)) == ["IPv4 table filter gone"]
        host.run("ip", "netns", "add", name)
        host.run(*there, "iptables-nft", "-A", "INPUT")
        clock.step()
        assert names(next(run)) == ["IPv4 table filter back"]
        host.run("ip", "netns", "delete", name)
        host.run("ip", "netns", "add", name)
        host.run(*there, "iptables-nft", "-A", "INPUT")
        clock.step()
        assert names(next(run)) == ["IPv4 table filter gone", "IPv4 table filter back"]
        run.close()
    finally:
        host.run("ip", "netns", "delete", name)


# ------------------------------------------------------- slow consumers, time


def test_a_slow_consumer_delays_nothing_and_loses_nothing(host, clock):
    host.iptables("-A OUTPUT -p udp --dport 9")
    host.iptables("-A OUTPUT -p udp --dport 10")
    run = iter(iptc.Sampler(0.25, ["filter"], ipv6=False))
    clock.started()
    sent = 0
    for number in range(40):
        send(number % 3)
        sent += number % 3
        if number == 20:
            host.iptables("-I OUTPUT -p tcp")
        clock.step()
        assert len(run._mail.box) == 1
    assert clock.asked == [SECOND // 4 * (number + 1) for number in range(41)]
    sample = next(run)
    assert sample.polls == 40 and list(sample["filter"].delta) == [(0, 0), (sent, 100 * sent), (0, 0)]
    assert names(sample) == ["IPv4 filter OUTPUT appeared: -p tcp"]
    assert list(sample["filter"].delta.flags) == [iptc.Delta.NEW, 0, 0]
    assert sample["filter"].delta.seconds == pytest.approx(sample.seconds, abs=0.5)
    assert run._mail.box == []
    run.close()


def test_a_reset_between_two_samples_loses_nothing(host, clock):
    host.iptables("-A OUTPUT -p udp --dport 9")
    run = iter(iptc.Sampler(1, ["filter"], ipv6=False))
    clock.started()
    send(5)
    clock.step()
    host.iptables("-Z OUTPUT")
    send(3)
    clock.step()
    send(4)
    clock.step()
    sample = next(run)
    assert list(sample["filter"].delta) == [(12, 1200)] and sample["filter"].delta.resets == [0]
    assert names(sample) == ["IPv4 filter OUTPUT reset: -p udp -m udp --dport 9"]
    run.close()


def test_what_comes_and_goes_unseen_is_not_kept(host, clock):
    host.iptables("-A INPUT -p tcp")
    run = iter(iptc.Sampler(1, ["filter"], ipv6=False))
    clock.started()
    for number in range(20):
        host.iptables(f"-A INPUT -p udp --dport {number + 1}")
        clock.step()
        host.iptables(f"-D INPUT -p udp --dport {number + 1}")
        clock.step()
    assert next(run).events == ()
    run.close()


def test_late_polls_are_not_made_up_for(host, clock):
    run = iter(iptc.Sampler(1, ["filter"]))
    clock.started()
    for late in (0, 0.9, 2.5, 0):
        clock.step(late)
    assert clock.asked == [SECOND * number for number in (1, 2, 3, 6, 7)]
    run.close()


def test_samples_by_the_real_clock_cover_the_whole_time(host):
    host.iptables("-A INPUT -p tcp")
    run = iter(iptc.Sampler(0.001, ["filter"], ipv6=False))
    taken = [next(run) for _ in range(20)]
    assert sum(sample.polls for sample in taken) >= 20
    seconds = taken[-1].time[0] - taken[0].time[0]
    assert sum(sample.seconds for sample in taken[1:]) == pytest.approx(seconds, abs=1e-6)
    run.close()
    settled(run)


# ------------------------------------------------------------- errors


def test_arguments_that_make_no_sense(host):
    for wrong in (0, -1, float("nan"), float("inf"), True, "1", None):
        with pytest.raises(iptc.ParameterError):
            iptc.Sampler(wrong)
    with pytest.raises(iptc.ParameterTypeError):
        iptc.Sampler(1, "filter")
    with pytest.raises(iptc.NotFound):
        iter(iptc.Sampler(1, ["nosuch"]))
    with pytest.raises(iptc.NotFound):
        iter(iptc.Sampler(1, netns="iptc-nosuch"))
    with pytest.raises(iptc.Unsupported):
        iter(iptc.Sampler(1, backend="ipfw"))


@pytest.mark.one_backend("nft")
def test_without_the_right_to_read(host):
    code = "import iptc\ntry:\n    next(iptc.Sampler(0.01))\nexcept iptc.AccessDenied: print('denied')"
    command = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout == "denied\n"


def test_a_read_that_fails_is_told_and_made_up_for(host, clock, monkeypatch, caplog):
    host.iptables("-A OUTPUT -p udp --dport 9")
    run = iter(iptc.Sampler(1, ["filter"], ipv6=False))
    clock.started()
    read = iptc.CounterReader.read

    def fail(reader):
        raise iptc.KernelError("no room", errno.ENOBUFS, "no room")

    monkeypatch.setattr(iptc.CounterReader, "read", fail)
    send(2)
    clock.step()
    sample = next(run)
    assert [str(error) for error in sample.errors] == ["no room"] and sample.tables == () and sample.events == ()
    assert "sampler: a table could not be read: no room" in caplog.text
    monkeypatch.setattr(iptc.CounterReader, "read", read)
    clock.step()
    sample = next(run)
    assert sample.errors == () and list(sample["filter"].delta) == [(2, 200)] and sample.events == ()
    run.close()


def test_what_ends_the_thread_is_raised(host, clock, monkeypatch):
    run = iter(iptc.Sampler(1, ["filter"]))
    clock.started()

    def fail(self):
        raise MemoryError

    monkeypatch.setattr(sources.Sources, "poll", fail)
    clock._steps.put(0)
    with pytest.raises(MemoryError):
        next(run)
    assert list(run) == []


# ----------------------------------------------------------------- the end


def test_a_loop_that_is_left_ends_its_thread(host, clock):
    runs = []
    start = sampler.Samples.__init__

    def watched(self, *arguments):
        start(self, *arguments)
        runs.append(self._mail)

    sampler.Samples.__init__ = watched
    try:
        made = iptc.Sampler(1, ["filter"])
        clock._steps.put(0)
        for sample in made:
            break
    finally:
        sampler.Samples.__init__ = start
    (mail,) = runs
    assert mail.done.acquire(timeout=PATIENCE)
    del sample
    gc.collect()
    assert made._own is None and not list(made._runs)


def test_close_ends_every_run(host, clock):
    with iptc.Sampler(1, ["filter"]) as made:
        clock._steps.put(0)
        assert next(made).polls == 1
        run = iter(made)
        own = made._own
    assert list(run) == [] and list(own) == []
    settled(run)
    settled(own)
    run.close()
    # another beginning
    clock._steps.put(0)
    assert next(made).polls == 1
    made.close()


def test_several_consumers_of_one_run(host, clock):
    run = iter(iptc.Sampler(1, ["filter"]))
    clock.started()
    taken = []
    consumers = [threading.Thread(target=lambda: taken.extend(run)) for _ in range(3)]
    for consumer in consumers:
        consumer.start()
    for _ in range(10):
        clock.step()
    run.close()
    for consumer in consumers:
        consumer.join(60)
        assert not consumer.is_alive()
    assert sum(sample.polls for sample in taken) + sum(sample.polls for sample in run._mail.box) == 10


def test_async_for(host, clock):
    host.iptables("-A OUTPUT -p udp --dport 9")

    async def main():
        made = iptc.Sampler(1, ["filter"], ipv6=False)
        taken = []
        clock._steps.put(0)
        async for sample in made:
            taken.append(sample)
            if len(taken) == 3:
                break
            send(2)
            clock._steps.put(0)
        assert [list(sample["filter"].delta) for sample in taken] == [[(0, 0)], [(2, 200)], [(2, 200)]]
        clock._steps.put(0)
        assert (await anext(made)).polls == 1
        # cancelled while it waits: nothing is lost
        waiting = asyncio.ensure_future(made.__anext__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert made._own._mail.waiters == []
        clock._steps.put(0)
        assert (await anext(made)).polls == 1
        own = made._own
        ended = asyncio.ensure_future(own.__anext__())
        await asyncio.sleep(0)
        made.close()
        with pytest.raises(StopAsyncIteration):
            await ended
        settled(own)

    asyncio.run(main())


def test_a_task_that_is_cancelled_ends_its_thread(host, clock):
    async def main():
        made = iptc.Sampler(1, ["filter"])
        seen = asyncio.Event()

        async def consume():
            clock._steps.put(0)
            async for _ in made:
                seen.set()

        task = asyncio.ensure_future(consume())
        await seen.wait()
        (run,) = made._runs
        mail = run._mail
        del run
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mail.done.acquire(timeout=PATIENCE)

    asyncio.run(main())


def child_says(code):
    """Fork a child that runs *code*, and return its exit status."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = code()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_fork(host, clock):
    host.iptables("-A OUTPUT -p udp --dport 9")
    run = iter(iptc.Sampler(1, ["filter"], ipv6=False))
    clock.started()
    clock.step()

    def ended():
        # no thread polls in the child; waiting samples belong to the parent
        return len(list(run))

    assert child_says(ended) == 0
    assert next(run).polls == 1
    clock.step()
    assert next(run).polls == 1
    run.close()


@pytest.mark.one_backend("nft")
def test_a_child_of_fork_can_begin_anew(host, clock):
    run = iter(iptc.Sampler(1, ["filter"]))
    clock.started()

    def anew():
        clock.__init__()
        other = iter(iptc.Sampler(1, ["filter"]))
        clock._steps.put(0)
        next(other)
        other.close()
        return 0 if other._mail.done.acquire(timeout=PATIENCE) else 1

    assert child_says(anew) == 0
    run.close()


def test_a_reader_that_a_thread_uses_is_closed_in_a_child(host):
    reader = iptc.CounterReader("filter")
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with reader._mutex:
            held.set()
            go_on.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def close():
        reader.close()
        return 0

    assert child_says(close) == 0
    go_on.set()
    thread.join()
    reader.read()
    reader.close()


def program(code, *signals):
    """Run *code*, send it *signals* once it has printed a line; (exit status, standard error)."""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "ready\n"
        for number in signals:
            process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
        return process.returncode, err


BEGIN = "import iptc, signal, sys\nrun = iter(iptc.Sampler(1000, ['filter']))\nprint('ready', flush=True)\n"


def test_signals_end_it(host):
    status, err = program(BEGIN + "for sample in run: pass", signal.SIGINT)
    assert status == -signal.SIGINT and err.rstrip().endswith("KeyboardInterrupt")
    handler = "signal.signal(signal.SIGTERM, lambda *_: run.close())\n"
    begin = BEGIN.replace("print", handler + "print")
    assert program(begin + "for sample in run: pass\nsys.exit(7)", signal.SIGTERM) == (7, "")
    handler = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
    begin = BEGIN.replace("print", handler + "print")
    assert program(begin + "for sample in run: pass", signal.SIGTERM) == (5, "")
    # once the loop of events has taken the signal over
    begin = BEGIN.replace("print('ready', flush=True)\n", "import asyncio\n")
    code = begin + (
        "async def main():\n    print('ready', flush=True)\n    async for sample in run: pass\nasyncio.run(main())"
    )
    status, err = program(code, signal.SIGINT)
    assert status in (-signal.SIGINT, 130) and err.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize(
    "end", ["", "sys.exit(0)", "import atexit; atexit.register(run.close)", "run = [run]; run.append(run)"]
)
def test_the_interpreter_ends_at_once(host, end):
    assert program(BEGIN + end) == (0, "")


@pytest.mark.one_backend("nft")
def test_it_ends_while_it_polls_all_the_time(host):
    code = "import iptc\nrun = iter(iptc.Sampler(0.0001))\nnext(run)\nprint('ready', flush=True)\n"
    for _ in range(3):
        assert program(code) == (0, "")


def test_no_thread_to_be_had(host, clock, monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(sampler, "start_new_thread", refuse)
    with pytest.raises(iptc.KernelError, match="can't start a thread"):
        iter(iptc.Sampler(1, ["filter"]))


@pytest.mark.long
def test_memory_stays_flat(host, clock):
    for number in range(200):
        host.iptables(f"-A INPUT -p tcp --dport {number + 1}")
    run = iter(iptc.Sampler(1, ["filter"], ipv6=False))
    clock.started()
    sizes = []
    for number in range(12_000):
        clock.asked.clear()
        clock.step()
        if number % 7 == 0:
            assert next(run).events == ()
        if number % 2000 == 1999:
            gc.collect()
            sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert sizes[-1] - sizes[0] < 512, sizes
    run.close()
