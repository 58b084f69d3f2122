"""Counters as lines for programs: one line a rule, as influx's line protocol, CSV or JSON."""

from __future__ import annotations

import json

from .labels import readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from ..counters import ChainCounters, Delta
    from .labels import Words
    from .selection import Selection
    from .sources import TableReading

SCHEMA = 1

_GREATEST = (1 << 63) - 1
"""The largest integer that all readers of the line protocol accept."""

_SPECIAL = str.maketrans(
    {"\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", "\v": "\\v", " ": "\\ ", ",": "\\,", "=": "\\="}
)


class CountedRule:
    """A rule of a table: its `slot`, the name of its `chain`, its `position` there from 1, and its `Words`."""

    __slots__ = ("slot", "chain", "position", "words")

    def __init__(self, slot: int, chain: str, position: int, words: Words) -> None:
        self.slot = slot
        self.chain = chain
        self.position = position
        self.words = words


class Counted:
    """The counters of one table: a `reading`, its `snapshot`, and the `delta` since the last one, or None."""

    def __init__(self, reading: TableReading, words: list[Words], selection: Selection, delta: Delta | None) -> None:
        assert reading.snapshot is not None
        self.reading = reading
        self.snapshot = reading.snapshot
        self.delta = delta
        self._words = words
        self._selection = selection

    def chains(self) -> Iterator[tuple[ChainCounters, list[CountedRule]]]:
        """Yield (chain, its selected rules) for the selected chains."""
        for chain in self._selection.chains_of(self.snapshot):
            rows = [
                CountedRule(slot, chain.name, number, self._words[slot]) for number, slot in enumerate(chain.slots, 1)
            ]
            yield chain, [row for row in rows if self._selection.wants_rule(row.words.text, row.words.comment)]

    def rows(self) -> Iterator[CountedRule]:
        """Yield the selected rules."""
        for _, rows in self.chains():
            yield from rows

    def numbers(self, row: CountedRule) -> list[int]:
        """Return the packets and bytes of a rule, and if there is a delta, what was added."""
        return [*self.snapshot[row.slot], *(() if self.delta is None else self.delta[row.slot])]


class Influx:
    """InfluxDB's line protocol, with the measurement, tags and fields of telegraf's iptables plugin.

    `ruleid` is the comment of a rule. A rule without a comment has its text as `rule`. The beginning of a line is made
    once for each ruleset.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], tuple[int, list[tuple[int, str]]]] = {}

    def head(self) -> str:
        """Return the text before the first line."""
        return ""

    def write(self, table: Counted) -> str:
        """Return the lines of one table."""
        reading, snapshot = table.reading, table.snapshot
        generation, begins = self._made.get(reading.key, (None, []))
        if generation != snapshot.generation:
            begins = list(_begins(reading, table.rows()))
            self._made[reading.key] = snapshot.generation, begins
        at = int(snapshot.time[1] * 1e9)
        packets, sizes = snapshot.packets, snapshot.bytes
        return "".join(
            [
                f"{begin} pkts={min(packets[slot], _GREATEST)}i,bytes={min(sizes[slot], _GREATEST)}i {at}\n"
                for slot, begin in begins
            ]
        )


def _begins(reading: TableReading, rows: Iterable[CountedRule]) -> Iterator[tuple[int, str]]:
    seen: dict[str, int] = {}
    for row in rows:
        tags = [
            ("netns", reading.netns),
            ("ip_version", "6" if reading.ipv6 else "4"),
            ("table", reading.table),
            ("chain", row.chain),
            ("ruleid", row.words.comment),
            ("rule", None if row.words.comment else row.words.text),
            ("target", row.words.target),
        ]
        begin = "iptables" + "".join([f",{name}={tag}" for name, value in tags if value and (tag := _tag(value))])
        # points with the same tags and the same time would be one point, so they are numbered
        number = seen[begin] = seen.get(begin, 0) + 1
        yield row.slot, begin if number == 1 else f"{begin},duplicate={number}"


def _tag(value: str) -> str:
    # a backslash at the end would escape the comma behind it
    return readable(value).rstrip("\\").translate(_SPECIAL)


class Json:
    """A JSON object for each rule."""

    def head(self) -> str:
        """Return the text before the first line."""
        return ""

    def write(self, table: Counted) -> str:
        """Return the lines of one table."""
        reading, snapshot = table.reading, table.snapshot
        lines = []
        for row in table.rows():
            one: dict[str, object] = {"schema": SCHEMA, "time": snapshot.time[1]}
            if reading.netns is not None:
                one["netns"] = reading.netns
            one |= {"ip_version": 6 if reading.ipv6 else 4, "table": reading.table, "chain": row.chain}
            one |= {"position": row.position, "rule": row.words.text}
            one |= {"comment": row.words.comment, "target": row.words.target}
            one |= zip(("packets", "bytes", "added_packets", "added_bytes"), table.numbers(row))
            lines.append(json.dumps(one) + "\n")
        return "".join(lines)


class Csv:
    """Comma-separated values, quoted as in RFC 4180."""

    _NAMES = "time,netns,ip_version,table,chain,position,rule,comment,target,packets,bytes,added_packets,added_bytes"

    def head(self) -> str:
        """Return the names of the columns."""
        return self._NAMES + "\n"

    def write(self, table: Counted) -> str:
        """Return the lines of one table."""
        reading, snapshot = table.reading, table.snapshot
        lines = []
        where = [f"{snapshot.time[1]:.6f}", _cell(reading.netns or ""), "6" if reading.ipv6 else "4", reading.table]
        for row in table.rows():
            said = [row.chain, str(row.position), row.words.text, row.words.comment or "", row.words.target]
            counted = [*map(str, table.numbers(row)), *([] if table.delta else ["", ""])]
            lines.append(",".join([*map(str, where), *map(_cell, said), *counted]) + "\n")
        return "".join(lines)


def _cell(value: str) -> str:
    if any(char in value for char in '",\n\r'):
        value = '"' + value.replace('"', '""') + '"'
    return value
