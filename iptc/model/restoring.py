"""Restores tables from the text of iptables-save: where the text comes from, and the edit that it is."""

from __future__ import annotations

import errno
import os

from .. import _core
from ..errors import KernelError, ParameterError, ParameterTypeError, at_line, kernel_error
from ..language.restored_text import Reader, visible
from .commands import interpret
from .edits import Operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from .._types import Path, Readable, Source
    from ..language.restored_text import RestoredTable
    from .handle import Handle
    from .views import View


_PIECE = 1 << 20


class _File:
    """A path that is never taken for a text, whatever characters it has."""

    def __init__(self, path: Path) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            raise ParameterTypeError(f"a path must be a string or a path, not {type(path).__name__}")
        self._path = os.fsdecode(path)

    def __fspath__(self) -> str:
        return self._path


def one_source(source: Source | None, path: Path | None) -> Source:
    """Return *source*, or the file at *path*. Raises `ParameterTypeError` unless exactly one of them is given."""
    said = "a ruleset is read from a source or from path="
    if path is None:
        if source is None:
            raise ParameterTypeError(said)
        return source
    if source is not None:
        raise ParameterTypeError(f"{said}, not from both")
    return _File(path)


def pieces(source: Source) -> Iterator[bytes]:
    """Yield the text of *source* in pieces of bytes.

    A string with a line break is the text itself, and so are bytes and an empty string. Any other string, and an
    `os.PathLike`, is the path of a file. An object with a method `read` is read; it may return text or bytes.
    """
    if isinstance(source, str) and ("\n" in source or not source):
        source = _encoded(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        for start in range(0, len(source), _PIECE):
            yield bytes(source[start : start + _PIECE])
    elif isinstance(source, (str, os.PathLike)):
        try:
            file = open(source, "rb")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise KernelError(
                f"Can't open {os.fspath(source)!r}: {reason}", getattr(error, "errno", errno.EINVAL), reason
            ) from None
        with file:
            yield from _pieces_of(file)
    elif hasattr(source, "read"):
        yield from _pieces_of(source)
    else:
        raise ParameterTypeError(f"a ruleset must be text, a path or a file, not {type(source).__name__}")


def _pieces_of(file: Readable) -> Iterator[bytes]:
    while piece := _read(file):
        if not isinstance(piece, (str, bytes, bytearray, memoryview)):
            raise ParameterTypeError(f"a file must give text or bytes, not {type(piece).__name__}")
        yield _encoded(piece) if isinstance(piece, str) else bytes(piece)


def _read(file: Readable) -> str | bytes:
    """Return the next piece of *file*; it is empty at the end. Raises `IPTCError`, with the file's exception as the
    cause."""
    while True:
        try:
            piece = file.read(_PIECE)
        except BlockingIOError:
            piece = None
        except OSError as error:
            reason = error.strerror or str(error)
            raise KernelError(f"can't read the ruleset: {reason}", error.errno or errno.EIO, reason) from error
        except (ValueError, TypeError, EOFError) as error:
            raise ParameterError(f"can't read the ruleset: {error}") from error
        if piece is not None:
            return piece
        _wait_for(getattr(file, "fileno", None))


def _wait_for(fileno: Callable[[], int] | None) -> None:
    """Wait until a file, which is non-blocking and has no data now, has data or ends. *fileno* is its method, if it has
    one."""
    import select

    try:
        waiting = select.poll()
        waiting.register(-1 if fileno is None else fileno(), select.POLLIN)
    except (OSError, ValueError, TypeError):
        raise ParameterTypeError("a file must give text or bytes, not None") from None
    waiting.poll()


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ParameterError(f"not encodable as UTF-8: {text[error.start : error.end]!r}") from None


def restored_tables(
    nfproto: int,
    source: Source,
    counters: bool,
    flush: bool,
    only: str | None,
    begun: Callable[[str], str | None],
    rehearse: Callable[[RestoredTable], object],
    progress: Callable[[int], object] | None = None,
) -> Iterator[RestoredTable]:
    """Yield a `RestoredTable` for each table of *source*, or only for the table *only*.

    begun(table) is called at the line `*table`. It returns the name of the back end, or raises if there is no such
    table. rehearse(restored) is called with the beginning of a table in which the text has a mistake: of two mistakes,
    the one that comes first in the text is raised. progress(bytes) is called after each piece of the text.
    """
    reader = Reader(nfproto, counters, flush, only)
    try:
        for piece in _with_last(pieces(source)):
            for table, line, restored in reader.feed(*piece):
                if restored is not None:
                    yield restored
                    continue
                try:
                    reader.nft = begun(table) == "nft"
                except KernelError as error:
                    tool = "iptables-restore" if nfproto == _core.IPV4 else "ip6tables-restore"
                    message = f"line {line}: {error.strerror}: {tool}: unable to initialize table '{visible(table)}'"
                    # iptables-restore ends with the status of a bad line if a table does not exist
                    status = max(error.status, ParameterError.status)
                    raise at_line(type(error)(message, error.errno, error.strerror), line, status) from None
            if progress is not None:
                progress(len(piece[0]))
        reader.finish()
    except ParameterError:
        if reader.table is not None:
            rehearse(reader.partial())
        raise


class AtCommit:
    """A context manager: an error without a line gets the line of the `COMMIT`, where the kernel is asked."""

    def __init__(self, restored: RestoredTable) -> None:
        self._line = restored.last_line

    def __enter__(self) -> AtCommit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, KernelError) and error.line is None and error.strerror is not None:
            error.message = f"line {self._line} failed: {error.message}"
            error.line = self._line


def _with_last(parts: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield (part, whether it is the last one)."""
    previous = b""
    for part in parts:
        if previous:
            yield previous, False
        previous = part
    yield previous, True


class Restore(Operation):
    """The edit that a restored text is: it carries out a whole `RestoredTable` on its table."""

    def __init__(self, restored: RestoredTable) -> None:
        self.restored = restored

    def refused(self, number: int) -> KernelError:
        """Return the exception for errno *number* of a call that is for no command of the text."""
        return kernel_error(f"can't restore table {self.restored.table}", number, os.strerror(number))

    def do(self, handle: Handle, look: Callable[[], View]) -> None:
        """Carry it out on a handle of any kind."""
        interpret(self.restored, handle)

    def apply(self, view: View) -> None:
        """Carry it out on a table in memory."""
        interpret(self.restored, view)
