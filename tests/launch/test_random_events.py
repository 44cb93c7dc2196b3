"""Whatever happens to a launch: it ends, nothing was started twice, and nothing is left that costs money."""

import collections

import pytest
from launch import random_events

SEQUENCES = 8


def test_nothing_is_left_or_started_twice(tmp_path):
    ends = collections.Counter()
    for seed in range(SEQUENCES):
        folder = tmp_path / str(seed)
        folder.mkdir()
        sequence = random_events.Sequence(seed, folder)
        sequence.run(sequence.cloud)
        assert not sequence.problems(), (seed, sequence.record)
        ends[sequence.record.state.name] += 1
    assert len(ends) > 1  # Otherwise the events are too tame to say anything.


@pytest.mark.slow
def test_many_sequences(tmp_path):
    for seed in range(SEQUENCES, 500):
        folder = tmp_path / str(seed)
        folder.mkdir()
        sequence = random_events.Sequence(seed, folder)
        sequence.run(sequence.cloud)
        assert not sequence.problems(), (seed, sequence.record)
