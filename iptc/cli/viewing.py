"""The live view of `iptc top`: keys, and a screen that follows the size of the terminal."""

from __future__ import annotations

import re

from ..errors import IPTCError
from ..monitoring.drawing import BARS, Drawing
from .painting import painter, screen_text
from .selecting import Reasons
from .terminal import Terminal
from .top import bars, safe, title_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from .._pace import Pace
    from ..monitoring.board import Board
    from ..monitoring.clock import Clock
    from ..monitoring.sampler import Poller

_SORTS = {"p": "packets", "b": "bytes", "o": "place"}
_PROMPTS = {"/": "search (regular expression): ", "c": "chain (pattern): "}
_DELETE = {"\x7f", "\x08"}


class LiveView:
    """The live view of `iptc top` on a terminal."""

    def __init__(self, options: Namespace, board: Board, poller: Poller, clock: Clock, pace: Pace) -> None:
        self._board = board
        self._poller = poller
        self._clock = clock
        self._pace = pace
        self._left = options.count
        self._paint = painter()
        self._drawing = Drawing(board, title_of(options), safe, bars())
        self._has_signs = bars() is BARS
        self._asked: str | None = None  # "/" or "c" while a line is being typed
        self._typed = ""
        self._paused = False
        self._trouble = ""  # the error of the last poll
        self._reasons = Reasons()
        self._said = ""  # a message that is shown until the next key
        self._ended = False

    def run(self) -> int:
        """Show the view until the user ends it."""
        with Terminal() as terminal:
            while not self._ended:
                self._draw(terminal)
                for key in terminal.keys((self._pace.due - self._clock.now()) / 1e9):
                    self._press(key, terminal)
                if self._clock.now() >= self._pace.due:
                    self._poll()
        return 0

    def _draw(self, terminal: Terminal) -> None:
        self._drawing.prompt = None if self._asked is None else _PROMPTS[self._asked] + self._typed
        notes = [self._said, self._trouble, "paused" if self._paused else ""]
        self._drawing.note = "  ".join(filter(None, notes))
        painted = screen_text(self._paint(self._drawing.screen(*terminal.size())))
        terminal.show(painted if self._has_signs else painted.replace("…", "~"))

    def _poll(self) -> None:
        sample = self._poller.poll()
        self._pace.go_on(self._clock.now())
        if not self._paused:
            self._board.add(sample)
            self._trouble = f"! {sample.errors[0]}" if sample.errors else ""
            self._said = next(iter(self._reasons.new(sample)), self._said)
        if self._left is not None:
            self._left -= 1
            self._ended = self._left <= 0

    def _press(self, key: str, terminal: Terminal) -> None:
        self._said = ""
        if self._asked is not None:
            self._type(self._asked, key)
        elif key == "q":
            self._ended = True
        elif key in _SORTS:
            self._board.sort = _SORTS[key]
        elif key == "d":
            self._board.drops_first = not self._board.drops_first
        elif key == "v":
            self._board.by_chain = not self._board.by_chain
        elif key == "z":
            self._board.idle = not self._board.idle
        elif key == " ":
            self._paused = not self._paused
        elif key in _PROMPTS:
            self._asked, self._typed = key, ""
        else:
            self._scroll(key, max(1, terminal.size()[1] - 3))

    def _scroll(self, key: str, page: int) -> None:
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "page down": page, "home": -(1 << 60)}
        self._drawing.start = max(0, self._drawing.start + steps.get(key, 0))

    def _type(self, asked: str, key: str) -> None:
        """Handle one key of the line that is being typed."""
        if key in ("\r", "\n"):
            self._set(asked, self._typed)
            self._asked = None
        elif key == "escape":
            self._asked = None
        elif key in _DELETE:
            self._typed = self._typed[:-1]
        elif len(key) == 1 and key.isprintable():
            self._typed += key

    def _set(self, asked: str, text: str) -> None:
        self._drawing.start = 0
        if asked == "c":
            self._board.chain = text
            return
        try:
            self._board.expression = text
        except (re.error, IPTCError) as error:
            self._said = f"! no regular expression: {error}"
