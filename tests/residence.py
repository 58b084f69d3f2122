"""Measures how much memory this process uses, and whether it grows each time that some work is done."""

import gc
import os

PAGE = os.sysconf("SC_PAGE_SIZE")
TIMES = 5
"""How often the work is repeated. A leak grows each time. The process may also grow for other reasons, but seldom: a
new arena of the allocator, or a larger table of the interpreter."""


def resident():
    """Return the bytes of memory that this process uses."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * PAGE


def growth(work, allowed):
    """Return by how many bytes the process grows through *work*, which is repeated as long as that is more than
    *allowed*.

    Garbage in cycles counts too, unless *work* runs the collector.
    """
    gc.collect()
    for _ in range(TIMES):
        before = resident()
        work()
        grown = resident() - before
        if grown < allowed:
            break
    return grown
