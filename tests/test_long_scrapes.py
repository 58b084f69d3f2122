"""A long run in a short time: a million scrapes and ten thousand changes, compared with a model of each counter."""

import gc
import os
import random
import re
import socket

import pytest

import iptc
from iptc.monitoring.exposition import Scraper
from iptc.monitoring.selection import Selection
from iptc.monitoring.sources import Sources

PORTS = range(4001, 4017)
NUMBER = re.compile(rb'^iptables_rule_packets_total\{.*comment="r(\d+)".*\} (\d+)$', re.MULTILINE)


class Model:
    """The expected chain, and what each rule has counted: in the kernel, and since the beginning."""

    def __init__(self, dice):
        self.dice = dice
        self.table = iptc.Table("mangle")
        self.chain = iptc.Chain(self.table, "OUTPUT")
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.kernel = {}
        self.total = dict.fromkeys(PORTS, 0)
        for port in PORTS[:8]:
            self.add(port)

    def rule(self, port):
        rule = iptc.Rule()
        rule.protocol = "udp"
        rule.create_match("udp").dport = str(port)
        rule.create_match("comment").comment = f"r{port}"
        # the next rule is tried in any case
        rule.create_target("MARK").set_mark = "0"
        return rule

    def place(self):
        return self.dice.randrange(len(self.kernel) + 1)

    def add(self, port):
        self.chain.insert_rule(self.rule(port), self.place())
        self.kernel[port] = 0

    def send(self):
        """Send one packet."""
        port = self.dice.choice(PORTS)
        self.socket.sendto(b"x", ("127.0.0.1", port))
        if port in self.kernel:
            self.kernel[port] += 1
            self.total[port] += 1

    def change(self):
        """Change the ruleset."""
        self.table.refresh()
        absent = [port for port in PORTS if port not in self.kernel]
        choice = self.dice.random()
        if choice < 0.05:
            if choice < 0.025:
                self.chain.zero_counters()
            else:
                lines = [f"-A OUTPUT {self.rule(port)}" for port in self.kernel]
                iptc.restore("\n".join(["*mangle", *lines, "COMMIT", ""]))
            self.kernel = dict.fromkeys(self.kernel, 0)
        elif choice < 0.35 and absent:
            self.add(self.dice.choice(absent))
        elif choice < 0.6 and len(self.kernel) > 2:
            port = self.dice.choice(list(self.kernel))
            self.chain.delete_rule(self.rule(port))
            del self.kernel[port]
        else:
            # the rule moves with its counters
            port = self.dice.choice(list(self.kernel))
            moved = self.rule(port)
            moved.counters = self.kernel[port], 29 * self.kernel[port]
            with self.table.transaction():
                self.chain.delete_rule(self.rule(port))
                self.chain.insert_rule(moved, self.dice.randrange(len(self.kernel)))


def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(model, scrapes, changes):
    """Run so many scrapes with either kind of scraper, and so many changes between them."""
    plain, growing = (Scraper(Sources(Selection(["mangle"])), monotonic=monotonic) for monotonic in (False, True))
    each = scrapes // changes // 2
    sizes = []
    try:
        for number in range(changes):
            if number % (changes // 10) == 0:
                sizes.append(resident())
            model.change()
            for turn in range(each):
                if turn and turn % 5 == 0:
                    model.send()
                for scraper, wanted in (plain, model.kernel), (growing, model.total):
                    text = scraper.scrape().text()
                    found = {int(port): int(packets) for port, packets in NUMBER.findall(text)}
                    assert found == {port: wanted[port] for port in model.kernel}
    finally:
        plain.close()
        growing.close()
        model.socket.close()
    return sizes


@pytest.fixture
def model(host):
    host.run("ip", "link", "set", "lo", "up")
    return Model(random.Random(14))


def test_scrapes_and_changes_agree_with_the_model(model):
    run(model, 1000, 50)


@pytest.mark.long
def test_a_million_scrapes_and_ten_thousand_changes(model):
    sizes = run(model, 1_000_000, 10_000)
    # the first tenth loads modules and fills caches
    assert max(sizes[2:]) - sizes[1] < 2 << 20, sizes
