"""Writes a file for node_exporter's textfile collector: who looks sees the old one or the new one, and no other."""

from __future__ import annotations

import contextlib
import errno
import os

from ..errors import IPTCError

_MODE = 0o644
"""The collector is another user, and what it reads is published anyway."""

_NO_NAMELESS_FILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}


def write(path: str, text: bytes) -> None:
    """Put *text* in the place of the file *path*; where that fails, what stood there stays, and nothing else is
    left."""
    folder, name = os.path.split(os.path.abspath(path))
    # hidden, and with another ending: the collector reads *.prom
    draft = os.path.join(folder, f".{name}.iptc")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)  # of one that was killed
        try:
            file = _make(folder, draft)
            try:
                rest = memoryview(text)
                while rest:
                    rest = rest[os.write(file, rest) :]
                os.fchmod(file, _MODE)
                _give_name(file, draft)
            finally:
                os.close(file)
            os.rename(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise
    except OSError as error:
        raise IPTCError(f"can't write {path}: {error.strerror}") from None


def _make(folder: str, draft: str) -> int:
    """A new file, open for writing; without a name, where the file system can do that."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_NAMELESS_FILE:
            raise
    return os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _give_name(file: int, draft: str) -> None:
    if os.fstat(file).st_nlink == 0:
        os.link(f"/proc/self/fd/{file}", draft, follow_symlinks=True)
