"""Makes changes that are taken back unless they are confirmed. This is the caller's side; `watchdog` is the process
that makes the change.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time

from .. import state
from ..detached import run_detached
from ..errors import Conflict, IPTCError, ParameterError, ParameterTypeError, RolledBack
from ..lock import checked_lock_file, checked_wait, lock_path
from ..namespace import Place, descriptor_of
from . import pending, planning, watchdog
from .ruleset_value import Ruleset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any

    from .._types import LockFile, Netns, Path, Source, Wait
    from .planning import Plan

_CODE = "import sys; sys.path[:] = sys.argv[2:]; from iptc.managing.watchdog import main; main(int(sys.argv[1]))"
_HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_MADE = ("begun", "pending")
"""The states of a change that is neither confirmed nor taken back, nor has failed."""


class Pending:
    """A change that is taken back after its time, unless `confirm` or the command `iptc confirm` keeps it.

    `difference` is what was changed. `state` is "armed", "begun", "pending", "confirmed", "rolled back" or "failed".
    Another process, the watchdog, makes the change and takes it back, also if this process ends.
    """

    def __init__(self, channel: socket.socket, armed: Any) -> None:
        self._channel = channel
        self.difference, self.kept, self.live, self.target = armed
        self.state = "armed"
        self.by: str | None = None
        self.until: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.difference)

    def __repr__(self) -> str:
        return f"<iptc.Pending: {self.difference.summary() or 'nothing to do'}, {self.state}>"

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is news. `look` reads it."""
        return self._channel.fileno()

    @property
    def seconds_left(self) -> float:
        """The seconds that are left to confirm the change."""
        return max(0.0, self.until - time.time()) if self.state == "pending" else 0.0

    def begin(self) -> None:
        """Let the watchdog make the change. Return when it is made."""
        if not self.difference:
            self.state = "confirmed"
            return
        self.state = "begun"
        self._say("go")
        self._hear()

    def confirm(self) -> None:
        """Keep the change. Raises `RolledBack` if it was too late."""
        if self.state == "pending":
            self._say("confirm", f"process {os.getpid()}")
            self._until_over()
        if self.state != "confirmed":
            raise RolledBack("the change was not confirmed in time: the rules are what they were")

    def roll_back(self) -> None:
        """Take the change back now. Return when that is done. Does nothing if the change is confirmed already."""
        if self.state in _MADE:
            self._say("roll back")
            self._until_over()

    def wait(self, seconds: float | None = None) -> str:
        """Wait until the change is confirmed or taken back, but at most *seconds*. Return the state."""
        end = None if seconds is None else time.monotonic() + seconds
        while self.state == "pending":
            left = None if end is None else max(0, end - time.monotonic())
            if not pending.wait_readable([self], left):
                break
            self._hear()
        return self.state

    def look(self) -> str:
        """Read the news, without waiting. Return the state."""
        return self.wait(0)

    def close(self) -> None:
        """Close the connection to the watchdog. The change can still be confirmed with `iptc confirm`."""
        self._channel.close()

    def __enter__(self) -> Pending:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _say(self, what: str, content: object | None = None) -> None:
        try:
            watchdog.send(self._channel, what, content)
        except OSError:
            # the watchdog is gone or closing: its last message is still to be read
            pass

    def _until_over(self) -> None:
        while self.state in _MADE:
            self._hear()

    def _hear(self) -> None:
        content: Any
        word, content = watchdog.receive(self._channel)
        if word == "failed":
            self.state = "failed"
            raise content
        if word == "applied":
            self.state, self.until = "pending", content
        elif word == "confirmed":
            self.state, self.by = "confirmed", content
        elif word == "rolled back":
            self.state = "rolled back" if content is None else "failed"
            if content is not None:
                raise IPTCError(f"the rules could not be taken back: {content}")
        elif word is None:
            self.state = "failed"
            raise IPTCError("the watchdog of the change has ended: nothing will be taken back")


def start(
    target: Plan | Ruleset | Source,
    timeout: float,
    *,
    only: str | Iterable[str] = (),
    keep: str | Iterable[str] = (),
    ipv6: bool | None = None,
    backend: str | None = None,
    netns: Netns = None,
    wait: Wait = None,
    lock_file: LockFile = None,
    directory: Path | None = None,
    by: str = "",
    save: Any = None,
) -> Pending:
    """Start a watchdog for the change to *target*. Return a `Pending`, whose `begin` makes the change.

    *directory*: the folder that records which change waits to be confirmed, as for `pending.folder`.
    *by*: who wants the change. *save*: the file into which the ruleset is saved once the change is confirmed.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise ParameterTypeError(f"timeout must be seconds, not {timeout!r}")
    if not 0 < timeout < 1e7:
        raise ParameterError(f"timeout must be a number of seconds above 0, not {timeout!r}")
    wanted = target if isinstance(target, planning.Plan) else None
    if isinstance(target, planning.Plan):
        backend, netns, target = target.live.backend, target.place.netns, target.target
    elif not isinstance(target, Ruleset):
        target = Ruleset.read(target, ipv6, backend=backend, netns=netns)
    backend = state.side_at(Place(netns), backend)
    scope = planning.Scope(only, keep) if wanted is None else wanted.scope
    job = {
        "target": target,
        "timeout": timeout,
        "scope": scope,
        "backend": backend,
        "netns": None,
        "wait": checked_wait(wait),
        # the watchdog works in another folder
        "lock_file": False if lock_file is False else os.path.abspath(str(lock_path(checked_lock_file(lock_file)))),
        "exactly": wanted is not None,
        "folder": pending.folder(directory),
        "session": pending.session_of(),
        "by": by,
        "save": save,
    }
    channel = _started(job, netns)
    try:
        content: Any
        word, content = watchdog.receive(channel)
        if word == "failed":
            raise content
        if word != "armed":
            raise IPTCError("the process that takes rules back could not be started")
        made = Pending(channel, content)
        if wanted is not None and made.difference.as_dict() != wanted.difference.as_dict():
            raise Conflict("the ruleset has changed since the plan was made", errno.EAGAIN, os.strerror(errno.EAGAIN))
        return made
    except BaseException:
        channel.close()
        raise


def _started(job: dict[str, Any], netns: Netns) -> socket.socket:
    """Start a watchdog for *job*. Return the socket to it."""
    if not sys.executable:
        raise IPTCError("there is no Python interpreter (sys.executable) to watch over the change with")
    paths = [_HOME, *(os.path.abspath(path) for path in sys.path if isinstance(path, str) and path)]
    here, there = socket.socketpair()
    try:
        with there:
            passed = [there.fileno()]
            place = None
            if netns is not None:
                place = descriptor_of(netns)
                passed.append(place)
                job["netns"] = place
            try:
                run_detached(_CODE, [str(there.fileno()), *paths], passed)
            except OSError as error:
                raise IPTCError(f"can't start {sys.executable}: {error.strerror}") from None
            finally:
                if place is not None:
                    os.close(place)
        watchdog.send(here, "job", job)
        return here
    except BaseException as error:
        here.close()
        if isinstance(error, OSError) and not isinstance(error, IPTCError):
            raise IPTCError(f"the process that takes rules back could not be started: {error.strerror}") from None
        raise


class safe_apply:
    """Change the rules to *target* for a `with` statement, and keep them only if the statement ends well.

    The change is taken back if the `with` block raises, if *check* fails, after *timeout* seconds, or if this process
    dies. Entering returns the `Pending`. At the end of the block *check* is called, or run by a shell if it is a
    string. It fails with a false value, an exception or an exit status other than 0. `iptc confirm` in another terminal
    confirms too.

    Raises `RolledBack` if the change was not confirmed. The other arguments are as for `apply` and `start`.
    """

    def __init__(
        self,
        target: Plan | Ruleset | Source,
        *,
        timeout: float = 30,
        check: Callable[[], object] | str | None = None,
        **settings: Any,
    ) -> None:
        if check is not None and not callable(check) and not isinstance(check, str):
            raise ParameterTypeError(f"check must be a function or a command, not {type(check).__name__}")
        self._target, self._timeout, self._check, self._settings = target, timeout, check, settings

    def __enter__(self) -> Pending:
        self._pending = start(self._target, self._timeout, **self._settings)
        try:
            self._pending.begin()
        except BaseException:
            with self._pending:
                self._pending.roll_back()
            raise
        return self._pending

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._pending:
            if kind is not None:
                self._pending.roll_back()
                return
            if self._pending.look() == "pending" and not self._passes():
                self._pending.roll_back()
                raise RolledBack("the check said no: the rules are what they were")
            self._pending.confirm()

    def _passes(self) -> bool:
        if self._check is None:
            return True
        try:
            if isinstance(self._check, str):
                return run_check(self._check, self._pending)
            return bool(self._check())
        except BaseException:
            self._pending.roll_back()
            raise


def run_check(command: Any, change: Pending) -> bool:
    """Run *command* by a shell. Return whether it succeeded before *change* was over.

    Otherwise it is killed, with the processes that it has started.
    """
    with subprocess.Popen(["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            ended = os.pidfd_open(process.pid)
            try:
                while process.poll() is None and change.look() == "pending":
                    pending.wait_readable([ended, change])
            finally:
                os.close(ended)
            return process.poll() == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
