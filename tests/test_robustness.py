"""No input ends the interpreter: each mistake raises an exception, and the next call works."""

import os
import pathlib
import subprocess
import sys
import textwrap
import threading

import pytest

import iptc

FOLDER = subprocess.run(["pkg-config", "--variable=xtlibdir", "xtables"], capture_output=True, text=True).stdout.strip()


def python(program, **environment):
    """Run *program* in an interpreter of its own, in this namespace. Return the `CompletedProcess`."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )


def prints(program, **environment):
    """Return what *program* prints. It must end with status 0 and print nothing to standard error."""
    done = python(program, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# --- wrong values ------------------------------------------------------------------------------------------------

WRONG_TEXT = ["", "\0", "a\0b", "\ud800", "\udcff", "x" * 29, "x" * 100_000, "!", "-", " ", "é" * 20, "%s%n", "../../x"]
WRONG_TYPES = [None, 5, -1, 2**70, 1.5, True, b"x", [], {}, object()]


@pytest.mark.parametrize("value", WRONG_TEXT + WRONG_TYPES, ids=lambda v: ascii(v)[:12])
def test_wrong_names_of_tables_chains_and_extensions(host, family, value):
    table = family.Table("filter")
    before = host.save(family.ipv6)
    for action in (
        lambda: family.Table(value),
        lambda: iptc.Chain(table, value).delete(),
        lambda: table.delete_chain(value),
        lambda: table.rename_chain("INPUT", value),
        lambda: table.set_policy("INPUT", value),
        lambda: table.zero_entries(value),
        lambda: iptc.Match(family.Rule(), value),
        lambda: family.Rule().create_match(value),
        lambda: iptc.Match(value, "tcp"),
        lambda: iptc.Target(value, "DROP"),
        lambda: iptc.easy.dump_chain("filter", value),
        lambda: iptc.easy.dump_chain(value, "INPUT"),
        lambda: iptc.Target(family.Rule(), value or "nosuch"),
    ):
        with pytest.raises((iptc.IPTCError, TypeError)):
            action()
    assert host.save(family.ipv6) == before


@pytest.mark.parametrize(
    "name", ["", "\0", "a\0b", "\ud800", "x" * 29, "é" * 15, "a b", "a\tb", "-a", "!a", "DROP", "REJECT", None, 5]
)
def test_names_that_no_chain_can_have(host, family, name):
    table = family.Table("filter")
    with pytest.raises((ValueError, TypeError)):
        table.create_chain(name)
    assert len(table.chains) == 3


@pytest.mark.parametrize("name", ["x" * 28, "é" * 14, "a%sb", "a/b", "{}", "{0}", "\udcff", "dash-ed", "tcp"])
def test_names_that_a_chain_can_have(host, family, name):
    table = family.Table("filter")
    table.autocommit = False
    chain = table.create_chain(name)
    table.create_chain("other")
    rule = family.Rule()
    rule.create_target(name)
    iptc.Chain(table, "INPUT").append_rule(rule)
    table.commit()
    table.refresh()
    assert chain in table.chains and iptc.Chain(table, "INPUT").rules[0].target.name == name
    assert f":{name} - [0:0]".encode("utf-8", "surrogateescape") in "\n".join(host.save(family.ipv6)).encode(
        "utf-8", "surrogateescape"
    )
    with pytest.raises(iptc.IPTCError):
        table.set_policy(name, name)


BASE = ["src", "dst", "protocol", "in_interface", "out_interface", "counters", "target"]
TAKEN_BY_BASE = [
    ("protocol", 5),
    ("in_interface", None),
    ("out_interface", None),
    ("in_interface", "\udcff"),
    ("out_interface", "\udcff"),
]


@pytest.mark.parametrize("attribute", BASE)
@pytest.mark.parametrize("value", WRONG_TEXT[:7] + WRONG_TYPES, ids=lambda v: ascii(v)[:12])
def test_wrong_values_of_the_base_part(family, attribute, value):
    rule = family.Rule()
    before = rule.entry
    if any(attribute == name and value is taken for name, taken in TAKEN_BY_BASE):
        setattr(rule, attribute, value)
    else:
        with pytest.raises((iptc.ParameterError, TypeError)):
            setattr(rule, attribute, value)
        assert rule.entry == before


TAKEN = [("tcp", "80:"), ("mark", "99999"), ("limit", "80:"), ("limit", "80-90")]
"""Values that iptables accepts, some of them surprisingly."""


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        1.5,
        b"80",
        [],
        [None],
        ["!"],
        {},
        object(),
        "",
        "!",
        "a\0b",
        "\ud800",
        "9" * 100_000,
        ["1", "2"],
        ["80", "extra"],
        "-1",
        "80:",
        "99999",
        "80-90",
    ],
    ids=lambda v: ascii(v)[:12],
)
@pytest.mark.parametrize(
    "name, parameter", [("tcp", "dport"), ("multiport", "dports"), ("mark", "mark"), ("limit", "limit")]
)
def test_wrong_values_of_parameters(name, parameter, value):
    rule = iptc.Rule()
    rule.protocol = "tcp"
    match = rule.create_match(name)
    before = match.parameters
    if (name, value) in TAKEN:
        match.set_parameter(parameter, value)
    else:
        with pytest.raises((iptc.ParameterError, TypeError)):
            match.set_parameter(parameter, value)
        assert match.parameters == before


@pytest.mark.parametrize(
    "parameter",
    ["", "nosuch", "\0", "\ud800", "x" * 100_000, "dport#", "dport#0", "dport#x", "dport#\u00b2", "--dport", None, 5],
)
def test_wrong_names_of_parameters(parameter):
    match = iptc.Rule().create_match("tcp")
    with pytest.raises((iptc.ParameterError, TypeError)):
        match.set_parameter(parameter, "80")
    assert match.parameters == {}


@pytest.mark.parametrize("position", [-1, "0", None, 1.0, 2**31, 2**32, 2**40, 2**70])
def test_wrong_positions(host, family, position):
    rule = family.Rule()
    rule.create_target("DROP")
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    for _ in range(2):
        for edit in (chain.insert_rule, chain.replace_rule):
            with pytest.raises((iptc.IPTCError, TypeError)):
                edit(rule, position)
        assert chain.rules == []


@pytest.mark.parametrize(
    "counters", [None, 5, (1,), (1, 2, 3), (-1, 0), (0, 2**64), ("1", "2"), (1.5, 2), (None, None)]
)
def test_wrong_counters(host, family, counters):
    with pytest.raises((iptc.ParameterError, TypeError)):
        family.Rule().counters = counters
    if counters is not None:
        with pytest.raises((iptc.ParameterError, TypeError)):
            iptc.Chain(family.Table("filter"), "INPUT").set_policy("DROP", counters)
    assert iptc.Chain(family.Table("filter"), "INPUT").get_policy().name == "ACCEPT"


@pytest.mark.parametrize(
    "entry", [b"", b"x", bytes(112), bytes(168), b"\xff" * 400, 5, 10**12, "text", [1, 300], object()]
)
def test_wrong_bytes(host, family, entry):
    table = family.Table("filter")
    for action in (
        lambda: family.Rule(entry),
        lambda: table.append_entry("INPUT", entry),
        lambda: table.get_target(entry),
        lambda: iptc.Match(family.Rule(), match=entry),
        lambda: iptc.Target(family.Rule(), target=entry),
        lambda: table.next_rule(entry),
    ):
        with pytest.raises((iptc.ParameterError, TypeError)):
            action()
    assert host.rules(family.ipv6) == []


def test_an_entry_with_one_byte_changed_is_refused_or_written(host, family):
    rule = family.Rule()
    rule.create_match("mark").mark = "80"
    rule.create_match("comment").comment = "x"
    rule.create_target("ACCEPT")
    good = rule.rule
    table = family.Table("filter", False)
    for position in range(len(good)):
        for value in (0, 1, 0x7F, 0xFF):
            entry = good[:position] + bytes([value]) + good[position + 1 :]
            try:
                made = family.Rule(entry)
                str(made), made.matches, made.target, made == rule, hash(made)
                if value == 0xFF and position % 8 == 0:
                    table.append_entry("INPUT", entry)
                    table.commit()
            except iptc.IPTCError:
                pass
    table.refresh()
    assert all(str(read) is not None for read in iptc.Chain(table, "INPUT").rules)


@pytest.mark.parametrize("cls", [iptc.Rule, iptc.Rule6, iptc.Match, iptc.Target])
def test_objects_that_were_never_initialised(cls):
    printed = prints(f"""
        import iptc
        made = iptc.{cls.__name__}.__new__(iptc.{cls.__name__})
        for name in dir(made):
            try:
                value = getattr(made, name)
                callable(value) and value()
            except Exception:
                pass
        for action in (repr, str, hash, lambda m: m == m.__class__.__new__(m.__class__), lambda m: m.set_parameter("x", "y")):
            try:
                action(made)
            except Exception:
                pass
        print("alive")
    """)
    assert printed.endswith("alive\n")


def test_a_rule_that_was_never_initialised_has_read_nothing(family):
    made = family.Rule.__new__(family.Rule)
    assert made._body_payloads() == []


def test_half_built_rules(family):
    rule = family.Rule()
    rule.create_match("statistic")
    for action in (str, repr, hash, lambda r: r == r, lambda r: r.matches[0].parameters):
        action(rule)
    rule.create_target("DROP")
    with pytest.raises(iptc.ParameterError):
        rule.rule
    rule.matches[0].mode = "random"
    rule.matches[0].probability = "0.5"
    assert str(family.Rule(rule.rule)).startswith("-m statistic --mode random --probability 0.5")


def test_a_match_outlives_its_rule():
    match = iptc.Match(iptc.Rule(), "tcp")
    match.dport = "80"
    target = iptc.Rule().create_target("MARK")
    target.set_mark = "1"
    assert match.dport == "80" and target.set_xmark == "0x1/0xffffffff"


# --- tables -----------------------------------------------------------------------------------------------------


def test_use_after_close(host, family):
    table = family.Table("filter")
    chain = iptc.Chain(table, "INPUT")
    rule = family.Rule()
    rule.create_target("DROP")
    table.close()
    for action in (
        lambda: table.chains,
        lambda: chain.rules,
        lambda: chain.append_rule(rule),
        lambda: chain.delete_rule(rule),
        lambda: table.create_chain("web"),
        table.commit,
        lambda: table.get_policy("INPUT"),
        table.flush,
        lambda: table.is_chain("INPUT"),
        lambda: table.first_rule("INPUT"),
    ):
        try:
            action()
        except iptc.IPTCError as error:
            assert "closed" in str(error)
        else:
            assert action == table.flush  # this opens the table again, as refresh() does
            table.close()


def test_what_was_gathered_is_gone_with_close(host, family):
    table = family.Table("filter", False)
    table.create_chain("web")
    table.close()
    assert not family.Table("filter", True).is_chain("web")


def test_a_forked_child_uses_its_tables(host, family):
    table = family.Table("filter")
    chain = iptc.Chain(table, "INPUT")
    rule = family.Rule()
    rule.create_target("DROP")
    chain.append_rule(rule)
    child = os.fork()
    if child == 0:
        try:
            chain.append_rule(rule)
            os._exit(0 if len(chain.rules) == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    chain.append_rule(rule)
    assert len(chain.rules) == 3


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_another_thread_writes(host):
    chain = iptc.Chain(iptc.Table("filter"), "INPUT")
    rule = iptc.Rule()
    rule.create_target("DROP")
    stop = threading.Event()

    def write():
        while not stop.is_set():
            chain.append_rule(rule)
            chain.delete_rule(rule)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                try:
                    iptc.Chain(iptc.Table("filter"), "OUTPUT").append_rule(rule)
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        writer.join()
    assert len(host.rules()) == 10


def in_threads(*works):
    """Run *works* in threads at once. If one raises, raise that exception here."""
    raised = []

    def run(work):
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert raised == [] and not any(thread.is_alive() for thread in threads)


def numbered(family, text):
    rule = family.Rule()
    rule.create_match("comment").comment = text
    rule.create_target("ACCEPT")
    return rule


def test_threads_append_to_one_table(host, family):
    chain = iptc.Chain(family.Table("filter"), "INPUT")

    def append(thread):
        for number in range(25):
            chain.append_rule(numbered(family, f"{thread}-{number}"))

    in_threads(*(lambda thread=thread: append(thread) for thread in range(4)))
    found = [rule.matches[0].comment for rule in chain.rules]
    assert len(found) == len(set(found)) == 100
    for thread in "0123":
        assert [c for c in found if c.startswith(thread)] == [f"{thread}-{number}" for number in range(25)]


def test_threads_read_and_write_and_batch(host, family):
    table = family.Table("filter")
    chain = iptc.Chain(table, "INPUT")

    def read():
        for _ in range(50):
            for rule in chain.rules:
                assert str(rule) == f"-m comment --comment {rule.matches[0].comment} -j ACCEPT"
            table.refresh()

    def write():
        for number in range(20):
            chain.append_rule(numbered(family, f"single{number}"))

    def batch():
        for number in range(10):
            rules = [iptc.easy.decode_iptc_rule(numbered(family, f"batch{number}")) for _ in range(3)]
            iptc.easy.batch_add_rules("filter", [("INPUT", rule_d, 0) for rule_d in rules], family.ipv6)

    in_threads(read, read, write, batch)
    assert len(chain.rules) == 50 and table.autocommit is True


def test_threads_of_both_families(host):
    def work(rule_class, table, address):
        for number in range(30):
            rule = rule_class()
            rule.src = address
            rule.protocol = "tcp"
            rule.create_match("tcp").dport = str(number + 1)
            rule.create_target("REJECT")
            iptc.Chain(table, "INPUT").append_rule(rule)
            assert iptc.Chain(table, "INPUT").rules[-1] == rule

    in_threads(
        lambda: work(iptc.Rule, iptc.Table("filter"), "192.0.2.1"),
        lambda: work(iptc.Rule6, iptc.Table6("filter"), "2001:db8::1"),
    )
    assert len(host.rules()) == len(host.rules(ipv6=True)) == 30


def test_no_descriptor_stays_open(host, family):
    for name in family.Table.ALL:
        table = family.Table(name)
        table.create_chain("web").append_rule(numbered(family, "x"))
        assert len(iptc.Chain(table, "web").rules) == 1
    with pytest.raises(iptc.IPTCError):
        family.Table("nosuch")
    open_files = [os.readlink(path) for path in pathlib.Path("/proc/self/fd").iterdir() if os.path.exists(path)]
    assert not [name for name in open_files if name.startswith("socket:") or "xtables" in name]


# --- libxtables and its plugins -----------------------------------------------------------------------------------


def test_two_thousand_refusals_leave_nothing_behind():
    def depth(n):
        return n and depth(n - 1)

    match, limit = iptc.Rule().create_match("tcp"), iptc.Rule().create_match("limit")
    for _ in range(1000):
        for made, parameter in ((match, "dport"), (limit, "limit")):
            with pytest.raises(ValueError):
                made.set_parameter(parameter, "nonsense")
    assert depth(500) == 0
    match.dport = "80"
    assert match.dport == "80"


def test_values_that_make_hashlimit_divide_by_zero(host):
    match = iptc.Rule().create_match("hashlimit")
    match.hashlimit_name = "x"
    for value in ("0/sec", "4294967296/sec", "99999999999/day", "0b/s", "1b/day"):
        try:
            match.hashlimit_upto = value
        except iptc.ParameterError:
            continue
        match.hashlimit_upto = "5/sec"
    match.hashlimit_upto = "5/sec"
    assert match.hashlimit_upto == "5/sec"


def test_a_rule_in_the_kernel_that_hashlimit_divides_by(host, family):
    host.iptables("-A INPUT -m hashlimit --hashlimit-upto 1b/s --hashlimit-name x -j ACCEPT", ipv6=family.ipv6)
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    assert [f"-A INPUT {rule}" for rule in chain.rules] == host.rules(family.ipv6)
    payload = chain.rules[0].matches[0].match
    for position in range(32, len(payload) - 7):
        match = iptc.Match(family.Rule(), match=payload[:position] + bytes(8) + payload[position + 8 :])
        try:
            match.parameters
        except iptc.ParameterError:
            continue


def test_nothing_is_written_to_the_descriptors_of_the_process(host):
    done = python("""
        import warnings, iptc
        warnings.simplefilter("ignore")
        rule = iptc.Rule()
        rule.protocol = "tcp"
        for name, parameter, value in (("tcp", "dport", "80"), ("tcp", "dport", "x"), ("multiport", "dports", "1,x"),
                ("limit", "limit", "x"), ("state", "state", "FOO"), ("set", "match_set", ["nosuch", "src"]),
                ("rateest", "rateest", "nosuch"), ("icmp", "icmp_type", "x"), ("string", "hex_string", "|x|")):
            try:
                rule.create_match(name).set_parameter(parameter, value)
            except iptc.IPTCError:
                pass
        rule = iptc.Rule()
        rule.create_match("comment").comment = "x"
        rule.create_target("REJECT")
        chain = iptc.Chain(iptc.Table("filter"), "INPUT")
        chain.append_rule(rule)
        repr(chain.rules), iptc.easy.dump_all(), chain.rules[0].matches[0].parameters
        for wrong in ("NOPE", "x" * 50, "MASQUERADE"):
            try:
                chain.append_rule(iptc.easy.encode_iptc_rule({"target": wrong}))
            except iptc.IPTCError:
                pass
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_process_without_standard_descriptors(host):
    host.iptables("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT")
    assert (
        python("""
        import os, sys, iptc
        for fd in (0, 1, 2):
            os.close(fd)
        sys.stdout = sys.stderr = None
        rule = iptc.Chain(iptc.Table("filter"), "INPUT").rules[0]
        try:
            rule.matches[0].dport = "x"
        except ValueError:
            pass
        os._exit(0 if rule.matches[0].parameters == {"dport": "22"} else 1)
    """).returncode
        == 0
    )


def test_output_of_other_threads_goes_where_it_belongs(host):
    host.iptables("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT")
    printed = prints("""
        import os, threading, iptc
        rule = iptc.Chain(iptc.Table("filter"), "INPUT").rules[0]
        done = threading.Event()
        def read():
            while not done.is_set():
                assert rule.matches[0].parameters == {"dport": "22"}
        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(3000):
            os.write(1, b"line\\n")
        done.set()
        reader.join()
    """)
    assert printed == "line\n" * 3000


def test_rules_with_long_text(host):
    program = "64," + ",".join(["48 0 0 9"] * 63 + ["6 0 0 1"])
    u32 = "&&".join(["0>>22&0x3C@4=0x29"] * 10)
    host.iptables("-A", "INPUT", "-m", "bpf", "--bytecode", program)
    host.iptables("-A", "INPUT", "-m", "u32", "--u32", u32)
    chain = iptc.Chain(iptc.Table("filter"), "INPUT")
    assert [f"-A INPUT {rule}" for rule in chain.rules] == host.rules()
    assert chain.rules[0].matches[0].bytecode == program
    for rule in chain.rules:
        chain.append_rule(iptc.easy.encode_iptc_rule(iptc.easy.decode_iptc_rule(rule)))
        chain.delete_rule(rule)
    assert len(host.rules()) == 2


PLUGIN = r"""
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <xtables.h>
static const struct option options[] = {{"quit", 1, NULL, '1'}, {"warn", 1, NULL, '2'}, {"crowd", 1, NULL, '3'}, {NULL}};
static int parse(int c, char **argv, int invert, unsigned int *flags, const void *entry, struct xt_entry_match **match)
{
	if (c == '1') { fprintf(stderr, "giving up on %s\n", argv[2]); exit(1); }
	if (c == '2') fprintf(stderr, "careful\n");
	if (c == '3') xtables_error(PARAMETER_PROBLEM, "a crowd of %s", argv[2]);
	return 1;
}
static void save(const void *ip, const struct xt_entry_match *match)
{
	exit(1);
}
static struct xtables_match plugin = {
	.name = "NAME", .version = VERSION, .family = NFPROTO_UNSPEC, .revision = REVISION, .size = XT_ALIGN(8),
	.userspacesize = XT_ALIGN(8), .parse = parse, .save = save, .extra_opts = options,
};
static void __attribute__((constructor)) start(void) { xtables_register_match(&plugin); }
"""


@pytest.fixture
def plugins(tmp_path):
    """Return a folder with the host's plugins, and a function build(name, version, revision) that adds one."""
    folder = tmp_path / "xtables"
    folder.mkdir()
    for path in pathlib.Path(FOLDER).iterdir():
        (folder / path.name).symlink_to(path)

    def build(name, version="XTABLES_VERSION", revision=0):
        source = tmp_path / f"{name}.c"
        text = PLUGIN.replace("NAME", name).replace("= VERSION", f"= {version}")
        source.write_text(text.replace("REVISION", str(revision)))
        target = folder / f"libxt_{name}.so"
        target.unlink(missing_ok=True)
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", target, source], check=True)
        return str(folder)

    build.folder = folder
    return build


def test_a_plugin_of_another_version_is_refused(plugins):
    folder = plugins("elder", '"libxtables.so.9"')
    assert prints(
        """
        import iptc
        for _ in range(2):
            try:
                iptc.Match(iptc.Rule(), "elder")
            except iptc.XTablesError as error:
                print(error)
        print(iptc.Rule().create_match("tcp").name)
    """,
        XTABLES_LIBDIR=folder,
    ).splitlines()[::2] == [
        'can\'t load elder: match "elder" has version "libxtables.so.9", but "libxtables.so.12" is required',
        "tcp",
    ]


def test_a_plugin_that_is_no_library_is_refused(plugins):
    (plugins.folder / "libxt_broken.so").write_text("not a library")
    assert "can't load broken" in prints(
        """
        import iptc
        try:
            iptc.Match(iptc.Rule(), "broken")
        except iptc.XTablesError as error:
            print(error)
    """,
        XTABLES_LIBDIR=str(plugins.folder),
    )


def test_a_plugin_that_calls_exit_or_warns(plugins):
    folder = plugins("quitter")
    assert prints(
        """
        import warnings, iptc
        match = iptc.Rule().create_match("quitter")
        for action in (lambda: setattr(match, "quit", "it"), lambda: setattr(match, "crowd", "two"), lambda: match.parameters,
                       lambda: str(match.rule)):
            try:
                action()
            except iptc.XTablesError as error:
                print(error)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            match.warn = "x"
        print(caught[0].message)
    """,
        XTABLES_LIBDIR=folder,
    ).splitlines() == [
        "giving up on it: the extension gave up (exit status 1)",
        "a crowd of two",
        "the extension gave up (exit status 1)",
        "careful",
    ]


@pytest.fixture
def without(tmp_path, host):
    """Fill a chain with rules of all kinds, and return a folder without some of the plugins."""
    for ipv6 in (False, True):
        for line in (
            "-m quota --quota 5 -j ACCEPT",
            "-p tcp -m tcp --dport 22 -m mark --mark 1 -j ACCEPT",
            "-j LOG --log-prefix x",
            "-m quota --quota 6 -m mark --mark 2 -j LOG",
        ):
            host.iptables(f"-A INPUT {line}", ipv6=ipv6)
    folder = tmp_path / "few"
    folder.mkdir()
    for path in pathlib.Path(FOLDER).iterdir():
        if path.name.removesuffix(".so").partition("_")[2] not in ("quota", "LOG", "mark", "MARK"):
            (folder / path.name).symlink_to(path)
    return str(folder)


def test_what_has_no_plugin_is_listed_and_written_again(host, without, ipv6):
    table = "Table6" if ipv6 else "Table"
    before = host.save(ipv6)
    printed = prints(
        f"""
        import copy, pickle, iptc
        chain = iptc.Chain(iptc.{table}("filter"), "INPUT")
        rules = chain.rules
        for rule in rules:
            print([(m.name, m.opaque, m.parameters) for m in rule.matches], rule.target.name, rule.target.opaque)
            assert rule == rule and copy.deepcopy(rule) == rule == pickle.loads(pickle.dumps(rule))
            assert hash(rule) and str(rule) and repr(rule) and rule.matches + [rule.target]
        dump = iptc.easy.dump_chain("filter", "INPUT", ipv6={ipv6})
        chain.flush()
        for rule in rules[:2]:
            chain.append_rule(rule)
        for rule_d in dump[2:]:
            iptc.easy.add_rule("filter", "INPUT", rule_d, ipv6={ipv6})
        chain.replace_rule(rules[0])
        chain.delete_rule(rules[3])
        chain.append_rule(rules[3])
        try:
            rules[0].matches[0].quota = "7"
        except iptc.XTablesError as error:
            print(error)
    """,
        XTABLES_LIBDIR=without,
    )
    assert host.save(ipv6) == before
    assert printed.splitlines() == [
        "[('quota', True, {})] ACCEPT False",
        "[('tcp', False, {'dport': '22'}), ('mark', True, {})] ACCEPT False",
        "[] LOG True",
        "[('quota', True, {}), ('mark', True, {})] LOG True",
        "quota: invalid parameter quota",
    ]


REVISIONS = [
    ("both", "filter", "INPUT", None, "conntrack", 1, {"ctstate": "NEW,ESTABLISHED"}),
    ("both", "filter", "INPUT", None, "conntrack", 2, {"ctstate": "NEW,ESTABLISHED"}),
    ("both", "filter", "INPUT", None, "conntrack", 3, {"ctstate": "NEW,ESTABLISHED"}),
    ("ipv4", "filter", "INPUT", None, "addrtype", 0, {"src_type": "LOCAL"}),
    ("both", "filter", "INPUT", None, "addrtype", 1, {"src_type": "LOCAL"}),
    ("both", "filter", "INPUT", None, "recent", 0, {"set": "", "name": "y", "rsource": ""}),
    ("both", "filter", "INPUT", None, "socket", 1, {"transparent": ""}),
    ("both", "filter", "INPUT", None, "socket", 2, {"transparent": ""}),
    ("both", "filter", "INPUT", None, "bpf", 0, {"bytecode": "1,6 0 0 0"}),
    ("both", "filter", "INPUT", None, "cgroup", 0, {"cgroup": "5"}),
    (
        "both",
        "filter",
        "INPUT",
        None,
        "hashlimit",
        1,
        {"hashlimit_upto": "5/sec", "hashlimit_burst": "5", "hashlimit_name": "one"},
    ),
    (
        "both",
        "filter",
        "INPUT",
        None,
        "hashlimit",
        2,
        {"hashlimit_upto": "5/sec", "hashlimit_burst": "5", "hashlimit_name": "two"},
    ),
    ("ipv4", "nat", "PREROUTING", "tcp", "DNAT", 0, {"to_destination": "172.17.0.2:80"}),
    ("ipv6", "nat", "PREROUTING", "tcp", "DNAT", 1, {"to_destination": "[2001:db8::2]:80"}),
    ("ipv4", "nat", "POSTROUTING", "tcp", "SNAT", 0, {"to_source": "172.17.0.2:80"}),
    ("both", "mangle", "PREROUTING", None, "CONNMARK", 1, {"set_xmark": "0x1/0xffffffff"}),
    (
        "ipv4",
        "mangle",
        "PREROUTING",
        "tcp",
        "TPROXY",
        0,
        {"on_port": "80", "on_ip": "0.0.0.0", "tproxy_mark": "0x0/0x0"},
    ),
    ("both", "filter", "INPUT", None, "NFQUEUE", 0, {"queue_num": "3"}),
    ("both", "filter", "INPUT", None, "NFQUEUE", 1, {"queue_balance": "0:3"}),
    ("both", "filter", "INPUT", None, "NFQUEUE", 2, {"queue_num": "3", "queue_bypass": ""}),
    ("both", "raw", "PREROUTING", None, "CT", 0, {"notrack": ""}),
    ("both", "raw", "PREROUTING", None, "CT", 1, {"notrack": ""}),
]


@pytest.mark.parametrize("family_name, table, chain, protocol, name, revision, parameters", REVISIONS)
def test_older_revisions_are_read_by_their_own(host, family_name, table, chain, protocol, name, revision, parameters):
    for ipv6 in {"both": (False, True), "ipv4": (False,), "ipv6": (True,)}[family_name]:
        rule = (iptc.Rule6 if ipv6 else iptc.Rule)()
        if protocol:
            rule.protocol = protocol
        if name.isupper():
            made = rule.create_target(name, revision=revision)
        else:
            made = rule.create_match(name, revision=revision)
            rule.create_target("ACCEPT")
        for key, value in parameters.items():
            setattr(made, key, value)
        held = iptc.Chain((iptc.Table6 if ipv6 else iptc.Table)(table), chain)
        held.append_rule(rule)
        read = held.rules[0]
        extension = read.target if name.isupper() else read.matches[0]
        assert (extension.name, extension.revision, extension.opaque) == (name, revision, False)
        assert extension.parameters == parameters and read == rule
        held.replace_rule(read)
        held.delete_rule(read)
        assert held.rules == []


def test_a_revision_that_nobody_knows_is_opaque(host, family):
    rule = family.Rule()
    rule.create_match("quota").quota = "5"
    rule.create_target("ACCEPT")
    payload = bytearray(rule.matches[0].match)
    payload[31] = 77
    match = iptc.Match(family.Rule(), match=bytes(payload))
    assert match.opaque and match.name == "quota" and match.revision == 77 and match.parameters == {}
    assert match.match == bytes(payload)


def test_words_that_look_like_an_option_need_not_be_text():
    rule = iptc.Rule()
    match = rule.create_match("recent")
    match.set_parameter("set", "")
    match.set_parameter("name", "x --\udcff")  # iptables prints it without quotes
    rule.create_target("DROP")
    assert "\udcff" in iptc.Rule(entry=rule.rule).matches[0].parameters


def test_opaque_payloads_of_one_size_are_not_the_same(family):
    """Their text says only how long they are."""
    rules = []
    for byte in (1, 2):
        rule = family.Rule()
        match = bytearray(iptc.Match(family.Rule(), "quota").match_buf)
        match[31], match[40] = 77, byte
        rule.add_match(iptc.Match(rule, match=bytes(match)))
        rule.create_target("ACCEPT")
        rules.append(rule)
    assert str(rules[0]) == str(rules[1]) and rules[0] != rules[1]
    from iptc.model import edits, views

    chain = views.ChainView(rules[0].nfproto, "INPUT", read=lambda: [rules[0].rule])
    for _ in range(2):
        assert chain.find(rules[0].rule) == 0 and chain.find(rules[1].rule) is None
    assert chain.locate(edits.first_like(rules[0].nfproto, rules[1].rule)) is None
