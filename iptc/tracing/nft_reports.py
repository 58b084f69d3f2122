"""The trace reports of nf_tables: which rule of which table a traced packet has matched (`NFT_MSG_TRACE`)."""

from __future__ import annotations

import struct

from ..watching.multicast import Listener, fields, messages_of_datagram
from .headers import read_headers
from .report import POLICY, RETURN, RULE, Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..namespace import Place

_GROUP_TRACE = 9  # NFNLGRP_NFTRACE
_TRACE = 10 << 8 | 17  # NFNL_SUBSYS_NFTABLES, NFT_MSG_TRACE

# NFTA_TRACE_*
_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _IDENTITY = 1, 2, 3, 4, 5, 6
_NETWORK, _TRANSPORT, _IIF, _OIF, _MARK, _NFPROTO, _POLICY = 8, 9, 10, 12, 14, 15, 16

_VERDICT_CODE, _VERDICT_CHAIN = 1, 2  # NFTA_VERDICT_*
_KINDS = {1: POLICY, 2: RETURN, 3: RULE}  # NFT_TRACETYPE_*
_VERDICTS = {
    0: "DROP",
    1: "ACCEPT",
    2: "STOLEN",
    3: "QUEUE",
    4: "REPEAT",
    -1: "CONTINUE",
    -2: "BREAK",
    -3: "JUMP",
    -4: "GOTO",
    -5: "RETURN",
}
_IPV4, _IPV6 = 2, 10


class NftReports(Listener):
    """A socket on which nf_tables reports all traced packets of a network namespace, whichever program traces them."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, (_GROUP_TRACE,), "can't trace packets", counting=True)

    def read(self) -> list[Report]:
        """Return the reports since the last call, without waiting."""
        return [
            report
            for data in self.datagrams()
            for kind, family, message in messages_of_datagram(data)
            if kind == _TRACE and (report := _decoded(family, message)) is not None
        ]


def _number(data: bytes | None) -> int:
    return int.from_bytes(data, "big") if data else 0


def name_in(data: bytes) -> str:
    """Return the name in an attribute."""
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def verdict_name(code: int) -> str:
    """Return the name of verdict *code* of nf_tables, as the kernel writes it."""
    if code >= 0:
        code &= 0xFF  # the bits above are the number of a queue, or an errno
    return _VERDICTS.get(code, str(code))


def _decoded(family: int, message: bytes) -> Report | None:
    said = fields(message, 20)
    kind = _KINDS.get(_number(said.get(_TYPE)))
    if kind is None or _TABLE not in said or _CHAIN not in said:
        return None
    header = read_headers(said[_NETWORK], said.get(_TRANSPORT, b"")) if _NETWORK in said else None
    nfproto = _number(said.get(_NFPROTO)) or family
    if header is not None:
        nfproto = _IPV4 if header.version == 4 else _IPV6
    report = Report("nft", family, nfproto, name_in(said[_TABLE]), name_in(said[_CHAIN]), kind)
    report.identity = _number(said.get(_IDENTITY))
    report.handle = _number(said.get(_HANDLE))
    report.iif, report.oif = _number(said.get(_IIF)), _number(said.get(_OIF))
    report.mark = _number(said.get(_MARK))
    report.header = header
    if kind == POLICY:
        report.verdict = _VERDICTS.get(_number(said.get(_POLICY)), "ACCEPT")
    elif _VERDICT in said:
        verdict = fields(said[_VERDICT])
        if _VERDICT_CODE in verdict:
            report.verdict = verdict_name(struct.unpack("!i", verdict[_VERDICT_CODE])[0])
        if _VERDICT_CHAIN in verdict:
            report.to = name_in(verdict[_VERDICT_CHAIN])
    if kind == RETURN or kind == RULE and not report.handle:
        # newer kernels report the end of a chain as a rule without a handle
        report.kind, report.verdict = RETURN, "RETURN"
    return report
