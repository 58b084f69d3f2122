"""What a scrape contains: which series, with which labels and numbers."""

import os
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

import iptc
from iptc.monitoring import labels
from iptc.monitoring.exposition import Scraper
from iptc.monitoring.labels import Naming
from iptc.monitoring.selection import Selection
from iptc.monitoring.sources import Sources

RULES = """*filter
:INPUT DROP [1:2]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [3:4]
:web - [0:0]
[5:500] -A INPUT -p tcp -m comment --comment "to the web" -j web
[7:700] -A web -p tcp -m tcp --dport 80 -j ACCEPT
[9:900] -A web -p udp
[11:1100] -A web -p udp
COMMIT
"""


def scraper(ipv6=False, sources=None, **options):
    """A `Scraper` of the tables in use."""
    return Scraper(sources or Sources(Selection(families=(ipv6,))), **options)


def samples(scrape, name):
    """{labels without those of the table: value} of the samples of one metric, read by prometheus_client."""
    found = {}
    for family in read_text(scrape.text().decode()):
        for sample in family.samples:
            if sample.name == name:
                key = tuple(sorted(item for item in sample.labels.items() if item[0] not in ("ip_version", "table")))
                assert key not in found
                found[key] = sample.value
    return found


def by(scrape, name, *wanted):
    """{values of the labels *wanted*: value} of one metric."""
    return {tuple(dict(key).get(label, "") for label in wanted): n for key, n in samples(scrape, name).items()}


def test_a_scrape_has_all_counters(host, ipv6):
    iptc.restore(RULES, ipv6, counters=True)
    scrape = scraper(ipv6).scrape()
    text = '-p tcp -m comment --comment "to the web" -j web'
    assert by(scrape, "iptables_rule_packets_total", "chain", "rule", "comment", "target", "duplicate") == {
        ("INPUT", text, "to the web", "web", ""): 5,
        ("web", "-p tcp -m tcp --dport 80 -j ACCEPT", "", "ACCEPT", ""): 7,
        ("web", "-p udp", "", "", ""): 9,
        ("web", "-p udp", "", "", "2"): 11,
    }
    assert by(scrape, "iptables_rule_bytes_total", "chain", "duplicate")["web", "2"] == 1100
    sums = {("INPUT",): 5, ("FORWARD",): 0, ("OUTPUT",): 0, ("web",): 27}
    assert by(scrape, "iptables_chain_rules_packets_total", "chain") == sums
    assert by(scrape, "iptables_chain_rules_bytes_total", "chain")["web",] == 2700
    policies = {("INPUT", "DROP"): 1, ("FORWARD", "ACCEPT"): 0, ("OUTPUT", "ACCEPT"): 3}
    assert by(scrape, "iptables_chain_packets_total", "chain", "policy") == policies
    assert by(scrape, "iptables_chain_bytes_total", "chain")["OUTPUT",] == 4
    assert samples(scrape, "iptables_rules") == {(): 4} and samples(scrape, "iptables_chains") == {(): 4}
    assert samples(scrape, "iptables_scrape_success") == {(): 1} and scrape.complete
    assert by(scrape, "iptables_backend_info", "backend") == {(host.backend,): 1}
    (sample,) = [f for f in read_text(scrape.text().decode()) if f.name == "iptables_rules"][0].samples
    assert sample.labels == {"ip_version": "6" if ipv6 else "4", "table": "filter"}


def test_both_formats_say_the_same(host):
    iptc.restore(RULES, counters=True)
    scrape = scraper().scrape()
    kinds = {}
    for read, text in (
        (read_text, scrape.text().decode()),
        (read_openmetrics, scrape.text(True).decode() + "# EOF\n"),
    ):
        families = list(read(text))
        assert all(family.documentation for family in families)
        kinds[read] = [(family.name, family.type, family.samples) for family in families]
    assert kinds[read_text] == kinds[read_openmetrics]


AWKWARD = [
    'a "quoted" \\ one\\',
    "two\nlines",
    "bell \x07, escape \x1b[31m and DEL \x7f",
    "no text: \udcff\udc80",
    "a right-to-left \u202e, and a line separator \u2028",
    "{}=,#",
    "\\n",
]


def test_comments_with_whatever_bytes(host, ipv6):
    table = iptc.Table6("filter") if ipv6 else iptc.Table("filter")
    chain = iptc.Chain(table, "INPUT")
    for comment in AWKWARD:
        rule = iptc.Rule6() if ipv6 else iptc.Rule()
        rule.create_match("comment").comment = comment
        rule.create_target("ACCEPT")
        chain.append_rule(rule)
    scrape = scraper(ipv6).scrape()
    seen = by(scrape, "iptables_rule_packets_total", "comment")
    assert sorted(seen) == sorted((comment.replace("\udcff\udc80", "\\xff\\x80"),) for comment in AWKWARD)
    list(read_openmetrics(scrape.text(True).decode() + "# EOF\n"))


def test_a_rule_keeps_its_series_wherever_it_stands(host):
    iptc.restore(RULES, counters=True)
    scraped = scraper()
    before = samples(scraped.scrape(), "iptables_rule_packets_total")
    host.iptables("-I web -p icmp")
    after = samples(scraped.scrape(), "iptables_rule_packets_total")
    assert before.items() < after.items() and len(after) == len(before) + 1
    host.iptables("-D web -p icmp")
    host.iptables("-D web -p tcp --dport 80 -j ACCEPT")
    last = samples(scraped.scrape(), "iptables_rule_packets_total")
    assert last.items() < before.items() and len(last) == len(before) - 1


def test_a_rule_is_looked_up_once(host, monkeypatch):
    iptc.restore(RULES)
    asked = []
    real = labels.words_of
    monkeypatch.setattr(labels, "words_of", lambda *words: asked.append(words) or real(*words))
    scraped = scraper()
    scraped.scrape()
    # two of the four say the same
    assert len(asked) == 3
    scraped.scrape()
    assert len(asked) == 3
    host.iptables("-I web -p icmp")
    scraped.scrape()
    assert len(asked) == 4


@pytest.mark.parametrize(
    "chosen, chains, texts",
    [
        ({"chains": ["w*"]}, ["web"], 3),
        ({"comments": ["*web"]}, ["FORWARD", "INPUT", "OUTPUT", "web"], 1),
        ({"rules": ["--dport (80|443)"]}, ["FORWARD", "INPUT", "OUTPUT", "web"], 1),
        ({"rules": ["udp$"], "chains": ["INPUT", "OUTPUT"]}, ["INPUT", "OUTPUT"], 0),
        ({"tables": ["nat"]}, [], 0),
    ],
)
def test_only_selected_rules_and_chains_have_series(host, chosen, chains, texts):
    iptc.restore(RULES)
    iptc.restore("*nat\nCOMMIT\n")
    scrape = scraper(sources=Sources(Selection(**{"tables": ["filter"], **chosen}))).scrape()
    assert len(samples(scrape, "iptables_rule_packets_total")) == texts
    if chains:
        assert sorted(chain for (chain,) in by(scrape, "iptables_chain_rules_packets_total", "chain")) == chains


def test_a_wrong_regular_expression_is_refused():
    with pytest.raises(iptc.ParameterError, match="regular expression"):
        Selection(rules=["("])


def test_without_the_text_of_rules_they_are_summed(host):
    iptc.restore(RULES, counters=True)
    scrape = scraper(naming=Naming(rule=False)).scrape()
    assert by(scrape, "iptables_rule_packets_total", "chain", "comment", "target", "rule", "duplicate") == {
        ("INPUT", "to the web", "web", "", ""): 5,
        ("web", "", "ACCEPT", "", ""): 7,
        ("web", "", "", "", ""): 20,
    }


def test_the_names_of_retailnext(host):
    iptc.restore(RULES, counters=True)
    scrape = scraper(naming=Naming(details=False), retailnext=True).scrape()
    assert by(scrape, "iptables_default_packets_total", "chain", "policy")["OUTPUT", "ACCEPT"] == 3
    assert by(scrape, "iptables_default_bytes_total", "chain", "policy")["OUTPUT", "ACCEPT"] == 4
    assert {frozenset(dict(key)) for key in samples(scrape, "iptables_rule_bytes_total")} == {
        frozenset({"chain", "rule"}),
        frozenset({"chain", "rule", "duplicate"}),
    }


def test_no_more_series_than_allowed(host, caplog):
    iptc.restore(RULES, counters=True)
    scraped = scraper(limit=2)
    for _ in range(2):
        scrape = scraped.scrape()
        assert len(samples(scrape, "iptables_rule_packets_total")) == 2
        assert len(samples(scrape, "iptables_chain_rules_packets_total")) == 2
        assert samples(scrape, "iptables_series_left_out") == {(): 4}
    # the error is reported once
    assert [record.message for record in caplog.records] == ["4 rules or chains have no series: there are more than 2"]


class Grows:
    """Scrapes again and again, and checks that no total becomes smaller."""

    def __init__(self, **options):
        self.scraped = scraper(monotonic=True, **options)
        self.last = {}

    def __call__(self, name="iptables_rule_packets_total", *labels):
        scrape = self.scraped.scrape()
        for metric in ("rule_packets", "rule_bytes", "chain_rules_packets", "chain_packets", "chain_bytes"):
            for key, value in samples(scrape, f"iptables_{metric}_total").items():
                assert value >= self.last.get((metric, key), 0), (metric, key)
                self.last[metric, key] = value
        return by(scrape, name, *labels)


def test_totals_that_never_go_back(host):
    iptc.restore(RULES, counters=True)
    total = Grows()
    rules = "iptables_rule_packets_total", "chain", "target", "duplicate"
    start = {("INPUT", "web", ""): 5, ("web", "ACCEPT", ""): 7, ("web", "", ""): 9, ("web", "", "2"): 11}
    assert total(*rules) == start
    # set back
    host.iptables("-Z")
    assert total(*rules) == start
    # reloaded with other counters than they had
    iptc.restore(RULES.replace("[7:700]", "[2:200]"), counters=True)
    assert total(*rules) == {**{key: 2 * n for key, n in start.items()}, ("web", "ACCEPT", ""): 9}
    # the rules were gone for a while, and came back with their old counters: nothing was counted
    iptc.restore("*filter\n:web - [0:0]\nCOMMIT\n")
    assert total(*rules) == {}
    iptc.restore(RULES.replace("[7:700]", "[3:300]"), counters=True)
    assert total(*rules) == {**{key: 2 * n for key, n in start.items()}, ("web", "ACCEPT", ""): 10}
    # the sum of a chain does not fall when rules are deleted
    before = total("iptables_chain_rules_packets_total", "chain")["web",]
    host.iptables("-F web")
    assert total("iptables_chain_rules_packets_total", "chain")["web",] == before


def test_totals_of_policies_never_go_back(host):
    iptc.restore(RULES, counters=True)
    total = Grows()
    assert total("iptables_chain_packets_total", "chain", "policy")["OUTPUT", "ACCEPT"] == 3
    iptc.restore(RULES.replace("OUTPUT ACCEPT [3:4]", "OUTPUT ACCEPT [1:1]"), counters=True)
    assert total("iptables_chain_packets_total", "chain", "policy")["OUTPUT", "ACCEPT"] == 4


def in_namespace(name, *command):
    subprocess.run(["ip", "netns", "exec", name, *command], check=True)


def add_namespace(name):
    subprocess.run(["ip", "netns", "add", name], check=True)


def delete_namespace(name):
    subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def spaces():
    """Two names for network namespaces. The namespaces are deleted at the end."""
    names = [f"iptc{os.getpid()}{letter}" for letter in "ab"]
    yield names
    for name in names:
        if os.path.exists(f"/run/netns/{name}"):
            delete_namespace(name)


def test_namespaces_come_and_go(host, spaces, caplog):
    one, other = spaces
    for name in spaces:
        add_namespace(name)
        in_namespace(name, host.tool(), "-A", "INPUT", "-p", "tcp")
    scraped = scraper(sources=Sources(Selection(), netns=spaces))
    assert by(scraped.scrape(), "iptables_rule_packets_total", "netns", "rule") == dict.fromkeys(
        [(one, "-p tcp"), (other, "-p tcp")], 0
    )
    delete_namespace(other)
    scrape = scraped.scrape()
    assert by(scrape, "iptables_rule_packets_total", "netns") == {(one,): 0}
    assert by(scrape, "iptables_read_success", "netns") == {(one,): 1, (other,): 0}
    assert samples(scrape, "iptables_scrape_success") == {(): 0} and not scrape.complete
    # a new namespace has the old name, and is another namespace
    add_namespace(other)
    in_namespace(other, host.tool(), "-A", "INPUT", "-p", "udp")
    scrape = scraped.scrape()
    assert by(scrape, "iptables_rule_packets_total", "netns", "rule") == {(one, "-p tcp"): 0, (other, "-p udp"): 0}
    assert scrape.complete
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "cannot be read" in said[0] and other in said[0] and "can be read again" in said[1]


def test_all_namespaces_that_have_a_name(host, spaces):
    one, other = spaces
    add_namespace(one)
    in_namespace(one, host.tool(), "-A", "INPUT", "-p", "tcp")
    scraped = scraper(sources=Sources(Selection(), all_named=True))
    assert (one, "-p tcp") in by(scraped.scrape(), "iptables_rule_packets_total", "netns", "rule")
    add_namespace(other)
    in_namespace(other, host.tool(), "-A", "INPUT", "-p", "udp")
    assert (other, "-p udp") in by(scraped.scrape(), "iptables_rule_packets_total", "netns", "rule")
    delete_namespace(one)
    assert one not in {name for (name,) in by(scraped.scrape(), "iptables_read_success", "netns")}


def test_tables_come(host):
    scraped = scraper()
    iptc.restore(RULES)
    assert set(by(scraped.scrape(), "iptables_rules")) == {()}
    host.iptables("-t nat -A OUTPUT -p tcp")
    tables = [family for family in read_text(scraped.scrape().text().decode()) if family.name == "iptables_rules"]
    assert [sample.labels["table"] for sample in tables[0].samples] in (["filter", "nat"], ["nat", "filter"])


@pytest.mark.one_backend("legacy")
def test_whoever_polls_may_be_there_before_the_firewall(host, monkeypatch):
    monkeypatch.delenv("IPTC_BACKEND")
    scraped = scraper()
    for tool, other in ("legacy", "nft"), ("nft", "legacy"), ("legacy", "nft"):
        assert by(scraped.scrape(), "iptables_rule_packets_total", "rule") == {}
        subprocess.run([f"iptables-{tool}", "-A", "INPUT", "-p", "tcp"], check=True)
        scrape = scraped.scrape()
        assert by(scrape, "iptables_rule_packets_total", "rule") == {("-p tcp",): 0}
        assert by(scrape, "iptables_backend_info", "backend") == {(tool,): 1}
        subprocess.run([f"iptables-{tool}", "-F"], check=True)


@pytest.mark.one_backend("nft")
def test_rules_that_only_nft_can_read(host):
    host.iptables("-A INPUT -p tcp")
    host.run("nft", "add rule ip filter INPUT tcp dport { 1, 2 } counter packets 3 bytes 4 accept")
    (text,) = [
        text
        for text, target in by(scraper().scrape(), "iptables_rule_packets_total", "rule", "target")
        if target == "nft"
    ]
    assert "lookup" in text


def test_the_longest_rule_has_a_label(host):
    rule = iptc.Rule()
    for number in range(100):
        rule.create_match("comment").comment = '"' * 255
    rule.create_target("ACCEPT")
    iptc.Chain(iptc.Table("filter"), "INPUT").append_rule(rule)
    (text,) = [text for (text,) in by(scraper().scrape(), "iptables_rule_packets_total", "rule")]
    assert len(text) > 50_000 and text == str(rule)


@pytest.mark.long
def test_two_hundred_thousand_rules_are_scraped(host):
    lines = [f"[{n}:{n}] -A c{n % 1000} -s 10.{n >> 16}.{n >> 8 & 255}.{n & 255} -j RETURN" for n in range(200_000)]
    chains = [f":c{n} - [0:0]" for n in range(1000)]
    iptc.restore("\n".join(["*filter", *chains, *lines, "COMMIT", ""]), counters=True)
    scraped = scraper(limit=200_000)
    text = scraped.scrape().text().decode()
    assert text.count("\niptables_rule_packets_total{") == 200_000
    assert sum(by(scraped.scrape(), "iptables_chain_rules_packets_total", "chain").values()) == sum(range(200_000))
    assert samples(scraper().scrape(), "iptables_series_left_out") == {(): 100_000}
