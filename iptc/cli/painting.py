"""Turns drawn lines into text with colours for a terminal: with rich if it is installed, or else by basic colours."""

from __future__ import annotations

import os
import sys

from ..monitoring import drawing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import Console
    from rich.text import Text

    _Line = list[tuple[str, str]]

_COLOURS = {
    drawing.PLAIN: "",
    drawing.TITLE: "1",
    drawing.HEAD: "7",
    drawing.FAINT: "2",
    drawing.DROP: "31",
    drawing.MARK: "1;33",
    drawing.TREND: "36",
}
_RICH_STYLES = {
    drawing.PLAIN: "",
    drawing.TITLE: "bold",
    drawing.HEAD: "reverse",
    drawing.FAINT: "dim",
    drawing.DROP: "red",
    drawing.MARK: "bold yellow",
    drawing.TREND: "cyan",
}


def painter() -> Callable[[Iterable[_Line]], list[str]]:
    """Return the function that turns lines into text for the terminal."""
    try:
        from rich.console import Console
    except ImportError:
        return _paint_plainly
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)

    def paint(lines: Iterable[_Line]) -> list[str]:
        return [_captured(console, line) for line in lines]

    return paint


def _captured(console: Console, line: _Line) -> str:
    with console.capture() as captured:
        console.print(as_text(line), end="")
    return captured.get()


def as_text(line: _Line) -> Text:
    """Return a line as rich's `Text`. Its words are not read as markup."""
    from rich.text import Text

    return Text.assemble(*[(text, _RICH_STYLES[style]) for text, style in line], no_wrap=True)


def _paint_plainly(lines: Iterable[_Line]) -> list[str]:
    bare = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in (None, "", "dumb")
    return ["".join(text if bare else _coloured(text, _COLOURS[style]) for text, style in line) for line in lines]


def _coloured(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def screen_text(painted: Iterable[str]) -> str:
    """Return the text that replaces the content of the screen by the lines *painted*."""
    return "\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in painted) + "\x1b[J"
