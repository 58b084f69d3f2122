"""The xtables lock: how long a program waits for it, that it is always released, and which calls do not need it."""

import contextlib
import fcntl
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import types

import pytest

import iptc
from iptc.lock import Locks, XTablesLock, lock_path

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


class Holder:
    """Another process that holds a lock file until it is told to release it."""

    def __init__(self, path):
        command = [sys.executable, "-S", "-c", HOLDER, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "held\n"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if not self.process.stdin.closed:
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def is_free(path=None):
    """Whether another process could take the lock now."""
    with open(path or lock_path(), "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def drop(family):
    rule = family.Rule()
    rule.create_target("DROP")
    return rule


@pytest.mark.parametrize("wait", [False, 0, 0.05])
def test_a_lock_that_is_held_is_a_timeout_that_names_the_holder(host, family, wait):
    table = family.Table("filter", wait=wait)
    with Holder(lock_path()) as holder:
        with pytest.raises(iptc.LockTimeout, match="^Another app is currently holding the xtables lock ") as caught:
            iptc.Chain(table, "INPUT").append_rule(drop(family))
        pid = holder.process.pid
        with open(f"/proc/{pid}/comm") as comm:
            assert caught.value.holders == [(pid, comm.read().strip())]
        assert f"(pid {pid})" in str(caught.value)
        assert pickle.loads(pickle.dumps(caught.value)).holders == caught.value.holders
    assert host.rules(family.ipv6) == []
    iptc.Chain(table, "INPUT").append_rule(drop(family))
    assert len(host.rules(family.ipv6)) == 1 and is_free()


@pytest.mark.parametrize("wait", [None, 60])
def test_a_lock_that_is_let_go_is_taken(host, family, wait):
    table = family.Table("filter", wait=wait)
    done = threading.Thread(target=lambda: iptc.Chain(table, "INPUT").append_rule(drop(family)))
    with Holder(lock_path()):
        done.start()
        while not any("xtables.lock" in name for name in open_files(os.getpid())):
            assert done.is_alive()
            time.sleep(0.001)
        # a waiting thread stops neither other threads nor reads
        assert done.is_alive() and host.rules(family.ipv6) == []
    done.join()
    assert len(host.rules(family.ipv6)) == 1


def test_wait_is_kept_by_the_table_and_can_be_changed(host, family):
    table = family.Table("filter")
    assert table.wait is None
    assert family.Table("filter", wait=2.5) is table and table.wait == 2.5
    assert family.Table("filter").wait == 2.5
    table.wait = False
    assert family.Table("filter").wait is False
    for wrong in (True, "5", -1, float("nan"), [], b"1"):
        with pytest.raises(iptc.ParameterError):
            table.wait = wrong
        with pytest.raises(iptc.ParameterError):
            family.Table("filter", autocommit=False, wait=wrong)
    assert table.wait is False and table.autocommit is True


def test_waits_of_a_transaction(host, family):
    table, other = family.Table("filter", wait=None), family.Table("mangle", wait=False)
    with Holder(lock_path()):
        for transaction in (
            table.transaction(wait=False),
            iptc.transaction(table, other),
            iptc.transaction(table, wait=0.01),
        ):
            with pytest.raises(iptc.LockTimeout):
                with transaction:
                    iptc.Chain(table, "INPUT").append_rule(drop(family))
                    iptc.Chain(other, "INPUT").append_rule(drop(family))
    assert host.rules(family.ipv6) == [] and is_free()


def test_the_lock_is_that_of_the_hosts_tools(host, family):
    command = "ip6tables-legacy" if family.ipv6 else "iptables-legacy"
    with XTablesLock():
        assert host.run(command, "-w", "1", "-N", "web", check=False).returncode == 4
    with Holder(lock_path()), pytest.raises(iptc.LockTimeout):
        family.Table("filter", wait=False).create_chain("web")
    assert ":web - [0:0]" not in host.save(family.ipv6)


def test_a_lock_file_of_ones_own(host, family, tmp_path):
    own = tmp_path / "own.lock"
    table = family.Table("filter", wait=False, lock_file=own)
    assert table.lock_file == str(own)
    with Holder(lock_path()):
        table.create_chain("one")
    with Holder(own):
        with pytest.raises(iptc.LockTimeout, match="own.lock"):
            table.create_chain("two")
        table.lock_file = False
        table.create_chain("three")
    table.lock_file = None
    with Holder(lock_path()), pytest.raises(iptc.LockTimeout):
        table.create_chain("four")
    assert [chain.name for chain in table.chains][3:] == ["one", "three"]
    for wrong in (5, "", "a\0b", True, []):
        with pytest.raises(iptc.ParameterError):
            table.lock_file = wrong


def test_the_lock_file_may_be_replaced_between_commits(host, family):
    table = family.Table("filter", wait=False)
    table.create_chain("one")
    os.unlink(lock_path())
    with Holder(lock_path()), pytest.raises(iptc.LockTimeout):
        table.create_chain("two")
    os.unlink(lock_path())
    table.create_chain("three")


def test_a_lock_file_that_cannot_be_opened(host, family, tmp_path):
    table = family.Table("filter", lock_file=tmp_path / "no" / "such")
    with pytest.raises(iptc.KernelError, match="can't open lock file .*: No such file or directory"):
        table.create_chain("web")
    assert ":web - [0:0]" not in host.save(family.ipv6)


def test_several_locks_are_taken_in_one_order_and_let_go_together(tmp_path):
    paths = [str(tmp_path / name) for name in "cab"]
    with Locks([XTablesLock(path=path) for path in paths]):
        assert not any(map(is_free, paths))
    assert all(map(is_free, paths))
    with Holder(paths[0]):
        with pytest.raises(iptc.LockTimeout):
            with Locks([XTablesLock(wait=False, path=path) for path in paths]):
                raise AssertionError
        assert all(map(is_free, paths[1:]))


def open_files(pid):
    """Return the files of a process's open descriptors."""
    names = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return names


WAITER = """
import iptc, signal
signal.signal(signal.SIGINT, signal.default_int_handler)        # ignored in what a shell starts in the background
try:
    iptc.Table("filter").create_chain("web")
except KeyboardInterrupt:
    import os, fcntl
    left = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]
    print("interrupted", any("lock" in name for name in left), flush=True)
    iptc.Table("filter").wait = 60
    print("goes on", iptc.Table("filter").ensure_chain("web"))
"""


def test_an_interrupt_ends_the_wait_and_leaves_nothing(host):
    with Holder(lock_path()) as holder:
        waiter = subprocess.Popen([sys.executable, "-c", WAITER], stdout=subprocess.PIPE, text=True)
        while not any("xtables.lock" in name for name in open_files(waiter.pid)):
            time.sleep(0.01)
        waiter.send_signal(signal.SIGINT)
        assert waiter.stdout.readline() == "interrupted False\n"
        holder.process.stdin.close()
    out, _ = waiter.communicate()
    assert out == "goes on True\n" and is_free()


def test_a_forked_child_neither_keeps_nor_drops_the_lock(host):
    ready, go = os.pipe(), os.pipe()
    with XTablesLock() as lock:
        child = os.fork()
        if child == 0:
            lock.__exit__()  # as when the child leaves the parent's `with`
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        assert not is_free()
    assert is_free()  # while the child still lives
    os.write(go[1], b"x")
    os.waitpid(child, 0)
    for fd in ready + go:
        os.close(fd)


def test_iptables_waits_for_a_commit(host, family):
    """Writers that hold the lock from the read to the commit lose nothing, whichever of them waits."""
    table = family.Table("filter")
    command = ["ip6tables-legacy" if family.ipv6 else "iptables-legacy", "-w", "-A", "INPUT", "-j", "ACCEPT"]
    others = [subprocess.Popen(command) for _ in range(6)]
    for _ in range(20):
        iptc.Chain(table, "INPUT").append_rule(drop(family))
    assert [other.wait() for other in others] == [0] * 6
    assert len(host.rules(family.ipv6)) == 26


class Alarm(Exception):
    """An exception that a signal handler raises."""


@pytest.mark.parametrize("kind", [XTablesLock, Locks])
def test_an_exception_of_a_signal_handler_leaves_no_lock_held(tmp_path, monkeypatch, kind):
    """The exceptions are kept, and so everything on the stack is kept: releasing the lock must not depend on deleting
    it."""
    path, kept = str(tmp_path / "lock"), []
    # a Python function checks for signals when it begins
    assert not isinstance(kind.__exit__, types.FunctionType)

    def raised(number, frame):
        raise Alarm

    before = signal.signal(signal.SIGALRM, raised)
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    try:
        for number in range(400):
            held = XTablesLock(path=path)
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + number))
                for _ in range(20):
                    with held if kind is XTablesLock else Locks([held]):
                        pass
            except Alarm as error:
                kept.append(error)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Alarm:
                pass
            with XTablesLock(False, path=path):
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert kept
