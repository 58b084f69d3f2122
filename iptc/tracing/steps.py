"""A traced packet, and its way: one step for each rule that matched, and for each end of a chain."""

from __future__ import annotations

from datetime import UTC, datetime

from .. import _core
from .report import POLICY, RULE
from .traced_rule import family_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from ..rule import Rule
    from .headers import Header
    from .report import Report
    from .traced_rule import Found

_TABLES = ("raw", "mangle", "nat", "filter", "security")
_FINAL = ("DROP", "REJECT")
_NETDEV_HOOKS = {0: "INGRESS", 1: "EGRESS"}
_NETDEV = 5


class Step:
    """What one rule, or the end of one chain, did with a packet.

    `kind` is "rule", "return" (the end of a user chain) or "policy". `verdict` is ACCEPT, DROP, REJECT, QUEUE, STOLEN,
    RETURN, CONTINUE (to the next rule), JUMP or GOTO; `to` is the chain of a JUMP or GOTO. `rule` is the `Rule`; it is
    None for a policy, for the end of a chain, and if the rule cannot be read. Then `note` says why. `number` is the
    number of the rule in its chain, from 1, or None if it is not certain. `text` is the text of the rule; a rule that
    only `nft` can read shows its expressions. `family` is nf_tables' name for the family of the table: ip, ip6, inet, …
    """

    __slots__ = (
        "backend",
        "family",
        "table",
        "chain",
        "kind",
        "hook",
        "rule",
        "number",
        "handle",
        "text",
        "comment",
        "note",
        "verdict",
        "to",
        "mark",
        "header",
        "in_interface",
        "out_interface",
    )

    def __init__(self, report: Report, hook: str | None, found: Found | None) -> None:
        self.backend = report.backend
        self.family = family_name(report.family)
        self.table = report.table
        self.chain = report.chain
        self.kind = report.kind
        self.hook = hook
        self.rule: Rule | None = None
        self.number: int | None = None
        self.handle = report.handle or None
        self.text = self.comment = self.note = None
        if found is not None:
            self.kind = RULE
            self.rule, self.number, self.text = found.rule, found.number, found.text
            self.comment, self.note = found.comment, found.note
        self.verdict = report.verdict
        self.to = report.to
        self.mark = report.mark
        self.header = report.header
        self.in_interface: str | None = None
        self.out_interface: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether the way of the packet ends here."""
        return self.verdict in _FINAL

    @property
    def place(self) -> str:
        """The table and the chain, and the family if it is not a table of iptables."""
        known = self.family in ("ip", "ip6") and self.table in _TABLES
        return f"{self.table} {self.chain}" if known else f"{self.family} {self.table} {self.chain}"

    def __str__(self) -> str:
        if self.kind == RULE:
            which = (
                f"rule {self.number}" if self.number else f"rule with handle {self.handle}" if self.handle else "rule"
            )
            said = f"{self.place} {which}: {self.text}"
            if self.rule is None or self.rule.target is None or self.verdict not in (self.rule.target.name, "JUMP"):
                said += f" ({' '.join(filter(None, [self.verdict, self.to]))})"
        elif self.kind == POLICY:
            said = f"{self.place} policy {self.verdict or '?'}"
        else:
            said = f"{self.place} end"
        return said + (f" [{self.note}]" if self.note else "")

    def __repr__(self) -> str:
        return f"<iptc step {self}>"

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        return {
            "backend": self.backend,
            "family": self.family,
            "table": self.table,
            "chain": self.chain,
            "hook": self.hook,
            "kind": self.kind,
            "number": self.number,
            "handle": self.handle,
            "rule": self.text,
            "comment": self.comment,
            "verdict": self.verdict,
            "to": self.to,
            "mark": self.mark,
            "note": self.note,
        }


class Packet:
    """A packet that was traced.

    `verdict` is ACCEPT, DROP, REJECT, QUEUE, or LOST if no rule dropped it and it did not arrive (because of its route,
    an address or its TTL). Then `reason` says what is known. `rule` is the rule that dropped or rejected it, or for
    ACCEPT the rule of table `filter`; None if a policy did. `path` is the list of its `Step`s. `before` and `after` are
    its headers at the beginning and at the end; NAT may have changed them. `in_interface` and `out_interface` are names
    or None. `mark` is its last mark. `when` is the time (`time.time()`). `sure` is False if some steps may belong to
    another packet: legacy reports have no number of the packet.
    """

    __slots__ = (
        "identity",
        "nfproto",
        "path",
        "verdict",
        "rule",
        "reason",
        "before",
        "after",
        "in_interface",
        "out_interface",
        "mark",
        "hook",
        "when",
        "sure",
    )

    def __init__(self, nfproto: int, when: float) -> None:
        self.identity: int | None = None
        self.nfproto = nfproto
        self.path: list[Step] = []
        self.verdict = "LOST"
        self.rule: Rule | None = None
        self.reason: str | None = None
        self.before: Header | None = None
        self.after: Header | None = None
        self.in_interface: str | None = None
        self.out_interface: str | None = None
        self.mark = 0
        self.hook: str | None = None
        self.when = when
        self.sure = True

    @property
    def ip_version(self) -> Literal[4, 6]:
        """4 or 6."""
        return 4 if self.nfproto == _core.IPV4 else 6

    @property
    def step(self) -> Step | None:
        """The step that gave the verdict; for ACCEPT the last step of table `filter`."""
        return _deciding(self.path, self.verdict)

    @property
    def nat(self) -> list[Step]:
        """The steps in tables `nat`."""
        return [step for step in self.path if step.table == "nat" and step.kind == RULE]

    @property
    def time(self) -> str:
        """The time in ISO 8601, in UTC."""
        return datetime.fromtimestamp(self.when, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

    def decide(self, arrived: bool) -> None:
        """Find the verdict and the rule that gave it, after all steps are added. *arrived*: the packet has passed all
        hooks."""
        last = next((step for step in self.path if step.is_final), None)
        if last is not None:
            self.verdict = str(last.verdict)
        elif arrived:
            self.verdict = "ACCEPT"
        elif self.path and self.path[-1].verdict in ("QUEUE", "STOLEN"):
            self.verdict = "QUEUE" if self.path[-1].verdict == "QUEUE" else "LOST"
        else:
            self.verdict = "LOST"
        if self.verdict == "LOST" and self.reason is None:
            self.reason = f"no rule dropped it, and it did not come further than {self.hook or 'here'}"
        step = self.step
        self.rule = None if step is None else step.rule

    def __str__(self) -> str:
        ends = [f"in {self.in_interface}"] if self.in_interface else []
        ends += [f"out {self.out_interface}"] if self.out_interface else []
        step = self.step
        by = f" by {step}" if step is not None else ""
        return f"{' '.join([str(self.before), *ends])}: {self.verdict}{by}"

    def __repr__(self) -> str:
        return f"<iptc packet {self}>"

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        step = self.step
        return {
            "schema": 1,
            "when": self.time,
            "family": "ipv4" if self.nfproto == _core.IPV4 else "ipv6",
            "verdict": self.verdict,
            "reason": self.reason,
            "rule": None if step is None else step.as_dict(),
            "in": self.in_interface,
            "out": self.out_interface,
            "hook": self.hook,
            "mark": self.mark,
            "before": None if self.before is None else self.before.as_dict(),
            "after": None if self.after is None else self.after.as_dict(),
            "sure": self.sure,
            "path": [one.as_dict() for one in self.path],
        }


def _deciding(path: list[Step], verdict: str) -> Step | None:
    if verdict in _FINAL or verdict == "QUEUE":
        return next((step for step in reversed(path) if step.verdict == verdict), None)
    if verdict == "ACCEPT":
        return next((step for step in reversed(path) if step.table == "filter" and step.verdict == "ACCEPT"), None)
    return None


def hook_name(family: int, hook: int | None) -> str | None:
    """Return the name of a hook, or None."""
    if hook is None:
        return None
    if family == _NETDEV:
        return _NETDEV_HOOKS.get(hook)
    return _core.HOOKS[hook] if hook < len(_core.HOOKS) else "INGRESS"
