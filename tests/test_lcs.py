"""Longest common subsequences: as long as those of the textbook algorithm, and in bounded time for any input."""

import random
from array import array

import pytest

from iptc.managing import lcs


def longest(one, other):
    """Return the length of a longest common subsequence by the textbook algorithm."""
    row = [0] * (len(other) + 1)
    for x in one:
        before = 0
        for place, y in enumerate(other, 1):
            row[place], before = before + 1 if x == y else max(row[place], row[place - 1]), row[place]
    return row[-1]


def matched(one, other, bound=None):
    """Return how many pairs `blocks` finds, after checking that they are pairs in order."""
    blocks = lcs.blocks(array("I", one), array("I", other), bound)
    end = other_end = 0
    for start, other_start, length in blocks:
        assert length and start >= end and other_start >= other_end
        assert one[start : start + length] == other[other_start : other_start + length]
        end, other_end = start + length, other_start + length
    return sum(length for *_, length in blocks)


def test_finds_as_much_as_there_is():
    dice = random.Random(1)
    for number in range(3000):
        top = 41 if number % 30 else 201
        lengths = dice.choice((0, 1, 3, 10, top - 1)), dice.choice((0, 1, 3, 10, top - 1))
        kinds = min(dice.choice((1, 2, 3, 5, 20, 100)), sum(lengths)) or 1
        one, other = ([dice.randrange(kinds) for _ in range(length)] for length in lengths)
        assert matched(one, other) == longest(one, other)
        # beyond the bound the result may be shorter, but must be correct
        assert matched(one, other, dice.choice((0, 10, 100))) <= longest(one, other)


def test_counts_no_step_more_than_there_are_edits():
    one = list(range(100_000))
    other = one[:10] + [100_000] + one[10:50_000] + one[50_003:] + [100_001]
    assert matched(one, other) == 99_997


@pytest.mark.parametrize("kinds", [2, 100, 20_000])
def test_long_unrelated_sequences_are_matched(kinds):
    dice = random.Random(kinds)
    one, other = ([dice.randrange(kinds) for _ in range(20_000)] for _ in range(2))
    # a bounded search finds no more pairs than an unbounded one
    assert 0 < matched(one, other, 1 << 20) <= matched(one, other)


def test_permutations_are_matched_as_well_as_possible():
    one = list(range(5000))
    other = one[:]
    random.Random(3).shuffle(other)
    rising = []
    for number in other:
        place = next((place for place, end in enumerate(rising) if end >= number), len(rising))
        rising[place : place + 1] = [number]
    assert matched(one, other) == len(rising)
    assert matched(one, other[:10] + one[10:4000] + other[4000:], 1000) >= 3990 - 10


@pytest.mark.parametrize(
    "numbers", [array("i", [1]), array("Q", [1]), b"\0\0\0\0", memoryview(bytes(8)).cast("I", (1, 2))]
)
def test_a_buffer_of_anything_else_is_refused(numbers):
    for pair in ((numbers, array("I")), (array("I"), numbers)):
        with pytest.raises(ValueError, match="unsigned integers of four bytes"):
            lcs.blocks(*pair)
    with pytest.raises(TypeError):
        lcs.blocks(array("I"), [1])


def test_numbers_must_be_small():
    with pytest.raises(ValueError, match="too large"):
        lcs.blocks(array("I", [2]), array("I"))
    assert lcs.blocks(array("I"), array("I")) == []
