"""Turns drawn lines into what a terminal obeys: by rich where it is installed, else by the colours that all have."""

import os
import sys

from ..monitoring import drawing

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


def painter():
    """The function that turns lines into a text for the terminal."""
    try:
        from rich.console import Console
    except ImportError:
        return _paint_plainly
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)

    def paint(lines):
        return [_captured(console, line) for line in lines]

    return paint


def _captured(console, line):
    with console.capture() as captured:
        console.print(as_text(line), end="")
    return captured.get()


def as_text(line):
    """A line as a `Text` of rich; nothing in it is taken for markup."""
    from rich.text import Text

    return Text.assemble(*[(text, _RICH_STYLES[style]) for text, style in line], no_wrap=True)


def _paint_plainly(lines):
    bare = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in (None, "", "dumb")
    return ["".join(text if bare else _coloured(text, _COLOURS[style]) for text, style in line) for line in lines]


def _coloured(text, code):
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def frame(painted):
    """What puts the lines *painted* on the screen in the place of what is there."""
    return "\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in painted) + "\x1b[J"
