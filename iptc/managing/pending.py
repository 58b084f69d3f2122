"""Notes which change waits to be confirmed: at most one for each network namespace."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import socket
import stat
import struct
import time

from ..errors import AccessDenied, IPTCError, KernelError, NotFound, ParameterError
from ..namespace import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, BinaryIO

    from .._types import Netns, Path

_FOLDER = "/run/iptc"
_ATTEMPTS = 20
_OLD = 86400
"""Seconds after which a note that nobody holds is deleted."""

_PATIENCE = 10
"""Seconds to wait for the answer of a watchdog."""


def folder(path: Path | None = None) -> str:
    """The folder of the notes, made if needed: *path*, `IPTC_STATE_DIR`, root's /run/iptc, or $XDG_RUNTIME_DIR/iptc."""
    path = path or os.environ.get("IPTC_STATE_DIR")
    if path:
        return _made(os.path.abspath(os.fsdecode(path)))
    choices = [_FOLDER] if os.geteuid() == 0 else []
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    choices += [os.path.join(runtime, "iptc")] if runtime else []
    refused: Any = None
    for choice in choices:
        try:
            return _made(choice)
        except IPTCError as error:
            refused = error
    if refused is not None:
        refused.message += " (IPTC_STATE_DIR names another)"
        raise refused
    raise ParameterError("there is no folder for what waits to be confirmed: name one (IPTC_STATE_DIR)")


def _made(path: str) -> str:
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        there = os.stat(path)
    except OSError as error:
        kind = AccessDenied if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else KernelError
        raise kind(f"can't make folder {path}: {error.strerror}", error.errno, error.strerror) from None
    if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.geteuid() or there.st_mode & 0o022:
        raise AccessDenied(
            f"{path} must be a folder that only its owner, this user, can write to",
            errno.EACCES,
            os.strerror(errno.EACCES),
        )
    return path


class Slot:
    """The note of one network namespace: a file that whoever watches over a change holds locked, and a socket to ask
    it by.
    """

    def __init__(self, path: str, cookie: int) -> None:
        self._folder = path
        self._note = os.path.join(path, f"netns-{cookie}")
        self._name = f"netns-{cookie}.socket"
        self._lock = -1

    # by whom watches

    def take(self) -> None:
        """Hold the slot for as long as this process lives; `IPTCError` if another change is pending."""
        for _ in range(_ATTEMPTS):
            lock = os.open(self._note, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), os.stat(self._note)):
                    self._lock = lock
                    break
            except BlockingIOError:
                # who only looks whether it is locked holds it for a moment, too
                time.sleep(0.01)
            except FileNotFoundError:
                # it was old, and somebody has deleted it
                pass
            os.close(lock)
        else:
            raise IPTCError("another change waits to be confirmed: see `iptc confirm --status'")
        self._delete_old()

    def _delete_old(self) -> None:
        """Delete what was noted of namespaces that may be gone: notes that nobody has written to for a day."""
        for name in os.listdir(self._folder):
            path = os.path.join(self._folder, name)
            if not name.startswith("netns-") or name.endswith(".socket") or path == self._note:
                continue
            try:
                if time.time() - os.stat(path).st_mtime < _OLD:
                    continue
                with open(path, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(path)
                    os.unlink(f"{path}.socket")
            except OSError:
                # somebody else does it, or it is in use
                pass

    def bind(self) -> socket.socket:
        """A socket that others can ask by, once it listens."""
        place = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            # by way of the descriptor, since the name of a socket is short
            name = f"/proc/self/fd/{place}/{self._name}"
            try:
                os.unlink(name)
            except FileNotFoundError:
                pass
            listener.bind(name)
            os.chmod(name, 0o600)
        except BaseException:
            listener.close()
            raise
        finally:
            os.close(place)
        return listener

    def write(self, note: dict[str, Any]) -> None:
        """Write down *note*, a dict, over what was written."""
        data = json.dumps(note).encode()
        os.pwrite(self._lock, data.ljust(max(len(data), os.fstat(self._lock).st_size)), 0)

    # by anybody

    def read(self) -> tuple[dict[str, Any] | None, bool]:
        """The note, and whether the one who wrote it still watches; (None, False) if there is none."""
        busy = False
        try:
            with open(self._note, "rb") as file:
                busy = _is_locked(file)
                return json.loads(file.read() or "null"), busy
        except FileNotFoundError:
            return None, False
        except ValueError:
            return None, busy

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send *request*, a dict, to the one who watches, and return the answer; `NotFound` if nothing is pending."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(_PATIENCE)
                place = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    channel.connect(f"/proc/self/fd/{place}/{self._name}")
                finally:
                    os.close(place)
                channel.sendall(json.dumps(request).encode() + b"\n")
                answer: dict[str, Any] = json.loads(received_line(channel))
                return answer
        except (FileNotFoundError, ConnectionError, ValueError):
            raise NotFound("no change waits to be confirmed", errno.ENOENT, os.strerror(errno.ENOENT)) from None
        except OSError as error:
            if isinstance(error, IPTCError):
                raise
            raise KernelError(
                f"can't ask for what is pending: {error.strerror or error}", error.errno, error.strerror
            ) from None


def received_line(channel: socket.socket) -> bytes:
    """A line from *channel*; ValueError if it ends before."""
    data = b""
    while not data.endswith(b"\n"):
        part = channel.recv(65536)
        if not part:
            raise ValueError("no whole line")
        data += part
    return data


def _is_locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def readable(files: Iterable[Any], seconds: float | None = None) -> set[int]:
    """The descriptors of those of *files* that can be read, as soon as there is one, or after *seconds*."""
    poller = select.poll()
    for file in files:
        poller.register(file, select.POLLIN)
    return {number for number, _ in poller.poll(None if seconds is None else seconds * 1000)}


def peer_of(channel: socket.socket) -> tuple[int, int]:
    """(process id, user id) of whoever is at the other end of a UNIX socket."""
    pid, user, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, user


def session_of(pid: int | str = "self") -> dict[str, Any]:
    """What a process's session is known by: {"sid", "tty", "audit", "since"}; "since" is when its first process began,
    in ticks.

    None stands for what is not known: no terminal, no audit session, a first process that has gone.
    """
    fields = _stat(pid)
    sid, tty = int(fields[3]), int(fields[4])
    audit = _read(f"/proc/{pid}/sessionid")
    first = _stat(sid)
    return {
        "sid": sid,
        "tty": tty or None,
        "audit": int(audit) if audit not in ("", "4294967295") else None,
        "since": int(first[19]) if first else None,
    }


def ticks_now() -> int:
    """The time of this system in ticks, as /proc has them of processes."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def proves_nothing(session: dict[str, Any], note: dict[str, Any]) -> str | None:
    """Why a confirmation from *session* does not prove that one can still log in; None where it may.

    *note* is that of the change: it has the session that applied it, and when.
    """
    applied = note.get("session") or {}
    same = any(session[key] is not None and session[key] == applied.get(key) for key in ("sid", "tty", "audit"))
    if same:
        return "this is the session that applied the change"
    if session["since"] is not None and session["since"] < note.get("ticks", 0):
        return "this session began before the change"
    return None


def _stat(pid: int | str) -> list[str]:
    """The fields of /proc/PID/stat behind the name; [] if there is no such process."""
    text = _read(f"/proc/{pid}/stat")
    return text.rpartition(")")[2].split() if text else []


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def slot_of(netns: Netns = None, directory: Path | None = None) -> Slot:
    """The `Slot` of a network namespace."""
    return Slot(folder(directory), Place(netns).cookie)


def status(netns: Netns = None, directory: Path | None = None) -> dict[str, Any] | None:
    """Return what is known of the change that waits to be confirmed, or of the last one: a dict, or None if there was
    none.

    Its "state" is "pending" where it can be confirmed; "unwatched" where the process that would take it back is gone.
    """
    note, watched = slot_of(netns, directory).read()
    if note is not None and not watched and note["state"] in ("armed", "pending", "rolling back"):
        note["state"] = "unwatched"
    return note


def confirm(netns: Netns = None, directory: Path | None = None) -> dict[str, Any]:
    """Keep the change that waits to be confirmed, and return what is known of it; `NotFound` if there is none."""
    answer = slot_of(netns, directory).ask({"do": "confirm"})
    if answer["state"] != "confirmed":
        raise AccessDenied("only the user who made the change can confirm it", errno.EACCES, os.strerror(errno.EACCES))
    note: dict[str, Any] = answer["note"]
    return note
