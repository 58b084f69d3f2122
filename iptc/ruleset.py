"""A whole host's rules: all tables of a family as the text of iptables-save, and back."""

from . import _core, kernel
from .lock import checked_lock_file, checked_wait
from .namespace import Place
from .restoring import Restore, programs


def save(ipv6=False, counters=False, netns=None):
    """Return all tables of a family as text, as `iptables-save` writes them; with *counters* those of the rules too (`-c`).

    Only tables that are in use: looking creates none. Each table is of one moment, the tables are not of the same.
    """
    nfproto = _family(ipv6)
    place = Place(netns)
    names = kernel.tables_in_use(nfproto, place)
    return "".join(kernel.table_at(nfproto, name, place).save(counters) for name in names)


def restore(source, ipv6=False, counters=False, flush=True, test=False, *, netns=None, wait=None, lock_file=None, progress=None):
    """Make the tables of a family what *source* says, as `iptables-restore`; return how many rules it has.

    *source* is text (a string with a line break), a path or an open file, which is read in pieces. Each table is sent where its
    `COMMIT` stands, so a mistake in a later one leaves those before it restored, and changes nothing of its own; with *test*
    none is sent (`--test`). With *counters* the counters of the text are set (`-c`); without *flush* the rules that are there
    stay (`--noflush`). *wait* and *lock_file* are as for `Table`. progress(bytes) is called as the text is read.

    `ParameterError` or `KernelError` with the number of the line as `line`, and iptables' own message.
    """
    nfproto = _family(ipv6)
    place = Place(netns)
    settings = {"wait": checked_wait(wait), "lock_file": checked_lock_file(lock_file)}

    def rehearse(program):
        kernel.rehearse(kernel.table_at(nfproto, program.table, place), [Restore(program)], **settings)

    def begun(name):
        kernel.table_at(nfproto, name, place).require()

    rules = 0
    for program in programs(nfproto, source, counters, flush, None, begun, rehearse, progress):
        if test:
            rehearse(program)
        else:
            kernel.send(kernel.table_at(nfproto, program.table, place), [Restore(program)], **settings)
        rules += program.rules
    return rules


def _family(ipv6):
    return _core.IPV6 if ipv6 else _core.IPV4
