"""The metrics of a scrape: those of all watched tables, in the text formats of Prometheus and OpenMetrics."""

from __future__ import annotations

import logging
import time

from .. import __version__
from ..errors import IPTCError
from .labels import Dictionary, Naming, chain_series, rule_series, written
from .monotonic import Totals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .._counts import Counts
    from .._types import Pair
    from .selection import Selection
    from .series import Series
    from .sources import Sources, TableReading

logger = logging.getLogger("iptc")

MOST_RULES = 100_000
"""How many rules have series of their own by default."""

_PACKETS, _BYTES = 0, 1
_MOST_TABLES = 1000
"""How many tables that are gone are remembered, in case they come back."""


class Metric:
    """A metric: its name without `_total`, type, help text and unit, and its samples as pieces of text."""

    def __init__(self, name: str, kind: str, text: str, unit: str = "") -> None:
        self.kind = kind
        self.text = text
        self.unit = unit
        self.name = name
        self.samples: list[bytes] = []

    @property
    def sample_name(self) -> bytes:
        """The name at the beginning of a sample."""
        return f"{self.name}_total".encode() if self.kind == "counter" else self.name.encode()

    def add(self, labels: bytes, value: float) -> None:
        """Add one sample."""
        braced = b"{%s}" % labels if labels else b""
        number = str(value) if isinstance(value, int) else repr(float(value))
        self.samples.append(b"%s%s %s\n" % (self.sample_name, braced, number.encode()))

    def parts(self, openmetrics: bool) -> Iterator[bytes]:
        """Yield the text of the metric; nothing if it has no sample."""
        if not any(self.samples):
            return
        # OpenMetrics declares a counter without the suffix of its samples, the Prometheus format with it
        name = self.name if openmetrics else self.sample_name.decode()
        yield f"# HELP {name} {self.text}\n# TYPE {name} {self.kind}\n".encode()
        if openmetrics and self.unit:
            yield f"# UNIT {name} {self.unit}\n".encode()
        yield from self.samples


class Scrape:
    """The metrics of one reading of all tables. `complete` is true if all tables could be read."""

    def __init__(self, families: list[Metric], complete: bool) -> None:
        self._families = families
        self.complete = complete

    def text(self, openmetrics: bool = False, tail: bytes = b"") -> bytes:
        """Return the metrics and then *tail* as text. The caller adds the line that ends OpenMetrics."""
        return b"".join([*(part for family in self._families for part in family.parts(openmetrics)), tail])


class Scraper:
    """Reads the tables of *sources*, and makes a `Scrape` of each reading.

    *monotonic*: totals that never go back, whatever happens to the kernel's counters. *limit*: how many rules, and how
    many chains, have series. *retailnext*: use the names that retailnext's exporter has for the counters of policies.
    """

    def __init__(
        self,
        sources: Sources,
        naming: Naming | None = None,
        monotonic: bool = False,
        limit: int = MOST_RULES,
        retailnext: bool = False,
    ) -> None:
        self._sources = sources
        self._naming = naming or Naming()
        self._monotonic = monotonic
        self._limit = limit
        self._policy = "iptables_default" if retailnext else "iptables_chain"
        self._tables: dict[tuple[str | None, bool, str | None], _ScrapedTable] = {}
        self._troubles: dict[tuple[str | None, bool, str | None], str] = {}
        self._reasons: dict[tuple[str | None, bool, str | None], str] = {}
        self._said_limit = False

    def close(self) -> None:
        """Close all readers."""
        self._sources.close()

    def scrape(self) -> Scrape:
        """Read all tables once, and return the metrics."""
        started = time.perf_counter()
        metrics = _Metrics(self._policy)
        room = [self._limit, self._limit]
        left_out = 0
        complete = True
        readings = self._sources.poll()
        for reading in readings:
            if reading.error is None:
                left_out += self._add(metrics, reading, room)
            self._note(reading)
            labels = _labels_of(reading)
            metrics.read.add(labels, int(reading.error is None))
            complete = complete and reading.error is None
        self._tidy(readings)
        self._say_limit(left_out)
        metrics.left_out.add(b"", left_out)
        metrics.info.add(written([("version", __version__)]), 1)
        metrics.success.add(b"", int(complete))
        metrics.duration.add(b"", time.perf_counter() - started)
        return Scrape(metrics.all, complete)

    def _add(self, metrics: _Metrics, reading: TableReading, room: list[int]) -> int:
        """Add the counters of one table. Return how many of its rules and chains had no *room*."""
        labels = _labels_of(reading)
        table = self._tables.get(reading.key)
        if table is None:
            table = self._tables[reading.key] = _ScrapedTable(labels, self._monotonic)
        try:
            table.follow(reading, self._sources.selection, self._naming, room)
        except IPTCError as error:
            reading.error = error.with_traceback(None)
            return 0
        snapshot = reading.snapshot
        assert snapshot is not None
        rules, chains, policies = table.values(reading)
        for family, series, counts, row in (
            (metrics.rule_packets, table.rules, rules, _PACKETS),
            (metrics.rule_bytes, table.rules, rules, _BYTES),
            (metrics.chain_packets, table.chains, chains, _PACKETS),
            (metrics.chain_bytes, table.chains, chains, _BYTES),
        ):
            family.samples.append(series.write(family.sample_name, counts, row))
        for chain in self._sources.selection.chains_of(snapshot):
            if chain.policy is not None:
                of_chain = b"%s,%s" % (labels, written([("chain", chain.name), ("policy", chain.policy)]))
                metrics.policy_packets.add(of_chain, policies[chain.name][_PACKETS])
                metrics.policy_bytes.add(of_chain, policies[chain.name][_BYTES])
        metrics.rules.add(labels, len(snapshot))
        metrics.chains.add(labels, len(snapshot._layout.chains))
        metrics.backend.add(b"%s,%s" % (labels, written([("backend", reading.backend or "")])), 1)
        metrics.source.add(b"%s,%s" % (labels, written([("source", reading.source or "")])), 1)
        return table.left_out

    def _note(self, reading: TableReading) -> None:
        """Log once that something cannot be read, once that it can be read again, and why it is read by the socket."""
        if reading.error is None:
            reason = reading.source_reason or ""
            if reason != self._reasons.get(reading.key, ""):
                logger.warning("%s: source %s: %s", _name_of(*reading.key), reading.source, reason or "as asked for")
            self._reasons[reading.key] = reason
            # since a table was read, it is also known again which tables exist
            for key in (reading.key, (*reading.key[:2], None)):
                if self._troubles.pop(key, None) is not None:
                    logger.warning("%s can be read again", _name_of(*key))
        elif str(reading.error) != self._troubles.get(reading.key):
            self._troubles[reading.key] = str(reading.error)
            logger.warning("%s cannot be read: %s", _name_of(*reading.key), reading.error)

    def _tidy(self, readings: list[TableReading]) -> None:
        """Forget tables that are gone. If totals must be kept, do that only when they are many."""
        there = {reading.key for reading in readings}
        for notes in (self._troubles, self._reasons):
            for key in [key for key in notes if key not in there]:
                del notes[key]  # the table is not read any more
        gone = [key for key in self._tables if key not in there]
        for key in gone[: max(0, len(gone) - _MOST_TABLES)] if self._monotonic else gone:
            del self._tables[key]

    def _say_limit(self, left_out: int) -> None:
        if left_out and not self._said_limit:
            logger.warning("%d rules or chains have no series: there are more than %d", left_out, self._limit)
        self._said_limit = bool(left_out)


class _ScrapedTable:
    """What is kept of one table between scrapes."""

    def __init__(self, labels: bytes, monotonic: bool) -> None:
        self._labels = labels + b","
        self._dictionary = Dictionary()
        self._made_for: tuple[int, int, int] | None = None
        self._totals = Totals() if monotonic else None
        self.rules: Series
        self.chains: Series
        self.left_out = 0

    def follow(self, reading: TableReading, selection: Selection, naming: Naming, room: list[int]) -> None:
        """Make the series for the ruleset of *reading*, unless they exist."""
        if reading.reopened and self._totals is not None:
            self._totals.forget_counters()
        words = self._dictionary.words(reading)
        snapshot = reading.snapshot
        assert snapshot is not None
        if not self._fit(snapshot.generation, room):
            self.rules, rules_left = rule_series(snapshot, words, selection, naming, self._labels, room[0])
            self.chains, chains_left = chain_series(snapshot, selection, self._labels, room[1])
            self.left_out = rules_left + chains_left
            self._made_for = snapshot.generation, room[0], room[1]
        room[0] -= len(self.rules)
        room[1] -= len(self.chains)

    def _fit(self, generation: int, room: list[int]) -> bool:
        """Whether the series are those of this ruleset, made with the same *room*."""
        if self._made_for is None or self._made_for[0] != generation:
            return False
        enough = len(self.rules) <= room[0] and len(self.chains) <= room[1]
        return self._made_for[1:] == tuple(room) or not self.left_out and enough

    def values(self, reading: TableReading) -> tuple[Counts, Counts, Mapping[str, Pair]]:
        """Return the values of `rules`, of `chains`, and of the policies."""
        snapshot = reading.snapshot
        assert snapshot is not None
        if self._totals is not None:
            return self._totals.advance(snapshot, self.rules, self.chains)
        policies = {chain.name: chain.policy_counters for chain in snapshot.chains if chain.policy_counters is not None}
        return self.rules.sums(snapshot._counts), self.chains.sums(snapshot._counts), policies


class _Metrics:
    """The metrics of a scrape, in the order in which they are printed."""

    def __init__(self, policy: str) -> None:
        self.rule_packets = Metric("iptables_rule_packets", "counter", "Packets that a rule has matched.")
        self.rule_bytes = Metric("iptables_rule_bytes", "counter", "Bytes that a rule has matched.", "bytes")
        text = "that the rules of a chain have matched, all of them together."
        self.chain_packets = Metric("iptables_chain_rules_packets", "counter", f"Packets {text}")
        self.chain_bytes = Metric("iptables_chain_rules_bytes", "counter", f"Bytes {text}", "bytes")
        text = "that the policy of a builtin chain has decided."
        self.policy_packets = Metric(f"{policy}_packets", "counter", f"Packets {text}")
        self.policy_bytes = Metric(f"{policy}_bytes", "counter", f"Bytes {text}", "bytes")
        self.rules = Metric("iptables_rules", "gauge", "Rules of a table.")
        self.chains = Metric("iptables_chains", "gauge", "Chains of a table.")
        self.left_out = Metric("iptables_series_left_out", "gauge", "Rules and chains without a series: too many.")
        self.backend = Metric("iptables_backend_info", "gauge", "The back end that a table is on.")
        self.source = Metric("iptables_source_info", "gauge", "How the counters of a table are read: socket or bpf.")
        self.info = Metric("iptables_exporter_build_info", "gauge", "The release of iptc.")
        self.read = Metric("iptables_read_success", "gauge", "Whether a table could be read.")
        self.success = Metric("iptables_scrape_success", "gauge", "Whether all tables could be read.")
        self.duration = Metric(
            "iptables_scrape_duration_seconds", "gauge", "How long it took to read all tables.", "seconds"
        )

    @property
    def all(self) -> list[Metric]:
        return list(vars(self).values())


def _labels_of(reading: TableReading) -> bytes:
    """Return the labels that all metrics of a table have."""
    return written(
        [
            ("netns", reading.netns or ""),
            ("ip_version", "6" if reading.ipv6 else "4"),
            ("table", reading.table or ""),
        ]
    )


def _name_of(netns: str | None, ipv6: bool, table: str | None) -> str:
    where = "" if netns is None else f" of network namespace {netns}"
    what = "the tables" if table is None else f"table {table}"
    return f"IPv{6 if ipv6 else 4}: {what}{where}"
