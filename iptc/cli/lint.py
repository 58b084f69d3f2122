"""`iptc lint`: what is of no use in a ruleset, and what is costly."""

from __future__ import annotations

import json

from .arguments import add_command
from .layouts import add_layout, interfaces_of
from .output import complain, write
from .rulesets import TROUBLE, trouble_is

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

CLEAN, FOUND = 0, 1


def add(commands: Any) -> None:
    """Describe the command."""
    lint = add_command(
        commands,
        "lint",
        run,
        both=True,
        family="both",
        help="find rules that no packet comes to, duplicates, chains that are not used or costly",
        description="Find rules that an earlier rule leaves nothing to, duplicates, jumps to empty chains and chains "
        "that nothing jumps to, in RULES or in the live rules. A packet is made up for each rule that is "
        "never reached, and given to the kernel in a private network namespace: what the kernel does not bear out is "
        "not said. Of live rules it is also said which no packet has hit, and which chains are costly. Nothing is "
        "changed.",
        epilog="Exit status: 0 nothing was found, 1 something was, 2 trouble.",
    )
    lint.add_argument("rules", metavar="RULES", help="a file in the format of iptables-save, or `live'")
    add_layout(lint)
    lint.add_argument("--sets", metavar="FILE", help="the sets that RULES name, as `ipset save' prints them")
    lint.add_argument("--json", action="store_true", help="one object a line")
    lint.add_argument(
        "--journal",
        metavar="DIR",
        help="a journal of `iptc watch --log': rules that are newer count from when they came",
    )


@trouble_is(TROUBLE)
def run(options: Namespace) -> int:
    """Look at the rules that *options* say."""
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
            # printed here, where the sets are that rules name; the bench counts nothing of the host
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
