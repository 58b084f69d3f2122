"""Makes nfnetlink_log the logger of a network namespace while packets are traced. Legacy xtables reports through it.

A small helper process sets the old logger again at the end. It outlives the program that traces, in whatever way that
ends, and keeps group 0 of nfnetlink_log until it is done.
"""

from __future__ import annotations

import errno
import os
import socket
import sys

from ..detached import run_detached
from ..errors import IPTCError, Unsupported, kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..namespace import Place

_FAMILIES = (2, 10)
_PATH = "/proc/sys/net/netfilter/nf_log/{}"
_WANTED = b"nfnetlink_log"

_HELPER = """
import os, select, signal, sys
if os.fork():
    os._exit(0)
for name in ("HUP", "INT", "QUIT", "TERM", "PIPE", "TSTP", "TTIN", "TTOU", "USR1", "USR2", "ALRM"):
    signal.signal(getattr(signal, "SIG" + name), signal.SIG_IGN)
channel, life, wanted = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
loggers = [(int(word), old.encode()) for word, _, old in (word.partition(":") for word in sys.argv[4:])]
waiting = select.poll()
waiting.register(channel, select.POLLIN)
if life >= 0:
    waiting.register(life, select.POLLIN)
os.write(channel, b"r")
waiting.poll()
for logger, old in loggers:
    try:
        if os.pread(logger, 256, 0).strip() == wanted:
            os.pwrite(logger, old, 0)
    except OSError:
        pass
"""
"""The program of the helper: it waits until this process tells it to or has ended, and writes the old names of the
loggers."""


class Logger:
    """Makes nfnetlink_log the logger of IPv4 and IPv6 in *place*, until `close`, or until the process ends in any way.

    *group* is the socket to which group 0 is bound.
    """

    def __init__(self, place: Place, group: int) -> None:
        self._channel: socket.socket | None = None
        opened: list[tuple[int, bytes]] = []
        try:
            with place.open() as there:
                for family in _FAMILIES:
                    path = _PATH.format(family).encode()
                    try:
                        logger = there.open_file(path, os.O_RDWR)
                    except FileNotFoundError:
                        continue  # the kernel does not have this family
                    except OSError as error:
                        raise _refusal(error) from None
                    opened.append((logger, os.pread(logger, 256, 0).strip()))
            changed = [(logger, old) for logger, old in opened if old != _WANTED]
            if not changed:
                return
            self._start(changed, group)
            for logger, _ in changed:
                try:
                    os.pwrite(logger, _WANTED, 0)
                except OSError as error:
                    raise _refusal(error) from None
        except BaseException:
            self.close()
            raise
        finally:
            for logger, _ in opened:
                os.close(logger)

    def _start(self, loggers: list[tuple[int, bytes]], group: int) -> None:
        """Start the helper, and wait until it ignores all signals that could end it."""
        if not sys.executable:
            raise IPTCError("there is no Python interpreter (sys.executable) to put the logger back with")
        self._channel, there = socket.socketpair()
        life = -1
        try:
            try:
                life = os.pidfd_open(os.getpid())
            except OSError:
                # before Linux 5.3 there are no pidfds: the helper sees our end by the end of the channel
                pass
            words = [f"{logger}:{os.fsdecode(old)}" for logger, old in loggers]
            numbers = [there.fileno(), group, *(logger for logger, _ in loggers), *([life] if life >= 0 else [])]
            run_detached(_HELPER, [str(there.fileno()), str(life), os.fsdecode(_WANTED), *words], numbers)
            there.close()
            if self._channel.recv(1) != b"r":
                raise IPTCError("the process that puts the logger back could not be started")
        except OSError as error:
            if isinstance(error, IPTCError):
                raise
            raise IPTCError(f"the process that puts the logger back could not be started: {error.strerror}") from None
        finally:
            there.close()
            if life >= 0:
                os.close(life)

    def drop(self) -> None:
        """Forget the helper, in a child after a fork: the helper belongs to the parent."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def close(self) -> None:
        """Let the helper set the old logger again, and wait until it has done so."""
        channel, self._channel = self._channel, None
        if channel is None:
            return
        with channel:
            try:
                channel.send(b"x")
                channel.recv(1)
            except OSError:
                pass


def _refusal(error: OSError) -> Exception:
    what = "can't let the kernel report of legacy tables"
    if error.errno == errno.EROFS:
        return Unsupported(f"{what}: /proc/sys is read-only here, as in most containers; trace from outside (netns=)")
    return kernel_error(what, error.errno, error.strerror)
