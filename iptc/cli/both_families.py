"""Reads a text of both families, each under its heading, piece by piece; it can be read a second time."""

from __future__ import annotations

import itertools
import re
import tempfile

from ..errors import ParameterError
from ..model import restoring
from .arguments import FAMILIES, HEADINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .._types import Source

    _Text = tuple[bool | None, bytes]


_KEPT_IN_MEMORY = 1 << 24
_LONGEST_LINE = 1 << 20
_HEADING = re.compile(rb"^(%s)\n" % b"|".join(HEADINGS[ipv6].encode() for ipv6 in FAMILIES["both"]), re.MULTILINE)


class Both:
    """Iterates over the parts of a text of both families: (ipv6, a file to read from) in the order of the text.

    A part must be read to its end, or not at all, before the next one is asked for. So a mistake in one part is found
    before the next one is read. A second iteration gives the same parts again.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept: tempfile.SpooledTemporaryFile[bytes] | None = None

    def __iter__(self) -> Iterator[tuple[bool, Part]]:
        missing = list(FAMILIES["both"])
        for ipv6, texts in itertools.groupby(_texts(self._pieces()), lambda found: found[0]):
            if ipv6 is None:
                _check_empty(texts)
                continue
            if ipv6 not in missing:
                raise ParameterError(f"there is a second line `{HEADINGS[ipv6]}'")
            missing.remove(ipv6)
            yield ipv6, Part(texts)
        if missing:
            raise ParameterError(_missing(missing[0]))

    def _pieces(self) -> Iterator[bytes]:
        if self._kept is not None:
            self._kept.seek(0)
            yield from restoring.pieces(self._kept)
            return
        # the file is closed when this object is deleted
        self._kept = tempfile.SpooledTemporaryFile(_KEPT_IN_MEMORY)
        for piece in restoring.pieces(self._source):
            self._kept.write(piece)
            yield piece


class Part:
    """The text of one family."""

    def __init__(self, texts: Iterator[_Text]) -> None:
        self._texts = texts

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, as many as there are at once; b"" at the end."""
        for _, text in self._texts:
            if text:
                return text
        return b""


def _texts(pieces: Iterable[bytes]) -> Iterator[_Text]:
    """Yield (ipv6, text) for all lines of *pieces* except the headings. One text has many lines.

    Before the first heading, ipv6 is None.
    """
    ipv6 = None
    rest = b""
    last: list[bytes | None] = [None]
    for piece in itertools.chain(pieces, last):
        if piece is None:
            # the last line may have no line break
            whole, rest = rest and rest + b"\n", b""
        else:
            whole, end, rest = (rest + piece).rpartition(b"\n")
            whole += end
            if len(rest) > _LONGEST_LINE:
                # a line that is too long: whoever reads this part raises
                whole, rest = whole + rest, b""
        for text in _HEADING.split(whole):
            if _HEADING.fullmatch(text + b"\n"):
                ipv6 = text.decode() == HEADINGS[True]
                text = b""
            yield ipv6, text


def _check_empty(texts: Iterable[_Text]) -> None:
    """Raise if there are rules before the first heading."""
    for _, text in texts:
        if any(line.strip() and not line.startswith(b"#") for line in text.split(b"\n")):
            raise ParameterError(_missing(False))


def _missing(ipv6: bool) -> str:
    return f"there is no line `{HEADINGS[ipv6]}' before the rules of that family"
