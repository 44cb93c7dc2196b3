"""The law of the data: batch k follows from (seed, k) and nothing else, however many hosts read it, wherever a run
stopped."""

import dataclasses
import hashlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from bigmodel_jax.data import batches, mixture, sources
from bigmodel_jax.data.text import text, tokenizers

LENGTH, ROWS, SEED = 8, 64, 3
HOSTS = (1, 2, 3, 4, 7, 64)
# The data is opened once for all examples: it does not change.
FEW = hypothesis.settings(
    deadline=None, max_examples=10, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noisy(batches.Data):
    """Examples that are augmented: noise that follows from (seed, epoch, example)."""

    batch: int
    count: int

    @property
    def fields(self):
        noise = batches.Field((4,), np.dtype(np.float32), ('features',))
        return {'noise': noise}

    def build(self, seed):
        return batches.Batches(NoisyExamples(self), rows=self.batch, seed=seed)


class NoisyExamples(batches.Examples):
    def __init__(self, data):
        self._count, self.fields, self.fingerprint = data.count, data.fields, {'examples': data.count}

    def __len__(self):
        return self._count

    def gather(self, indices, epochs, seed):
        keys = [f'{seed} {epoch} {index}'.encode() for index, epoch in zip(indices, epochs)]
        words = [np.frombuffer(hashlib.sha256(key).digest()[:4], np.uint8) for key in keys]
        return {'noise': np.stack(words).astype(np.float32)}


def texts(stories, packing, rows=ROWS):
    source = sources.JsonLines(pattern=stories[0])
    return text.Text(source=source, tokenizer=tokenizers.Bytes(), batch=rows, length=LENGTH, packing=packing)


def mixed(*parts):
    weighted = [mixture.Part(data=data, weight=weight) for data, weight in zip(parts, (0.7, 0.3))]
    return mixture.Mixture(batch=ROWS, parts=tuple(weighted))


KINDS = {
    'windows': lambda stories: texts(stories, text.Windows()),
    'documents': lambda stories: texts(stories, text.Documents()),
    'augmented': lambda stories: Noisy(batch=ROWS, count=2_000),
    'mixture': lambda stories: mixed(texts(stories, text.Windows()), texts(stories, text.Windows(), rows=1)),
    'mixture of augmented': lambda stories: mixed(Noisy(batch=ROWS, count=2_000), Noisy(batch=1, count=600)),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def built(request, stories):
    return request.param(stories).build(SEED)


def split(rows, hosts):
    """The rows of each host; where they do not divide, the first have one more."""
    return np.array_split(np.arange(rows), hosts)


def assert_same(parts, whole, rows=None):
    for name, array in whole.items():
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joined, array if rows is None else array[rows])


@pytest.mark.parametrize('hosts', HOSTS)
@pytest.mark.parametrize('method', ['training', 'eval_batch'])
def test_any_number_of_hosts_reads_the_same_batch(built, hosts, method):
    for step in (0, 1, built.steps_per_pass - 1, built.steps_per_pass + 2):
        whole = getattr(built, method)(step)
        assert_same([getattr(built, method)(step, rows) for rows in split(ROWS, hosts)], whole)


@FEW
@hypothesis.given(step=st.integers(0, 10**6), rows=st.lists(st.integers(0, ROWS - 1), min_size=1, unique=True))
def test_any_rows_in_any_order_are_those_of_the_whole_batch(built, step, rows):
    """As where a host's chips are neighbours in the torus but not along the batch."""
    rows = np.array(rows)
    assert_same([built.training(step, rows)], built.training(step), rows)
    np.testing.assert_array_equal(built.ids(step, rows), built.ids(step)[rows])


@pytest.mark.parametrize('hosts', HOSTS)
def test_the_certificate_of_a_batch_does_not_depend_on_the_hosts(built, hosts):
    def certificate(step, rows=None):
        return built.row_hashes(built.ids(step, rows), rows).sum(axis=0, dtype=np.uint32)

    for step in (0, 5):
        parts = [certificate(step, rows) for rows in split(ROWS, hosts)]
        np.testing.assert_array_equal(np.sum(parts, axis=0, dtype=np.uint32), certificate(step))
    assert (certificate(0) != certificate(5)).any()


def test_one_epoch_is_every_example_once(built):
    """Of a mixture that is said in test_mixture.py, part by part."""
    if isinstance(built, mixture.MixedBatches):
        pytest.skip('its parts have epochs of their own')
    count = len(built.examples)
    steps = -(-2 * count // ROWS)
    stream = np.concatenate([built.ids(step) for step in range(steps)])[: 2 * count].reshape(2, count)
    np.testing.assert_array_equal(np.sort(stream), [np.arange(count)] * 2)
    assert (stream[0] != stream[1]).any()


@FEW
@hypothesis.given(sessions=st.lists(st.tuples(st.integers(1, 3), st.sampled_from(HOSTS)), min_size=2, max_size=4))
def test_sessions_on_other_numbers_of_hosts_read_one_stream(built, sessions):
    """Each session opens the data again, goes on from the step that the last one reached, and nothing else."""
    stream, begin = [], 0
    for steps, hosts in sessions:
        stream += [built.ids(step, rows) for step in range(begin, begin + steps) for rows in split(ROWS, hosts)]
        begin += steps
    np.testing.assert_array_equal(np.concatenate(stream), np.concatenate([built.ids(step) for step in range(begin)]))


def test_what_is_opened_again_is_the_same(stories):
    for kind in KINDS.values():
        first, again, other = (kind(stories).build(seed) for seed in (SEED, SEED, SEED + 1))
        assert_same([again.training(9)], first.training(9))
        assert (other.ids(9) != first.ids(9)).any()


def test_augmentation_differs_between_epochs_and_examples():
    built = Noisy(batch=ROWS, count=ROWS).build(SEED)
    first, second = (built.training(step)['noise'][np.argsort(built.ids(step))] for step in (0, 1))
    assert (first != second).any(axis=1).all()
    assert len(np.unique(first, axis=0)) == ROWS
