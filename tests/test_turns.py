"""The thread of a Sampler and the consumer that waits take turns: the waiting one polls, and no poll is left out."""

import os
import signal
import sys
import threading
import time

import pytest
from conftest import PATIENCE
from test_sampler import child_says, program, send, settled
from untried import no_ebpf, untried

import iptc
from iptc._pace import Pace
from iptc.monitoring import clock, turns

REFUSED = no_ebpf()


@pytest.fixture
def host(host):
    untried(REFUSED)
    host.run("ip", "link", "set", "lo", "up")
    host.iptables("-A OUTPUT -p udp --dport 9")
    return host


def begun_run(interval=0.001):
    """Begin a run whose consumer polls, where eBPF is possible."""
    return iter(iptc.Sampler(interval, ["filter"], ipv6=False, source="auto" if REFUSED else "bpf"))


@pytest.fixture
def begin(host):
    """A function that begins a run."""
    begun = []

    def make(*arguments):
        begun.append(begun_run(*arguments))
        return begun[-1]

    yield make
    for run in begun:
        run.close()
        settled(run)


def counted(samples):
    return sum(sample["filter"].delta[0].packets for sample in samples)


def until(is_true):
    """Wait until the function returns something true."""
    end = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_consumer_that_waits_polls_itself(begin):
    run = begin()
    samples = []
    while len(samples) < 50 or not (REFUSED or run._mail.turns.by_consumers > 10):
        send(len(samples) % 2)
        samples.append(next(run))
    sent = sum(number % 2 for number in range(len(samples)))
    samples.append(next(run))
    assert counted(samples) == sent
    seconds = samples[-1].time[0] - samples[0].time[0]
    assert sum(sample.seconds for sample in samples[1:]) == pytest.approx(seconds, abs=1e-6)
    # never more polls than are due
    assert sum(sample.polls for sample in samples[1:]) <= seconds / 0.001 + 1


def test_the_thread_polls_while_the_consumer_is_away(begin):
    run = begin()
    samples = [next(run) for _ in range(5)]
    for _ in range(3):
        before = sum(sample.polls for sample in samples)
        send(2)
        until(lambda: run._mail.box and run._mail.box[0].polls > 3)
        samples.append(next(run))
        assert sum(sample.polls for sample in samples) > before + 3
        samples += [next(run) for _ in range(5)]
    assert counted(samples) == 6


def test_a_change_of_the_rules_wakes_the_thread(begin, host):
    run = begin()
    next(run)
    host.iptables("-I OUTPUT -p tcp")
    seen = []
    while not seen:
        seen += next(run).events
    assert [str(event) for event in seen] == ["IPv4 filter OUTPUT appeared: -p tcp"]
    next(run)


def test_close_from_another_thread_ends_the_wait(begin):
    run = begin(1000)
    closer = threading.Thread(target=lambda: (until(lambda: waits(run)), run.close()))
    closer.start()
    assert list(run) == []
    closer.join()


def waits(run):
    """Whether a consumer waits, as far as can be seen: it leads, or it is behind."""
    return run._mail.behind or REFUSED or run._mail.turns.led


def test_two_consumers_each_get_samples(begin):
    run = begin()
    taken = [[], []]

    def take(mine):
        while not all(taken):
            mine.append(next(run))

    threads = [threading.Thread(target=take, args=[mine]) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert all(taken)


def test_a_child_of_fork_has_no_run(begin):
    run = begin()
    next(run)
    assert child_says(lambda: len(list(run))) == 0
    assert next(run).polls >= 1
    # in the middle of a wait of another thread
    taken = []
    consumer = threading.Thread(target=lambda: taken.extend(next(run) for _ in range(20)))
    consumer.start()
    for _ in range(5):
        assert child_says(lambda: len(list(run))) == 0
    consumer.join(PATIENCE)
    assert len(taken) == 20


def test_a_program_that_closes_all_descriptors(begin):
    """The timer is gone: the thread does every poll."""
    run = begin()
    next(run)
    timers = [
        int(name)
        for name in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{name}") and "timerfd" in os.readlink(f"/proc/self/fd/{name}")
    ]
    for timer in timers:
        os.close(timer)
    assert len(timers) == 1
    send(3)
    samples = []
    while run._mail.turns is not None or counted(samples) < 3:
        samples.append(next(run))
    assert counted(samples) == 3


def test_without_a_timer_the_thread_polls(begin, monkeypatch):
    def refuse(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(clock, "Turns", refuse)
    run = begin()
    assert run._mail.turns is None and next(run).polls >= 1


def test_no_descriptor_stays_open(host):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        run = begun_run()
        next(run)
        run.close()
        settled(run)
    del run
    assert len(os.listdir("/proc/self/fd")) <= before


BEGIN = (
    "import iptc, signal, sys, time\n"
    f"source = {'auto' if REFUSED else 'bpf'!r}\n"
    "run = iter(iptc.Sampler({}, ['filter'], ipv6=False, source=source))\n"
    "{}\n"
    "print('ready', flush=True)\n"
)


@pytest.mark.parametrize("interval", [1000, 0.001])
def test_signals_come_through(host, interval):
    loop = "for sample in run: pass\n"
    status, err = program(BEGIN.format(interval, "") + loop, signal.SIGINT)
    assert status == -signal.SIGINT and err.rstrip().endswith("KeyboardInterrupt")
    handler = "signal.signal(signal.SIGTERM, lambda *_: run.close())"
    assert program(BEGIN.format(interval, handler) + loop + "sys.exit(7)", signal.SIGTERM) == (7, "")
    handler = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))"
    assert program(BEGIN.format(interval, handler) + loop, signal.SIGTERM) == (5, "")


def test_a_handler_takes_samples_of_the_run_that_it_interrupts(host):
    handler = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(6 if [next(run) for _ in range(5)] else 1))"
    assert program(BEGIN.format(0.001, handler) + "for sample in run: pass\n", signal.SIGTERM) == (6, "")


def test_the_thread_is_on_time_while_a_handler_runs(host):
    """The handler waits until a poll was done."""
    handler = (
        "def wait(*_):\n    while not run._mail.box: time.sleep(0.001)\n    sys.exit(8)\n"
        "signal.signal(signal.SIGTERM, wait)"
    )
    assert program(BEGIN.format(0.2, handler) + "for sample in run: pass\n", signal.SIGTERM) == (8, "")


def test_the_interpreter_ends_in_the_middle_of_it(host):
    for _ in range(3):
        assert program(BEGIN.format(0.0001, "next(run)")) == (0, "")


def test_who_polls_after_the_end(host):
    poller = iptc.Sampler(1, ["filter"], ipv6=False).poller()
    made = turns.Turns(poller, Pace(0.001, 0))
    made.end()
    assert made.wait() is False and made.lead() is False
    made.close()
    made.close()
    assert made.wait() is False and made.lead() is False
    poller.close()
    assert sys.getrefcount(poller) == 2
