"""Describes counters that one process hands over to another: how they are added up, and to which rules they belong.

The description is the content of a sealed memfd. The reader trusts nothing in it: each number is checked here, or where
it is used (`handed`).
"""

from __future__ import annotations

import binascii
import fcntl
import json
import os
import struct

from ..errors import IPTCError, ParameterError, Unsupported, kernel_error
from .image import number_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._types import Chains

FORM = 1
"""The version of the format. A reader of another version refuses it."""

MOST_BYTES = 1 << 31
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""The seals after which the memfd can never change again."""

_MAGIC = b"iptc fds"
_HEAD = struct.Struct("<8sIIQQQQQQ")
"""The magic, the form, the CRC of all that follows it, and the length of each part."""

_CHECKED = 16
"""The offset of the first byte that the CRC covers."""


class Parcel:
    """The content of the memfd: see `pack`."""

    __slots__ = (
        "table",
        "ipv6",
        "backend",
        "generation",
        "set",
        "cpus",
        "stride",
        "kept",
        "traced",
        "slots",
        "rules",
        "rule",
        "policy",
        "chains",
        "spots",
        "sheets",
        "pieces",
        "identities",
        "_texts",
    )

    def __init__(self, said: dict[str, Any], parts: list[bytes]) -> None:
        self.table = _text(said["table"])
        self.ipv6 = _flag(said["ipv6"])
        self.backend = _text(said["backend"])
        self.generation = number_below(said["generation"], 1 << 64)
        self.set = number_below(said["set"], 1 << 64)
        self.cpus = number_below(said["cpus"], 1 << 16)
        self.stride = number_below(said["stride"], 1 << 31)
        self.kept = _flag(said["kept"])
        self.traced = _flag(said["traced"])
        self.slots = number_below(said["slots"], 1 << 31)
        self.rules = number_below(said["rules"], self.slots + 1)
        self.rule = _format(said["rule"])
        self.policy = _format(said["policy"])
        self.chains = _chains(said["chains"], self.rules, self.slots - self.rules)
        self.spots, self.sheets, self.pieces, self.identities, self._texts = parts
        if len(self.identities) != 8 * self.rules:
            raise ValueError(f"{len(self.identities)} bytes of identities for {self.rules} rules")

    def texts(self) -> list[tuple[str, str | None, str]]:
        """Return (text, comment, target) of each rule."""
        try:
            said = json.loads(self._texts)
            if type(said) is not list or len(said) != self.rules:
                raise ValueError("texts of other rules")
            return [(_text(text), None if note is None else _text(note), _text(name)) for text, note, name in said]
        except (ValueError, TypeError, RecursionError) as error:
            raise _damaged(error) from None


def pack(
    said: dict[str, Any], spots: bytes, sheets: bytes, pieces: bytes, identities: bytes, texts: list[Any]
) -> bytes:
    """Return the content of a memfd.

    *said*: the other attributes of `Parcel`, by name. *spots* and *sheets* are those of the plan by which counters are
    added up. *pieces* has (begin, size) of each copy in its page. *identities* has the identity of each rule. *texts*
    has (text, comment, target) of each rule.
    """
    parts = [json.dumps(said).encode(), spots, sheets, pieces, identities, json.dumps(texts).encode()]
    body = b"".join(parts)
    lengths = [len(part) for part in parts]
    head = _HEAD.pack(_MAGIC, FORM, 0, *lengths)
    return _HEAD.pack(_MAGIC, FORM, binascii.crc32(body, binascii.crc32(head[_CHECKED:])), *lengths) + body


def seals_of(descriptor: int) -> int | None:
    """Return the seals of a memfd, or None if the descriptor is not a memfd."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        return None


def read(descriptor: int) -> Parcel:
    """Return the content of a memfd. Raises `ParameterError` if it is not sealed, or if `pack` did not make it."""
    if (seals_of(descriptor) or 0) & SEALS != SEALS:
        raise ParameterError("the memfd with the description of the counters is not sealed: somebody may change it")
    content = _content(descriptor)
    if len(content) < _HEAD.size or not content.startswith(_MAGIC):
        raise ParameterError("the memfd has no description of counters")
    _, form, checksum, *lengths = _HEAD.unpack_from(content)
    if form != FORM:
        raise Unsupported(f"another release of iptc has handed the counters over: in form {form}, and not {FORM}")
    if checksum != binascii.crc32(memoryview(content)[_CHECKED:]):
        raise _damaged("its checksum is wrong")
    if sum(lengths) != len(content) - _HEAD.size:
        raise _damaged("its parts have other lengths")
    parts, at = [], _HEAD.size
    for length in lengths:
        parts.append(content[at : at + length])
        at += length
    try:
        return Parcel(json.loads(parts[0]), parts[1:])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged(error) from None


def _content(descriptor: int) -> bytes:
    try:
        size = os.fstat(descriptor).st_size
        if size > MOST_BYTES:
            raise _damaged(f"it has {size} bytes")
        content = bytearray()
        while len(content) < size and (piece := os.pread(descriptor, size - len(content), len(content))):
            content += piece
        return bytes(content)
    except OSError as error:
        raise kernel_error(
            "can't read the description of the counters", error.errno or 0, str(error.strerror)
        ) from None


def _damaged(why: object) -> IPTCError:
    return ParameterError(f"the description of the counters is damaged: {why}")


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is no text")
    return value


def _format(value: Any) -> tuple[int, int, int]:
    """Return (size, offset of the packets, offset of the bytes) of a counter."""
    size, packets, sizes = (number_below(number, 4096) for number in value)
    if max(packets, sizes) + 8 > size:
        raise ValueError(f"a counter of {size} bytes has nothing at {max(packets, sizes)}")
    return size, packets, sizes


def _chains(value: Any, rules: int, policies: int) -> Chains:
    """Return the chains as `Scan.chains` has them. Together they must have all rules, in their order."""
    chains, at = [], 0
    for name, policy, first, end in value:
        chains.append((_text(name), None if policy is None else _text(policy), first, number_below(end, rules + 1)))
        if number_below(first, rules + 1) != at or end < at:
            raise ValueError(f"chain {name!r} has the rules from {first} to {end}")
        at = end
    if at != rules or policies != sum(policy is not None for _, policy, _, _ in chains):
        raise ValueError("chains with other rules or policies")
    if len({name for name, *_ in chains}) != len(chains):
        raise ValueError("two chains have one name")
    return tuple(chains)
