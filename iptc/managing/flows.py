"""Finds the established flows that only deleted rules had accepted.

Such flows go on, since a rule that accepts established flows lets them through. The kernel does not record which rule
has accepted a flow. So the first packet of each flow is followed through the old rules and through the new ones, with
what connection tracking knows: addresses, protocol, ports. A rule with another condition, such as an interface, may
match or not. It counts as a match if it accepts, and as no match if it drops.
"""

from __future__ import annotations

import ipaddress
import shlex
import socket
import struct
import time
from collections import namedtuple

from .. import _core
from .._netlink import attributes
from ..exchange import DUMP, Exchange
from ..namespace import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

    from .._netns import Namespace
    from .._types import Family, Netns
    from .difference import ChainDifference
    from .planning import Plan
    from .rollback import Pending
    from .ruleset_value import ChainValue

    _Chains = dict[str, ChainValue]


_PATIENCE = 1.0
"""Seconds after which the count stops."""

Flow = namedtuple("Flow", "version protocol src dst sport dport")
"""The first packet of a flow as the filter table sees it. Addresses are integers; ports are None if it has none."""

_PROTOCOLS = {
    "icmp": 1,
    "tcp": 6,
    "udp": 17,
    "esp": 50,
    "ah": 51,
    "ipv6-icmp": 58,
    "icmpv6": 58,
    "sctp": 132,
    "udplite": 136,
    "dccp": 33,
    "gre": 47,
}
_IGNORED = {"--comment": 1, "--reject-with": 1, "--tcp-flags": 2, "--syn": 0, "--tcp-option": 1}


def report(change: Plan | Pending, netns: Netns = None) -> str | None:
    """Return one sentence about the flows that go on after *change* (a `Plan` or `Pending`), or None if there are
    none."""
    if not any(_lets_in(chain) for chain in change.difference.chains):
        return None
    try:
        count, all_of_them = count_left(change, netns)
    except OSError as error:
        return f"how many established flows only deleted rules had let in is not known: {error.strerror or error}"
    if not count and all_of_them:
        return None
    flows = "flow" if count == 1 else "flows"
    return (
        f"{'' if all_of_them else 'at least '}{count} established {flows} that only deleted rules had let in may go on"
    )


def _lets_in(chain: ChainDifference) -> bool:
    """Whether a rule of *chain* that accepts packets is deleted or has other options."""
    if chain.table != "filter" or chain.old is None:
        return False
    return any(
        chain.old.rules[position].endswith("-j ACCEPT") for position in [*chain.removed, *chain.changed.values()]
    )


def count_left(change: Plan | Pending, netns: Netns = None) -> tuple[int, bool]:
    """Return (how many established flows only deleted rules had accepted, whether all flows were looked at).

    Raises `OSError` if the flows cannot be read.
    """
    place = Place(netns)
    end = time.monotonic() + _PATIENCE
    count = 0
    with place.open() as there:
        local = _local_addresses(there)
        flows = _flows(there, netns is None)
    walks = {}
    for version, nfproto in ((4, _core.IPV4), (6, _core.IPV6)):
        chains = [chain for chain in change.difference.chains if chain.nfproto == nfproto and chain.table == "filter"]
        if any(map(_lets_in, chains)):
            walks[version] = _Walk(change, nfproto, chains, end)
    try:
        for flow in flows:
            walk = walks.get(flow.version)
            if walk is not None and walk.has_lost(flow, local):
                count += 1
    except _OutOfTime:
        return count, False
    return count, True


# -------------------------------------------------------------------- the rules


class _OutOfTime(Exception):
    """Raised when the time for the count is over."""


class _Walk:
    """Follows packets through the filter table of one family, before and after a change, until the time *end*."""

    def __init__(self, change: Plan | Pending, nfproto: Family, chains: list[ChainDifference], end: float) -> None:
        self._end = end
        table = change.live.table(nfproto, "filter")
        self._old = {chain.name: chain for chain in table} if table else {}
        self._new = dict(self._old)
        self._gone: dict[str, set[int]] = {}
        for chain in chains:
            if chain.new is None:
                del self._new[chain.name]
            else:
                self._new[chain.name] = chain.new
            self._gone[chain.name] = {*chain.removed, *chain.changed.values()}
        self._rules: dict[str, _Rule] = {}
        # most flows match none of the deleted rules, and need not be followed
        self._lost = [
            self._rule(chain.old.rule(position))
            for chain in chains
            if chain.old is not None
            for position in self._gone[chain.name]
        ]
        self._lost = [rule for rule in self._lost if rule.target == "ACCEPT"]

    def has_lost(self, flow: Flow, local: set[int]) -> bool:
        """Whether a deleted rule accepted *flow*, and no rule would accept it now."""
        if time.monotonic() > self._end:
            raise _OutOfTime
        if not any(rule.matches(flow) is not False for rule in self._lost):
            return False
        hooks = [
            hook for hook, is_local in (("INPUT", flow.dst in local), ("OUTPUT", flow.src in local)) if is_local
        ] or ["FORWARD"]
        for hook in hooks:
            by = self._accepts(self._old, hook, flow)
            if (
                isinstance(by, tuple)
                and by[1] in self._gone.get(by[0], ())
                and not self._accepts(self._new, hook, flow)
            ):
                return True
        return False

    def _accepts(self, chains: _Chains, hook: str, flow: Flow) -> tuple[str, int] | bool:
        """Return (chain, position) of the first rule that may accept *flow*, True if the policy accepts it, or
        False."""
        verdict = self._through(chains, hook, flow, 0)
        if verdict is not None:
            return verdict
        chain = chains.get(hook)
        return chain is None or chain.policy != "DROP"

    def _rule(self, text: str) -> _Rule:
        rule = self._rules.get(text)
        if rule is None:
            rule = self._rules[text] = _Rule(text)
        return rule

    def _through(self, chains: _Chains, name: str, flow: Flow, depth: int) -> tuple[str, int] | Literal[False] | None:
        chain = chains.get(name)
        for position, text in enumerate(chain.rules if chain is not None and depth < 64 else ()):
            if position % 256 == 255 and time.monotonic() > self._end:
                raise _OutOfTime
            rule = self._rule(text)
            matches = rule.matches(flow)
            if matches is False:
                continue
            if rule.target == "ACCEPT":
                return name, position
            if rule.target in chains:
                verdict = self._through(chains, rule.target, flow, depth + 1)
                if verdict is not None:
                    return verdict
                if rule.goto and matches:
                    return None
            elif matches and rule.target in ("DROP", "REJECT"):
                return False
            elif matches and rule.target == "RETURN":
                return None
        return None


class _Rule:
    """What a rule in the format of `iptables-save` requires of the first packet of a flow, as far as that is known."""

    def __init__(self, text: str) -> None:
        self.target: str | None = None
        self.goto = False
        self._tests: list[tuple[bool, Callable[[Flow], bool]]] = []
        self._unsure = False
        try:
            words = shlex.split(text)
        except ValueError:
            # the quotes do not match, as they never do in a shell
            words, self._unsure = text.split(), True
        negated = False
        while words:
            word = words.pop(0)
            if word == "!":
                negated = True
                continue
            if word in ("-j", "-g"):
                # the following words are options of the target
                self.target, self.goto = words.pop(0), word == "-g"
                return
            try:
                self._read(word, words, negated)
            except (IndexError, ValueError):
                self._unsure = True
            negated = False

    def _read(self, word: str, words: list[str], negated: bool) -> None:
        if word == "-m":
            words.pop(0)
        elif word in _IGNORED:
            del words[: _IGNORED[word]]
        elif word in ("-s", "-d"):
            network = ipaddress.ip_network(words.pop(0), strict=False)
            side, first, mask = ("src" if word == "-s" else "dst"), int(network.network_address), int(network.netmask)
            self._tests.append((negated, lambda flow: getattr(flow, side) & mask == first))
        elif word == "-p":
            name = words.pop(0)
            number = _PROTOCOLS.get(name) or (int(name) if name.isdigit() else None)
            if number is None:
                self._unsure = True
            else:
                self._tests.append((negated, lambda flow: flow.protocol == number))
        elif word in ("--sport", "--dport", "--sports", "--dports", "--ports"):
            spans = [_span(part) for part in words.pop(0).split(",")]
            names = {"s": ("sport",), "d": ("dport",), "p": ("sport", "dport")}[word[2]]
            self._tests.append(
                (
                    negated,
                    lambda flow: any(
                        getattr(flow, name) is not None and first <= getattr(flow, name) <= last
                        for name in names
                        for first, last in spans
                    ),
                )
            )
        elif word in ("--ctstate", "--state"):
            new = "NEW" in words.pop(0).split(",")
            self._tests.append((negated, lambda flow: new))
        else:
            # an interface, or something else that connection tracking does not know of a flow
            self._unsure = True
            while words and words[0] != "!" and not words[0].startswith("-"):
                words.pop(0)

    def matches(self, flow: Flow) -> bool | None:
        """Return True or False, or None if the rule may match."""
        if any(test(flow) == negated for negated, test in self._tests):
            return False
        return None if self._unsure else True


def _span(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    return int(first or 0), int(last or 65535) if colon else int(first)


# -------------------------------------------------------------------- the flows


def _local_addresses(there: Namespace) -> set[int]:
    """Return the addresses of this host, as integers."""
    found, last = set(), None
    for line in there.read_file(b"/proc/thread-self/net/fib_trie").decode().splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[1]
        elif words[-1:] == ["LOCAL"] and last:
            found.add(int(ipaddress.ip_address(last)))
    try:
        lines = there.read_file(b"/proc/thread-self/net/if_inet6").decode().splitlines()
    except OSError:
        # this host has no IPv6
        lines = []
    found.update(int(line.split()[0], 16) for line in lines)
    return found


def _flows(there: Namespace, is_here: bool) -> list[Flow]:
    """Return the established flows of a namespace, from /proc, or by netlink for the namespace of this thread."""
    try:
        return list(_from_proc(there.read_file(b"/proc/thread-self/net/nf_conntrack").decode()))
    except FileNotFoundError:
        if not is_here:
            raise
        return list(_from_netlink())


def _from_proc(text: str) -> Iterator[Flow]:
    for line in text.splitlines():
        words = line.split()
        if "[UNREPLIED]" in words or words[2] == "tcp" and "ESTABLISHED" not in words:
            continue
        pairs = [word.split("=", 1) for word in words if "=" in word]
        values = {key: [value for name, value in pairs if name == key] for key in ("src", "dst", "sport", "dport")}
        if len(values["src"]) == 2:
            ports = [
                int(values[key][place]) if len(values[key]) == 2 else None
                for key, place in (("sport", 0), ("sport", 1))
            ]
            # the filter table sees the destination after NAT, which is the source of the answers
            addresses = [int(ipaddress.ip_address(value)) for value in values["src"]]
            yield Flow(4 if words[0] == "ipv4" else 6, int(words[3]), *addresses, *ports)


def _from_netlink() -> Iterator[Flow]:
    """Return the flows that ctnetlink dumps (IPCTNL_MSG_CT_GET)."""
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 12)
    with Exchange(channel) as kernel:
        for _, answer in kernel.ask(0x101, DUMP, bytes(4), lambda code: "the connection tracking cannot be read"):
            flow = _decoded(answer[4:])
            if flow is not None:
                yield flow


def _decoded(data: bytes) -> Flow | None:
    """Return a `Flow` of the attributes of a message, or None if it is not established."""
    said = dict(attributes(data))
    if 1 not in said or 2 not in said or not struct.unpack(">I", said.get(3, bytes(4)))[0] & 2:
        return None
    state = dict(attributes(dict(attributes(said.get(4, b""))).get(1, b""))).get(1)
    if state is not None and state[0] != 3:
        return None
    sources, ports = [], []
    for side in (1, 2):
        parts = dict(attributes(said[side]))
        address, protocol = (dict(attributes(parts.get(kind, b""))) for kind in (1, 2))
        sources.append(address.get(1) or address.get(3) or b"")
        ports.append(struct.unpack(">H", protocol[2])[0] if 2 in protocol else None)
    number = protocol.get(1, b"\0")[0]
    return Flow(
        4 if len(sources[0]) == 4 else 6, number, *(int.from_bytes(source, "big") for source in sources), *ports
    )
