"""The command `iptc`: what it prints, where, and how it ends."""

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import PATIENCE, shown_at_a_terminal

import iptc


@pytest.fixture
def command(host):
    """Run `python -m iptc` in the test's namespace. Return (exit status, stdout, stderr)."""
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(iptc.__file__))}

    def run(*arguments, text=""):
        command = [sys.executable, "-m", "iptc", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, input=text)
        return done.returncode, done.stdout, done.stderr

    return run


def test_counters_as_a_table(host, command):
    host.iptables("-A", "INPUT", "-c", "12", "345", "-p", "tcp", "-m", "comment", "--comment", "a b", "-j", "DROP")
    code, out, err = command("counters")
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        "Chain INPUT (policy ACCEPT 0 packets, 0 bytes)",
        "    pkts    bytes rule",
        '      12      345 -p tcp -m comment --comment "a b" -j DROP',
    ]


@pytest.mark.one_backend("legacy")  # ip6tables-nft 1.8.9 does not heed -c
def test_counters_as_json(host, command, ipv6):
    host.iptables("-A INPUT -c 12 345 -p tcp", ipv6=ipv6)
    code, out, _ = command("counters", "--format", "json", "--chain", "INPUT", *(["-6"] if ipv6 else []))
    (line,) = out.splitlines()
    said = json.loads(line)
    assert code == 0 and said["table"] == "filter" and said["ip_version"] == (6 if ipv6 else 4)
    assert [chain["name"] for chain in said["chains"]] == ["INPUT"]
    assert said["chains"][0]["rules"] == [
        {"packets": 12, "bytes": 345, "rule": "-p tcp", "target": "", "comment": None}
    ]


def test_counters_again_and_again(host, command):
    host.iptables("-A INPUT -c 12 345 -p tcp")
    # 0 means without a wait
    assert command("counters", "--interval", "0", "--count", "2")[1].count("Chain INPUT") == 2
    code, out, _ = command("counters", "--interval", "0.01", "--count", "3", "--format", "json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(lines) == 3
    assert "added_packets" not in lines[0]["chains"][0]["rules"][0]
    assert lines[2]["chains"][0]["rules"][0]["added_packets"] == 0


@pytest.mark.parametrize(
    "arguments, code, text",
    [
        (["counters", "-t", "nope"], 1, "Table does not exist"),
        (["counters", "--chain", "nope"], 1, "no chain nope"),
        (["counters", "--netns", "nope"], 1, "network namespace nope"),
        (["counters", "--interval=-1"], 2, "not negative"),
        (["counters", "--count", "0"], 2, "at least 1"),
        (["nope"], 2, "invalid choice"),
        ([], 2, "COMMAND"),
    ],
)
def test_errors_go_to_stderr_and_the_exit_code(command, arguments, code, text):
    done = command(*arguments)
    assert done[0] == code and done[1] == "" and text in done[2]


def test_without_the_lock_counters_ends_with_4(command):
    with iptc.state.XTablesLock():
        code, out, err = command("counters", "-w", "0.05")
    assert (code, out) == (4, "") and "xtables lock" in err


RULES = """*filter
:INPUT DROP [1:2]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:web - [0:0]
[3:4] -A INPUT -p tcp -m tcp --dport 80 -m comment --comment "a b" -j web
[0:0] -A web -j ACCEPT
COMMIT
"""


def without_comments(text):
    """Return the lines of a saved ruleset without comments."""
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_list_is_what_iptables_prints(host, command, ipv6):
    # made without the host's tool: ip6tables-nft-restore 1.8.9 loses counters
    iptc.restore(RULES, ipv6, counters=True)
    family = ["-6"] if ipv6 else []
    for arguments, theirs in (
        ([], ["-S"]),
        (["-v"], ["-S", "-v"]),
        (["INPUT"], ["-S", "INPUT"]),
        (["-v", "web"], ["-S", "web", "-v"]),
    ):
        code, out, err = command("list", *family, *arguments)
        assert (code, err) == (0, "") and out == host.iptables(*theirs, ipv6=ipv6)
    code, out, _ = command("list", *family, "--format", "json", "INPUT")
    (chain,) = json.loads(out)["chains"]
    assert (chain["policy"], chain["packets"], chain["bytes"]) == ("DROP", 1, 2)
    assert chain["rules"] == [
        {"packets": 3, "bytes": 4, "rule": '-p tcp -m tcp --dport 80 -m comment --comment "a b" -j web'}
    ]


def test_save_is_what_iptables_save_prints(host, command, ipv6):
    host.restore(RULES, ipv6, ["-c"])
    family = ["-6"] if ipv6 else []
    for arguments, counters in (([], False), (["-c", "-t", "filter"], True)):
        code, out, err = command("save", *family, *arguments)
        assert (code, err) == (0, "")
        assert without_comments(out) == host.save(ipv6, counters)


def test_both_families_in_one_file(host, command, tmp_path):
    host.restore(RULES, False, ["-c"])
    host.restore(RULES.replace("80", "443"), True, ["-c"])
    before = host.save(counters=True), host.save(True, counters=True)
    path = tmp_path / "saved" / "rules"
    path.parent.mkdir()
    assert command("save", "--both", "-c", "-f", str(path)) == (0, "", "")
    assert os.listdir(path.parent) == ["rules"] and path.stat().st_mode & 0o077 == 0
    for ipv6 in (False, True):
        host.iptables("-F", ipv6=ipv6)
    assert command("check", "--both", "-c", str(path)) == (0, "", "")
    assert host.rules() == host.rules(True) == []
    assert command("restore", "--both", "-c", str(path)) == (0, "", "")
    assert before == (host.save(counters=True), host.save(True, counters=True))
    # if the text of one family is wrong, neither family is changed
    path.write_text(path.read_text().replace("--dport 443", "--dport x").replace("--dport 80", "--dport 81"))
    code, out, err = command("restore", "--both", str(path))
    assert (code, out) == (2, "") and "line 7: invalid port/service `x' specified" in err
    assert before == (host.save(counters=True), host.save(True, counters=True))


@pytest.mark.parametrize(
    "arguments, text, code, words",
    [
        (["restore"], "*filter\n-A INPUT -p tcp --dport x\nCOMMIT\n", 2, "line 2: invalid port/service `x' specified"),
        (["restore"], "*filter\n-A nosuch -j ACCEPT\nCOMMIT\n", 1, "line 2 failed: No chain/target/match by that name"),
        (["check"], "*filter\n-A INPUT -j nosuch\nCOMMIT\n", 2, "line 2: Couldn't load target `nosuch'"),
        (["check", "--syntax"], "*filter\n-A INPUT --nosuch\nCOMMIT\n", 2, 'line 2: unknown option "--nosuch"'),
        (["restore", "--both"], "*filter\nCOMMIT\n", 2, "no line `# IPv4'"),
        (["restore", "/nosuch"], "", 1, "Can't open /nosuch"),
        (["save", "-t", "nosuch"], "", 1, "Table does not exist"),
        (["save", "-f", "/nosuch/file"], "", 1, "can't write /nosuch/file"),
        (["list", "nosuch"], "", 1, "No chain/target/match by that name."),
    ],
)
def test_mistakes_have_the_exit_codes_of_iptables(host, command, arguments, text, code, words):
    if host.backend == "nft" and "Couldn't load target" in words:
        words = "line 2 failed: Chain 'nosuch' does not exist"
    done = command(*arguments, text=text)
    assert done[:2] == (code, "") and words in done[2]
    assert host.rules() == []


def test_syntax_alone_needs_no_privilege_and_no_table(host, command):
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(iptc.__file__))}
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-m", "iptc", "check", "--syntax"],
        env=environment,
        text=True,
        input=RULES.replace("INPUT", "elsewhere"),
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with open("/proc/thread-self/net/ip_tables_names") as file:
        assert file.read() == ""


def test_restore_takes_one_table_and_a_test(host, command):
    host.restore(RULES)
    both = RULES + RULES.replace("*filter", "*nat").replace("DROP", "ACCEPT").replace(":FORWARD", ":POSTROUTING")
    assert command("restore", "-n", "-T", "nat", text=both) == (0, "", "")
    assert len(host.rules(table="filter")) == len(host.rules(table="nat")) == 2
    assert command("restore", "-n", "-t", text="*filter\n-A web -j DROP\nCOMMIT\n") == (0, "", "")
    assert command("restore", "-n", text="*filter\n-A web -j DROP\nCOMMIT\n") == (0, "", "")
    assert len(host.rules(table="filter")) == 3


def test_a_terminal_sees_how_far_a_long_file_is(host, tmp_path):
    path = tmp_path / "rules"
    path.write_text("*filter\n" + '-A INPUT -m comment --comment "%s"\n' % ("x" * 250) * 20000 + "COMMIT\n")
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(iptc.__file__))}
    slow = "import sys, iptc.cli, time; now = time.monotonic; time.monotonic = lambda: now() * 1000; sys.exit(iptc.cli.main())"
    status, seen = shown_at_a_terminal(slow, "check", "--syntax", str(path), env=environment)
    assert status == 0 and b"100%" in seen and b"#" * 30 in seen and seen.endswith(b"\x1b[K")


def test_list_ends_as_iptables_does_where_there_is_no_table(host, command, ipv6):
    family = ["-6"] if ipv6 else []
    for arguments in (["-t", "nope"], ["nope"], []):
        listed = [*arguments[:2], "-S"] if arguments[:1] == ["-t"] else ["-S", *arguments]
        assert command("list", *family, *arguments)[0] == host.iptables(*listed, ipv6=ipv6, check=False).returncode


def test_list_without_privilege_ends_as_iptables_does(host, ipv6):
    """The table exists, but this user may not open it."""
    host.iptables("-A INPUT -j ACCEPT", ipv6=ipv6)
    list_it = [sys.executable, "-m", "iptc", "list", "--backend", host.backend, *(["-6"] if ipv6 else [])]
    done = host.run("setpriv", "--bounding-set=-all", "--inh-caps=-all", *list_it, check=False)
    # iptables-legacy ends with 3 for a user who can take its lock
    assert done.returncode == (3 if host.backend == "legacy" else 4), done.stderr


INTERRUPTED = """
import os, runpy, signal, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
wanted, way = sys.argv[1:]
sys.meta_path.insert(0, Finder)
sys.argv = ["iptc", "save"]
if way == "module":
    runpy.run_module("iptc", run_name="__main__")
else:
    from iptc.cli import run
    sys.exit(run())
"""


@pytest.mark.one_backend("legacy")
@pytest.mark.parametrize(
    "name, way",
    [
        ("iptc.cli", "module"),
        ("iptc.cli.dispatch", "module"),
        ("iptc.cli.dispatch", "script"),
        ("argparse", "script"),
        ("iptc.cli.save", "module"),
        ("iptc.ruleset", "script"),
    ],
)
def test_an_interrupt_while_the_command_is_loaded(host, name, way):
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(iptc.__file__))}
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, name, way], env=environment, capture_output=True, text=True
    )
    assert done.returncode in (130, -signal.SIGINT)
    assert (done.stdout, done.stderr) == ("", "")


SWALLOWED = """
import os, signal, sys, weakref
from iptc.cli import main, save
class Thing:
    pass
def interrupted(text):
    # the callback runs at once, and what it raises is lost
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(getattr(signal, sys.argv[2])))
    del thing
    while True:
        pass
save.write = interrupted
status = main(["save"])
print(signal.getsignal(signal.SIGALRM) == signal.SIG_DFL, sys.unraisablehook is sys.__unraisablehook__)
sys.exit(status)
"""


@pytest.mark.one_backend("legacy")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_whose_exception_is_lost_ends_the_command_all_the_same(host, name):
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED, "save", name], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + getattr(signal, name), "True True\n", "")


def test_all_tables_take_away_what_came_since(host, command, ipv6):
    family = ["-6"] if ipv6 else []
    host.iptables("-A INPUT -j ACCEPT", ipv6=ipv6)
    before = host.save(ipv6)
    code, text, _ = command("save", "--all-tables", *family)
    assert code == 0 and host.save(ipv6) == before  # looking made no table
    assert sorted(line for line in text.splitlines() if line.startswith("*")) == [
        "*filter",
        "*mangle",
        "*nat",
        "*raw",
        "*security",
    ]
    assert iptc.save(ipv6).count("COMMIT") == 1 and iptc.save(ipv6, all_tables=True).count("COMMIT") == 5
    for table, chain in (("nat", "POSTROUTING"), ("mangle", "FORWARD"), ("raw", "OUTPUT"), ("security", "INPUT")):
        host.iptables(f"-t {table} -N since", ipv6=ipv6)
        host.iptables(f"-t {table} -A {chain} -j since", ipv6=ipv6)
        host.iptables(f"-t {table} -P {chain} {'ACCEPT' if table == 'nat' else 'DROP'}", ipv6=ipv6)
    assert command("restore", *family, text=text)[0] == 0
    after = host.save(ipv6)
    assert [line for line in after if line.startswith("-A")] == ["-A INPUT -j ACCEPT"]
    assert not [line for line in after if "since" in line or "DROP" in line]
    assert len([line for line in after if line.startswith("*")]) == 5
    with pytest.raises(iptc.IPTCError, match="not both"):
        iptc.save(ipv6, table="filter", all_tables=True)
