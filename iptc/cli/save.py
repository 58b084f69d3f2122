"""`iptc save`: print the tables of a host in the format of iptables-save."""

from __future__ import annotations

from .arguments import FAMILIES, HEADINGS, add_command
from .files import write_file
from .output import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from ..managing.ruleset_value import Ruleset
    from .arguments import _Commands


def add(commands: _Commands) -> None:
    """Describe the command."""
    save = add_command(
        commands,
        "save",
        run,
        both=True,
        help="print the rules as iptables-save does",
        description="Print the rules in the format of iptables-save: of all tables that are in use, or of one table.",
    )
    save.add_argument("-t", "--table", help="only this table")
    save.add_argument(
        "--all-tables",
        action="store_true",
        help="print the tables too that are not in use. So restoring the text empties them",
    )
    save.add_argument("-c", "--counters", action="store_true", help="print the counters of the rules too")
    share = save.add_mutually_exclusive_group()
    share.add_argument(
        "--owned", metavar="NAME", help="only the rules and chains of this owner; `iptc restore -n' adds them again"
    )
    share.add_argument(
        "--except", dest="without", nargs="+", metavar="NAME", default=[], help="all rules but those of these owners"
    )
    save.add_argument(
        "-f",
        "--file",
        metavar="FILE",
        help="write to FILE instead of standard output. If that fails, an existing FILE stays as it was",
    )


def run(options: Namespace) -> int:
    """Run the command. Return the exit status."""
    from .. import ruleset

    parts = []
    for ipv6 in FAMILIES[options.family]:
        if options.family == "both":
            parts.append(f"{HEADINGS[ipv6]}\n")
        if options.owned or options.without:
            parts.append(_share(options, ipv6))
            continue
        parts.append(
            ruleset.save(
                ipv6, options.counters, netns=options.netns, table=options.table, all_tables=options.all_tables
            )
        )
    text = "".join(parts)
    if options.file is None:
        write(text)
    else:
        write_file(options.file, text)
    return 0


def _share(options: Namespace, ipv6: bool) -> str:
    """Return the text of the rules of one owner, or of all rules except those of some owners."""
    from ..managing.ruleset_value import Ruleset
    from ..owning import owners

    live = Ruleset.live(ipv6, netns=options.netns)
    if options.table is not None:
        live = live.only([(nfproto, name) for nfproto, name in _keys(live) if name == options.table])
    if options.owned:
        return owners.share_text(owners.only(live, options.owned), options.counters)
    return owners.without(live, options.without).text(options.counters)


def _keys(live: Ruleset) -> list[tuple[int, str]]:
    return [(table.nfproto, table.name) for table in live.tables]
