"""`iptc apply`: make the tables what a file says, with the fewest edits."""

from .arguments import add_command, add_wait, wait_of
from .output import write
from .plan import rehearse, wanted
from .rulesets import TROUBLE, add_format, add_scope, show, trouble_is


def add(commands):
    """Describe the command."""
    apply = add_command(
        commands, "apply", run, both=True,
        help="make the rules what a file says, with the fewest edits",
        description="Make the tables what FILE says, in the format of iptables-save: all of them together or none, and with the fewest "
                    "edits, so that the counters of rules that stay go on. FILE is of one family, or has the lines `# IPv4' and "
                    "`# IPv6'.",
        epilog="Exit status: 0 done, 1 trouble, 2 a bad line, 4 the lock was not obtained. With --check: 0 nothing to do, 1 there are "
               "changes, 2 trouble.",
    )  # fmt: skip
    apply.add_argument("file", metavar="FILE", help="- for standard input")
    apply.add_argument("--check", action="store_true", help="change nothing, and print what would be changed, as `iptc plan'")
    add_scope(apply)
    add_format(apply)
    add_wait(apply, True, "wait for the xtables lock this long only (for ever)")
    apply.set_defaults(family=None)


def run(options):
    """Apply what *options* say."""
    if options.check:
        return trouble_is(TROUBLE)(rehearse)(options)
    from ..managing import planning

    text, settings = wanted(options)
    found = planning.apply(text, wait=wait_of(options), **settings)
    if options.format == "json":
        show(options, found, None)
    elif not options.quiet:
        write(f"{found.difference.summary() or 'nothing to do'}\n")
    return 0
