"""`iptc.watch`: changes of the rules as they happen, and which process made them."""

import asyncio
import contextlib
import gc
import json
import os
import pathlib
import random
import signal
import socket
import struct
import subprocess
import sys
import threading

import pytest

import iptc
from iptc.watching import mirror, multicast, nft_events
from iptc.watching.mirror import Mirror

STRESS = int(os.environ.get("IPTC_STRESS", "1"))
WAIT = 60.0
"""Seconds to wait at most for a change that is reported at once."""


def spawned(*command, text=None):
    """Run *command* to its end; return its process id."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process.communicate(None if text is None else text.encode())
    return process.pid


def test_each_change_is_told_in_words_of_rules(host):
    host.iptables("-A INPUT -p tcp -j ACCEPT")
    host.iptables("-A INPUT -p udp -j ACCEPT")
    with iptc.watch(host.backend) as watch:
        assert watch.read() == []

        def told(*arguments, ipv6=False):
            host.iptables(*arguments, ipv6=ipv6)
            (change,) = watch.wait(WAIT)
            assert (change.backend, change.table, change.family) == (
                host.backend,
                "filter",
                "ipv6" if ipv6 else "ipv4",
            )
            return change

        change = told("-I INPUT 2 -p sctp -j DROP")
        assert [(row.chain, row.number, row.rule) for row in change.added] == [("INPUT", 2, "-p sctp -j DROP")]
        assert not change.removed and not change.moved and not change.several
        change = told("-D INPUT 1")
        assert [(row.chain, row.old_number, row.old_rule) for row in change.removed] == [
            ("INPUT", 1, "-p tcp -j ACCEPT")
        ]
        change = told("-P FORWARD DROP")
        assert [(row.chain, row.old_rule, row.rule) for row in change.policy] == [("FORWARD", "ACCEPT", "DROP")]
        change = told("-R INPUT 1 -p sctp -j ACCEPT")
        assert [(row.number, row.old_rule, row.rule) for row in change.changed] == [
            (1, "-p sctp -j DROP", "-p sctp -j ACCEPT")
        ]
        said = told("-N web", ipv6=True).as_dict()
        assert (
            said["chains_added"] == [{"chain": "web"}] and said["schema"] == 1 and json.loads(json.dumps(said)) == said
        )
        change = told("-A web -j RETURN", ipv6=True)
        assert str(change).endswith("1 rule added") and change.added[0].chain == "web"
        # restoring the same rules in another order counts as moving them
        text = "*filter\n:INPUT ACCEPT\n-A INPUT -p udp -j ACCEPT\n-A INPUT -p sctp -j ACCEPT\nCOMMIT\n"
        host.run(host.tool(verb="-restore"), text=text)
        (change,) = watch.wait(WAIT)
        assert [row.rule for row in change.moved] and not change.added and not change.removed


@pytest.mark.one_backend("nft")
def test_changes_of_nf_tables_name_their_process(host):
    with iptc.watch("nft") as watch:
        for command in (
            ("iptables-nft", "-A", "INPUT", "-j", "ACCEPT"),
            ("ip6tables-nft", "-A", "INPUT", "-j", "ACCEPT"),
            ("nft", "flush", "chain", "ip", "filter", "INPUT"),
        ):
            pid = spawned(*command)
            (change,) = watch.wait(WAIT)
            assert (change.by.pid, change.by.name) == (pid, command[0][:15])
        iptc.Table("filter").zero_entries("INPUT")
        assert watch.read() == []
        iptc.Chain(iptc.Table("filter"), "INPUT").append_rule(iptc.Rule.from_args("-j DROP"))
        assert watch.wait(WAIT)[0].by.pid == os.getpid()


@pytest.mark.one_backend("legacy")
def test_who_has_the_lock_is_told(host, tmp_path):
    with iptc.watch("legacy") as watch:
        # it holds the lock until the test lets it go on
        writer = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import iptc, iptc.lock, sys\n"
                "with iptc.lock.XTablesLock():\n"
                "    print(flush=True); sys.stdin.readline()\n"
                "    iptc.Chain(iptc.Table('filter', lock_file=False), 'INPUT').append_rule(iptc.Rule.from_args('-j DROP'))\n",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        writer.stdout.readline()
        assert watch.read() == []
        writer.communicate(b"\n")
        (change,) = watch.wait(WAIT)
        assert change.by.pid == writer.pid and change.by.name.startswith("python")


@pytest.mark.one_backend("legacy")
def test_programs_that_take_no_lock_are_found_by_comparing(host):
    with iptc.watch("legacy", compare=0.01) as watch:
        table = iptc.Table("filter", lock_file=False)
        iptc.Chain(table, "INPUT").append_rule(iptc.Rule.from_args("-j DROP"))
        (change,) = watch.wait(WAIT)
        assert change.by is None and change.added[0].rule == "-j DROP"


@pytest.mark.one_backend("legacy")
def test_the_lock_file_may_come_and_go(host, tmp_path):
    path = os.environ["XTABLES_LOCKFILE"]
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with iptc.watch("legacy") as watch:
        for number in range(3):
            host.iptables(f"-A INPUT -p {number + 1} -j ACCEPT")
            assert [row.rule for change in watch.wait(WAIT) for row in change.added]
            if number:
                os.unlink(path)


@pytest.mark.one_backend("legacy")
def test_both_back_ends_are_watched(host):
    with iptc.watch() as watch:
        for backend in ("legacy", "nft"):
            subprocess.run([f"iptables-{backend}", "-A", "OUTPUT", "-j", "ACCEPT"], check=True)
            assert [change.backend for change in watch.wait(WAIT)] == [backend]


def edit(random, tool):
    """Return a random command: (words, text of a restore or None)."""
    verb = random.choice(["A", "A", "A", "I", "I", "I3", "D", "R", "F", "N", "X", "P", "E", "Z", "restore", "flush"])
    chain = random.choice(["INPUT", "OUTPUT", "a", "b"])
    rule = ["-p", "tcp", "--dport", str(random.randrange(1, 60000)), "-j", random.choice(["ACCEPT", "DROP", "a"])]
    if verb == "restore":
        rows = "".join(f"-A a -p udp --dport {random.randrange(1, 60000)}\n" for _ in range(4))
        text = f"*filter\n:INPUT ACCEPT\n:a -\n-A INPUT -j a\n{rows}-I a -j DROP\n-I a 2 -j ACCEPT\nCOMMIT\n"
        return [f"{tool}-restore", *(["-n"] if random.random() < 0.5 else [])], text
    if verb == "flush":
        return ["nft", "flush", "ruleset"] if random.random() < 0.3 else [
            "nft",
            "delete",
            "table",
            "ip6",
            "filter",
        ], None
    return [
        tool,
        *{
            "A": ["-A", chain, *rule],
            "I": ["-I", chain, *rule],
            "I3": ["-I", chain, str(random.randrange(1, 5)), *rule],
            "D": ["-D", chain, str(random.randrange(1, 4))],
            "R": ["-R", chain, str(random.randrange(1, 4)), *rule],
            "F": ["-F", chain],
            "N": ["-N", random.choice("ab")],
            "X": ["-X", random.choice("ab")],
            "P": ["-P", "INPUT", random.choice(["ACCEPT", "DROP"])],
            "E": random.choice([["-E", "a", "c"], ["-E", "c", "a"]]),
            "Z": ["-Z"],
        }[verb],
    ], None


@pytest.mark.one_backend("nft")
def test_the_mirror_is_what_the_kernel_has_after_each_commit(host):
    dice = random.Random(20261127)
    place = iptc.namespace.Place()
    events, copy = nft_events.NftEvents(place), Mirror(place)
    commits = 0
    for _ in range(150 * STRESS):
        words, text = edit(dice, dice.choice(["iptables-nft", "ip6tables-nft"]))
        pid = spawned(*words, text=text)
        for commit in events.read():
            if not copy.is_past(commit.generation):
                commits += 1
                assert commit.by.pid == pid
                copy.follow(commit)
        real = iptc.Ruleset.live(backend="nft")
        assert copy.ruleset.text() == real.text() and copy.ruleset.generation == real.generation, words
        for table in real.tables:
            there = copy.ruleset.table(table.nfproto, table.name)
            assert [chain.handles or [] for chain in there] == [chain.handles or [] for chain in table]
            assert [chain.number for chain in there] == [chain.number for chain in table]
    assert commits > 40 * STRESS
    events.close()


def rule_message(handle, behind=None, appended=False):
    """Return the attributes of a message about a rule that give its place."""
    return handle, behind, struct.pack("=IHHII", 20, 0x0A06, 0x800 if appended else 0, 0, 0) + bytes(4)


@pytest.mark.one_backend("nft")
def test_places_of_new_rules_whatever_the_order_in_which_they_are_told(host):
    def placed(order, *new):
        return mirror._placed(order, [mirror._New(handle, behind, b"") for handle, behind in new])

    first, last = mirror._FIRST, mirror._LAST
    assert placed([1, 2], (3, last)) == [1, 2, 3]
    assert placed([1, 2], (3, first)) == [3, 1, 2]
    assert placed([1, 2], (3, 1), (4, 3)) == [1, 3, 4, 2]
    assert placed([1, 2], (4, 3), (3, 1)) == [1, 3, 4, 2]
    assert placed([1, 2], (3, 4), (4, first)) == [4, 3, 1, 2]
    assert placed([], (3, last), (4, 3), (5, last)) == [3, 4, 5]
    for new in ([(3, 9)], [(3, 4), (4, 3)]):
        with pytest.raises(mirror.LostStep):
            placed([1, 2], *new)


@pytest.mark.one_backend("nft")
def test_a_rule_that_may_be_the_first_or_the_last_is_read_again(host):
    chain = mirror._Chain(
        iptc.Ruleset.live(backend="nft").table(2, "filter")
        or iptc.managing.ruleset_value.ChainValue(2, "a", None, entries=[b"1", b"2"], handles=[1, 2])
    )
    chain.gone.append(1)
    chain.add(*rule_message(3, None, True))
    assert chain._doubted
    other = mirror._Chain(iptc.managing.ruleset_value.ChainValue(2, "a", None, entries=[b"1", b"2"], handles=[1, 2]))
    other.gone.append(2)
    other.add(*rule_message(3, None, True))
    assert not other._doubted
    # newer kernels give the new rule the handle of the old one
    other.gone.append(1)
    other.add(*rule_message(1, None, True))
    assert not other._doubted and other.gone == [2] and len(other.replaced) == 1


@pytest.mark.one_backend("nft")
def test_what_cannot_be_followed_is_read_again_and_said(host, monkeypatch):
    host.iptables("-A INPUT -p tcp -j ACCEPT")
    with iptc.watch("nft") as watch:
        monkeypatch.setattr(mirror.Mirror, "follow", lambda self, commit: (_ for _ in ()).throw(mirror.LostStep))
        pid = spawned("iptables-nft", "-A", "INPUT", "-p", "udp", "-j", "ACCEPT")
        (change,) = watch.wait(WAIT)
        assert change.added and change.by.pid == pid and not change.several
        spawned("iptables-nft", "-A", "INPUT", "-p", "1", "-j", "ACCEPT")
        spawned("iptables-nft", "-A", "INPUT", "-p", "2", "-j", "ACCEPT")
        (change,) = watch.wait(WAIT)
        assert len(change.added) == 2 and change.by is None and change.several


@pytest.mark.one_backend("nft")
def test_messages_that_are_lost_lose_no_change(host, monkeypatch):
    monkeypatch.setattr(multicast, "_ROOM", 4096)
    with iptc.watch("nft") as watch:
        rows = "".join(f"-A INPUT -p udp --dport {port} -j ACCEPT\n" for port in range(1, 2000))
        host.restore(f"*filter\n:INPUT ACCEPT\n{rows}COMMIT\n")
        found = []
        while sum(len(change.added) for change in found) < 1999:
            found += watch.wait(WAIT)
        assert any(change.several and change.by is None for change in found)
        pid = spawned("iptables-nft", "-D", "INPUT", "1")
        (change,) = watch.wait(WAIT)
        assert len(change.removed) == 1 and change.by.pid == pid
        assert watch.rulesets()["nft"] == iptc.Ruleset.live(backend="nft")


def test_close_ends_a_loop_in_another_thread(host):
    watch = iptc.watch(host.backend)
    found = []
    thread = threading.Thread(target=lambda: found.extend(watch))
    thread.start()
    host.iptables("-A INPUT -j ACCEPT")
    while not found:
        pass
    watch.close()
    watch.close()
    thread.join(WAIT)
    assert not thread.is_alive() and watch.closed and list(watch) == []
    with pytest.raises(iptc.KernelError):
        watch.read()


def test_async_for(host):
    async def look():
        found = []
        with iptc.watch(host.backend) as watch:
            process = await asyncio.create_subprocess_exec(host.tool(), "-A", "INPUT", "-j", "ACCEPT")
            async for change in watch:
                found.append(change.added[0].rule)
                break
            await process.wait()
            # after it is cancelled while it waits, it can be used again
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            process = await asyncio.create_subprocess_exec(host.tool(), "-F", "INPUT")
            found.append((await anext(watch)).removed[0].old_rule)
            await process.wait()
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
        return found

    assert asyncio.run(look()) == ["-j ACCEPT", "-j ACCEPT"]


def test_a_forked_child_is_told_that_it_is_not_its(host):
    with iptc.watch(host.backend) as watch:
        child = os.fork()
        if not child:
            try:
                watch.read()
            except iptc.KernelError:
                watch.close()
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        host.iptables("-A INPUT -j ACCEPT")
        assert watch.wait(WAIT)


def test_no_descriptor_is_left(host):
    def count():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    iptc.watch(host.backend).close()
    before = count()
    for _ in range(20):
        with iptc.watch(host.backend) as watch:
            watch.read()
        iptc.watch(host.backend)
    assert count() == before


@pytest.mark.parametrize("wrong", [{"backend": "iptables"}, {"compare": 0}, {"compare": "x"}, {"netns": "/nowhere"}])
def test_what_cannot_be_watched_is_refused(host, wrong):
    with pytest.raises(iptc.IPTCError):
        iptc.watch(**wrong)


def test_an_interrupt_ends_the_wait(host):
    watch = iptc.watch(host.backend)

    class Interrupted(Exception):
        pass

    def interrupt(number, frame):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(Interrupted):
            # sent again and again: a signal that comes just before the wait is handled only after it
            signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
            watch.wait(WAIT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    host.iptables("-A INPUT -j ACCEPT")
    assert watch.wait(WAIT)
    watch.close()


def test_a_signal_ends_the_wait_whichever_thread_gets_it(host):
    """Python runs a handler in the main thread, whose system call such a signal does not interrupt."""

    class Ended(BaseException):
        pass

    def end(number, frame):
        raise Ended

    before = signal.signal(signal.SIGUSR2, end)
    place = f"/proc/self/task/{threading.get_native_id()}/wchan"
    try:
        with iptc.watch() as changes:

            def tell():
                while "poll" not in pathlib.Path(place).read_text():
                    assert not changes.closed
                signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)

            teller = threading.Thread(target=tell)
            teller.start()
            with pytest.raises(Ended):
                changes.wait()
            teller.join()
            assert signal.set_wakeup_fd(-1) == -1
            assert changes.read() == []
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_idle_costs_nothing(host):
    """Without a change the process does not run at all."""
    with subprocess.Popen(
        [sys.executable, "-m", "iptc", "watch", "--backend", host.backend], stdout=subprocess.PIPE
    ) as process:
        try:
            host_change(host, process)
            before = switches(process.pid)
            # sockets of another process, which change no rules
            for _ in range(20):
                socket.socketpair()[0].close()
            assert switches(process.pid) == before
            assert host_change(host, process)
        finally:
            process.kill()


def host_change(host, process):
    """Change rules until the process reports a change."""
    os.set_blocking(process.stdout.fileno(), False)
    while True:
        host.iptables("-A INPUT -j ACCEPT")
        line = process.stdout.read()
        if line:
            # the process waits again
            while open(f"/proc/{process.pid}/stat").read().rpartition(")")[2].split()[0] != "S":
                pass
            process.stdout.read()
            return line


def switches(pid):
    with open(f"/proc/{pid}/status") as status:
        return [line for line in status if "ctxt_switches" in line]


def test_the_command_flushes_each_line_and_ends_by_sigterm(host):
    with subprocess.Popen(
        [sys.executable, "-m", "iptc", "watch", "--backend", host.backend, "--json"], stdout=subprocess.PIPE
    ) as process:
        try:
            said = json.loads(host_change(host, process).split(b"\n")[0])
            assert said["table"] == "filter" and said["added"][0] == {
                "chain": "INPUT",
                "number": said["added"][0]["number"],
                "rule": "-j ACCEPT",
            }
            process.terminate()
            assert process.wait() == 0
        finally:
            process.kill()


def test_watching_writes_nothing(host, tmp_path):
    trace = tmp_path / "trace"
    with subprocess.Popen(
        [
            "strace",
            "-f",
            "-o",
            str(trace),
            "-e",
            "trace=setsockopt,sendmsg,sendto",
            sys.executable,
            "-m",
            "iptc",
            "watch",
            "--count",
            "1",
        ],
        stdout=subprocess.PIPE,
    ) as process:
        try:
            os.set_blocking(process.stdout.fileno(), False)
            while process.poll() is None:
                host.iptables("-A INPUT -j ACCEPT")
        finally:
            process.kill()
    seen = trace.read_text()
    assert "BATCH_BEGIN" not in seen and not [
        line for line in seen.split("\n") if "setsockopt(" in line and "SOL_IP" in line
    ]
