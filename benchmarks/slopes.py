"""Measures how the cost of an edit depends on the size of the table: each verb, by iptc in one transaction and by the
host's tool in one text.

Run as a program, it is the worker that uses iptc.
"""

import json
import math
import os
import subprocess
import sys
import time

# verb -> (the lines before, the edit of the worker's table, the line for the tool), for edit number n of count
CHAINS = {
    "create_chain": ("nothing", lambda t, c, n, count: t.create_chain(f"c{n}"), lambda n, count: f"-N c{n}"),
    "ensure_chain": ("nothing", lambda t, c, n, count: t.ensure_chain(f"c{n // 2}"), None),
    "delete_chain": ("chains", lambda t, c, n, count: t.delete_chain(f"c{n}"), lambda n, count: f"-X c{n}"),
    "rename": ("jumps", lambda t, c, n, count: t.rename_chain(f"c{n}", f"d{n}"), lambda n, count: f"-E c{n} d{n}"),
    "table.flush()": (
        "jumps",
        lambda t, c, n, count: None if n else t.flush(),
        lambda n, count: ("-F", "-X")[n] if n < 2 else None,
    ),
}
RULES = {
    "append_rule": ("nothing", lambda t, c, n, count: c.append_rule(rule(n)), lambda n, count: f"-A INPUT {words(n)}"),
    "insert_rule, first": (
        "rules",
        lambda t, c, n, count: c.insert_rule(rule(n + count)),
        lambda n, count: f"-I INPUT {words(n + count)}",
    ),
    "insert_rule, anywhere": (
        "rules",
        lambda t, c, n, count: c.insert_rule(rule(n + count), place(n, count) - 1),
        lambda n, count: f"-I INPUT {place(n, count)} {words(n + count)}",
    ),
    "replace_rule": (
        "rules",
        lambda t, c, n, count: c.replace_rule(rule(n + count), n),
        lambda n, count: f"-R INPUT {n + 1} {words(n + count)}",
    ),
    "delete_rule, first": (
        "rules",
        lambda t, c, n, count: c.delete_rule(rule(n)),
        lambda n, count: f"-D INPUT {words(n)}",
    ),
    "delete_rule, last": (
        "rules",
        lambda t, c, n, count: c.delete_rule(rule(count - n - 1)),
        lambda n, count: f"-D INPUT {words(count - n - 1)}",
    ),
    "delete_rule_at": (
        "rules",
        lambda t, c, n, count: c.delete_rule_at((count - n) // 2),
        lambda n, count: f"-D INPUT {(count - n) // 2 + 1}",
    ),
    "ensure_rule": ("rules", lambda t, c, n, count: c.ensure_rule(rule(n + count // 2)), None),
    "delete_rule, missing": ("rules", lambda t, c, n, count: c.delete_rule(rule(n + count), missing_ok=True), None),
}
VERBS = {**CHAINS, **RULES}


def place(n, count):
    """Return the position of edit *n* in a chain that grows, counted from 1."""
    return 1 + n * 7919 % (n + count)


def address(n):
    return f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"


def words(n):
    return f"-s {address(n)} -j ACCEPT"


def text(lines):
    return "\n".join(["*filter", *lines, "COMMIT", ""])


def there(what, count):
    """Return the lines of the table before the edits."""
    chains = [f":c{n} - [0:0]" for n in range(count)]
    return {
        "nothing": [],
        "chains": chains,
        "jumps": chains
        + [f"-A FORWARD -s {address(n)} -j c{n}" for n in range(count)]
        + [f"-A c{n} -j ACCEPT" for n in range(count)],
        "rules": [f"-A INPUT {words(n)}" for n in range(count)],
    }[what]


# ------------------------------------------------------------------ the worker


def rule(n):
    import iptc

    made = iptc.Rule()
    made.src = address(n)
    made.create_target("ACCEPT")
    return made


def worker():
    """Read lines `run VERB COUNT`. Print the time of one edit: {"ns": …}."""
    import iptc

    table = iptc.Table("filter")
    chain = iptc.Chain(table, "INPUT")
    for line in sys.stdin:
        asked, count = line.rsplit(maxsplit=1)
        verb, count = asked.partition(" ")[2], int(count)
        what, edit, _ = VERBS[verb]
        table.restore(text(there(what, count)))
        table.refresh()
        started = time.perf_counter_ns()
        with table.transaction():
            for n in range(count):
                edit(table, chain, n, count)
        took = time.perf_counter_ns() - started
        table.restore(text([]))
        print(json.dumps({"ns": took / count}), flush=True)


# ----------------------------------------------------------------- the measure


class _Curve:
    """The time of an edit for one competitor, measured for larger and larger sizes, as long as the next measurement will
    probably take less than *budget* seconds."""

    def __init__(self, run, budget):
        self._run = run
        self._budget = budget
        self.ns = {}

    def measure(self, size):
        if self.ns:
            sizes = sorted(self.ns)[-2:]
            grown = max(1, self.ns[sizes[-1]] / self.ns[sizes[0]])
            if self.ns[sizes[-1]] * grown * size > self._budget * 1e9:
                return
        started = time.monotonic()
        found = []
        # the minimum of all repeats counts, since other work of the machine only adds time
        while len(found) < 2 or len(found) < 20 and time.monotonic() - started < self._budget / 10:
            found.append(self._run(size))
        self.ns[size] = min(found)

    def cells(self, sizes):
        return [f"{self.ns[size] / 1000:.3g}" if size in self.ns else "–" for size in sizes]

    def slope(self):
        """Return the exponent with which the time of all edits grows with their number, in the upper part of the curve."""
        sizes = sorted(self.ns)[-2:]
        if len(sizes) < 2:
            return "–"
        return f"n^{1 + math.log(self.ns[sizes[1]] / self.ns[sizes[0]]) / math.log(sizes[1] / sizes[0]):.2f}"


def measure_slopes(bench):
    """Measure all verbs on both back ends."""
    from harness import say, workers
    from report import Table

    sizes = [size for size in (100, 1000, 10_000, 100_000) if size <= max(bench.sizes)]
    budget = 4 if bench.options.quick else 20
    for backend in ("legacy", "nft"):
        before, os.environ["IPTC_BACKEND"] = os.environ["IPTC_BACKEND"], backend
        python, path = bench.python["iptc"]
        rows = []
        try:
            with workers({"iptc": ([python, os.path.abspath(__file__)], path)}) as running:
                for verb, (what, _, line) in VERBS.items():
                    say(f"slopes: {verb} on {backend}")
                    ours = _Curve(lambda count: running["iptc"].ask("run", verb, count)["ns"], budget)
                    tool = _Curve(lambda count: _by_tool(f"iptables-{backend}-restore", what, line, count), budget)
                    for size in sizes:
                        ours.measure(size)
                        if line is not None:
                            tool.measure(size)
                    bench.figures[f"slope {backend} {verb}"] = {"iptc": ours.ns, "tool": tool.ns}
                    rows.append([verb, *ours.cells(sizes), ours.slope(), *tool.cells(sizes), tool.slope()])
        finally:
            os.environ["IPTC_BACKEND"] = before
            subprocess.run([f"iptables-{backend}-restore"], input=text([]), text=True, check=True)
        yield Table(
            f"What an edit costs against how much is there: {backend}",
            f"So many edits of so many chains or rules in one transaction, its commit included; µs for each edit. Beside it the same commands in one "
            f"text for `iptables-{backend}-restore --noflush`, the start of the program included. The slope is that from the last size but "
            "one to the last: n^1.00 costs the same for each, however many there are. A dash: there is no such command, or it would have taken more than "
            f"{budget} seconds.",
            ["", *(f"iptc, {size:,}" for size in sizes), "slope", *(f"tool, {size:,}" for size in sizes), "slope"],
            rows,
        )


def _by_tool(tool, what, line, count):
    """Return the nanoseconds that the tool takes for each of *count* edits."""
    subprocess.run([tool], input=text(there(what, count)), text=True, check=True)
    lines = [line(n, count) for n in range(count)]
    edits = text(filter(None, lines))
    started = time.perf_counter_ns()
    subprocess.run([tool, "--noflush"], input=edits, text=True, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter_ns() - started) / count


if __name__ == "__main__":
    worker()
