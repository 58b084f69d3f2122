"""Measures a scrape: formatting, compared with prometheus_client; and the whole, compared with the host's tools and a parser.

Run as a program, it is the worker that uses iptc. With --poll it polls as programs for python-iptables do.
"""

import http.client
import json
import os
import re
import resource
import subprocess
import sys
import time

RULES, FEW = 10_000, 1000

AWK = r"""/^\*/ { table = substr($0, 2) }
/^\[/ {
    colon = index($1, ":"); chain = $3; rule = $0; sub(/^[^ ]+ -A [^ ]+ /, "", rule); gsub(/["\\]/, "\\\\&", rule)
    labels = "{table=\"" table "\",chain=\"" chain "\",rule=\"" rule "\"} "
    print "iptables_rule_packets_total" labels substr($1, 2, colon - 2)
    print "iptables_rule_bytes_total" labels substr($1, colon + 1, length($1) - colon - 1)
}"""

NFT_JSON = """
import json, subprocess, sys
said = json.loads(subprocess.run(["nft", "-j", "list", "table", "ip", "filter"], capture_output=True, check=True).stdout)
for one in said["nftables"]:
    if "rule" in one:
        rule = one["rule"]
        for part in rule["expr"]:
            if "counter" in part:
                labels = f'{{chain="{rule["chain"]}",rule="{rule["handle"]}"}}'
                print(f'packets{labels} {part["counter"]["packets"]}')
                print(f'bytes{labels} {part["counter"]["bytes"]}')
"""


# ------------------------------------------------------------------ the worker


def worker():
    """Read lines `run WHAT REPEATS`. Print the least times: {"ns": {name: nanoseconds}}."""
    import iptc
    from iptc.monitoring.exposition import Scraper
    from iptc.monitoring.selection import Selection
    from iptc.monitoring.sources import Sources

    scraper = Scraper(Sources(Selection(["filter"])))
    theirs = client_library()
    with iptc.CounterReader("filter") as reader:
        reader.read()
        for line in sys.stdin:
            best = {}
            for _ in range(int(line.split()[2])):
                for name, call in (
                    ("read", reader.read),
                    ("iptc", lambda: scraper.scrape().text()),
                    ("prometheus_client", lambda: theirs(reader)),
                ):
                    # processor time: it contains no waiting, and depends less on other work of the machine
                    started = time.process_time_ns()
                    call()
                    took = time.process_time_ns() - started
                    best[name] = min(took, best.get(name, took))
            print(json.dumps({"ns": best}), flush=True)


def client_library():
    """Return a function that formats a snapshot with prometheus_client: two metrics, with labels made before."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily

    names = ["ip_version", "table", "chain", "rule", "comment", "target"]
    labels = []

    class Collector:
        def collect(self):
            if not labels:
                labels.extend(["4", "filter", r.chain, r.text, r.comment or "", r.target] for r in self.snapshot.rules)
            packets = CounterMetricFamily("iptables_rule_packets", "Packets.", labels=names)
            sizes = CounterMetricFamily("iptables_rule_bytes", "Bytes.", labels=names)
            for label, (n, size) in zip(labels, self.snapshot):
                packets.add_metric(label, n)
                sizes.add_metric(label, size)
            return [packets, sizes]

    registry, collector = CollectorRegistry(), Collector()
    collector.snapshot = []
    registry.register(collector)

    def render(reader):
        collector.snapshot = reader.read()
        return generate_latest(registry)

    return render


def poll():
    """Poll as programs for python-iptables do. Print the processor time of one poll."""
    import iptc

    table = iptc.Table("filter")
    count = int(sys.argv[2])
    for number in range(count + 1):
        if number == 1:
            started = time.process_time_ns()  # the first poll loads plugins
        table.refresh()
        for chain in table.chains:
            for rule in chain.rules:
                rule.get_counters()
    print((time.process_time_ns() - started) // count)


# ----------------------------------------------------------------- the measure


class Exporter:
    """A running `iptc exporter` that is scraped over loopback."""

    def __init__(self, python, path):
        environment = {**os.environ, "PYTHONPATH": path} if path else dict(os.environ)
        command = [python, "-m", "iptc", "exporter", "-4", "-t", "filter", "--web.listen-address", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        found = re.search(r"127\.0\.0\.1:(\d+)/", self.process.stderr.readline())
        self.connection = http.client.HTTPConnection("127.0.0.1", int(found[1]))

    def sample(self):
        """Scrape once, without gzip. Return the time that it takes, and the processor time of the exporter."""
        before, started = self.cpu(), time.perf_counter_ns()
        self.text()
        return {"ns": time.perf_counter_ns() - started, "cpu": self.cpu() - before}

    def text(self):
        self.connection.request("GET", "/metrics")
        return self.connection.getresponse().read().decode()

    def cpu(self):
        """Return the processor time of its threads in nanoseconds."""
        folder = f"/proc/{self.process.pid}/task"
        total = 0
        for task in os.listdir(folder):
            with open(f"{folder}/{task}/schedstat") as file:
                total += int(file.read().split()[0])
        return total

    def close(self):
        self.connection.close()
        self.process.terminate()
        self.process.wait()
        self.process.stderr.close()


def with_cpu(run):
    """Call *run*, which starts programs. Return its result, and the processor time of the programs."""

    def sample():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = run()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {**found, "cpu": int(took * 1e9)}

    return sample


def measure_exporter(bench):
    """Measure everything, on both back ends."""
    from harness import Command, Failed, interleave, load, rule_lines, say, workers
    from report import Table, number, ratio

    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    python, path = bench.python["iptc"]
    repeats = 5 if bench.options.quick else 30
    # in chains that no packet of a scrape passes
    lines = [":watched - [0:0]", *(line.replace("-A INPUT", "-A watched") for line in rule_lines(RULES, "large", 1))]
    tools = {
        "legacy": (
            "iptables-legacy-save -c and awk",
            ["sh", "-c", 'iptables-legacy-save -c -t filter | awk "$0"', AWK],
            0.5,
        ),
        "nft": ("nft -j and Python's json", [python, "-c", NFT_JSON], 0.2),
    }
    for backend, (other, argv, goal) in tools.items():
        say(f"exporter: {backend}")
        before, os.environ["IPTC_BACKEND"] = os.environ["IPTC_BACKEND"], backend
        try:
            load(lines, f"iptables-{backend}-restore")
            with workers({"iptc": ([python, os.path.abspath(__file__)], path)}) as running:
                ns = running["iptc"].ask("run", "scrape", repeats)["ns"]
            exporter = Exporter(python, path)
            try:
                tool = Command(*argv)
                wanted, ours = sum(map(int, re.findall(r" (\d+)$", tool.output(), re.MULTILINE))), exporter.text()
                counted = re.findall(r"^iptables_rule_(?:packets|bytes)_total\{.*\} (\d+)$", ours, re.MULTILINE)
                if sum(map(int, counted)) != wanted or len(counted) != 2 * RULES:
                    raise Failed(f"the exporter and {other} have not counted the same")
                best = interleave(
                    {"iptc exporter": exporter.sample, other: with_cpu(tool.run)}, repeats, bench.patience
                )
            finally:
                exporter.close()
            load([], f"iptables-{backend}-restore")
        finally:
            os.environ["IPTC_BACKEND"] = before
        bench.figures[f"exporter {backend}"] = {**ns, **{name: found["ns"] for name, found in best.items()}}
        beyond = {name: ns[name] - ns["read"] for name in ("iptc", "prometheus_client")}
        share = beyond["iptc"] / beyond["prometheus_client"]
        bench.goal(
            f"a scrape of {RULES:,} rules beyond the read, {backend}, of prometheus_client",
            "≤ ×0.15",
            f"×{share:.3f}",
            share <= 0.15,
        )
        whole = best["iptc exporter"]["cpu"] / best[other]["cpu"]
        bench.goal(
            f"a scrape of {RULES:,} rules over loopback, {backend}, the processor's time of {other}",
            f"≤ ×{goal}",
            f"×{whole:.2f}",
            whole <= goal,
        )
        yield Table(
            f"A scrape of {RULES:,} rules: {backend}",
            "In one process, in time of the processor: the read, and what comes on top of it until the text is there, labels being ready. Then a whole "
            "scrape of a running exporter over loopback without gzip, against what others start for it: what they take of a "
            "processor, and how long it took beside all else that this machine did.",
            ["", "ms of a processor", "ratio", "ms"],
            [["CounterReader.read()", number(ns["read"] / 1e6), "", ""]]
            + [
                [f"beyond it, {name}", number(took / 1e6), ratio(took, beyond["prometheus_client"]), ""]
                for name, took in beyond.items()
            ]
            + [
                [name, number(found["cpu"] / 1e6), ratio(found["cpu"], best[other]["cpu"]), number(found["ns"] / 1e6)]
                for name, found in best.items()
            ],
        )
    if "python-iptables" in bench.python:
        yield from _steady(bench, repeats)


def _steady(bench, repeats):
    """Measure the processor time of a poll of few rules, compared with python-iptables."""
    from harness import load, rule_lines, say
    from report import Table, number, ratio

    say("exporter: the processor's time")
    load(rule_lines(FEW, "large", 1))
    theirs, _ = bench.python["python-iptables"]
    exporter = Exporter(*bench.python["iptc"])
    try:
        exporter.text()
        best = {}
        for _ in range(3):
            started = exporter.cpu()
            for _ in range(repeats):
                exporter.text()
            took = (exporter.cpu() - started) / repeats
            best["iptc exporter"] = min(took, best.get("iptc exporter", took))
            command = [theirs, os.path.abspath(__file__), "--poll", str(max(2, repeats // 3))]
            took = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            best["python-iptables"] = min(took, best.get("python-iptables", took))
    finally:
        exporter.close()
    load([])
    bench.figures["exporter cpu"] = best
    share = best["iptc exporter"] / best["python-iptables"]
    bench.goal(
        f"the processor's time of the exporter at one scrape a second, {FEW:,} rules, of python-iptables polling",
        "≤ ×0.1",
        f"×{share:.3f}",
        share <= 0.1,
    )
    yield Table(
        f"The processor's time of a poll of {FEW:,} rules a second",
        "All threads, kernel included; an exporter is scraped over loopback, python-iptables runs the classic loop.",
        ["", "% of a processor", "ratio"],
        [[name, number(ns / 1e9 * 100), ratio(ns, best["python-iptables"])] for name, ns in best.items()],
    )


if __name__ == "__main__":
    poll() if "--poll" in sys.argv else worker()
