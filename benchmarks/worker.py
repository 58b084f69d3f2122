"""A competitor written in Python, in a process of its own. See `harness.Worker` for the lines that it reads and writes.

The same file runs for this library and for python-iptables: both are called `iptc` and have the same API. The harness
uses operations that only this library has, such as `CounterReader`, only for this library.
"""

import json
import os
import sys
from time import perf_counter_ns as now
from time import process_time_ns as spent

import iptc

OPERATIONS = {}
LONG = 1_000_000
"""Nanoseconds from which on the processor's time of an operation counts, if that is less than its time."""


def operation(cls):
    """Register a class. Its `run` does the work once, measures it, and returns {name: nanoseconds}."""
    OPERATIONS[cls.__name__.lower()] = cls
    return cls


class Once:
    """The base class of operations that are measured as a whole."""

    def run(self):
        cpu, started = spent(), now()
        self.work()
        took = now() - started
        # in what takes long, other processes have run meanwhile
        return {"ns": took if took < LONG else min(took, spent() - cpu)}


# ---------------------------------------------------------------- counters


@operation
class Classic(Once):
    """The polling loop of programs written for python-iptables, unchanged."""

    def __init__(self):
        self.table = iptc.Table("filter")

    def work(self):
        table = self.table
        table.refresh()
        for chain in table.chains:
            for rule in chain.rules:
                rule.get_counters()

    def totals(self):
        self.table.refresh()
        return total(rule.get_counters() for chain in self.table.chains for rule in chain.rules)


@operation
class Buffers(Once):
    """`CounterReader.read()`, with the buffers of packets and of bytes."""

    def __init__(self):
        self.reader = iptc.CounterReader(table="filter", ipv6=False).__enter__()

    def work(self):
        snapshot = self.reader.read()
        # Kept until the next poll, as a program does that compares the two.
        self.held = snapshot, snapshot.packets, snapshot.bytes

    def totals(self):
        snapshot = self.reader.read()
        return total(zip(snapshot.packets, snapshot.bytes))


@operation
class Bpf(Buffers):
    """`CounterReader.read()` with eBPF."""

    def __init__(self):
        self.reader = iptc.CounterReader(table="filter", ipv6=False, source="bpf").__enter__()


@operation
class Bpf_Every(Bpf):
    """`CounterReader.every()` with eBPF, which keeps the pace itself."""

    def begin(self, rate):
        self.snapshots = self.reader.every(1 / rate)

    def paced(self, seconds):
        polls, end = 0, now() + seconds * 1_000_000_000
        while now() < end:
            self.held = next(self.snapshots)
            polls += 1
        return polls


@operation
class Opening(Once):
    """Opening a reader by eBPF: all that has to be known, and the first reading."""

    source = "bpf"

    def work(self):
        self.held = iptc.CounterReader(table="filter", ipv6=False, source=self.source)
        self.held.read()
        self.held.close()


@operation
class Opening_Socket(Opening):
    """Opening a reader by the socket, and the first reading."""

    source = "socket"


@operation
class Bpf_Sampler(Once):
    """A `Sampler` with eBPF, which keeps the pace itself."""

    def work(self):
        pass

    def begin(self, rate):
        """Open everything and take a sample, so that only polls are measured, as for the other operations."""
        self.samples = iter(iptc.Sampler(1 / rate, ["filter"], ipv6=False, source="bpf"))
        self.held = next(self.samples)

    def paced(self, seconds):
        polls, end = 0, now() + seconds * 1_000_000_000
        while now() < end:
            self.held = next(self.samples)
            polls += self.held.polls
        return polls


@operation
class Nothing(Once):
    """No work: it shows what polling at a fixed rate costs by itself."""

    def work(self):
        pass


class Changed:
    """Wraps another operation: a packet passes all rules before each poll, and only the poll is measured."""

    def run(self):
        if not hasattr(self, "sender"):
            import socket

            self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.sendto(b"", ("127.0.0.1", 9))
        return super().run()


@operation
class Buffers_Changed(Changed, Buffers):
    pass


@operation
class Bpf_Changed(Changed, Bpf):
    pass


@operation
class Tuples(Buffers):
    """`CounterReader.read()`, then a dict of the tuples of each chain."""

    def work(self):
        snapshot = self.reader.read()
        self.held = snapshot.as_dict()

    def totals(self):
        self.work()
        return total(pair for pairs in self.held.values() for pair in pairs)


def total(pairs):
    packets = size = 0
    for p, b in pairs:
        packets += p
        size += b
    return {"packets": packets, "bytes": size}


# ------------------------------------------------------------------- rules


def build(number, rule_class=iptc.Rule):
    """Return a rule with five attributes, two matches and a target, set one by one."""
    rule = rule_class()
    rule.src = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    rule.dst = "192.168.7.0/24"
    rule.protocol = "tcp"
    rule.in_interface = "eth0"
    rule.out_interface = "eth1"
    match = rule.create_match("tcp")
    match.dport = str(1 + number % 60000)
    match = rule.create_match("comment")
    match.comment = f"rule {number}"
    rule.create_target("ACCEPT")
    return rule


class Batch:
    """Build *count* rules, append each, commit once at the end."""

    count = 0

    def __init__(self):
        self.table = iptc.Table("filter")

    def run(self):
        table = self.table
        table.autocommit = False
        # The harness has changed the table since: not part of the work.
        table.refresh()
        chain = iptc.Chain(table, "FORWARD")
        started = now()
        for number in range(self.count):
            chain.append_rule(build(number))
        built = now()
        table.commit()
        ended = now()
        # Otherwise python-iptables commits again when it is refreshed next.
        table.autocommit = True
        table.refresh()
        return {"ns": ended - started, "build_ns": built - started}


@operation
class Build1000(Batch):
    count = 1000


@operation
class Batch200(Batch):
    count = 200


@operation
class Append:
    """Append one rule, sent at once."""

    def __init__(self):
        self.table = iptc.Table("filter")

    def run(self):
        self.table.refresh()
        started = now()
        iptc.Chain(self.table, "FORWARD").append_rule(build(0))
        return {"ns": now() - started}


@operation
class Delete:
    """Delete the last rule, sent at once. Between two measurements it is added again."""

    def __init__(self):
        self.chain = iptc.Chain(iptc.Table("filter"), "FORWARD")

    def run(self):
        self.chain.append_rule(build(0))
        self.chain.table.refresh()
        count = len(self.chain.rules)
        started = now()
        self.chain.delete_rule_at(count - 1)
        return {"ns": now() - started}


class OnInput:
    """An edit of the chain INPUT, sent at once. `reading_ns` includes reading the table before it."""

    def __init__(self):
        self.table = iptc.Table("filter")

    def run(self):
        chain = iptc.Chain(self.table, "INPUT")
        before = now()
        self.table.refresh()
        started = now()
        self.edit(chain)
        ended = now()
        return {"ns": ended - started, "reading_ns": ended - before}


@operation
class Missing(OnInput):
    """Delete a rule that does not exist."""

    def __init__(self):
        super().__init__()
        self.rule = build(0)

    def edit(self, chain):
        try:
            chain.delete_rule(self.rule)
        except iptc.IPTCError:
            return
        raise AssertionError("a rule that is not there was deleted")


@operation
class Flush(OnInput):
    """Delete all rules of a chain."""

    def edit(self, chain):
        chain.flush()


@operation
class Policy:
    """Set another policy, sent at once."""

    def __init__(self):
        self.chain = iptc.Chain(iptc.Table("filter"), "FORWARD")

    def run(self):
        policy = "DROP" if self.chain.get_policy().name == "ACCEPT" else "ACCEPT"
        started = now()
        self.chain.set_policy(policy)
        return {"ns": now() - started}


@operation
class Dump(Once):
    """Read every rule of a chain as a dict."""

    def work(self):
        return iptc.easy.dump_chain("filter", "FORWARD", ipv6=False)


@operation
class Parameters(Once):
    """Read every parameter of every match of every rule."""

    def __init__(self):
        self.table = iptc.Table("filter")

    def work(self):
        self.table.refresh()
        for rule in iptc.Chain(self.table, "FORWARD").rules:
            for match in rule.matches:
                str(match.parameters)


# ---------------------------------------------------------------- rulesets

RULES = os.environ.get("IPTC_BENCH_RULES")  # the path of a file of iptables-save


@operation
class Restore(Once):
    """Restore a whole file."""

    def work(self):
        iptc.restore(RULES, counters=True)


@operation
class Parse(Once):
    """Read a whole file, and do nothing with it."""

    def work(self):
        from iptc import ruleset

        ruleset.parse(RULES, counters=True)


@operation
class Save(Once):
    """Print all tables as text, with counters."""

    def work(self):
        iptc.save(counters=True)


SPECIFICATION = "-s 10.1.2.3/32 -p tcp -m tcp --dport 1234 -m comment --comment r1234 -j ACCEPT"


@operation
class From_Args(Once):
    """Make a thousand rules with two matches of texts."""

    def work(self):
        make = iptc.Rule.from_args
        for _ in range(1000):
            make(SPECIFICATION)


@operation
class To_Text(Once):
    """Print a thousand rules with two matches as text."""

    def __init__(self):
        self.rule = iptc.Rule.from_args(SPECIFICATION)

    def work(self):
        rule = self.rule
        for _ in range(1000):
            str(rule)


# ---------------------------------------------------------------- protocol


def best_of(work, budget_ms):
    """Repeat until the budget is used, but at least once. Return the minimum of each figure."""
    best = work.run()
    end = now() + budget_ms * 1_000_000
    while now() < end:
        for name, ns in work.run().items():
            best[name] = min(best[name], ns)
    return best


def from_status(field):
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field):
                return int(line.split()[1]) * 1024


def memory(make, polls):
    """Return how much the peak of resident memory grows after the table is opened. The result of each poll is dropped
    before the next one."""
    before = from_status("VmRSS:")
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    work = make()
    for _ in range(polls):
        work.held = None
        work.run()
    return {"grown": from_status("VmHWM:") - before}


def pace(work, rate, seconds):
    """Work *rate* times a second for *seconds*. Return the processor time, the time, and how often it worked."""
    import time

    work.run()
    keeps_pace = hasattr(work, "paced")
    if keeps_pace:
        work.begin(rate)
    polls, began, cpu = 0, now(), time.process_time_ns()
    if keeps_pace:
        polls = work.paced(seconds)
    while (due := began + polls * 1_000_000_000 // rate) < began + seconds * 1_000_000_000:
        left = due - now()
        if left > 0:
            time.sleep(left / 1e9)
        elif now() > began + seconds * 1_000_000_000:
            break
        work.work()
        polls += 1
    return {"cpu": time.process_time_ns() - cpu, "wall": now() - began, "polls": polls}


def main():
    made = {}
    for line in sys.stdin:
        verb, name, number = line.split()
        if verb == "memory":
            answer = memory(OPERATIONS[name], int(number))
        elif verb == "pace":
            answer = pace(OPERATIONS[name](), *map(int, number.split(":")))
        else:
            if name not in made:
                made[name] = OPERATIONS[name]()
            answer = made[name].totals() if verb == "totals" else best_of(made[name], int(number))
        print(json.dumps(answer), flush=True)


main()
