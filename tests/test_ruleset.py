"""Whole rulesets are saved and restored by iptc and by the host's tools, with the same tables and the same messages."""

import io
import re
import socket
import subprocess

import pytest
import rulesets
import specs
from conftest import batch_room, tables_of
from grammar import files
from hypothesis import given, settings
from hypothesis import strategies as st
from rulesets import cases
from test_grammar import relaxed

import iptc

pytestmark = pytest.mark.filterwarnings("ignore::iptc.XTablesWarning")

SMALL = "*filter\n:INPUT DROP [5:6]\n[7:8] -A INPUT -j ACCEPT\nCOMMIT\n"
ADDRESSES = {False: (b"192.0.2.1", b"198.51.100.0/24"), True: (b"2001:db8::1", b"2001:db8:1::/48")}


def without_comments(text):
    return [line for line in text.split("\n") if not line.startswith("#")]


def of_family(text, ipv6):
    """Return the text of a case with addresses of the family."""
    one, other = ADDRESSES[ipv6]
    return text.replace(b"@@", other).replace(b"@", one)


def host_says(host, text, arguments, ipv6):
    """Return (message, line) of `iptables-restore`, or (None, None) if it accepts the text."""
    done = host.run(host.tool(ipv6, "-restore"), *arguments, check=False, text=text.decode("utf-8", "surrogateescape"))
    if not done.returncode:
        return None, None
    line = re.search(r"^Error occurred at line: (\d+)|line:? (\d+)", done.stderr, re.MULTILINE)
    said = re.split(r"^(?:Error occurred at line: \d+|Try `ip6?tables.*)\n", done.stderr, flags=re.MULTILINE)[0]
    said = re.sub(r"^(?:Warning|WARNING|Notice).*\n", "", said, flags=re.MULTILINE)
    said = re.sub(
        r"^(?:.*\n(?=.*\((?:legacy|nf_tables)\): ))?(?:ip6?tables(?:-nft)?-restore(?: v\S+ \((?:legacy|nf_tables)\))?: )*",
        "",
        said,
    )
    # it prints an old errno if it may not enlarge its socket buffer
    said = re.sub(r"^(line \d+ failed): Permission denied \(you must be root\)\.$", r"\1", said.strip())
    # our message shows a carriage return as \r
    return said.replace("-nft-restore", "-restore").replace("\r", "\\r"), int(line[1] or line[2]) if line else None


def we_say(text, case, ipv6):
    """Return (message, line) of `iptc.restore`, or (None, None) if it accepts the text."""
    try:
        iptc.restore(io.BytesIO(text), ipv6=ipv6, counters=case.counters, flush=case.flush, test=case.test)
    except (iptc.ParameterError, iptc.KernelError) as error:
        return str(error).strip(), error.line
    return None, None


def same_words(ours, theirs):
    """Whether our message ends with that of iptables, which prints none for refusals of the kernel."""
    if ours is None or theirs is None:
        return ours is theirs
    ours, theirs = ours.removesuffix("."), theirs.removesuffix(".")
    return (
        bool(re.fullmatch(r"line \d+ failed", theirs))
        or "(null)" in theirs
        or ours.endswith((theirs, theirs.split("\n")[0]))
    )


def policies(lines):
    """Return {(table, chain): counters of its policy}."""
    found, table = {}, ""
    for line in lines:
        if line.startswith("*"):
            table = line
        elif line.startswith(":"):
            found[table, line.split(" ")[0]] = line.split(" ")[2]
    return found


def same_tables(ours, theirs, before, text):
    """Whether the lines are the same, except that libiptc zeroes the counters of policies, and we keep the old ones or
    set the given ones."""
    if len(ours) != len(theirs):
        return False
    known, table = policies(before), ""
    given = {f"[{packets}:{size}]" for packets, size in re.findall(r"(\d+)[: ](\d+)", text.decode(errors="replace"))}
    for mine, other in zip(ours, theirs, strict=True):
        table = mine if mine.startswith("*") else table
        if mine == other:
            continue
        if not mine.startswith(":") or not other.endswith(" [0:0]") or mine.split(" ")[:2] != other.split(" ")[:2]:
            return False
        if mine.split(" ")[2] not in {known.get((table, mine.split(" ")[0]))} | given:
            return False
    return True


# Where iptables-nft-restore behaves differently, and we do not follow: a renamed chain has its old name until COMMIT,
# and a builtin one is renamed to no effect; a rule that is not there is zeroed; a rule of the same file cannot be
# replaced, and nothing is said of it; --fragment of IPv6 is known, and makes shorter words ambiguous.
DEFECTS_OF_NFT = re.compile(rb"^(-E|--rename-chain) |^-Z \w+ \d|^-R | --fr? ?", re.MULTILINE)
# The message of iptables-nft-restore for a line, and ours.
WORDS_OF_NFT = [
    (
        r"line \d+: CHAIN_DEL failed \(Device or resource busy\): chain (?P<name>\S+)",
        "line {line} failed: (Can't delete (built-in chain|chain with references left)|Chain is not empty)",
    ),
    (
        r"line \d+: (?P<verb>\w+) failed \((?P<reason>.*)\): (?P<where>(rule in )?chain \S+)",
        "line {line} failed: {reason}: {verb} failed: {where}.*",
    ),
    (r"(?P<said>(TCP|UDP) match requires '-p \w+')", r"line {line} failed: .*\({said}\)"),
    (r"`-f' is not supported in IPv6, .*", 'line {line}: unknown option "--fr[agments]*"'),
    (r"line \d+ table name '(?P<name>.*)' invalid", "line {line}: .* unable to initialize table '{name}'"),
    # for us a chain that the text has flushed exists, and has no such rule
    (
        r"line \d+ failed: (?P<said>.*)\.",
        "line {line} failed: (.*{said}|Index of (deletion|replacement|counter) too big)",
    ),
]
# It names the line of COMMIT. For us a chain that is made later is missing too, and a rule that jumps to no chain is
# a bad rule.
MISSING = r".*(Chain '{0}' does not exist.*|No chain/target/match by that name: RULE_APPEND failed: rule in chain INPUT: -j {0}|Bad rule \(does a matching rule exist in that chain\?\))"


def excused(case, ours, our_line, theirs, their_line):
    """Whether it is known that iptables-nft-restore says *theirs* for a line for which we say *ours*."""
    if ours is None or theirs is None:
        # with --test the kernel is not asked
        return (
            bool(DEFECTS_OF_NFT.search(case.text))
            or case.test
            and theirs is None
            and ours.startswith(f"line {our_line} failed: ")
        )
    missing = re.fullmatch(r"Chain '(.*)' does not exist", theirs)
    if missing:
        return (
            our_line <= their_line and re.fullmatch(MISSING.format(re.escape(missing[1])), ours, re.DOTALL) is not None
        )
    theirs = theirs.split("\n")[0].replace("No such file or directory", "No chain/target/match by that name")
    for pattern, words in WORDS_OF_NFT:
        found = re.fullmatch(pattern, theirs)
        if found:
            parts = {name: re.escape(part) for name, part in found.groupdict().items()}
            return (
                our_line == their_line
                and re.fullmatch(words.format(line=our_line, **parts), ours, re.DOTALL) is not None
            )
    return theirs == 'unknown option "--f"' and our_line == their_line and b" --f" in case.text


def same_in_nft(host, ours, theirs, before, text, ipv6):
    """The same as `same_tables`, for nf_tables: iptables-nft-restore deletes chains that a text does not name, and the
    host's tool may not know counters of rules."""
    ours, theirs = ("".join(f"{line}\n" for line in lines) for lines in (ours, theirs))
    for unused in re.findall(r"^\*.*\n(?::[A-Z]+ ACCEPT \[0:0\]\n)*COMMIT\n", ours, re.MULTILINE):
        if f"{unused.split()[0]}\n" not in theirs:
            ours = ours.replace(unused, "")
    if host.loses_counters(ipv6):
        ours, theirs = (re.sub(r"^\[\d+:\d+\] -A", "-A", part, flags=re.MULTILINE) for part in (ours, theirs))
    return same_tables(ours.split("\n"), theirs.split("\n"), before, text)


def differing(host, chosen, ipv6, before):
    """Give each case to both, with the same tables before. Return [(case, how they differ)]."""
    found, clean = [], None
    for case in chosen:
        text = of_family(case.text, ipv6)
        if clean is None:
            host.restore(before, ipv6, ["--counters"])
            clean = host.save(ipv6, counters=True)
        theirs, their_line = host_says(host, text, case.arguments, ipv6)
        expected = clean_before = clean
        # if a line is wrong, the tables before it are committed already
        if theirs is None or b"COMMIT" in text.split(b"\n")[: (their_line or 1) - 1]:
            expected = host.save(ipv6, counters=True)
            host.restore(before, ipv6, ["--counters"])
        ours, our_line = we_say(text, case, ipv6)
        saved = host.save(ipv6, counters=True)
        unclean = saved != clean
        said = f"{our_line}: {ours!r} instead of {their_line}: {theirs!r}"
        if not same_words(ours, theirs) or our_line != their_line:
            if host.backend == "legacy" or not excused(case, ours, our_line, theirs, their_line):
                found.append((str(case), said))
            # a refused text changes nothing; a text that only we accept cannot be compared
            expected = clean if theirs is None else saved if ours is None else expected
        if host.backend == "nft":
            same = same_in_nft(host, saved, expected, clean_before, text, ipv6)
        else:
            same = same_tables(saved, expected, clean_before, text)
        if not same and (not found or found[-1] != (str(case), said)):
            lines = [line for line in saved if line not in expected] or ["nothing"]
            missing = [line for line in expected if line not in saved] or ["another order"]
            found.append((str(case), f"{lines[:3]} instead of {missing[:3]}"))
        if unclean:
            clean = None
    return found


def report(found, asked):
    shown = "\n".join(f"{line}\n    {what}" for line, what in found[:40])
    assert not found, f"{len(found)} of {asked} differ:\n{shown}"


# ---------------------------------------------------------------- small files


def test_every_file_does_what_it_does_with_iptables_restore(host, ipv6):
    # the tool for nf_tables is slower, and has the same parser as the one for legacy tables
    chosen = cases.CASES if host.backend == "legacy" else cases.CASES[::6]
    report(differing(host, chosen, ipv6, of_family(cases.BEFORE.encode(), ipv6).decode()), len(chosen))


def test_every_specification_in_a_file_is_accepted_or_refused_as_by_the_host(prepared, ipv6):
    """Also what only a table or the kernel can refuse: interfaces in a chain, DROP in nat, a chain that does not exist."""
    known = [*specs.load_parity(ipv6, "base"), *(spec for spec in specs.load_invalid() if spec.ipv6 == ipv6)]
    # -h and -V end iptables-restore
    known = [spec for spec in known if not re.search(r"(^| )-(f?h|V)|--(he|ver)", spec.text)]
    chosen = [
        cases.Case(f"*{spec.table}\n-A {spec.chain} {spec.text}\nCOMMIT\n".encode(), flush=False) for spec in known
    ]
    chosen = chosen if prepared.backend == "legacy" else chosen[::12]
    before = "\n".join(prepared.save(ipv6, counters=True)) + "\n"
    report(differing(prepared, chosen, ipv6, before), len(chosen))


@pytest.mark.one_backend("legacy")  # iptables-nft-restore first names wrong lines that it cannot read
@given(file=files(), counters=st.booleans(), flush=st.booleans())
@settings(relaxed, max_examples=150)
def test_any_file_does_what_it_does_with_iptables_restore(host, ipv6, file, counters, flush):
    chosen = [cases.Case(file, counters, flush)]
    report(differing(host, chosen, ipv6, of_family(cases.BEFORE.encode(), ipv6).decode()), 1)


def test_a_rule_of_several_addresses_replaces_none(host, ipv6):
    """iptables 1.8.11 uses the first address, and ignores the others without a message."""
    host.restore(SMALL, ipv6, ["--counters"])
    before = host.save(ipv6, counters=True)
    text = of_family(b"*filter\n-R INPUT 1 -s @,@@ -j DROP\nCOMMIT\n", ipv6).decode()
    with pytest.raises(iptc.ParameterError, match="does not specify a unique address"):
        iptc.restore(text, ipv6=ipv6, flush=False)
    assert host.save(ipv6, counters=True) == before


def test_a_line_may_be_longer_than_iptables_restore_reads(host, ipv6):
    for size in (10_239, 10_240, 100_000):
        spaces = " " * size
        iptc.restore(f"*filter\n#{'x' * size}\n-A INPUT{spaces}-j ACCEPT\n:web - [0:0]{spaces}\nCOMMIT\n", ipv6=ipv6)
        assert host.rules(ipv6) == ["-A INPUT -j ACCEPT"]


@pytest.mark.parametrize(
    "text",
    [
        "\0",
        "\0\n",
        "*filter\n\0\nCOMMIT\n",
        "*filter\n-A INPUT\0 -j NOSUCH\nCOMMIT\n",
        "*filter\n-A INPUT -j ACCEPT\0\nCOMMIT\n",
        "*fil\0ter\nCOMMIT\n",
        "*filter\n:x -\0 [0:0]\nCOMMIT\n",
        "*filter\nCOMMIT\0\n",
    ],
)
def test_a_zero_byte_is_refused_with_its_line(host, text):
    with pytest.raises(iptc.ParameterError) as caught:
        iptc.restore(io.StringIO(text))
    assert caught.value.line == text.split("\0")[0].count("\n") + 1
    assert host.rules() == []


@pytest.mark.parametrize("line", ["-L", "-S INPUT", "-L INPUT -n", "-Z -L", "-A INPUT -h", "-V", "--help"])
def test_a_line_that_lists_is_refused_and_does_not_end_the_program(host, ipv6, line):
    with pytest.raises(iptc.ParameterError) as caught:
        iptc.restore(f"*filter\n-A INPUT -j ACCEPT\n{line}\nCOMMIT\n", ipv6=ipv6)
    assert caught.value.line == 3 and host.rules(ipv6) == []


# ---------------------------------------------------------------- hosts


@pytest.fixture(
    params=[(six, name) for six, names in rulesets.HOSTS.items() for name in names],
    ids=lambda param: f"{param[1]}-{6 if param[0] else 4}",
)
def ruleset(request, host):
    """(family, text) of the ruleset of a typical host, after making the sets that it needs."""
    ipv6, name = request.param
    for line in rulesets.SETS:
        host.run("ipset", *line.split())
    return ipv6, cut(host, rulesets.load(name, ipv6))


def cut(host, text):
    """Return the text with no more rules in a table than this user may send at once."""
    most = batch_room() // 1200 if host.backend == "nft" else len(text)
    kept = []
    for table, lines in tables_of(text):
        rules = [line for line in lines if not line.startswith(":")]
        kept += [f"*{table}", *(line for line in lines if line.startswith(":")), *rules[:most], "COMMIT", ""]
    return "\n".join(kept) if most < text.count("\n") else text


def test_restored_it_is_what_iptables_restore_makes_of_it(host, ruleset):
    ipv6, text = ruleset
    host.restore(text, ipv6, ["--counters"])
    expected = host.save(ipv6, counters=True)
    host.restore("".join(f"*{table}\nCOMMIT\n" for table in re.findall(r"^\*(\w+)", text, re.MULTILINE)), ipv6)
    assert not host.rules(ipv6)
    iptc.restore(text, ipv6=ipv6, counters=True)
    left = host.save(ipv6, counters=True)
    assert same_in_nft(host, left, expected, [], b"", ipv6) if host.backend == "nft" else left == expected


def test_saved_it_is_what_iptables_save_prints(host, ruleset):
    ipv6, text = ruleset
    host.restore(text, ipv6, ["--counters"])
    for counters in (False, True):
        assert without_comments(iptc.save(ipv6=ipv6, counters=counters)) == [*host.save(ipv6, counters), ""]


def test_restoring_what_was_saved_changes_nothing(host, ruleset):
    ipv6, text = ruleset
    host.restore(text, ipv6, ["--counters"])
    before = host.save(ipv6, counters=True)
    saved = iptc.save(ipv6=ipv6, counters=True)
    iptc.restore(saved, ipv6=ipv6, counters=True)
    assert host.save(ipv6, counters=True) == before
    assert without_comments(iptc.save(ipv6=ipv6, counters=True)) == without_comments(saved)
    host.restore(saved, ipv6, ["--counters"])
    assert host.save(ipv6, counters=True) == before


def test_one_table_alone(host, ruleset):
    ipv6, text = ruleset
    host.restore(text, ipv6, ["--counters"])
    table = (iptc.Table6 if ipv6 else iptc.Table)("filter")
    assert without_comments(table.save(counters=True)) == [*host.save(ipv6, counters=True, table="filter"), ""]
    before = host.save(ipv6, counters=True)
    saved = table.save(counters=True)
    host.iptables("-F", ipv6=ipv6)
    table.restore(saved, counters=True)
    assert host.save(ipv6, counters=True) == before


# ---------------------------------------------------------------- the call


class Dripping(io.RawIOBase):
    """A file that is read a few bytes at a time."""

    def __init__(self, data):
        self.data = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        piece = self.data.read(min(3, len(buffer)))
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize(
    "given",
    [
        lambda folder: SMALL,
        lambda folder: Dripping(SMALL.encode()),
        lambda folder: io.StringIO(SMALL),
        lambda folder: io.BytesIO(SMALL.encode()),
        lambda folder: folder / "rules",
        lambda folder: str(folder / "rules"),
        lambda folder: open(folder / "rules"),
        lambda folder: open(folder / "rules", "rb"),
    ],
    ids=["text", "dripping", "StringIO", "BytesIO", "Path", "name", "file", "binary file"],
)
def test_text_a_path_or_a_file(host, ipv6, tmp_path, given):
    (tmp_path / "rules").write_text(SMALL)
    iptc.restore(given(tmp_path), ipv6=ipv6, counters=True)
    assert host.save(ipv6, counters=True, table="filter")[1] == ":INPUT DROP [5:6]"
    assert host.save(ipv6, counters=True, table="filter")[4:] == ["[7:8] -A INPUT -j ACCEPT", "COMMIT"]


def test_the_output_of_iptables_save_as_it_comes(host, ipv6):
    text = cut(host, rulesets.load("mixed", ipv6))
    host.restore(text, ipv6, ["--counters"])
    before = host.save(ipv6, counters=True)
    with subprocess.Popen([host.tool(ipv6, "-save"), "-c"], stdout=subprocess.PIPE) as process:
        assert iptc.restore(process.stdout, ipv6=ipv6, counters=True) == len(host.rules(ipv6))
    assert host.save(ipv6, counters=True) == before


@pytest.mark.parametrize("given", [None, 5, object(), [SMALL], "/nosuch/file", "", "\0"])
def test_what_is_no_ruleset_is_refused_and_changes_nothing(host, ipv6, given):
    host.restore(SMALL, ipv6, ["--counters"])
    before = host.save(ipv6, counters=True)
    try:
        iptc.restore(given, ipv6=ipv6)
    except (iptc.IPTCError, OSError):
        pass
    else:
        assert given == ""
    assert host.save(ipv6, counters=True) == before


class Failing:
    """A file that gives one rule, and then fails."""

    def __init__(self, error):
        self.error = error
        self.parts = ["*filter\n-A INPUT -j DROP\n", b"-A INPUT -p tcp "]

    def read(self, size):
        if self.parts:
            return self.parts.pop()
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        TimeoutError("timed out"),
        ValueError("I/O operation on closed file"),
        EOFError("ended early"),
        TypeError("underlying read() gave None"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_file_that_fails_while_it_is_read_changes_nothing(host, ipv6, error):
    host.iptables("-A INPUT -p udp -j ACCEPT", ipv6=ipv6)
    before = host.save(ipv6)
    for function in (iptc.restore, iptc.ruleset.parse):
        with pytest.raises(iptc.IPTCError, match="can't read the ruleset: .") as raised:
            function(Failing(error), ipv6)
        assert raised.value.__cause__ is error and host.save(ipv6) == before
        assert not isinstance(error, OSError) or isinstance(raised.value, OSError)


@pytest.mark.parametrize("table", [3, b"filter", ["filter"], True])
def test_a_table_that_is_no_name_is_refused(host, ipv6, table):
    for function in (
        lambda: iptc.restore("*filter\nCOMMIT\n", ipv6, table=table),
        lambda: iptc.save(ipv6, table=table),
        lambda: iptc.ruleset.parse("*filter\nCOMMIT\n", ipv6, table=table),
    ):
        with pytest.raises(iptc.errors.ParameterTypeError, match="a table name must be a string, not "):
            function()


def test_a_file_that_has_nothing_yet_is_waited_for(host):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    parts = ["*filter\n-A INPUT -j DROP\n", "COMMIT\n"]

    class Slow:
        def fileno(self):
            if parts:
                theirs.sendall(parts.pop(0).encode())
            else:
                theirs.close()
            return ours.fileno()

        def read(self, size):
            try:
                return ours.recv(size)
            except BlockingIOError:
                return None

    with ours:
        assert iptc.restore(Slow()) == 1 and parts == []
    assert host.rules() == ["-A INPUT -j DROP"]

    class Empty:
        def read(self, size):
            return None

    with pytest.raises(iptc.errors.ParameterTypeError, match="not None"):
        iptc.restore(Empty())


def test_an_error_names_its_line(host, ipv6):
    with pytest.raises(iptc.ParameterError, match="unknown option") as caught:
        iptc.restore("# one\n*filter\n-A INPUT -j ACCEPT\n-A INPUT --nosuch\nCOMMIT\n", ipv6=ipv6)
    assert caught.value.line == 4 and "line 4" in str(caught.value)
    with pytest.raises(iptc.KernelError) as caught:
        iptc.restore("*filter\n-A INPUT -m tcp --dport 5\nCOMMIT\n", ipv6=ipv6)
    assert caught.value.line == (
        3 if host.backend == "legacy" else 2
    )  # the kernel does not say which rule of a legacy table it refuses
    assert host.rules(ipv6) == []


def test_nothing_of_a_table_is_applied_where_one_line_is_wrong(host, ipv6):
    host.restore(SMALL, ipv6, ["--counters"])
    before = host.save(ipv6, counters=True, table="filter")
    with pytest.raises((iptc.ParameterError, iptc.KernelError)):
        iptc.restore(
            "*mangle\n-A INPUT -j ACCEPT\nCOMMIT\n*filter\n:new - [0:0]\n-A INPUT -j DROP\n-A INPUT -j nosuch\nCOMMIT\n",
            ipv6=ipv6,
        )
    assert host.save(ipv6, counters=True, table="filter") == before
    assert host.rules(ipv6, "mangle") == ["-A INPUT -j ACCEPT"]


def test_a_test_changes_nothing(host, ipv6):
    host.restore(SMALL, ipv6, ["--counters"])
    before = host.save(ipv6, counters=True)
    iptc.restore("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j DROP\nCOMMIT\n", ipv6=ipv6, test=True)
    assert host.save(ipv6, counters=True) == before


def test_a_table_takes_its_own_part_alone(host, ipv6):
    table = (iptc.Table6 if ipv6 else iptc.Table)("mangle")
    try:
        table.restore("*filter\n-A INPUT -j DROP\nCOMMIT\n*mangle\n-A INPUT -j ACCEPT\nCOMMIT\n")
    except iptc.IPTCError:
        pass
    assert host.rules(ipv6, "filter") == []


def test_chains_of_an_open_table_are_those_restored(host, ipv6):
    table = (iptc.Table6 if ipv6 else iptc.Table)("filter")
    assert [chain.name for chain in table.chains] == ["INPUT", "FORWARD", "OUTPUT"]
    iptc.restore("*filter\n:web - [0:0]\n-A INPUT -j web\nCOMMIT\n", ipv6=ipv6)
    table.refresh()
    assert [chain.name for chain in table.chains] == ["INPUT", "FORWARD", "OUTPUT", "web"]
    assert [str(rule) for rule in iptc.Chain(table, "INPUT").rules] == ["-j web"]


@pytest.mark.parametrize("line", ["[:6] -A INPUT -p tcp --dport 2:3", "[56] -A INPUT -p tcp --dport 2:3"])
def test_counters_without_their_parts_are_refused(host, line):
    """iptables-restore cuts such a line at its next colon, and accepts the rest."""
    with pytest.raises(iptc.ParameterError, match="line 2: Bad line 2: need :"):
        iptc.restore(f"*filter\n{line}\nCOMMIT\n")
    assert host.rules() == []
