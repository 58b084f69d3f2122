"""What users see first: the names of the package and its help, tables indexed by chains, named counters."""

import copy
import errno
import inspect
import io
import json
import os
import pickle
import pydoc
import re
import subprocess
import sys
import warnings

import pytest
from test_structure import ROOT

import iptc

OLD_MODULES = {"easy", "errors", "ip4tc", "ip6tc", "util", "version", "xtables"}
NAMES = {name for name in dir(iptc) if not name.startswith("_")}


def fresh(code):
    """Return what *code* prints in a new interpreter."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dir_lists_the_public_names_and_nothing_else():
    shown = fresh(
        "import iptc; before = dir(iptc); [getattr(iptc, name) for name in before];"
        " import iptc.cli, iptc.managing.flows;"
        " print(before == dir(iptc)); print(*dir(iptc))"
    ).split()
    assert shown[0] == "True"
    assert set(shown[1:]) >= OLD_MODULES
    for name in shown[1:]:
        thing = getattr(iptc, name)
        assert name in OLD_MODULES or name.startswith("__") and name.endswith("__") or callable(thing), name


def test_every_exception_of_the_package_is_there():
    assert {name for name, thing in vars(iptc.errors).items() if isinstance(thing, type)} <= NAMES
    assert issubclass(iptc.XTablesWarning, UserWarning)
    assert re.fullmatch(r"\d+\.\d+\.\d+", iptc.__version__)


def test_help_begins_with_a_table_of_the_names():
    shown = pydoc.render_doc(iptc, renderer=pydoc.plaintext)
    table = shown[: shown.index("PACKAGE CONTENTS")]
    rows = re.findall(r"^ {8}((?:\w+, )*\w+) {2,}(\S.*)$", table, re.MULTILINE)
    assert {name for names, _ in rows for name in names.split(", ")} == NAMES


def test_editors_can_show_how_all_is_called():
    for name in NAMES - OLD_MODULES:
        thing = getattr(iptc, name)
        if not (isinstance(thing, type) and issubclass(thing, Exception)):
            assert inspect.signature(thing).parameters or name in ("backend", "Outcome"), name
    assert [*inspect.signature(iptc.Rule6).parameters] == ["entry", "chain"]


def test_names_can_be_imported_by_their_own_name():
    names = ", ".join(sorted(NAMES))
    assert fresh(f"from iptc import {names}; print(Table.__name__, easy.__name__)").split() == ["Table", "iptc.easy"]


def test_a_star_imports_nothing():
    assert fresh("before = {*globals(), 'before'}; from iptc import *; print({*globals()} - before)") == "set()\n"


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'iptc' has no attribute 'Tabel'"):
        iptc.Tabel


def test_importing_loads_nothing_until_a_name_is_used():
    loaded = fresh("import sys, iptc; print(*sorted(name for name in sys.modules if name.startswith('iptc')))").split()
    assert loaded == ["iptc"]


READS = """
import sys, iptc
iptc.CounterReader("filter").read()
print(*sorted(set(sys.modules) - before))
"""


def test_who_reads_counters_loads_nothing_else(host, monkeypatch):
    """Neither the language, nor the back end that is not in use, nor modules of Python's library that take long."""
    monkeypatch.delenv("IPTC_BACKEND")  # so that both back ends are asked whether they have rules
    host.iptables("-A INPUT -j ACCEPT")
    loaded = fresh("import sys; before = set(sys.modules)" + READS).split()
    assert sys.stdlib_module_names.intersection(loaded) <= {"__future__", "errno"}
    assert not any(name.startswith(("iptc.language", "iptc.model", "iptc.bpf")) for name in loaded)
    other = "iptc.nft.reader" if host.backend == "legacy" else "iptc.legacy.blob"
    assert other not in loaded


def test_a_rule_from_a_pickle_knows_its_tables(host):
    dumped = pickle.dumps(iptc.Rule())
    assert fresh(f"import pickle; print(*(table.name for table in pickle.loads({dumped!r}).tables))").split() == [
        table.name for table in iptc.Rule().tables
    ]


# ------------------------------------------------------------ tables by chains


def test_a_table_is_indexed_by_its_chains(host, family):
    table = family.Table("filter")
    assert table["INPUT"] is iptc.Chain(table, "INPUT")
    assert "INPUT" in table and "web" not in table
    chain = table.create_chain("web")
    assert table["web"] is chain and chain in table and table[chain] is chain
    table["web"].append_rule(family.Rule.from_args("-j ACCEPT"))
    assert host.rules(family.ipv6) == ["-A web -j ACCEPT"]


def test_a_chain_that_is_not_there_is_a_key_error(host, family):
    table = family.Table("filter")
    with pytest.raises(KeyError) as caught:
        table["web"]
    assert isinstance(caught.value, iptc.NotFound) and isinstance(caught.value, OSError)
    assert str(caught.value) == "can't find chain web in table filter: No chain/target/match by that name"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(KeyError) as caught:
        iptc.Chain(table, "web").flush()
    assert not str(caught.value).startswith("'")


def test_a_chain_that_a_snapshot_does_not_have_is_a_key_error_too(host, family):
    with iptc.CounterReader("filter", ipv6=family.ipv6) as reader:
        snapshot = reader.read()
        delta = reader.read().since(snapshot)
    for counted in (snapshot, delta, pickle.loads(pickle.dumps(snapshot))):
        with pytest.raises(KeyError) as caught:
            counted["web"]
        assert isinstance(caught.value, iptc.NotFound) and caught.value.errno == errno.ENOENT
        assert str(caught.value) == "can't find chain web in a snapshot: No chain/target/match by that name"


def test_a_table_is_no_sequence(host, family):
    table = family.Table("filter")
    for misuse in (lambda: list(table), lambda: table[0], lambda: table[None]):
        with pytest.raises(TypeError):
            misuse()


@pytest.mark.parametrize("table", ["filter", None, 1, iptc.Policy("ACCEPT")])
def test_a_chain_of_no_table_is_refused(table):
    with pytest.raises(iptc.ParameterTypeError, match="a chain is one of a Table"):
        iptc.Chain(table, "INPUT")


# ------------------------------------------------------------- restore(path=)


def test_a_path_is_never_a_text(host, family, tmp_path):
    path = tmp_path / "a\nname"
    path.write_text("*filter\n-A INPUT -j ACCEPT\nCOMMIT\n")
    table = family.Table("filter")
    for given in (path, str(path), os.fsencode(path)):
        table["INPUT"].flush()
        assert iptc.restore(path=given, ipv6=family.ipv6) == 1
        assert table.restore(path=given) == 1
        assert host.rules(family.ipv6) == ["-A INPUT -j ACCEPT"]
    assert len(iptc.Ruleset.read(path=path)) == 1
    assert iptc.check(path=path, ipv6=family.ipv6) == 1


def test_source_and_path_exclude_each_other(host, family):
    for restore in (iptc.restore, iptc.check, family.Table("filter").restore, iptc.Ruleset.read):
        with pytest.raises(iptc.ParameterTypeError, match="not from both"):
            restore("*filter\nCOMMIT\n", path="rules")
        with pytest.raises(iptc.ParameterTypeError, match="a source or from path="):
            restore()
        with pytest.raises(iptc.ParameterTypeError, match="a path must be a string or a path, not StringIO"):
            restore(path=io.StringIO("*filter\nCOMMIT\n"))


# ------------------------------------------------------- options without meaning


def read_warned(match, *names):
    """Return the values of attributes of *match*, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = [getattr(match, name) for name in names]
    assert all(warning.category is iptc.XTablesWarning and warning.filename == __file__ for warning in caught)
    return values, [str(warning.message).split()[4].rstrip(",") for warning in caught]


def test_a_name_that_no_extension_has_is_warned_of(family):
    rule = family.Rule()
    rule.protocol = "tcp"
    match = rule.create_match("tcp")
    assert read_warned(match, "dport", "dprot", "Dport") == ([None] * 3, ["--dprot", "--Dport"])
    target = rule.create_target("ACCEPT")
    assert read_warned(target, "reject_with", "rejectwith") == ([None] * 2, ["--rejectwith"])


def test_names_that_another_extension_has_are_not(family):
    """Names of options of extensions that are in use, that are not loaded yet, and of the other family."""
    match = family.Rule().create_match("mark")
    names = ("comment", "icmp_type", "icmpv6_type", "hashlimit_upto", "tproxy_mark", "to_ports", "hl_set")
    assert read_warned(match, *names) == ([None] * 7, [])


def test_a_match_without_a_plugin_is_asked_like_the_others(family):
    payload = bytes([32 + 8, 0]) + b"nosuch".ljust(29, b"\0") + b"\0" + bytes(8)
    match = iptc.Match(family.Rule(), match=payload)
    assert match.opaque
    assert read_warned(match, "comment", "nonsense") == ([None, None], ["--nonsense"])


# ------------------------------------------------------------------- counters


def pickled(thing):
    """Return what each protocol of pickle makes of *thing*."""
    return [pickle.loads(pickle.dumps(thing, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]


def assert_named(counters, pair):
    assert isinstance(counters, iptc.Counters) and isinstance(counters, tuple)
    assert counters == pair and hash(counters) == hash(pair) and pair == (counters.packets, counters.bytes)
    for again in (copy.copy(counters), copy.deepcopy(counters), *pickled(counters)):
        assert type(again) is iptc.Counters and again == pair
    assert repr(counters) == repr(pair) and json.dumps(counters) == json.dumps(pair)


def test_counters_have_names(host, family):
    table = family.Table("filter")
    for number in range(3):
        rule = family.Rule.from_args(f"-m mark --mark {number} -j ACCEPT")
        rule.counters = number, 100 * number
        table["INPUT"].append_rule(rule)
    table["INPUT"].set_policy("ACCEPT", (7, 700))
    assert_named(table["INPUT"].rules[2].get_counters(), (2, 200))
    assert_named(table["INPUT"].rules[2].counters, (2, 200))
    assert_named(table["INPUT"].get_counters(), (7, 700))
    assert_named(table.get_policy("INPUT")[1], (7, 700))
    with iptc.CounterReader("filter", ipv6=family.ipv6) as reader:
        snapshot = reader.read()
        delta = reader.read().since(snapshot)
    chain = snapshot["INPUT"]
    first = chain.slots.start
    assert_named(chain[1], (1, 100))
    assert_named(chain[-1], (2, 200))
    assert_named(chain.sum(), (3, 300))
    assert_named(chain.policy_counters, (7, 700))
    assert_named(snapshot[first + 2], (2, 200))
    assert_named(delta[first], (0, 0))
    plain = [(0, 0), (1, 100), (2, 200)]
    assert list(chain) == chain[:] == snapshot.as_dict()["INPUT"] == plain
    assert {type(pair) for pair in list(chain) + snapshot.as_dict()["INPUT"]} == {tuple}


def test_counters_are_a_named_tuple():
    counters = iptc.Counters(packets=1, bytes=2)
    assert counters._fields == ("packets", "bytes") and counters._asdict() == {"packets": 1, "bytes": 2}
    assert_named(counters._replace(bytes=5), (1, 5))
    assert_named(iptc.Counters._make([3, 4]), (3, 4))
    match counters:
        case iptc.Counters(packets, size):
            assert (packets, size) == (1, 2)
    with pytest.raises(AttributeError):
        counters.packets = 5


def test_dicts_of_easy_have_plain_counters():
    rule = iptc.Rule.from_args("-j ACCEPT")
    assert type(iptc.easy.decode_iptc_rule(rule)["counters"]) is tuple
