"""Measures on nf_tables: reading counters, loading a ruleset, adding a rule."""

import os
import socket
import subprocess
import time

from harness import Command, Failed, generator, interleave, load, rule_lines, say, totals_of, workers
from report import Table, micro, number, ratio

FLOOR, OURS, SAVE = "C floor", "iptc", "iptables-nft-save -c"
RESTORE, ADD = "iptables-nft-restore", "iptables-nft -A"
RULE = [
    "-A",
    "FORWARD",
    "-s",
    "10.0.0.0",
    "-d",
    "192.168.7.0/24",
    "-i",
    "eth0",
    "-o",
    "eth1",
    "-p",
    "tcp",
    "-m",
    "tcp",
    "--dport",
    "1",
    "-m",
    "comment",
    "--comment",
    "rule 0",
    "-j",
    "ACCEPT",
]


def empty():
    """Delete the whole ruleset of nf_tables."""
    subprocess.run(["nft", "flush", "ruleset"], check=True)


def measure_nft(bench):
    """Measure everything, with the back end set for the workers."""
    with open("/proc/net/ip_tables_names") as file:
        if file.read():
            load([])  # iptc warns if the other back end has rules too
    before, os.environ["IPTC_BACKEND"] = os.environ["IPTC_BACKEND"], "nft"
    try:
        yield from _counters(bench)
        yield from _restore(bench)
        yield from _append(bench)
        yield from _delete(bench)
        yield from _packets(bench)
    finally:
        empty()
        os.environ["IPTC_BACKEND"] = before


def _counters(bench):
    for chains in (1000, 1):
        rows, worst = [], {}
        for size in (n for n in bench.sizes if n >= chains):
            say(f"nft: {size} rules in {chains} chains")
            empty()
            load(rule_lines(size, "large", chains), RESTORE)
            save = Command("iptables-nft-save", "-t", "filter", "-c")
            with workers({FLOOR: bench.program("nftfloor"), OURS: bench.worker(OURS)}) as running:
                operations = {FLOOR: "poll", OURS: "buffers"}
                answers = [running[name].ask("totals", operation) for name, operation in operations.items()]
                if answers != [totals_of(save.output())] * 2:
                    raise Failed(f"not the same counters: {answers}")
                samplers = {
                    name: lambda name=name, operation=operation: running[name].ask("measure", operation, bench.budget)
                    for name, operation in operations.items()
                }
                samplers[SAVE] = save.run
                ns = bench.keep(f"nft counters {chains} {size}", interleave(samplers, bench.rounds, bench.patience))
            rows.append([f"{size:,}", micro(ns[FLOOR], size), ratio(ns[OURS], ns[FLOOR]), ratio(ns[OURS], ns[SAVE])])
            for who in (FLOOR, SAVE):
                worst[who] = max(worst.get(who, (0, "")), (ns[OURS] / ns[who], f"{size:,}"))
        if rows:
            where = "one chain" if chains == 1 else "a thousand chains"
            goals = {FLOOR: 1.15, SAVE: 0.4} if chains > 1 else {FLOOR: 1.15}
            for who, goal in goals.items():
                value, size = worst[who]
                bench.goal(
                    f"nf_tables: `read()` against {who}, {where}", f"≤ ×{goal}", f"×{value:.2f} ({size})", value <= goal
                )
            yield Table(
                f"Reading counters on nf_tables: {where}",
                "`-p tcp --dport -m comment`. The C floor dumps chain by chain on a kept socket into a kept buffer, and sums.",
                ["rules", "C floor, µs per rule", "read() to the floor", f"read() to {SAVE}"],
                rows,
            )


def _on_empty(work):
    empty()
    return work()


def _saved():
    return [line for line in Command("iptables-nft-save").output().splitlines() if line[0] != "#"]


def _restore(bench):
    rows = []
    text = _rules_file(bench)
    for size in (n for n in bench.sizes if n >= 10_000):
        say(f"nft: loading {size} rules")
        with open(text, "w") as file:
            file.write(generator.text("mixed", size))
        with workers({OURS: bench.worker(OURS)}) as running:
            samplers = {
                OURS: lambda: _on_empty(lambda: running[OURS].ask("measure", "restore")),
                RESTORE: lambda: _on_empty(Command(RESTORE, "-c", text).run),
            }
            left = []
            for sample in samplers.values():
                sample()
                left.append(_saved())
            if left[0] != left[1]:
                raise Failed("not the same ruleset")
            ns = bench.keep(f"nft restore {size}", interleave(samplers, bench.rounds, bench.patience))
        rows.append([f"{size:,}", *(micro(ns[name], size) for name in samplers), ratio(ns[OURS], ns[RESTORE])])
        value = ns[OURS] / ns[RESTORE]
        bench.goal(
            f"nf_tables: restoring {size:,} mixed rules against {RESTORE}", "≤ ×0.6", f"×{value:.2f}", value <= 0.6
        )
    if rows:
        yield Table(
            "Restoring on nf_tables",
            "Rules of mixed kinds, into an empty ruleset. µs per rule.",
            ["rules", OURS, RESTORE, "ratio"],
            rows,
        )


def _rules_file(bench):
    """Write the file that the workers restore. Return its path."""
    path = os.environ["IPTC_BENCH_RULES"] = os.path.join(bench.options.programs, "rules")
    return path


PACKETS = 20_000
KINDS = {
    "`-p udp --dport`": "-p udp -m udp --dport {port}",
    "`-s`": "-s 10.1.{high}.{low}/32",
    "`-m mark`": "-m mark --mark {port:#x}",
    "`-p udp -m multiport --dports`": "-p udp -m multiport --dports {port},1,2",
    "all of these in turn": None,
}


def _packets(bench):
    """Measure the time of a packet in a thousand rules that do not match it: rules written by iptc, and by
    iptables-nft."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    text = _rules_file(bench)
    rows, worst = [], (0, "")
    sender, receiver = (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    )
    receiver.bind(("127.0.0.1", 0))
    there = receiver.getsockname()

    def send():
        started = time.perf_counter_ns()
        for _ in range(PACKETS):
            sender.sendto(b"x", there)
        return {"ns": time.perf_counter_ns() - started}

    with sender, receiver, workers({OURS: bench.worker(OURS)}) as running:
        empty()
        bare = min(send()["ns"] for _ in range(bench.rounds))
        for kind, rule in KINDS.items():
            say(f"nft: packets past {kind}")
            rules = [rule] if rule else [rule for rule in KINDS.values() if rule]
            lines = [
                "-A OUTPUT " + rules[n % len(rules)].format(port=10_000 + n, high=n >> 8, low=n & 255) + " -j DROP"
                for n in range(1000)
            ]
            with open(text, "w") as file:
                file.write("\n".join(["*filter", *lines, "COMMIT", ""]))

            def after(load):
                _on_empty(load)
                return send()

            samplers = {
                OURS: lambda: after(lambda: running[OURS].ask("measure", "restore")),
                RESTORE: lambda: after(Command(RESTORE, text).run),
            }
            ns = bench.keep(f"nft packets {kind}", interleave(samplers, bench.rounds, bench.patience))
            each = [(ns[name] - bare) / PACKETS / 1000 for name in (OURS, RESTORE)]
            rows.append([kind, *(f"{value:.1f}" for value in each), ratio(*each)])
            worst = max(worst, (each[0] / each[1], kind))
    # not more, except for what a busy machine adds to two equal measurements
    bench.goal(
        "nf_tables: what a packet pays for a rule that iptc wrote, against iptables-nft's own",
        "≤ ×1.05",
        f"×{worst[0]:.2f} ({worst[1]})",
        worst[0] <= 1.05,
    )
    yield Table(
        "Packets on nf_tables",
        "A UDP packet over loopback passes a thousand rules in OUTPUT, which do not match it. Nanoseconds per packet and "
        "rule, in addition to the time without rules.",
        ["rules", "written by iptc", "by iptables-nft", "ratio"],
        rows,
    )


def _append(bench):
    empty()
    load(rule_lines(1000, "large", 1), RESTORE)
    with workers({OURS: bench.worker(OURS)}) as running:
        samplers = {OURS: lambda: running[OURS].ask("measure", "append"), ADD: Command("iptables-nft", *RULE).run}
        ns = bench.keep("nft append", interleave(samplers, bench.rounds, bench.patience))
    value = ns[OURS] / ns[ADD]
    bench.goal(f"nf_tables: one more rule on 1,000 against {ADD}", "≤ ×0.5", f"×{value:.2f}", value <= 0.5)
    rows = [[name, number(took / 1000), ratio(took, ns[OURS])] for name, took in ns.items()]
    yield Table(
        "One more rule on nf_tables, on a table of 1,000",
        f"`{ADD}` is one process. ×1 is iptc.",
        ["", "µs", "ratio"],
        rows,
    )


DELETE, POLICY = "iptables-nft -D", "iptables-nft -P"


def _delete(bench):
    """Measure which call waits for the kernel's grace period when a socket that has sent deletions is closed."""
    empty()
    load([line.replace(" -A INPUT ", " -A FORWARD ") for line in rule_lines(1000, "large", 1)], RESTORE)
    remove, give_back = Command("iptables-nft", "-D", "FORWARD", "1000"), Command("iptables-nft", *RULE)

    def one_less():
        took = remove.run()
        give_back.run()
        return took

    rows, goal = [], 0.05
    verbs = {"delete": (DELETE, one_less), "policy": (POLICY, Command("iptables-nft", "-P", "FORWARD", "ACCEPT").run)}
    with workers({OURS: bench.worker(OURS)}) as running:
        for verb, (tool, theirs) in verbs.items():
            samplers = {OURS: lambda verb=verb: running[OURS].ask("measure", verb), tool: theirs}
            ns = bench.keep(f"nft {verb}", interleave(samplers, bench.rounds, bench.patience))
            value = ns[OURS] / ns[tool]
            bench.goal(
                f"nf_tables: one {verb} on 1,000 rules against {tool}", f"≤ ×{goal}", f"×{value:.3f}", value <= goal
            )
            rows.append([verb, number(ns[OURS] / 1000), number(ns[tool] / 1000), f"{value:.3f}"])
    yield Table(
        "One rule less, and another policy, on nf_tables with 1,000 rules",
        "The tool is one process. µs.",
        ["", "iptc", "the tool", "ratio"],
        rows,
    )
