"""`iptc owned`: manages the rules of an owner among those of other programs."""

from __future__ import annotations

from ..errors import ParameterError
from .arguments import add_command, add_wait, wait_of
from .output import write
from .rulesets import DIFFERENT, SAME, TROUBLE, add_format, show, trouble_is
from .sources import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..managing.planning import Plan
    from ..owning.owned import Owned
    from .arguments import _Commands

VERBS = ("plan", "apply", "show", "remove")


def add(commands: _Commands) -> None:
    """Describe the command."""
    owned = add_command(
        commands,
        "owned",
        run,
        both=True,
        family=None,
        help="manage the rules of an owner among those of other programs",
        description="Manage the rules of the owner NAME among the rules of other programs, which are never "
        "changed. plan: print which changes make the rules of NAME those of FILE. apply: make these "
        "changes. show: print the rules of NAME that the kernel has. remove: delete them. FILE is "
        "TOML, with a [[chain]] for each chain (keys: chain, rules, table, place, anchor, family), or "
        "has the format of iptables-save.",
        epilog="Exit status of plan: 0 nothing to do, 1 there are changes, 2 error; of the others: as of "
        "`iptc restore'.",
    )
    owned.add_argument("name", metavar="NAME")
    owned.add_argument("verb", choices=VERBS, metavar="plan|apply|show|remove")
    owned.add_argument("file", metavar="FILE", nargs="?", help="the rules that NAME is to have; - means standard input")
    owned.add_argument(
        "--comment", metavar="TEXT", help="the comments of the owner's rules begin with TEXT. Default: NAME:"
    )
    add_format(owned)
    add_own_table(owned)
    add_wait(owned, True, "wait at most SECONDS for the xtables lock. Default: wait for ever")


def add_own_table(command: ArgumentParser) -> None:
    """Add the argument for a table that no other program can change."""
    command.add_argument(
        "--own-table",
        action="store_true",
        help="keep the rules in a table of nf_tables that no other process can change while this one runs",
    )


def run(options: Namespace) -> int:
    """Run the command. Return the exit status."""
    if (options.file is not None) != (options.verb in ("plan", "apply")):
        raise ParameterError(f"{options.verb} {'takes no' if options.file is not None else 'needs a'} FILE")
    return {"plan": _plan, "apply": _apply, "show": _show, "remove": _remove}[options.verb](options)


def owned_of(options: Namespace, text: bytes | None = None) -> Owned:
    """Return the `Owned` that *options* name. Its rules are those of *text*."""
    from ..owning.owned import Owned
    from ..owning.wanted import set_from

    owned = Owned(options.name, comment=options.comment, own_table=options.own_table, netns=options.netns)
    if text is not None:
        set_from(owned, text, None if options.family == "both" else options.family == "6")
    return owned


@trouble_is(TROUBLE)
def _plan(options: Namespace) -> int:
    found = owned_of(options, read_text(options.file)).plan()
    show(options, found, ("live", options.file))
    return DIFFERENT if found else SAME


def _apply(options: Namespace) -> int:
    _tell(options, owned_of(options, read_text(options.file)).apply(wait_of(options)))
    return 0


def _remove(options: Namespace) -> int:
    _tell(options, owned_of(options).remove(wait_of(options)))
    return 0


def _tell(options: Namespace, done: Plan) -> None:
    if options.format == "json":
        show(options, done, None)
    elif not options.quiet:
        write(f"{done.difference.summary() or 'nothing to do'}\n")


def _show(options: Namespace) -> int:
    rows = [
        row
        for row in owned_of(options).rows()
        if options.family in (None, "both") or (row[2].nfproto != 2) == (options.family == "6")
    ]
    if options.format == "json":
        import json

        rules = [
            {"family": "ipv4" if rule.nfproto == 2 else "ipv6", "table": table, "chain": chain, "rule": str(rule)}
            for table, chain, rule in rows
        ]
        write(json.dumps({"schema": 1, "owner": options.name, "rules": rules}) + "\n")
        return 0
    said = None
    lines = []
    for table, chain, rule in rows:
        where = f"# IPv{4 if rule.nfproto == 2 else 6} {table}"
        if where != said:
            lines.append(where)
            said = where
        lines.append(f"-A {chain} {rule}")
    write("".join(f"{line}\n" for line in lines))
    return 0
