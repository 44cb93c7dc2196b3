"""Span corruption: nothing is lost, the sizes are those of T5's code, and the spans follow from a key."""

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import span_corruption, tokenizers

LENGTH, TEXT = 64, ''.join(f'{n} is the number after {n - 1}.\n' for n in range(1, 200))


def data(**changes):
    everything = {'batch': 4, 'length': LENGTH, **changes}
    return span_corruption.SpanCorruption(
        source=sources.Texts(texts=(TEXT,)), tokenizer=tokenizers.Bytes(), **everything
    )


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('BIGMODEL_JAX_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield data().build(seed=3)


def joined(source, targets, top):
    """The text of which a row was made: each sentinel of the source gives way to what follows it in the targets."""
    pieces, current = {}, None
    for token in targets[:-1].tolist():
        if token > top - 100:
            current = pieces.setdefault(token, [])
        else:
            current.append(token)
    whole = [pieces.pop(token) if token > top - 100 else [token] for token in source[:-1].tolist()]
    assert not pieces
    return [token for piece in whole for token in piece]


def test_every_row_can_be_put_together_again(built):
    examples = built.examples
    stream = [examples.tokenizer.end, *examples.tokenizer.encode(TEXT).tolist()]
    raw = data().sizes.raw
    batch = examples.gather(np.arange(4), np.zeros(4, np.int64), seed=3)
    for row, (source, targets) in enumerate(zip(batch['source'], batch['targets'])):
        assert joined(source, targets, top=examples.tokenizer.size + 99) == stream[row * raw : (row + 1) * raw]
        assert source[-1] == targets[-1] == examples.tokenizer.end
        assert batch['inputs'][row].tolist() == [examples.tokenizer.end, *targets[:-1].tolist()]
        sentinels = [token for token in targets.tolist() if token > examples.tokenizer.size]
        top = examples.tokenizer.size + 99
        assert sentinels == list(range(top, top - data().sizes.spans, -1))
        assert batch['bytes'][row] == sum(token < 256 for token in targets.tolist())


def test_batches_have_the_fields_that_were_promised(built):
    batch = built.training(0)
    for name, field in built.fields.items():
        assert (batch[name].shape[1:], batch[name].dtype) == (field.shape, field.dtype), name
        assert field.upper_bound is None or batch[name].max() < field.upper_bound
    assert set(batch) == set(built.fields) == {*data().fields, 'example_weights'}


def test_sizes_are_those_of_the_published_pretraining():
    # Their random_spans_helper() for 512 inputs, 15% and spans of 3: rows of 568 tokens, 114 targets.
    sizes = data(length=512).sizes
    assert (sizes.raw, sizes.source, sizes.target) == (568, 512, 114)
    assert (sizes.cut / sizes.raw, sizes.cut / sizes.spans) == (pytest.approx(0.15, abs=1e-3), pytest.approx(3, 0.02))


def test_spans_follow_from_seed_epoch_and_example():
    sizes = data().sizes
    first = span_corruption.cuts(sizes, 0, 0, 0)
    np.testing.assert_array_equal(first, span_corruption.cuts(sizes, 0, 0, 0))
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert (first != span_corruption.cuts(sizes, *other)).any(), other


def test_all_places_are_cut_equally_often_but_the_ends():
    sizes = span_corruption.Sizes(raw=40, cut=8, spans=4)
    drawn = np.stack([span_corruption.cuts(sizes, 0, 0, example) for example in range(2_000)])
    assert (drawn.sum(axis=1) == 8).all()
    begins = drawn & ~np.roll(drawn, 1, axis=1)
    assert (begins.sum(axis=1) == 4).all()
    assert not drawn[:, 0].any()
    # Each cut length 1 .. 5 of the first span has the share of the compositions of 8 into 4 parts that begin with it.
    first = np.array([row[row.argmax() :].argmin() if row.argmax() + 8 < 40 else 0 for row in drawn])
    counts = np.array([(first == length).sum() for length in range(1, 6)])
    shares = np.array([15, 10, 6, 3, 1]) / 35
    # Five standard deviations of a binomial share of 2,000.
    np.testing.assert_allclose(counts / counts.sum(), shares, atol=5 * np.sqrt(0.25 / 2_000))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'length': 2}, 'a length of at least 3'),
        ({'span': 0.5}, 'spans of at least 1'),
        ({'corrupted': 0.0}, 'more than 0 corrupted'),
        ({'corrupted': 0.95, 'span': 1.0}, 'no row has a source of length=64; use length=63'),
        ({'length': 512, 'sentinels': 20}, 'has 28 spans, more than sentinels=20'),
        ({'length': 8_000, 'sentinels': 1_000}, 'too few for one row of length=8000'),
    ],
)
def test_impossible_rows_are_errors(changes, message, tmp_path, monkeypatch):
    monkeypatch.setenv('BIGMODEL_JAX_CACHE', str(tmp_path))
    with pytest.raises(config.InputError, match=message):
        data(**changes).build(seed=0)
