"""If something cannot be read, or may not, an exception is raised. Nothing is guessed, and no guess is remembered."""

import subprocess
import sys

import pytest
from conftest import Host, tables_of
from faults import library, start  # noqa: F401  (fixtures)

import iptc

LEGACY = Host("legacy")

FULL_TABLES = """
import resource
usual = resource.getrlimit(resource.RLIMIT_NOFILE)

def without_descriptors(action):
    'What action raised or returned while there was no descriptor left.'
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), usual[1]))
    held = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    try:
        return action()
    except Exception as error:
        return error
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
"""

LOOKING = """
from iptc import easy, ruleset
cls = iptc.Table6 if "ipv6" in sys.argv else iptc.Table
ipv6 = "ipv6" in sys.argv
actions = {
    "get_tables": lambda: easy.get_tables(ipv6), "dump_all": lambda: easy.dump_all(ipv6), "flush_all": lambda: easy.flush_all(ipv6),
    "zero_all": lambda: easy.zero_all(ipv6=ipv6), "batch_begin": lambda: easy.batch_begin(ipv6=ipv6),
    "batch_end": lambda: easy.batch_end(ipv6=ipv6),
    "is_table_available": lambda: (iptc.is_table6_available if ipv6 else iptc.is_table_available)("mangle"),
    "rule.tables": lambda: (iptc.Rule6 if ipv6 else iptc.Rule)().tables, "save": lambda: iptc.save(ipv6=ipv6),
}

def name(outcome):
    return f"{type(outcome).__name__} {errno.errorcode.get(getattr(outcome, 'errno', None))}"
"""


@pytest.fixture
def unmarked(monkeypatch, host):
    """Neither the environment nor a file selects the back end."""
    monkeypatch.delenv("IPTC_BACKEND")


def run(command, code, check=True):
    done = subprocess.run([*command, sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.mark.one_backend("legacy", "nft")
def test_without_descriptors_every_look_raises_and_none_is_remembered(host, start, ipv6):
    host.iptables("-A INPUT -j ACCEPT", ipv6=ipv6)
    lines = start(
        FULL_TABLES
        + LOOKING
        + """
for label, action in actions.items():
    for table in cls._cache.values():
        table.close()
    cls._cache.clear()
    print(label, name(without_descriptors(action)))
for label in ("is_table_available", "get_tables", "dump_all", "flush_all"):
    print(label, actions[label]() if label != "dump_all" else len(actions[label]()))
""",
        "ipv6" if ipv6 else "ipv4",
    )
    *failed, available, tables, dumped, flushed = lines
    assert len(failed) == 9 and {line.split(" ", 1)[1] for line in failed} == {"KernelError EMFILE"}
    assert available == "is_table_available True" and dumped == "dump_all 5"
    assert tables == f"get_tables {list(iptc.Table.ALL)}"
    assert host.rules(ipv6) == []


@pytest.mark.one_backend("legacy", "nft")
@pytest.mark.parametrize("error", ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EPERM"])
def test_a_socket_that_cannot_be_had_raises_each_time_and_is_not_remembered(host, start, error):
    host.iptables("-A INPUT -j ACCEPT")
    lines = start(
        LOOKING
        + f"""
for label, action in actions.items():
    cls._cache.clear()
    print(label, name(attempt(action, "socket", 0, errno.{error}, True)[0]))
print(actions["is_table_available"](), len(actions["get_tables"]()))
"""
    )
    expected = {"EPERM": "AccessDenied", "ENOMEM": "OutOfMemory"}.get(error, "KernelError")
    assert {line.split(" ", 1)[1] for line in lines[:-1]} == {f"{expected} {error}"}
    assert lines[-1] == "True 5"


@pytest.mark.one_backend("legacy", "nft")
def test_without_the_capability_every_look_raises(host, ipv6):
    host.iptables("-A INPUT -j ACCEPT", ipv6=ipv6)
    code = f"""
import errno, sys
sys.argv.append("ipv6" if {ipv6} else "ipv4")
import iptc
{LOOKING}
for label, action in actions.items():
    try:
        print(label, action())
    except iptc.AccessDenied as error:
        assert "CAP_NET_ADMIN" in str(error) or "permitted" in str(error), error
    cls._cache.clear()
"""
    dropped = ["setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-all"]
    assert run(dropped, code).stdout == ""
    assert host.rules(ipv6) == ["-A INPUT -j ACCEPT"]


@pytest.mark.one_backend("legacy", "nft")
def test_whether_a_name_is_a_chain_is_not_guessed_without_the_capability(host, ipv6):
    host.iptables("-N web", ipv6=ipv6)
    code = f"""
import iptc
from iptc import easy
ipv6 = {ipv6}
rule = iptc.Rule6() if ipv6 else iptc.Rule()
for make in (
    lambda: rule.create_target("web"), lambda: iptc.Target(rule, "web", goto=True), lambda: easy.test_target("web", {{}}, ipv6),
    lambda: easy.test_rule({{"target": "web"}}, ipv6), lambda: easy.encode_iptc_rule({{"target": {{"goto": "web"}}}}, ipv6),
):
    try:
        print(make())
    except iptc.AccessDenied as error:
        assert str(error).startswith("can't tell whether 'web' is a chain: can't "), error
print(type(rule).from_args("-j web"), easy.test_target("DROP", {{}}, ipv6), easy.test_target("LOG", {{}}, ipv6))
"""
    assert run(["setpriv", "--bounding-set=-all", "--inh-caps=-all"], code).stdout == "-j web True True\n"
    assert iptc.easy.test_target("web", {}, ipv6)


@pytest.mark.one_backend("legacy", "nft")
def test_what_is_absent_is_no_error(host, start):
    """A table that the kernel does not have is absent; the other tables are not."""
    lines = start(
        LOOKING
        + """
for error in (errno.ENOENT, errno.ENOPROTOOPT):
    cls._cache.clear()
    print(attempt(actions["get_tables"], "info", 0, error)[0])
cls.existing_table_names.clear()
cls._cache.clear()
print(attempt(actions["is_table_available"], "info", 0, errno.ENOENT)[0], iptc.is_table_available("nope"))
"""
    )
    if host.backend == "legacy":
        assert lines == [str(list(iptc.Table.ALL[1:]))] * 2 + ["False False"]
    else:
        assert lines == [str(list(iptc.Table.ALL))] * 2 + ["True False"]


@pytest.mark.parametrize("missing", ["net_raw", "net_admin"])
@pytest.mark.parametrize("looked_for", [False, True], ids=["ipv4", "ipv6"])
def test_legacy_tables_that_may_not_be_read_decide_nothing(unmarked, missing, looked_for):
    LEGACY.iptables("-A INPUT -j ACCEPT", ipv6=looked_for)
    dropped = ["setpriv", f"--bounding-set=-{missing}", "--inh-caps=-all"]
    for use in (
        "iptc.backend()",
        "iptc.Table('filter')",
        "iptc.CounterReader()",
        "iptc.save()",
        "iptc.easy.has_chain('filter', 'web')",
    ):
        done = run(
            dropped, f"import iptc, iptc.easy\ntry:\n    {use}\nexcept iptc.AccessDenied as error:\n    print(error)"
        )
        assert "CAP_NET_RAW" in done.stdout, (use, done)
    assert run(dropped, "import iptc; print(iptc.backend('nft'))").stdout == "nft\n"
    assert run([*dropped, "env", "IPTC_BACKEND=nft"], "import iptc; print(iptc.backend())").stdout == "nft\n"
    if missing == "net_raw":
        assert (
            run(
                [*dropped, "env", "IPTC_BACKEND=nft"],
                "import iptc; print(iptc.Chain(iptc.Table('filter'), 'INPUT').rules)",
            ).stdout
            == "[]\n"
        )
    # a rule can be made without any right
    made = run(dropped, "import iptc; print(iptc.Rule.from_args('-p tcp -m comment --comment x -j ACCEPT'))")
    assert made.stdout == "-p tcp -m comment --comment x -j ACCEPT\n"


def test_names_of_tables_that_cannot_be_read_are_not_no_tables(unmarked, start):
    lines = start("""
uses = [iptc.backend, iptc.save, lambda: iptc.save(ipv6=True), lambda: iptc.save(backend="legacy"), lambda: iptc.Table("filter"), iptc.CounterReader]
for error in (errno.EACCES, errno.EPERM, errno.EMFILE, errno.EIO):
    for use in uses:
        found, calls = attempt(use, "open names", 0, error, True)
        assert calls == 1, calls
        print(type(found).__name__, found.errno == error, "tables_names" in str(found))
    print(attempt(lambda: iptc.backend("nft"), "open names", 0, error, True)[0])
    print(repr(attempt(lambda: iptc.save(backend="nft"), "open names", 0, error, True)[0]))
print(attempt(iptc.backend, "open names", 0, errno.ENOENT, True)[0])
os.environ["IPTC_BACKEND"] = "nft"
print(attempt(iptc.backend, "open names", 0, errno.EACCES, True)[0])
""")
    denied, passing = ["AccessDenied True True"] * 6 + ["nft", "''"], ["KernelError True True"] * 6 + ["nft", "''"]
    assert lines == [*denied, *denied, *passing, *passing, "nft", "nft"]


def test_what_is_guessed_without_the_right_to_look_is_not_remembered(unmarked):
    Host("nft").iptables("-A INPUT -j ACCEPT")
    code = "import iptc, iptc.backends as b; print(iptc.backend() in ('legacy', 'nft'), len(b._decided))"
    assert run(["setpriv", "--bounding-set=-all", "--inh-caps=-all"], code).stdout == "True 0\n"
    assert run([], code).stdout == "True 1\n"


def test_a_tool_that_cannot_be_started_for_now_is_asked_again(unmarked, start):
    LEGACY.iptables("-A INPUT -j ACCEPT")
    Host("nft").iptables("-A INPUT -j ACCEPT")
    lines = start(
        FULL_TABLES
        + """
import tempfile, warnings
warnings.simplefilter("ignore")
import iptc.backends as backends
with tempfile.TemporaryDirectory() as folder:
    with open(f"{folder}/iptables", "w") as file:
        file.write("#!/bin/sh\\necho 'iptables v1.8.9 (legacy)'\\n")
    os.chmod(f"{folder}/iptables", 0o755)
    os.environ["PATH"] = folder + ":" + os.environ["PATH"]
    failed = without_descriptors(lambda: backends.version_of_tool(f"{folder}/iptables"))
    print(type(failed).__name__, failed.errno == errno.EMFILE, iptc.backend())
"""
    )
    assert lines == ["KernelError True legacy"]


def test_an_extension_that_cannot_be_looked_for_is_looked_for_again(host, start):
    lines = start(
        FULL_TABLES
        + """
iptc.Rule       # a name is loaded when it is first used, and Python cannot do that without descriptors
def make():
    return str(iptc.Rule.from_args("-p udp -m string --string x --algo bm -j LOG"))
failed = without_descriptors(make)
print(isinstance(failed, iptc.IPTCError), make())
"""
    )
    assert lines == ['True -p udp -m string --string "x" --algo bm -j LOG']


@pytest.mark.one_backend("nft")
@pytest.mark.parametrize("table", iptc.Table.ALL)
def test_a_table_of_nf_tables_is_saved_as_soon_as_it_is_there(host, table, ipv6):
    family = "ip6" if ipv6 else "ip"

    def same():
        ours, theirs = tables_of(iptc.save(ipv6=ipv6)), tables_of("\n".join(host.save(ipv6)) + "\n")
        assert ours == theirs
        return [name for name, _ in ours]

    assert same() == []
    host.run("nft", "add", "table", family, "other")
    host.run("nft", "add", "table", "inet", table)
    assert same() == []
    host.run("nft", "add", "table", family, table)
    assert same() == [table]
    host.run("nft", "add", "set", family, table, "s", "{ type inet_service; }")
    host.run(
        "nft", "add", "chain", family, table, "foreign", "{ type filter hook prerouting priority 17; policy drop; }"
    )
    assert same() == [table]
    host.run("nft", "add", "chain", family, table, "web")
    host.run("nft", "add", "rule", family, table, "web", "counter")
    assert same() == [table]
    host.run("nft", "add", "table", family, "filter" if table != "filter" else "nat")
    assert len(same()) == 2
