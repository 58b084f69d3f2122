"""`iptc doctor`: finds out what prevents firewall rules from working on this host, and says what to do about it."""

from __future__ import annotations

import functools

from .arguments import FAMILIES, add_command
from .output import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from typing import Any


_NOTHING_TO_DO, SOMETHING_TO_DO = 0, 1
SCHEMA = 1


def add(commands: Any) -> None:
    """Describe the command."""
    doctor = add_command(
        commands,
        "doctor",
        run,
        both=True,
        help="explain this host: back ends, lock, rights, plugins, kernel",
        description="Look for what stands in the way of rules on this host, and change nothing. With FILE, which match "
        "or target of that ruleset this kernel cannot do.",
        epilog="Exit status: 0 nothing to do, 1 a warning or an error, 2 usage.",
    )
    doctor.add_argument(
        "file", nargs="?", metavar="FILE", help="ruleset in the format of iptables-save, - for standard input"
    )
    doctor.add_argument("--all-netns", action="store_true", help="look into all network namespaces too")
    doctor.add_argument("--json", action="store_true", help="print one object")
    doctor.add_argument("-q", "--quiet", action="store_true", help="print only what there is something to do about")


def run(options: Namespace) -> int:
    """Run the command: print the findings. Return the exit status."""
    from ..doctor.examine import examine, is_well
    from ..doctor.finding import INFO

    backend, findings = examine(options.netns, options.all_netns, list(_texts(options)))
    shown = [finding for finding in findings if not options.quiet or finding.level != INFO]
    if options.json:
        import json

        said = {"schema": SCHEMA, "backend": backend, "findings": [finding._asdict() for finding in shown]}
        write(json.dumps(said) + "\n")
    elif shown:
        write("\n".join(_as_text(finding) for finding in shown) + "\n")
    return _NOTHING_TO_DO if is_well(findings) else SOMETHING_TO_DO


def _as_text(finding: Any) -> str:
    text = finding.text.replace("\n", " ")
    do = f"\n{'':9}-> {finding.do}" if finding.do else ""
    return f"{finding.level + ':':8} {text}{do}"


def _texts(options: Namespace) -> Iterator[Any]:
    """Yield (ipv6, text) of the ruleset, for each family that was asked for."""
    if options.file is None:
        return
    if options.family != "both":
        from .sources import read_text

        yield FAMILIES[options.family][0], read_text(options.file)
        return
    from .sources import sources

    for ipv6, part in sources(options):
        yield ipv6, b"".join(iter(functools.partial(part.read, 1 << 16), b""))
