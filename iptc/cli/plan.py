"""`iptc plan`: what `iptc apply` would do."""

from __future__ import annotations

from .arguments import add_command
from .rulesets import DIFFERENT, SAME, TROUBLE, add_format, add_scope, family_of, show, trouble_is
from .sources import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from .arguments import _Commands


def add(commands: _Commands) -> None:
    """Describe the command."""
    plan = add_command(
        commands,
        "plan",
        run,
        both=True,
        family=None,
        help="print what `iptc apply' would change",
        description="Print what `iptc apply' would change. Nothing is changed. FILE has the format of "
        "iptables-save, and one family, or both under the lines `# IPv4' and `# IPv6'.",
        epilog="Exit status: 0 nothing to do, 1 there are changes, 2 error.",
    )
    plan.add_argument("file", metavar="FILE", help="a file in the format of iptables-save; - means standard input")
    add_scope(plan)
    add_format(plan)


@trouble_is(TROUBLE)
def run(options: Namespace) -> int:
    """Run the command. Return the exit status."""
    return show_plan(options)


def show_plan(options: Namespace) -> int:
    """Show the plan, and do nothing. Return the exit status."""
    from ..managing import planning

    text, settings = wanted(options)
    found = planning.plan(text, **settings)
    show(options, found, ("live", options.file))
    return DIFFERENT if found else SAME


def wanted(options: Namespace) -> Any:
    """Return the first argument and the keyword arguments of `iptc.plan` and `iptc.apply` for *options*."""
    from ..managing import ruleset_value

    text = read_text(options.file)
    if options.family == "both":
        ruleset_value.require_headings(text)
    return text, {"only": options.only, "keep": options.keep, "ipv6": family_of(options), "netns": options.netns}
