"""`iptc test`: sends the packets of a file through a ruleset, and compares the verdicts with the expected ones."""

from __future__ import annotations

import argparse

from .arguments import add_command
from .layouts import FIRST, MADE_UP, add_layout, interfaces_of
from .rulesets import TROUBLE, trouble_is

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from .arguments import _Commands


PASSED, FAILED = 0, 1


def add(commands: _Commands) -> None:
    """Describe the command."""
    test = add_command(
        commands,
        "test",
        run,
        live=False,
        help="test a ruleset with packets, in a private network namespace",
        description="Test a ruleset with packets. RULES are restored in a private network namespace, the packets "
        "of CASES are sent through them, and each verdict of the kernel is compared with the expected "
        "one. This needs no root, and changes nothing on this host.",
        epilog="Exit status: 0 all verdicts are as expected, 1 one is not, or too few rules were hit, 2 error.",
    )
    test.add_argument("rules", metavar="RULES", help="a file in the format of iptables-save; - means standard input")
    test.add_argument(
        "cases",
        metavar="CASES",
        help="a TOML file with a [[case]] for each packet (keys: name, in, src, dst, tcp, expect, ...)",
    )
    add_layout(test, f"those in CASES; without them, {MADE_UP}", f"those in CASES; without them, {FIRST}")
    test.add_argument(
        "--format", choices=["text", "tap"], default="text", help="text: for people; tap: TAP version 13. Default: text"
    )
    test.add_argument("--junit", metavar="FILE", help="also write the results to FILE, as JUnit's XML")
    test.add_argument(
        "--coverage",
        nargs="?",
        type=_percent,
        const=0.0,
        metavar="PERCENT",
        help="print the rules that no packet has hit, and fail if less than PERCENT of the rules were hit",
    )


def _percent(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError("must be from 0 to 100")
    return value


@trouble_is(TROUBLE)
def run(options: Namespace) -> int:
    """Run the test cases that *options* name. Return the exit status."""
    from ..bench import results
    from ..bench.bench import Bench
    from ..bench.cases import Cases
    from ..bench.coverage import Coverage
    from .output import write
    from .sources import read_text

    cases = Cases(options.cases)
    bench = Bench(
        read_text(options.rules),
        interfaces_of(options) or cases.interfaces,
        routes=options.route if options.route is not None else cases.routes,
        rules6=options.rules6,
        sets=cases.sets,
        sysctls=cases.sysctls,
        backend=options.backend or cases.backend,
        ipv6=options.family == "6" or None,
    )
    done = []
    with bench:

        def kept() -> Any:
            for result in cases.run(bench):
                done.append(result)
                yield result

        shape = results.tap if options.format == "tap" else results.plain
        for line in shape(kept(), len(cases.cases)):
            write(f"{line}\n")
        coverage = Coverage()
        if options.coverage is not None:
            coverage.add(bench.ruleset())
    if options.junit is not None:
        from .files import PUBLIC, write_file

        write_file(options.junit, results.junit(done, options.cases), PUBLIC)
    failed = any(result.wrong for result in done)
    if options.coverage is not None:
        lead = "# " if options.format == "tap" else ""
        write("".join(f"{lead}{line}\n" for line in coverage.table().splitlines()))
        if coverage.percent < options.coverage:
            write(f"{lead}{coverage.percent:.1f}% of the rules were hit; {options.coverage:g}% were asked for\n")
            failed = True
    return FAILED if failed else PASSED
