"""What is shipped beside the package: the dashboard, the units and the plugin of collectd fit what the package does."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import pytest

import iptc
from iptc.cli import dispatch
from iptc.monitoring.exposition import Scraper
from iptc.monitoring.selection import Selection
from iptc.monitoring.sources import Sources

PACKAGING = pathlib.Path(iptc.__file__).parent.parent / "packaging"


def metrics_of(text):
    """The metrics that a query names."""
    return re.findall(r"\b(?:iptables|process)_\w+", text)


def test_the_dashboard_asks_for_what_there_is(host):
    host.iptables("-A INPUT -p tcp -j DROP")
    text = Scraper(Sources(Selection())).scrape().text().decode()
    there = set(re.findall(r"^(\w+)", text, re.MULTILINE)) | {"process_cpu_seconds_total"}
    labels = {*re.findall(r'[{,](\w+)="', text), "instance", "policy", "duplicate"}
    board = json.loads((PACKAGING / "grafana/iptables.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    assert len(queries) > 10
    for query in queries:
        assert metrics_of(query) and set(metrics_of(query)) <= there, query
        asked = re.findall(r'(\w+)(?:=~|=)"', query) + re.findall(r"label_values\(\w+, (\w+)\)", query)
        assert set(asked) <= labels, query
    # what a page of panels needs, and no two on the same place
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    places = [
        (x, y)
        for panel in board["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(places)) == len(places) and max(x for x, _ in places) == 23


@pytest.mark.one_backend("legacy")
def test_the_unit_starts_the_command(host):
    service = (PACKAGING / "systemd/iptc-exporter.service").read_text()
    (words,) = re.findall(r"^ExecStart=/usr/bin/env iptc (.*) \$ARGS$", service, re.MULTILINE)
    (listens,) = re.findall(r"^ListenStream=(.*)$", (PACKAGING / "systemd/iptc-exporter.socket").read_text(), re.M)
    options = dispatch.parser_of(words.split()).parse_args(words.split())
    assert options.address == listens
    for key in "AmbientCapabilities", "CapabilityBoundingSet":
        assert re.findall(rf"^{key}=(.*)$", service, re.MULTILINE) == ["CAP_NET_ADMIN CAP_NET_RAW"]


@pytest.mark.needs("ebpf")
@pytest.mark.needs("other users")
@pytest.mark.one_backend("legacy", "nft")
def test_the_rights_of_the_unit_and_of_its_addition_suffice_for_ebpf(host):
    """What docs/prometheus.md adds to the unit is all that another user needs."""
    text = (PACKAGING.parent / "docs/prometheus.md").read_text()
    (addition,) = re.findall(r"```ini\n\[Service\]\n(.*?)```", text, re.DOTALL)
    assert "SystemCallFilter=bpf\n" in addition
    service = (PACKAGING / "systemd/iptc-exporter.service").read_text()
    for key in "AmbientCapabilities", "CapabilityBoundingSet":
        names = " ".join(re.findall(rf"^{key}=(.*)$", service + addition, re.MULTILINE)).split()
        rights = ",".join("+" + name.removeprefix("CAP_").lower() for name in names)
        who = ["setpriv", "--reuid=65534", "--regid=65534", "--groups=0", f"--inh-caps=-all,{rights}"]
        command = [*who, f"--ambient-caps={rights}", f"--bounding-set=-all,{rights}", "--no-new-privs"]
        command += [sys.executable, "-m", "iptc", "exporter", "--once", "-4", "-t", "filter", "--source", "bpf"]
        environment = {**os.environ, "PYTHONPATH": str(PACKAGING.parent), "IPTC_BACKEND": host.backend}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert 'iptables_source_info{ip_version="4",table="filter",source="bpf"} 1\n' in done.stdout


class Collectd(types.ModuleType):
    """What collectd gives to its plugins in Python."""

    def __init__(self):
        super().__init__("collectd")
        self.given = {}
        self.callbacks = {}
        outer = self

        class Values:
            def __init__(self, type, plugin, type_instance):
                self.key = plugin, type, type_instance

            def dispatch(self, values):
                (outer.given[(*self.key, self.plugin_instance)],) = values

        self.Values = Values

    def register_config(self, callback):
        self.callbacks["config"] = callback

    def register_read(self, callback):
        self.callbacks["read"] = callback


def option(key, *values, children=()):
    return types.SimpleNamespace(key=key, values=values, children=children)


def test_the_plugin_of_collectd(host, monkeypatch):
    rules = '[5:500] -A INPUT -p tcp -m comment --comment "a/b" -j ACCEPT\n[6:600] -A INPUT -p udp\n'
    rules += '[7:700] -A INPUT -p udp -m comment --comment "a/b"\n'
    for ipv6 in False, True:
        iptc.restore(f"*filter\n{rules}COMMIT\n", ipv6, counters=True)
    fake = Collectd()
    monkeypatch.setitem(sys.modules, "collectd", fake)
    spec = importlib.util.spec_from_file_location("iptc_collectd", PACKAGING / "collectd/iptc_collectd.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    children = [option("Table", "filter"), option("IPv6", True), option("Source", "auto")]
    fake.callbacks["config"](option("Module", children=children))
    for _ in range(2):
        fake.callbacks["read"]()
        assert fake.given == {
            (plugin, kind, "a_b", "filter-INPUT"): value
            for plugin in ("iptables", "ip6tables")
            for kind, value in (("ipt_packets", 12), ("ipt_bytes", 1200))
        }
    with pytest.raises(ValueError, match="no option Tables"):
        fake.callbacks["config"](option("Module", children=[option("Tables", "filter")]))
