"""The reports of legacy xtables: which rule of which table took a packet that is traced (group 0 of nfnetlink_log).

They come through the logger of the network namespace. The module `logger` sets nfnetlink_log as that logger.
"""

from __future__ import annotations

import errno
import os
import re
import struct

from .._netlink import attribute
from ..errors import Conflict, KernelError, kernel_error
from ..watching.multicast import Listener, fields, messages_of_datagram
from .headers import read_packet
from .report import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..namespace import Place

_SUBSYSTEM = 4  # NFNL_SUBSYS_ULOG
_PACKET, _CONFIG = 0, 1  # NFULNL_MSG_*
_ACK, _REQUEST = 4, 1  # NLM_F_*
_ERROR = 2  # NLMSG_ERROR
_GROUP = 0
_UNUSED_GROUP = 64738
_HEADER, _MARK, _IIF, _OIF, _PAYLOAD, _PREFIX = 1, 2, 4, 5, 9, 10  # NFULA_*
_CFG_COMMAND, _CFG_MODE, _CFG_QUEUE = 1, 2, 5  # NFULA_CFG_*
_BIND, _UNBIND = 1, 2  # NFULNL_CFG_CMD_*
_COPY_PACKET = 2  # NFULNL_COPY_PACKET
_COPIED = 256
"""How many bytes of each packet are reported: its headers."""

_PREFIX_OF = re.compile(rb"TRACE: ([^:]+):(.+):(rule|return|policy):(\d+) ?", re.DOTALL)


class LegacyReports(Listener):
    """A socket on which legacy xtables reports the traced packets of a network namespace.

    Raises `Conflict` if group 0 of nfnetlink_log belongs to another process.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place, (), "can't trace packets of legacy tables", counting=True)
        try:
            self._bind()
        except BaseException:
            self.close()
            raise

    def _bind(self) -> None:
        try:
            self._configure(_GROUP, _CFG_COMMAND, struct.pack("=B", _BIND))
        except KernelError as error:
            if error.errno not in (errno.EPERM, errno.EBUSY) or not self._may_bind():
                raise
            raise Conflict(
                "group 0 of nfnetlink_log is taken, in which the kernel reports of legacy tables: another tracer, or a "
                "daemon such as ulogd, listens to it",
                error.errno,
                os.strerror(error.errno),
            ) from None
        self._configure(_GROUP, _CFG_MODE, struct.pack("!IBB", _COPIED, _COPY_PACKET, 0))
        self._configure(_GROUP, _CFG_QUEUE, struct.pack("!I", 1))

    def _may_bind(self) -> bool:
        """Whether this process may use a group. The kernel gives the same errno for a group in use and for a missing
        capability."""
        try:
            self._configure(_UNUSED_GROUP, _CFG_COMMAND, struct.pack("=B", _UNBIND))
        except KernelError as error:
            return error.errno == errno.ENODEV
        return True

    def _configure(self, group: int, kind: int, data: bytes) -> None:
        """Send a message about a group. Raise if the kernel refuses it."""
        data = attribute(kind, data)
        head = struct.pack("=IHHII", 20 + len(data), _SUBSYSTEM << 8 | _CONFIG, _REQUEST | _ACK, 1, 0)
        self._socket.send(head + struct.pack("!BBH", 0, 0, group) + data)
        for answer in self.datagrams():
            for number, _, message in messages_of_datagram(answer):
                if number == _ERROR:
                    (code,) = struct.unpack_from("=i", message, 16)
                    if code:
                        raise kernel_error(self._what, -code, os.strerror(-code))

    def read(self) -> list[Report]:
        """Return the reports since the last call, without waiting."""
        return [
            report
            for data in self.datagrams()
            for kind, _, message in messages_of_datagram(data)
            if kind == _SUBSYSTEM << 8 | _PACKET and (report := _decoded(message)) is not None
        ]


def _number(data: bytes | None) -> int:
    return int.from_bytes(data, "big") if data else 0


def _decoded(message: bytes) -> Report | None:
    said = fields(message, 20)
    found = _PREFIX_OF.match(said.get(_PREFIX, b""))
    header = read_packet(said.get(_PAYLOAD, b""))
    if found is None or header is None:
        return None
    nfproto = 2 if header.version == 4 else 10
    table, chain = (name.decode("utf-8", "surrogateescape") for name in found.group(1, 2))
    report = Report("legacy", nfproto, nfproto, table, chain, found[3].decode())
    report.number = int(found[4])
    report.hook = said[_HEADER][2] if len(said.get(_HEADER, b"")) > 2 else None
    report.iif, report.oif = _number(said.get(_IIF)), _number(said.get(_OIF))
    report.mark = _number(said.get(_MARK))
    report.header = header
    return report
