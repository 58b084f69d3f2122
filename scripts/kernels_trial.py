"""Runs in a machine of scripts/kernels: tests that the eBPF source of counters works there, or says why not."""

import contextlib
import os
import socket
import subprocess
import sys
import traceback

import iptc
from iptc.bpf import btf, kernel, reasons
from iptc.bpf.legacy import LegacyFinder
from iptc.bpf.window import Window
from iptc.legacy.blob import TableScan

EXPECTED, POSSIBLE = sys.argv[1], int(sys.argv[2])
FAILED = []
SEVEN = bytes.fromhex("b7000000070000009500000000000000")


def tell(what, well, more=""):
    """Print one line for scripts/kernels."""
    if not well:
        FAILED.append(what)
    text = " ".join(str(more).split())
    print(f"TRIAL {what}: {'well' if well else 'wrong'}{', ' if text else ''}{text[:600]}", flush=True)


@contextlib.contextmanager
def telling(what):
    """Print an exception as a failed test, and go on."""
    try:
        yield
    except Exception as error:
        traceback.print_exc(limit=-4)
        tell(what, False, f"{type(error).__name__}: {error}")


def host(*words, text=None):
    """Run a tool of iptables."""
    done = subprocess.run(words, input=text, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stderr}")
    return done.stdout


def send(count, ipv6=False):
    """Send UDP packets over loopback. All are received, and so counted, when this returns."""
    family, address = (socket.AF_INET6, "::1") if ipv6 else (socket.AF_INET, "127.0.0.1")
    with socket.socket(family, socket.SOCK_DGRAM) as sender, socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((address, 9))
        for _ in range(count):
            sender.sendto(bytes(52 if ipv6 else 72), (address, 9))
            receiver.recv(100)


def ruleset(tag, count):
    """Return a table with chains and rules. Its first rule counts the packets of `send`."""
    rules = [f'-A INPUT -p udp -m udp --dport 9 -m comment --comment "{tag} first"']
    rules += [f'-A web -p tcp -m tcp --dport {number + 1} -m comment --comment "{tag}"' for number in range(count)]
    head = ["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", ":web - [0:0]"]
    return "\n".join([*head, *rules, "-A INPUT -j web", "COMMIT", ""])


def numbered(tag, sign, count):
    """Return a table in which each counter has a number that identifies its rule and its table."""
    rules = [
        f'[{number * sign}:{sign}] -A web -p tcp -m tcp --sport {number + 1} -m comment --comment "{tag}"'
        for number in range(count)
    ]
    return "\n".join(["*filter", ":INPUT ACCEPT [0:0]", ":web - [0:0]", *rules, "COMMIT", ""])


def same(back_end, bpf, by_socket):
    """Return whether both sources read the same numbers while no packet passes, and the numbers."""
    mine, theirs = bpf.read(), by_socket.read()
    equal = list(mine) == list(theirs) and mine.generation == theirs.generation
    return equal, f"{back_end}: {list(mine)[:3]} {list(theirs)[:3]}"


def try_back_end(backend, ipv6):
    """Compare both sources: at rest, after traffic, after replacements and after -Z."""
    iptables, nfproto = ("ip6tables", iptc._core.IPV6) if ipv6 else ("iptables", iptc._core.IPV4)
    iptables = f"{iptables}-{backend}"
    host(f"{iptables}-restore", text=ruleset("one", 300))
    if backend == "legacy":
        scan = TableScan(nfproto, "filter")
        sequence = LegacyFinder(Window(), nfproto, "filter", scan.fileno()).sequence
        tell("xt_recseq", sequence != 0, hex(sequence))
    with (
        iptc.CounterReader("filter", ipv6, backend=backend, source="bpf") as bpf,
        iptc.CounterReader("filter", ipv6, backend=backend) as by_socket,
    ):
        backend = f"{backend}, IPv6" if ipv6 else backend
        tell(f"{backend}, at rest", *same(backend, bpf, by_socket))
        send(1000, ipv6)
        tell(f"{backend}, after traffic", *same(backend, bpf, by_socket))
        before = bpf.read()
        send(500, ipv6)
        packets, size = bpf.read().since(before)[0]
        tell(f"{backend}, packets and bytes", (packets, size) == (500, 50_000), f"{packets} {size}")
        with telling(f"{backend}, handed over"):
            try_handing(backend, bpf, iptables)
        with telling(f"{backend}, replacements"):
            wrong = 0
            for turn in range(10):
                host(f"{iptables}-restore", text=ruleset(f"turn {turn}", 300))
                send(turn, ipv6)
                equal, _ = same(backend, bpf, by_socket)
                wrong += not equal or bpf.read()[0][0] < turn
            tell(f"{backend}, replacements", wrong == 0, f"{wrong} of 10")
        with telling(f"{backend}, replaced twice between two readings"):
            wrong = 0
            for turn in range(20):
                # the second table may get the memory of the first one
                for rules in (f"turn {turn}, first", f"turn {turn}, second"):
                    host(f"{iptables}-restore", "-c", text=numbered(rules, 1000 + turn, 300))
                equal, _ = same(backend, bpf, by_socket)
                # ip6tables-nft up to 1.8.9 loses the counters that it is given
                lost = iptables == "ip6tables-nft"
                wrong += not equal or not lost and bpf.read()[7] != (7 * (1000 + turn), 1000 + turn)
            tell(f"{backend}, replaced twice between two readings", wrong == 0, f"{wrong} of 20")
        with telling(f"{backend}, a rule that replaces another"):
            wrong = 0
            for turn in range(40):
                # it keeps the handle, and the second one may get the memory of the one before
                for port in (turn + 1000, turn + 2000)[turn % 2 :]:
                    host(
                        iptables, "-R", "web", "7", "-p", "udp", "-m", "udp", "--dport", str(port), "-c", str(port), "1"
                    )
                equal, _ = same(backend, bpf, by_socket)
                wrong += not equal
            tell(f"{backend}, a rule that replaces another", wrong == 0, f"{wrong} of 40")
        host(f"{iptables}-restore", text=ruleset("once more", 300))
        host(iptables, "-I", "web", "7", "-p", "udp", "-m", "comment", "--comment", "inserted")
        tell(f"{backend}, a rule inserted", *same(backend, bpf, by_socket))
        host(iptables, "-F", "web")
        tell(f"{backend}, a chain flushed", *same(backend, bpf, by_socket))
        host(iptables, "-Z")
        send(3, ipv6)
        equal, more = same(backend, bpf, by_socket)
        tell(f"{backend}, after -Z", equal and bpf.read()[0][0] == 3, more)
        module = "ip6table_filter" if ipv6 else "iptable_filter"
        if "legacy" in iptables and os.path.exists(f"/sys/module/{module}"):
            with telling(f"{backend}, the module of the table is unloaded"):
                host(iptables, "-F")
                host(iptables, "-X")
                well, _ = same(backend, bpf, by_socket)
                host("rmmod", module)
                gone = not os.path.exists(f"/sys/module/{module}")
                equal, more = same(backend, bpf, by_socket)
                host(f"{iptables}-restore", text=ruleset("after that", 300))
                send(2, ipv6)
                again, more = same(backend, bpf, by_socket)
                tell(f"{backend}, the module of the table is unloaded", well and gone and equal and again, more)
        tell(f"{backend}, the source", bpf.source == "bpf", bpf.source_reason)
    host(iptables, "-F")


def try_handing(backend, bpf, iptables):
    """Another user without a capability reads what was handed over, and no more once the ruleset is another one."""
    fds = bpf.fds()
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            text = repr(
                [list(iptc.CounterReader.from_fds(fds).read())[:3], sorted(reasons.capabilities({"CAP_BPF": 39}))]
            )
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(theirs, text.encode())
        os._exit(0)
    os.close(theirs)
    said = os.read(ours, 4096).decode()
    os.waitpid(child, 0)
    tell(f"{backend}, handed over", said == repr([list(bpf.read())[:3], []]), said)
    other = iptc.CounterReader.from_fds(fds)
    for fd in [ours, *fds]:
        os.close(fd)
    host(iptables, "-A", "OUTPUT", "-p", "tcp")
    try:
        tell(f"{backend}, handed over, of another ruleset", False, list(other.read())[:3])
    except iptc.Unsupported as error:
        tell(f"{backend}, handed over, of another ruleset", "the ruleset was changed" in str(error), error)


def try_refusal(backend, expected):
    """eBPF cannot be used: the expected reason is given, and source="auto" reads by socket."""
    host(f"iptables-{backend}-restore", text=ruleset("one", 10))
    before = len(os.listdir("/proc/self/fd"))
    try:
        iptc.CounterReader("filter", backend=backend, source="bpf").read()
        tell(f"{backend}, refused", False, "it works")
    except iptc.Unsupported as error:
        tell(f"{backend}, refused", expected in str(error), error)
    with iptc.CounterReader("filter", backend=backend, source="auto") as reader:
        send(5)
        tell(f"{backend}, by socket", reader.read()[0][0] == 5 and reader.source == "socket", reader.source_reason)
    left = len(os.listdir("/proc/self/fd")) - before
    tell(f"{backend}, nothing is left open", left == 0, f"{left} descriptors" if left else "")


def try_absent():
    """The table does not exist yet when it is opened. On older kernels the generation number cannot be found then."""
    with (
        iptc.CounterReader("mangle", backend="nft", source="bpf") as bpf,
        iptc.CounterReader("mangle", backend="nft") as by_socket,
    ):
        well = len(bpf.read()) == 0 and bpf.source == "bpf"
        tell("nft, a table that is not there", well, bpf.source_reason)
        host("iptables-nft", "-t", "mangle", "-A", "INPUT", "-p", "udp")
        send(5)
        equal, more = same("nft", bpf, by_socket)
        tell("nft, the table has come", equal and bpf.read()[0][0] == 5 and bpf.source == "bpf", more)
        wrong = 0
        for turn in range(20):
            # perhaps the same memory again, now with the counters of other rules
            host("iptables-nft-restore", "-c", text=f"*mangle\n[{turn}:{7 * turn}] -A INPUT -p udp\nCOMMIT\n")
            wrong += bpf.read()[0] != (turn, 7 * turn)
        tell("nft, replaced twenty times", wrong == 0 and bpf.source == "bpf", f"{wrong} wrong, {bpf.source_reason}")


def try_types():
    """Read the BTF of the kernel and of modules."""
    for backend in ("legacy", "nft"):
        host(f"iptables-{backend}", "-L")
    types = btf.kernel_types("nf_tables")
    tell(
        "BTF of nf_tables",
        types.size("nft_rule_blob") == 8,
        f"of {types.name}: counter {types.size('nft_counter_percpu_priv')}",
    )
    types = btf.kernel_types("x_tables")
    tell("BTF of x_tables", types.member("xt_table", "name")[1] == 32, f"of {types.name}")
    tell(
        "seven",
        kernel.Program("seven", kernel.SYSCALL, SEVEN).run(bytearray()) == 7,
    )


def as_nobody(action):
    """Run *action* in a process without any right. Return its result, or its error."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgid(65534)
            os.setuid(65534)
            said = str(action())
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        os.write(theirs, said.encode()[:4000])
        os._exit(0)
    os.waitpid(child, 0)
    os.close(theirs)
    with open(ours) as file:
        return file.read()


def try_rights():
    """Ordinary users cannot load programs, but can use a reader that was handed to them, whatever the sysctls say."""
    program = kernel.Program("seven", kernel.SYSCALL, SEVEN)
    for mode in "021":  # the value 1 cannot be changed back
        with open("/proc/sys/kernel/unprivileged_bpf_disabled", "w") as file:
            file.write(mode)
        said = as_nobody(Window)
        well = "this process has no CAP_BPF and no CAP_PERFMON" in said
        tell(f"nobody gives programs, unprivileged_bpf_disabled={mode}", well, said)
        said = as_nobody(lambda: kernel.Program.from_descriptor(program.fileno()).run(bytearray()))
        tell(f"nobody runs programs, unprivileged_bpf_disabled={mode}", said == "7", said)


def main():
    print(
        f"TRIAL Linux {os.uname().release}, {os.cpu_count()} processors, {reasons.kernel_release()}: well", flush=True
    )
    tell("possible processors", len(kernel.possible_processors()) == POSSIBLE, kernel.possible_processors())
    if EXPECTED == "works":
        with telling("types"):
            try_types()
        with telling("rights"):
            try_rights()
        with telling("a table that is not there"):
            try_absent()
    for backend in ("nft", "legacy"):
        with telling(f"{backend}"):
            if EXPECTED != "works":
                try_refusal(backend, EXPECTED)
            elif backend == "legacy" and len(kernel.possible_processors()) == 1:
                try_refusal(backend, "on a single CPU")
            else:
                for ipv6 in (False, True):
                    try_back_end(backend, ipv6)
    return 1 if FAILED else 0


sys.exit(main())
