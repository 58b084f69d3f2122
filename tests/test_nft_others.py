"""The nf_tables back end in bad company: writers that never stop, signals, tables that go away, things of others under
iptables' names."""

import multiprocessing
import random
import signal
import subprocess
import time

import pytest
from conftest import PATIENCE, batch_room
from test_writers import STRESS

import iptc
from iptc import Chain, Rule, Table, _core, _netlink
from iptc.cli import main
from iptc.language import extension
from iptc.model import edits
from iptc.namespace import Place
from iptc.nft.table import NftTable

pytestmark = pytest.mark.one_backend("nft")


def rule(number, verdict="ACCEPT"):
    return Rule.from_args(f"-m comment --comment r{number} -j {verdict}")


def text_of(count, first=0, counted=False):
    """What iptables-restore takes for *count* rules in INPUT."""
    counts = (lambda n: f"[{n}:{2 * n}] ") if counted else (lambda n: "")
    lines = (f"{counts(n)}-A INPUT -m comment --comment r{n} -j ACCEPT\n" for n in range(first, first + count))
    return "*filter\n:INPUT ACCEPT [0:0]\n" + "".join(lines) + "COMMIT\n"


def numbers(host):
    """The numbers of the rules in INPUT, as the host's tool shows them."""
    return [line.split()[5][1:] for line in host.rules(table="filter")]


def without_remarks(text):
    return [line for line in text.splitlines() if not line.startswith("#")]


# ------------------------------------------------------- writers that never stop


def _storm(pause):
    """What commits elsewhere all the time, with pauses of up to so many seconds."""

    def work(stop, begun):
        dice = random.Random(1)
        with _netlink.Socket() as channel:
            while not stop.wait(dice.random() * pause):
                batch = _netlink.Batch()
                batch.add_table(_core.IPV4, b"elsewhere")
                batch.add_chain(_core.IPV4, b"elsewhere", b"web")
                assert channel.send(batch) == []
                begun.set()
                batch = _netlink.Batch()
                batch.delete_chain(_core.IPV4, b"elsewhere", b"web")
                assert channel.send(batch) == []

    return work


class Beside:
    """*work*(stop, begun) in a process of its own, as long as `with` lasts."""

    def __init__(self, work):
        context = multiprocessing.get_context("fork")
        self.stop, begun = context.Event(), context.Event()
        self.process = context.Process(target=work, args=(self.stop, begun))
        self.process.start()
        assert begun.wait(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop.set()
        self.process.join()
        assert self.process.exitcode == 0


def test_a_writer_elsewhere_that_never_stops(host):
    before = generation()
    many = text_of(min(3000, batch_room() // 500))
    # nobody can commit whom the others leave no time: they pause now and then for as long as it takes here
    started = time.monotonic()
    iptc.restore(many)
    with Beside(_storm(8 * (time.monotonic() - started))):
        iptc.restore(many)
    started = time.monotonic()
    iptc.restore(text_of(300))
    with Beside(_storm((time.monotonic() - started) / 2)):
        table, other = Table("filter"), Table("mangle")
        iptc.restore(text_of(300, first=7000), test=True)
        iptc.restore(text_of(300))
        expected = list(range(300))
        with iptc.CounterReader() as reader:
            number = 299
            while number < 319 or generation() <= before + 100:
                number += 1
                with iptc.transaction(table, other):
                    Chain(table, "INPUT").append_rule(rule(number))
                    Chain(table, "INPUT").delete_rule(rule(expected[0]))
                    Chain(other, "INPUT").append_rule(rule(number))
                Chain(table, "INPUT").insert_rule(rule(number + 1000), 3)
                expected = [*expected[1:4], number + 1000, *expected[4:], number]
                assert len(reader.read()) == len(expected)
            assert without_remarks(iptc.save()) == host.save()
    assert numbers(host) == [str(n) for n in expected]
    assert [line.split()[5] for line in host.rules(table="mangle")] == [f"r{n}" for n in range(300, number + 1)]


def generation():
    with _netlink.Socket() as channel:
        return channel.generation()


def test_signals_all_the_time(host):
    """Handlers run between all calls, and the kernel may interrupt any of them: nothing is lost or done twice."""
    signals, count = [], min(3000, batch_room() // 500)
    before = signal.signal(signal.SIGALRM, lambda *_: signals.append(None))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        iptc.restore(text_of(count, counted=True), counters=True)
        chain = Chain(Table("filter"), "INPUT")
        with iptc.CounterReader() as reader:
            done = 0
            while done < 50 or len(signals) <= 100:
                chain.append_rule(rule(count + done))
                chain.delete_rule(rule(done))
                assert len(reader.read()) == count
                done += 1
            counts = list(reader.read())
        assert len(without_remarks(iptc.save())) == count + 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert numbers(host) == [str(n) for n in range(done, count + done)]
    assert counts == ([(n, 2 * n) for n in range(done, count)] + [(0, 0)] * done)[-count:]


# ------------------------------------------------------------ a very long chain


def test_a_very_long_chain_can_be_edited(host):
    # the kernel's dumps cost the square of it: a hundred thousand take half a minute
    count = min(batch_room() // 500, 30_000 if STRESS == 1 else 100_000)
    iptc.restore(text_of(count, counted=True), counters=True)
    chain = Chain(Table("filter"), "INPUT")
    with iptc.CounterReader() as reader:
        assert list(reader.read()) == [(n, 2 * n) for n in range(count)]
        chain.append_rule(rule("last"))
        chain.insert_rule(rule("first"))
        chain.delete_rule(rule(count // 2))
        expected = [(0, 0), *((n, 2 * n) for n in range(count) if n != count // 2), (0, 0)]
        assert list(reader.read()) == expected
        assert chain.has_rule(rule(count - 1)) and not chain.has_rule(rule(count // 2))
        saved = without_remarks(iptc.save(counters=True))
        assert saved == host.save(counters=True)
        lines = [line.split() for line in saved if line.startswith("[")]
        assert [tuple(map(int, words[0][1:-1].split(":"))) for words in lines] == expected
        chain.flush()
        assert len(reader.read()) == 0
    assert host.rules() == []


# ------------------------------------------------------- tables that go away


def _come_and_go(stop, begun):
    """Make a whole table, and delete it, each at once."""
    rules = "".join(
        f"add rule ip filter web ip saddr 10.0.0.{n} counter packets {n} bytes {n} accept\n" for n in range(1, 201)
    )
    made = (
        "add table ip filter\nadd chain ip filter INPUT { type filter hook input priority 0; policy drop; }\n"
        "add chain ip filter web\nadd rule ip filter INPUT counter jump web\n" + rules
    )
    while not stop.is_set():
        for commands in (made, "delete table ip filter\n"):
            subprocess.run(["nft", "-f", "-"], input=commands, text=True, check=True)
        begun.set()


def test_a_table_that_comes_and_goes_is_read_whole_or_not_at_all(host):
    whole = [(0, 0), *((n, n) for n in range(1, 201))]
    seen = set()
    with Beside(_come_and_go) as writer, iptc.CounterReader() as reader:
        reads = 0
        while reads < 100 or len(seen) < 2:
            assert writer.process.is_alive()
            reads += 1
            counts = list(reader.read())
            assert counts in ([], whole)
            view = NftTable(_core.IPV4, "filter", Place()).read()
            assert {name: len(chain.entries) for name, chain in view.chains.items()} in (
                {"INPUT": 0, "FORWARD": 0, "OUTPUT": 0},
                {"INPUT": 1, "FORWARD": 0, "OUTPUT": 0, "web": 200},
            )
            # listed with its chains, and gone when they are read: an empty one
            assert len(without_remarks(iptc.save())) in (0, 5, 207)
            seen.add(len(counts))


def test_the_same_while_others_write_to_it(host):
    with Beside(_come_and_go):
        chain = Chain(Table("filter"), "INPUT")
        for number in range(100):
            chain.append_rule(rule(number))
            with pytest.raises((iptc.NotFound, iptc.Conflict)):
                chain.delete_rule(rule("none"))


class Deleting(edits.Append):
    """Appends a rule where somebody deletes the whole table first."""

    def __init__(self, host, *rest):
        super().__init__(*rest)
        self.host = host

    def do(self, handle, look):
        super().do(handle, look)
        self.host.run("nft", "flush", "ruleset")


def test_a_table_that_is_deleted_while_a_commit_is_planned(host):
    Chain(Table("filter"), "OUTPUT").append_rule(rule(1))
    table = NftTable(_core.IPV4, "filter", Place())
    one, two = (extension.pack(rule(number), True) for number in (2, 3))
    with pytest.raises(iptc.KernelError, match="can't insert entry into chain OUTPUT: Index of insertion too big"):
        table.commit([Deleting(host, "INPUT", one), edits.Insert("OUTPUT", two, 1)], None)
    assert host.run("nft", "list", "ruleset") == ""


def test_a_table_that_is_deleted_while_a_transaction_gathers(host):
    table = Table("filter")
    chain = Chain(table, "INPUT")
    for number in range(3):
        chain.append_rule(rule(number))
    with table.transaction():
        chain.append_rule(rule(3))
        table.create_chain("web")
        host.run("nft", "delete", "table", "ip", "filter")
    assert numbers(host) == ["3"] and table.is_chain("web")
    with pytest.raises(iptc.Conflict), table.transaction():
        table.create_chain("other")
        chain.delete_rule_at(0)
        host.run("nft", "flush", "ruleset")
    assert host.run("nft", "list", "ruleset") == ""


# ------------------------------------------- things of others under iptables' names

OTHER_FAMILIES = (
    "".join(
        f"table {family} filter {{\n chain INPUT {{\n type filter hook input priority 0; policy drop;\n counter accept\n }}\n"
        " chain web {\n counter drop\n }\n}\n"
        for family in ("inet", "bridge", "arp", "ip6")
    )
    + "table netdev filter {\n chain web {\n counter drop\n }\n}\n"
)


def change_everything(table):
    """Each kind of edit, and a restore at last."""
    chain = Chain(table, "INPUT")
    chain.append_rule(rule(1)), chain.insert_rule(rule(2)), chain.delete_rule(rule(1))
    chain.set_policy("ACCEPT")
    table.create_chain("own").append_rule(rule(4))
    table.rename_chain("own", "new")
    table.zero_entries("INPUT")
    iptc.restore(text_of(3))
    chain.flush()
    iptc.restore(text_of(1))


def test_tables_of_other_families_with_the_same_names(host):
    host.run("nft", "-f", "-", text=OTHER_FAMILIES)
    before = host.run("nft", "list", "ruleset")
    table = Table("filter")
    assert not table.is_chain("web") and Chain(table, "INPUT").rules == [] and len(iptc.CounterReader().read()) == 0
    assert without_remarks(iptc.save()) == [] and Chain(table, "INPUT").get_policy().name == "ACCEPT"
    assert host.run("nft", "list", "ruleset") == before
    change_everything(table)
    assert numbers(host) == ["0"]
    host.run("nft", "delete", "table", "ip", "filter")
    assert host.run("nft", "list", "ruleset") == before


OBJECTS = """table ip filter {
    counter hits {
        packets 3 bytes 4
    }

    quota most {
        over 10 mbytes
    }

    set known {
        type ipv4_addr
        elements = { 192.0.2.1 }
    }

    map ways {
        type ipv4_addr : verdict
        elements = { 192.0.2.2 : drop }
    }

    chain aside {
        type filter hook input priority filter + 10; policy accept;
        ip saddr @known counter packets 7 bytes 8 accept
        ip saddr vmap @ways
        counter name "hits"
    }

    chain elsewhere {
        type filter hook prerouting priority raw; policy accept;
        counter packets 5 bytes 6
    }
"""


def test_sets_maps_objects_and_chains_of_others_in_the_table(host):
    host.run("nft", "-f", "-", text=OBJECTS + "}\n")
    table = Table("filter")
    assert [chain.name for chain in table.chains] == ["INPUT", "FORWARD", "OUTPUT"]
    assert len(iptc.CounterReader().read()) == 0 and without_remarks(iptc.save()) == host.save()
    change_everything(table)
    assert numbers(host) == ["0"]
    left = host.run("nft", "list", "ruleset").replace("\t", "    ")
    for part in OBJECTS.split("\n\n"):
        assert part.partition("{\n")[2].strip() in left, part
    assert "Table `filter' contains incompatible base-chains" in host.run("iptables-nft-save")


def test_a_chain_that_a_map_needs_is_not_deleted(host):
    host.run(
        "nft",
        "-f",
        "-",
        text=OBJECTS.replace(": drop", ": jump web").replace("    map", "    chain web {\n    }\n\n    map") + "}\n",
    )
    before = host.run("nft", "list", "ruleset")
    with pytest.raises(iptc.KernelError, match="can't commit: Device or resource busy: CHAIN_DEL failed: chain web"):
        iptc.restore(text_of(3))
    with pytest.raises(iptc.KernelError, match="Device or resource busy"):
        Table("filter").delete_chain("web")
    assert host.run("nft", "list", "ruleset") == before


def test_a_dormant_table_is_read_and_changed(host):
    host.run(
        "nft",
        "-f",
        "-",
        text="table ip filter {\n flags dormant\n chain INPUT {\n type filter hook input priority 0; policy drop;\n"
        " counter packets 1 bytes 2 accept\n }\n}\n",
    )
    table = Table("filter")
    assert (
        [rule.get_counters() for rule in Chain(table, "INPUT").rules] == [(1, 2)] == list(iptc.CounterReader().read())
    )
    change_everything(table)
    assert numbers(host) == ["0"] and "flags dormant" in host.run("nft", "list", "ruleset")


def test_a_table_that_belongs_to_another_process(host):
    with subprocess.Popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        owner.stdin.write(
            "add table ip filter { flags owner; }\nadd chain ip filter INPUT { type filter hook input priority 0; }\n"
            "add rule ip filter INPUT counter packets 3 bytes 4 accept\nlist tables\n"
        )
        owner.stdin.flush()
        assert "table ip filter" in owner.stdout.readline()
        before = host.run("nft", "list", "ruleset")
        table = Table("filter")
        assert (
            [rule.get_counters() for rule in Chain(table, "INPUT").rules]
            == [(3, 4)]
            == list(iptc.CounterReader().read())
        )
        for change in (
            lambda: Chain(table, "INPUT").append_rule(rule(1)),
            lambda: Chain(table, "INPUT").delete_rule_at(0),
            lambda: table.create_chain("web"),
            lambda: iptc.restore(text_of(3)),
        ):
            with pytest.raises(iptc.AccessDenied, match="can't commit: Operation not permitted"):
                change()
        assert host.run("nft", "list", "ruleset") == before
        owner.stdin.close()
        owner.wait()
    Chain(table, "INPUT").append_rule(rule(1))
    assert numbers(host) == ["1"]


def test_a_rule_that_the_kernel_shows_only_in_a_dump_is_moved_with_its_counters(host, tmp_path):
    """The kernel answers EPERM to a request for one rule if the rule is longer than 3.5 KiB."""
    long = " ".join(f"-m u32 --u32 {n}=1" for n in range(4))
    head = "*filter\n:INPUT ACCEPT [0:0]\n"
    host.restore(f"{head}[7:8] -A INPUT {long}\n-A INPUT -p udp\n-A INPUT -p tcp\nCOMMIT\n", arguments=["--counters"])
    wanted = tmp_path / "wanted"
    wanted.write_text(f"{head}-A INPUT -p udp\n-A INPUT -p tcp\n-A INPUT {long}\nCOMMIT\n")
    assert main(["apply", "-4", "--backend", "nft", str(wanted)]) == 0
    saved = host.save(counters=True, table="filter")
    assert [line[:5] for line in saved if "-A INPUT" in line] == ["[0:0]", "[0:0]", "[7:8]"]
