"""A table of nf_tables that marks packets to be traced. The kernel deletes it when the socket that made it is
closed."""

from __future__ import annotations

import errno
import os
import struct

from .._netlink import Batch, Socket, attribute
from ..errors import Unsupported, kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._types import Condition, Family
    from ..namespace import Place

_OWNER = 2  # NFT_TABLE_F_OWNER
_ELEMENT, _NAME, _DATA, _NESTED = 1, 1, 2, 0x8000  # NFTA_LIST_ELEM, NFTA_EXPR_*, NLA_F_NESTED
_RULE_EXPRESSIONS = 4  # NFTA_RULE_EXPRESSIONS
_REGISTER, _VERDICT_REGISTER = 8, 0  # NFT_REG32_00, NFT_REG_VERDICT
_META_TRACE = 12  # NFT_META_NFTRACE
_META_PRIORITY, _CMP_NEQ, _DROP = 2, 1, 0  # NFT_META_PRIORITY, NFT_CMP_NEQ, NF_DROP
_JUMP, _ACCEPT = -3, 1  # NFT_JUMP, NF_ACCEPT
_LIMIT_RATE, _LIMIT_UNIT, _LIMIT_BURST = 1, 2, 3  # NFTA_LIMIT_*

PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)
FIRST, LAST = -301, 2147483646
"""The priorities of the chains: one directly before table raw, but after fragments are reassembled; one after all other
chains."""

CHOSEN = "chosen"
"""The name of the chain in which packets are marked."""

BEGINNINGS = {PREROUTING: "begin-prerouting", OUTPUT: "begin-output"}
ENDS = {INPUT: "end-input", POSTROUTING: "end-postrouting"}


def expression(name: bytes, data: bytes) -> bytes:
    """Return one expression of a rule."""
    return attribute(_ELEMENT | _NESTED, attribute(_NAME, name + b"\0") + attribute(_DATA | _NESTED, data))


def _number(value: int) -> bytes:
    return struct.pack("!I", value & 0xFFFFFFFF)


def _verdict(code: int, chain: str = "") -> bytes:
    verdict = attribute(1, _number(code)) + (attribute(2, chain.encode() + b"\0") if chain else b"")
    data = attribute(2 | _NESTED, attribute(2 | _NESTED, verdict))
    return expression(b"immediate", attribute(1, _number(_VERDICT_REGISTER)) + data)


def _rule(expressions: bytes) -> bytes:
    return attribute(_RULE_EXPRESSIONS | _NESTED, expressions)


def _limit(rate: int, burst: int) -> bytes:
    return expression(
        b"limit",
        attribute(_LIMIT_RATE, struct.pack("!Q", rate))
        + attribute(_LIMIT_UNIT, struct.pack("!Q", 1))
        + attribute(_LIMIT_BURST, _number(burst)),
    )


def _trace() -> bytes:
    value = attribute(2 | _NESTED, attribute(1, b"\1"))
    load = expression(b"immediate", attribute(1, _number(_REGISTER)) + value)
    return load + expression(b"meta", attribute(2, _number(_META_TRACE)) + attribute(3, _number(_REGISTER)))


def drop_unless_priority(priority: int) -> bytes:
    """Return a rule that drops all packets except those with this priority (SO_PRIORITY)."""
    register = attribute(1, _number(_REGISTER))
    load = expression(b"meta", register + attribute(2, _number(_META_PRIORITY)))
    value = attribute(3 | _NESTED, attribute(1, struct.pack("=I", priority)))
    differs = expression(b"cmp", register + attribute(2, _number(_CMP_NEQ)) + value)
    return _rule(load + differs + _verdict(_DROP))


class MarkTable:
    """A table for each family, whose rules make the kernel report packets.

    *conditions* choose the packets, as bytes of rules of nf_tables. At most *limit* packets of a family are chosen in a
    second, with a *burst*; None chooses all. The table also has a chain after all others at INPUT and at POSTROUTING:
    its reports say that a packet has passed. The kernel deletes the table after `close`, or when the process ends in
    any way. `name` is the name of the table.
    """

    def __init__(
        self,
        place: Place,
        conditions: Sequence[Condition],
        limit: int | None = None,
        burst: int | None = None,
    ) -> None:
        self.name = f"iptc-trace-{os.urandom(4).hex()}"
        with place.open() as there:
            self._socket = Socket(there)
        try:
            self._send(conditions, limit, burst)
        except BaseException:
            self.close()
            raise

    def _send(self, conditions: Sequence[Condition], limit: int | None, burst: int | None) -> None:
        batch = Batch()
        label = self.name.encode()
        marking = (b"" if limit is None else _limit(limit, burst or limit)) + _trace() + _verdict(_ACCEPT)
        for family in dict.fromkeys(family for family, *_ in conditions):
            batch.add_table(family, label, _OWNER)
            batch.add_chain(family, label, CHOSEN.encode())
            batch.add_rule(family, label, CHOSEN.encode(), _rule(marking))
            for names, priority in ((BEGINNINGS, FIRST), (ENDS, LAST)):
                for hook, name in names.items():
                    batch.add_base_chain(family, label, name.encode(), hook, b"filter", priority, 1)
            for name in ENDS.values():
                # an accepting rule: the kernel reports it once, and does not also report the end of the chain
                batch.add_rule(family, label, name.encode(), _rule(_verdict(_ACCEPT)))
        numbers = [
            batch.add_rule(
                family,
                label,
                BEGINNINGS[hook].encode(),
                _rule(expressions + _verdict(_JUMP, CHOSEN)) + beside,
            )
            for family, hook, expressions, beside in conditions
        ]
        refused = self._socket.send(batch)
        if refused:
            number, code, _ = refused[0]
            raise _refusal(code, number in numbers)

    def close(self) -> None:
        """Delete the table."""
        self._socket.close()


def _refusal(code: int, of_condition: bool) -> Exception:
    if of_condition and code in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
        return Unsupported(
            f"the kernel can't choose packets by this specification where they come in: {os.strerror(code)}"
        )
    if code in (errno.EOPNOTSUPP, errno.EINVAL):
        return Unsupported("this kernel has no tables with an owner (Linux 5.12)")
    return kernel_error("can't trace packets", code, os.strerror(code))


def everything(families: Sequence[Family]) -> list[Condition]:
    """Return conditions that all packets fulfil."""
    return [(family, hook, b"", b"") for family in families for hook in BEGINNINGS]
