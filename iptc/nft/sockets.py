"""Keeps sockets of nf_tables open between commits.

When a socket that sent deletions closes, the kernel waits for a grace period of some 15 ms. A kept socket spares that
wait. A socket also keeps its network namespace alive. So the tables that are open in a namespace share one `Sockets`
object, and its sockets are closed with the last of these tables.
"""

from __future__ import annotations

import os
import weakref

from .._netlink import Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from ..namespace import Place


_IDLE_MOST = 4
"""How many unused sockets of one namespace are kept, for as many threads that send at the same time."""

_NAMESPACES_MOST = 32
"""How many namespaces keep sockets. The sockets of the namespace that was used least recently are closed."""

_all: weakref.WeakValueDictionary[int, Sockets] = weakref.WeakValueDictionary()
"""cookie of a network namespace -> its `Sockets`."""

_recent: dict[int, None] = {}
"""The cookies of the namespaces whose sockets are kept, as keys. The namespace that was used last stands at the end."""


class Sockets:
    """The unused sockets of one network namespace."""

    __slots__ = ("cookie", "_idle", "_file", "_pid", "__weakref__")

    def __init__(self, cookie: int) -> None:
        self.cookie = cookie
        self._idle: list[Socket] = []
        self._file: tuple[int, int] | None = None
        self._pid = os.getpid()

    def lend(self, place: Place) -> _Loan:
        """Return a context manager that lends a socket in the namespace of *place*.

        Raises `KernelError` (ESTALE) if that is another namespace now.
        """
        return _Loan(self, place)

    def take(self, place: Place) -> Socket:
        """Return a socket that no other thread uses."""
        if self._pid != os.getpid():
            self.drop()
        with place.open() as there:
            if place.netns is None:
                place.check(there.cookie())
                same = True
            else:
                # a kept socket keeps the namespace alive, so no other namespace can have got this number
                same = there.file() == self._file
            while same and self._idle:
                try:
                    socket = self._idle.pop()
                except IndexError:
                    break  # another thread has taken the last one
                if socket.is_ready():
                    return socket
            socket = Socket(there)
            place.check(socket.cookie(there))
            self._file = there.file()
        return socket

    def give(self, socket: Socket) -> None:
        """Keep *socket* for the next user."""
        if self._pid != os.getpid() or len(self._idle) >= _IDLE_MOST:
            return
        self._idle.append(socket)
        _recent.pop(self.cookie, None)
        _recent[self.cookie] = None
        while len(_recent) > _NAMESPACES_MOST:
            oldest = next(iter(_recent), 0)  # 0 if another thread has emptied it
            _recent.pop(oldest, None)
            kept = _all.get(oldest)
            if kept is not None:
                kept.drop()

    def drop(self) -> None:
        """Close the kept sockets. After a fork they are the parent's, and the child only forgets them."""
        self._idle = []
        self._file = None
        self._pid = os.getpid()

    def __del__(self) -> None:
        _recent.pop(self.cookie, None)


class _Loan:
    """A context manager that takes a socket and gives it back."""

    __slots__ = ("_sockets", "_place", "_socket")

    def __init__(self, sockets: Sockets, place: Place) -> None:
        self._sockets = sockets
        self._place = place
        self._socket: Socket | None = None

    def __enter__(self) -> Socket:
        socket = self._socket = self._sockets.take(self._place)
        return socket

    def __exit__(self, *exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            self._sockets.give(socket)


def sockets_of(cookie: int) -> Sockets:
    """Return the `Sockets` of the network namespace with *cookie*. It exists as long as an object refers to it."""
    found = _all.get(cookie)
    if found is None:
        found = _all.setdefault(cookie, Sockets(cookie))
    return found


def _drop_in_child() -> None:
    for kept in list(_all.values()):
        kept.drop()


os.register_at_fork(after_in_child=_drop_in_child)
