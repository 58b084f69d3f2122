"""CounterReader on the real kernel: numbers, rates, resets, threads, namespaces, and blobs that do not add up."""

import array
import ctypes
import os
import pickle
import random
import socket
import struct
import subprocess
import sys
import threading

import pytest

import iptc
from iptc.counters import Delta
from iptc.legacy.blob import scan_bytes


def udp_rule(port, action="-A", *place):
    return f"{action} OUTPUT {' '.join(place)} -p udp --dport {port}"


def test_reads_what_iptables_save_shows(host, family, ipv6, traffic):
    for port in (1001, 1002):
        host.iptables(udp_rule(port), ipv6=ipv6)
    traffic(1001, 3, ipv6)
    traffic(1002, 2, ipv6)
    with iptc.CounterReader(ipv6=ipv6) as reader:
        snapshot = reader.read()
    assert [packets for packets, _ in snapshot["OUTPUT"]] == [3, 2]
    saved = [line.split("]")[0][1:] for line in host.save(ipv6, counters=True) if " -A OUTPUT" in line]
    assert [f"{packets}:{size}" for packets, size in snapshot] == saved


def test_policy_counters_and_chains(host, traffic):
    host.iptables("-P OUTPUT ACCEPT")  # before that iptables-nft has no counters of the policy
    host.iptables("-N web")
    host.iptables("-A OUTPUT -j web")
    host.iptables("-A web -p udp --dport 7 -j RETURN")
    traffic(7, 2)
    snapshot = iptc.CounterReader().read()
    assert [(chain.name, chain.policy, len(chain)) for chain in snapshot.chains] == [
        ("INPUT", "ACCEPT", 0),
        ("FORWARD", "ACCEPT", 0),
        ("OUTPUT", "ACCEPT", 1),
        ("web", None, 1),
    ]
    assert snapshot["OUTPUT"].policy_counters == (2, 256)
    assert snapshot["web"].policy_counters is None
    assert snapshot["web"].sum() == (2, 256) == snapshot["web"][0]
    assert snapshot.as_dict() == {"INPUT": [], "FORWARD": [], "OUTPUT": [(2, 256)], "web": [(2, 256)]}
    with pytest.raises(KeyError):
        snapshot["nope"]


def test_numbers_are_buffers_that_do_not_change(host):
    for port in range(1, 6):
        host.iptables("-A", "INPUT", "-p", "udp", "--dport", str(port), "-c", str(port), str(10 * port))
    snapshot = iptc.CounterReader().read()
    assert snapshot.packets.format == "Q" and snapshot.packets.readonly
    assert array.array("Q", snapshot.packets).tolist() == [1, 2, 3, 4, 5]
    assert list(snapshot.bytes) == [10, 20, 30, 40, 50]
    assert list(snapshot["INPUT"].packets[1:3]) == [2, 3]
    assert snapshot[-1] == (5, 50) and snapshot[1:3] == [(2, 20), (3, 30)]
    with pytest.raises(TypeError):
        snapshot.packets[0] = 1
    with pytest.raises(IndexError):
        snapshot[5]


def test_numbers_outlive_snapshot_and_reader(host):
    host.iptables("-A INPUT -c 7 8")
    with iptc.CounterReader() as reader:
        packets = reader.read().packets
    assert list(packets) == [7]


def test_generation_changes_exactly_when_the_ruleset_does(host, traffic):
    host.iptables("-A OUTPUT -p udp --dport 1001 -m comment --comment one")
    reader = iptc.CounterReader()
    seen = [reader.read().generation]
    traffic(1001, 2)
    host.iptables("-Z")
    assert reader.read().generation == seen[0] == iptc.CounterReader().read().generation
    for change in (
        "-R OUTPUT 1 -p udp --dport 1002 -m comment --comment one",
        "-P INPUT DROP",
        "-N web",
        "-R OUTPUT 1 -p udp --dport 1002 -m comment --comment two",
        "-A OUTPUT",
        "-I OUTPUT",
        "-E web wed",
    ):
        host.iptables(change)
        generation = reader.read().generation
        assert generation not in seen
        seen.append(generation)


def fill_one_by_one(specs, ipv6):
    """Append the rules of *specs*, except the few that nf_tables cannot store."""
    table = (iptc.Table6 if ipv6 else iptc.Table)("filter")
    table.create_chain("web")
    table.create_chain("log-drop")
    refused = 0
    for spec in specs:
        try:
            iptc.Chain(table, spec.chain).append_rule((iptc.Rule6 if ipv6 else iptc.Rule).from_args(spec.text))
        except iptc.IPTCError:
            refused += 1
    assert refused < len(specs) // 20


@pytest.mark.filterwarnings("ignore::iptc.XTablesWarning")
def test_generation_is_steady_for_every_extension(host, ipv6, traffic):
    from test_extensions import SETS, accepted

    for line in SETS:
        host.run("ipset", *line.split())
    specs = [
        spec
        for spec in accepted(ipv6, "legacy")
        if spec.table == "filter"
        and "rateest" not in spec.text
        and "owner" not in spec.text
        and not spec.text.endswith(("-j ACCEPT", "-j DROP", "-j RETURN"))
    ]
    if host.backend == "legacy":
        lines = [f"-A {spec.chain} {spec.text}" for spec in specs]
        host.restore("\n".join(["*filter", ":web - [0:0]", ":log-drop - [0:0]", *lines, "COMMIT", ""]), ipv6)
    else:
        fill_one_by_one(specs, ipv6)
    reader = iptc.CounterReader(ipv6=ipv6)
    first = reader.read()
    for port in (1, 80, 65535):
        try:
            traffic(port, 5, ipv6)
        except OSError:
            pass  # one of the rules refuses the traffic
    later = reader.read()
    assert later.generation == first.generation
    assert sum(later.packets) > sum(first.packets)


def test_rules_are_described_once_for_each_generation(host):
    host.iptables("-A", "INPUT", "-p", "tcp", "-m", "comment", "--comment", "a b", "-j", "DROP")
    reader = iptc.CounterReader()
    snapshot = reader.read()
    rule = snapshot.rules[0]
    assert (rule.chain, rule.text, rule.comment, rule.target) == (
        "INPUT",
        '-p tcp -m comment --comment "a b" -j DROP',
        "a b",
        "DROP",
    )
    assert reader.read().rules is snapshot.rules
    host.iptables("-A INPUT -j ACCEPT")
    old = reader.read()
    host.iptables("-F")
    reader.read()
    with pytest.raises(iptc.Conflict):
        old.rules
    assert snapshot.rules[0].text


def test_since_follows_rules_that_move(host, traffic):
    for port in (1001, 1002, 1001):
        host.iptables(udp_rule(port))
    reader = iptc.CounterReader()
    traffic(1001, 2)
    before = reader.read()
    host.iptables(udp_rule(1003, "-I", "1"))
    host.iptables(udp_rule(1002, "-D"))
    traffic(1001, 1)
    traffic(1003, 4)
    delta = reader.read().since(before)
    assert [packets for packets, _ in delta["OUTPUT"]] == [4, 1, 1]
    assert list(delta.flags) == [Delta.NEW, 0, 0]
    assert delta.seconds > 0
    assert delta.rates[1][0] == pytest.approx(1 / delta.seconds)


def test_since_a_jump_follows_its_chain_by_name(host, traffic):
    host.iptables("-N web")
    host.iptables("-A OUTPUT -j web")
    reader = iptc.CounterReader()
    traffic(1001, 1)
    before = reader.read()
    host.iptables("-N aaa")
    host.iptables("-I INPUT -j DROP -p tcp")
    traffic(1001, 3)
    delta = reader.read().since(before)
    assert delta["OUTPUT"][0][0] == 3 and not delta.resets


def test_since_flags_resets_and_is_never_negative(host, traffic):
    host.iptables(udp_rule(1001))
    host.iptables(udp_rule(1002))
    reader = iptc.CounterReader()
    traffic(1001, 5)
    before = reader.read()
    host.iptables("-Z OUTPUT 1")
    traffic(1001, 2)
    traffic(1002, 1)
    delta = reader.read().since(before)
    assert [packets for packets, _ in delta] == [2, 1]
    assert delta.resets == [0]


def test_since_a_reload_of_the_same_rules(host, traffic):
    host.iptables(udp_rule(1001))
    reader = iptc.CounterReader()
    traffic(1001, 5)
    before = reader.read()
    host.restore(
        "*filter\n:web - [0:0]\n-A OUTPUT -p udp -m udp --dport 9\n-A OUTPUT -p udp -m udp --dport 1001\nCOMMIT\n"
    )
    traffic(1001, 2)
    delta = reader.read().since(before)
    assert [packets for packets, _ in delta["OUTPUT"]] == [0, 2]
    assert delta.resets == [1]


def test_since_refuses_what_does_not_fit(host):
    snapshot = iptc.CounterReader().read()
    with pytest.raises(iptc.ParameterError):
        snapshot.since(iptc.CounterReader(ipv6=True).read())
    with pytest.raises(TypeError):
        snapshot.since(None)


def test_forged_pickles_of_counters_are_refused(host):
    """Each part is checked before memory is read by it."""
    host.iptables("-A INPUT")
    counts = iptc.CounterReader("filter").read()._counts
    make, parts = counts.__reduce__()
    assert list(make(*parts).packets(0, 1)) == [0]
    for forged in ((b"1234567", b"1234567"), (parts[0], b""), (b"", parts[1]), (parts[0], parts[1], b"12345678")):
        with pytest.raises(iptc.ParameterError, match="these are no counters"):
            make(*forged)
    for call in (counts.packets, counts.bytes, counts.pairs, counts.sum):
        for start, stop in ((-1, 1), (1, 0), (0, 1 << 40)):
            with pytest.raises(IndexError, match="no such slots"):
                call(start, stop)
    with pytest.raises(iptc.ParameterError, match="not of one ruleset"):
        counts.since(make(b"", b""), None)


def test_snapshots_and_deltas_pickle(host):
    host.iptables("-A INPUT -c 7 8 -p tcp")
    reader = iptc.CounterReader()
    snapshot = reader.read()
    snapshot.rules
    again = pickle.loads(pickle.dumps(snapshot))
    assert list(again) == [(7, 8)] and again.time == snapshot.time and again["INPUT"].policy == "ACCEPT"
    assert again.rules[0].text == "-p tcp"
    assert list(reader.read().since(again)) == [(0, 0)]
    assert list(pickle.loads(pickle.dumps(reader.read().since(snapshot)))) == [(0, 0)]


def test_errors_say_what_is_wrong(host):
    with pytest.raises(iptc.NotFound, match="Table does not exist"):
        iptc.CounterReader("nope")
    for name in ("", "x" * 40):
        with pytest.raises(iptc.NotFound):
            iptc.CounterReader(name)
    with pytest.raises(iptc.ParameterError):
        iptc.CounterReader("fil\0ter")
    with pytest.raises(TypeError):
        iptc.CounterReader(None)
    with pytest.raises(iptc.Unsupported):
        iptc.CounterReader(backend="pf")
    with pytest.raises(iptc.NotFound):
        iptc.CounterReader(netns="no-such-namespace")
    with pytest.raises(TypeError):
        iptc.CounterReader(netns=1.5)
    reader = iptc.CounterReader()
    snapshot = reader.read()
    reader.close()
    reader.close()
    with pytest.raises(iptc.KernelError, match="this reader is closed"):
        reader.read()
    with pytest.raises(iptc.KernelError, match="this reader is closed"):
        snapshot.rules


def test_without_the_capability(host):
    code = "import iptc\ntry: iptc.CounterReader()\nexcept iptc.AccessDenied as error: print(error)"
    said = host.run("setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", code)
    assert "CAP_NET_ADMIN" in said


def test_no_table_is_made_by_asking_for_another(host):
    iptc.CounterReader("filter").read()
    with open("/proc/net/ip_tables_names") as file:
        assert file.read().split() == (["filter"] if host.backend == "legacy" else [])
    assert host.backend == "legacy" or host.run("nft", "list", "ruleset") == ""


def test_lock(host):
    import fcntl

    path = os.environ["XTABLES_LOCKFILE"]
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert len(iptc.CounterReader(lock=True).read()) == 0
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(iptc.LockTimeout):
            iptc.CounterReader(lock=0.05).read()
        assert len(iptc.CounterReader().read()) == 0


def test_no_reset_counter_is_seen_beside_a_writer_under_the_lock(host):
    host.iptables("-A INPUT -c 1000 1000 -p tcp")
    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do $0 -w -A OUTPUT -p udp; $0 -w -D OUTPUT -p udp; done"
    writer = subprocess.Popen(["sh", "-c", script, host.tool()])
    reader = iptc.CounterReader(lock=True)
    polls = 0
    while writer.poll() is None:
        assert reader.read()["INPUT"][0] == (1000, 1000)
        polls += 1
    assert polls and writer.returncode == 0


def test_many_threads_share_a_reader_beside_a_writer(host):
    for port in range(1, 20):
        host.iptables("-A", "INPUT", "-p", "udp", "--dport", str(port), "-c", "5", "6")
    reader = iptc.CounterReader(lock=True)
    wrong = []

    def poll():
        for _ in range(300):
            pairs = set(reader.read()["INPUT"])
            if pairs != {(5, 6)}:
                wrong.append(pairs)

    threads = [threading.Thread(target=poll) for _ in range(8)]
    for thread in threads:
        thread.start()
    chain = iptc.Chain(iptc.Table("filter"), "OUTPUT")
    rule = iptc.Rule()
    rule.create_target("ACCEPT")
    for _ in range(30):
        chain.append_rule(rule)
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_forked_child_reads_too(host):
    reader = iptc.CounterReader()
    reader._mutex.acquire()  # as if another thread was reading
    pid = os.fork()
    if pid == 0:
        os._exit(0 if len(reader.read()) == 0 else 1)
    reader._mutex.release()
    assert os.waitpid(pid, 0)[1] == 0
    assert len(reader.read()) == 0


def test_network_namespaces(host):
    other = subprocess.Popen(
        ["unshare", "-n", "sh", "-c", f"{host.tool()} -A INPUT -c 3 4; echo ready; exec sleep 60"],
        stdout=subprocess.PIPE,
    )
    try:
        other.stdout.readline()
        other.stdout.close()
        with open(f"/proc/{other.pid}/ns/net") as descriptor:
            for netns in (other.pid, f"/proc/{other.pid}/ns/net", descriptor, descriptor.fileno()):
                with iptc.CounterReader(netns=netns) as reader:
                    assert list(reader.read()) == [(3, 4)]
        assert len(iptc.CounterReader().read()) == 0
        reader = iptc.CounterReader(netns=other.pid)
    finally:
        other.kill()
        other.wait()
    assert list(reader.read()) == [(3, 4)]  # its socket keeps the namespace
    with pytest.raises(iptc.NotFound):
        iptc.CounterReader(netns=other.pid)


def test_descriptors_are_given_back(host):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        iptc.CounterReader(netns=os.getpid(), lock=True).read()
    assert len(os.listdir("/proc/self/fd")) == before


def raw_blob(ipv6):
    """Return (struct ipt_getinfo, entries) of the filter table, as the kernel returns them."""
    libc = ctypes.CDLL(None, use_errno=True)
    level = socket.IPPROTO_IPV6 if ipv6 else socket.IPPROTO_IP
    with socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        info = ctypes.create_string_buffer(b"filter", 84)
        length = ctypes.c_uint32(84)
        assert libc.getsockopt(raw.fileno(), level, 64, info, ctypes.byref(length)) == 0
        size = struct.unpack_from("I", info, 80)[0]
        entries = ctypes.create_string_buffer(40 + size)
        entries[0:6] = b"filter"
        struct.pack_into("I", entries, 32, size)
        length.value = 40 + size
        assert libc.getsockopt(raw.fileno(), level, 65, entries, ctypes.byref(length)) == 0
    return info.raw, entries.raw[40:]


@pytest.mark.one_backend("legacy")
def test_a_blob_that_does_not_add_up_is_an_error_and_nothing_else(host, ipv6):
    host.iptables("-N web", ipv6=ipv6)
    host.iptables("-A INPUT -j web", ipv6=ipv6)
    host.iptables("-A INPUT -p tcp -m multiport --dports 1,2 -m comment --comment x -j REJECT", ipv6=ipv6)
    host.iptables("-A web -c 5 6 -p udp -j DROP", ipv6=ipv6)
    info, blob = raw_blob(ipv6)
    family = 10 if ipv6 else 2
    counts, chains, entries = scan_bytes(family, info, blob)
    assert [chain[0] for chain in chains] == ["INPUT", "FORWARD", "OUTPUT", "web"] and len(entries) == 3
    random.seed(1)
    refused = 0
    for length in range(0, len(blob), 4):
        with pytest.raises(iptc.IPTCError):
            scan_bytes(family, info, blob[:length])
    for number in range(20000):
        broken = bytearray(blob)
        broken_info = bytearray(info)
        target = broken_info if number % 5 == 0 else broken
        at = random.randrange(0, len(target) - 4, 2)
        struct.pack_into(
            "I",
            target,
            at,
            random.choice((0, 1, 7, 8, 40, 112, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, random.getrandbits(32))),
        )
        try:
            scan_bytes(family, bytes(broken_info), bytes(broken))
        except iptc.IPTCError:
            refused += 1
    assert refused > 1000


def test_who_reads_counters_loads_neither_the_language_nor_the_other_back_end(host, backend):
    code = "import iptc, sys; iptc.CounterReader('filter', backend=sys.argv[1]).read(); print(*sys.modules)"
    everything = set(host.run(sys.executable, "-S", "-c", code, backend).split())
    loaded = {name for name in everything if name.startswith("iptc.")}
    other = {"legacy": "iptc.nft", "nft": "iptc.legacy"}[backend]
    assert f"iptc.{backend}" in loaded
    assert [name for name in loaded if name.startswith((other, "iptc.language", "iptc.model", "iptc.rule"))] == []
    # what Python itself would be asked for, at a price that is more than that of the reading
    assert everything & {"importlib", "operator", "warnings", "weakref"} == set()
