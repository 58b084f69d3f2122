"""`iptc top`: what it counts and draws, as plain text, and with keys in a real terminal."""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PATIENCE, short_name, shown_at_a_terminal
from test_sampler import host, send  # noqa: F401  loopback is up
from test_structure import ROOT

import iptc
from iptc.cli import painting
from iptc.cli import top as command
from iptc.monitoring import board, drawing
from iptc.monitoring.selection import Selection

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "tmux-256color", "LC_ALL": "C.UTF-8"}


class Fed:
    """A board with samples from the kernel."""

    def __init__(self, *tables, interval=1.0, sort="packets", **selection):
        self.board = board.Board(Selection(**selection, families=[False, True]), interval, sort)
        self.poller = iptc.Sampler(interval, tables or None).poller()

    def feed(self):
        self.board.add(self.poller.poll())
        return self

    def shown(self, **settings):
        for name, value in settings.items():
            setattr(self.board, name, value)
        return [(row.chain, row.text) for row in self.board.rows()[0]]

    def screen(self, width, height, **settings):
        """Return the drawn lines as text."""
        drawn = drawing.Drawing(self.board, "iptc top", command.safe)
        for name, value in settings.items():
            setattr(drawn, name, value)
        return ["".join(text for text, _ in line) for line in drawn.screen(width, height)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.poller.close()


U = "-p udp -m udp --dport"
POLICIES = [("INPUT", "(policy ACCEPT)"), ("FORWARD", "(policy ACCEPT)"), ("OUTPUT", "(policy ACCEPT)")]


@pytest.fixture
def busy(host):
    """Rules that count the packets of `send`: to ports 9 and 10, and to port 11, where they are dropped."""
    for line in (f"-A OUTPUT {U} 9 -j ACCEPT", f"-A OUTPUT {U} 10", f"-A OUTPUT {U} 11 -j DROP", "-A INPUT -p tcp"):
        host.iptables(line)
    return host


def traffic():
    # a socket receives the packets, so that no ICMP error is sent
    with contextlib.ExitStack() as stack:
        for port in (9, 10):
            taker = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            taker.bind(("127.0.0.1", port))
        send(2, 9)
        send(5, 10)
        with contextlib.suppress(PermissionError):
            send(1, 11)


# ------------------------------------------------------------- what is shown


def test_rates_in_their_order(busy):
    # iptables-nft 1.8.9 begins to count for a policy when it is set
    busy.iptables("-P OUTPUT ACCEPT")
    busy.iptables("-P INPUT ACCEPT")
    with Fed("filter", sort="place") as fed:
        traffic()
        fed.feed()
        rules = [("INPUT", "-p tcp"), POLICIES[0], POLICIES[1]]
        rules += [("OUTPUT", f"{U} 9 -j ACCEPT"), ("OUTPUT", f"{U} 10"), ("OUTPUT", f"{U} 11 -j DROP"), POLICIES[2]]
        assert [row for row in fed.shown() if row in rules][:7] == rules
        rows = {row.text: row for row in fed.board.rows()[0] if not row.ipv6}
        seconds = fed.board.sample["filter"].delta.seconds
        assert rows[f"{U} 10"].packets == 5 / seconds and rows[f"{U} 10"].bytes == 500 / seconds
        assert rows[f"{U} 10"].trend == [5 / seconds] and rows["-p tcp"].trend == [0.0]
        # 5 packets to port 10 reach the policy of OUTPUT; the 7 that are not dropped reach INPUT and its policy
        policies = {row.chain: row.packets for row in fed.board.rows()[0] if not row.ipv6 and "policy" in row.text}
        assert policies["OUTPUT"] * seconds == pytest.approx(5) and policies["FORWARD"] == 0
        first = (
            [(row.text, round(row.packets * seconds)) for row in fed.board.rows(2)[0]]
            if fed.shown(sort="packets")
            else 0
        )
        assert sorted(first)[-1] in ((f"{U} 10", 5), ("(policy ACCEPT)", 7)) and len(first) == 2
        assert fed.shown(drops_first=True)[0] == ("OUTPUT", f"{U} 11 -j DROP")
        assert ("INPUT", "-p tcp") not in fed.shown(idle=False)
        assert fed.shown(by_chain=True, drops_first=False)[0] == ("OUTPUT", "(all rules)")
        chain = next(row for row in fed.board.rows()[0] if row.chain == "OUTPUT")
        assert chain.packets * seconds == pytest.approx(8) and chain.bytes * seconds == pytest.approx(800)


def test_rows_are_narrowed_down(busy):
    with Fed("filter") as fed:
        fed.feed()
        assert fed.shown(expression=r"dport 1[01]") == [("OUTPUT", f"{U} 10"), ("OUTPUT", f"{U} 11 -j DROP")]
        assert {chain for chain, _ in fed.shown(expression="", chain="IN*")} == {"INPUT"}
        with pytest.raises(re.error):
            fed.board.expression = "("
    with Fed("filter", rules=["DROP"]) as fed:
        assert fed.feed().shown() == [("OUTPUT", f"{U} 11 -j DROP")]
    with Fed("filter", chains=["FOR*"]) as fed:
        assert set(fed.feed().shown()) == {POLICIES[1]}


def test_new_moved_and_reset_rules_are_marked(busy):
    traffic()
    with Fed("filter", sort="place") as fed:
        fed.feed()
        busy.iptables("-Z INPUT")
        busy.iptables(f"-I OUTPUT {U} 12")
        busy.iptables(f"-D OUTPUT {U} 10")
        busy.iptables(f"-A OUTPUT {U} 10")
        busy.iptables("-Z OUTPUT")
        fed.feed()
        marks = {row.text: row.mark for row in fed.board.rows()[0] if row.chain == "OUTPUT" and not row.ipv6}
        assert marks[f"{U} 12"] == board.NEW and marks[f"{U} 9 -j ACCEPT"] == board.RESET
        trends = {row.text: row.trend for row in fed.board.rows()[0] if row.chain == "OUTPUT" and not row.ipv6}
        assert len(trends[f"{U} 9 -j ACCEPT"]) == 2 and len(trends[f"{U} 12"]) == 1
        for _ in range(4):
            fed.feed()
            assert any(row.mark for row in fed.board.rows()[0])
        fed.feed()
        assert not any(row.mark for row in fed.board.rows()[0])


def test_the_last_minute_is_kept_and_no_more(busy):
    with Fed("filter", interval=20.0) as fed:
        for _ in range(7):
            fed.feed()
        assert {len(row.trend) for row in fed.board.rows()[0]} == {3}


def test_a_table_that_is_gone_is_not_shown(host):
    host.run("nft", "add", "table", "ip", "filter")
    host.run("iptables-nft", "-t", "mangle", "-A", "INPUT")
    with Fed() as fed:
        fed.poller.close()
        fed.poller = iptc.Sampler(1, backend="nft").poller()
        assert ("INPUT", "(every packet)") in fed.feed().shown()
        host.run("nft", "delete", "table", "ip", "mangle")
        assert ("INPUT", "(every packet)") not in fed.feed().shown()


# ------------------------------------------------------------------ drawing


@pytest.mark.parametrize(
    "value, shown",
    [
        (0, "0"),
        (0.04, "0.0"),
        (0.3, "0.3"),
        (9.94, "9.9"),
        (9.96, "10"),
        (999.4, "999"),
        (999.6, "1.0k"),
        (1234, "1.2k"),
        (56_789, "57k"),
        (5e8, "500M"),
        (1.5e19, "15E"),
        (1e25, "10000000E"),
    ],
)
def test_numbers(value, shown):
    assert drawing.human(value) == shown


def test_trends():
    assert drawing.trend([], 5) == "     "
    assert drawing.trend([0, 0, 0], 5) == "     "
    assert drawing.trend([0, 1, 2, 4, 8], 5) == " ▁▂▄█"
    assert drawing.trend([1, 0.001], 4) == "  █▁"
    assert drawing.trend(list(range(100)), 4) == "▃▄▇█" or len(drawing.trend(list(range(100)), 4)) == 4
    assert drawing.trend([0, 0, 7, 0], 2) == " █"
    assert drawing.trend([0, 4, 8], 3, drawing.ASCII_BARS) == " =@"


def test_widths_of_text():
    assert drawing.cells("abc") == 3 and drawing.cells("日本") == 4 and drawing.cells("e\u0301") == 1
    assert drawing.fitted("abc", 5) == "abc  " and drawing.fitted("abc", 5, right=True) == "  abc"
    assert (
        drawing.fitted("abcdef", 4) == "abc…"
        and drawing.fitted("日本語", 4) == "日… "
        and drawing.fitted("ab", 0) == ""
    )
    assert all(drawing.cells(drawing.fitted("a日b本c語", width)) == width for width in range(12))


def test_screens_of_every_size(busy):
    busy.iptables(
        "-A", "INPUT", "-m", "comment", "--comment", "日本語 \x1b[31m\nred\x07\x9b\u202e" + "x" * 180, "-j", "REJECT"
    )
    with Fed("filter") as fed:
        traffic()
        fed.feed()
        for width in (*range(1, 100), 130, 256, 400):
            for height in (1, 2, 3, 4, 9, 60):
                lines = fed.screen(width, height)
                assert len(lines) <= height and all(drawing.cells(line) <= width for line in lines), (width, height)
                assert "".join(lines).isprintable()
        assert r"\x1b[31m\nred\x07\x9b\u202e" in "".join(fed.screen(400, 60))
        assert len(fed.screen(80, 24)) == 24 and "last minute" in fed.screen(80, 24)[1]
        assert "last minute" not in fed.screen(59, 24)[1]
        # after the last row nothing is drawn
        assert fed.screen(80, 24, start=1000)[2].strip()


def test_painting_with_and_without_rich(busy, monkeypatch):
    with Fed("filter") as fed:
        fed.feed()
        lines = drawing.Drawing(fed.board, "[bold]iptc[/bold] top", command.safe).screen(90, 12)
        texts = ["".join(text for text, _ in line) for line in lines]
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)

        def bare(painted):
            return [re.sub(r"\x1b\[[\d;]*m", "", line) for line in painted]

        by_rich = painting.painter()(lines)
        monkeypatch.setitem(sys.modules, "rich.console", None)
        plainly = painting.painter()(lines)
        assert bare(by_rich) == bare(plainly) == texts
        assert any("\x1b[31m" in line for line in plainly)
        monkeypatch.setenv("NO_COLOR", "1")
        assert painting.painter()(lines) == texts


# -------------------------------------------------------------- plain text


def top(*arguments, **options):
    """Run `iptc top` without a terminal. Return (exit status, standard output, standard error)."""
    done = subprocess.run(
        [sys.executable, "-m", "iptc", "top", *arguments], capture_output=True, text=True, env=ENVIRONMENT, **options
    )
    return done.returncode, done.stdout, done.stderr


def test_once(busy):
    status, out, err = top("--once", "--interval", "0.02", "--sort", "place", "-4", "--chain", "OUTPUT")
    assert (status, err) == (0, "")
    assert [re.sub(r" +", " ", line) for line in out.splitlines()] == [
        "- pkt/s bytes/s ip table chain rule",
        f"- 0.0 0.0 4 filter OUTPUT {U} 9 -j ACCEPT",
        f"- 0.0 0.0 4 filter OUTPUT {U} 10",
        f"- 0.0 0.0 4 filter OUTPUT {U} 11 -j DROP",
        "- 0.0 0.0 4 filter OUTPUT (policy ACCEPT)",
    ]
    status, out, _ = top("--once", "--interval", "0.02", "--drops", "-4", "-t", "filter", "--width", "90")
    assert out.splitlines()[1].endswith(f"{U} 11 -j DROP") and out.splitlines()[0].endswith(" rule")
    status, out, _ = top("--once", "--interval", "0.02", "-4", "-t", "filter", "--width", "40")
    assert {len(line) for line in out.splitlines() if "…" in line} == {40}


def test_as_json(busy):
    status, out, err = top("--json", "--interval", "0.02", "--count", "2", "--rule", "dport")
    said = [json.loads(line) for line in out.splitlines()]
    assert (status, err, len(said)) == (0, "", 2)
    assert said[0]["schema"] == 1 and said[0]["events"] == said[0]["errors"] == [] and said[0]["seconds"] > 0
    assert sorted(row["rule"] for row in said[1]["rows"]) == [f"{U} 10", f"{U} 11 -j DROP", f"{U} 9 -j ACCEPT"]
    assert {(row["ip_version"], row["table"], row["chain"]) for row in said[1]["rows"]} == {(4, "filter", "OUTPUT")}
    assert list(said[0]["rows"][0])[-3:] == ["packets_per_second", "bytes_per_second", "mark"]


def test_without_a_terminal_it_goes_on_as_text(busy):
    status, out, _ = top("--interval", "0.02", "--count", "3", "--by-chain", "-4")
    assert status == 0 and out.count("pkt/s") == 3 and out.count("\n\n") == 3 and "(all rules)" in out


def test_usage_and_trouble(host):
    for wrong in (["--interval", "0"], ["--sort", "name"], ["x"], ["--count", "0"]):
        status, out, err = top(*wrong)
        assert (status, out) == (2, "") and "usage:" in err
    status, out, err = top("--once", "--netns", "iptc-nosuch")
    assert (status, out) == (1, "") and err.count("\n") == 1
    status, out, err = top("--once", "-t", "nosuch")
    assert status == (1 if host.backend == "legacy" else 4) or err
    assert out == "" and err.count("\n") == 1


# ------------------------------------------------------------ a real terminal


def lacks_terminals():
    """Return whether no pseudo-terminal can be opened here, for example because devpts is not mounted. Print it if so."""
    try:
        for end in os.openpty():
            os.close(end)
    except OSError as error:
        print(f"no pseudo-terminal ({error}): only what is shown without one is looked at")
        return True
    return False


class Screen:
    """`iptc top` in tmux."""

    def __init__(self, folder, *arguments, width=100, height=20, python=()):
        self._names = contextlib.ExitStack()
        self._socket = self._names.enter_context(short_name(folder)) + "/tmux"
        words = [*python, sys.executable, "-m", "iptc", "top", "--interval", "0.05", *arguments]
        # the shell is that of the user; without the trap, dash ends when it gets the SIGINT of Ctrl-C too
        told = f"trap : INT; {shlex.join(words)}; echo ended with $?; cat"
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), told)

    def tmux(self, *arguments):
        done = subprocess.run(["tmux", "-S", self._socket, *arguments], capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def lines(self):
        return self.tmux("capture-pane", "-p").split("\n")[:-1]

    def wait(self, fits):
        """Wait until fits(screen) is true, and return the screen."""
        until = time.monotonic() + PATIENCE
        while not fits(lines := self.lines()):
            assert time.monotonic() < until, "\n".join(lines)
            time.sleep(0.02)
        return lines

    def shows(self, text):
        return self.wait(lambda lines: any(text in line for line in lines))

    def press(self, *keys):
        self.tmux("send-keys", *keys)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tmux("kill-server")
        self._names.close()


def first(text):
    return lambda lines: len(lines) > 2 and text in lines[2]


@pytest.mark.parametrize("python", [[], ["env", "PYTHONPATH={}:" + str(ROOT)]], ids=["rich", "without rich"])
def test_keys_and_sizes_in_a_terminal(busy, tmp_path, python):
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich/__init__.py").write_text("raise ImportError('not installed')")
    python = [word.format(tmp_path) for word in python]
    if lacks_terminals():
        return test_once(busy)
    with Screen(tmp_path, "-4", "-t", "filter", "--sort", "place", python=python) as screen:
        lines = screen.shows("OUTPUT")
        assert lines[0].startswith("iptc top  ") and " IPv4  4 rules, 7 lines  " in lines[0] and len(lines) == 20
        assert lines[2].endswith("INPUT          -p tcp") and lines[3].endswith("INPUT          (policy ACCEPT)")
        assert lines[-1].startswith("q quit")
        screen.press("d")
        screen.wait(first(f"{U} 11 -j DROP"))
        screen.press("d", "/")
        screen.shows("search (regular expression):")
        screen.press("-l", "dport 1x")
        screen.press("BSpace", "[", "0", "]", "Enter")
        screen.wait(lambda lines: f"{U} 10" in lines[2] and not lines[3].strip())
        screen.press("/", "(", "Enter")
        screen.shows("! no regular expression")
        screen.press("/", "Enter", "c")
        screen.shows("chain (pattern):")
        screen.press("-l", "INP*")
        screen.press("Enter")
        screen.wait(lambda lines: " 2 lines" in lines[0] and "chain: INP*" in lines[-1])
        screen.press("c", "x", "Escape", "v")
        screen.wait(lambda lines: "(all rules)" in lines[2] and "1 chains" in lines[0])
        screen.press("v", "c", "Enter", "Down", "Down")
        screen.wait(lambda lines: "FORWARD" in lines[2])
        screen.press("Home")
        screen.wait(first("-p tcp"))
        busy.iptables(f"-I INPUT {U} 77")
        screen.wait(lambda lines: lines[2].startswith("N") and f"{U} 77" in lines[2])
        for width, height in ((256, 50), (1, 1), (7, 3), (33, 5), (100, 20)):
            screen.tmux("resize-window", "-x", str(width), "-y", str(height))
            lines = screen.wait(lambda lines: len(lines) == height and lines[0].startswith("iptc top"[: width - 1]))
            assert all(len(line) <= width for line in lines)
        screen.wait(lambda lines: lines[-1].startswith("q quit"))
        busy.iptables("-A", "INPUT", "-m", "comment", "--comment", "\x1b[2Jgone\x1b]0;title\x07", "-j", "DROP")
        screen.tmux("resize-window", "-x", "200", "-y", "20")
        screen.shows(r"\x1b[2Jgone\x1b]0;title\x07")
        screen.press("q")
        # the screen looks as before the program
        assert screen.shows("ended with 0")[0] == "ended with 0"


def test_the_view_shows_rates_and_pauses(busy, tmp_path):
    if lacks_terminals():
        return test_as_json(busy)
    with Screen(tmp_path, "-4", "-t", "filter", "--no-idle") as screen:
        screen.shows("idle hidden")
        screen.wait(lambda lines: " 0 lines " in lines[0])
        while not (shown := [line for line in screen.lines() if f"{U} 10" in line]):
            send(3, 10)
        assert re.search(r"^ +[\d.]+k? +[\d.]+k? ", shown[0])
        # while it is paused it is still drawn, and its numbers do not change
        screen.press("space")
        screen.shows("paused")
        screen.press("C-c")
        screen.shows("ended with 130")


def test_a_stopped_view_gives_the_terminal_back(busy, tmp_path):
    if lacks_terminals():
        return test_without_a_terminal_it_goes_on_as_text(busy)
    pidfile = tmp_path / "pid"
    python = ["sh", "-c", f'echo $$ > {shlex.quote(str(pidfile))}; exec "$@"', "sh"]
    with Screen(tmp_path, "-4", python=python) as screen:
        screen.shows("OUTPUT")
        pid = int(pidfile.read_text())
        os.kill(pid, signal.SIGTSTP)
        screen.wait(lambda lines: not any("OUTPUT" in line for line in lines))
        # it gives the terminal back first, and stops then: until it has stopped, SIGCONT would be lost
        screen.wait(lambda lines: "\nState:\tT" in Path(f"/proc/{pid}/status").read_text())
        os.kill(pid, signal.SIGCONT)
        screen.shows("OUTPUT")
        os.kill(pid, signal.SIGTERM)
        screen.shows("ended with 143")


def test_without_a_keyboard_the_view_is_shown_until_its_count(busy):
    """Standard input is no terminal, as in a script: the view is shown, and ends with --count."""
    code = "import sys; from iptc.cli import main; sys.exit(main(['top', '--interval', '0.02', '--count', '2', '-4']))"
    environment = {**ENVIRONMENT, "XTABLES_LOCKFILE": os.environ["XTABLES_LOCKFILE"]}
    status, seen = shown_at_a_terminal(code, env=environment, stdin=subprocess.DEVNULL)
    assert status == 0 and seen.startswith(b"\x1b[?1049h") and seen.endswith(b"\x1b[?1049l") and b"OUTPUT" in seen


def test_rules_that_cannot_be_printed(busy, monkeypatch):
    """Without libxtables the numbers are shown all the same."""

    def refuse(rule):
        raise iptc.Unsupported("there is no libxtables")

    monkeypatch.setattr(iptc.RuleInfo, "text", property(refuse))
    with Fed("filter") as fed:
        assert ("OUTPUT", "(cannot be printed here) -j DROP") in fed.feed().shown()
        assert any("cannot be printed here" in line for line in fed.screen(100, 20))
        busy.iptables("-A INPUT -p udp -j ACCEPT")
        fed.feed()
        assert [str(event) for event in fed.board.sample.events] == [
            "IPv4 filter INPUT appeared: (cannot be printed here) -j ACCEPT"
        ]
