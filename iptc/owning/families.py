"""Translates a rule specification of one family for the other family."""

from __future__ import annotations

from .. import _core
from ..language.words import split_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._types import Family

_PROTOCOLS = {_core.IPV4: "icmp", _core.IPV6: "ipv6-icmp"}
_PROTOCOL_NAMES = {"icmp", "1", "icmpv6", "icmp6", "ipv6-icmp", "58"}
_MATCHES = {_core.IPV4: "icmp", _core.IPV6: "icmp6"}
_TYPE_OPTIONS = {_core.IPV4: "--icmp-type", _core.IPV6: "--icmpv6-type"}

# (IPv4, IPv6) of types with the same meaning. If one family has fewer types, the first pair with a type is used
_TYPES = [
    ("echo-request", "echo-request"),
    ("ping", "echo-request"),
    ("8", "echo-request"),
    ("echo-request", "128"),
    ("echo-reply", "echo-reply"),
    ("pong", "echo-reply"),
    ("0", "echo-reply"),
    ("echo-reply", "129"),
    ("destination-unreachable", "destination-unreachable"),
    ("3", "destination-unreachable"),
    ("destination-unreachable", "1"),
    ("network-unreachable", "no-route"),
    ("host-unreachable", "address-unreachable"),
    ("port-unreachable", "port-unreachable"),
    ("communication-prohibited", "communication-prohibited"),
    ("fragmentation-needed", "packet-too-big"),
    ("fragmentation-needed", "2"),
    ("time-exceeded", "time-exceeded"),
    ("ttl-exceeded", "ttl-exceeded"),
    ("11", "time-exceeded"),
    ("time-exceeded", "3"),
    ("ttl-zero-during-transit", "ttl-zero-during-transit"),
    ("ttl-zero-during-reassembly", "ttl-zero-during-reassembly"),
    ("parameter-problem", "parameter-problem"),
    ("12", "parameter-problem"),
    ("parameter-problem", "4"),
    ("ip-header-bad", "bad-header"),
    ("router-advertisement", "router-advertisement"),
    ("router-solicitation", "router-solicitation"),
    ("redirect", "redirect"),
    ("5", "redirect"),
]

_REFUSALS = [
    ("icmp-port-unreachable", "icmp6-port-unreachable"),
    ("icmp-net-unreachable", "icmp6-no-route"),
    ("icmp-host-unreachable", "icmp6-addr-unreachable"),
    ("icmp-admin-prohibited", "icmp6-adm-prohibited"),
    ("icmp-host-prohibited", "icmp6-adm-prohibited"),
    ("icmp-net-prohibited", "icmp6-adm-prohibited"),
    ("icmp-proto-unreachable", "icmp6-port-unreachable"),
    ("port-unreach", "port-unreach"),
    ("icmp-net-unreachable", "no-route"),
    ("icmp-host-unreachable", "addr-unreach"),
    ("icmp-admin-prohibited", "adm-prohibited"),
    ("tcp-reset", "tcp-reset"),
]

_ADDRESS_OPTIONS = ("-s", "--source", "--src", "-d", "--destination", "--dst")
_ANY_ADDRESS = {_core.IPV4: "0.0.0.0/0", _core.IPV6: "::/0"}


def words_in(specification: str | Iterable[str]) -> list[str]:
    """Return the words of a specification: text, quoted as for iptables-restore, or a list of words."""
    if isinstance(specification, str):
        text = _core.text_bytes(specification, "a rule")
        return [word.decode("utf-8", "surrogateescape") for word, _ in split_words(text)]
    return list(specification)


def said_for(nfproto: Family, words: list[str]) -> list[str] | None:
    """Return *words* translated for family *nfproto*, or None if their addresses are of the other family."""
    said: list[str] = []
    option = ""
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if equals:
            found = _value(nfproto, name, value, words)
            if found is None:
                return None
            said.append(f"{_option(nfproto, name)}={found}")
            option = ""
        elif word.startswith("-") and len(word) > 1:
            said.append(_option(nfproto, word))
            option = word
        elif word == "!":
            said.append(word)
        else:
            found = _value(nfproto, option, word, words)
            if found is None:
                return None
            said.append(found)
            option = ""
    return _without_any_type(nfproto, said)


def _option(nfproto: Family, name: str) -> str:
    return _TYPE_OPTIONS[nfproto] if name in _TYPE_OPTIONS.values() else name


def _value(nfproto: Family, option: str, value: str, words: list[str]) -> str | None:
    """Return *value* of *option* translated for *nfproto*, or None if it is an address of the other family."""
    if option in ("-p", "--protocol", "--proto"):
        return _PROTOCOLS[nfproto] if value.lower() in _PROTOCOL_NAMES else value
    if option in ("-m", "--match"):
        return _MATCHES[nfproto] if value in _MATCHES.values() else value
    if option in _TYPE_OPTIONS.values():
        return _paired(_TYPES, nfproto, value, "any")
    if option == "--reject-with":
        return _paired(_REFUSALS, nfproto, value)
    if option in _ADDRESS_OPTIONS:
        return _addresses(nfproto, value)
    return value


def _paired(pairs: list[tuple[str, str]], nfproto: Family, value: str, always: str = "") -> str:
    """Return the value for *nfproto* that means the same as *value* of either family."""
    own = 0 if nfproto == _core.IPV4 else 1
    if value == always or any(pair[own] == value for pair in pairs):
        return value
    for pair in pairs:
        if pair[1 - own] == value:
            return pair[own]
    # a value that only one family has stays as it is: the extension of the other family refuses it
    return value


def _addresses(nfproto: Family, value: str) -> str | None:
    """Return the addresses in *value* that are of *nfproto*, or are names of hosts; None if there are none."""
    if value in _ANY_ADDRESS.values():
        return _ANY_ADDRESS[nfproto]
    other = "." if nfproto == _core.IPV6 else ":"
    left = [
        one for one in value.split(",") if not (_is_number(one) and other in one and not (":" in one and "." in one))
    ]
    return ",".join(left) or None


def _is_number(address: str) -> bool:
    """Whether *address* is numeric and no host name: IPv6 has colons, IPv4 only digits and dots."""
    return ":" in address or address.partition("/")[0].replace(".", "").isdigit()


def _without_any_type(nfproto: Family, words: list[str]) -> list[str]:
    """Return *words* without the match for type `any`, which IPv6 cannot express: the protocol alone means the same.

    A negated one matches no packet. It stays, and is refused.
    """
    option = _TYPE_OPTIONS[nfproto]
    if nfproto == _core.IPV4:
        return words
    for place, word in enumerate(words):
        size = 1 if word == f"{option}=any" else 2 if words[place : place + 2] == [option, "any"] else 0
        if size and words[place - 1 : place] != ["!"]:
            kept = words[:place] + words[place + size :]
            for match in range(len(kept) - 1):
                if kept[match] in ("-m", "--match") and kept[match + 1] == _MATCHES[nfproto]:
                    return kept[:match] + kept[match + 2 :]
            return kept
    return words
