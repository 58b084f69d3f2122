"""One report of the kernel: what a rule, or the end of a chain, did with a packet. It is the same on both back ends."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._types import Family
    from .headers import Header

RULE, RETURN, POLICY = "rule", "return", "policy"
"""The kinds of reports: a rule that matched, the end of a user chain, the policy of a builtin chain."""


class Report:
    """What the kernel reports of a packet at one place.

    `backend` is "nft" or "legacy". `family` is nf_tables' number for the family of the table (1 is inet), and `nfproto`
    the family of the packet. `identity` is nf_tables' number of the packet, None on legacy. The rule is given by its
    `handle` on nf_tables, and by its `number` on legacy. `verdict` is a word in capitals, or None if the kernel does
    not report it; `to` is the chain of a jump. `hook` is the number of the hook, or None if the kernel does not report
    it. `iif` and `oif` are numbers of interfaces; 0 is none. `header` is None if an earlier report of the packet has
    it.
    """

    __slots__ = (
        "backend",
        "family",
        "nfproto",
        "identity",
        "table",
        "chain",
        "kind",
        "handle",
        "number",
        "verdict",
        "to",
        "hook",
        "iif",
        "oif",
        "mark",
        "header",
    )

    def __init__(self, backend: str, family: int, nfproto: Family, table: str, chain: str, kind: str) -> None:
        self.backend = backend
        self.family = family
        self.nfproto = nfproto
        self.table = table
        self.chain = chain
        self.kind = kind
        self.identity: int | None = None
        self.handle = self.number = 0
        self.verdict: str | None = None
        self.to: str | None = None
        self.hook: int | None = None
        self.iif = self.oif = self.mark = 0
        self.header: Header | None = None

    def __repr__(self) -> str:
        which = self.handle or self.number
        said: list[Any] = [
            self.backend,
            self.table,
            self.chain,
            self.kind,
            which or "",
            self.verdict or "",
            self.to or "",
        ]
        return f"<report {' '.join(str(word) for word in said if word)}>"
