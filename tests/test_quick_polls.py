"""Polls of the Sampler that only read counters, by eBPF, find the same as those that look at everything."""

import pickle

import pytest
from test_sampler import names, send
from untried import no_ebpf, untried

import iptc
from iptc.monitoring.quick import QuickPoller, Span

REFUSED = no_ebpf()
SOURCE = "auto" if REFUSED else "bpf"


@pytest.fixture
def host(host):
    untried(REFUSED)
    host.run("ip", "link", "set", "lo", "up")
    return host


@pytest.fixture
def polls(host):
    """A function that makes two pollers, one of which polls quickly, and returns one that polls with both and compares
    them. It returns the sample of the first, and whether that was a quick poll."""
    opened = []

    def make(*arguments, **options):
        fast = iptc.Sampler(1, *arguments, source=SOURCE, **options).poller()
        slow = iptc.Sampler(1, *arguments, **options).poller()
        opened.extend([fast, slow])

        def both():
            one = fast.quick()
            quick, other = one is not None, slow.poll()
            one = fast.poll() if one is None else one
            assert told(one) == told(other)
            return one, quick

        return both

    yield make
    for poller in opened:
        poller.close()


def told(sample):
    return (
        [(table.table, table.ipv6, list(table.delta), list(table.delta.flags)) for table in sample],
        [rule.text for table in sample for rule, _, _ in table],
        names(sample),
        [str(error) for error in sample.errors],
        sample.polls,
    )


def settled(both):
    """Poll until a poll is a quick one, and return its sample."""
    samples = [both() for _ in range(1 if REFUSED else 3)]
    assert REFUSED or samples[-1][1]
    return samples[-1][0]


def test_quick_polls_count_the_same(host, polls):
    host.iptables("-A OUTPUT -p udp --dport 9")
    host.iptables("-A OUTPUT -p udp --dport 10")
    both = polls(["filter"])
    settled(both)
    for count in (3, 0, 5):
        send(count)
        sample, quick = both()
        assert quick or REFUSED
        assert list(sample["filter"].delta) == [(count, 100 * count), (0, 0)]
        assert sample.seconds > 0 and sample.time[0] > 0 and sample.events == () and sample.errors == ()
        assert sample["filter"].source == ("socket" if REFUSED else "bpf")


def test_whatever_changes_is_noticed_at_once(host, polls):
    host.iptables("-A OUTPUT -p udp --dport 9")
    both = polls(["filter"])
    settled(both)
    send(2)
    host.iptables("-I OUTPUT -p tcp")
    sample, quick = both()
    assert not quick and names(sample) == ["IPv4 filter OUTPUT appeared: -p tcp"]
    settled(both)
    send(2)
    both()
    host.iptables("-Z OUTPUT")
    send(1)
    sample, _ = both()
    assert names(sample) == ["IPv4 filter OUTPUT reset: -p udp -m udp --dport 9"]
    settled(both)
    host.iptables("-F OUTPUT")
    sample, quick = both()
    assert not quick and len(sample.events) == 2 and len(sample["filter"]) == 0


def test_a_table_that_comes_is_noticed_at_once(host, polls):
    """The other family has no rules at first."""
    host.iptables("-A OUTPUT -p udp --dport 9")
    both = polls(["filter"])
    settled(both)
    host.iptables("-A OUTPUT -p udp --dport 9", ipv6=True)
    sample, quick = both()
    assert not quick and len(sample["filter", True]) == 1
    settled(both)


@pytest.mark.one_backend("nft")
def test_tables_in_use_are_noticed_at_once(host, polls):
    host.iptables("-t mangle -A INPUT -p tcp")
    both = polls()
    settled(both)
    host.iptables("-t raw -A OUTPUT -p tcp", ipv6=True)
    sample, quick = both()
    assert not quick and names(sample) == ["IPv6 table raw back"]
    settled(both)
    host.run("nft", "delete", "table", "ip", "mangle")
    sample, quick = both()
    assert not quick and names(sample) == ["IPv4 table mangle gone"]


@pytest.mark.one_backend("legacy")
def test_nothing_tells_that_a_legacy_table_comes(host, polls):
    host.iptables("-t mangle -A INPUT -p tcp")
    both = polls()
    for _ in range(3):
        assert not both()[1]


def test_a_namespace_with_a_name_is_looked_at_each_time(host, polls):
    host.iptables("-A INPUT -p tcp")
    both = polls(["filter"], netns="/proc/thread-self/ns/net")
    for _ in range(3):
        assert not both()[1]


def test_a_sample_is_pickled_with_its_deltas(host, polls):
    host.iptables("-A OUTPUT -p udp --dport 9")
    both = polls(["filter"], ipv6=False)
    settled(both)
    send(2)
    sample, _ = both()
    again = pickle.loads(pickle.dumps(sample))
    assert list(again["filter"].delta) == [(2, 200)] and again.time == sample.time and again.polls == 1


class Known:
    """A reader whose quick readings are given, and that calls a function meanwhile."""

    def __init__(self, snapshots, meanwhile=list):
        self._scan, self.snapshots, self.meanwhile = self, iter(snapshots), meanwhile

    def quick(self, reader, kind):
        self.meanwhile()
        return next(self.snapshots)


def test_a_poll_from_within_a_poll(host):
    """As by the handler of a signal: the inner one returns the sample, and the outer one nothing."""
    host.iptables("-A OUTPUT -p udp --dport 9")
    with iptc.CounterReader("filter") as reader:
        snapshots = [reader.read() for _ in range(4)]
    inner = []

    class Poller(QuickPoller):
        def __init__(self):
            self._makes(iptc.Sample, iptc.Snapshot)
            self._last[False, "filter"] = snapshots[0]
            self._stays([((False, "filter"), Known([snapshots[1], snapshots[2], None], self.once), ("bpf", ""))])

        def once(self):
            if not inner:
                inner.append(None)
                inner[0] = self.quick()

    poller = Poller()
    assert poller.quick() is None and inner[0]["filter"].snapshot is snapshots[1]
    assert poller._last == {(False, "filter"): snapshots[1]}
    assert poller.quick() is None and poller._last == {(False, "filter"): snapshots[1]}
    # once a reader cannot read quickly, everything is looked at
    assert poller.quick() is None
    assert Span(snapshots[0], None).delta is None
