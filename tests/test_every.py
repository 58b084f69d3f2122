"""Reading at a steady pace: `CounterReader.every`."""

import os
import signal
import threading
import time

import pytest

import iptc
from iptc._pace import Pace, Polls


@pytest.fixture
def alarm():
    """Let a test say what SIGALRM does."""
    before = signal.getsignal(signal.SIGALRM)
    yield lambda handler: signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_no_snapshot_is_read_too_early(host):
    host.iptables("-A", "OUTPUT", "-j", "ACCEPT")
    with iptc.CounterReader() as reader:
        began = time.monotonic()
        for number, snapshot in enumerate(reader.every(0.01)):
            assert snapshot.time[0] >= began + 0.01 * number - 1e-6
            assert list(snapshot["OUTPUT"]) == [(0, 0)]
            if number == 5:
                break


def test_the_times_are_multiples_and_those_that_passed_are_left_out(host):
    with iptc.CounterReader() as reader:
        snapshots = reader.every(0.05)
        began = time.monotonic()
        next(snapshots)
        time.sleep(0.12)  # at least two of the times pass: one reading is late, the other is left out
        late = next(snapshots)
        assert late.time[0] >= began + 0.12
        assert next(snapshots).time[0] >= began + 0.15 - 1e-6
        assert next(snapshots).time[0] >= began + 0.2 - 1e-6


@pytest.mark.parametrize(
    ("seconds", "kind"),
    [
        (0, iptc.ParameterError),
        (-1, iptc.ParameterError),
        (float("nan"), iptc.ParameterError),
        (float("inf"), iptc.ParameterError),
        (1e9, iptc.ParameterError),
        (10**400, iptc.ParameterError),
        ("1", iptc.ParameterTypeError),
        (None, iptc.ParameterTypeError),
        (True, iptc.ParameterTypeError),
    ],
)
def test_what_is_no_interval(host, seconds, kind):
    with iptc.CounterReader() as reader, pytest.raises(kind, match="an interval must be seconds"):
        reader.every(seconds)


def test_the_smallest_and_a_long_interval():
    assert [next(polls) for polls in [Polls(int, 1e-12)] for _ in range(3)] == [0, 0, 0]
    assert next(Polls(int, 999_999_999)) == 0


def test_a_handler_that_returns_lets_the_wait_go_on(alarm):
    called = []
    alarm(lambda *_: called.append(time.monotonic()))
    polls = Polls(time.monotonic, 0.1)
    began = time.monotonic()
    next(polls)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    assert next(polls) >= began + 0.1
    assert called


def test_a_handler_that_raises_ends_the_wait_and_the_next_call_goes_on(alarm):
    def interrupt(*_):
        raise KeyboardInterrupt

    alarm(interrupt)
    polls = Polls(int, 3600)
    next(polls)
    with pytest.raises(KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        next(polls)
    with pytest.raises(KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        next(polls)


def test_an_error_of_a_reading_is_raised_and_the_next_call_reads_again():
    answers = iter([1, OSError("no"), 3])

    def read():
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    polls = Polls(read, 1e-6)
    assert next(polls) == 1
    with pytest.raises(OSError, match="no"):
        next(polls)
    assert next(polls) == 3


def test_a_closed_reader(host):
    with iptc.CounterReader() as reader:
        snapshots = reader.every(1e-6)
        next(snapshots)
    with pytest.raises(iptc.KernelError, match="this reader is closed"):
        next(snapshots)


def test_other_threads_run_while_one_waits(alarm):
    polls = Polls(int, 3600)
    next(polls)
    # the handler runs only if this thread, which holds the main thread's wait up, gets the GIL
    alarm(lambda *_: (_ for _ in ()).throw(InterruptedError))
    other = threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGALRM))
    began = threading.Event()
    waker = threading.Thread(target=lambda: (began.wait(), other.start(), other.join()))
    waker.start()
    with pytest.raises(InterruptedError):
        began.set()
        next(polls)
    waker.join()


def test_two_threads_share_the_calls():
    polls = Polls(iter(range(1000)).__next__, 1e-6)
    got = [[], []]
    threads = [threading.Thread(target=lambda its=its: its.extend(next(polls) for _ in range(500))) for its in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got[0] + got[1]) == list(range(1000))


def test_a_child_goes_on_after_a_fork(host):
    with iptc.CounterReader() as reader:
        snapshots = reader.every(1e-3)
        next(snapshots)
        child = os.fork()
        if not child:
            os._exit(0 if next(snapshots).generation == next(snapshots).generation else 1)
        assert os.waitpid(child, 0)[1] == 0
        next(snapshots)


def test_moments_are_multiples_of_the_interval():
    made = Pace(0.001, 7)
    for number in range(1, 5000):
        assert made.due == 7 + number * 1_000_000
        made.go_on(made.due + number % 999_999)
    assert made.due == 7 + 5000 * 1_000_000
    # missed polls are left out, and no moment comes twice
    made.go_on(made.due + 3_400_000)
    assert made.due == 7 + 5004 * 1_000_000
    made.go_on(made.due - 2_000_000)
    assert made.due == 7 + 5005 * 1_000_000
