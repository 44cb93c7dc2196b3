import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from bigmodel_jax.data.text import packing

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def starts_of(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@hypothesis.given(lengths=LENGTHS, length=st.integers(1, 24))
def test_every_pair_of_every_document_lies_in_one_place(lengths, length):
    plan = packing.plan(starts_of(lengths), length=length)
    rows = packing.layout(plan, np.arange(len(plan.row_starts) - 1), length=length)
    real = rows.segments > 0
    np.testing.assert_array_equal(np.sort(rows.sources[real]), np.arange(sum(lengths)))
    assert not rows.positions[~real].any()
    assert real[:, 0].all()


@hypothesis.given(lengths=LENGTHS, length=st.integers(1, 24))
def test_a_segment_is_a_run_within_one_document(lengths, length):
    starts = starts_of(lengths)
    plan = packing.plan(starts, length=length)
    rows = packing.layout(plan, np.arange(len(plan.row_starts) - 1), length=length)
    document = np.searchsorted(starts, rows.sources, side='right')
    for sources, segments, positions, documents in zip(rows.sources, rows.segments, rows.positions, document):
        count = int(segments.max())
        assert set(segments[segments > 0].tolist()) == set(range(1, count + 1))
        for segment in range(1, count + 1):
            here = segments == segment
            np.testing.assert_array_equal(positions[here], np.arange(here.sum()))
            np.testing.assert_array_equal(sources[here], sources[here][0] + np.arange(here.sum()))
            assert len(set(documents[here].tolist())) == 1


def test_documents_that_fit_are_not_cut():
    plan = packing.plan(starts_of([5, 8, 3, 8, 1]), length=8)
    assert sorted(plan.lengths.tolist()) == [1, 3, 5, 8, 8]


def best_fit_one_by_one(lengths, capacity):
    """The textbook's loop: each piece, longest first, goes to the fullest row that still takes it."""
    left, rows = [], np.zeros(len(lengths), np.int64)
    for piece in np.argsort(-lengths, kind='stable'):
        fitting = [row for row, room in enumerate(left) if room >= lengths[piece]]
        if not fitting:
            left.append(capacity)
            fitting = [len(left) - 1]
        row = min(fitting, key=left.__getitem__)
        left[row] -= lengths[piece]
        rows[piece] = row
    return rows


@hypothesis.given(lengths=st.lists(st.integers(1, 24), min_size=1, max_size=80))
def test_best_fit_fills_rows_as_the_textbook_does(lengths):
    lengths = np.array(lengths)
    ours, textbook = packing.best_fit(lengths, capacity=24), best_fit_one_by_one(lengths, 24)
    fills = [np.sort(np.bincount(rows, weights=lengths)) for rows in (ours, textbook)]
    np.testing.assert_array_equal(*fills)


@hypothesis.given(pairs=st.integers(1, 200), length=st.integers(1, 50), seed=st.integers(0, 9), epoch=st.integers(0, 5))
def test_windows_cover_every_pair(pairs, length, seed, epoch):
    offset = packing.window_offset(seed=seed, epoch=epoch, length=length)
    rows = np.arange(packing.window_count(pairs, length))
    positions = packing.window_positions(rows, np.full(len(rows), offset), length=length)
    assert 0 <= offset < length
    assert set((positions % pairs).ravel().tolist()) == set(range(pairs))
    if epoch == 0:
        np.testing.assert_array_equal(positions.ravel()[:pairs], np.arange(pairs))


def test_window_offsets_differ_between_epochs_and_seeds():
    offsets = {packing.window_offset(seed=s, epoch=e, length=10**9) for s in range(4) for e in range(1, 5)}
    assert len(offsets) == 16


@pytest.mark.parametrize('capacity', [1_024, 8_192])
def test_many_documents_are_planned_tightly(capacity):
    lengths = np.random.default_rng(0).lognormal(5.5, 1.2, 300_000).astype(np.int64) + 1
    plan = packing.plan(starts_of(lengths), length=capacity)
    rows = len(plan.row_starts) - 1
    assert lengths.sum() / (rows * capacity) > 0.999
