"""A whole host's rules: all tables of a family as the text of iptables-save, and back."""

from . import _core, state
from ._applied import telling
from .errors import ParameterTypeError
from .language import printing
from .lock import checked_lock_file, checked_wait
from .model.restoring import AtCommit, Restore, programs
from .model.saved import rule_line
from .namespace import Place


def save(ipv6=False, counters=False, *, table=None, backend=None, netns=None):
    """Return all tables of a family as text, as `iptables-save` writes them; with *counters* those of the rules too (`-c`).

    Only tables that are in use, or that named *table* (`-t`): looking creates none. Each table is of one moment, the tables are
    not of the same.
    """
    nfproto = _family(ipv6)
    place = Place(netns)
    table = _checked_name(table)
    names = state.tables_in_use(nfproto, place, backend) if table is None else [table]
    return "".join(state.table_at(nfproto, name, place, backend).save(counters) for name in names)


@telling
def restore(source, ipv6=False, counters=False, flush=True, test=False, *,
            table=None, backend=None, netns=None, wait=None, lock_file=None, progress=None):  # fmt: skip
    """Make the tables of a family what *source* says, as `iptables-restore`; return how many rules it has.

    *source* is text (a string with a line break), a path or an open file, which is read in pieces. Each table is sent where its
    `COMMIT` stands, so a mistake in a later one leaves those before it restored, and changes nothing of its own; with *test*
    none is sent (`--test`). With *counters* the counters of the text are set (`-c`); without *flush* the rules that are there
    stay (`--noflush`). Only *table* is restored, where one is named (`-T`). *backend*, *wait* and *lock_file* are as for `Table`.
    progress(bytes) is called as the text is read.

    `ParameterError` or `KernelError` with the number of the line as `line`, and iptables' own message.
    """
    nfproto = _family(ipv6)
    place = Place(netns)
    table = _checked_name(table)
    settings = {"wait": checked_wait(wait), "lock_file": checked_lock_file(lock_file)}

    def rehearse(program):
        state.rehearse(state.table_at(nfproto, program.table, place, backend), [Restore(program)], **settings)

    def begun(name):
        there = state.table_at(nfproto, name, place, backend)
        there.require()
        return there.backend

    rules = 0
    for program in programs(nfproto, source, counters, flush, table, begun, rehearse, progress):
        if test:
            rehearse(program)
        else:
            with AtCommit(program):
                state.send(state.table_at(nfproto, program.table, place, backend), [Restore(program)], **settings)
        rules += program.rules
    return rules


def parse(source, ipv6=False, counters=False, flush=True, table=None, progress=None):
    """Read *source* as `restore` does, without the kernel, and return how many rules it has.

    What depends on a table is not found out: whether a chain is there, or a position.
    """
    table = _checked_name(table)
    found = programs(_family(ipv6), source, counters, flush, table, lambda name: None, lambda program: None, progress)
    return sum(program.rules for program in found)


def chains(table, ipv6=False, netns=None):
    """Return the chains of a table as they are now, as `views.ChainView`s."""
    return list(state.table_at(_family(ipv6), table, Place(netns)).read().in_order())


def listing(chains, counters=False):
    """Return *chains* as `iptables -S` prints them; with *counters* as `iptables -S -v`."""
    lines = []
    for chain in chains:
        count = " -c {} {}".format(*chain.counters) if counters and chain.policy is not None else ""
        lines.append(f"-N {chain.name}\n" if chain.policy is None else f"-P {chain.name} {chain.policy}{count}\n")
    for chain in chains:
        for entry in chain.entries:
            lines.append(rule_line(chain, entry, counters))
    return "".join(lines)


def rules_of(chain):
    """Return [((packets, bytes), text)] for the rules of a chain of `chains`."""
    return [(printing.counters_of(chain.nfproto, entry), printing.render(chain.nfproto, entry)) for entry in chain.entries]


def _checked_name(table):
    """*table*, which may be None for all."""
    if table is not None and not isinstance(table, str):
        raise ParameterTypeError(f"a table name must be a string, not {type(table).__name__}")
    return table


def _family(ipv6):
    return _core.IPV6 if ipv6 else _core.IPV4
