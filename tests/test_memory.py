"""Memory and descriptors do not leak: each operation is done a hundred thousand times, and the process does not grow.

IPTC_MEMORY_FACTOR=10 does each operation ten times as often. With `pytest -s` each test prints how much the process
grew.
"""

import gc
import os
import subprocess

import pytest
import residence

import iptc
from iptc import ruleset
from iptc._rope import Row, Sequence

FACTOR = float(os.environ.get("IPTC_MEMORY_FACTOR", "1"))

# How many bytes a process may grow without a leak: arenas of the allocator, tables of the interpreter.
SLACK = 256 * 1024


def descriptors():
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def growth(action, count, allowed=SLACK):
    """Do *action* *count* times, after a tenth of that to warm up, and return by how many bytes the process grew."""
    count = int(count * FACTOR)
    for _ in range(count // 10):
        action()
    opened = descriptors()

    def all_of_it():
        for _ in range(count):
            action()

    grown = residence.growth(all_of_it, allowed)
    print(f"\n{os.environ.get('PYTEST_CURRENT_TEST', '').split(' ')[0]}: {count} times: {grown // 1024} KiB")
    assert grown < allowed, f"{grown} bytes in {count} times"
    assert descriptors() == opened
    return grown


@pytest.fixture
def without_gc():
    """Switch the garbage collector off: all memory must be freed without it."""
    gc.disable()
    yield
    gc.enable()


def tcp_rule(port="80", ipv6=False):
    rule = iptc.Rule6() if ipv6 else iptc.Rule()
    rule.protocol = "tcp"
    rule.create_match("tcp").dport = port
    rule.create_match("comment").comment = "a rule of which many are made"
    rule.create_target("REJECT").reject_with = "icmp6-port-unreachable" if ipv6 else "icmp-port-unreachable"
    return rule


def fill(host, count, ipv6=False):
    """Write *count* rules into INPUT."""
    lines = [
        f"-A INPUT -p tcp -m tcp --dport {port} -m comment --comment c{port} -j DROP" for port in range(1, count + 1)
    ]
    host.restore("\n".join(["*filter", *lines, "COMMIT", ""]), ipv6)


# --- payloads ----------------------------------------------------------------------------------------------------


def test_parses(without_gc):
    match = tcp_rule().matches[0]
    ports = iter(range(10**9))

    def parse():
        match.dport = str(next(ports) % 65536)

    growth(parse, 100_000)


# Parsed by an old parser, by one that copies its value first, and by libxtables itself.
REFUSED = [
    ("tcp", "dport", "70000"),
    ("tcp", "tcp-flags", ["SYN", "NONSENSE"]),
    ("multiport", "dports", "1,2,x"),
    ("mark", "mark", "x"),
    ("limit", "limit", "0/day"),
]


@pytest.mark.parametrize("name, parameter, value", REFUSED)
def test_refused_parses(without_gc, name, parameter, value):
    rule = iptc.Rule()
    rule.protocol = "tcp"
    match = rule.create_match(name)

    def refuse():
        try:
            match.set_parameter(parameter, value)
        except iptc.ParameterError:
            return
        raise AssertionError("not refused")

    growth(refuse, 10_000)


def test_refused_specifications(without_gc):
    texts = [
        f"-m iprange --src-range 192.0.2.1-{'x' * 60}",
        f"-p tcp --dport {'x' * 60}",
        f"-j NETMAP --to 192.0.2.1/{'x' * 60}",
        f"-m conntrack --ctorigdstport {'x' * 60}",
        f"-p tcp -m multiport --dports 1,{'x' * 60}",
    ]

    def refuse():
        for text in texts:
            with pytest.raises(iptc.ParameterError):
                iptc.Rule.from_args(text)

    growth(refuse, 5_000)


def test_renders(without_gc):
    rule = tcp_rule()
    growth(lambda: str(rule), 100_000)


def test_renders_of_rules_that_were_read(without_gc, family):
    entry = tcp_rule(ipv6=family.ipv6).rule
    growth(lambda: str(family.Rule(entry=entry)), 20_000)


def test_rules_made_and_dropped(without_gc, family):
    growth(lambda: tcp_rule(ipv6=family.ipv6).rule, 10_000)


def test_dicts(without_gc, family):
    decoded = iptc.easy.decode_iptc_rule(tcp_rule(ipv6=family.ipv6), family.ipv6)
    growth(lambda: iptc.easy.decode_iptc_rule(iptc.easy.encode_iptc_rule(decoded, family.ipv6), family.ipv6), 5_000)


def test_parameters_that_displace_each_other(without_gc):
    match = tcp_rule().create_match("conntrack")
    values = iter(["NEW", "ESTABLISHED,RELATED"] * 10**6)
    growth(lambda: match.set_parameter("ctstate", next(values)), 10_000)


# --- tables ------------------------------------------------------------------------------------------------------


def test_polls_beside_a_writer(host):
    fill(host, 20)
    # Rules come and go, so that buffers become too small and layouts are made again.
    writer = subprocess.Popen(
        [
            "sh",
            "-c",
            """while :; do
        $0 -w -A INPUT -p udp --dport 9 -j DROP; $0 -w -D INPUT 21; sleep 0.05
    done""",
            host.tool(),
        ]
    )
    generations = set()
    try:
        with iptc.CounterReader() as reader:

            def poll():
                snapshot = reader.read()
                sum(snapshot.packets)
                generations.add(snapshot.generation)

            while len(generations) < 2:
                assert writer.poll() is None
                poll()
            growth(poll, 20_000)
    finally:
        writer.kill()
        writer.wait()


def test_reads_of_rules(host):
    fill(host, 20)
    table = iptc.Table("filter")
    chain = iptc.Chain(table, "INPUT")

    def read():
        table.refresh()
        assert len(chain.rules) == 20

    growth(read, 10_000)


def test_commits(host, without_gc):
    chain = iptc.Chain(iptc.Table("filter"), "INPUT")

    def replace():
        chain.append_rule(tcp_rule())
        chain.flush()

    growth(replace, 500)


def test_refused_commits(host, without_gc):
    table = iptc.Table("filter")
    rule = iptc.Rule()
    rule.create_target("MASQUERADE")  # only in nat

    def refuse():
        with pytest.raises(iptc.IPTCError):
            iptc.Chain(table, "INPUT").append_rule(rule)

    growth(refuse, 500)


def test_readers_and_tables_opened_and_closed(host, family):
    def reopen():
        with iptc.CounterReader(ipv6=family.ipv6, netns=os.getpid()) as reader:
            reader.read()
        with pytest.raises(iptc.NotFound):
            iptc.CounterReader("nosuch", ipv6=family.ipv6, netns=os.getpid())
        table = family.Table("filter")
        table.close()
        table.refresh()

    # without the lock, the first read of a legacy table looks again several times
    growth(reopen, 100, SLACK // 2)


def test_an_open_reader_that_is_dropped_is_closed(host, without_gc):
    growth(lambda: iptc.CounterReader(lock=True).read(), 2_000)
    # without the lock, the first read of a legacy table looks again several times
    growth(lambda: iptc.CounterReader().read(), 200, SLACK // 4)


@pytest.mark.long
def test_a_million_polls_keep_nothing(host, without_gc):
    iptc.restore("*filter\n" + "-A INPUT -p tcp -j DROP\n" * 20 + "COMMIT\n")
    with iptc.CounterReader("filter") as reader:
        previous = reader.read()

        def poll():
            nonlocal previous
            now = reader.read()
            assert now.since(previous).packets[0] == 0
            previous = now

        growth(poll, 1_000_000)


# --- what is kept from one call to the next, and the newer parts in C: quick by default, a million times in a long run


def test_edits_over_kept_connections(host, family, backend):
    fill(host, 20, family.ipv6)
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    rule = tcp_rule(ipv6=family.ipv6)

    def edit():
        chain.append_rule(rule)
        chain.delete_rule(rule)

    growth(edit, 200)


def test_transactions_of_many_edits(host, family, backend):
    fill(host, 20, family.ipv6)
    table = family.Table("filter")
    chain = iptc.Chain(table, "INPUT")
    rules = [tcp_rule(str(1000 + number), family.ipv6) for number in range(20)]

    def edit():
        with table.transaction():
            table.create_chain("new")
            for rule in rules:
                chain.insert_rule(rule, 10)
            table.rename_chain("new", "renamed")
            table.create_chain("new")
            for rule in rules:
                chain.delete_rule(rule)
            table.delete_chain("renamed")
            table.delete_chain("new")

    growth(edit, 20)


@pytest.mark.one_backend("legacy")
def test_handles_of_libiptc_opened_and_closed(host, family):
    from iptc.legacy.libiptc import Handle

    iptc.Chain(family.Table("filter"), "INPUT").rules
    growth(lambda: Handle(family.Rule._nfproto, "filter").close(), 2_000)


RULES = [f"-A INPUT -p tcp -m tcp --dport {port} -j DROP" for port in range(1, 41)]
TEXTS = [
    "\n".join(["*filter", ":INPUT ACCEPT [0:0]", *rules, "COMMIT", ""]) for rules in (RULES, RULES[5:] + RULES[:9])
]


def compared():
    old, new = (iptc.Ruleset.read(text) for text in TEXTS)
    assert iptc.diff(old, new)


def edited_at_any_place():
    rows = Sequence(map(Row, [b"one", b"two"]))
    for number in range(1200):
        rows.insert(number % len(rows), Row(b"another"))
    while len(rows):
        rows.pop(len(rows) // 2)


def refused_text():
    with pytest.raises(iptc.ParameterError):
        ruleset.parse(TEXTS[0].replace("--dport 40", "--dport nosuch"))


PARTS = {
    "printed": (lambda: str(iptc.Rule.from_args("-p tcp --dport 80 -m limit --limit 1/sec -j LOG")), 4_000, 1),
    "read": (lambda: ruleset.parse(TEXTS[0]), 400, 41),
    "refused": (refused_text, 200, 41),
    "compared": (compared, 100, 84),
    "edited": (edited_at_any_place, 10, 2_400),
}
"""Each row: an operation, how often it is done, and how many edits one operation has."""


@pytest.mark.one_backend("legacy")
@pytest.mark.parametrize("name", PARTS)
def test_parts_in_c(without_gc, name):
    action, count, _ = PARTS[name]
    growth(action, count)


@pytest.mark.long
@pytest.mark.one_backend("legacy")
@pytest.mark.parametrize("name", PARTS)
def test_a_million_operations_of_the_parts_in_c(without_gc, name):
    action, _, each = PARTS[name]
    growth(action, 1_000_000 // each)


@pytest.mark.long
def test_a_hundred_thousand_edits_keep_nothing(host, without_gc):
    """A hundred thousand, and ten times as many in transactions."""
    table = iptc.Table("filter")
    chain, rule = iptc.Chain(table, "INPUT"), tcp_rule()

    def edit():
        chain.append_rule(rule)
        chain.delete_rule(rule)

    def together():
        with table.transaction():
            for _ in range(250):
                edit()

    growth(edit, 50_000)
    growth(together, 2_000)


@pytest.mark.needs("ebpf")
def test_polls_by_ebpf(host, without_gc):
    fill(host, 100)
    with iptc.CounterReader(source="bpf") as reader:
        growth(reader.read, 100_000)


@pytest.mark.needs("ebpf")
def test_readers_by_ebpf(host, without_gc):
    fill(host, 10)

    def work():
        with iptc.CounterReader(source="bpf") as reader:
            reader.read()

    growth(work, 60)


@pytest.mark.needs("ebpf")
def test_readings_by_ebpf_while_rules_come_and_go(host, without_gc):
    fill(host, 10)
    with iptc.CounterReader(source="bpf") as reader:
        chain = iptc.Chain(iptc.Table("filter"), "INPUT")
        rule = tcp_rule()

        def work():
            chain.append_rule(rule)
            reader.read()
            chain.delete_rule(rule)
            reader.read()

        growth(work, 100)


@pytest.mark.needs("ebpf")
def test_counters_that_are_handed_over(host, without_gc):
    """By who gives them, who takes them, and who takes the same ones again and again."""
    fill(host, 10)
    with iptc.CounterReader(source="bpf") as reader:

        def take(fds):
            with iptc.CounterReader.from_fds(fds) as other:
                assert len(other.read()) == 10

        def hand_over():
            fds = reader.fds()
            take(fds)
            for fd in fds:
                os.close(fd)

        growth(hand_over, 60)
        fds = reader.fds()
        growth(lambda: take(fds), 400)
        for fd in fds:
            os.close(fd)
