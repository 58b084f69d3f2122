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
"""Seconds after which a note is deleted if no process holds it."""

_PATIENCE = 10
"""Seconds to wait for the answer of a watchdog."""


def folder(path: Path | None = None) -> str:
    """Return the folder of the notes: *path*, `IPTC_STATE_DIR`, root's /run/iptc, or $XDG_RUNTIME_DIR/iptc.

    It is created if it does not exist.
    """
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
    """The note of one network namespace: a file, which the watchdog of a change keeps locked, and a socket of the
    watchdog."""

    def __init__(self, path: str, cookie: int) -> None:
        self._folder = path
        self._note = os.path.join(path, f"netns-{cookie}")
        self._name = f"netns-{cookie}.socket"
        self._lock = -1

    # used by the watchdog

    def take(self) -> None:
        """Lock the note for as long as this process lives. Raises `IPTCError` if another change is pending."""
        for _ in range(_ATTEMPTS):
            lock = os.open(self._note, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), os.stat(self._note)):
                    self._lock = lock
                    break
            except BlockingIOError:
                # a process that checks whether the file is locked holds the lock for a moment too
                time.sleep(0.01)
            except FileNotFoundError:
                # another process has just deleted the old note
                pass
            os.close(lock)
        else:
            raise IPTCError("another change waits to be confirmed: see `iptc confirm --status'")
        self._delete_old()

    def _delete_old(self) -> None:
        """Delete the notes that nobody has written to for a day: their namespaces may be gone."""
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
                # another process deletes it, or it is in use
                pass

    def bind(self) -> socket.socket:
        """Return a bound socket for requests. It answers once it listens."""
        place = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            # bound by the descriptor of the folder, since the path of a socket must be short (108 bytes)
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
        """Write the dict *note* over the old one."""
        data = json.dumps(note).encode()
        os.pwrite(self._lock, data.ljust(max(len(data), os.fstat(self._lock).st_size)), 0)

    # used by any process

    def read(self) -> tuple[dict[str, Any] | None, bool]:
        """Return (the note, whether its writer still watches), or (None, False) if there is no note."""
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
        """Send the dict *request* to the watchdog, and return its answer. Raises `NotFound` if no change is pending."""
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
    """Return one line from *channel*. Raises `ValueError` if the channel ends before the line does."""
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


def wait_readable(files: Iterable[Any], seconds: float | None = None) -> set[int]:
    """Wait until one of *files* can be read, but at most *seconds*. Return the descriptors of those that can be
    read."""
    poller = select.poll()
    for file in files:
        poller.register(file, select.POLLIN)
    return {number for number, _ in poller.poll(None if seconds is None else seconds * 1000)}


def peer_of(channel: socket.socket) -> tuple[int, int]:
    """Return (process id, user id) of the process at the other end of a UNIX socket."""
    pid, user, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, user


def session_of(pid: int | str = "self") -> dict[str, Any]:
    """Return what identifies the session of a process: {"sid", "tty", "audit", "since"}.

    "since" is when the first process of the session began, in ticks. None stands for an unknown value: there is no
    terminal or no audit session, or the first process has ended.
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
    """Return the time since the start of the system in ticks, the unit of /proc/PID/stat."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def proves_nothing(session: dict[str, Any], note: dict[str, Any]) -> str | None:
    """Return why a confirmation from *session* does not prove that one can still log in, or None if it may prove that.

    *note* belongs to the change. It names the session that made the change, and the time.
    """
    applied = note.get("session") or {}
    same = any(session[key] is not None and session[key] == applied.get(key) for key in ("sid", "tty", "audit"))
    if same:
        return "this is the session that applied the change"
    if session["since"] is not None and session["since"] < note.get("ticks", 0):
        return "this session began before the change"
    return None


def _stat(pid: int | str) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, or [] if there is no such process."""
    text = _read(f"/proc/{pid}/stat")
    return text.rpartition(")")[2].split() if text else []


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def slot_of(netns: Netns = None, directory: Path | None = None) -> Slot:
    """Return the `Slot` of a network namespace."""
    return Slot(folder(directory), Place(netns).cookie)


def status(netns: Netns = None, directory: Path | None = None) -> dict[str, Any] | None:
    """Return a dict that describes the change that waits to be confirmed, or the last one, or None if there was none.

    Its "state" is "pending" while it can be confirmed, and "unwatched" if the watchdog that would take it back is gone.
    """
    note, watched = slot_of(netns, directory).read()
    if note is not None and not watched and note["state"] in ("armed", "pending", "rolling back"):
        note["state"] = "unwatched"
    return note


def confirm(netns: Netns = None, directory: Path | None = None) -> dict[str, Any]:
    """Keep the change that waits to be confirmed. Return its dict, as `status` does. Raises `NotFound` if none
    waits."""
    answer = slot_of(netns, directory).ask({"do": "confirm"})
    if answer["state"] != "confirmed":
        raise AccessDenied("only the user who made the change can confirm it", errno.EACCES, os.strerror(errno.EACCES))
    note: dict[str, Any] = answer["note"]
    return note
