# cython: freethreading_compatible=False
"""Writes the rules of a restored text as messages of a batch: in one pass, without a Python object for each rule."""

from .._netlink cimport Batch
from .codec cimport write_rule
from ..language.plugins cimport reads_compat_only
from ..language.restored_text cimport Record, Run
from ..errors import IPTCError


def append_run(Batch batch not None, bytes table not None, bytes chain not None, Run run not None):
    """Append the rules of *run* to *chain*. Return the number of the message of the first rule."""
    cdef Py_ssize_t first = batch.message_count
    cdef bint compat = reads_compat_only()
    cdef size_t at = run.start, start
    cdef const Record *record
    while at < run.end:
        record = <const Record *> (run.restored.memory + at)
        start = batch.begin_appended(run.restored.family.nfproto, table, chain)
        try:
            write_rule(&batch.writer, run.restored.family, <const char *> (record + 1), record.entry_size, compat)
        except IPTCError as error:
            error.line = record.line
            raise
        batch.end(start)
        at += record.size
    return first
