"""Makes sets of ipset in a bench: from a text or a dict, or as copies of the sets of a host."""

from __future__ import annotations

import errno
import ipaddress
import os
import shlex
import socket
import struct

from .._netlink import attribute, attributes
from ..errors import AccessDenied, KernelError, ParameterError, Unsupported
from ..exchange import ACK, CREATE, DUMP, EXCL, Exchange
from .packet_bytes import port_of, protocol_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .._netns import Namespace

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 6 << 8  # NFNL_SUBSYS_IPSET
_CREATE, _LIST, _ADD, _TYPE = 2, 7, 9, 13  # IPSET_CMD_*
_NESTED, _NET_ORDER = 0x8000, 0x4000
_PROTOCOL_VERSION = 6

# IPSET_ATTR_*
_PROTOCOL, _SETNAME, _TYPENAME, _REVISION, _FAMILY, _DATA, _ADT, _LINENO = 1, 2, 3, 4, 5, 7, 8, 9
_IP, _IP_TO, _CIDR, _PORT, _PORT_TO, _TIMEOUT, _PROTO, _FLAGS, _MARK, _MARKMASK = 1, 2, 3, 4, 5, 6, 7, 8, 10, 11
_HASHSIZE, _MAXELEM, _NETMASK, _BUCKETSIZE, _SIZE = 18, 19, 20, 21, 23
_ETHER, _NAME, _IP2, _CIDR2, _IFACE, _COMMENT = 17, 18, 20, 21, 23, 26
_SAID_ONLY = frozenset({24, 25, 26})
"""ELEMENTS, REFERENCES and MEMSIZE: the kernel reports them, but does not accept them when a set is made."""
_ADDRESSES = frozenset({1, 2, 20, 22})

_PHYSDEV, _NOMATCH, _COUNTERS, _COMMENTS, _FORCEADD, _SKBINFO = 2, 4, 8, 16, 32, 64  # IPSET_FLAG_*
_NUMBERS = {"hashsize": _HASHSIZE, "maxelem": _MAXELEM, "timeout": _TIMEOUT, "markmask": _MARKMASK, "size": _SIZE}
_OCTETS = {"netmask": _NETMASK, "bucketsize": _BUCKETSIZE}
_WORDS = {"counters": _COUNTERS, "comment": _COMMENTS, "forceadd": _FORCEADD, "skbinfo": _SKBINFO}


class Sets:
    """A socket of ipset in the namespace *there*."""

    def __init__(self, there: Namespace) -> None:
        self._kernel = Exchange(
            socket.socket(fileno=there.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER))
        )

    def __enter__(self) -> Sets:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._kernel.close()

    def _ask(self, command: int, flags: int, body: bytes, family: int = socket.AF_INET) -> Iterator[bytes]:
        """Send a request, and yield the attributes of the answers. Raises `OSError` with the kernel's errno."""
        body = attribute(_PROTOCOL, bytes([_PROTOCOL_VERSION])) + body
        head = struct.pack("!BBH", family, 0, 0)
        for _, answer in self._kernel.ask(_SUBSYSTEM | command, flags, head + body, _words_of):
            yield answer[4:]

    def create(self, name: str, kind: str, revision: int, family: int, options: bytes) -> None:
        """Create a set."""
        body = attribute(_SETNAME, _text(name)) + attribute(_TYPENAME, _text(kind))
        body += attribute(_REVISION, bytes([revision])) + attribute(_FAMILY, bytes([family]))
        list(self._ask(_CREATE, ACK | CREATE | EXCL, body + attribute(_DATA | _NESTED, options)))

    def add(self, name: str, elements: bytes) -> None:
        """Add elements to a set; each element is a nested attribute."""
        body = attribute(_SETNAME, _text(name)) + attribute(_LINENO, bytes(4))
        list(self._ask(_ADD, ACK, body + attribute(_ADT | _NESTED, elements)))

    def revision(self, kind: str, family: int) -> int:
        """Return the newest revision of a type of set that the kernel has."""
        body = attribute(_TYPENAME, _text(kind)) + attribute(_FAMILY, bytes([family]))
        (answer,) = self._ask(_TYPE, 0, body)
        return dict(attributes(answer))[_REVISION][0]

    def dump(self) -> Iterator[tuple[str, str, int, int, bytes, bytes]]:
        """Yield (name, type, revision, family, options, elements) of all sets, a large set in several parts."""
        for answer in self._ask(_LIST, DUMP, b""):
            said = dict(attributes(answer))
            if _SETNAME in said and _TYPENAME in said:
                name, kind = (said[key].rstrip(b"\0").decode() for key in (_SETNAME, _TYPENAME))
                options = said.get(_DATA, b"")
                yield name, kind, said[_REVISION][0], said[_FAMILY][0], options, said.get(_ADT, b"")


def copy_sets_of(here: Namespace, there: Namespace) -> list[str]:
    """Copy the sets of the namespace *here* into *there*. Return sentences about what could not be copied."""
    try:
        _copy_sets(here, there)
    except OSError as error:
        return [f"no sets of the host: {error.strerror}"]
    return []


def _copy_sets(here: Namespace, there: Namespace) -> None:
    made: dict[str, None] = {}
    with Sets(here) as source, Sets(there) as target:
        try:
            parts = list(source.dump())
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                return  # the kernel has no ipset
            raise
        for name, kind, revision, family, options, _ in parts:
            if name not in made:
                made[name] = None
                target.create(name, kind, revision, family, _again(options, _SAID_ONLY))
        for name, _, _, _, _, elements in parts:
            if elements:
                whole = (attribute(_DATA | _NESTED, _again(element)) for _, element in attributes(elements))
                target.add(name, b"".join(whole))


def _again(data: bytes, without: frozenset[int] = frozenset()) -> bytes:
    """Return the attributes that the kernel has reported of a set or an element, in the form in which it accepts them.
    For an address it wants a flag that gives the byte order, which it does not report."""
    found = b""
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        value = data[4:length]
        if kind & 0x3FFF in _ADDRESSES:
            inner = b"".join(attribute(number | _NET_ORDER, packed) for number, packed in attributes(value))
            found += attribute(kind, inner)
        elif kind & 0x3FFF not in without:
            found += attribute(kind, value)
        data = data[(length + 3) & ~3 :]
    return found


def _words_of(code: int) -> str:
    """Return what an errno of ipset means. Those from 4096 on are ipset's own."""
    return os.strerror(code) if code < 4096 else f"error {code} of ipset"


def _text(name: str) -> bytes:
    return name.encode() + b"\0"


# ----------------------------------------------------------------- from a text


def make_sets(there: Namespace, given: Any) -> None:
    """Make sets in the namespace *there*.

    *given* is a text as `ipset save` prints it, {name: entries}, or {name: (type, entries)}. The default type is
    hash:net, of the family of the entries."""
    lines = given.splitlines() if isinstance(given, str) else _lines_of(given)
    try:
        with Sets(there) as sets:
            kinds: dict[str, tuple[str, int]] = {}
            for number, line in enumerate(lines, 1):
                words = shlex.split(line, comments=True)
                try:
                    if words:
                        _do(sets, words, kinds)
                except (KeyError, IndexError, ValueError, ParameterError) as error:
                    raise ParameterError(f"line {number} of the sets: {line!r}: {error}") from None
                except OSError as error:
                    if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL, errno.EPROTONOSUPPORT):
                        raise
                    raise KernelError(f"line {number} of the sets: {line!r}: {error.strerror}", error.errno) from None
    except KernelError:
        raise
    except OSError as error:
        if error.errno == errno.EPERM:
            raise AccessDenied("can't make sets", errno.EPERM, error.strerror) from None
        raise Unsupported(f"this kernel can't make these sets (ip_set and its modules): {error.strerror}") from None


def names_of(given: Any) -> set[str]:
    """Return the names of the sets in *given*; see `make_sets`."""
    if given is None:
        return set()
    lines = given.splitlines() if isinstance(given, str) else _lines_of(given)
    return {words[1] for line in lines if (words := line.split())[:1] in (["create"], ["-N"]) and len(words) > 1}


def _lines_of(given: Any) -> list[str]:
    lines = []
    for name, said in given.items():
        if len(said) == 2 and not isinstance(said, str) and isinstance(list(said)[1], (list, tuple)):
            kind, entries = said
        else:
            entries = said
            six = any(":" in str(entry) for entry in entries)
            kind = "hash:net family inet6" if six else "hash:net"
        lines.append(f"create {name} {kind}")
        lines += [f"add {name} {entry}" for entry in entries]
    return lines


def _do(sets: Sets, words: list[str], kinds: dict[str, tuple[str, int]]) -> None:
    verb, name, *rest = words
    if verb in ("create", "-N", "-exist"):
        kind, *options = rest
        family = int(socket.AF_INET)
        if "family" in options and options[options.index("family") + 1] == "inet6":
            family = socket.AF_INET6
        number = 0 if kind == "bitmap:port" or kind == "list:set" else family
        kinds[name] = kind, family
        sets.create(name, kind, sets.revision(kind, number), number, _options(kind, options))
    elif verb in ("add", "-A"):
        kind, family = kinds[name]
        sets.add(name, attribute(_DATA | _NESTED, _element(kind, family, rest[0], rest[1:])))
    else:
        raise ParameterError(f"{verb} is not known: create and add are")


def _number(value: str) -> bytes:
    return struct.pack("!I", int(value, 0))


def _options(kind: str, words: list[str]) -> bytes:
    found, flags = b"", 0
    while words:
        word = words.pop(0)
        if word in _WORDS:
            flags |= _WORDS[word]
            continue
        value = words.pop(0)
        if word in _NUMBERS:
            found += attribute(_NUMBERS[word] | _NET_ORDER, _number(value))
        elif word in _OCTETS:
            found += attribute(_OCTETS[word], bytes([int(value)]))
        elif word == "range":
            found += _range(kind, value)
        elif word not in ("family", "initval"):
            raise ParameterError(f"the option {word} is not known")
    return found + (attribute(_FLAGS | _NET_ORDER, struct.pack("!I", flags)) if flags else b"")


def _range(kind: str, value: str) -> bytes:
    if kind == "bitmap:port":
        first, _, last = value.partition("-")
        return _port(_PORT, first) + _port(_PORT_TO, last or first)
    if "/" in value:
        network = ipaddress.ip_network(value)
        return _address(_IP, network.network_address) + attribute(_CIDR, bytes([network.prefixlen]))
    first, _, last = value.partition("-")
    return _address(_IP, ipaddress.ip_address(first)) + _address(_IP_TO, ipaddress.ip_address(last or first))


def _port(kind: int, value: str) -> bytes:
    return attribute(kind | _NET_ORDER, struct.pack("!H", port_of(value)))


def _address(kind: int, address: Any) -> bytes:
    inner = attribute((1 if address.version == 4 else 2) | _NET_ORDER, address.packed)
    return attribute(kind | _NESTED, inner)


def _element(kind: str, family: int, entry: str, words: list[str]) -> bytes:
    """Return the attributes of one element."""
    method, _, names = kind.partition(":")
    parts = entry.split(",")
    found, flags, second = b"", 0, False
    for name, part in zip(names.split(","), parts):
        if name in ("ip", "net"):
            found += _network(part, second, name)
            second = True
        elif name == "port":
            found += _port_with_protocol(part, method)
        elif name == "iface":
            if part.startswith("physdev:"):
                flags, part = flags | _PHYSDEV, part.partition(":")[2]
            found += attribute(_IFACE, _text(part))
        elif name == "mac":
            found += attribute(_ETHER, bytes.fromhex(part.replace(":", "")))
        elif name == "mark":
            found += attribute(_MARK | _NET_ORDER, _number(part))
        elif name == "set":
            found += attribute(_NAME, _text(part))
        else:
            raise ParameterError(f"sets of type {kind} are not known")
    if len(parts) != len(names.split(",")):
        raise ParameterError(f"no element of a set of type {kind}: {entry!r}")
    while words:
        word = words.pop(0)
        if word == "nomatch":
            flags |= _NOMATCH
        elif word == "timeout":
            found += attribute(_TIMEOUT | _NET_ORDER, _number(words.pop(0)))
        elif word == "comment":
            found += attribute(_COMMENT, _text(words.pop(0)))
        elif word in ("packets", "bytes", "skbmark", "skbprio", "skbqueue"):
            words.pop(0)
        else:
            raise ParameterError(f"the option {word} is not known")
    return found + (attribute(_FLAGS | _NET_ORDER, struct.pack("!I", flags)) if flags else b"")


def _network(part: str, second: bool, name: str) -> bytes:
    """Return the attributes of an address, a network or a range. *second*: it is the second one of an element, and so
    has other attributes."""
    address, cidr = (_IP2, _CIDR2) if second else (_IP, _CIDR)
    if "-" in part and not second:
        first, _, last = part.partition("-")
        return _address(_IP, ipaddress.ip_address(first)) + _address(_IP_TO, ipaddress.ip_address(last))
    network = ipaddress.ip_network(part, strict=False)
    found = _address(address, network.network_address)
    if name == "net" or network.prefixlen != network.max_prefixlen:
        found += attribute(cidr, bytes([network.prefixlen]))
    return found


def _port_with_protocol(part: str, method: str) -> bytes:
    protocol, colon, ports = part.rpartition(":")
    first, _, last = ports.partition("-")
    found = _port(_PORT, first) + (_port(_PORT_TO, last) if last else b"")
    if method == "bitmap":
        return found
    return found + attribute(_PROTO, bytes([protocol_of(protocol if colon else "tcp")]))
