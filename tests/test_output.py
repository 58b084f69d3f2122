"""Where the commands of `iptc` read and write: files of every kind, and standard streams in every state."""

import contextlib
import errno
import os
import resource
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading

import pytest
from conftest import shown_at_a_terminal
from untried import has_other_users

import iptc
from iptc.cli import files

OLD, NEW = "what was there before\n", "*filter\nCOMMIT\n" * 50
ROOT = os.path.dirname(os.path.dirname(iptc.__file__))
NOBODY = 65534


@pytest.fixture
def folder(tmp_path):
    """A folder with the file `rules`."""
    (tmp_path / "rules").write_text(OLD)
    return tmp_path


def environment():
    """That of the test, in which the command is found."""
    return {**os.environ, "PYTHONPATH": ROOT}


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def as_nobody(function):
    """Run *function* in a child without privilege; the exit status of the child."""
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os._exit(function())
        except iptc.IPTCError:
            os._exit(90)
        finally:
            os._exit(91)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# ------------------------------------------------------------------------ files


def test_a_new_file_is_its_owners(tmp_path):
    files.write_file(str(tmp_path / "new"), NEW)
    assert contents(tmp_path) == {"new": NEW} and stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_a_file_is_replaced_and_keeps_its_mode_owner_and_attributes(folder):
    path = folder / "rules"
    owner, other = (NOBODY, 12345) if has_other_users() else (os.getuid(), os.getuid())
    os.chown(path, owner, owner)
    path.chmod(0o440)
    # user::r-- group::r-- user OTHER:rw- mask::rw- other::---
    entries = [
        (0x01, 4, 0xFFFFFFFF),
        (0x02, 6, other),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 6, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    ]
    acl = b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little") for tag, perm, who in entries
    )
    attributes = {"user.origin": b"here", "system.posix_acl_access": acl}
    for name, value in attributes.items():
        try:
            os.setxattr(path, name, value)
        except OSError as error:
            assert error.errno == errno.ENOTSUP
    before, had = path.stat(), {name: os.getxattr(path, name) for name in os.listxattr(path)}
    with open(path) as reader:
        files.write_file(str(path), NEW)
        assert reader.read() == OLD  # whoever reads the old one reads it to its end
    after = path.stat()
    assert contents(folder) == {"rules": NEW}
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, owner, owner)
    assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == had


def test_a_link_stays_a_link(folder):
    (folder / "inner").mkdir()
    (folder / "inner" / "link").symlink_to("../rules")
    files.write_file(str(folder / "inner" / "link"), NEW)
    assert os.listdir(folder / "inner") == ["link"] and (folder / "inner" / "link").is_symlink()
    assert (folder / "rules").read_text() == NEW and sorted(os.listdir(folder)) == ["inner", "rules"]
    (folder / "inner" / "to-nothing").symlink_to("../new")
    files.write_file(str(folder / "inner" / "to-nothing"), NEW)
    assert (folder / "inner" / "to-nothing").is_symlink() and (folder / "new").read_text() == NEW


def test_hard_links_stay_together(folder):
    os.link(folder / "rules", folder / "other")
    files.write_file(str(folder / "rules"), NEW)
    assert contents(folder) == {"rules": NEW, "other": NEW} and (folder / "other").stat().st_nlink == 2
    files.write_file(str(folder / "other"), "")
    assert contents(folder) == {"rules": "", "other": ""}


@pytest.mark.needs("other users")
def test_a_file_of_somebody_else_stays_theirs(folder):
    path = folder / "rules"
    path.chmod(0o666)
    folder.chmod(0o777)
    for part in folder.parents:
        if part.stat().st_uid == os.getuid() and part != part.parent:
            os.chmod(part, stat.S_IMODE(part.stat().st_mode) | 0o011)
    assert as_nobody(lambda: files.write_file(str(path), NEW) or 0) == 0
    assert contents(folder) == {"rules": NEW} and path.stat().st_uid == os.getuid()
    # what they may not write they may not replace either, though the folder would let them
    path.chmod(0o644)
    assert as_nobody(lambda: files.write_file(str(path), OLD) or 0) == 90
    assert contents(folder) == {"rules": NEW}
    # their own file that is read-only
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o444)
    assert as_nobody(lambda: files.write_file(str(path), OLD) or 0) == 90
    # a folder in which they can make no other file
    path.chmod(0o600)
    folder.chmod(0o755)
    assert as_nobody(lambda: files.write_file(str(path), OLD) or 0) == 0
    assert contents(folder) == {"rules": OLD}


@pytest.mark.parametrize("links", [1, 2])
def test_without_room_the_old_file_stays(folder, links):
    if links == 2:
        os.link(folder / "rules", folder / "other")
    before = contents(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(iptc.IPTCError, match="can't write .*rules: File too large") as raised:
            files.write_file(str(folder / "rules"), NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(raised.value.__cause__, OSError)
    assert contents(folder) == before


@pytest.mark.parametrize("links", [0, 1, 2])
def test_interrupted_at_any_line_it_is_the_old_file_or_the_new(folder, links):
    path = folder / "rules"
    if links == 2:
        os.link(path, folder / "other")
    names = set(os.listdir(folder)) | {"rules"}
    left = None

    def trace(frame, event, argument):
        nonlocal left
        if frame.f_code.co_filename != files.__file__:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    for number in range(1000):
        left = number
        if links:
            path.write_text(OLD)
        else:
            path.unlink(missing_ok=True)
        tracing = sys.gettrace()
        sys.settrace(trace)
        try:
            files.write_file(str(path), NEW)
            break
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(tracing)
        assert set(os.listdir(folder)) <= names
        assert not path.exists() and not links or path.read_text() in (OLD, NEW)
    assert 20 < number < 999 and path.read_text() == NEW


def test_devices_and_pipes_are_written_to(folder):
    os.mkfifo(folder / "pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append((folder / "pipe").read_text()))
    reader.start()
    files.write_file(str(folder / "pipe"), NEW * 100)
    reader.join()
    assert found == [NEW * 100] and stat.S_ISFIFO((folder / "pipe").stat().st_mode)
    files.write_file("/dev/null", NEW)
    with pytest.raises(iptc.IPTCError, match="can't write /dev/full: No space left on device"):
        files.write_file("/dev/full", NEW)
    assert all(stat.S_ISCHR(os.stat(path).st_mode) for path in ("/dev/null", "/dev/full"))
    assert not [name for name in os.listdir("/dev") if name.startswith(".iptc")]
    # what a descriptor writes to is not replaced under it
    with open(folder / "rules", "a") as file:
        files.write_file(f"/proc/self/fd/{file.fileno()}", "a\n")
        file.write("b\n")
    assert (folder / "rules").read_text().endswith("b\n") and sorted(os.listdir(folder)) == ["pipe", "rules"]


def test_what_is_no_file_is_refused(folder):
    (folder / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(folder):
        listener.bind("socket")  # the address of a socket is at most 107 bytes
    for name, reason in (
        (".", "Is a directory"),
        ("new/", "No such file"),
        ("loop", "Too many levels"),
        ("no/where", "No such file"),
        ("socket", "No such device"),
        ("rules/x", "Not a directory"),
    ):
        with pytest.raises(iptc.IPTCError, match=reason):
            files.write_file(f"{folder}/{name}", NEW)
    assert sorted(os.listdir(folder)) == ["loop", "rules", "socket"]


LONG = "-A INPUT -p udp -j ACCEPT\n" * 20000
"""More than a pipe or a socket holds."""


def test_a_signal_that_ends_a_command_is_its_exit_status(host, folder):
    host.restore(f"*filter\n{LONG}COMMIT\n")
    os.mkfifo(folder / "pipe")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        writer = subprocess.Popen(
            [sys.executable, "-m", "iptc", "save", "-f", str(folder / "pipe")],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with open(folder / "pipe", "rb") as reader:
            # it has begun, and cannot end
            assert reader.read(1)
            writer.send_signal(number)
            assert writer.communicate() == (b"", b"") and writer.returncode == 128 + number
    assert {"pipe", "rules"} <= set(os.listdir(folder)) <= {"pipe", "rules", "xtables.lock"}


def wait_until_it_waits(process):
    """Wait until *process* sleeps, or has ended."""
    while True:
        with open(f"/proc/{process.pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] in "SZ":
                return
        os.sched_yield()


# ------------------------------------------------------------- standard streams


@pytest.fixture
def shell(host):
    """Run a line of shell, in which `iptc` is the command: (exit status, stdout, stderr)."""
    host.iptables("-A INPUT -p tcp -j ACCEPT")

    def run(line, more=()):
        line = f'iptc() {{ {shlex.quote(sys.executable)} -m iptc "$@"; }}; {line}'
        command = ["bash", "-c", line]
        done = subprocess.run(
            command, env={**environment(), **dict(more)}, capture_output=True, stdin=subprocess.DEVNULL
        )
        return done.returncode, done.stdout, done.stderr

    return run


EMPTY = "<(echo '*filter'; echo COMMIT)"
COMMANDS = [
    *("save", "list", "list --format json", "counters", "--help", "save --help", "--version", "doctor", "top --once"),
    *(f"plan {EMPTY}", f"plan --color always {EMPTY}", f"plan --format json {EMPTY}", f"diff live {EMPTY}"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_output_that_cannot_be_written_is_one_line_and_an_exit_status(shell, command):
    for redirected, reason in (
        (">&-", "Bad file descriptor"),
        ("> /dev/full", "No space left on device"),
        ("1< /dev/null", "Bad file descriptor"),
    ):
        assert shell(f"iptc {command} {redirected}") == (
            2 if command.startswith(("diff", "plan")) else 1,  # of these 1 is no trouble
            b"",
            f"iptc: can't write to standard output: {reason}\n".encode(),
        )


def test_a_reader_that_goes_away_ends_it_silently(shell):
    line = "iptc counters --interval 0.001 --count 100000 | head -n 1; exit ${PIPESTATUS[0]}"
    code, out, error = shell(line)
    assert (code, error) == (128 + signal.SIGPIPE, b"") and out.startswith(b"Chain INPUT")


@pytest.mark.parametrize("command", ["restore", "restore --both", "check", "check --syntax", "check --syntax -"])
def test_input_that_cannot_be_read_is_one_line_and_an_exit_status(shell, host, command):
    assert shell(f"iptc {command} <&-") == (1, b"", b"iptc: can't read standard input: Bad file descriptor\n")
    assert shell(f"iptc {command} 0> /dev/null") == (1, b"", b"iptc: can't read the ruleset: Bad file descriptor\n")
    # memory that is not there: EIO
    code, out, error = shell(f"iptc {command} < /proc/self/mem")
    assert (code, out, error) == (1, b"", b"iptc: can't read the ruleset: Input/output error\n")
    assert host.rules() == ["-A INPUT -p tcp -j ACCEPT"]


def test_no_stream_at_all(shell, host):
    assert shell("echo '*filter' > /dev/null; iptc restore <&- >&- 2>&-") == (1, b"", b"")
    assert shell("iptc save >&- 2>&-")[0] == shell("iptc save > /dev/full 2> /dev/full")[0] == 1
    assert shell("iptc nosuch 2>&-")[0] == shell("iptc nosuch 2> /dev/full")[0] == 2
    assert host.rules() == ["-A INPUT -p tcp -j ACCEPT"]


def test_nothing_gets_the_number_of_a_closed_stream(shell, tmp_path):
    path = tmp_path / "rules"
    assert shell(f"iptc save -t nosuch -f {shlex.quote(str(path))} >&- 2>&-")[0] != 0 and not path.exists()
    assert shell(f"iptc save -f {shlex.quote(str(path))} <&- >&- 2>&-") == (0, b"", b"")
    # but for the moment, in the first line and in the last
    assert path.read_bytes().splitlines()[1:-1] == shell("iptc save")[1].splitlines()[1:-1]


@pytest.mark.parametrize("command", ["restore", "restore --both"])
def test_input_that_does_not_wait_is_waited_for(host, command):
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    reader = subprocess.Popen(
        [sys.executable, "-m", "iptc", *command.split()], env=environment(), stdin=theirs, stderr=subprocess.PIPE
    )
    theirs.close()
    wait_until_it_waits(reader)
    both = ["# IPv6\n", "*filter\nCOMMIT\n"] if "--both" in command else []
    for part in ("# IPv4\n*filter\n-A INPUT -p t", "cp -j DROP\n", "COMMIT\n", *both):
        ours.sendall(part.encode())
        wait_until_it_waits(reader)
    ours.close()
    assert (reader.communicate()[1], reader.returncode) == (b"", 0)
    assert host.rules() == ["-A INPUT -p tcp -j DROP"]


def test_output_that_does_not_wait_is_waited_for(host):
    host.restore(f"*filter\n{LONG}COMMIT\n")
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    writer = subprocess.Popen(
        [sys.executable, "-m", "iptc", "save"], env=environment(), stdout=theirs, stderr=subprocess.PIPE
    )
    theirs.close()
    with ours.makefile() as file:
        text = file.read(1)
        wait_until_it_waits(writer)
        text += file.read()
    assert (writer.communicate()[1], writer.returncode) == (b"", 0)
    assert [line for line in text.splitlines() if not line.startswith("#")] == host.save()


STRICT = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}


def test_bytes_of_a_comment_are_kept_in_any_locale(shell, host):
    comment = b"caf\xe9 \x1b[31m\tred\r"
    rule = b'-A INPUT -m comment --comment "' + comment + b'" -j DROP'
    host.restore(b"*filter\n".decode() + rule.decode("utf-8", "surrogateescape") + "\nCOMMIT\n")
    for command in ("save", "list", "counters"):
        code, out, error = shell(f"iptc {command}", STRICT)
        assert (code, error) == (0, b"") and comment in out
    code, out, error = shell("iptc list --format json INPUT", STRICT)
    assert (code, error) == (0, b"") and b"caf\\udce9 \\u001b[31m\\tred\\r" in out
    # named in an error
    code, out, error = shell("printf '*filter\\n-A INPUT --\\xe9\\x1b\\nCOMMIT\\n' | iptc check --syntax", STRICT)
    assert (code, out) == (2, b"") and b'unknown option "--\\xe9\\x1b"' in error and error.count(b"\n") == 1
    code, out, error = shell("iptc list -t $'caf\\xe9\\r'", STRICT)
    assert code != 0 and out == b"" and error.count(b"\n") == 1 and b"\xe9" not in error and b"\r" not in error


def test_a_terminal_gets_no_control_characters(host):
    host.restore('*filter\n-A INPUT -m comment --comment "a \x1b[31m\x07\u202e\x9b\xe9 \\" b" -j DROP\nCOMMIT\n')
    for command in ("save", "list", "counters"):
        status, seen = shown_at_a_terminal(
            "import sys, iptc.cli; sys.exit(iptc.cli.main())", command, env=environment()
        )
        assert status == 0 and '--comment "a \\x1b[31m\\x07\\u202e\\x9b\xe9 \\" b"'.encode() in seen
        assert all(byte >= 0x20 or byte in b"\r\n" for byte in seen)


# ---------------------------------------------------------------- the release


def test_version_prints_the_release_of_iptc(shell):
    assert shell("iptc --version") == (0, f"iptc {iptc.__version__}\n".encode(), b"")
    # the release of python-iptables whose API this is, for programs that compare it
    assert iptc.version.__version__ == "1.2.0"
