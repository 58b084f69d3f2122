"""`iptc list`: print the chains and rules of a table as `iptables -S` does, or as JSON."""

from __future__ import annotations

from ..errors import IPTCError, KernelError, is_absent
from .arguments import FAMILIES, HEADINGS, add_command
from .output import write
from .status import NO_TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from .arguments import _Commands


def add(commands: _Commands) -> None:
    """Describe the command."""
    shown = add_command(
        commands,
        "list",
        run,
        both=True,
        help="print the rules of a table as `iptables -S' does",
        description="Print the chains and rules of one table as `iptables -S' does: policies, user chains, and rules.",
    )
    shown.add_argument("chain", nargs="?", metavar="CHAIN", help="only this chain")
    shown.add_argument("-t", "--table", default="filter", help="the table. Default: filter")
    shown.add_argument("-v", "--verbose", action="store_true", help="print the counters too")
    shown.add_argument(
        "--format", choices=["text", "json"], default="text", help="json: one JSON object per family. Default: text"
    )


def run(options: Namespace) -> int:
    """Run the command. Return the exit status."""
    from .. import ruleset

    for ipv6 in FAMILIES[options.family]:
        try:
            chains = ruleset.chains(options.table, ipv6, options.netns)
        except KernelError as error:
            if is_absent(error) or ruleset.side_of(options.netns) != "nft":
                error.status = NO_TABLE
            raise
        if options.chain is not None:
            chains = [chain for chain in chains if chain.name == options.chain]
            if not chains:
                raise IPTCError("No chain/target/match by that name.")
        if options.format == "json":
            write(_as_json(options, ipv6, chains) + "\n")
            continue
        heading = f"{HEADINGS[ipv6]}\n" if options.family == "both" else ""
        write(heading + ruleset.listing(chains, options.verbose))
    return 0


def _as_json(options: Namespace, ipv6: bool, chains: Any) -> Any:
    import json

    from .. import ruleset

    described = []
    for chain in chains:
        one = {"name": chain.name, "policy": chain.policy}
        if chain.policy is not None:
            one["packets"], one["bytes"] = chain.counters
        one["rules"] = []
        for (packets, size), text, expressions in ruleset.rules_of(chain):
            rule = {"packets": packets, "bytes": size, "rule": text}
            if expressions is not None:
                rule["expressions"] = expressions
            one["rules"].append(rule)
        described.append(one)
    return json.dumps({"table": options.table, "ip_version": 6 if ipv6 else 4, "chains": described})
