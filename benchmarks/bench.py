"""The measurements. `benchmarks/run` runs them in a network namespace of its own; see README.md."""

import argparse
import ctypes
import json
import os
import platform
import re
import socket
import struct
import subprocess
import sys

from bpf import measure_bpf
from exporter import measure_exporter
from harness import (
    Command,
    Failed,
    built_lines,
    generator,
    interleave,
    load,
    rule_lines,
    saved_rules,
    say,
    totals_of,
    workers,
)
from nftables import RULE, measure_nft
from plans import measure_plans
from removing import measure_removing
from report import Table, micro, number, plot, ratio
from slopes import measure_slopes
from starts import measure_starts

WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
OURS, THEIRS = "iptc", "python-iptables"


class Bench:
    """The data that all measurements share: where the competitors are, and how long to measure."""

    def __init__(self, options):
        self.options = options
        self.sizes = options.sizes
        self.rounds = 6 if options.quick else 30
        self.budget = 5 if options.quick else 25
        self.patience = 1.5 if options.quick else 12
        self.goals = []
        self.figures = {}
        self.lines = {}
        self.python = {OURS: (options.ours, options.ours_path)}
        if options.theirs:
            self.python[THEIRS] = (options.theirs, None)
        self.has_reader = not subprocess.run(
            [options.ours, "-c", "import iptc; iptc.CounterReader"],
            env=self._environment(options.ours_path),
            stderr=subprocess.DEVNULL,
        ).returncode

    def _environment(self, path):
        return dict(os.environ, PYTHONPATH=path) if path else dict(os.environ)

    def worker(self, name):
        """Return the command that starts the Python program of competitor *name*."""
        python, path = self.python[name]
        return [python, WORKER], path

    def program(self, name):
        return [os.path.join(self.options.programs, name)], None

    def both(self):
        return {name: self.worker(name) for name in self.python}

    def keep(self, measure, best):
        self.figures[measure] = best
        return {name: found["ns"] for name, found in best.items()}

    def goal(self, what, goal, value, met):
        self.goals.append((what, goal, value, "yes" if met else "**no**"))

    def at_least(self, what, times, best, figure="ns"):
        """Check a goal: at least so many times as fast as python-iptables."""
        if THEIRS in best:
            value = best[THEIRS][figure] / best[OURS][figure]
            self.goal(what, f"≥ {times} times faster", f"{number(value)} times", value >= times)

    def at_most(self, what, share, best, other):
        """Check a goal: at most this share of the time of *other*."""
        value = best[OURS]["ns"] / best[other]["ns"]
        self.goal(what, f"≤ {share}", number(value), value <= share)


def same(answers):
    """Check that all competitors have done the same work."""
    names = list(answers)
    for name in names[1:]:
        if answers[name] != answers[names[0]]:
            raise Failed(
                f"{name} and {names[0]} did not do the same: {answers[name]!r:.300} {answers[names[0]]!r:.300}"
            )


def versus(best, figure="ns"):
    """Return rows that compare the competitors with iptc."""
    return [
        [name, micro(found.get(figure)), ratio(found.get(figure), best[OURS][figure])]
        for name, found in best.items()
        if figure in found
    ]


# ------------------------------------------------------------------ measures


def measure_import(bench):
    """Measure a new interpreter that imports the module, minus one that does nothing."""
    samplers = {}
    for name, (python, path) in bench.python.items():
        samplers[f"{name} bare"] = Command(python, "-c", "pass", path=path).run
        samplers[name] = Command(python, "-c", "import iptc", path=path).run
    ns = bench.keep("import", interleave(samplers, bench.rounds, bench.patience * 2))
    cost = {name: ns[name] - ns[f"{name} bare"] for name in bench.python}
    children = {name: started_processes(bench, name) for name in bench.python}
    bench.goal("child processes of `import iptc`", "0", children[OURS], children[OURS] == 0)
    bench.goal("`import iptc` over bare Python", "a few ms: < 5", f"{cost[OURS] / 1e6:.1f} ms", cost[OURS] < 5e6)
    yield Table(
        "import iptc",
        'The time of a new process `python -c "import iptc"`, minus that of `python -c pass` with the same interpreter; '
        "×1 is iptc.",
        ["", "ms over bare Python", "ratio", "to bare Python's own start", "processes started"],
        [
            [
                name,
                number(cost[name] / 1e6),
                ratio(cost[name], cost[OURS]),
                ratio(cost[name], ns[f"{name} bare"]),
                children[name],
            ]
            for name in bench.python
        ],
    )


def started_processes(bench, name):
    """Return how many processes an import starts: in a PID namespace of its own, the next process id tells."""
    python, path = bench.python[name]
    code = "import os, iptc\npid = os.fork()\nif pid: print(pid - 2)"
    return int(Command("unshare", "-pf", python, "-c", code, path=path).output())


def measure_build(bench):
    """Measure building a thousand rules by attributes, and committing them in one batch."""
    size, lines = 1000, built_lines(1000)
    text = os.path.join(bench.options.programs, "rules")
    with open(text, "w") as file:
        file.write("\n".join(["*filter", *lines, "COMMIT", ""]))
    restore = "iptables-legacy-restore"
    with workers(bench.both()) as running:

        def on_empty(work):
            load([])
            return work()

        samplers = {
            name: lambda worker=worker: on_empty(lambda: worker.ask("measure", "build1000"))
            for name, worker in running.items()
        }
        samplers[restore] = lambda: on_empty(Command(restore, "-c", stdin=text).run)
        answers = {}
        for name, sample in samplers.items():
            sample()
            answers[name] = saved_rules()
        same(answers)
        if len(answers[OURS]) != size:
            raise Failed(f"{len(answers[OURS])} rules were built instead of {size}")
        best = interleave(samplers, bench.rounds, bench.patience)
    bench.keep("build", best)
    for found in best.values():
        for figure in found:
            found[figure] /= size
    bench.at_least("building and appending a rule in a batch, commit included", 50, best)
    bench.at_least("building and appending a rule in a batch, commit not included", 50, best, "build_ns")
    yield Table(
        "Building rules",
        "Five attributes, two matches and a target through the attribute API, appended in a batch of 1,000 with one commit; "
        "`iptables-legacy-restore` loads the same rules from a file (whole process). Per rule; ×1 is iptc.",
        ["", "µs with the commit", "ratio", "µs without", "ratio"],
        [
            [*row, micro(best[row[0]].get("build_ns")), ratio(best[row[0]].get("build_ns"), best[OURS]["build_ns"])]
            for row in versus(best)
        ],
    )


def measure_classic(bench):
    """Measure the polling loop of programs for python-iptables, unchanged."""
    rows = []
    for size in (n for n in bench.sizes if n <= 10_000):
        load(rule_lines(size, "large", 1))
        with workers(bench.both()) as running:
            same({name: worker.ask("totals", "classic") for name, worker in running.items()})
            best = interleave(asking(running, "classic", bench.budget), bench.rounds, bench.patience)
        ns = bench.keep(f"classic {size}", best)
        times = [micro(ns.get(name), size) for name in (OURS, THEIRS)]
        rows.append([f"{size:,}", *times, ratio(ns.get(THEIRS), ns[OURS])])
        if size == 10_000:
            bench.at_least("the classic polling loop, 10,000 rules", 60, best)
    yield Table(
        "The classic polling loop, unchanged",
        "`table.refresh()`, then `get_counters()` of each rule of each chain. µs per rule.",
        ["rules", OURS, THEIRS, "times faster"],
        rows,
    )


def asking(running, operation, budget):
    return {name: lambda worker=worker: worker.ask("measure", operation, budget) for name, worker in running.items()}


FLOOR, LIBIPTC, FIRST = "C floor", "libiptc in C", "libiptc in C, first poll"
BUFFERS, TUPLES = "read()", "read() → dict of tuples"
CLASSIC, SAVE, LIST = "classic loop", "iptables-legacy-save -c", "iptables-legacy -nvxL"


def counter_workers(bench, size):
    """Return the competitors that run as long as the measurement: {name: (how to start it, operation)}."""
    found = {FLOOR: (bench.program("floor"), "poll")}
    if bench.has_reader:
        found[BUFFERS] = (bench.worker(OURS), "buffers")
        found[TUPLES] = (bench.worker(OURS), "tuples")
    found[CLASSIC] = (bench.worker(OURS), "classic")
    found[LIBIPTC] = (bench.program("libiptc"), "poll")
    if THEIRS in bench.python and size <= 10_000:
        found[THEIRS] = (bench.worker(THEIRS), "classic")
    return found


def first_poll(bench):
    """Return libiptc in a process that has not polled before, so that its memory must still be allocated."""
    with workers({FIRST: bench.program("libiptc")}) as running:
        return running[FIRST].ask("measure", "poll")


def poll_all(bench, size):
    """Measure all that reads counters on the table as it is; {name: ns}."""
    commands = {SAVE: Command("iptables-legacy-save", "-t", "filter", "-c"), LIST: Command("iptables-legacy", "-nvxL")}
    best = {}
    # Where memory happens to lie is luck, so each process is started anew twice.
    passes = 1 if bench.options.quick else 3
    for number_of_pass in range(passes):
        competitors = counter_workers(bench, size)
        if number_of_pass:
            competitors.pop(THEIRS, None)
        with workers({name: start for name, (start, _) in competitors.items()}) as running:
            if not number_of_pass:
                answers = {name: worker.ask("totals", competitors[name][1]) for name, worker in running.items()}
                answers |= {name: totals_of(command.output()) for name, command in commands.items()}
                same(answers)
            samplers = {
                name: lambda worker=worker, operation=competitors[name][1]: worker.ask(
                    "measure", operation, bench.budget
                )
                for name, worker in running.items()
            }
            samplers[FIRST] = lambda: first_poll(bench)
            samplers |= {name: command.run for name, command in commands.items()}
            interleave(samplers, max(3, bench.rounds // passes), bench.patience / passes, best)
    return best


def measure_counters(bench):
    """Measure all programs that read counters, compared with the two bare system calls of the kernel."""
    order = [CLASSIC, LIBIPTC, FIRST, SAVE, LIST]
    if bench.has_reader:
        order = [BUFFERS, TUPLES, *order]
    if THEIRS in bench.python:
        order.append(THEIRS)
    worst = {BUFFERS: [], TUPLES: []}
    shapes = [("small", 1), ("small", 1000), ("large", 1), ("large", 1000)]
    if bench.options.quick:
        shapes = [("large", 1)]
    for kind, chains in shapes:
        rows, name = [], f"{kind} rules, {'one chain' if chains == 1 else 'a thousand chains'}"
        for size in (n for n in bench.sizes if n >= chains):
            say(f"counters: {size} {name}")
            load(rule_lines(size, kind, chains))
            best = poll_all(bench, size)
            ns = bench.keep(f"counters {kind} {chains} {size}", best)
            rows.append([f"{size:,}", micro(ns[FLOOR], size), *(ratio(ns.get(who), ns[FLOOR]) for who in order)])
            if (kind, chains) == ("large", 1):
                for who, value in ns.items():
                    bench.lines.setdefault(who, {})[size] = value / 1000 / size
            if size >= 1000 and BUFFERS in ns:
                for who, values in worst.items():
                    values.append((ns[who] / ns[FLOOR], f"{size:,} {name}"))
            if size == 10_000 and BUFFERS in ns:
                for what in (LIBIPTC, FIRST):
                    value = ns[BUFFERS] / ns[what]
                    bench.goal(f"{BUFFERS} against {what}, 10,000 {name}", "≤ ×0.75", f"×{value:.2f}", value <= 0.75)
        if rows:
            sort = "no match, 152 bytes" if kind == "small" else "`-p tcp --dport -m comment`, 488 bytes"
            yield Table(
                f"Reading counters: {name}",
                f"Rules of {sort}. Cost of one poll against the C floor "
                f'(`IPT_SO_GET_INFO` + `IPT_SO_GET_ENTRIES` + sum); "first poll": in a process that has not polled before.',
                ["rules", "C floor, µs per rule", *order],
                rows,
            )
    for who, goal in ((BUFFERS, 1.03), (TUPLES, 1.15)):
        if worst[who]:
            value, where = max(worst[who])
            bench.goal(
                f"{who} against the C floor, the worst from 1,000 rules on",
                f"≤ ×{goal}",
                f"×{value:.3f} ({where})",
                value <= goal,
            )


def blob_size():
    """Return the size of the filter table in bytes, as the kernel returns it."""
    info = ctypes.create_string_buffer(b"filter", 84)
    length = ctypes.c_uint32(84)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
        # IPT_SO_GET_INFO, which socket.getsockopt cannot ask for: it goes in with a name.
        if ctypes.CDLL(None).getsockopt(s.fileno(), socket.IPPROTO_IP, 64, info, ctypes.byref(length)):
            raise Failed("IPT_SO_GET_INFO failed")
    return struct.unpack_from("I", info, 80)[0]


def measure_memory(bench):
    """How much resident memory a program needs that polls the largest table."""
    size = max(bench.sizes)
    for kind in ("small", "large"):
        load(rule_lines(size, kind, 1))
        blob = blob_size()
        rows = []
        for name, (start, operation) in counter_workers(bench, size).items():
            with workers({name: start}) as running:
                grown = running[name].ask("memory", operation, 3 if name == THEIRS else 20)["grown"]
            bench.figures.setdefault(f"memory {kind}", {})[name] = {"bytes": grown}
            rows.append([name, number(grown / size), ratio(grown, blob), ratio(grown, blob + 16 * size)])
            # Below, what the interpreter loads on first use weighs more than the table.
            if name == BUFFERS and size >= 100_000:
                value = grown / (blob + 16 * size)
                bench.goal(
                    f"resident memory while polling {size:,} {kind} rules",
                    "≤ ×1.10 of the blob + 16 bytes a rule",
                    f"×{value:.2f}",
                    value <= 1.1,
                )
        yield Table(
            f"Memory while polling {size:,} {kind} rules",
            "How much resident memory has grown at most during 20 polls, compared with before the table was opened. The "
            f"blob has {number(blob / size)} bytes for each rule. Each snapshot is deleted before the next read.",
            ["", "bytes per rule", "to the blob", "to the blob + 16 bytes a rule"],
            rows,
        )


def measure_rules(bench):
    """Measure reading whole rules, and not only their counters."""
    size = 1000
    rows = []
    load(built_lines(size))
    for operation, what in (("dump", "`easy.dump_chain`"), ("parameters", "`parameters` of all matches")):
        with workers(bench.both()) as running:
            best = interleave(asking(running, operation, bench.budget), bench.rounds, bench.patience)
        ns = bench.keep(operation, best)
        rows.append([what, *(micro(ns.get(name), size) for name in (OURS, THEIRS)), ratio(ns.get(THEIRS), ns[OURS])])
    yield Table(
        "Reading rules",
        "1,000 rules with five attributes and two matches, read anew each time. µs per rule.",
        ["", OURS, THEIRS, "times faster"],
        rows,
    )


def measure_commit(bench):
    """Measure adding one rule, and two hundred rules, to a table of a thousand."""
    base = built_lines(1000)
    add = "iptables-legacy -A"
    arguments = ["iptables-legacy", *RULE]
    for operation, times, title in (("append", 1, "One more rule"), ("batch200", 200, "200 more rules in one batch")):
        with workers(bench.both()) as running:

            def on_base(work):
                load(base)
                return work()

            samplers = {
                name: lambda worker=worker: on_base(lambda: worker.ask("measure", operation))
                for name, worker in running.items()
            }
            samplers[add] = lambda: on_base(Command(*arguments, times=times).run)
            for name, sample in samplers.items():
                sample()
                if len(saved_rules()) != 1000 + times:
                    raise Failed(f"{name}: {operation} left {len(saved_rules())} rules")
            best = interleave(samplers, bench.rounds, bench.patience)
        bench.keep(operation, best)
        most, what = (0.5, "one more rule on 1,000") if times == 1 else (0.1, "200 more rules on 1,000 in one commit")
        bench.at_most(f"{what}, of `{add}`", most, best, add)
        each = "one process" if times == 1 else "200 processes"
        yield Table(
            f"{title} on a table of 1,000",
            f"Built through the attribute API, appended and committed; `iptables-legacy -A` is {each}. ×1 is iptc.",
            ["", "µs", "ratio"],
            versus(best),
        )


def measure_rulesets(bench):
    """Measure rulesets with mixed rules, and single rules, as text."""
    restore, test, save, fresh = (
        "iptables-legacy-restore -c",
        "iptables-legacy-restore --test",
        "iptables-legacy-save -c",
        "fresh process",
    )
    path = os.path.join(bench.options.programs, "mixed")
    os.environ["IPTC_BENCH_RULES"] = path
    python, ours_path = bench.python[OURS]
    once = Command(python, "-c", f"import iptc; iptc.restore({path!r}, counters=True)", path=ours_path)
    for size in [size for size in bench.sizes if size >= 1000]:
        with open(path, "w") as file:
            file.write(generator.text("mixed", size))
        with workers({OURS: bench.worker(OURS)}) as running:
            ask = running[OURS].ask
            best = {}
            for ours, theirs, command in (
                ("restore", restore, Command("iptables-legacy-restore", "-c", stdin=path)),
                ("parse", test, Command("iptables-legacy-restore", "-c", "--test", stdin=path)),
                ("save", save, Command("iptables-legacy-save", "-c")),
            ):
                samplers = {theirs: command.run, ours: lambda ours=ours: ask("measure", ours)}
                if ours == "restore":
                    samplers[fresh] = once.run
                    answers = {}
                    for name, sample in samplers.items():
                        sample()
                        answers[name] = saved_rules()
                    same(answers)
                best |= interleave(samplers, bench.rounds, bench.patience)
        bench.keep(f"rulesets {size}", best)
        for ours, theirs, most in (("restore", restore, 0.5), ("parse", test, 0.25), ("save", save, 0.6)):
            value = best[ours]["ns"] / best[theirs]["ns"]
            bench.goal(f"{ours}, {size:,} mixed rules, of `{theirs}`", f"≤ {most}", number(value), value <= most)
        value = best[fresh]["ns"] / best[restore]["ns"]
        if size >= 10_000:
            bench.goal(
                f"restore in a fresh process, {size:,} mixed rules, of `{restore}`", "< 1", number(value), value < 1
            )
        yield Table(
            f"Rulesets of {size:,} rules as text",
            "Rules of mixed kinds in chains of fifty, over the same table. `parse` is the text alone; the fresh process is a bare Python "
            "that imports iptc and restores. Per rule; ×1 is iptc.",
            ["", "µs a rule", "ratio"],
            [
                [name, micro(best[name]["ns"], size), ratio(best[name]["ns"], best[to]["ns"])]
                for to, names in (
                    ("restore", ("restore", restore, fresh)),
                    ("parse", ("parse", test)),
                    ("save", ("save", save)),
                )
                for name in names
            ],
        )
    with workers({OURS: bench.worker(OURS)}) as running:
        ask = running[OURS].ask
        best = interleave(
            {name: lambda name=name: ask("measure", name, bench.budget) for name in ("from_args", "to_text")},
            bench.rounds,
            bench.patience,
        )
    bench.keep("single rules", best)
    for name, what, most in (
        ("from_args", "`Rule.from_args`, two matches", 1),
        ("to_text", "`str(rule)`, two matches", 0.6),
    ):
        value = best[name]["ns"] / 1e6
        bench.goal(what, f"≤ {most} µs", f"{value:.2f} µs", value <= most)
    yield Table(
        "Single rules as text",
        "A rule with two matches, of text and to text.",
        ["", "µs"],
        [[name, micro(found["ns"], 1000)] for name, found in best.items()],
    )


MEASURES = {
    "import": measure_import,
    "starts": measure_starts,
    "build": measure_build,
    "classic": measure_classic,
    "counters": measure_counters,
    "memory": measure_memory,
    "rules": measure_rules,
    "commit": measure_commit,
    "removing": measure_removing,
    "rulesets": measure_rulesets,
    "nft": measure_nft,
    "bpf": measure_bpf,
    "slopes": measure_slopes,
    "plans": measure_plans,
    "exporter": measure_exporter,
}


# ---------------------------------------------------------------------- face


def conditions():
    """Return a description of this machine."""
    tools = subprocess.run(["iptables-legacy", "-V"], capture_output=True, text=True).stdout
    kernel = ".".join(re.findall(r"\d+", platform.release())[:2])
    with open("/proc/cpuinfo") as file:
        machine = "virtual machine" if " hypervisor" in file.read() else "machine"
    return (
        f"a {os.cpu_count()}-CPU {machine} ({platform.machine()}), kernel {kernel}, iptables {re.findall('[0-9.]+', tools)[0]}, "
        f"Python {platform.python_version()}"
    )


def page(bench, tables, picture):
    parts = [
        "# Benchmarks",
        "`benchmarks/run --markdown docs/benchmarks.md --svg docs/counters.svg` measures these tables: it installs all "
        "competitors, works in a network namespace of its own, and prints the tables. All programs of one table were "
        "measured in turn in one run, and each figure is the least of several. Compare figures within a table: on another "
        "machine the ratios are about the same, and the times are not.",
        f"The machine: {conditions()}.",
    ]
    if bench.goals:
        parts.append(str(goals_table(bench)))
    if picture:
        parts.append("## The cost of a poll against the size of the table")
        parts.append(f"![µs per rule against the number of rules]({picture})")
    return "\n\n".join([*parts, *map(str, tables)]) + "\n"


def goals_table(bench):
    return Table("Goals", "", ["", "goal", "measured", "met"], bench.goals)


def sizes(text):
    found = sorted({int(part) for part in text.split(",")})
    if not found or found[0] < 1:
        raise ValueError
    return found


def parse(argv):
    parser = argparse.ArgumentParser(prog="benchmarks/run", description="Ratios against the kernel and other tools.")
    parser.add_argument(
        "--quick", action="store_true", help="fewer repeats, and only up to 10,000 large rules in one chain"
    )
    parser.add_argument("--sizes", type=sizes, help="numbers of rules, with commas (100,1000,10000,100000)")
    parser.add_argument("--only", action="append", choices=MEASURES, help="this measure; may be given several times")
    parser.add_argument("--markdown", type=os.path.abspath, metavar="FILE", help="write the tables there as well")
    parser.add_argument(
        "--svg", type=os.path.abspath, metavar="FILE", help="draw the cost of a poll against the size there"
    )
    parser.add_argument("--json", type=os.path.abspath, metavar="FILE", help="write all figures there, in nanoseconds")
    for hidden in ("--ours", "--ours-path", "--theirs", "--pyroute2", "--programs"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if not options.sizes:
        options.sizes = [100, 1000, 10_000] + ([] if options.quick else [100_000])
    return options


def main(argv):
    options = parse(argv)
    # So that no competitor imports a file from the folder of the caller.
    os.chdir(options.programs)
    os.environ["IPTC_BACKEND"] = "legacy"
    bench = Bench(options)
    if not bench.has_reader:
        say("this iptc has no CounterReader yet: measuring without it")
    tables = []
    for name in options.only or MEASURES:
        say(name)
        for table in MEASURES[name](bench):
            tables.append(table)
            print(f"{table}\n", flush=True)
    if bench.goals:
        print(goals_table(bench))
    if options.svg and bench.lines:
        with open(options.svg, "w") as file:
            file.write(plot("Reading the counters of a whole table", bench.lines))
    if options.markdown:
        picture = options.svg and bench.lines and os.path.relpath(options.svg, os.path.dirname(options.markdown))
        with open(options.markdown, "w") as file:
            file.write(page(bench, tables, picture))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(bench.figures, file, indent=1)


try:
    main(sys.argv[1:])
except Failed as failed:
    sys.exit(f"benchmarks: {failed}")
