"""Writes a file whole or not at all.

It stays the same file for its owner, for links to it, and for a program at the other end of a pipe.
"""

from __future__ import annotations

import errno
import os
import stat

from ..errors import IPTCError
from .output import encoded, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_CANNOT_REPLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV, errno.ENOTSUP, errno.EINVAL}
"""The errno where the file can be written, but a new file with the same owner and mode cannot take its place."""

_UNKNOWN = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV, errno.ESPIPE, errno.ENOSYS}
"""The errno of a file system that does not know a request."""

_NO_NAMELESS_FILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}
"""The errno of a file system that has no files without a name."""

_FLAGS = os.O_CLOEXEC | os.O_NOCTTY

PUBLIC = 0o644
"""The mode of a file that other users read."""


def write_file(path: Any, text: str, mode: int = 0o600) -> None:
    """Write *text* to the file *path*. If that fails, the old content stays, and no other file is left behind.

    A regular file is replaced at once by a new one with the owner, mode, ACL and extended attributes of the old one. If
    it has several names, or if such a new file cannot be put there, it is written in place. A link stays a link. A
    device or pipe is written to. If *path* does not exist, the new file gets *mode*: by default only its owner
    can read and write it.
    """
    try:
        _write(path, text, mode)
    except OSError as error:
        raise IPTCError(f"can't write {path}: {error.strerror}") from error


def _write(path: Any, text: str, mode: int) -> None:
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        if not os.path.basename(path):
            raise
        # the file that *path* links to, if it is a link
        _replace(os.path.realpath(path), text, None, mode)
        return
    file = _opened(path, regular)
    try:
        if not regular or _is_a_descriptor(path):
            write_all(file, text)
            return
        target = os.path.realpath(path)
        there = os.fstat(file)
        if (
            there.st_nlink != 1
            or not os.path.samestat(there, os.stat(target))
            or not _replace(target, text, file, mode)
        ):
            _overwrite(file, encoded(text))
    finally:
        os.close(file)


def _opened(path: Any, regular: bool) -> Any:
    """Return the file *path*, open for writing. A file that may not be written must not be replaced either."""
    if regular:
        try:
            return os.open(path, os.O_RDWR | _FLAGS)
        except PermissionError:
            pass
    return os.open(path, os.O_WRONLY | _FLAGS)


def _is_a_descriptor(path: Any) -> bool:
    """Whether *path* leads to an open descriptor, as /dev/stdout does. The file behind it must not be replaced."""
    for _ in range(40):
        if os.path.realpath(os.path.dirname(path)).startswith("/proc/"):
            return True
        if not os.path.islink(path):
            break
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    return False


def _replace(target: str, text: str, old: int | None, mode: int) -> bool:
    """Replace *target* by a new file with the attributes of the open file *old*. Return False if that is impossible."""
    folder = os.path.dirname(target)
    draft = os.path.join(folder, f".iptc-{os.urandom(12).hex()}")
    try:
        _make(draft, text, old, mode)
        os.rename(draft, target)
    except OSError as error:
        if old is None or error.errno not in _CANNOT_REPLACE:
            raise
        return False
    finally:
        # the name is random and was created by us, so no other program owns it
        _unlink(draft)
    _sync_folder(folder)
    return True


def _make(path: str, text: str, old: int | None, mode: int) -> None:
    """Create the file *path* with *text*, with the attributes of the open file *old*, or with *mode*."""
    nameless = _nameless(os.path.dirname(path))
    new = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600) if nameless is None else nameless
    try:
        if old is None:
            os.fchmod(new, mode)
        else:
            _copy_attributes(old, new)
        write_all(new, text)
        os.fsync(new)
        if nameless is not None:
            # without src_dir_fd Python calls link(2), which does not follow the link in /proc
            os.link(f"/proc/self/fd/{nameless}", path, src_dir_fd=nameless, follow_symlinks=True)
    finally:
        os.close(new)


def _nameless(folder: str) -> int | None:
    """Return a new file without a name, of which a killed process leaves nothing, or None if there can be none."""
    try:
        if os.path.exists("/proc/self/fd"):
            return os.open(folder or ".", os.O_TMPFILE | os.O_WRONLY | _FLAGS, 0o600)
    except OSError as error:
        if error.errno not in _NO_NAMELESS_FILE:
            raise
    return None


def _unlink(path: Any) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _sync_folder(folder: str) -> None:
    """Sync the folder, so that the new name survives a crash. Some file systems do not know that request."""
    try:
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.fsync(file)
    except OSError:
        pass
    finally:
        os.close(file)


def _copy_attributes(old: int, new: int) -> None:
    """Give *new* the owner, mode, ACL and extended attributes of *old*. Raises `OSError` if it cannot have them."""
    wanted, has = os.fstat(old), os.fstat(new)
    if (wanted.st_uid, wanted.st_gid) != (has.st_uid, has.st_gid):
        os.fchown(new, wanted.st_uid, wanted.st_gid)
    wanted_attributes, attributes = _attributes(old), _attributes(new)
    # the ACL is set before the mode, since the mode is a part of it
    for name in attributes.keys() - wanted_attributes.keys():
        os.removexattr(new, name)
    for name, value in wanted_attributes.items():
        if attributes.get(name) != value:
            os.setxattr(new, name, value)
    os.fchmod(new, stat.S_IMODE(wanted.st_mode))


def _attributes(file: Any) -> Any:
    try:
        return {name: os.getxattr(file, name) for name in os.listxattr(file)}
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise


def _overwrite(file: Any, data: Any) -> None:
    """Write *data* over the open *file*. Its space is reserved first; if writing fails, the old content is written
    back."""
    size = os.fstat(file).st_size
    before = _contents(file, size)
    try:
        _reserve(file, len(data))
        _write_at_start(file, data)
        os.fsync(file)
    except BaseException:
        if before is None:
            os.ftruncate(file, size)
        else:
            _write_at_start(file, before)
        raise


def _reserve(file: Any, size: int) -> None:
    """Reserve space for *size* bytes. Some file systems do not know that request."""
    try:
        if size:
            os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise


def _contents(file: Any, size: int) -> Any:
    """Return the first *size* bytes of a file, or None if the file may be written but not read."""
    try:
        return os.pread(file, size, 0)
    except OSError:
        return None


def _write_at_start(file: Any, data: Any) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], done)
    os.ftruncate(file, len(data))
