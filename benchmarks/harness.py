"""Measures competitors side by side, in turn: A B C A B C. The minimum of all repeats counts."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "rulesets"))
import generator  # noqa: F401  of the tests' own rulesets, for those who import this module


class Failed(Exception):
    """A competitor did not do its work."""


class Worker:
    """A competitor in a process of its own, for all its repeats. One line in, one line of JSON out:

    measure OPERATION MILLISECONDS   -> {"ns": least, ...}: repeated for so long, at least once
    totals OPERATION 0               -> {"packets": n, "bytes": n}: what it has read, to see that all read the same
    pace OPERATION RATE:SECONDS      -> {"cpu": ns, "wall": ns, "polls": n}: so many times a second for so long
    memory OPERATION POLLS           -> {"grown": bytes}: the highest resident memory, less what it was before
    """

    def __init__(self, argv, path=None):
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if path:
            environment["PYTHONPATH"] = path
        self.process = subprocess.Popen(
            argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
        )

    def ask(self, verb, operation, number=0):
        try:
            self.process.stdin.write(f"{verb} {operation} {number}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(f"{self.process.args} ended on {verb} {operation}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Command:
    """A competitor that is a program started anew each time, with its output thrown away."""

    def __init__(self, *argv, times=1, path=None, stdin=os.devnull):
        self.argv = argv
        self.times = times
        self.stdin = stdin
        self.environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if path:
            self.environment["PYTHONPATH"] = path

    def run(self):
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, self.stdin, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        ]
        started, spent = time.perf_counter_ns(), 0.0
        for _ in range(self.times):
            pid = os.posix_spawnp(self.argv[0], self.argv, self.environment, file_actions=actions)
            _, status, used = os.wait4(pid, 0)
            if status:
                raise Failed(f"{' '.join(self.argv)} failed")
            spent += used.ru_utime + used.ru_stime
        # other processes may have run meanwhile
        return {"ns": min(time.perf_counter_ns() - started, int(spent * 1e9))}

    def output(self):
        return subprocess.run(self.argv, env=self.environment, check=True, capture_output=True, text=True).stdout


def interleave(samplers, rounds, patience, best=None, least=3):
    """Sample each in turn, *rounds* times, and return {name: {figure: least}}.

    A competitor that has taken more than *patience* seconds is left out of the remaining rounds, but not before it
    was sampled *least* times.
    """
    best = {} if best is None else best
    spent = dict.fromkeys(samplers, 0.0)
    for number in range(rounds):
        for name, sample in samplers.items():
            if number >= least and spent[name] > patience:
                continue
            started = time.monotonic()
            for figure, ns in sample().items():
                known = best.setdefault(name, {})
                known[figure] = min(ns, known.get(figure, ns))
            spent[name] += time.monotonic() - started
    return best


@contextlib.contextmanager
def workers(makers):
    """Start the workers {name: argv and path}. End them at the end of the `with` statement."""
    running = {}
    try:
        for name, (argv, path) in makers.items():
            running[name] = Worker(argv, path)
        yield running
    finally:
        for worker in running.values():
            worker.close()


def say(text):
    """Print progress to standard error, apart from the tables."""
    print(f"benchmarks: {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the table


def load(lines, tool="iptables-legacy-restore"):
    """Make the filter table hold these lines of iptables-restore, counters included, and nothing else."""
    text = "\n".join(
        ["*filter", *(f":{chain} ACCEPT [0:0]" for chain in ("INPUT", "FORWARD", "OUTPUT")), *lines, "COMMIT", ""]
    )
    subprocess.run([tool, "-c"], input=text, text=True, check=True)


def address(number):
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/32"


def rule_lines(size, kind, chains):
    """Return *size* rules with counters, as lines, spread over *chains* chains (1: only INPUT)."""
    names = ["INPUT"] if chains == 1 else [f"chain{n:04}" for n in range(chains)]
    lines = [f":{name} - [0:0]" for name in names] if chains > 1 else []
    per_chain = -(-size // chains)
    for n in range(size):
        rule = f"-s {address(n)}"
        if kind == "large":
            rule += f" -p tcp -m tcp --dport {1 + n % 60000} -m comment --comment r{n}"
        lines.append(f"[{1000 + n}:{60 * (1000 + n)}] -A {names[n // per_chain]} {rule} -j ACCEPT")
    return lines


def built_lines(size):
    """Return the rules that `worker.build` makes, as lines of iptables-restore."""
    return [
        f"[0:0] -A FORWARD -s {address(n)} -d 192.168.7.0/24 -i eth0 -o eth1 -p tcp -m tcp --dport {1 + n % 60000} "
        f'-m comment --comment "rule {n}" -j ACCEPT'
        for n in range(size)
    ]


def saved_rules():
    """Return the rules in the kernel, as iptables-legacy-save prints them."""
    text = subprocess.run(["iptables-legacy-save", "-t", "filter"], check=True, capture_output=True, text=True).stdout
    return [line for line in text.splitlines() if line.startswith("-A")]


def totals_of(text):
    """Return the sum of the counters in the output of iptables-legacy-save -c or iptables-legacy -nvxL."""
    pairs = re.findall(r"^\[(\d+):(\d+)\]|^ *(\d+) +(\d+) ", text, re.MULTILINE)
    return {"packets": sum(int(a or c) for a, _, c, _ in pairs), "bytes": sum(int(b or d) for _, b, _, d in pairs)}
