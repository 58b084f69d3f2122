"""`iptc counters`: print the packet and byte counters of tables, once or again and again."""

from __future__ import annotations

from ..errors import IPTCError
from .arguments import add_command, add_wait, positive, seconds
from .output import complain, write
from .requests import SIGNALS, requests_of
from .selecting import Reasons, add_selection, sources_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from typing import Any

    from ..counters import Snapshot
    from ..monitoring.labels import Dictionary
    from ..monitoring.line_formats import Counted, Csv, Influx, Json
    from ..monitoring.sources import TableReading
    from .arguments import _Commands


FORMATS = ("table", "json", "jsonl", "csv", "influx", "prometheus")


def add(commands: _Commands) -> None:
    """Describe the command."""
    counters = add_command(
        commands,
        "counters",
        run,
        both=True,
        many=True,
        help="print the packet and byte counters of tables",
        description="Print the packet and byte counters of tables. With --interval they are printed again and "
        "again, with what was added since the last time. With --signal they are printed when another "
        "program asks for them.",
    )
    add_selection(counters, "filter")
    counters.add_argument("--all-tables", action="store_true", help="print all tables that are in use")
    counters.add_argument(
        "--format",
        choices=FORMATS,
        default="table",
        help="table: for people; json: one object per table; jsonl, csv, influx: one line per rule; "
        "prometheus: as `iptc exporter'. Default: table",
    )
    again = counters.add_mutually_exclusive_group()
    again.add_argument("--interval", type=seconds, metavar="SECONDS", help="print the counters every SECONDS")
    again.add_argument(
        "--signal",
        choices=SIGNALS,
        help="print the counters for each line of standard input (STDIN), or for each signal of this name, "
        "as the plugin execd of telegraf asks for them",
    )
    counters.add_argument(
        "--count", type=positive, metavar="N", help="with --interval or --signal: end after printing N times"
    )
    add_wait(
        counters,
        False,
        "take the xtables lock for each read, and wait at most SECONDS for it. So no half-finished "
        "change is read. Default: read without the lock",
    )


def run(options: Namespace) -> int:
    """Run the command. Return the exit status."""
    if options.all_tables:
        options.table = None
    elif not options.table:
        options.table = ["filter"]
    printer = _ScrapeText(options) if options.format == "prometheus" else _Tables(options)
    try:
        for number, _ in enumerate(_times(options), 1):
            write(printer.text())
            if number == options.count:
                break
    finally:
        printer.close()
    return printer.status


def _times(options: Namespace) -> Iterator[None]:
    """Yield once for each time that the counters are to be printed."""
    if options.signal not in (None, "none"):
        yield from requests_of(options.signal)
        return
    if options.interval is None:
        yield
        return
    from .._pace import Polls

    # 0 means without a wait
    for _ in Polls(int, options.interval or 1e-9):
        yield


class _ScrapeText:
    """Prints the counters as a scrape of `iptc exporter`."""

    def __init__(self, options: Namespace) -> None:
        from ..monitoring.exposition import Scraper

        self._scraper = Scraper(sources_of(options, options.wait))
        self.status = 0

    def text(self) -> str:
        """Return the text to print now."""
        scrape = self._scraper.scrape()
        self.status = 0 if scrape.complete else 1
        return scrape.text().decode()

    def close(self) -> None:
        """Close all readers."""
        self._scraper.close()


class _Tables:
    """Prints the counters of all tables, in the format that was asked for."""

    def __init__(self, options: Namespace) -> None:
        from ..monitoring import line_formats

        formats: dict[str, type[Influx | Json | Csv | _Text | _Objects]] = {
            "table": _Text,
            "json": _Objects,
            "jsonl": line_formats.Json,
            "csv": line_formats.Csv,
            "influx": line_formats.Influx,
        }
        self._format = formats[options.format]()
        self._chains = options.chain
        self._sources = sources_of(options, options.wait)
        self._tables: dict[tuple[object, ...], tuple[Dictionary, Snapshot | None]] = {}
        self._reasons = Reasons()
        self._head = self._format.head()
        self.status = 0

    def text(self) -> str:
        """Return the text to print now."""
        readings = self._sources.poll()
        self._complain(readings)
        read = [reading for reading in readings if reading.error is None]
        self._reasons.tell(read)
        self._check_chains(read)
        head, self._head = self._head, ""
        if isinstance(self._format, _Text):
            self._format.several = len(readings) > 1
        return head + "".join([self._of_table(reading) for reading in read])

    def _complain(self, readings: list[TableReading]) -> None:
        """Name the tables that could not be read. Raise if none could be read."""
        errors = [reading.error for reading in readings if reading.error is not None]
        if errors and len(errors) == len(readings):
            raise errors[0]
        self.status = 1 if errors else 0
        for error in errors:
            complain(str(error))

    def _check_chains(self, readings: list[TableReading]) -> None:
        """Raise if a chain was asked for by its name, without a pattern, and no table has it."""
        there = {
            chain.name for reading in readings if reading.snapshot is not None for chain in reading.snapshot.chains
        }
        for name in self._chains:
            if readings and not set(name) & set("*?[") and name not in there:
                tables = ", ".join(dict.fromkeys(str(reading.table) for reading in readings))
                raise IPTCError(f"table {tables} has no chain {name}")

    def _of_table(self, reading: TableReading) -> str:
        from ..monitoring.labels import Dictionary
        from ..monitoring.line_formats import Counted

        dictionary, previous = self._tables.get(reading.key) or (Dictionary(), None)
        words = dictionary.words(reading)
        snapshot = reading.snapshot
        self._tables[reading.key] = dictionary, snapshot
        delta = None if previous is None or snapshot is None or reading.reopened else snapshot.since(previous)
        return self._format.write(Counted(reading, words, self._sources.selection, delta))

    def close(self) -> None:
        """Close all readers."""
        self._sources.close()


class _Text:
    """Prints a table for people."""

    several = False

    def head(self) -> str:
        """Return the text before the first table."""
        return ""

    def write(self, table: Counted) -> str:
        """Return the text of one table."""
        reading = table.reading
        lines = []
        if self.several:
            where = "" if reading.netns is None else f" of network namespace {reading.netns}"
            lines += [f"Table {reading.table} of IPv{6 if reading.ipv6 else 4}{where}", ""]
        for chain, rows in table.chains():
            title = f"Chain {chain.name}"
            if chain.policy is not None:
                packets, size = chain.policy_counters or (0, 0)
                title += f" (policy {chain.policy} {packets} packets, {size} bytes)"
            lines.append(title)
            heads = ["pkts", "bytes"] if table.delta is None else ["pkts", "bytes", "+pkts", "+bytes"]
            cells = [[str(n) for n in table.numbers(row)] for row in rows]
            widths = [max(8, len(head), *(len(row[i]) for row in cells)) for i, head in enumerate(heads)]
            lines.append(" ".join(head.rjust(width) for head, width in zip(heads, widths)) + " rule")
            for line, row in zip(cells, rows):
                numbers = " ".join(cell.rjust(width) for cell, width in zip(line, widths))
                lines.append(f"{numbers} {row.words.text}".rstrip())
            lines.append("")
        return "\n".join([*lines, ""])


class _Objects:
    """Prints each table as a JSON object."""

    def head(self) -> str:
        """Return the text before the first table."""
        return ""

    def write(self, table: Counted) -> str:
        """Return the text of one table."""
        import json

        reading, snapshot = table.reading, table.snapshot
        chains = []
        for chain, rows in table.chains():
            described: dict[str, Any] = {"name": chain.name, "policy": chain.policy}
            if chain.policy is not None:
                described["packets"], described["bytes"] = chain.policy_counters or (0, 0)
            described["rules"] = []
            for row in rows:
                packets, size, *added = table.numbers(row)
                one: dict[str, int | str | None] = {"packets": packets, "bytes": size, "rule": row.words.text}
                one |= {"target": row.words.target, "comment": row.words.comment}
                if added:
                    one["added_packets"], one["added_bytes"] = added
                described["rules"].append(one)
            chains.append(described)
        whole: dict[str, Any] = {"table": reading.table, "ip_version": 6 if reading.ipv6 else 4}
        if reading.netns is not None:
            whole["netns"] = reading.netns
        whole |= {"source": reading.source, "time": snapshot.time[1], "generation": snapshot.generation}
        whole["chains"] = chains
        return json.dumps(whole) + "\n"
