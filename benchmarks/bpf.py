"""Measures reading counters with eBPF, on both back ends, compared with programs that read by a socket."""

import json
import os
import subprocess

from harness import Command, Failed, Worker, interleave, load, rule_lines, say, totals_of, workers
from nftables import RESTORE as NFT_RESTORE
from nftables import empty
from report import Table, micro, number, ratio

PEERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers.py")
BPF, SOCKET, FLOOR, LIBIPTC = "read() with eBPF", "read() by socket", "C floor", "libiptc in C"
EVERY, SAMPLER = "every() with eBPF", "Sampler with eBPF"
NFT_JSON, PYROUTE2 = "nft -j (python3-nftables)", "pyroute2"
SAVES = {"nft": "iptables-nft-save", "legacy": "iptables-legacy-save"}
LEGACY_RESTORE = "iptables-legacy-restore"
MOST_OF_PEERS = 100_000
MILLION = 1_000_000
RATES = (1, 10, 100, 1000)
SHARES = 5
"""How often shares at the highest rate are measured, in turn."""

FEW = 3
"""How often a reader is opened."""


def clear():
    """Delete all rules of both back ends."""
    load([], LEGACY_RESTORE)
    empty()


def measure_bpf(bench):
    """Measure everything."""
    before = os.environ["IPTC_BACKEND"]
    try:
        possible = [backend for backend in ("nft", "legacy") if _reads(bench, backend)]
        for backend in possible:
            os.environ["IPTC_BACKEND"] = backend
            clear()
            for chains in (1, 1000):
                yield from _sizes(bench, backend, chains)
            yield from _openings(bench, backend)
            yield from _all_changed(bench, backend)
        yield from _shares(bench, possible)
    finally:
        os.environ["IPTC_BACKEND"] = before
        clear()


def _reads(bench, backend):
    """Return whether eBPF can read the tables of this back end here. Print why if not."""
    python, path = bench.python["iptc"]
    environment = {**os.environ, "IPTC_BACKEND": backend, **({"PYTHONPATH": path} if path else {})}
    code = "import iptc; iptc.CounterReader(source='bpf').read()"
    clear()
    done = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True)
    if done.returncode:
        say(f"bpf: not on {backend}: {done.stderr.strip().splitlines()[-1]}")
    return done.returncode == 0


def _competitors(bench, backend, size, chains):
    """Return {name: (how to start it, the request for a measurement)}."""
    ours = bench.worker("iptc")
    if backend == "nft" and chains == 1 and size > MOST_OF_PEERS:
        return {}  # the dump of so long a chain takes a quarter of an hour, and eBPF learns from it once
    found = {BPF: (ours, "bpf"), SOCKET: (ours, "buffers")}
    if size > MOST_OF_PEERS or _is_slow(backend, size, chains):
        return found
    if backend == "nft":
        found[FLOOR] = bench.program("nftfloor"), "poll"
        for name, (python, operation) in {
            NFT_JSON: ("/usr/bin/python3", "nft"),
            PYROUTE2: (bench.options.pyroute2, "pyroute2"),
        }.items():
            if python and _has(python, operation):
                found[name] = ([python, "-P", PEERS], None), operation
            else:
                say(f"{name} is not installed: measuring without it")
    else:
        found[FLOOR] = bench.program("floor"), "poll"
        found[LIBIPTC] = bench.program("libiptc"), "poll"
        if "python-iptables" in bench.python and size <= 10_000:
            found["python-iptables"] = bench.worker("python-iptables"), "classic"
    return found


def _is_slow(backend, size, chains):
    """Whether a single dump takes many seconds: in the kernel it costs the square of the number of rules of a chain."""
    return backend == "nft" and chains == 1 and size > 10_000


def _has(python, operation):
    return not subprocess.run([python, "-P", PEERS, "--try", operation], stderr=subprocess.DEVNULL).returncode


def _sizes(bench, backend, chains):
    rows, order, sizes = [], [], [*bench.sizes, *([] if bench.options.quick else [MILLION])]
    restore = NFT_RESTORE if backend == "nft" else LEGACY_RESTORE
    where = "one chain" if chains == 1 else "a thousand chains"
    side = "nf_tables" if backend == "nft" else "legacy"
    for size in sorted({size for size in sizes if size >= chains}):
        competitors = _competitors(bench, backend, size, chains)
        if not competitors:
            continue
        say(f"bpf: {size} rules in {where} on {side}")
        clear()
        lines = rule_lines(size, "large", chains)
        load(lines, restore)
        with workers({name: start for name, (start, _) in competitors.items()}) as running:
            expected = totals_of("\n".join(line for line in lines if line.startswith("[")))
            for name, (_, operation) in competitors.items():
                answer = running[name].ask("totals", operation)
                if answer != expected:
                    raise Failed(f"{name}: not the same counters: {answer} {expected}")
            samplers = {
                name: lambda name=name, operation=operation: running[name].ask("measure", operation, bench.budget)
                for name, (_, operation) in competitors.items()
            }
            if len(competitors) > 2:
                samplers[f"{SAVES[backend]} -c"] = Command(SAVES[backend], "-t", "filter", "-c").run
            best = interleave(samplers, bench.rounds, bench.patience, least=1)
            ns = bench.keep(f"bpf {backend} {chains} {size}", best)
        order = order or [name for name in samplers if name != BPF]
        rows.append(
            [f"{size:,}", micro(ns[BPF], size), micro(ns[BPF]), *(ratio(ns.get(who), ns[BPF]) for who in order)]
        )
        if chains == 1:
            for who in (BPF, SOCKET, NFT_JSON, PYROUTE2, "iptables-nft-save -c"):
                if who in ns and (backend, who) != ("legacy", SOCKET):
                    name = f"{who}, {side}" if who in (BPF, SOCKET) else who
                    bench.lines.setdefault(name, {})[size] = ns[who] / 1000 / size
        _goals(bench, backend, size, where, ns)
    if rows:
        yield Table(
            f"Reading counters with eBPF: {side}, {where}",
            "`-p tcp --dport -m comment`; no packet is counted between two polls. The columns after `µs` are multiples of "
            "the time of `read()` with eBPF. For `nft -j` and pyroute2 the processor's time is compared.",
            ["rules", "read() with eBPF, µs per rule", "µs", *order],
            rows,
        )


def _goals(bench, backend, size, where, ns):
    """Check the goals."""
    if size not in (10_000, 100_000):
        return
    side, most = ("nf_tables", 0.02) if backend == "nft" else ("legacy", 0.01)
    each = ns[BPF] / 1000 / size
    what = f"{side}: `read()` with eBPF, {size:,} rules in {where}"
    bench.goal(what, f"≤ {most} µs a rule", f"{number(each)} µs", each <= most)
    if backend == "legacy":
        share = ns[BPF] / ns[SOCKET]
        bench.goal(f"{what}, of the socket's", "≤ 0.02", number(share), share <= 0.02)
    elif size == 100_000:
        bench.goal(what, "≤ 2 ms", f"{number(ns[BPF] / 1e6)} ms", ns[BPF] <= 2e6)


def _openings(bench, backend):
    """Measure how long it takes to open a reader, which has to find all counters, and how much memory it takes."""
    rows = []
    side = "nf_tables" if backend == "nft" else "legacy"
    restore = NFT_RESTORE if backend == "nft" else LEGACY_RESTORE
    for size in (size for size in bench.sizes if size <= MOST_OF_PEERS):
        for chains in [chains for chains in (1, 1000) if chains <= size and not _is_slow(backend, size, chains)]:
            say(f"bpf: opening, {size} rules in {chains} chains on {side}")
            clear()
            load(rule_lines(size, "large", chains), restore)
            samplers = {
                operation: lambda operation=operation: _answer(bench, "measure", operation, bench.budget)
                for operation in ("opening", "opening_socket")
            }
            ns = bench.keep(
                f"bpf opening {backend} {chains} {size}", interleave(samplers, FEW, bench.patience, least=1)
            )
            grown = {operation: _answer(bench, "memory", operation, 2)["grown"] for operation in ("bpf", "buffers")}
            rows.append(
                [
                    f"{size:,} in {'one chain' if chains == 1 else 'a thousand chains'}",
                    number(ns["opening"] / 1e6),
                    number(ns["opening_socket"] / 1e6),
                    *(number(grown[operation] / 1e6) for operation in ("bpf", "buffers")),
                ]
            )
    if rows:
        yield Table(
            f"Opening a reader, with its first reading: {side}",
            "What eBPF finds is compared with a whole reading by the socket before it is used. Memory: the most by which the resident "
            "memory grew, first two readings included. In MB of 10⁶ bytes.",
            ["rules", "with eBPF, ms", "by socket, ms", "with eBPF, MB", "by socket, MB"],
            rows,
        )


def _answer(bench, verb, operation, number_given):
    """The answer of a fresh worker."""
    worker = Worker(*bench.worker("iptc"))
    try:
        return worker.ask(verb, operation, number_given)
    finally:
        worker.close()


def _all_changed(bench, backend):
    """Measure polls when a packet passes all rules between two polls, so that every counter changes."""
    rows = []
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    side = "nf_tables" if backend == "nft" else "legacy"
    for size in (size for size in bench.sizes if size <= MOST_OF_PEERS and not _is_slow(backend, size, 1)):
        say(f"bpf: {size} counters that change on {side}")
        clear()
        load(["-A INPUT -m mark --mark 0"] * size, NFT_RESTORE if backend == "nft" else LEGACY_RESTORE)
        with workers({BPF: bench.worker("iptc"), SOCKET: bench.worker("iptc")}) as running:
            samplers = {
                BPF: lambda: running[BPF].ask("measure", "bpf_changed", bench.budget),
                SOCKET: lambda: running[SOCKET].ask("measure", "buffers_changed", bench.budget),
            }
            ns = bench.keep(f"bpf changed {backend} {size}", interleave(samplers, bench.rounds, bench.patience))
        rows.append([f"{size:,}", micro(ns[BPF], size), micro(ns[BPF]), ratio(ns[SOCKET], ns[BPF])])
    if rows:
        yield Table(
            f"Reading counters with eBPF, all of which have changed: {side}",
            "Rules `-m mark --mark 0` in one chain. Between two polls, a packet over loopback passes all of them.",
            ["rules", "read() with eBPF, µs per rule", "µs", SOCKET],
            rows,
        )


def _shares(bench, backends):
    """Measure the processor time of pollers that poll at a fixed rate, as a share of one processor."""
    if not backends or max(bench.sizes) < 1000:
        return
    seconds = 2 if bench.options.quick else 5
    sleepers = {
        "a program in C that only sleeps": lambda rate: _program_kept(bench, rate, seconds),
        "a loop in Python that only sleeps": lambda rate: _kept(bench, "nothing", rate, seconds),
    }
    rows = {name: {} for name in sleepers}
    for backend in backends:
        os.environ["IPTC_BACKEND"] = backend
        side = "nf_tables" if backend == "nft" else "legacy"
        for size in (size for size in (1000, 10_000) if size <= max(bench.sizes)):
            clear()
            load(rule_lines(size, "large", 1), NFT_RESTORE if backend == "nft" else LEGACY_RESTORE)
            operations = {BPF: "bpf", SOCKET: "buffers"}
            if size == 1000:
                operations |= {EVERY: "bpf_every", SAMPLER: "bpf_sampler"}
            pollers = {
                f"{size:,} rules, {side}, {who}": lambda rate, operation=operation: _kept(
                    bench, operation, rate, seconds
                )
                for who, operation in operations.items()
            }
            say(f"bpf: the share of a processor, {size} rules on {side}")
            for rate in RATES:
                for _ in range(SHARES if rate == max(RATES) else 1):
                    for name, runner in {**sleepers, **pollers}.items():
                        _keep_least(rows.setdefault(name, {}), rate, runner(rate))
    bench.figures["bpf shares"] = rows
    for backend in backends:
        side = "nf_tables" if backend == "nft" else "legacy"
        share, by_hand = (_share(rows[f"1,000 rules, {side}, {who}"][1000]) for who in (EVERY, BPF))
        asleep = [_share(rows[name][1000]) for name in sleepers]
        bench.goal(
            f"{side}: 1,000 rules at 1,000 Hz with eBPF, by every()",
            "≤ 3 % of a core",
            f"{number(100 * share)} %; with time.sleep {number(100 * by_hand)} %; only sleeping: "
            f"{number(100 * asleep[1])} %, in C {number(100 * asleep[0])} %",
            share <= 0.03,
        )
    yield Table(
        "The share of a processor that a poller takes",
        f"`read()` so many times a second, in one chain: the processor's time of the process during {seconds} s, "
        "including the kernel's work for it; at 1,000 Hz the least of several runs, in turn. If the process cannot read so "
        "often, the table has the rate that it reached. The first two rows are the cost of waking up so often without reading.",
        ["", *(f"{rate:,} Hz" for rate in RATES)],
        [[name, *(_cell(found[rate], rate) for rate in RATES)] for name, found in rows.items()],
    )


def _share(kept):
    return kept["cpu"] / kept["wall"]


def _keeps_up(kept, rate):
    return kept["polls"] >= 0.9 * rate * kept["wall"] / 1e9


def _keep_least(found, rate, kept):
    """Put the least share into *found*. A poller that keeps the pace is better than one that does not."""
    known = found.get(rate)
    if known is None or (not _keeps_up(kept, rate), _share(kept)) < (not _keeps_up(known, rate), _share(known)):
        found[rate] = kept


def _cell(kept, rate):
    if _keeps_up(kept, rate):
        return f"{number(100 * _share(kept))} %"
    return f"{100 * _share(kept):.0f} % at {kept['polls'] / kept['wall'] * 1e9:.0f} Hz"


def _kept(bench, operation, rate, seconds):
    """Start a worker, let it poll at *rate* for *seconds*, and return its answer."""
    return _answer(bench, "pace", operation, f"{rate}:{seconds}")


def _program_kept(bench, rate, seconds):
    """As `_kept`, for the program in C."""
    program, _ = bench.program("pace")
    return json.loads(Command(*program, str(rate), str(seconds)).output())
