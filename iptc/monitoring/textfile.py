"""Writes a file for node_exporter's textfile collector. A reader sees the old or the new content, and nothing else."""

from __future__ import annotations

import contextlib
import errno
import os

from ..errors import IPTCError

_MODE = 0o644
"""The mode of the file: the collector is another user, and the content is published anyway."""

_NO_NAMELESS_FILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}


def write(path: str, text: bytes) -> None:
    """Replace the file *path* by *text*. If that fails, the old content stays, and no other file is left behind."""
    folder, name = os.path.split(os.path.abspath(path))
    # a hidden name with another suffix: the collector reads *.prom
    draft = f".{name}.iptc"
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _replace(place, draft, name, text)
        finally:
            os.close(place)
    except OSError as error:
        raise IPTCError(f"can't write {path}: {error.strerror}") from None


def _replace(place: int, draft: str, name: str, text: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft, dir_fd=place)  # a draft that a killed process has left
    try:
        file = _make(place, draft)
        try:
            rest = memoryview(text)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fchmod(file, _MODE)
            if os.fstat(file).st_nlink == 0:
                os.link(f"/proc/self/fd/{file}", draft, src_dir_fd=place, dst_dir_fd=place, follow_symlinks=True)
        finally:
            os.close(file)
        os.rename(draft, name, src_dir_fd=place, dst_dir_fd=place)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft, dir_fd=place)
        raise


def _make(place: int, draft: str) -> int:
    """Return a new file, open for writing; if the file system supports it, without a name."""
    try:
        return os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=place)
    except OSError as error:
        if error.errno not in _NO_NAMELESS_FILE:
            raise
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(draft, flags, 0o600, dir_fd=place)
