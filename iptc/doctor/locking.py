"""Who holds the xtables lock."""

from __future__ import annotations

import os
import stat
import time

from .. import lock
from .finding import ERROR, INFO, WARNING, Finding, listed, message_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_LOOKS = 8
_PAUSE = 0.025


def of_lock(pause: Callable[[float], object] = time.sleep) -> Iterator[Finding]:
    """Yield findings about the xtables lock. It is checked several times, since each commit holds it for a moment."""
    path = lock.host_lock_path()
    try:
        # opened neither for reading nor for writing: that needs no permission, and creates nothing
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        yield Finding(INFO, f"There is no lock file {path} yet: the first who writes rules creates it.")
        return
    except OSError as error:
        text = f"The lock file {path} cannot be looked at: {message_of(error.strerror)}."
        yield Finding(WARNING, text, "Run it as root, or set XTABLES_LOCKFILE to a file of your own")
        return
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            text = f"The lock file {path} is no regular file: no program can lock it."
            yield Finding(ERROR, text, f"Remove it: rm {path}")
            return
        yield _holders(path, descriptor, pause)
    finally:
        os.close(descriptor)


def _holders(path: str, descriptor: int, pause: Callable[[float], object]) -> Finding:
    staying = first = set(lock.holders(descriptor))
    for _ in range(_LOOKS):
        if not staying:
            break
        pause(_PAUSE)
        staying = staying & set(lock.holders(descriptor))
    if staying:
        text = f"The xtables lock {path} is held by {_named(staying)}: whoever writes legacy rules waits."
        return Finding(WARNING, text, f"Wait for it, or find out what it does: ps -fp {','.join(_pids(staying))}")
    if first:
        return Finding(INFO, f"The xtables lock {path} was held by {_named(first)} for a moment.")
    return Finding(INFO, f"Nobody holds the xtables lock {path}.")


def _named(holders: Iterable[tuple[int, str]]) -> str:
    return listed([f"{name} (pid {pid})" for pid, name in sorted(holders)])


def _pids(holders: Iterable[tuple[int, str]]) -> list[str]:
    return [str(pid) for pid, _ in sorted(holders)]
