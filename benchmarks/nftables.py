"""The measures on nf_tables: reading counters, loading a ruleset, adding a rule."""

import os
import subprocess

from harness import Command, Failed, interleave, load, rule_lines, say, totals_of, workers
from report import Table, micro, number, ratio

FLOOR, OURS, SAVE = "C floor", "iptc", "iptables-nft-save -c"
RESTORE, ADD = "iptables-nft-restore", "iptables-nft -A"
RULE = ["-A", "FORWARD", "-s", "10.0.0.0", "-d", "192.168.7.0/24", "-i", "eth0", "-o", "eth1", "-p", "tcp", "-m", "tcp", "--dport", "1",
        "-m", "comment", "--comment", "rule 0", "-j", "ACCEPT"]  # fmt: skip


def empty():
    """Take everything out of nf_tables."""
    subprocess.run(["nft", "flush", "ruleset"], check=True)


def measure_nft(bench):
    """All of it, with the back end set for the workers."""
    before, os.environ["IPTC_BACKEND"] = os.environ.get("IPTC_BACKEND"), "nft"
    try:
        yield from _counters(bench)
        yield from _restore(bench)
        yield from _append(bench)
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
                bench.goal(f"nf_tables: `read()` against {who}, {where}", f"≤ ×{goal}", f"×{value:.2f} ({size})", value <= goal)
            yield Table(
                f"Reading counters on nf_tables: {where}",
                "`-p tcp --dport -m comment`. The C floor dumps chain by chain on a kept socket into a kept buffer, and sums.",
                ["rules", "C floor, µs per rule", "read() to the floor", f"read() to {SAVE}"],
                rows,
            )


def _restore(bench):
    rows = []
    text = os.path.join(bench.options.programs, "rules")
    for size in (n for n in bench.sizes if n >= 10_000):
        say(f"nft: loading {size} rules")
        with open(text, "w") as file:
            lines = [line.partition("] ")[2] if line[0] == "[" else line for line in rule_lines(size, "large", 100)]
            file.write("\n".join(["*filter", *lines, "COMMIT", ""]))
        with workers({OURS: bench.worker(OURS)}) as running:

            def on_empty(work):
                empty()
                return work()

            samplers = {
                OURS: lambda: on_empty(lambda: running[OURS].ask("measure", "restore")),
                RESTORE: lambda: on_empty(Command(RESTORE, text).run),
            }
            ns = bench.keep(f"nft restore {size}", interleave(samplers, bench.rounds, bench.patience))
        rows.append([f"{size:,}", *(micro(ns[name], size) for name in samplers), ratio(ns[OURS], ns[RESTORE])])
        value = ns[OURS] / ns[RESTORE]
        bench.goal(f"nf_tables: restoring {size:,} rules against {RESTORE}", "≤ ×0.6", f"×{value:.2f}", value <= 0.6)
    if rows:
        yield Table("Restoring on nf_tables", "Into an empty ruleset, 100 chains. µs per rule.", ["rules", OURS, RESTORE, "ratio"], rows)


def _append(bench):
    empty()
    load(rule_lines(1000, "large", 1), RESTORE)
    with workers({OURS: bench.worker(OURS)}) as running:
        samplers = {OURS: lambda: running[OURS].ask("measure", "append"), ADD: Command("iptables-nft", *RULE).run}
        ns = bench.keep("nft append", interleave(samplers, bench.rounds, bench.patience))
    value = ns[OURS] / ns[ADD]
    bench.goal(f"nf_tables: one more rule on 1,000 against {ADD}", "≤ ×0.5", f"×{value:.2f}", value <= 0.5)
    rows = [[name, number(took / 1000), ratio(took, ns[OURS])] for name, took in ns.items()]
    yield Table("One more rule on nf_tables, on a table of 1,000", f"`{ADD}` is one process. ×1 is iptc.", ["", "µs", "ratio"], rows)
