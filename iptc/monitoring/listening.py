"""The sockets on which the endpoint listens: those that systemd passes, or new ones. Also reports to systemd."""

from __future__ import annotations

import os
import socket

from ..errors import IPTCError, ParameterError

_FIRST = 3
"""The first descriptor that systemd passes (SD_LISTEN_FDS_START)."""

BACKLOG = 1024
"""How many connections may wait to be accepted."""


def open_sockets(address: str) -> list[socket.socket]:
    """Return the sockets that systemd has passed (`LISTEN_FDS`), or sockets for *address*: `HOST:PORT`, `[::1]:PORT`,
    or `:PORT` for all addresses."""
    return _handed_over() or _bound(address)


def _handed_over() -> list[socket.socket]:
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not count.isdecimal() or pid != str(os.getpid()):
        return []
    try:
        sockets = [socket.socket(fileno=number) for number in range(_FIRST, _FIRST + int(count))]
    except OSError as error:
        raise IPTCError(f"can't use the sockets of LISTEN_FDS: {error.strerror}") from None
    for listening in sockets:
        os.set_inheritable(listening.fileno(), False)
        listening.setblocking(False)
    return sockets


def _bound(address: str) -> list[socket.socket]:
    host, port = _split(address)
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, where in dict.fromkeys(found):
            try:
                listening = socket.socket(family, kind, protocol)
            except OSError:
                if not host:
                    continue  # the kernel has no IPv6: IPv4 is enough for all addresses
                raise
            sockets.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(where)
            listening.listen(BACKLOG)
            listening.setblocking(False)
    except OSError as error:
        for listening in sockets:
            listening.close()
        raise IPTCError(f"can't listen on {address}: {error.strerror}") from None
    if not sockets:
        raise IPTCError(f"can't listen on {address}: there is no such address")
    return sockets


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ParameterError(f"no address to listen on: {address!r}; HOST:PORT is one")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host, int(port)


def name_of(listening: socket.socket) -> str:
    """Return the address of a socket in the form of a URL."""
    where = listening.getsockname()
    if not isinstance(where, tuple):
        return str(where)
    return f"[{where[0]}]:{where[1]}" if ":" in where[0] else f"{where[0]}:{where[1]}"


def tell_systemd(state: str) -> None:
    """Send *state*, such as `READY=1`, to systemd, if it wants it (`NOTIFY_SOCKET`)."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect("\0" + path[1:] if path[0] == "@" else path)
            channel.send(state.encode())
    except OSError:
        pass  # nobody listens: that is no reason to end the service
