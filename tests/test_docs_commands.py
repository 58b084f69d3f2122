"""The blocks of the documentation that are not Python: commands run, files are read, command lines parse.

Every block of every page is either tried here, or stands in NOT_RUN with the reason why not."""

import contextlib
import functools
import io
import itertools
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import threading
import tomllib

import pytest
from conftest import short_name

from iptc import errors
from iptc.cli.dispatch import COMMANDS, parser_of

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FENCE = re.compile(r"^```([^`\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS_IN_TEXT = ("sh", "console")

NOT_RUN = {
    ("README.md", "pip install dist/"): "installs; scripts/test --release does it in a fresh Debian",
    ("README.md", "pip install ."): "installs; scripts/test --release does it in a fresh Debian",
    ("CONTRIBUTING.md", "scripts/test"): "the scripts of the project: test_scripts_and_files_that_are_named_exist",
    ("RELEASING.md", "scripts/build"): "the scripts of the project: test_scripts_and_files_that_are_named_exist",
    ("RELEASING.md", "git tag"): "publishes a release",
    ("docs/platforms.md", "scripts/build"): "the scripts of the project: test_scripts_and_files_that_are_named_exist",
    ("docs/first-steps.md", "sudo apt install"): "installs packages",
    ("docs/from-python-iptables.md", "pip uninstall"): "installs packages",
    ("docs/without-legacy.md", "sudo dnf install"): "installs packages",
    ("docs/cron.md", "# /etc/cron.d/firewall"): "a line for cron, not for a shell; its command line is parsed",
    ("docs/doctor.md", "# iptc doctor"): "the findings of another host; test_doctor.py provokes each of them",
    ("docs/top.md", "# iptc top"): "the traffic of another host; test_top.py compares what is printed",
    ("docs/trace.md", "2026-"): "the time and the traffic of another host; test_trace.py compares what is printed",
    ("docs/prometheus.md", "topk("): "queries for Prometheus: test_queries_name_metrics_that_there_are",
    ("docs/telegraf.md", "<LoadPlugin python>"): "a configuration of collectd; test_packaged.py reads such a one",
    ("docs/unprivileged.md", "setpriv --reuid daemon"): "needs a user `daemon` who can read this checkout",
    ("docs/unprivileged.md", "IPTC_BACKEND=nft setpriv"): "needs a user `daemon` who can read this checkout",
    ("docs/unprivileged.md", "groupadd"): "changes the users of the machine",
    ("docs/unprivileged.md", "python3 examples/"): "needs a group `monitor`; test_bpf_handing.py runs both programs",
    ("docs/unprivileged.md", "fds = reader.fds()"): "two programs side by side; test_bpf_handing.py runs both",
}
"""(page, how the block begins) -> why it is not run."""


def blocks_of(page):
    """Yield (line, language, text) of each block of *page*, but for Python and what Python prints."""
    text = (ROOT / page).read_text()
    python = None
    for block in FENCE.finditer(text):
        output = block[1] == "text" and python is not None and not text[python : block.start()].strip()
        python = block.end() if block[1] == "python" else None
        if python is None and not output and not block[1].startswith("{"):
            yield text.count("\n", 0, block.start()) + 2, block[1], block[2]


BLOCKS = [(page, *block) for page in PAGES for block in blocks_of(page)]


def reason_of(page, text):
    """Return why the block is not run, or None."""
    return next((NOT_RUN[known] for known in NOT_RUN if known[0] == page and text.startswith(known[1])), None)


OPERATOR = re.compile(r"[|&;<>()]+")


def split(line):
    """Return the words of a line of a shell, with its operators as words of their own."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    return list(reader)


def command_lines(text, language="sh"):
    """Yield the words behind each `iptc` in *text*."""
    for line in text.replace("\\\n", " ").splitlines():
        if language == "console":
            if not line.startswith(("# ", "$ ")):
                continue
            line = line[2:]
        try:
            words = split(line)
        except ValueError:  # a line that is no command, with an apostrophe in it
            continue
        while words:
            word = words.pop(0)
            if word == "iptc" or word.endswith("bin/iptc"):
                found = list(itertools.takewhile(lambda word: not OPERATOR.fullmatch(word), words))
                del words[: len(found)]
                if found and found[0] in COMMANDS or found and found[0].startswith("-"):
                    yield found


def refusal_of(words):
    """Return what the parser says against *words*, or None."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parser_of(words).parse_args(words)
    except SystemExit as end:
        return said.getvalue() if end.code else None
    return None


@functools.cache
def options_of(command):
    """Return the options of a command of iptc."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        parser_of([command]).parse_args([command, "--help"])
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z0-9][\w.-]*", said.getvalue()))


def test_every_block_is_tried_or_a_reason_is_given():
    tried = {id(block) for block in [*SHELL, *SHOWN, *READ, *TREES]}
    left = [block[:3] for block in BLOCKS if id(block) not in tried and not reason_of(block[0], block[3])]
    assert left == []
    needless = [known for known in NOT_RUN if not any(b[0] == known[0] and b[3].startswith(known[1]) for b in BLOCKS)]
    assert needless == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_parses(page):
    refused = [
        (line, words, refusal)
        for line, language, text in blocks_of(page)
        for words in command_lines(text, language)
        if (refusal := refusal_of(words)) is not None
    ]
    assert refused == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_sentences_have_the_options_that_are_named(page):
    prose = FENCE.sub("", (ROOT / page).read_text())
    wrong = []
    for code in re.findall(r"`([^`]*\biptc [^`]*)`", prose):
        for command, *words in command_lines(code):
            names = [word.split("=")[0] for word in words if re.fullmatch(r"--?[a-zA-Z][\w.-]*(=.*)?", word)]
            if command in COMMANDS:
                wrong += [
                    (code, name) for name in names if name not in options_of(command) | rule_words(command, words)
                ]
    assert wrong == []


def rule_words(command, words):
    """The words of `trace` are also those of a rule of iptables."""
    return set(words) if command == "trace" else set()


LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")


def anchors_of(path):
    """The places in a page that a link can name, as GitHub and Sphinx make them of its headings."""
    text = FENCE.sub("", path.read_text())
    names = [
        re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.M)
    ]
    seen = {}
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        yield name if not seen[name] else f"{name}-{seen[name]}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_pages_and_headings(page):
    path = ROOT / page
    dead = []
    for link in LINK.findall(FENCE.sub("", path.read_text())):
        file, _, anchor = link.partition("#")
        aim = path.parent / file if file else path
        if not aim.exists() or anchor and anchor not in set(anchors_of(aim)):
            dead.append(link)
    assert dead == []


def test_scripts_and_files_that_are_named_exist():
    named = {
        (page, name)
        for page in PAGES
        for name in re.findall(
            r"(?<![\w/.-])((?:scripts|examples|packaging|tests|benchmarks|debian|\.ci|\.github)/[\w./@-]*\w)",
            (ROOT / page).read_text(),
        )
    }
    assert {(page, name) for page, name in named if not (ROOT / name).exists()} == set()


def test_queries_name_metrics_that_there_are():
    page = (ROOT / "docs/prometheus.md").read_text()
    table = page.split("## The metrics", 1)[1]
    queries = next(text for name, _, _, text in BLOCKS if name == "docs/prometheus.md" and text.startswith("topk("))
    assert {name for name in re.findall(r"iptables_\w+", queries) if f"`{name}`" not in table} == set()


TREES = [block for block in BLOCKS if block[3].startswith("IPTCError ")]


def test_the_tree_of_exceptions_is_that_of_the_code():
    ((*_, text),) = TREES
    above, shown = [], {}
    for line in text.splitlines():
        depth, name, others = re.match(r"([│├└─ ]*)(\w+)(?: \(([\w, ]+)\))?", line).groups()
        above[len(depth) // 3 :] = [name]
        shown[name] = set(above[-2:-1]) | set((others or "").split(", ")) - {""}
    real = {
        name: {base.__name__ for base in kind.__bases__} - {"Exception"}
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.IPTCError)
    }
    assert shown == real


# Files that programs read: TOML, JSON, and configurations with command lines of iptc in them.

READ = [block for block in BLOCKS if block[2] in ("toml", "json", "yaml", "ini")]


def test_files_are_what_they_are_said_to_be():
    for page, line, language, text in READ:
        if language == "toml":
            for part in tomllib.loads(text).get("inputs", {}).get("execd", ()):
                assert refusal_of(part["command"][1:]) is None, (page, line)
        elif language == "json":
            json.loads(text)
        elif language == "ini":
            for row in text.splitlines():
                assert re.fullmatch(r"(#.*|\[\w+\]|\w+=.*|)", row), (page, line, row)
        else:
            assert "\t" not in text
            for words in re.findall(r"args: \[(.*)\]", text):
                assert refusal_of([word.strip('"') for word in words.split(", ")][1:]) is None, (page, line)


# Blocks for a shell: each command is run in a namespace, on both back ends.

SHELL = [block for block in BLOCKS if block[2] == "sh" and not reason_of(block[0], block[3])]

MAY_BE_ONE = {"diff", "plan", "owned", "doctor", "lint"}
"""The commands whose status 1 is an answer."""

RULES = next(text for page, _, _, text in BLOCKS if page == "docs/first-steps.md" and text.startswith("*filter"))
OWNED = next(text for page, _, _, text in BLOCKS if page == "docs/owned.md" and text.startswith("owner"))
FILES = {
    "rules.v4": RULES,
    "rules.old": RULES,
    "rules.new": RULES.replace("--dports 80,443", "--dports 443"),
    "more-rules": "*filter\n-A INPUT -j LOG\nCOMMIT\n",
    "web.toml": OWNED.replace('anchor = "comment:drop-all"', 'anchor = "comment:web"'),
    "office.toml": 'owner = "office"\n[[chain]]\nchain = "INPUT"\nrules = ["-j ACCEPT"]\n',
    "etc/iptc/rules.v4": RULES,
    "etc/iptc/rules.v6": RULES.replace("-p icmp", "-p ipv6-icmp"),
}


PYTHON = shlex.quote(sys.executable)


class Shell:
    """Runs the commands of a block as a reader would, in a folder of its own."""

    def __init__(self, host, folder):
        self.host, self.folder, self.waiting = host, folder, None
        for name, text in FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        for name in ("bin", "run", "var/log/iptc", "var/lib/prometheus/node-exporter", "etc/systemd/system", "usr"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name in ("packaging", "examples"):
            (folder / name).symlink_to(ROOT / name)
        programs = {"iptc": f'exec {PYTHON} -m iptc "$@"', "python3": f'exec {PYTHON} "$@"'}
        # what changes the machine does nothing here
        programs |= {"pip": "exit 0", "systemctl": "exit 0"}
        for name, text in programs.items():
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / "bin" / name).chmod(0o755)
        self.environment = os.environ | {"PATH": f"{folder}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(self, text):
        """Run the block *text*."""
        text = text.replace("/opt/firewall/bin/", "").replace("sudo ", "")
        text = re.sub(r"(?<![\w/])/(etc|var|run|usr)/(?=\w)", rf"{self.folder}/\1/", text)
        commands = [text] if "<<" in text else text.replace("\\\n", " ").splitlines()
        for command in commands:
            words = [] if "<<" in command else split(command)
            name = words[1] if words[:1] == ["iptc"] else ""
            if name == "apply" and "--timeout" in words:
                self.host.iptables("-F INPUT")  # so that there is something to do
                self.waiting = self.started(command)
            elif name == "confirm":
                self.confirm(command)
            elif name == "guard":
                self.until_it_works(command)
            elif name == "watch":
                self.until_it_has_seen_a_change(command)
            else:
                # these go on for ever, too
                ending = {"top": "--count 1", "exporter": "--once", "trace": "--timeout 0.01"}.get(name, "")
                done = subprocess.run(
                    [
                        "bash",
                        "-euc",
                        f"{command.split(' #')[0]} {ending}" if ending and ending not in command else command,
                    ],
                    cwd=self.folder,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                )
                allowed = {0, 1} if name in MAY_BE_ONE or name == "trace" else {0}
                assert done.returncode in allowed, (command, done)
        if self.waiting is not None:
            self.confirm("iptc confirm")

    def started(self, command):
        """Start a command that goes on."""
        return subprocess.Popen(
            ["bash", "-euc", f"exec {command}"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ended(self, process):
        """Wait for a process, and return (status, what it printed)."""
        try:
            printed = process.communicate()[0]
        finally:
            process.kill()
        return process.returncode, printed

    def confirm(self, command):
        """Confirm the change that waits as soon as it is made."""
        asked = ["bash", "-euc", command]
        assert self.waiting is not None
        try:
            while subprocess.run(asked, cwd=self.folder, env=self.environment, capture_output=True).returncode:
                assert self.waiting.poll() is None, self.waiting.communicate()
        finally:
            waiting, self.waiting = self.waiting, None
            if waiting.poll() is not None and waiting.returncode:
                waiting.kill()
        assert self.ended(waiting)[0] == 0

    def until_it_works(self, command):
        """Run a guard until it has written its metrics."""
        metrics = self.folder / "guard.prom"
        process = self.started(f"{command.split(' #')[0]} --textfile {metrics}")
        while not metrics.exists():
            assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGTERM)
        status, printed = self.ended(process)
        assert status == 0, (command, printed)
        metrics.unlink()

    def until_it_has_seen_a_change(self, command):
        """Run `watch` until it has told of a change."""
        process = self.started(f"{command.split(' #')[0]} --count 1")
        over = threading.Event()

        def change():
            for letter in itertools.cycle("AD"):
                if over.is_set():
                    return
                self.host.iptables(f"-{letter} OUTPUT -j ACCEPT")

        changing = threading.Thread(target=change)
        changing.start()
        try:
            status, printed = self.ended(process)
        finally:
            over.set()
            changing.join()
        assert status == 0, (command, printed)


@pytest.mark.parametrize("block", SHELL, ids=lambda block: f"{block[0]}:{block[1]}")
def test_commands_run(block, host, tmp_path):
    with short_name(tmp_path) as folder:
        run_block(block, host, pathlib.Path(folder))


def run_block(block, host, folder):
    """Run the commands of *block* in *folder*, whose name the shell takes as it is."""
    shell = Shell(host, folder)
    if block[0] == "docs/owned.md":
        host.iptables("-A INPUT -m comment --comment web -j ACCEPT")
        host.iptables("-A INPUT -m comment --comment web -j ACCEPT", ipv6=True)
    if "iptc log" in block[3] and "iptc watch" not in block[3]:
        shell.run("iptc watch --log /var/log/iptc")
    shell.run(block[3])


# Blocks that show a command and what it prints, or a text that other blocks of the page use.


def block_of(page, start):
    """Return the only block of *page* that begins with *start*."""
    (found,) = [block for block in BLOCKS if block[0] == page and block[3].startswith(start)]
    return found


TESTED = block_of("docs/testing.md", "*nat")
CASES = block_of("docs/testing.md", "interfaces =")
FAILING = block_of("docs/testing.md", "firewall.drops(")
LINTED = block_of("docs/lint.md", "$ iptc lint")
INFLUX = block_of("docs/telegraf.md", "iptables,")
COMPARED = block_of("docs/managing.md", '{"schema"')
WHY = [block for block in BLOCKS if block[0] == "docs/why.md"]
SHOWN = [block_of("docs/first-steps.md", "*filter"), TESTED, CASES, FAILING, LINTED, INFLUX, COMPARED, *WHY]


def printed(*words):
    """Return what a command of iptc prints."""
    return subprocess.run([sys.executable, "-m", "iptc", *words], stdout=subprocess.PIPE, text=True).stdout


def test_the_examples_of_the_page_about_tests_work(host, tmp_path):
    python = "\n".join(
        re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/testing.md").read_text(), re.MULTILINE | re.DOTALL)
    )
    failing = FAILING[3].splitlines()[0]
    python += f"\n\ndef test_that_fails(firewall):\n    firewall.load('rules.v4', INTERFACES)\n    assert {failing}\n"
    (tmp_path / "test_page.py").write_text(python)
    (tmp_path / "rules.v4").write_text(TESTED[3])
    (tmp_path / "cases.toml").write_text(CASES[3])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "iptc.bench.plugin",
        "-o",
        f"iptc_backend={host.backend}",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    done = subprocess.run([*command, "test_page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "1 failed, 2 passed" in done.stdout, done.stdout
    # pytest may put a margin before each line
    shown = [re.sub(r"^(?:E +)", "", line).strip() for line in done.stdout.splitlines()]
    for line in FAILING[3].splitlines():
        assert line.strip() in shown, done.stdout
    rules, cases = str(tmp_path / "rules.v4"), str(tmp_path / "cases.toml")
    assert "not ok" not in printed("test", rules, cases, "--format", "tap", "--backend", host.backend)
    assert printed("test", rules, cases, "--format", "tap", "--backend", host.backend).count("ok ") == 2


def test_the_page_shows_what_lint_prints(host, tmp_path):
    command, shown = LINTED[3].split("\n", 1)
    rules = [re.search(r"rule 1 \((.*?)\) takes", shown)[1], shown.split(": ", 1)[1].split("\n")[0]]
    (tmp_path / "rules.v4").write_text("".join(["*filter\n", *(f"-A INPUT {rule}\n" for rule in rules), "COMMIT\n"]))
    words = split(command)[2:]
    assert printed(*words[:-1], str(tmp_path / words[-1])) == shown


def test_the_page_shows_what_why_prints(host):
    for name, address in ("eth0", "203.0.113.1/24"), ("eth1", "10.0.0.1/24"):
        host.run(*f"ip link add {name} type veth peer name other-{name}".split())
        host.run(*f"ip address add {address} dev {name}".split())
        for link in name, f"other-{name}":
            host.run("ip", "link", "set", link, "up")
    host.run(*"ip route add default via 203.0.113.254".split())
    pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    for rule in (
        "-t nat -A POSTROUTING -o eth0 -j MASQUERADE",
        *["-A INPUT -p udp -j ACCEPT"] * 3,
        "-A INPUT -p tcp --dport 22 -j DROP",
        "-A FORWARD -i eth1 -o eth0 -j ACCEPT",
    ):
        host.iptables(rule)
    for *_, text in WHY:
        command, shown = text.removeprefix("# ").split("\n", 1)
        assert printed(*split(command)[1:]) == shown


def test_the_page_shows_what_telegraf_gets(host):
    host.iptables("-A", "INPUT", "-m", "comment", "--comment", "web", "-j", "ACCEPT")
    host.iptables("-A INPUT -p udp")

    def masked(text):
        return re.sub(r"\d+(?=i\b)|\d{19}", "N", text)

    assert masked(printed("counters", "--format", "influx")) == masked(INFLUX[3])


def test_the_page_shows_what_diff_prints_as_json(tmp_path):
    """The example is the answer for two rulesets that it describes completely."""
    shown = json.loads(COMPARED[3])
    (chain,) = shown["chains"]
    old = {row["number"]: row["rule"] for row in chain["removed"]}
    old |= {row["from"]: row["rule"] for row in chain["moved"]} | {
        row["from"]: row["old_rule"] for row in chain["changed"]
    }
    new = {row["number"]: row["rule"] for row in [*chain["added"], *chain["moved"], *chain["changed"]]}
    files = []
    for way, rules in ("from", old), ("to", new):
        kept = (f"-p esp -m mark --mark {number}" for number in itertools.count())
        lines = [f"-A INPUT {rules.get(number) or next(kept)}" for number in range(1, max(*old, *new) + 1)]
        text = "\n".join(["*filter", f":INPUT {chain['policy'][way]} [0:0]", *lines, "COMMIT", ""])
        files.append(tmp_path / way)
        files[-1].write_text(text)
    assert json.loads(printed("diff", "--format", "json", *map(str, files))) == shown
