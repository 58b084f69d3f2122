"""One report of the kernel: what one rule, or the end of one chain, did with a packet. Both back ends give the same."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._types import Family
    from .headers import Header

RULE, RETURN, POLICY = "rule", "return", "policy"
"""What a report is about: a rule that matched, the end of a user chain, the policy of a builtin one."""


class Report:
    """What the kernel says of a packet at one place.

    `backend` is "nft" or "legacy". `family` is that of the table as nf_tables numbers it (1: inet), and `nfproto` that
    of the packet. `identity` is nf_tables' number of the packet, None on legacy. A rule is named by its `handle` on
    nf_tables, and on legacy by its `number`. `verdict` is a word in capitals, None where the kernel does not say it;
    `to` is the chain of a jump. `hook` is the number of the hook, or None where the kernel does not say it. `iif` and
    `oif` are numbers of interfaces, 0 for none. `header` is None where it was said before.
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
