"""How much memory this process has in use, and whether it grows with each time that something is done."""

import gc
import os

PAGE = os.sysconf("SC_PAGE_SIZE")
TIMES = 5
"""What leaks grows as often as it is tried. An arena of the allocator or a table of the interpreter is made now and then,
by whatever else the process does as well."""


def resident():
    """Bytes of memory in use by this process."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * PAGE


def growth(work, allowed):
    """By how many bytes the process grew by *work*, which is done again as long as that is more than *allowed*. What only
    the collector of cycles would find counts too, unless *work* calls it."""
    gc.collect()
    for _ in range(TIMES):
        before = resident()
        work()
        grown = resident() - before
        if grown < allowed:
            break
    return grown
