"""Restores a table from the text of iptables-save: reads the text, and does what it says to a table."""

import errno
import os

from .. import _core
from ..errors import IPTCError, KernelError, ParameterError, ParameterTypeError, at_line
from ..language.program import Reader, visible
from . import edits

_PIECE = 1 << 20


class _File:
    """A path, also where its name could be taken for a text."""

    def __init__(self, path):
        if not isinstance(path, (str, bytes, os.PathLike)):
            raise ParameterTypeError(f"a path must be a string or a path, not {type(path).__name__}")
        self.path = path

    def __fspath__(self):
        return os.fspath(self.path)


def one_source(source, path):
    """What is to be read: *source*, or the file at *path*, of which the caller was given one."""
    if (source is None) == (path is None):
        raise ParameterTypeError("a ruleset is read from a source or from path=" + ("" if path is None else ", not from both"))
    return source if path is None else _File(path)


def pieces(source):
    """Yield the text of *source* in pieces of bytes.

    A string with a line break, or an empty one, is the text itself; any other string, or an `os.PathLike`, is the path of a
    file; an object with `read` is read, whether it gives text or bytes; bytes are the text.
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
            raise KernelError(f"Can't open {os.fspath(source)!r}: {reason}", getattr(error, "errno", errno.EINVAL),
                              reason) from None  # fmt: skip
        with file:
            while piece := _read(file):
                yield piece
    elif hasattr(source, "read"):
        while piece := _read(source):
            if not isinstance(piece, (str, bytes, bytearray, memoryview)):
                raise ParameterTypeError(f"a file must give text or bytes, not {type(piece).__name__}")
            yield _encoded(piece) if isinstance(piece, str) else bytes(piece)
    else:
        raise ParameterTypeError(f"a ruleset must be text, a path or a file, not {type(source).__name__}")


def _read(file):
    """The next piece of *file*, empty at its end; a failure is an `IPTCError`, and what the file said is the cause of it."""
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
        _wait_for(file)


def _wait_for(file):
    """Wait until *file*, which does not wait by itself and has nothing now, has something or ends."""
    import select

    try:
        waiting = select.poll()
        waiting.register(file, select.POLLIN)
    except (OSError, ValueError, TypeError):
        raise ParameterTypeError("a file must give text or bytes, not None") from None
    waiting.poll()


def _encoded(text):
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ParameterError(f"not encodable as UTF-8: {text[error.start : error.end]!r}") from None


def programs(nfproto, source, counters, flush, only, begun, rehearse, progress=None):
    """Yield a `Program` for each table of *source*, or for that named *only*.

    begun(table) is called where a table begins: it returns the name of its back end, and raises if there is no such table;
    rehearse(program) does a table that breaks off to a draft: of two mistakes the one that comes first in the text is
    reported. progress(bytes) is called after each piece.
    """
    reader = Reader(nfproto, counters, flush, only)
    try:
        for piece in _with_last(pieces(source)):
            for table, line, program in reader.feed(*piece):
                if program is not None:
                    yield program
                    continue
                try:
                    reader.nft = begun(table) == "nft"
                except KernelError as error:
                    tool = "iptables-restore" if nfproto == _core.IPV4 else "ip6tables-restore"
                    message = f"line {line}: {error.strerror}: {tool}: unable to initialize table '{visible(table)}'"
                    # a table that is not there is a mistake of the text
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
    """What the kernel refuses as a whole is refused at the line of the `COMMIT`: a context manager."""

    def __init__(self, program):
        self._line = program.last_line

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, KernelError) and error.line is None and error.strerror is not None:
            error.message = f"line {self._line} failed: {error.message}"
            error.line = self._line


def _with_last(parts):
    """(part, whether it is the last)."""
    previous = b""
    for part in parts:
        if previous:
            yield previous, False
        previous = part
    yield previous, True


class Restore:
    """What a program does to its table: one operation over many rules."""

    binds = False
    changed = True

    def __init__(self, program):
        self.program = program

    def send(self, handle, replay):
        """Do it to a draft, or to a batch, in one pass."""
        handle.restore(self.program)

    def apply(self, view):
        """Do it to a view, command by command."""
        if self.program.flush:
            view.clear()
        self._run(view, lambda edit: edit.apply(view))

    def send_each(self, handle, view):
        """Do it to a handle that has only the verbs of single edits; *view* is the table as the handle has it."""
        if self.program.flush:
            for name in list(view.chains):
                handle.flush(name)
            for chain in view.chains.values():
                if chain.policy is None:
                    handle.delete_chain(chain.name)
            view.clear()
        replay = edits.Replay(handle, lambda: view, ())

        def send(edit):
            try:
                edit.send(handle, replay)
            except OSError as error:
                if isinstance(error, IPTCError):
                    raise
                raise edit.refused(error.errno) from None
            edit.apply(view)

        self._run(view, send)

    def _run(self, view, do):
        """Call do(edit) for each edit that the commands stand for, bound to *view*; an error gets the line of its command."""
        for line, what, chain, number, entry, other, counters in self.program.commands(runs=True):
            names = [chain] if chain else [c.name for c in view.in_order() if what != "X" or c.policy is None]
            try:
                for name in names:
                    for edit in self._edits(view, what, name, number, entry, other, counters):
                        if edit.binds:
                            edit.bind(view)
                        do(edit)
            except IPTCError as error:
                if isinstance(error, KernelError):
                    error.message = f"line {line} failed: {error.message}"
                raise at_line(error, line) from None

    def _edits(self, view, what, chain, number, entry, other, counters):
        """The edits of *chain* that one command stands for."""
        if what == ":":
            found = view.chains.get(chain)
            if found is None or found.policy is None:
                yield edits.Flush(chain) if found is not None and not self.program.flush else edits.CreateChain(chain)
            if other != "-":
                yield edits.SetPolicy(chain, other, counters)
        elif what == "D" and number:
            yield edits.Delete(chain, number - 1)
        elif what == "Z" and number:
            yield edits.ZeroRule(chain, number - 1)
        elif what in "IR":
            yield {"I": edits.Insert, "R": edits.Replace}[what](chain, entry, number - 1)
        elif what in "DC":
            anchor = edits.first_like(view.nfproto, entry)
            yield edits.Delete(chain, anchor=anchor) if what == "D" else edits.Check(chain, anchor=anchor)
        elif what == "A":
            yield _AppendRun(chain, entry)
        elif what == "?":
            return
        elif what == "E":
            yield edits.RenameChain(chain, other)
        elif what == "P":
            yield edits.SetPolicy(chain, other, counters)
        else:
            yield {"F": edits.Flush, "Z": edits.Zero, "X": edits.DeleteChain, "N": edits.CreateChain}[what](chain)


class _AppendRun(edits.Append):
    """Commands `-A` of one chain that follow each other: nearly all that a text has."""

    def apply(self, view):
        chain = self.find_chain(view)
        for _, entry in self.entry.rules():
            chain.append(entry)

    def send(self, handle, replay):
        for _, entry in self.entry.rules():
            handle.append(self.chain, entry)


_REASONS = {
    ("N", errno.EEXIST): "Chain already exists", ("P", errno.ENOENT): "Bad built-in chain name", ("P", errno.EINVAL): "Bad policy name",
    (":", errno.EINVAL): "Bad policy name",
    ("I", errno.E2BIG): "Index of insertion too big", ("R", errno.E2BIG): "Index of replacement too big",
    ("D", errno.E2BIG): "Index of deletion too big", ("D", errno.ENOENT): edits.BAD_RULE, ("C", errno.ENOENT): edits.BAD_RULE,
    ("Z", errno.E2BIG): "Index of counter too big", ("X", errno.EINVAL): "Can't delete built-in chain",
}  # fmt: skip


def reason_of(what, number, error):
    """What iptables says where command *what* of a restore, of rule *number* or of none, cannot be done."""
    if error == errno.ENOENT:
        return _REASONS.get((what, error) if not number else None, edits.NO_CHAIN)
    return _REASONS.get((what, error)) or os.strerror(error)
