"""Where a command writes to: standard output, or a file that is whole or not there."""

import os
import sys

from ..errors import IPTCError


def write(text):
    """Write *text* to standard output at once, with the bytes that it was read from."""
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.flush()


def write_file(path, text):
    """Write *text* to the file *path* so that a reader finds all of it or what stood there before."""
    draft = f"{path}.{os.getpid()}.new"
    try:
        with open(draft, "xb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        if os.path.exists(draft):
            os.unlink(draft)
        raise IPTCError(f"can't write {path}: {error.strerror}") from None
