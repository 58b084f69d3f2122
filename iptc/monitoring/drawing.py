"""Draws a `Board` into lines of a given width: pieces of text, each with the name of its style."""

from __future__ import annotations

import math
import time
import unicodedata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .board import Board, BoardRow

    _Piece = tuple[str, str]
    _Line = list[_Piece]

PLAIN, TITLE, HEAD, FAINT, DROP, MARK, TREND = "plain", "title", "head", "faint", "drop", "mark", "trend"
STYLES = (PLAIN, TITLE, HEAD, FAINT, DROP, MARK, TREND)

BARS = " ▁▂▃▄▅▆▇█"
ASCII_BARS = " .:-=+*#@"
_UNITS = ("", "k", "M", "G", "T", "P", "E")
_KEYS = "q quit  p packets  b bytes  o order  d drops first  v chains  z idle  / search  c chain  space pause"


def human(value: float) -> str:
    """Return a rate as text of at most five characters: 0, 0.3, 12, 1.2k, 345M."""
    unit = 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    digits = 1 if 0 < value < 9.95 else 0
    return f"{value:.{digits}f}{_UNITS[unit]}"


def cells(text: str) -> int:
    """Return how many columns of a terminal *text* takes."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(char) for char in text)


def _cells_of(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def fitted(text: str, width: int, right: bool = False) -> str:
    """Return *text* in exactly *width* columns, cut off or filled with blanks."""
    if cells(text) > width:
        kept, room = [], width - 1
        for char in text:
            room -= _cells_of(char)
            if room < 0:
                break
            kept.append(char)
        text = "".join(kept) + "…" * (width > 0)
    blanks = " " * (width - cells(text))
    return blanks + text if right else text + blanks


def trend(values: list[float], width: int, bars: str = BARS) -> str:
    """Return the last minute as bars in *width* columns, with the latest at the right."""
    if not values or width <= 0:
        return " " * max(0, width)
    # each column shows the highest value of its part
    parts = min(width, len(values))
    shown = [max(values[i * len(values) // parts : (i + 1) * len(values) // parts]) for i in range(parts)]
    # rounded up, so that every value above 0 has a bar
    unit = max(shown) / (len(bars) - 1)
    return "".join(bars[math.ceil(value / unit - 1e-9)] if value else bars[0] for value in shown).rjust(width)


class Drawing:
    """Draws a board. *safe* escapes control characters, *bars* are the characters of the trend."""

    def __init__(self, board: Board, title: str, safe: Callable[[str], str], bars: str = BARS) -> None:
        self._board = board
        self._title = title
        self._safe = safe
        self._bars = bars
        self.start = 0
        self.note = ""
        self.prompt: str | None = None

    def screen(self, width: int, height: int) -> list[_Line]:
        """Return at most *height* lines of at most *width* columns."""
        room = max(0, height - 3)
        rows, count = self._board.rows(room, self.start)
        if not rows and self.start and count:
            self.start = max(0, count - room)
            rows, count = self._board.rows(room, self.start)
        lines = [self._title_line(width, count)]
        if height > 2:
            lines.append(self._head(width))
        lines += [self._row(row, width) for row in rows]
        if height > 1:
            lines += [[]] * (height - 1 - len(lines))
            lines.append(self._foot(width))
        return lines[:height]

    def page(self, width: int) -> list[_Line]:
        """Return lines with all rows."""
        rows, count = self._board.rows()
        return [self._title_line(width, count), self._head(width), *[self._row(row, width) for row in rows]]

    def _title_line(self, width: int, count: int) -> _Line:
        packets, size = self._board.total()
        sample = self._board.sample
        clock = time.strftime("%H:%M:%S", time.localtime(sample.time[1] if sample is not None else 0))
        if sample is None:
            return [(fitted(f"{self._title}  waiting for the first interval", width), TITLE)]
        families = "+".join(self._board.families) or "no table in use"
        shown = f"{self._board.count} rules" + (f", {count} chains" if self._board.by_chain else f", {count} lines")
        parts = [self._title, clock, families, shown, f"{human(packets)} packets/s", f"{human(size)}B/s"]
        return [(fitted(self._safe("  ".join(parts)), width), TITLE)]

    def _foot(self, width: int) -> _Line:
        if self.prompt is not None:
            return [(fitted(self._safe(self.prompt), width), TITLE)]
        board = self._board
        kept = [self.note] if self.note else []
        kept += [f"search: {board.expression}"] if board.expression else []
        kept += [f"chain: {board.chain}"] if board.chain else []
        kept += ["drops first"] if board.drops_first else []
        kept += [] if board.idle else ["idle hidden"]
        return [(fitted(self._safe("  ".join([*kept, _KEYS])), width), FAINT)]

    def _columns(self, width: int) -> tuple[int, int, int]:
        """Return the widths of (trend, table, chain) if the line has *width* columns; 0 leaves that column out."""
        spark = 0 if width < 60 else min(60, 10 + (width - 60) // 3)
        return spark, 0 if width < 50 else 9, 0 if width < 34 else min(28, 12 + max(0, width - 80) // 8)

    def _head(self, width: int) -> _Line:
        spark, table, chain = self._columns(width)
        marks = {"packets": ("pkt/s*", "B/s"), "bytes": ("pkt/s", "B/s*"), "place": ("pkt/s", "B/s")}
        packets, size = marks[self._board.sort]
        text = f" {packets:>6} {size:>6} "
        text += fitted("last minute", spark) + " " if spark else ""
        text += fitted("table", table) + " " if table else ""
        text += fitted("chain", chain) + " " if chain else ""
        return [(fitted(text + ("sum" if self._board.by_chain else "rule"), width), HEAD)]

    def _row(self, row: BoardRow, width: int) -> _Line:
        spark, table, chain = self._columns(width)
        name = f"{'6' if row.ipv6 else '4'} {row.table}"
        style = DROP if row.drops else PLAIN if row.packets or row.bytes else FAINT
        pieces = [
            (row.mark or " ", MARK),
            (f"{human(row.packets):>6} {human(row.bytes):>6} ", style),
        ]
        if spark:
            pieces.append((trend(row.trend, spark, self._bars) + " ", TREND))
        if table:
            pieces.append((fitted(name, table) + " ", FAINT))
        if chain:
            pieces.append((fitted(self._safe(row.chain), chain) + " ", style))
        left = width - sum(cells(text) for text, _ in pieces)
        if left > 0:
            pieces.append((fitted(self._safe(row.text), left), style))
        return _cut(pieces, width)


def _cut(pieces: _Line, width: int) -> _Line:
    """Return *pieces* cut to at most *width* columns."""
    found: _Line = []
    for text, style in pieces:
        if cells(text) > width:
            text = fitted(text, width)
        found.append((text, style))
        width -= cells(text)
        if width <= 0:
            break
    return found


def plain(lines: list[_Line]) -> str:
    """Return *lines* as text without styles."""
    return "".join("".join(text for text, _ in line).rstrip() + "\n" for line in lines)
