"""Starts a process that outlives the one that made it."""

from __future__ import annotations

import subprocess
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def run_detached(code: str, arguments: Iterable[str], descriptors: Iterable[int]) -> None:
    """Run *code* in a bare Python with *arguments* and these open *descriptors*, and wait until it has ended.

    The code forks the process that stays, and ends. Neither has a terminal, a session or a folder of the caller.
    `OSError` if the process cannot be started.
    """
    with subprocess.Popen(
        [sys.executable, "-ISc", code, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        pass_fds=tuple(descriptors),
        start_new_session=True,
    ) as process:
        process.wait()
