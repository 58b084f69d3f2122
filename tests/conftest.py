"""Fixtures: each test that uses the kernel has a network namespace of its own, and never the machine's."""

import atexit
import contextlib
import ctypes
import functools
import os
import pathlib
import pty
import re
import signal
import socket
import subprocess
import sys
import tempfile

import pytest
import sharing
import specs
from untried import left_out, pass_on, pytest_terminal_summary, untried, why_to_end  # noqa: F401  (one is a hook)

import iptc
from iptc import state

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000

PATIENCE = 600
"""Seconds after which an expected event counts as missing: much more than a busy machine needs."""

for number, usual in {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGQUIT: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGTERM: signal.SIG_DFL,
}.items():
    if signal.getsignal(number) is signal.SIG_IGN:
        # a shell ignores this signal for background jobs, as does nohup, and every program that a test starts would
        # inherit it
        signal.signal(number, usual)


def enter_new_namespace():
    """Move this process into a new, empty network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        error = os.strerror(ctypes.get_errno())
        pytest.fail(f"these tests need a network namespace of their own: {error}; run scripts/test", pytrace=False)


def sysctl(*settings):
    """Set what the kernel lets this network namespace choose: "net.ipv4.ip_forward=1"."""
    for setting in settings:
        name, value = setting.split("=")
        pathlib.Path("/proc/sys", *name.split(".")).write_text(value)


def batch_room():
    """Return how many bytes a batch of nf_tables may have here. Root of a user namespace cannot raise the machine's
    limit."""
    sndbufforce, nfnetlink = 32, 12
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, nfnetlink) as channel:
        try:
            channel.setsockopt(socket.SOL_SOCKET, sndbufforce, 1 << 28)
        except PermissionError:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 28)
        return channel.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


@contextlib.contextmanager
def short_name(path):
    """Give *path* a short name without spaces for the time of the `with` statement: the address of a socket has room for
    107 bytes, and LD_PRELOAD ends a name at a space."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        os.symlink(path, f"{folder}/it")
        yield f"{folder}/it"


@functools.cache
def preloadable(library):
    """Return a path of *library* that LD_PRELOAD can name."""
    if not re.search(r"[\s:$]", library):
        return library
    names = contextlib.ExitStack()
    atexit.register(names.close)
    return names.enter_context(short_name(library))


def preloading(library):
    """Return an environment in which *library* is preloaded, without the libraries that are preloaded into this
    process."""
    before = os.environ.get("LD_PRELOAD")
    return {**os.environ, "LD_PRELOAD": ":".join(filter(None, [before, preloadable(str(library))]))}


AS_AT_A_TERMINAL = """
import os, sys
os.isatty = sys.stdout.isatty = sys.stderr.isatty = lambda *_: True
"""


def shown_at_a_terminal(code, *arguments, **options):
    """Run Python's *code*. Return its exit status, and what it writes to its terminal.

    If no terminal can be opened, the output is a pipe that the code takes for one.
    """
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        untried(f"no pseudo-terminal can be opened ({error}); a pipe that says it is one stands in for it")
        ours, theirs = os.pipe()
        code = AS_AT_A_TERMINAL + code
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=theirs, stderr=theirs, **options)
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # reading a terminal whose other end is closed raises
        while piece := os.read(ours, 4096):
            seen += piece
    os.close(ours)
    return process.wait(), seen


def tables_of(text):
    """Return [(name, lines)] of the tables in a text of iptables-save."""
    return [
        (
            part.split("\n", 1)[0],
            [line for line in part.split("\n")[1:] if line and not line.startswith(("#", "COMMIT"))],
        )
        for part in re.split(r"^\*", text, flags=re.MULTILINE)[1:]
    ]


def as_seen_here(path):
    """Return *path* from /proc/self/maps as this process can open it: in a chroot it is another path."""
    parts = pathlib.Path(path).parts[1:]
    return next(
        (str(here) for start in range(len(parts)) if (here := pathlib.Path("/", *parts[start:])).exists()), str(path)
    )


@contextlib.contextmanager
def running(*command):
    """Start *command* and wait for the first line that it prints. Kill it at the end of the `with` statement."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            yield process
        finally:
            process.kill()


class Host:
    """The host's own tools of one back end, in the namespace of the test."""

    def __init__(self, backend):
        self.backend = backend

    def tool(self, ipv6=False, verb=""):
        """Return the name of a tool: `iptables-nft`, `ip6tables-legacy-save`, …"""
        return f"{'ip6tables' if ipv6 else 'iptables'}-{self.backend}{verb}"

    @functools.cached_property
    def release(self):
        """The release of the tools, such as (1, 8, 9)."""
        return tuple(int(part) for part in re.search(r"v(\d+)\.(\d+)\.(\d+)", self.run(self.tool(), "-V")).groups())

    def loses_counters(self, ipv6):
        """Whether the tools lose the counters that a rule is given: `ip6tables-nft` up to 1.8.9 does."""
        return self.backend == "nft" and ipv6 and self.release < (1, 8, 10)

    def run(self, *command, text=None, check=True):
        """Run *command*. Return the `CompletedProcess` with its output as text."""
        # as bytes: text mode would turn a carriage return into a line feed
        given = None if text is None else text.encode("utf-8", "surrogateescape")
        # a library that is preloaded into this process, such as a sanitizer, must not be loaded into the host's tools
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        done = subprocess.run(command, input=given, capture_output=True, env=environment)
        done.stdout, done.stderr = (part.decode("utf-8", "surrogateescape") for part in (done.stdout, done.stderr))
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr}")
        return done.stdout if check else done

    def iptables(self, *arguments, ipv6=False, check=True):
        """Run `iptables` or `ip6tables`. A single argument is split into words."""
        words = arguments[0].split() if len(arguments) == 1 else arguments
        return self.run(self.tool(ipv6), *words, check=check)

    def save(self, ipv6=False, counters=False, table=None):
        """Return the output of `iptables-save` without its comments."""
        command = [self.tool(ipv6, "-save")]
        command += ["-c"] if counters else []
        command += ["-t", table] if table else []
        return [line for line in self.run(*command).split("\n")[:-1] if not line.startswith("#")]

    def rules(self, ipv6=False, table=None):
        """Return the `-A` lines of `save`."""
        return [line for line in self.save(ipv6, table=table) if line.startswith("-A ")]

    def restore(self, text, ipv6=False, arguments=()):
        """Give *text* to `iptables-restore`. If iptables-nft could not send it at once, give it in parts: the tool does
        not ask for a larger buffer."""
        if self.backend == "legacy" or batch_room() >= 1 << 28:
            self.run(self.tool(ipv6, "-restore"), *arguments, text=text)
            return
        for table, lines in tables_of(text):
            rules = [line for line in lines if not line.startswith(":")]
            chains = [line for line in lines if line.startswith(":")]
            self.run(self.tool(ipv6, "-restore"), *arguments, text="\n".join([f"*{table}", *chains, "COMMIT", ""]))
            for start in range(0, len(rules), 60):
                part = "\n".join([f"*{table}", *rules[start : start + 60], "COMMIT", ""])
                self.run(self.tool(ipv6, "-restore"), *{*arguments, "--noflush"}, text=part)


def forget_tables():
    """Forget all tables that earlier tests have opened."""
    for cls in (iptc.Table, iptc.Table6):
        for table in cls._cache.values():
            table._state.close()
        cls._cache.clear()
        cls.existing_table_names.clear()
    state._open_tables.clear()


BOTH_BACKENDS = {
    "test_args",
    "test_capture",
    "test_chain",
    "test_chain_names",
    "test_cli",
    "test_compat",
    "test_cost",
    "test_counters",
    "test_cycles",
    "test_defects",
    "test_docs",
    "test_easy",
    "test_extensions",
    "test_grammar",
    "test_libxtables",
    "test_match",
    "test_memory",
    "test_names",
    "test_namespaces",
    "test_parity",
    "test_rule",
    "test_ruleset",
    "test_settling",
    "test_sockets",
    "test_table",
    "test_target",
    "test_traffic",
    "test_transaction",
    "test_verbs",
    "test_writers",
    "test_output",
    "test_same_rule",
    "test_statuses",
    "test_interrupts",
    "test_quick_polls",
    "test_turns",
    "test_reentry",
    "test_bounds",
    "test_allocations",
    "test_half_made",
    "test_managing",
    "test_managing_cli",
    "test_managing_rollback",
    "test_face",
    "test_doctor",
    "test_sampler",
    "test_top",
    "test_monitoring",
    "test_exporter",
    "test_formats",
    "test_agents",
    "test_long_scrapes",
    "test_packaged",
    "test_owned",
    "test_guard",
    "test_watch",
    "test_journal",
    "test_trace",
    "test_lint",
    "test_why",
    "test_bpf_source",
    "test_bpf_handing",
    "test_bpf_hour",
    "test_docs_commands",
}
"""The modules whose tests run on both back ends. The mark `one_backend` limits a test to one of them."""


def pytest_addoption(parser):
    parser.addoption(
        "--long",
        action="store_true",
        help="the tests marked `long` too, and all others as often as IPTC_STRESS says: 20, if it is not set",
    )


def pytest_configure(config):
    if config.getoption("--long"):
        # the test modules read this variable when they are imported
        os.environ.setdefault("IPTC_STRESS", "20")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    return sharing.processes(config)


def hide_names():
    """Show names of network namespaces only to this process and its children: other processes may use the same names.

    This is left out where other processes would see the mount: in a chroot whose root is no mount point.
    """
    libc, ms_rec, ms_private = ctypes.CDLL(None), 1 << 14, 1 << 18
    if libc.unshare(CLONE_NEWNS) == 0 and libc.mount(None, b"/", None, ms_rec | ms_private, None) == 0:
        with contextlib.suppress(PermissionError):
            os.makedirs("/run/netns", exist_ok=True)
            libc.mount(b"tmpfs", b"/run/netns", b"tmpfs", 0, None)


@pytest.fixture(scope="session", autouse=True)
def own_place(request, tmp_path_factory):
    """Give each process that runs tests a network namespace, names of network namespaces, and a lock file of its
    own."""
    hide_names()
    if hasattr(request.config, "workerinput"):
        enter_new_namespace()
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        os.environ["XTABLES_LOCKFILE"] = str(tmp_path_factory.mktemp("lock") / "xtables.lock")


USABLE = """
import conftest, iptc
conftest.enter_new_namespace()
for backend in ("legacy", "nft"):
    iptc.Chain(iptc.Table("filter", backend=backend), "INPUT").append_rule(iptc.Rule.from_args("-j ACCEPT"))
"""


def pytest_sessionstart(session):
    """With `IPTC_REQUIRE_KERNEL`, end the run at once if the kernel cannot be used."""
    config = session.config
    if "IPTC_REQUIRE_KERNEL" not in os.environ or config.option.collectonly or hasattr(config, "workerinput"):
        return
    tests = os.path.dirname(__file__)
    path = os.pathsep.join(filter(None, [tests, os.path.dirname(tests), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", USABLE]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        why = lines[-1] if lines else f"exit {done.returncode}"
        pytest.exit(f"the kernel cannot be used here, and every test of it must run: {why}", returncode=1)
    if why := why_to_end():
        pytest.exit(f"eBPF cannot be used here, and every test of it must run: {why}", returncode=1)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """With `IPTC_REQUIRE_KERNEL`, a skipped test counts as failed. What a test could not try is named."""
    report = (yield).get_result()
    pass_on(report)
    if report.skipped and "IPTC_REQUIRE_KERNEL" in os.environ:
        report.outcome = "failed"
        report.longrepr = f"skipped, and nothing may be: {call.excinfo.value}"


def pytest_collection_modifyitems(config, items):
    out = [] if config.getoption("--long") else [item for item in items if item.get_closest_marker("long")]
    out += left_out([item for item in items if item not in set(out)])
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in set(out)]
    if hasattr(config, "workerinput"):
        sharing.longest_first(items)


def pytest_generate_tests(metafunc):
    if "backend" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("one_backend")
    both = metafunc.module.__name__ in BOTH_BACKENDS
    metafunc.parametrize(
        "backend", list(mark.args) if mark else ["legacy", "nft"] if both else ["legacy"], indirect=True
    )


@pytest.fixture
def backend(request):
    """Return the back end on which the test runs."""
    return request.param


@pytest.fixture
def host(tmp_path, monkeypatch, backend):
    """Return the host's tools in a new namespace, with a lock file of its own."""
    enter_new_namespace()
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    monkeypatch.setenv("IPTC_BACKEND", backend)
    monkeypatch.setenv("IPTC_STATE_DIR", str(tmp_path / "state"))
    forget_tables()
    yield Host(backend)
    forget_tables()


@pytest.fixture
def prepared(host, ipv6):
    """Return a namespace with the chains, sets and rate estimators that the specifications name."""
    for line in specs.SETS:
        host.run("ipset", *line.split())
    for table in iptc.Table.ALL:
        for chain in ("web", "log-drop"):
            host.iptables("-t", table, "-N", chain, ipv6=ipv6)
    host.iptables("-t raw -N estimators", ipv6=ipv6)
    for name, interval, average in specs.ESTIMATORS:
        words = ["-j", "RATEEST", "--rateest-name", name, "--rateest-interval", interval, "--rateest-ewmalog", average]
        host.iptables("-t", "raw", "-A", "estimators", *words, ipv6=ipv6)
    return host


@pytest.fixture(params=[False, True], ids=["ipv4", "ipv6"])
def ipv6(request):
    """Run the test for both families."""
    return request.param


class Family:
    """The classes and names of one family."""

    def __init__(self, ipv6):
        self.ipv6 = ipv6
        self.Table = iptc.Table6 if ipv6 else iptc.Table
        self.Rule = iptc.Rule6 if ipv6 else iptc.Rule
        self.address = "2001:db8::1" if ipv6 else "192.0.2.1"


@pytest.fixture
def family(ipv6):
    """Return `Table`, `Rule` and names of the family for which the test runs."""
    return Family(ipv6)


@pytest.fixture
def traffic(host):
    """Return a function that sends *count* UDP datagrams of 100 bytes over loopback to a port."""
    host.run("ip", "link", "set", "lo", "up")

    def send(port, count=1, ipv6=False):
        family, address = (socket.AF_INET6, "::1") if ipv6 else (socket.AF_INET, "127.0.0.1")
        with socket.socket(family, socket.SOCK_DGRAM) as sender, socket.socket(family, socket.SOCK_DGRAM) as receiver:
            receiver.bind((address, port))  # or the kernel would answer with an error message, and count that
            for _ in range(count):
                sender.sendto(bytes(100), (address, port))

    return send
