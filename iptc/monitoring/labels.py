"""The text, comment and target of each rule, looked up once for each rule, and the labels made of them."""

from __future__ import annotations

import array

from .. import _core
from ..errors import Conflict
from ..language import printing
from ..language.comments import comment_of
from .series import Series

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._types import Family
    from ..counters import Snapshot
    from .selection import Selection
    from .sources import TableReading

_ATTEMPTS = 5


class Words:
    """A rule in words: its `text` as iptables-save prints it, its `comment` or None, its `target` or ""."""

    __slots__ = ("text", "comment", "target")

    def __init__(self, text: str, comment: str | None, target: str) -> None:
        self.text = text
        self.comment = comment
        self.target = target


def words_of(nfproto: Family, entry: bytes) -> Words:
    """Return the `Words` of a rule's bytes."""
    payloads = _core.split_entry(nfproto, entry)[1]
    target = _core.payload_name(payloads[-1]).decode("utf-8", "surrogateescape")
    text = printing.render(nfproto, entry, partly=True)
    if target == "nft":
        # a rule that iptables-nft cannot read
        from ..nft.codec import entry_expressions

        expressions = entry_expressions(nfproto, entry)
        if expressions:
            text = ", ".join(expressions)
    return Words(text, comment_of(nfproto, entry), target)


class Dictionary:
    """The `Words` of the rules of one table. Only new rules are looked up."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], Words] = {}
        self._words: list[Words] = []
        self._generation: int | None = None

    def words(self, reading: TableReading) -> list[Words]:
        """Return the `Words` for each slot of the snapshot of *reading*. If the rules have changed since, it is read
        again.

        Raises `Conflict` if they change each time.
        """
        for left in range(_ATTEMPTS, 0, -1):
            assert reading.snapshot is not None and reading.reader is not None
            if reading.snapshot.generation == self._generation:
                break
            try:
                self._read(reading.snapshot)
            except Conflict:
                if left == 1:
                    raise
                reading.snapshot = reading.reader.read()
        return self._words

    def _read(self, snapshot: Snapshot) -> None:
        layout = snapshot._layout
        identities = layout.identities
        known: dict[tuple[str, bytes], Words] = {}
        words: list[Words] = []
        entries: list[bytes] | None = None
        for name, _, first, end in layout.chains:
            for slot in range(first, end):
                key = name, identities[8 * slot : 8 * slot + 8]
                found = self._known.get(key) or known.get(key)
                if found is None:
                    if entries is None:
                        entries = layout.entries(snapshot._reader)
                    found = words_of(layout.nfproto, entries[slot])
                known[key] = found
                words.append(found)
        self._known, self._words, self._generation = known, words, snapshot.generation


class Naming:
    """Which labels are made. *rule*: the text of a rule. *details*: its comment and its target. *fixed* are labels that
    all series have."""

    def __init__(self, rule: bool = True, details: bool = True) -> None:
        self.rule = rule
        self.details = details

    def of_rule(self, chain: str, words: Words) -> list[tuple[str, str]]:
        """Return [(name, value)] of the labels of a rule, without those of its table."""
        found = [("chain", chain)]
        if self.rule:
            found.append(("rule", words.text))
        if self.details:
            found += [("comment", words.comment or ""), ("target", words.target)]
        return found


def rule_series(
    snapshot: Snapshot, words: list[Words], selection: Selection, naming: Naming, table: bytes, limit: int
) -> tuple[Series, int]:
    """Return (the `Series` of the selected rules, how many rules *limit* has left out).

    *table* is the beginning of each label text. Equal rules are numbered in their order in the chain. If the text of a
    rule is no label, rules with the same labels are one series.
    """
    places = array.array("i", bytes(4 * len(snapshot)))
    found: dict[bytes, int] = {}
    seen: dict[bytes, int] = {}
    bare: dict[tuple[str, int], bytes] = {}
    left_out = 0
    for chain, _, first, end in snapshot._layout.chains:
        wanted = selection.wants_chain(chain)
        for slot in range(first, end):
            places[slot] = -1
            said = words[slot]
            if not wanted or not selection.wants_rule(said.text, said.comment):
                continue
            label = bare.get((chain, id(said)))
            if label is None:
                label = bare[chain, id(said)] = table + written(naming.of_rule(chain, said))
            if naming.rule:
                number = seen[label] = seen.get(label, 0) + 1
                if number > 1:
                    label += b',duplicate="%d"' % number
            if label not in found:
                if len(found) >= limit:
                    left_out += 1
                    continue
                found[label] = len(found)
            places[slot] = found[label]
    return Series([b"{%s}" % label for label in found], places.tobytes(), len(snapshot)), left_out


def chain_series(snapshot: Snapshot, selection: Selection, table: bytes, limit: int) -> tuple[Series, int]:
    """Return (the `Series` of the sums of the selected chains, how many chains *limit* has left out)."""
    places = array.array("i", [-1]) * len(snapshot)
    labels: list[bytes] = []
    left_out = 0
    for chain, _, first, end in snapshot._layout.chains:
        if not selection.wants_chain(chain):
            continue
        if len(labels) >= limit:
            left_out += 1
            continue
        places[first:end] = array.array("i", [len(labels)]) * (end - first)
        labels.append(b"{%s%s}" % (table, written([("chain", chain)])))
    return Series(labels, places.tobytes(), len(snapshot)), left_out


def written(labels: Iterable[tuple[str, str]]) -> bytes:
    """Return labels in the text format of Prometheus, without those that have no value."""
    return b",".join(b'%s="%s"' % (name.encode(), _escaped(value)) for name, value in labels if value)


def _escaped(value: str) -> bytes:
    """Return *value* escaped, as it is written between quotes."""
    return readable(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").encode()


def readable(value: str) -> str:
    r"""Return *value* with each byte that is not UTF-8 written as the four characters `\xff`."""
    if value.isprintable():
        return value
    return "".join(f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else char for char in value)
