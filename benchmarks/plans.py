"""Measures rulesets as values: the time of a diff and a plan without reading, and an apply of ten changes compared with
a whole restore.

Run as a program, it is the worker that uses iptc.
"""

import json
import os
import random
import sys
import time

CHANGES = 10
LARGE, UNRELATED, APPLIED = 100_000, 20_000, 10_000


def lines(count, start=0):
    """Return *count* rules as lines."""
    return [
        f"-A INPUT -s 10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}/32 -p tcp -m tcp --dport {n % 65535 + 1} -j ACCEPT"
        for n in range(start, start + count)
    ]


def text(rules):
    return "\n".join(
        ["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", *rules, "COMMIT", ""]
    )


def changed(rules, dice):
    """Return *rules* with ten rules replaced, and one of them moved."""
    rules = rules[:]
    for place in dice.sample(range(len(rules)), CHANGES - 1):
        rules[place] = f"-A INPUT -d 192.168.{dice.randrange(256)}.{dice.randrange(256)}/32 -j DROP"
    rules.insert(dice.randrange(len(rules)), rules.pop(dice.randrange(len(rules))))
    return rules


# ------------------------------------------------------------------ the worker


def worker():
    """Lines `run WHAT REPEATS` in, {"ns": {name: least}} out."""
    for line in sys.stdin:
        _, what, repeats = line.split()
        best = {}
        for number in range(int(repeats)):
            for name, took in {"values": values, "apply": apply}[what](random.Random(number)):
                best[name] = min(took, best.get(name, took))
        print(json.dumps({"ns": best}), flush=True)


def timed(function):
    started = time.perf_counter_ns()
    function()
    return time.perf_counter_ns() - started


def values(dice):
    import iptc
    from iptc.managing import planning
    from iptc.namespace import Place

    large, small = lines(LARGE), lines(UNRELATED)
    shuffled = dice.sample(small, len(small))
    sides = {
        f"{CHANGES} changes in {LARGE:,}": (large, changed(large, dice)),
        f"{UNRELATED:,} unrelated": (small, lines(UNRELATED, LARGE)),
        f"{UNRELATED:,} in another order": (small, shuffled),
    }
    for name, (one, other) in sides.items():
        for what in ("diff", "plan"):
            # read again, since a value keeps its results
            before, after = iptc.Ruleset.read(text(one)), iptc.Ruleset.read(text(other))
            if what == "diff":
                yield f"diff, {name}", timed(lambda: iptc.diff(before, after).counts())
            else:
                yield f"plan, {name}", timed(lambda: planning.Plan(before, after, planning.Scope(), Place(None)))


def apply(dice):
    import iptc

    rules = lines(APPLIED)
    yield "restore", timed(lambda: iptc.restore(text(rules)))
    wanted = text(changed(rules, dice))
    plans = []
    yield "plan", timed(lambda: plans.append(iptc.plan(wanted)))
    yield "apply", timed(plans[0].apply)
    if iptc.plan(wanted):
        raise SystemExit("it was not applied")
    iptc.restore(text([]))


# ----------------------------------------------------------------- the measure


def measure_plans(bench):
    """All of it, on both back ends."""
    from harness import say, workers
    from report import Table

    repeats = 2 if bench.options.quick else 7
    for backend in ("legacy", "nft"):
        say(f"plans: {backend}")
        before, os.environ["IPTC_BACKEND"] = os.environ["IPTC_BACKEND"], backend
        python, path = bench.python["iptc"]
        try:
            with workers({"iptc": ([python, os.path.abspath(__file__)], path)}) as running:
                times = running["iptc"].ask("run", "values", repeats)["ns"]
                applied = running["iptc"].ask("run", "apply", repeats)["ns"]
        finally:
            os.environ["IPTC_BACKEND"] = before
        bench.figures[f"plans {backend}"] = {**times, **applied}
        for name, ns in times.items():
            bench.goal(f"{name} rules, {backend}: beyond reading", "≤ 0.3 s", f"{ns / 1e9:.2f} s", ns <= 0.3e9)
        share = applied["apply"] / applied["restore"]
        if backend == "nft":
            bench.goal(
                f"{CHANGES} changes in {APPLIED:,} rules applied, against a restore of all, nft",
                "≤ ×0.2",
                f"×{share:.2f}",
                share <= 0.2,
            )
        yield Table(
            f"Rulesets as values: {backend}",
            f"A diff and a plan of texts that were read. An apply of {CHANGES} changes in {APPLIED:,} rules: the plan"
            f" reads the text and what is there, the apply sends it; against a restore of the whole text.",
            ["", "ms", "to the restore"],
            [[name, f"{ns / 1e6:.1f}", ""] for name, ns in times.items()]
            + [
                [
                    f"{name}, {CHANGES} changes in {APPLIED:,}" if name != "restore" else f"restore of {APPLIED:,}",
                    f"{ns / 1e6:.1f}",
                    f"×{ns / applied['restore']:.2f}",
                ]
                for name, ns in applied.items()
            ],
        )


if __name__ == "__main__":
    worker()
