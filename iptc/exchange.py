"""Asks the kernel by netlink, whatever the protocol: one message, and its answers.

Commits of nf_tables and its large dumps have a transport of their own, `_netlink`.
"""

from __future__ import annotations

import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

REQUEST, ACK, DUMP = 1, 4, 0x300  # NLM_F_*
CREATE, EXCL, REPLACE = 0x400, 0x200, 0x100
_ERROR, _DONE = 2, 3  # NLMSG_*
_HEAD = struct.Struct("=IHHII")


class Exchange:
    """Messages and answers on *channel*, an open netlink socket, which it closes at its end."""

    def __init__(self, channel: socket.socket) -> None:
        self._socket = channel
        self._sequence = 0

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def ask(
        self, kind: int, flags: int, body: bytes, words: Callable[[int], str] = os.strerror
    ) -> Iterator[tuple[int, bytes]]:
        """Send a message, and yield its answers: (kind, the bytes after the netlink header).

        The kernel answers a dump part by part, and all else before `send` returns. `OSError` if it refuses the message,
        with the *words* for its errno.
        """
        self._sequence += 1
        self._socket.send(_HEAD.pack(16 + len(body), kind, REQUEST | flags, self._sequence, 0) + body)
        while True:
            data = self._socket.recv(1 << 18)
            while len(data) >= 16:
                length, kind, _, sequence, _ = _HEAD.unpack_from(data)
                if sequence == self._sequence:
                    if kind == _ERROR:
                        (code,) = struct.unpack_from("=i", data, 16)
                        if code:
                            raise OSError(-code, words(-code))
                        return
                    if kind == _DONE:
                        return
                    yield kind, data[16:length]
                    if not flags & (ACK | DUMP):
                        return
                data = data[(length + 3) & ~3 :]
