"""`iptc doctor`: finds out what prevents firewall rules from working on this host, and says what to do about it."""

from __future__ import annotations

from ..model import restoring
from .arguments import FAMILIES, add_command
from .output import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from ..doctor.finding import Finding
    from .arguments import _Commands


_NOTHING_TO_DO, SOMETHING_TO_DO = 0, 1
SCHEMA = 1


def add(commands: _Commands) -> None:
    """Describe the command."""
    doctor = add_command(
        commands,
        "doctor",
        run,
        both=True,
        help="find out what prevents rules from working on this host",
        description="Find out what prevents rules from working on this host, and print what to do about it: back "
        "ends, lock, privileges, plugins, kernel. Nothing is changed. With FILE, also print which "
        "tables, matches and targets of that ruleset this kernel does not have.",
        epilog="Exit status: 0 no problem was found, 1 a warning or an error was found, 2 wrong arguments.",
    )
    doctor.add_argument(
        "file", nargs="?", metavar="FILE", help="a ruleset in the format of iptables-save; - means standard input"
    )
    doctor.add_argument("--all-netns", action="store_true", help="examine all network namespaces too")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    doctor.add_argument("-q", "--quiet", action="store_true", help="print only warnings and errors")


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


def _as_text(finding: Finding) -> str:
    text = finding.text.replace("\n", " ")
    do = f"\n{'':9}-> {finding.do}" if finding.do else ""
    return f"{finding.level + ':':8} {text}{do}"


def _texts(options: Namespace) -> Iterator[tuple[bool, bytes]]:
    """Yield (ipv6, text) of the ruleset, for each family that was asked for."""
    if options.file is None:
        return
    if options.family != "both":
        from .sources import read_text

        yield FAMILIES[options.family][0], read_text(options.file)
        return
    from .sources import sources

    for ipv6, part in sources(options):
        yield ipv6, b"".join(restoring.pieces(part))
