"""How several processes share the tests (pytest-xdist, `-n auto`)."""

import os

LONGEST = [
    "test_ruleset",
    "test_memory",
    "test_nft_faults",
    "test_interrupts",
    "test_parity",
    "test_allocations",
    "test_grammar",
    "test_faults",
    "test_managing_rollback",
    "test_traffic",
]
"""Modules that take long for how few tests they have: they begin first, so that none is left over at the end."""


def processes(config):
    """How many processes to start: one for each processor that may be used; none for a file or two, nor where somebody
    watches what is printed."""
    named = {argument.split("::")[0] for argument in config.option.file_or_dir}
    files = bool(named) and all(os.path.isfile(name) for name in named)
    if config.option.capture == "no" or files and len(named) <= 2:
        return 0
    return len(os.sched_getaffinity(0))


def longest_first(items):
    """Put the tests of the longest modules first, each module together and in its order."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.module.__name__, len(LONGEST)))
