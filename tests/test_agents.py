"""The output formats, read by the programs for which they are made: Prometheus, promtool, node_exporter, a parser of
line protocol, and Grafana.

`scripts/test --long` downloads these programs (scripts/agents.sh).
"""

import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
from conftest import PATIENCE
from test_monitoring import AWKWARD

import iptc

pytestmark = pytest.mark.long

PACKAGING = pathlib.Path(iptc.__file__).parent.parent / "packaging"
AGENTS = os.environ.get("IPTC_AGENTS", "")


def program(name):
    """Return the path of a program."""
    found = shutil.which(name, path=os.pathsep.join([f"{AGENTS}/usr/bin", os.environ["PATH"], "/usr/sbin"]))
    assert found, f"there is no {name}: scripts/test --long gets it"
    return found


def module(name):
    """Return a module of PyPI."""
    folder = f"{AGENTS}/python"
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def ask(port, path):
    """Return the answer of a server on this host. If the server is not ready yet, wait for it."""
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
                return answer.read().decode()
        except (urllib.error.HTTPError, ConnectionError, urllib.error.URLError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code != 503:
                raise
            time.sleep(0.1)


@pytest.fixture
def serve():
    """Return a function that starts servers. They are killed at the end."""
    processes = []

    def run(*command):
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    yield run
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def awkward(host):
    """Make rules with odd comments, two equal rules, and one with the largest counters."""
    chain = iptc.Chain(iptc.Table("filter"), "INPUT")
    for comment in [*AWKWARD, "twice", "twice"]:
        rule = iptc.Rule()
        rule.create_match("comment").comment = comment
        rule.create_target("RETURN")
        chain.append_rule(rule)
    rule = iptc.Rule()
    for _ in range(100):
        rule.create_match("comment").comment = '"' * 255
    rule.create_target("RETURN")
    chain.append_rule(rule)


def test_promtool_has_nothing_to_say(awkward, start):
    exporter = start("--monotonic")
    for path in "/metrics", "/metrics":
        done = subprocess.run(
            [program("promtool"), "check", "metrics"], input=exporter.ask(path)[2], capture_output=True
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


TRAFFIC = """
import socket
channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("begun", flush=True)
while True:
    channel.sendto(b"x" * 100, ("10.7.0.1", 4000))
"""


def test_prometheus_scrapes_real_traffic(host, start, serve, tmp_path):
    there = f"iptc{os.getpid()}"
    for line in (
        f"netns add {there}",
        f"link add veth0 type veth peer name veth1 netns {there}",
        "address add 10.7.0.1/24 dev veth0",
        "link set veth0 up",
        f"-n {there} address add 10.7.0.2/24 dev veth1",
        f"-n {there} link set veth1 up",
    ):
        host.run("ip", *line.split())
    try:
        host.iptables("-A INPUT -i veth0 -p udp --dport 4000 -m comment --comment probe -j DROP")
        exporter = start()
        (tmp_path / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n"
            f'- {{job_name: iptables, static_configs: [{{targets: ["127.0.0.1:{exporter.port}"]}}]}}\n'
        )
        # the port is free, since no other program is in this namespace
        words = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
        serve(program("prometheus"), *words, "--web.listen-address=127.0.0.1:9090")
        sender = ["ip", "netns", "exec", there, sys.executable, "-c", TRAFFIC]
        with subprocess.Popen(sender, stdout=subprocess.PIPE) as process:
            try:
                process.stdout.readline()
                query = 'rate(iptables_rule_packets_total{comment="probe",target="DROP"}[5s])'
                while not (found := answer_of(query)) or float(found[0]["value"][1]) == 0:
                    assert process.poll() is None
            finally:
                process.send_signal(signal.SIGKILL)
        # 100 bytes after the IP and UDP headers; both rates are extrapolated from the same samples
        (ratio,) = answer_of(f"{query.replace('packets', 'bytes')} / {query}")
        assert float(ratio["value"][1]) == pytest.approx(128)
        # once nothing is sent any more, Prometheus must have the kernel's counters
        counted = iptc.CounterReader("filter").read()["INPUT"][0].packets
        while float(answer_of('iptables_rule_packets_total{comment="probe"}')[0]["value"][1]) != counted:
            pass
        check_dashboard()
    finally:
        host.run("ip", "netns", "delete", there)


def answer_of(query):
    """Return the result of a query to Prometheus."""
    said = json.loads(ask(9090, f"/api/v1/query?query={urllib.parse.quote(query)}"))
    assert said["status"] == "success", said
    return said["data"]["result"]


def check_dashboard():
    """Check that every panel has data."""
    board = json.loads((PACKAGING / "grafana/iptables.json").read_text())
    names = [one["name"] for one in board["templating"]["list"]]
    for panel in board["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "1m")
            for name in names:
                query = query.replace(f'"${name}"', '".*"')
            assert "$" not in query
            # no chain has the policy DROP here
            assert answer_of(query) or 'policy="DROP"' in query, query


def test_node_exporter_takes_the_file(awkward, host, serve, tmp_path):
    host.run("ip", "link", "set", "lo", "up")
    environment = {**os.environ, "PYTHONPATH": str(PACKAGING.parent)}
    command = [sys.executable, "-m", "iptc", "exporter", "--once", "--textfile", str(tmp_path / "iptables.prom")]
    subprocess.run(command, env=environment, check=True)
    words = ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={tmp_path}"]
    serve(program("prometheus-node-exporter"), *words, "--web.listen-address=127.0.0.1:9100")
    text = ask(9100, "/metrics")
    assert "\nnode_textfile_scrape_error 0\n" in text
    assert text.count("\niptables_rule_packets_total{") == len(AWKWARD) + 3


def test_line_protocol_is_parsed(awkward, counters):
    parse = module("line_protocol_parser").parse_line
    points = [parse(line) for line in counters("--format", "influx").split("\n")[:-1]]
    assert len(points) == len(AWKWARD) + 3
    assert {point["measurement"] for point in points} == {"iptables"}
    assert all(set(point["fields"]) == {"pkts", "bytes"} and point["time"] for point in points)
    assert len({json.dumps(point["tags"], sort_keys=True) for point in points}) == len(points)
    ids = [point["tags"]["ruleid"] for point in points]
    assert 'a "quoted" \\ one' in ids and ids.count("twice") == 2


def test_grafana_takes_the_dashboard():
    dashboards = module("grafana_foundation_sdk.models.dashboard")
    module("grafana_foundation_sdk.cog.plugins").register_default_plugins()
    encoder = module("grafana_foundation_sdk.cog.encoder").JSONEncoder
    board = json.loads((PACKAGING / "grafana/iptables.json").read_text())
    read = json.loads(json.dumps(dashboards.Dashboard.from_json(board), cls=encoder))
    assert list(lost(board, read)) == []


def lost(given, read, path=""):
    """Return the parts of *given* that Grafana's schema does not have, or has with other values."""
    if isinstance(given, dict):
        for key, value in given.items():
            if isinstance(read, dict) and key in read:
                yield from lost(value, read[key], f"{path}/{key}")
            else:
                yield f"{path}/{key}"
    elif isinstance(given, list):
        if not isinstance(read, list) or len(given) != len(read):
            yield path
        else:
            for number, (one, other) in enumerate(zip(given, read)):
                yield from lost(one, other, f"{path}/{number}")
    elif given != read:
        yield path


def test_the_unit_is_hardened():
    unit = PACKAGING / "systemd/iptc-exporter.service"
    libraries = {"LD_LIBRARY_PATH": f"{AGENTS}/usr/lib/x86_64-linux-gnu/systemd"} if AGENTS else {}
    command = [program("systemd-analyze"), "security", "--offline=true", "--no-pager", "--threshold=20", str(unit)]
    done = subprocess.run(command, env={**os.environ, **libraries}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
