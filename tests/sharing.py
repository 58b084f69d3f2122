"""Decides how several processes share the tests (pytest-xdist, `-n auto`)."""

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
"""Modules that take long although they have few tests. They start first, so that no process waits for them at the
end."""


def processes(config):
    """Return how many processes to start: one for each available processor; none for one or two files, or if the output
    must be seen at once."""
    named = {argument.split("::")[0] for argument in config.option.file_or_dir}
    files = bool(named) and all(os.path.isfile(name) for name in named)
    if config.option.capture == "no" or files and len(named) <= 2:
        return 0
    return len(os.sched_getaffinity(0))


def longest_first(items):
    """Put the tests of the longest modules first. The tests of a module stay together, in their order."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.module.__name__, len(LONGEST)))
