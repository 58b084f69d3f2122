"""The process that makes a change, and takes it back unless it is confirmed. It outlives the program that asked for it.

`rollback` starts it with a socket, from which it reads what to do. Before it changes anything, it has loaded all that
it needs, and holds the old ruleset in memory.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import socket
import struct
import time
from importlib import import_module

from ..errors import Conflict, IPTCError, LockTimeout, PartialCommit
from ..language import printing
from ..namespace import Place
from . import pending, planning, ruleset_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_STRAIGHT_AWAY = 0.25
"""Seconds to wait for the xtables lock when rules are taken back. A process that hangs with the lock must not stop
it."""

_PATIENCE = 0.25
"""Seconds to wait for anything before it is checked again whether the caller is still there."""

_PAUSE = 0.02
_GIVE_UP = 600
"""Seconds after which the watchdog stops trying to take a change back."""

_IGNORED = (
    "SIGHUP",
    "SIGINT",
    "SIGTERM",
    "SIGQUIT",
    "SIGPIPE",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGUSR1",
    "SIGUSR2",
    "SIGALRM",
)


# ---------------------------------------------------------------------- messages


def send(channel: Any, what: Any, content: Any = None) -> None:
    """Send a message to the other end: a word, and an object that can be pickled."""
    data = pickle.dumps((what, content))
    channel.sendall(struct.pack("=Q", len(data)) + data)


def receive(channel: Any) -> Any:
    """Return the next message as (word, content), or (None, None) if the other end has closed."""
    head = _exactly(channel, 8)
    data = head and _exactly(channel, struct.unpack("=Q", head)[0])
    return pickle.loads(data) if data else (None, None)


def _exactly(channel: Any, size: int) -> Any:
    parts = []
    while size:
        try:
            part = channel.recv(min(size, 1 << 20))
        except OSError:
            part = b""
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# ------------------------------------------------------------------------ process


def main(descriptor: int) -> None:
    """Run as the watchdog. *descriptor* is the socket to the process that wants a change."""
    if os.fork():
        # the watchdog is not our child any more, and has its own session
        os._exit(0)
    _detach()
    with socket.socket(fileno=descriptor) as channel:
        try:
            _, job = receive(channel)
            if job is not None:
                _Change(channel, job).run()
        except BaseException as error:
            try:
                send(channel, "failed", _sendable(error))
            except OSError:
                pass


def _detach() -> None:
    for name in _IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.chdir("/")
    os.umask(0o077)
    for path, text in (("/proc/self/comm", "iptc-watchdog"), ("/proc/self/oom_score_adj", "-1000")):
        try:
            with open(path, "w") as file:
                file.write(text)
        except OSError:
            # the name and the protection from the OOM killer are not essential
            pass


def _sendable(error: BaseException) -> Any:
    """Return *error*, or an exception with its message if *error* cannot be pickled."""
    if isinstance(error, (IPTCError, MemoryError)):
        return error
    return IPTCError(f"the watchdog failed: {type(error).__name__}: {error}")


class _Change:
    """One change: planned, made, and then confirmed or taken back."""

    def __init__(self, channel: Any, job: dict[str, Any]) -> None:
        self._channel = channel
        self._job = job
        self._place = Place(job["netns"])
        self._scope = job["scope"]
        self._slot = pending.Slot(job["folder"], self._place.cookie)
        self._clients: dict[int, Any] = {}
        self._over: str | None = None
        self._armed = 0
        self._back: planning.Plan | None = None

    def run(self) -> None:
        """Plan the change, make it, wait, and take it back unless it was confirmed."""
        self._slot.take()
        self._plan = planning.plan_at(self._place, planning.in_backend(self._job["target"], self._side()), self._scope)
        self._old = self._what_is_there()
        self._prepare()
        with self._slot.bind() as self._listener:
            self._note("armed")
            self._tell("armed", (self._plan.difference, self._plan.kept, self._plan.live, self._plan.target))
            if not self._plan:
                self._note("nothing to do")
                return
            # the caller may have been interrupted before "go", and says then that nothing is to be made
            if receive(self._channel)[0] != "go" or not self._change():
                self._note("not begun")
                self._tell("rolled back", None)
                return
            self._plan_back()
            self._wait()
            if self._over == "confirmed":
                self._note("confirmed")
                self._tell("confirmed", self._by)
                return
            self._note("rolling back")
            failed = self._take_back()
            self._note("rolled back" if failed is None else "not rolled back")
            self._tell("rolled back", failed and str(failed))

    def _side(self) -> Any:
        from .. import state

        return state.side_at(self._place, self._job["backend"])

    def _what_is_there(self) -> Any:
        """Return the ruleset to go back to: all tables that the plan may change, also those that do not exist."""
        tables = [
            self._plan.live.table(table.nfproto, table.name) or ruleset_value.plain_table(table.nfproto, table.name)
            for table in self._plan.target.tables
        ]
        return ruleset_value.Ruleset(tables, self._plan.live.backend)

    def _prepare(self) -> None:
        """Load all that is needed to take the change back: modules, and the plugins that print the old and the new
        rules."""
        import_module("..nft.table" if self._plan.live.backend == "nft" else "..legacy.draft", __package__)
        planning.Plan(self._plan.live, self._old, self._scope, self._place, True)
        for ruleset in (self._old, self._plan.target):
            for table in ruleset.tables:
                for chain in table:
                    for entry in chain.entries:
                        printing.render(chain.nfproto, entry)

    def _change(self) -> bool:
        """Make the change. Return whether it was made: it is not if the caller has gone before the lock was
        obtained."""
        self._armed = pending.ticks_now()
        try:
            for attempt in reversed(range(planning.ATTEMPTS)):
                try:
                    if not self._apply():
                        return False
                    break
                except Conflict:
                    if not attempt or self._job["exactly"]:
                        raise
                    # nothing was changed by us: the ruleset is read again, and becomes the one to go back to
                    self._plan = planning.plan_at(self._place, self._plan.target, self._scope)
                    self._old = self._what_is_there()
        except BaseException as error:
            if isinstance(error, PartialCommit):
                self._take_back()
            self._note("failed")
            raise
        self._channel.settimeout(_PATIENCE)
        self._deadline = time.monotonic() + self._job["timeout"]
        self._note("pending")
        # only now: whoever confirms has seen the change
        self._listener.listen(8)
        self._tell("applied", time.time() + self._job["timeout"])
        return True

    def _apply(self) -> bool:
        """Take the lock and make the change. If the caller goes away while this waits, do nothing and return False."""
        wait = self._job["wait"]
        end = None if wait is None else time.monotonic() + (wait or 0)
        while True:
            try:
                self._plan.apply(_PATIENCE if wait is not False else False, self._job["lock_file"])
                return True
            except LockTimeout:
                if end is not None and time.monotonic() >= end:
                    raise
            if pending.wait_readable([self._channel], 0):
                return False

    def _note(self, what: Any) -> None:
        left = max(0, self._deadline - time.monotonic()) if what == "pending" else 0
        self._noted = {
            "schema": 1,
            "state": what,
            "pid": os.getpid(),
            "timeout": self._job["timeout"],
            "until": time.time() + left,
            "summary": self._plan.difference.summary(),
            "session": self._job["session"],
            "by": self._job["by"],
            "save": self._job["save"],
            "families": sorted({ruleset_value.ip_version(table.nfproto) for table in self._plan.target.tables}),
            "ticks": self._armed,
        }
        self._slot.write(self._noted)

    def _tell(self, what: Any, content: Any) -> None:
        try:
            send(self._channel, what, content)
        except (OSError, AttributeError):
            # the caller is gone
            pass

    # waiting

    def _wait(self) -> None:
        """Wait until the change is confirmed or refused, or its time is over."""
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        poller.register(self._listener, select.POLLIN)
        while self._over is None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                self._over = "timeout"
                return
            for number, _ in poller.poll(left * 1000 + 1):
                if number == self._listener.fileno():
                    self._accept(poller)
                elif number == self._channel.fileno():
                    self._hear(poller)
                elif number in self._clients:
                    self._answer(poller, number)

    def _hear(self, poller: select.poll) -> None:
        """Handle a message from the caller. If the caller is gone, the change goes on."""
        word, content = receive(self._channel)
        if word is None:
            poller.unregister(self._channel)
        elif word == "confirm":
            self._over, self._by = "confirmed", content
        elif word == "roll back":
            self._over = "refused"

    def _accept(self, poller: select.poll) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        client.setblocking(False)
        self._clients[client.fileno()] = client, bytearray()
        poller.register(client, select.POLLIN)

    def _answer(self, poller: select.poll, number: int) -> None:
        client, data = self._clients[number]
        try:
            part = client.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        data += part
        if part and b"\n" not in data and len(data) < 65536:
            return
        try:
            answer = self._reply_to(client, json.loads(data)) if data else None
            if answer:
                client.sendall(json.dumps(answer).encode() + b"\n")
        except (OSError, ValueError, AttributeError):
            pass
        poller.unregister(client)
        del self._clients[number]
        client.close()

    def _reply_to(self, client: Any, request: Any) -> Any:
        pid, user = pending.peer_of(client)
        if user not in (os.geteuid(), 0):
            return {"state": "refused"}
        if request.get("do") == "confirm":
            self._over, self._by = "confirmed", f"process {pid}"
            return {"state": "confirmed", "note": {**self._noted, "state": "confirmed"}}
        if request.get("do") == "roll back":
            self._over = "refused"
            return {"state": "rolling back"}
        return {"state": "pending"}

    # taking back

    def _plan_back(self) -> None:
        """Plan the way back while there is time. If the ruleset changes after that, it is planned again."""
        try:
            self._back = planning.plan_at(self._place, self._old, self._scope, True)
        except (IPTCError, MemoryError):
            pass

    def _take_back(self) -> Any:
        """Restore the old ruleset, and try again until that is done. Return the last error if it is not, else None."""
        end = time.monotonic() + _GIVE_UP
        settings = {"wait": _STRAIGHT_AWAY, "lock_file": self._job["lock_file"]}
        while True:
            try:
                plan, self._back = self._back, None
                if not plan:
                    plan = planning.plan_at(self._place, self._old, self._scope, True)
                if plan:
                    plan.apply(**settings)
                if not plan or settings["lock_file"] is not False or self._job["lock_file"] is False:
                    return None
            except LockTimeout:
                # the process that holds the lock may hang. The rules must come back, and the kernel accepts them
                # without the lock
                settings["lock_file"] = False
            except BaseException as error:
                if time.monotonic() > end:
                    return error
                time.sleep(_PAUSE)
