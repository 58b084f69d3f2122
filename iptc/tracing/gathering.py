"""Collects the reports of both back ends: one `Packet` for each packet, with its way in the order of the hooks.

nf_tables numbers packets, legacy xtables does not. A legacy report is given to the packet that nf_tables reports at the
same time, and whose headers are the same, except for those that NAT changes.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import time

from .. import _core
from .lookup import legacy_priority
from .mark import CHOSEN, ENDS, FORWARD, INPUT, OUTPUT, POSTROUTING, PREROUTING
from .report import POLICY, RETURN, RULE, Report
from .steps import Packet, Step, hook_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..namespace import Place
    from .headers import Header
    from .lookup import LegacyRules, NftRules
    from .traced_rule import Found

_RANKS = {PREROUTING: 0, INPUT: 1, FORWARD: 1, OUTPUT: 1, POSTROUTING: 2}
_NETDEV = 5
_END_NAMES = frozenset(ENDS.values())
_SIOCGIFNAME = 0x8910
_VERDICTS_OF_TARGETS = {
    "REJECT": "DROP",
    "NFQUEUE": "QUEUE",
    "DNAT": "ACCEPT",
    "SNAT": "ACCEPT",
    "MASQUERADE": "ACCEPT",
}
_VERDICTS_OF_TARGETS.update({"REDIRECT": "ACCEPT", "NETMAP": "ACCEPT", "SYNPROXY": "DROP", "TARPIT": "DROP"})


class Names:
    """The names of the interfaces of a network namespace, by number."""

    def __init__(self, place: Place) -> None:
        with place.open() as there:
            self._socket = socket.socket(fileno=there.open_socket(socket.AF_INET, socket.SOCK_DGRAM, 0))
        self._known: dict[int, str] = {}

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def name(self, number: int) -> str | None:
        """Return the name of an interface; None for 0, and the number as text if the interface is gone."""
        if not number:
            return None
        if number not in self._known:
            try:
                data = fcntl.ioctl(self._socket, _SIOCGIFNAME, struct.pack("=16si20x", b"", number))
            except OSError:
                return str(number)
            self._known[number] = data[:16].partition(b"\0")[0].decode("utf-8", "surrogateescape")
        return self._known[number]


class _Seen:
    """A packet that is not complete yet: more reports of it may come."""

    def __init__(self, when: float) -> None:
        self.when = when
        self.last = when
        self.chosen = False
        self.arrived = False
        self.nft: list[tuple[Report, int | None, int]] = []
        """(report, hook, priority of the base chain)."""
        self.legacy: list[tuple[Report, Step]] = []
        self._passed: set[tuple[int | None, str]] = set()
        """The (hook, legacy table) pairs that the packet has left behind."""
        self.headers: list[Header] = []
        self.made_here = False
        self.iif = self.oif = 0
        self.hook: int | None = None
        self.priority = 0
        self.ended = False
        self.sure = True

    def add(self, report: Report, hook: int | None, priority: int) -> None:
        """Add a report of nf_tables."""
        if hook is not None:
            self.hook, self.priority = hook, priority
        self.nft.append((report, self.hook, self.priority))
        if report.header is not None:
            self.headers.append(report.header)
        self.ended |= report.verdict == "DROP"

    def fits(self, report: Report) -> int:
        """Return how well a legacy report fits this packet; 0 if it does not."""
        header = report.header
        if header is None or not self.headers or self.headers[0].fingerprint != header.fingerprint:
            return 0
        if report.hook not in self._hooks() or self.iif and report.iif and report.iif != self.iif:
            return 0
        if (report.hook, report.table) in self._passed or self.legacy and _place(self.legacy[-1][0]) > _place(report):
            return 0
        latest = self.headers[-1]
        how = 2 if latest.src == header.src or latest.dst == header.dst else 1
        if any(one.addresses == header.addresses for one in self.headers):
            how = 3
        if self.arrived and self.hook == report.hook and self.oif == report.oif:
            how += 3  # nf_tables has reported it at this hook too
        return how

    def is_amid(self, report: Report) -> bool:
        """Whether the packet is inside the table of a legacy report: it has entered, and not left yet."""
        return bool(self.legacy) and _place(self.legacy[-1][0]) == _place(report)

    def add_legacy(self, report: Report, step: Step) -> None:
        """Note a legacy report."""
        self.legacy.append((report, step))
        if step.kind == POLICY or step.verdict in ("ACCEPT", "DROP", "REJECT", "QUEUE"):
            self._passed.add((report.hook, report.table))
        if report.header is not None:
            self.headers.append(report.header)
        self.ended |= step.is_final

    def _hooks(self) -> tuple[int, ...]:
        """The hooks that the packet can have passed, judged by the interfaces and hooks reported so far."""
        if self.made_here:
            return OUTPUT, POSTROUTING
        known = {hook for _, hook, _ in self.nft} | {report.hook for report, _ in self.legacy}
        if INPUT in known:
            return PREROUTING, INPUT
        if FORWARD in known or POSTROUTING in known:
            return PREROUTING, FORWARD, POSTROUTING
        return PREROUTING, INPUT, FORWARD, POSTROUTING


class Gatherer:
    """Takes reports, and returns the packets that they are about.

    *table*: the name of the table that marks packets; packets that another program traces are left out. A packet is
        complete with the report of the last chain, or of the rule or policy that drops it. *fixed*: nobody changes the
        rules.
    """

    def __init__(
        self, place: Place, table: str, nft: NftRules | None, legacy: LegacyRules | None, fixed: bool = False
    ) -> None:
        self._table = table
        self._fixed = fixed
        self._nft = nft
        self._legacy = legacy
        self._names = Names(place)
        self._open: dict[tuple[int, int], _Seen] = {}
        self._done: list[_Seen] = []
        self._unplaced: list[Report] = []

    def close(self) -> None:
        """Close the socket."""
        self._names.close()

    @property
    def settled(self) -> bool:
        """Whether no rules were changed lately. It becomes true when `take` is called and nothing has changed since."""
        return (self._nft is None or self._nft.settled) and (self._legacy is None or self._legacy.settled)

    @property
    def waits(self) -> bool:
        """Whether the end of some packets was not reported yet."""
        return bool(self._open)

    def take(self, nft: Iterable[Report], legacy: Iterable[Report]) -> list[Packet]:
        """Take the reports since the last call, and return the packets that are complete now.

        *legacy* must have all legacy reports that came before the last one of *nft*.
        """
        nft, legacy = list(nft), list(legacy)
        if self._nft is not None and not self._fixed:
            self._nft.look_again()
        if self._legacy is not None and not self._fixed:
            self._legacy.look_again(legacy)
        if not nft and not legacy and not self._unplaced:
            return []
        now = time.time()
        for report in nft:
            self._take_nft(report, now)
        self._take_legacy(legacy, now)
        done, self._done = self._done, []
        for key, seen in list(self._open.items()):
            if seen.ended:
                done.append(self._open.pop(key))
        return self._packets(done)

    def flush(self, before: float | None = None) -> list[Packet]:
        """Return the packets without a report since the time *before*; None: all packets."""
        done = [key for key, seen in self._open.items() if before is None or seen.last < before]
        return self._packets([self._open.pop(key) for key in done])

    def _packets(self, done: list[_Seen]) -> list[Packet]:
        done = [seen for seen in done if seen.chosen]
        return [self._packet(seen) for seen in sorted(done, key=lambda seen: seen.when)]

    # ------------------------------------------------------------ what is reported

    def _take_nft(self, report: Report, now: float) -> None:
        key = report.nfproto, report.identity or 0
        seen = self._open.get(key)
        ours = report.table == self._table
        if ours and report.chain == CHOSEN and report.kind == RULE and seen is not None and seen.chosen:
            # the kernel uses the number of a packet again after its end
            self._done.append(self._open.pop(key))
            seen = None
        if seen is None:
            seen = self._open[key] = _Seen(now)
        seen.last = now
        hook, priority = self._place_of(report)
        if ours:
            seen.chosen |= report.chain == CHOSEN
            if report.header is not None:
                seen.headers.append(report.header)
                seen.iif = seen.iif or report.iif
                seen.made_here |= not report.iif and report.chain not in _END_NAMES
            if seen.hook is None or report.chain in _END_NAMES:
                seen.nft.append((report, hook, priority))
            if report.chain in _END_NAMES:
                seen.arrived = True
                seen.hook, seen.oif = hook, report.oif
                self._done.append(self._open.pop(key))
            return
        seen.add(report, hook, priority)

    def _place_of(self, report: Report) -> tuple[int | None, int]:
        return (None, 0) if self._nft is None else self._nft.place_of(report.family, report.table, report.chain)

    def _take_legacy(self, reports: list[Report], now: float) -> None:
        waited, self._unplaced = self._unplaced, []
        for number, report in enumerate([*waited, *reports]):
            fitting = [(seen.fits(report), seen) for seen in [*self._done, *self._open.values()]]
            best = max((how for how, _ in fitting), default=0)
            found = [seen for how, seen in fitting if how == best]
            if not best:
                # the report of nf_tables with which this packet begins may still come
                if number >= len(waited):
                    self._unplaced.append(report)
                continue
            amid = [seen for seen in found if seen.is_amid(report)] or found
            seen = amid[0]
            seen.sure &= len(amid) == 1
            seen.add_legacy(report, self._legacy_step(report))
            seen.last = now

    # --------------------------------------------------------------- what it means

    def _packet(self, seen: _Seen) -> Packet:
        first = seen.nft[0][0]
        packet = Packet(first.nfproto, seen.when)
        packet.identity = first.identity
        packet.sure = seen.sure
        steps: list[tuple[tuple[int, int], Step]] = []
        for report, hook, priority in seen.nft:
            self._note(packet, report, hook)
            if report.table == self._table or report.kind == RETURN and self._place_of(report)[0] is not None:
                # the end of a builtin chain: the kernel reports its policy too
                continue
            steps.append(((_rank(report, hook), priority), self._nft_step(report, hook)))
        latest = seen.nft[-1][0] if seen.arrived else None
        for report, step in seen.legacy:
            steps.append((_place(report), step))
            if latest is None:
                self._note(packet, report, report.hook)
        if seen.legacy:
            steps.sort(key=lambda pair: pair[0])
        packet.path = [step for _, step in steps]
        _settle(packet.path)
        packet.before = seen.headers[0] if seen.headers else None
        packet.after = packet.after or packet.before
        packet.decide(seen.arrived)
        return packet

    def _note(self, packet: Packet, report: Report, hook: int | None) -> None:
        """Store what a report says about the packet itself."""
        packet.mark = report.mark
        if hook is not None:
            packet.hook = hook_name(report.family, hook)
        packet.in_interface = packet.in_interface or self._names.name(report.iif)
        packet.out_interface = self._names.name(report.oif) or packet.out_interface
        packet.after = report.header or packet.after

    def _step(self, report: Report, hook: int | None, found: Found | None) -> Step:
        step = Step(report, hook_name(report.family, hook), found)
        step.in_interface, step.out_interface = self._names.name(report.iif), self._names.name(report.oif)
        return step

    def _nft_step(self, report: Report, hook: int | None) -> Step:
        found = self._nft.find(report) if self._nft is not None and report.kind == RULE else None
        step = self._step(report, hook, found)
        if step.verdict == "DROP" and step.rule is not None and _target(step) == "REJECT":
            step.verdict = "REJECT"
        elif step.verdict == "DROP" and found is not None and found.rejects:
            step.verdict = "REJECT"
        if step.verdict == "BREAK":
            step.verdict = "CONTINUE"
        return step

    def _legacy_step(self, report: Report) -> Step:
        found = self._legacy.find(report) if self._legacy is not None else None
        step = self._step(report, report.hook, found)
        if found is None:
            if report.chain in _core.HOOKS:
                step.kind = POLICY
                step.verdict = self._legacy.policy(report) if self._legacy is not None else None
            else:
                step.kind, step.verdict = RETURN, "RETURN"
            return step
        if step.rule is None:
            return step
        target = step.rule.target
        name = _target(step)
        if name in _core.VERDICTS and name:
            step.verdict = "RETURN" if name == "RETURN" else name
        elif name == "REJECT":
            step.verdict = "REJECT"
        elif name in _VERDICTS_OF_TARGETS:
            step.verdict = _VERDICTS_OF_TARGETS[name]
        elif target is not None and _core.jump_of(report.nfproto, step.rule._whole()):
            step.verdict, step.to = "GOTO" if target.goto else "JUMP", name
        return step


def _target(step: Step) -> str:
    target = None if step.rule is None else step.rule.target
    return "" if target is None else target.name


def _rank(report: Report, hook: int | None) -> int:
    if report.family == _NETDEV:
        return -1 if not hook else 3
    return _RANKS.get(-1 if hook is None else hook, 1)


def _place(report: Report) -> tuple[int, int]:
    """Return (hook, priority) of a legacy report: its place on the way of a packet."""
    return _rank(report, report.hook), legacy_priority(report.table, report.hook)


def _settle(path: list[Step]) -> None:
    """Set the verdict of rules for which the kernel reports none. If the next report is of the same table and hook, the
    packet went on to the next rule."""
    for step, following in zip(path, [*path[1:], None]):
        if step.backend == "legacy" and step.kind == RULE and step.verdict is None:
            same = following is not None and (following.table, following.hook) == (step.table, step.hook)
            step.verdict = "CONTINUE" if same or step.rule is None else "ACCEPT"
