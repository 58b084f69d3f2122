"""The class `Sequence`, whose edits stay cheap, behaves like a list under random edits."""

import random

import pytest

from iptc._rope import Row, Sequence


def edited(count, choose, seed=3):
    """Return a sequence and the list that it must equal, after *count* random edits: some in a region that moves slowly,
    some anywhere."""
    dice = random.Random(seed)
    sequence, model = Sequence(), []
    for step in range(count):
        at = dice.randrange(len(model) + 1) if dice.random() < 0.5 else min(len(model), step % 700)
        item = choose(dice, step)
        what = dice.random()
        if what < 0.6 or not model:
            sequence.insert(at, item)
            model.insert(at, item)
        elif what < 0.8:
            assert sequence.pop(at % len(model)) is model.pop(at % len(model))
        else:
            sequence[at % len(model)] = item
            model[at % len(model)] = item
        if step % 97 == 0:
            assert sequence[at % len(model)] is model[at % len(model)] if model else not len(sequence)
    return sequence, model


def mixed(dice, step):
    return step if dice.random() < 0.3 else Row(b"%d" % step, step)


def test_a_sequence_behaves_like_a_list():
    sequence, model = edited(20000, mixed)
    assert len(sequence) == len(model) > 4000
    assert list(sequence) == model
    while model:
        assert sequence.pop(len(model) // 3) is model.pop(len(model) // 3)
    assert sequence.items() == [] and len(sequence) == 0
    sequence.append("again")
    assert list(sequence) == ["again"]


def test_rows_know_where_they_stand():
    sequence, model = edited(20000, lambda dice, step: Row(b"", step))
    order = list(enumerate(model))
    random.Random(1).shuffle(order)
    for position, row in order:
        assert sequence.position(row) == position
    for _ in range(len(model) // 2):
        position = len(model) // 2
        sequence.pop(position)
        gone = model.pop(position)
        with pytest.raises(IndexError):
            sequence.position(gone)
    assert [sequence.position(row) for row in model] == list(range(len(model)))


def test_what_is_not_there_is_refused():
    sequence = Sequence("abc")
    for wrong in (
        lambda: sequence[3],
        lambda: sequence.pop(3),
        lambda: sequence.insert(4, "d"),
        lambda: Sequence().pop(0),
    ):
        with pytest.raises(IndexError):
            wrong()
    with pytest.raises(IndexError):
        sequence.position(Row(b""))
    other = Sequence([Row(b"")])
    with pytest.raises(IndexError):
        sequence.position(other[0])
    row = other[0]
    del other
    with pytest.raises(IndexError):
        sequence.position(row)
    with pytest.raises(TypeError):
        sequence.insert(0, None)
    assert list(sequence) == ["a", "b", "c"]
