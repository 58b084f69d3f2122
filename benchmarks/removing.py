"""Measures deleting from a large legacy table: a rule that does not exist, and all rules of a chain.

python-iptables works on the table as it has read it before. It does not find rules that others have added since, and it
undoes changes of others, or is refused. So it is also measured together with reading the table.
"""

from harness import Failed, interleave, load, rule_lines, saved_rules, workers
from report import Table, number

OURS, THEIRS = "iptc", "python-iptables"
READS = f"{THEIRS}, `table.refresh()` before"
RULES = 10_000


def measure_removing(bench):
    lines = rule_lines(RULES, "small", 1)
    rows = []
    with workers(bench.both()) as running:
        for operation, left, what in (
            ("missing", RULES, "deleting a rule that is not there"),
            ("flush", 0, "flushing a chain"),
        ):

            def once(name, operation=operation, left=left, what=what):
                load(lines)
                took = running[name].ask("measure", operation)
                if len(saved_rules()) != left:
                    raise Failed(f"{name}: {what} left {len(saved_rules())} rules")
                return took

            best = interleave({name: lambda name=name: once(name) for name in running}, bench.rounds, bench.patience)
            bench.keep(operation, best)
            row = {OURS: best[OURS]["ns"]}
            if THEIRS in best:
                row |= {THEIRS: best[THEIRS]["ns"], READS: best[THEIRS]["reading_ns"]}
                value = row[OURS] / row[READS]
                title = f"{what}, of {RULES:,} rules, of {THEIRS} with its reading"
                bench.goal(title, "≤ 1", number(value), value <= 1)
            rows.append([what, *(number(ns / 1e6) for ns in row.values())])
    yield Table(
        f"Rules taken away from {RULES:,}, legacy",
        "iptc reads the table once, under the lock, whatever was read before; that is most of its time here. ms.",
        ["", *row],
        rows,
    )
