"""`iptc lint`: finds rules without effect, and costly chains."""

from __future__ import annotations

import json

from .arguments import add_command
from .layouts import FIRST, MADE_UP, add_layout, interfaces_of
from .output import complain, write
from .rulesets import TROUBLE, trouble_is

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from .arguments import _Commands

CLEAN, FOUND = 0, 1


def add(commands: _Commands) -> None:
    """Describe the command."""
    lint = add_command(
        commands,
        "lint",
        run,
        both=True,
        family="both",
        help="find rules that no packet can reach, duplicates, unused and costly chains",
        description="Find rules that have no effect, in RULES or in the live rules: rules that no packet can "
        "reach because an earlier rule matches all their packets, duplicates, jumps to empty chains, "
        "and chains to which no rule jumps. For each rule that no packet can reach, a test packet is "
        "sent through the rules in a private network namespace. If the packet reaches the rule, "
        "nothing is reported. For live rules, it also finds rules that no packet has hit, and chains "
        "that are costly. Nothing is changed.",
        epilog="Exit status: 0 nothing was found, 1 something was found, 2 error.",
    )
    lint.add_argument(
        "rules", metavar="RULES", help="a file in the format of iptables-save, or `live' for the rules in the kernel"
    )
    add_layout(
        lint, f"for `live', those of this host; for a file, {MADE_UP}", f"as for --interface; for a file, {FIRST}"
    )
    lint.add_argument(
        "--sets", metavar="FILE", help="a file with the sets that RULES name, in the format of `ipset save'"
    )
    lint.add_argument("--json", action="store_true", help="print one JSON object per line")
    lint.add_argument(
        "--journal",
        metavar="DIR",
        help="the journal of `iptc watch --log': for a rule that was added since, the time without a hit "
        "counts from when it was added",
    )


@trouble_is(TROUBLE)
def run(options: Namespace) -> int:
    """Check the rules that *options* name. Return the exit status."""
    from ..bench.bench import Bench, asking
    from ..bench.like_host import living_bench
    from ..bench.lint import Since, lint
    from ..managing.ruleset_value import Ruleset
    from ..namespace import Place
    from .sources import read_text

    ipv6 = {"4": False, "6": True, "both": None}[options.family]
    interfaces, since = interfaces_of(options), None
    notes: list[str] = []
    if options.rules == "live":
        since = Since(options.journal)
        bench, notes = living_bench(
            netns=options.netns, interfaces=interfaces, routes=options.route, backend=options.backend
        )
        place = Place(options.netns)
        with place.open() as there, asking(there):
            # printed now, while plugins can ask this namespace for the names of sets
            ruleset = Ruleset.live(ipv6, backend=options.backend, netns=options.netns)
            ruleset.text()
    else:
        bench = Bench(
            read_text(options.rules),
            interfaces or None,
            routes=options.route,
            rules6=options.rules6,
            backend=options.backend,
            ipv6=ipv6,
            sets=None if options.sets is None else read_text(options.sets).decode(),
        )
        ruleset = bench.ruleset()
    with bench:
        found = lint(ruleset, bench, since)
    for note in notes:
        complain(f"note: {note}")
    for finding in found:
        write(json.dumps(finding.as_dict()) + "\n" if options.json else f"{finding}\n")
    return FOUND if found else CLEAN
