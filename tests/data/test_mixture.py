"""A mixture gives each part its share of every batch, and goes through each part's data example by example."""

import collections
import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import tiny
from bigmodel_jax import config
from bigmodel_jax.data import batches, mixture, sources
from bigmodel_jax.data.mixture import Mixture, Part
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.train import loop
from runs import quick

LENGTH, BYTES = 48, tokenizers.Bytes()
WEIGHTS = st.lists(st.decimals(0, 9, places=3).map(float).filter(bool), min_size=1, max_size=5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers(batches.Data):
    """The numbers from `first` on, and how often each was seen before."""

    batch: int = 1
    first: int
    count: int
    name: str = 'x'
    kind: str = 'int32'

    @property
    def fields(self):
        return {
            self.name: batches.Field((), np.dtype(self.kind), (), self.first + self.count),
            'epoch': INTEGER,
        }

    def build(self, seed):
        return batches.Batches(NumberExamples(self), rows=self.batch, seed=seed)


INTEGER = batches.Field((), np.dtype(np.int64), ())


class NumberExamples(batches.Examples):
    def __init__(self, data):
        self._data, self.fields, self.fingerprint = data, data.fields, {'first': data.first, 'examples': data.count}

    def __len__(self):
        return self._data.count

    def gather(self, indices, epochs, seed):
        numbers = (indices + self._data.first).astype(self._data.kind)
        return {self._data.name: numbers, 'epoch': epochs}


def numbers(*counts, weights, batch=10):
    firsts = [1_000 * i for i in range(len(counts))]
    parts = [Part(data=Numbers(first=f, count=n), weight=w) for f, n, w in zip(firsts, counts, weights)]
    return Mixture(batch=batch, parts=tuple(parts))


def stream(built, steps, field='x'):
    return np.concatenate([built.training(step)[field] for step in range(steps)])


# ---- whose turn it is ---------------------------------------------------------------------------------------------


@hypothesis.given(weights=WEIGHTS, first=st.integers(0, 10**15))
def test_turns_are_dealt_without_a_gap(weights, first):
    shares, nexts = mixture.shares(weights), {}
    for position in range(first, first + 200):
        part, turn = mixture.turn(position, shares)
        assert nexts.get(part, turn) == turn
        nexts[part] = turn + 1


@hypothesis.given(weights=WEIGHTS, count=st.integers(0, 10**12))
def test_every_part_has_its_share_of_any_beginning(weights, count):
    """However long: an error that grew would show at 10^12 examples."""
    shares = mixture.shares(weights)
    taken = collections.Counter(dict(mixture.turn(position, shares) for position in range(count, count + 5_000)))
    for part, turn in taken.items():
        assert abs(turn - count * shares[part] / sum(shares)) <= 5_000 * shares[part] / sum(shares) + len(shares)


def test_weights_count_as_they_are_written():
    assert mixture.shares([0.7, 0.2, 0.1]) == [7, 2, 1]
    assert mixture.shares([1e-3, 1]) == [1, 1_000]
    assert mixture.shares([6, 4.0]) == [3, 2]


def test_a_thousand_examples_are_divided_exactly():
    owners = stream(numbers(30, 70, 11, weights=(0.7, 0.2, 0.1)).build(0), 100) // 1_000
    assert np.bincount(owners).tolist() == [700, 200, 100]
    # And each batch of ten has its seven, two and one.
    assert {tuple(np.bincount(batch)) for batch in owners.reshape(-1, 10)} == {(7, 2, 1)}


# ---- the order of a part ------------------------------------------------------------------------------------------


def test_each_part_goes_through_its_own_data_pass_after_pass():
    built = numbers(30, 7, weights=(3, 1)).build(5)
    seen, epochs = stream(built, 40), stream(built, 40, 'epoch')
    for first, count in ((0, 30), (1_000, 7)):
        mine = (seen >= first) & (seen < first + 1_000)
        passes = np.arange(mine.sum()) // count
        np.testing.assert_array_equal(epochs[mine], passes)
        for epoch in range(passes[-1]):
            assert sorted(seen[mine][passes == epoch]) == list(range(first, first + count))


def test_equal_parts_come_in_different_orders():
    part = Part(data=Numbers(first=0, count=50), weight=1)
    seen = stream(Mixture(batch=10, parts=(part, part)).build(0), 10)
    assert (seen[::2] != seen[1::2]).any()


def test_ids_are_unique_over_the_parts():
    built = numbers(30, 7, weights=(3, 1)).build(5)
    pairs = {(id_, x) for step in range(40) for id_, x in zip(built.ids(step), built.training(step)['x'])}
    assert len(pairs) == 37
    assert {id_ for id_, _ in pairs} == set(range(37))
    assert all(x == (id_ if id_ < 30 else 1_000 + id_ - 30) for id_, x in pairs)


def test_a_mixture_of_mixtures():
    inner = Part(data=numbers(5, 6, weights=(1, 1)), weight=1)
    outer = Part(data=Numbers(first=5_000, count=4), weight=1)
    built = Mixture(batch=8, parts=(inner, outer)).build(2)
    assert len(built.examples) == 15
    counts = collections.Counter(stream(built, 15) // 1_000)
    assert counts == {0: 30, 1: 30, 5: 60}


def test_in_order_the_parts_come_one_after_another():
    built = numbers(13, 8, weights=(1, 100)).build(0)
    assert built.steps_per_pass == 3
    whole = [built.eval_batch(i) for i in range(3)]
    joined = {name: np.concatenate([each[name] for each in whole]) for name in whole[0]}
    np.testing.assert_array_equal(joined['x'][:21], [*range(13), *range(1_000, 1_008)])
    np.testing.assert_array_equal(joined['example_weights'], [1] * 21 + [0] * 9)
    assert not joined['epoch'].any()


# ---- text ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def texts(stories, tmp_path):
    """Two sources of text."""
    other = tmp_path / 'other.txt'
    other.write_text('To be, or not to be, that is the question. ' * 40)
    return sources.JsonLines(pattern=stories[0]), sources.TextFile(path=str(other))


def of_text(texts, *, packing, second=BYTES):
    kinds = zip(texts, (BYTES, second), (0.75, 0.25))
    parts = [
        Part(data=text.Text(source=s, tokenizer=t, batch=1, length=LENGTH, packing=packing), weight=w)
        for s, t, w in kinds
    ]
    return Mixture(batch=8, parts=tuple(parts))


@pytest.mark.parametrize('packing', [text.Windows(), text.Documents()], ids=['windows', 'documents'])
def test_a_mixture_of_texts(texts, packing, tmp_path):
    data = of_text(texts, packing=packing)
    built = data.build(1)
    assert built.examples.fields == data.fields
    batch = built.training(3)
    assert {name: (array.shape[1:], array.dtype) for name, array in batch.items()} == {
        name: (field.shape, field.dtype) for name, field in built.fields.items()
    }
    assert built.examples.tokenizer.size == 257
    built.examples.tokenizer.save(tmp_path / tokenizers.FOLDER)
    assert tokenizers.load(tmp_path / tokenizers.FOLDER).fingerprint == built.examples.tokenizer.fingerprint
    assert [part['weight'] for part in built.examples.fingerprint['parts']] == [0.75, 0.25]
    alone = [part.data.build(0).examples for part in data.parts]
    assert len(built.examples) == sum(map(len, alone))
    whole = [built.eval_batch(i) for i in range(built.steps_per_pass)]
    tokens = sum((batch['loss_weights'].T @ batch['example_weights']).sum() for batch in whole)
    assert tokens == sum(len(examples.corpus.tokens) - 1 for examples in alone)


def test_a_run_on_a_mixture_goes_on_where_it_stopped(tmp_path):
    parts = (Part(data=tiny.Counting(batch=8), weight=0.6), Part(data=tiny.Counting(batch=8, rows_seed=2), weight=0.4))
    experiment = config.vary(quick.experiment(), {'data': Mixture(batch=8, parts=parts), 'steps': 4})
    whole = loop.train(experiment, tmp_path / 'whole')
    loop.train(experiment, tmp_path / 'stopped', stop_after=2)
    assert loop.train(experiment, tmp_path / 'stopped').digest == whole.digest


# ---- what does not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'name': 'y'}, r"parts.0 \(Numbers\) gives 'x' and parts.1 \(Numbers\) does not"),
        ({'kind': 'int64'}, r"'x' of parts.1 \(Numbers\) is int64\[\], that of parts.0 \(Numbers\) int32\[\]"),
    ],
)
def test_parts_with_other_fields(changes, message):
    odd = config.vary(numbers(3, 3, weights=(1, 1)), {f'parts.1.data.{name}': value for name, value in changes.items()})
    with pytest.raises(config.InputError, match=message):
        _ = odd.fields
    with pytest.raises(config.InputError, match=message):
        odd.build(0)


def test_parts_with_other_tokenizers(texts):
    odd = of_text(texts, packing=text.Windows(), second=tokenizers.Characters(trained_on=texts[1]))
    with pytest.raises(config.InputError, match=r'one tokenizer: that of parts.1 \(Text\) is not that of parts.0'):
        odd.build(0)


@pytest.mark.parametrize('changes', [{'parts': ()}, {'parts.0.weight': 0.0}, {'parts.0.weight': -1.0}, {'batch': 0}])
def test_no_mixture(changes):
    with pytest.raises(config.InputError):
        config.check(config.vary(numbers(3, 3, weights=(1, 1)), changes))


def test_bounds_of_integers_cover_all_parts():
    assert numbers(30, 7, weights=(3, 1)).fields['x'].upper_bound == 1_007
    assert numbers(30, 7, weights=(3, 1)).fields['epoch'].upper_bound is None
