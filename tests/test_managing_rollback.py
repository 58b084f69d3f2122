"""Changes that are taken back unless they are confirmed, even if the process that asked for them is killed."""

import contextlib
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import PATIENCE, running, tables_of
from test_managing import filter_table, ports, uncounted

import iptc
from iptc.managing import flows, pending, planning, rollback, watchdog

ROOT = os.path.dirname(os.path.dirname(iptc.__file__))
STRESS = "IPTC_STRESS" in os.environ
SECONDS = 0.4
"""After which a change is taken back here; nothing that is to come before that is certain to."""

MANGLE = "*mangle\n:new - [0:0]\n-A PREROUTING -j new\nCOMMIT\n"
BOTH = "".join(
    [
        "# IPv4\n",
        filter_table(*ports(2), policies=("DROP", "ACCEPT", "ACCEPT")),
        MANGLE,
        "# IPv6\n",
        filter_table(*ports(3)),
    ]
)


@pytest.fixture
def folder(host, tmp_path, monkeypatch):
    """The folder that records which change waits to be confirmed."""
    path = tmp_path / "state"
    monkeypatch.setenv("PYTHONPATH", ROOT)
    host.restore(
        filter_table("[3:180] " + ports(1)[0], "[5:300] -A INPUT -j old", "-A old -j DROP", chains=["old"]),
        arguments=["-c"],
    )
    host.iptables("-A INPUT -p udp -j DROP", ipv6=True)
    return path


@pytest.fixture
def wanted(tmp_path):
    """A file with other rules for both families."""
    path = tmp_path / "wanted"
    path.write_text(BOTH)
    return str(path)


def everything(host):
    """Return all rules of both families with their counters; on nf_tables also the names of all tables and chains."""
    saved = [
        [line if line.startswith("[") else uncounted([line])[0] for line in host.save(ipv6, counters=True)]
        for ipv6 in (False, True)
    ]
    if host.backend == "nft":
        return saved
    # a legacy table cannot be deleted again: it stays, and is empty
    return [
        sorted(
            (name, lines)
            for name, lines in tables_of("\n".join([*lines, ""]))
            if any(line.startswith("[") for line in lines)
        )
        for lines in saved
    ]


def until(predicate):
    """Wait until *predicate* returns something true. The time limit is long enough for a busy machine."""
    end = time.monotonic() + PATIENCE
    while not (value := predicate()):
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.005)
    return value


def with_time_enough(attempt):
    """What *attempt* returns, which is given the seconds after which a change is taken back: more seconds as long as it
    returns None, since they were over before what it is about had begun."""
    seconds = SECONDS
    while (value := attempt(seconds)) is None:
        seconds *= 3
        assert seconds < PATIENCE
    return value


def over():
    """Wait until the watchdog has ended, and return the state of the last change."""

    def look():
        note, watched = pending.slot_of().read()
        return note and not watched and note["state"]

    return until(look)


def changed(host):
    """Return whether all tables have the wanted rules."""
    return (
        host.rules(table="filter") == ports(2)
        and host.rules(ipv6=True) == ports(3)
        and host.rules(table="mangle") == ["-A PREROUTING -j new"]
    )


def run(*arguments, **settings):
    """Run `iptc` without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "iptc", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, **settings
    )


# -------------------------------------------------------------- as a library


def test_taken_back_when_its_time_is_over(host, folder):
    before = everything(host)
    with rollback.start(BOTH, SECONDS) as change:
        assert change.state == "armed" and everything(host) == before and change.difference.counts()["policy"] == 1
        change.begin()
        assert change.wait() == "rolled back"
        with pytest.raises(iptc.RolledBack):
            change.confirm()
    assert everything(host) == before and over() == "rolled back"


def test_confirmed(host, folder):
    with rollback.start(BOTH, 60) as change:
        change.begin()
        assert change.state == "pending" and changed(host) and 0 < change.seconds_left <= 60
        change.confirm()
        assert change.state == "confirmed" and changed(host)
        change.roll_back()
    assert changed(host) and over() == "confirmed"


def test_taken_back_on_demand(host, folder):
    before = everything(host)
    with rollback.start(BOTH, 60) as change:
        change.begin()
        change.roll_back()
        assert change.state == "rolled back"
    assert everything(host) == before


def test_counters_go_on(host, folder):
    with rollback.start(filter_table(ports(1)[0], *ports(7)), 60) as change:
        change.begin()
        # counted while the change was pending
        host.iptables("-R INPUT 1 -c 10 600 -p tcp --dport 1 -j ACCEPT")
        change.roll_back()
    assert host.save(counters=True, table="filter")[-4:-1] == [
        "[10:600] " + ports(1)[0],
        "[5:300] -A INPUT -j old",
        "[0:0] -A old -j DROP",
    ]


def test_safe_apply_keeps_or_takes_back(host, folder):
    before = everything(host)
    with pytest.raises(ZeroDivisionError), iptc.safe_apply(BOTH, timeout=60) as change:
        assert changed(host) and change.state == "pending"
        raise ZeroDivisionError
    assert everything(host) == before
    for check in (lambda: 0, "exit 3"):
        with pytest.raises(iptc.RolledBack, match="said no"), iptc.safe_apply(BOTH, timeout=60, check=check):
            assert changed(host)
        assert everything(host) == before
    with pytest.raises(ZeroDivisionError), iptc.safe_apply(BOTH, timeout=60, check=lambda: 1 / 0):
        pass
    assert everything(host) == before
    with pytest.raises(iptc.RolledBack, match="in time"), iptc.safe_apply(BOTH, timeout=SECONDS) as change:
        change.wait()
    assert everything(host) == before
    with iptc.safe_apply(BOTH, timeout=60, check=lambda: True) as change:
        pass
    assert changed(host) and change.state == "confirmed"
    with iptc.safe_apply(BOTH, timeout=60) as change:
        assert not change
    assert changed(host)


def test_a_plan_is_applied_as_it_is_or_not_at_all(host, folder):
    plan = iptc.plan(BOTH, only="filter")
    with iptc.safe_apply(plan, timeout=60) as change:
        assert change.difference.as_dict() == plan.difference.as_dict() and host.rules(table="mangle") == []
    again = iptc.plan(filter_table())
    host.iptables("-A INPUT -j ACCEPT")
    before = everything(host)
    with pytest.raises(iptc.Conflict), iptc.safe_apply(again, timeout=60):
        pass
    assert everything(host) == before


def test_never_two_at_a_time(host, folder):
    with rollback.start(BOTH, 60) as change:
        change.begin()
        with pytest.raises(iptc.IPTCError, match="another change waits"):
            rollback.start(filter_table(), 60)
        assert changed(host)
        change.roll_back()
    over()
    with iptc.safe_apply(filter_table(), timeout=60):
        pass
    assert host.rules(table="filter") == []


def test_what_cannot_be_done_changes_nothing(host, folder, monkeypatch):
    before = everything(host)
    loop = filter_table("-A INPUT -j a", "-A a -j b", "-A b -j a", chains=["a", "b"])
    with pytest.raises(iptc.KernelError), iptc.safe_apply(loop, timeout=60):
        pass
    with pytest.raises(iptc.NotFound), iptc.safe_apply(filter_table("-A INPUT -j nosuch"), timeout=60):
        pass
    for settings in (
        {"timeout": 0},
        {"timeout": "1"},
        {"check": 1},
        {"directory": "/proc/nosuch"},
        {"netns": "/nonexistent"},
        {"only": "nosuch"},
    ):
        with pytest.raises(iptc.IPTCError), iptc.safe_apply(BOTH, **settings):
            pass
    # the watchdog cannot be started
    for program in ("/bin/false", "/nonexistent", ""):
        monkeypatch.setattr(sys, "executable", program)
        with pytest.raises(iptc.IPTCError), iptc.safe_apply(BOTH, timeout=60):
            pass
    assert everything(host) == before


def test_the_folder_is_for_its_owner_alone(host, folder):
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(iptc.AccessDenied, match="only its owner"), iptc.safe_apply(BOTH, timeout=60):
        pass
    assert not changed(host)


def test_old_notes_are_deleted(host, folder):
    folder.mkdir(0o700)
    for name in ("netns-1", "netns-1.socket", "netns-2", "other"):
        (folder / name).write_text("x")
        if name != "netns-2":
            os.utime(folder / name, (1, 1))
    with iptc.safe_apply(filter_table(), timeout=60):
        pass
    assert {path.name for path in folder.iterdir() if path.name[:7] in ("netns-1", "netns-2", "other")} >= {
        "netns-2",
        "other",
    }
    assert not (folder / "netns-1").exists() and not (folder / "netns-1.socket").exists()


def test_what_others_do_to_chains_that_are_kept_stays(host, folder):
    with rollback.start(filter_table("-A INPUT -j DROP"), 60, keep="old") as change:
        change.begin()
        host.iptables("-A old -j ACCEPT")
        host.iptables("-t nat -A POSTROUTING -j ACCEPT")
        change.roll_back()
    assert host.rules(table="filter") == [ports(1)[0], "-A INPUT -j old", "-A old -j DROP", "-A old -j ACCEPT"]
    assert host.rules(table="nat") == ["-A POSTROUTING -j ACCEPT"]


def test_in_another_namespace(host, folder):
    with running("unshare", "-n", "sh", "-c", "echo; exec sleep 600") as process:
        before = everything(host)
        with rollback.start(BOTH, 60, netns=process.pid) as change, rollback.start(filter_table(), 60) as here:
            change.begin()
            here.begin()
            assert pending.status()["state"] == pending.status(process.pid)["state"] == "pending"
            here.roll_back()
            assert everything(host) == before
            assert iptc.Ruleset.live(True, netns=process.pid)[6, "filter"]["INPUT"].rules == [
                "-p tcp -m tcp --dport 3 -j ACCEPT"
            ]
            pending.confirm(process.pid)
            assert change.wait() == "confirmed"


# ---------------------------------------------------- whatever becomes of us

PROGRAM = """
import os, signal, sys
from iptc.managing import rollback, watchdog
text, seconds, step = open(sys.argv[1]).read(), float(sys.argv[2]), sys.argv[3]

def die(*_):
    os.killpg(0, signal.SIGKILL)

if step == "starting":
    watchdog.send = die
change = rollback.start(text, seconds)
if step == "armed":
    die()
if step == "begun":
    change._say("go")
    die()
change.begin()
print("applied", flush=True)
if step == "refusing":
    change._say("roll back")
    die()
if step == "confirming":
    change._say("confirm", "us")
    die()
if step == "applied":
    die()
change.wait()
"""


@pytest.mark.parametrize(
    "step, state",
    [
        ("starting", None),
        ("armed", "not begun"),
        ("begun", "rolled back"),
        ("applied", "rolled back"),
        ("refusing", "rolled back"),
        ("confirming", "confirmed"),
    ],
)
def test_killed_at_each_step_with_all_its_group(host, folder, wanted, step, state):
    before = everything(host)
    # a process group with a shell and its children, as in a login session
    seconds = 60 if state == "confirmed" else SECONDS
    command = f'"$0" -c "$1" {wanted} {seconds} {step}; echo survived'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, PROGRAM], capture_output=True, text=True, start_new_session=True
    )
    assert done.returncode == -signal.SIGKILL and "survived" not in done.stdout
    if state is not None:
        assert over() == state
    assert changed(host) if state == "confirmed" else everything(host) == before


def test_who_is_gone_before_the_watchdog_is_ready_leaves_nothing_armed(host, folder, monkeypatch):
    before = everything(host)

    def leave(channel):
        channel.close()
        return None, None

    monkeypatch.setattr(watchdog, "receive", leave)
    with pytest.raises(iptc.IPTCError, match="could not be started"):
        rollback.start(BOTH, 60)
    assert over() == "not begun" and everything(host) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_the_watchdog_heeds_no_signal(host, folder, number):
    before = everything(host)
    with rollback.start(BOTH, 60) as change:
        change.begin()
        pid = pending.status()["pid"]
        os.kill(pid, number)
        # the watchdog has a session of its own, and no descriptor that belongs to another process
        with open(f"/proc/{pid}/stat") as file:
            sid = int(file.read().rpartition(")")[2].split()[3])
        assert sid != os.getsid(0) and os.readlink(f"/proc/{pid}/cwd") == "/"
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert [
            link for link in links if not link.startswith(("/dev/null", "socket:", str(folder), "anon_inode"))
        ] == []
        change.roll_back()
    assert everything(host) == before


def test_a_watchdog_that_is_killed_is_told_of(host, folder):
    with rollback.start(BOTH, 60) as change:
        change.begin()
        os.kill(pending.status()["pid"], signal.SIGKILL)
        with pytest.raises(iptc.IPTCError, match="nothing will be taken back"):
            change.wait()
    # it closes its files one after the other
    until(lambda: pending.status()["state"] == "unwatched")
    assert changed(host)
    done = run("confirm", "--status")
    assert done.returncode == 1 and "nobody is left to take it back" in done.stdout
    # the next change can be made
    with iptc.safe_apply(filter_table(), timeout=60):
        pass
    assert host.rules(table="filter") == []


def test_all_it_needs_is_loaded_before(host, folder, tmp_path, wanted):
    before = everything(host)
    copy = tmp_path / "copy"
    shutil.copytree(
        os.path.join(ROOT, "iptc"), copy / "iptc", ignore=shutil.ignore_patterns("*.c", "*.pyx", "__pycache__")
    )
    program = PROGRAM.replace("change.wait()", "import shutil; shutil.rmtree(sys.argv[4]); print(change.wait())")
    done = subprocess.run(
        [sys.executable, "-c", program, wanted, str(SECONDS), "none", str(copy)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(copy)},
    )
    assert done.stdout == "applied\nrolled back\n", done.stderr
    assert everything(host) == before and not copy.exists()


@pytest.mark.one_backend("legacy")  # nf_tables has no lock
def test_taken_back_though_somebody_hangs_with_the_lock(host, folder):
    before = everything(host)
    with rollback.start(BOTH, 60) as change:
        change.begin()
        with running("flock", "--no-fork", os.environ["XTABLES_LOCKFILE"], "sh", "-c", "echo; exec sleep 600"):
            change.roll_back()
            assert change.state == "rolled back"
    assert everything(host) == before


@pytest.mark.one_backend("legacy")
def test_the_lock_is_that_of_the_caller(host, folder, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XTABLES_LOCKFILE", "a.lock")
    with iptc.safe_apply(filter_table(), timeout=60):
        assert os.listdir() == ["a.lock"] and not os.path.exists("/a.lock")
    with iptc.safe_apply(BOTH, timeout=60, lock_file="b.lock"):
        assert sorted(os.listdir()) == ["a.lock", "b.lock"]
    with iptc.safe_apply(filter_table(), timeout=60, lock_file=False):
        pass
    assert sorted(os.listdir()) == ["a.lock", "b.lock"]


@pytest.mark.one_backend("legacy")
def test_the_lock_is_waited_for(host, folder):
    with running("flock", "--no-fork", os.environ["XTABLES_LOCKFILE"], "sh", "-c", "echo; exec sleep 600"):
        with rollback.start(BOTH, 60, wait=0.01) as change:
            with pytest.raises(iptc.LockTimeout):
                change.begin()
        # no process waits for the lock any more, so nothing can be changed later
        change = rollback.start(BOTH, 60)
        change._say("go")
        change.close()
        assert over() == "not begun"
        with subprocess.Popen(
            [sys.executable, "-m", "iptc", "apply", "--timeout", "60", "-"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as tool:
            tool.stdin.write(BOTH.encode())
            tool.stdin.close()
            until(lambda: (pending.slot_of().read()[0] or {}).get("state") == "armed")
            tool.send_signal(signal.SIGINT)
        # if it is interrupted before it begins, it ends like any command
        assert tool.returncode in (255, 128 + signal.SIGINT) and over() == "not begun"
    assert not changed(host)


def test_interrupted_before_the_watchdog_was_told_to_begin(host, folder):
    with rollback.start(BOTH, 60) as change:
        change.state = "begun"  # the state after begin() was interrupted
        change.roll_back()
        assert change.state == "rolled back" and over() == "not begun"
    assert not changed(host)


@pytest.mark.parametrize("number", range(100 if STRESS else 2))
def test_killed_at_any_moment(host, folder, wanted, number):
    """The tool, its shell and the whole session are killed at a random moment of an unconfirmed apply."""
    before = everything(host)
    dice = random.Random(number)
    command = ["sh", "-c", '"$0" -m iptc apply --timeout 1 "$1"; echo survived', sys.executable, wanted]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(dice.random() * (1.5 if STRESS else 0.3))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    slot = pending.slot_of()
    until(lambda: not slot.read()[1])
    assert everything(host) == before


# --------------------------------------------------------- on the command line


def test_confirmed_from_another_session(host, folder, wanted, tmp_path):
    saved = tmp_path / "saved"
    command = [sys.executable, "-m", "iptc", "apply", wanted, "--timeout", "60", "--save", str(saved)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as tool:
        until(lambda: (pending.status() or {}).get("state") == "pending")
        done = run("confirm", "--status")
        assert done.returncode == 0 and re.match(
            r"pending: .*; rolled back in \d+ s unless confirmed; made by iptc apply /", done.stdout
        )
        assert json.loads(run("confirm", "--status", "--format", "json").stdout)["state"] == "pending"
        done = run("confirm", start_new_session=True)
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("confirmed: ")
        out, err = tool.communicate()
    assert (tool.returncode, err) == (0, "") and re.search(r"confirmed by process \d+\n$", out)
    assert changed(host) and over() == "confirmed"
    assert iptc.Ruleset.read(saved) == iptc.Ruleset.live() and list(iptc.Ruleset.read(saved))[-1][0] == 6
    done = run("confirm")
    assert done.returncode == 1 and "no change waits" in done.stderr
    done = run("confirm", "--status")
    assert done.returncode == 1 and done.stdout.endswith("confirmed\n")


def test_a_confirmation_that_proves_nothing_is_warned_of(host, folder, wanted):
    tool = f"{sys.executable} -m iptc"
    command = f"{tool} apply {wanted} --timeout 60 & while ! {tool} confirm; do :; done; wait"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, start_new_session=True, stdin=subprocess.DEVNULL
    )
    assert "warning: this is the session that applied the change" in done.stderr and changed(host)
    # a session that began before the change
    note = {"session": {"sid": 1, "tty": 2, "audit": 3}, "ticks": 100}
    assert (
        pending.proves_nothing({"sid": 5, "tty": None, "audit": None, "since": 99}, note)
        == "this session began before the change"
    )
    assert pending.proves_nothing({"sid": 5, "tty": 6, "audit": 7, "since": 101}, note) is None
    assert (
        pending.proves_nothing({"sid": 5, "tty": None, "audit": 3, "since": 101}, note)
        == "this is the session that applied the change"
    )


def test_nothing_is_confirmed_before_it_is_made(host, folder):
    with rollback.start(BOTH, 60) as change:
        assert run("confirm").returncode == 1 and pending.status()["state"] == "armed" and change.state == "armed"
        change.begin()
        assert change.look() == "pending" and run("confirm").returncode == 0
    assert changed(host)


def test_confirm_without_a_pending_change_ends_with_1(host, folder):
    done = run("confirm", "--status")
    assert (done.returncode, done.stdout) == (1, "nothing waits to be confirmed\n")
    assert json.loads(run("confirm", "--status", "--format", "json").stdout) == {"schema": 1, "state": "none"}
    assert run("confirm").returncode == 1


def test_without_a_terminal_it_is_taken_back(host, folder, wanted):
    before = everything(host)
    done = run("apply", wanted, "--timeout", str(SECONDS))
    assert (
        done.returncode == 255
        and "iptc confirm" in done.stdout
        and done.stderr == "iptc: not confirmed: the rules are what they were\n"
    )
    assert everything(host) == before


def test_confirmed_by_a_command(host, folder, wanted, tmp_path):
    before = everything(host)
    assert run("apply", wanted, "--timeout", "60", "--check", "exit 1").returncode == 255 and everything(host) == before
    # a command that does not end is killed when its time is over
    noted = tmp_path / "pid"

    def hang(seconds):
        done = run("apply", wanted, "--timeout", str(seconds), "--check", f"echo $$ >{noted}; sleep 600 & wait")
        assert done.returncode == 255
        return noted.exists() and noted.read_text().strip() or None

    pid = with_time_enough(hang)
    assert everything(host) == before and not os.path.exists(f"/proc/{pid}")
    done = run("apply", wanted, "--timeout", "60", "--check", "true")
    assert done.returncode == 0 and done.stdout.endswith("confirmed\n") and changed(host)
    assert run("apply", wanted, "--timeout", "60").stdout == "nothing to do\n"
    (tmp_path / "bad").write_text("*filter\n-A INPUT --nosuch\nCOMMIT\n")
    assert run("apply", str(tmp_path / "bad"), "--timeout", "60").returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [["--timeout", "0"], ["--timeout", "x"], ["--check", "true"], ["--timeout", "1", "--state-dir", "/dev/null"]],
)
def test_bad_usage(host, folder, wanted, arguments):
    done = run("apply", wanted, *arguments)
    assert done.returncode in (1, 2) and not changed(host) and done.stdout == ""
    assert run("apply").returncode == 2


AS_AT_A_TERMINAL = "import sys; sys.stdin.isatty = lambda: True; import iptc.cli; sys.exit(iptc.cli.main())"


def asked(descriptor):
    """Wait until the program asks its question. Return False if it ends without asking."""
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the program at the other end of the terminal has ended
        while piece := os.read(descriptor, 1024):
            shown += piece
            if b"(y/N)" in shown:
                return True
    return False


def at_pipes(wanted, answer, seconds):
    """The same as `at_a_terminal`, with the signals that a terminal sends sent by hand."""
    command = [sys.executable, "-c", AS_AT_A_TERMINAL, "apply", wanted, "--timeout", seconds]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        if not asked(process.stdout.fileno()):
            process.wait()
            return None
        if answer is None or answer == b"\x03":
            process.send_signal(signal.SIGHUP if answer is None else signal.SIGINT)
        elif answer:
            os.write(process.stdin.fileno(), answer)
        return process.wait()


def at_a_terminal(wanted, answer, seconds="60"):
    """Run `iptc apply` at a terminal of its own, and give it *answer* when it asks; None: the terminal hangs up. Its exit
    status; None where it did not come to ask."""
    try:
        pid, terminal = pty.fork()
    except OSError as error:
        print(f"no pseudo-terminal ({error}): pipes that say they are one stand in for it")
        return at_pipes(wanted, answer, seconds)
    if not pid:
        os.execv(sys.executable, [sys.executable, "-m", "iptc", "apply", wanted, "--timeout", seconds])
    if not asked(terminal):
        os.waitpid(pid, 0)
        os.close(terminal)
        return None
    if answer is None:
        os.close(terminal)
    else:
        os.write(terminal, answer)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if answer is not None:
        os.close(terminal)
    return status


def test_asked_at_a_terminal(host, folder, wanted):
    before = everything(host)
    assert at_a_terminal(wanted, b"n\n") == at_a_terminal(wanted, b"\n") == 255 and everything(host) == before
    assert with_time_enough(lambda seconds: at_a_terminal(wanted, b"", str(seconds))) == 255
    assert everything(host) == before
    assert at_a_terminal(wanted, b"\x03") == 255 and everything(host) == before
    assert at_a_terminal(wanted, b"y\n") == 0 and changed(host)


def test_a_terminal_that_hangs_up_confirms_nothing(host, folder, wanted):
    before = everything(host)
    assert with_time_enough(lambda seconds: at_a_terminal(wanted, None, str(seconds))) != 0
    assert over() == "rolled back" and everything(host) == before
    # whoever logs in again can confirm
    at_a_terminal(wanted, None)
    assert run("confirm", start_new_session=True).returncode == 0
    assert over() == "confirmed" and changed(host)


# --------------------------------------------------------------------- flows


def test_flows_that_only_deleted_rules_had_let_in(host, folder, tmp_path):
    import socket

    host.run("ip", "link", "set", "lo", "up")
    state = "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    rules = [
        state,
        "-A INPUT -i lo -p tcp -m tcp --dport 2222 -j ACCEPT",
        "-A INPUT -p tcp -m tcp --dport 2223 -j ACCEPT",
    ]
    host.restore(filter_table(*rules, policies=("DROP", "ACCEPT", "ACCEPT")))
    with socket.create_server(("127.0.0.1", 2222)) as one, socket.create_server(("127.0.0.1", 2223)) as other:
        held = []
        for server, count in ((one, 2), (other, 1)):
            for _ in range(count):
                client = socket.create_connection(server.getsockname())
                held += [client, server.accept()[0]]
                client.send(b"x")
                held[-1].recv(1)
                held[-1].send(b"y")
                client.recv(1)
        path = tmp_path / "fewer"
        path.write_text(filter_table(state, rules[2], policies=("DROP", "ACCEPT", "ACCEPT")))
        said = "2 established flows that only deleted rules had let in may go on\n"
        assert said in run("apply", str(path), "--timeout", "60", "--check", "false").stdout
        done = run("apply", str(path))
        assert (done.returncode, done.stdout) == (0, "1 rule removed\n" + said)
        # another rule accepts these flows, so no warning is printed
        path.write_text(filter_table(state, "-A INPUT -s 127.0.0.0/8 -j ACCEPT", policies=("DROP", "ACCEPT", "ACCEPT")))
        assert run("apply", str(path)).stdout == "1 rule changed\n"
        by_netlink = sorted(flow for flow in flows._from_netlink())
        with planning.Place(None).open() as there:
            assert sorted(flows._flows(there, True)) == by_netlink and len(by_netlink) == 3
        for end in held:
            end.close()


def test_what_is_known_of_a_flow_and_a_rule():
    ssh = flows.Flow(4, 6, 0x0A000001, 0x0A000002, 40000, 22)

    def matches(text, flow=ssh):
        return flows._Rule(text).matches(flow)

    for text in (
        "",
        "-s 10.0.0.0/8",
        "-d 10.0.0.2/32 -p tcp -m tcp --dport 22",
        "! -s 10.0.0.2/32",
        "-p tcp -m multiport --dports 1:21,22",
        "-m conntrack --ctstate NEW,RELATED",
        "! -p udp",
        "-p tcp -m tcp --tcp-flags SYN,RST SYN",
        '-m comment --comment "a b"',
        "-p tcp -m tcp ! --sport 1:1023",
        "-p tcp -m multiport --ports 22",
    ):
        assert matches(text) is True, text
    for text in (
        "-s 11.0.0.0/8",
        "-p udp",
        "-p tcp -m tcp --dport 23",
        "-m state --state ESTABLISHED",
        "! -d 10.0.0.2/32",
        "-i lo -p udp",
    ):
        assert matches(text) is False, text
    for text in (
        "-i eth0",
        "-m mark --mark 0x1",
        "-p nosuch",
        "-s 10.0.0.1/255.0.255.0",
        "-m string --string \"it's",
        "-s",
    ):
        assert matches(text) is None, text
    rule = flows._Rule("-p tcp -m hashlimit --hashlimit-upto 5/min --hashlimit-name x -g web")
    assert (rule.target, rule.goto, rule.matches(ssh)) == ("web", True, None)
    assert flows._Rule('-i eth0 -j LOG --log-prefix "it\'s"').target == "LOG"


def test_flows_are_followed_through_chains(host, folder, monkeypatch):
    """Whether what a deleted rule let in would still be let in, by whatever chain."""
    flow = flows.Flow(4, 6, 1, 2, 40000, 22)
    monkeypatch.setattr(flows, "_flows", lambda there, is_here: [flow])
    monkeypatch.setattr(flows, "_local_addresses", lambda there: {2})
    drop = ("DROP", "ACCEPT", "ACCEPT")
    chains = ":web - [0:0]", ":other - [0:0]"
    host.restore(filter_table(*chains, "-A INPUT -j web", "-A web -p tcp -m tcp --dport 22 -j ACCEPT", policies=drop))
    lost = "1 established flow that only deleted rules had let in may go on"
    ssh = "-p tcp -m tcp --dport 22"
    for rules, said in (
        (["-A INPUT -j web"], lost),
        (["-A INPUT -j web", "-A INPUT -p tcp -j ACCEPT"], None),
        (["-A INPUT -j other", f"-A other {ssh} -j ACCEPT"], None),
        (["-A INPUT -j other", "-A other -p udp -j ACCEPT"], lost),
        (["-A INPUT -j other", f"-A other {ssh} -j RETURN", "-A other -p tcp -j ACCEPT"], lost),
        (["-A INPUT -j other", f"-A other {ssh} -j RETURN", "-A INPUT -p tcp -j ACCEPT"], None),
        (["-A INPUT -g other", "-A INPUT -p tcp -j ACCEPT"], lost),
        (["-A INPUT -p udp -g other", "-A INPUT -p tcp -j ACCEPT"], None),
        (["-A INPUT -p tcp -j DROP", "-A INPUT -p tcp -j ACCEPT"], lost),
        # it is not known whether this rule drops it
        (["-A INPUT -i eth0 -j DROP", "-A INPUT -p tcp -j ACCEPT"], None),
    ):
        assert flows.report(iptc.plan(filter_table(*chains, *rules, policies=drop))) == said, rules


def test_flows_are_counted_no_longer_than_a_moment(host, folder, monkeypatch):
    host.restore(filter_table("-A INPUT -p tcp -j ACCEPT", policies=("DROP", "ACCEPT", "ACCEPT")))
    plan = iptc.plan(filter_table(policies=("DROP", "ACCEPT", "ACCEPT")))
    many = [flows.Flow(4, 6, 1, 2, port, 22) for port in range(1000)]
    monkeypatch.setattr(flows, "_flows", lambda there, is_here: many)
    monkeypatch.setattr(flows, "_local_addresses", lambda there: {2})
    assert flows.report(plan) == "1000 established flows that only deleted rules had let in may go on"
    monkeypatch.setattr(flows, "_PATIENCE", -1)
    assert flows.report(plan) == "at least 0 established flows that only deleted rules had let in may go on"

    def fail(there, is_here):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(flows, "_flows", fail)
    assert (
        flows.report(plan)
        == "how many established flows only deleted rules had let in is not known: Operation not permitted"
    )
