"""`iptc show`: prints the rules as they were at an earlier time, from a journal."""

from __future__ import annotations

import time

from .arguments import FAMILIES, HEADINGS, add_command
from .log import add_folder, folder_of
from .output import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from .arguments import _Commands


def add(commands: _Commands) -> None:
    """Describe the command."""
    show = add_command(
        commands,
        "show",
        run,
        live=False,
        both=True,
        family=None,
        help="print the rules as they were at an earlier time",
        description="Print the rules as they were at TIME, in the format of iptables-save. They are read from the "
        "journal of `iptc watch --log DIR'. Without -4 or -6 both families are printed, each under "
        "its heading. If both back ends had rules, --backend selects one.",
    )
    show.add_argument("time", metavar="@TIME", help="@1h, @30m or @2d for that long ago, @2026-11-27T10:00, or @now")
    add_folder(show)


def run(options: Namespace) -> int:
    """Run the command. Return the exit status."""
    from ..errors import ParameterError
    from ..watching import journal

    state = journal.state_at(folder_of(options), journal.moment(options.time, time.time()))
    backends = [name for name, families in state.items() if any(families.values())]
    if options.backend is not None:
        backends = ["legacy" if options.backend == "libiptc" else options.backend]
    if len(backends) > 1:
        raise ParameterError("both back ends had rules then: say --backend legacy or --backend nft")
    parts = []
    for backend in backends:
        for ipv6 in FAMILIES[options.family or "both"]:
            if options.family in (None, "both"):
                parts.append(f"{HEADINGS[ipv6]}\n")
            parts.append(journal.tables_text(state, backend, "ipv6" if ipv6 else "ipv4"))
    write("".join(parts))
    return 0
