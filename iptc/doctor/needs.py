"""Which tables, matches and targets the text of a ruleset needs: found in its words, without libxtables."""

from __future__ import annotations

from ..errors import ParameterError
from ..language.words import split_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

_VERDICTS = {"", "ACCEPT", "DROP", "QUEUE", "RETURN"}
_OPTIONS_OF_PROTOCOLS = {
    "tcp": {"--sport", "--source-port", "--dport", "--destination-port", "--tcp-flags", "--syn", "--tcp-option"},
    "udp": {"--sport", "--source-port", "--dport", "--destination-port"},
    "udplite": {"--sport", "--source-port", "--dport", "--destination-port"},
    "sctp": {"--sport", "--source-port", "--dport", "--destination-port", "--chunk-types"},
    "dccp": {"--sport", "--source-port", "--dport", "--destination-port", "--dccp-types", "--dccp-option"},
    "icmp": {"--icmp-type"},
    "icmp6": {"--icmpv6-type"},
    "ah": {"--ahspi", "--ahlen", "--ahres"},
    "esp": {"--espspi"},
    "mh": {"--mh-type"},
}
"""The options that load the match of the protocol without `-m`."""

_WITH_FREE_TEXT = {"--comment", "--log-prefix", "--nflog-prefix", "--string", "--hex-string", "--name"}
"""The options whose value may look like another option."""

_NAMES_OF_PROTOCOLS = {
    **{"6": "tcp", "17": "udp", "136": "udplite", "132": "sctp", "33": "dccp", "1": "icmp", "58": "icmp6", "51": "ah"},
    **{"50": "esp", "135": "mh", "icmpv6": "icmp6", "ipv6-icmp": "icmp6", "ipv6-mh": "mh", "mobility-header": "mh"},
}

KERNELS_NAMES = {
    ("match", "state"): "conntrack",
    ("target", "NOTRACK"): "CT",
    ("match", "icmpv6"): "icmp6",
    ("match", "ipv6-icmp"): "icmp6",
}
"""Names of iptables -> the names that it asks the kernel for."""


class Need:
    """A match or target that a text needs: "match" or "target", its name, and the first line that needs it."""

    def __init__(self, kind: str, name: str, line: int) -> None:
        self.kind = kind
        self.name = name
        self.line = line

    @property
    def kernels_name(self) -> str:
        """The name of the extension in the kernel."""
        return KERNELS_NAMES.get((self.kind, self.name), self.name)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def needs_of(text: bytes) -> tuple[dict[str, int], list[Need]]:
    """Return ({table: the line that begins it}, [`Need`]) for *text*, bytes in the format of iptables-save."""
    tables: dict[str, int] = {}
    found: dict[tuple[str, str], Need] = {}
    table = None
    chains = _chains_of(text)
    for number, line in enumerate(text.split(b"\n"), 1):
        line = line.strip()
        if line.startswith(b"*"):
            table = _text(line[1:])
            tables.setdefault(table, number)
        elif line and not line.startswith((b"#", b":", b"COMMIT")):
            for kind, name in _needs_of_line(line, number, chains.get(table, ())):
                found.setdefault((kind, name), Need(kind, name, number))
    return tables, list(found.values())


def _chains_of(text: bytes) -> dict[str | None, set[str]]:
    """Return {table: the names of the chains that the text creates}."""
    found: dict[str | None, set[str]] = {}
    table = None
    for line in text.split(b"\n"):
        words = line.split()
        if line.startswith(b"*"):
            table = _text(line[1:].strip())
        elif line.startswith(b":") and words and len(words[0]) > 1:
            found.setdefault(table, set()).add(_text(words[0][1:]))
        elif words[:1] in ([b"-N"], [b"--new-chain"]) and len(words) > 1:
            found.setdefault(table, set()).add(_text(words[1]))
        elif words[:1] in ([b"-E"], [b"--rename-chain"]) and len(words) > 2:
            found.setdefault(table, set()).add(_text(words[2]))
    return found


def _needs_of_line(line: bytes, number: int, chains: Collection[str]) -> list[tuple[str, str]]:
    """Yield ("match" or "target", name) for each part of a rule."""
    try:
        words = [_text(word) for word, _ in split_words(line)]
    except ParameterError as error:
        raise ParameterError(f"line {number}: {error}") from None
    protocol, implied = "", False
    named: list[tuple[str, str]] = []
    rest = iter(words)
    for word in rest:
        word, has_value, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if word in ("-m", "--match", "-p", "--protocol", "--proto", "-j", "--jump") or word[:2] in ("-p", "-m", "-j"):
            if not has_value:
                short = not word.startswith("--") and len(word) > 2
                word, value = (word[:2], word[2:]) if short else (word, next(rest, ""))
            if word in ("-m", "--match"):
                named.append(("match", value))
            elif word in ("-j", "--jump"):
                if value not in _VERDICTS and value not in chains:
                    named.append(("target", value))
            else:
                protocol = _NAMES_OF_PROTOCOLS.get(value.lower(), value.lower())
        elif word in _WITH_FREE_TEXT and not has_value:
            next(rest, "")
        elif not named and word in _OPTIONS_OF_PROTOCOLS.get(protocol, ()):
            implied = True
    return [*([("match", protocol)] if implied else []), *named]


def _text(word: bytes) -> str:
    return word.decode("utf-8", "surrogateescape")
