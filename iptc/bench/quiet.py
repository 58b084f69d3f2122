"""Keeps the host of a bench quiet: it sends no packets except those that the bench sends as the host.

If no program listens, the host answers each packet of a connection with an error, and so ends the connection.
"""

from __future__ import annotations

import os

from .. import _core
from .._netlink import Batch, Socket
from ..errors import kernel_error
from ..tracing.mark import OUTPUT, drop_unless_priority

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..namespace import Place

PRIORITY = 0x69707463
"""The priority (SO_PRIORITY) of packets that the bench sends as the host. No rule changes it before it is tested."""

_FIRST = -1000
_CHAIN = b"output"
_FAMILIES = (_core.IPV4, _core.IPV6)


class Quiet:
    """A table of nf_tables at *place*. It drops the packets that the host makes by itself, or is empty. It is deleted
    when its socket is closed."""

    def __init__(self, place: Place) -> None:
        self._name = f"iptc-quiet-{os.urandom(4).hex()}".encode()
        with place.open() as there:
            self._socket = Socket(there)
        batch = Batch()
        for family in _FAMILIES:
            batch.add_table(family, self._name)
            batch.add_base_chain(family, self._name, _CHAIN, OUTPUT, b"filter", _FIRST, 1)
        self._send(batch)

    def close(self) -> None:
        """Close the socket of the table."""
        self._socket.close()

    def _send(self, batch: Batch) -> None:
        refused = self._socket.send(batch)
        if refused:
            raise kernel_error("can't let the host be quiet", refused[0][1], os.strerror(refused[0][1]))

    def __enter__(self) -> Quiet:
        batch = Batch()
        for family in _FAMILIES:
            batch.add_rule(family, self._name, _CHAIN, drop_unless_priority(PRIORITY))
        self._send(batch)
        return self

    def __exit__(self, *exc: object) -> None:
        batch = Batch()
        for family in _FAMILIES:
            batch.delete_rule(family, self._name, _CHAIN)
        self._send(batch)
