"""The language-model loss: PyTorch's and the papers' formulas; in pieces or whole; what is counted and what is not."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drawing
from bigmodel_jax import config
from bigmodel_jax.layers import embeddings
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import classification, language, objective
from bigmodel_jax.parallel import sharding

ORACLES = pathlib.Path(__file__).parents[1] / 'oracles' / 'operations.npz'
MODEL = decoder.gpt(vocab=2_048, width=8, layers=1, heads=2, length=256)
ROWS, LENGTH = 2, 256
RNG = np.random.default_rng(0)
SMOOTHED = language.LanguageModel(label_smoothing=0.1, z_loss=1e-3)


@pytest.mark.parametrize(
    ('smoothing', 'name'),
    [
        (0.0, 'ce_label_smoothing_0_0'),
        (0.1, 'ce_label_smoothing_0_1'),
        # Tensor2Tensor spreads 0.1 over the 6 other classes of 7.
        (0.1 * 7 / 6, 'ce_label_smoothing_0_1_t2t'),
    ],
)
def test_label_smoothing_is_that_of_pytorch_and_tensor2tensor(smoothing, name):
    with np.load(ORACLES) as oracles:
        logits, targets, expected, nll = (oracles[key] for key in ('x', 'y', name, 'ce_label_smoothing_0_0'))
    found, found_nll = language.cross_entropy(logits, targets, label_smoothing=smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(found_nll, nll, rtol=1e-6)  # Not smoothed.


def test_perplexity_is_the_exponential_of_the_mean():
    with np.load(ORACLES) as oracles:
        logits, targets, expected = (oracles[key] for key in ('x', 'y', 'nll_perplexity'))
    _, nll = language.cross_entropy(logits, targets)
    mean = objective.Mean.weighted(nll, np.ones(4, np.float32))
    np.testing.assert_allclose(np.exp(mean.total / mean.count), expected, rtol=1e-6)


def test_z_loss_is_the_square_of_the_log_normaliser():
    logits, targets = RNG.normal(0, 3, (5, 7)), np.arange(5)
    log_normaliser = np.log(np.exp(logits).sum(-1))
    expected = log_normaliser - logits[np.arange(5), targets] + 0.01 * log_normaliser**2
    found, _ = language.cross_entropy(logits.astype(np.float32), targets, z_loss=0.01)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@functools.cache
def batch():
    return {
        'inputs': RNG.integers(0, 2_048, (ROWS, LENGTH)).astype(np.int32),
        'targets': RNG.integers(0, 2_048, (ROWS, LENGTH)).astype(np.int32),
        'example_weights': np.ones(ROWS, np.float32),
        'loss_weights': (RNG.random((ROWS, LENGTH)) < 0.7).astype(np.float32),
        'bytes': np.array([300.0, 500.0], np.float32),
    }


@functools.cache
def params():
    return drawing.variables(MODEL.build(), {'inputs': batch()['inputs']})['params']


def outcome(objective_config, data):
    """(gradients, metrics) of an objective."""

    def total(params):
        result = objective_config(objective.Apply(MODEL.build(), params, {}), data, train=False, rngs={})
        return result.loss.total / result.loss.count, result.metrics

    return jax.jit(jax.grad(total, has_aux=True))(params())


@jax.jit
def measured(data):
    return SMOOTHED(objective.Apply(MODEL.build(), params(), {}), data, train=False, rngs={}).metrics


@functools.cache
def whole():
    return outcome(SMOOTHED, batch())


def test_in_pieces_is_as_whole():
    # 2 x 256 x 2048 x 4 bytes are 4 MiB.
    in_pieces = dataclasses.replace(SMOOTHED, logits_mib=1)
    assert (in_pieces.pieces(ROWS, LENGTH, 2_048), SMOOTHED.pieces(ROWS, LENGTH, 2_048)) == (4, 1)
    found = outcome(in_pieces, batch())
    # Float32 sums in another order; gradients are of about 0.01.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, whole())


def test_pieces_divide_the_length():
    objective_config = language.LanguageModel(logits_mib=1)
    assert objective_config.pieces(1, 6, 2**18) == 6
    assert objective_config.pieces(1, 7, 2**17) == 7
    assert objective_config.pieces(64, 9, 2**18) == 9  # One position at a time is the least there is.
    assert objective_config.pieces(1, 6, 2**16) == 2


def test_metrics_are_those_of_the_weighted_tokens():
    _, metrics = whole()
    data = batch()
    logits = jax.jit(MODEL.build().apply)({'params': params()}, {'inputs': data['inputs']})['logits']
    logits = np.asarray(logits, np.float64)
    nll = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, data['targets'][..., None], -1)[..., 0]
    total, count = (nll * data['loss_weights']).sum(), data['loss_weights'].sum()
    np.testing.assert_allclose(metrics['nll'], (total, count), rtol=1e-5)
    np.testing.assert_allclose(metrics['bits_per_byte'], (total / np.log(2), 800.0), rtol=1e-5)
    hits = ((logits.argmax(-1) == data['targets']) * data['loss_weights']).sum()
    np.testing.assert_array_equal(metrics['accuracy'], (hits, count))


def test_a_hit_is_what_argmax_picks():
    """Of equal logits the first."""
    random = np.random.default_rng(1)
    logits = random.integers(0, 3, (50, 40, 8)).astype(np.float32)  # Full of ties.
    targets = random.integers(0, 8, (50, 40)).astype(np.int32)
    wanted = logits.argmax(axis=-1) == targets
    np.testing.assert_array_equal(language.hits(jnp.array(logits), targets), wanted)
    place = sharding.MeshShape(data=1, fsdp=2, tensor=4).build()
    split = jax.device_put(logits, place.sharding(('batch', None, 'vocab')))
    np.testing.assert_array_equal(jax.jit(language.hits)(split, targets), wanted)
    assert not language.hits(jnp.full((2, 3), jnp.nan), jnp.array([0, 1])).any()


def test_a_model_that_knows_nothing_has_the_accuracy_of_one_guess():
    targets_BT = jnp.arange(2_048).reshape(8, 256)
    blind, x_BTD = embeddings.Head(jnp.zeros((2_048, 8))), jnp.ones((8, 256, 8))
    _, metrics = language.LanguageModel().piece(blind, x_BTD, targets_BT, jnp.ones((8, 256)))
    np.testing.assert_array_equal(metrics['accuracy'], (1, 2_048))


def test_tokens_without_weight_have_no_influence():
    data = batch()
    other = data | {'targets': np.where(data['loss_weights'] > 0, data['targets'], 5)}
    found = outcome(SMOOTHED, other)
    jax.tree.map(np.testing.assert_array_equal, found, whole())


def test_parts_add_up_to_the_whole():
    """Totals and counts add; means would not, as the rows have different numbers of tokens."""
    _, metrics = whole()
    rows = [measured({name: value[row : row + 1] for name, value in batch().items()}) for row in range(ROWS)]
    sums = {name: rows[0][name] + rows[1][name] for name in metrics}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), sums, metrics)


def test_a_row_of_padding_stands_for_no_bytes():
    data = {name: np.concatenate([value, value[-1:]]) for name, value in batch().items()}
    data['example_weights'][-1] = 0.0
    np.testing.assert_array_equal(measured(data)['bits_per_byte'].count, 800.0)


class Scores:
    """A classifier whose weights are its scores."""

    def apply(self, variables, batch, *, rngs, mutable, method):
        return {'logits': variables['params']}, {}


def test_classification_is_the_mean_over_rows_with_weight():
    with np.load(ORACLES) as oracles:
        logits, labels, losses = (oracles[key] for key in ('x', 'y', 'ce_label_smoothing_0_1'))
    data = {'labels': jnp.asarray(labels), 'example_weights': jnp.array([1.0, 1.0, 0.0, 1.0])}
    apply = objective.Apply(Scores(), jnp.asarray(logits), {})
    result = classification.Classification(label_smoothing=0.1)(apply, data, train=False, rngs={})
    np.testing.assert_allclose(result.loss, (losses[[0, 1, 3]].sum(), 3.0), rtol=1e-6)
    hits = (logits.argmax(-1) == labels)[[0, 1, 3]].sum()
    np.testing.assert_allclose(result.metrics['accuracy'], (hits, 3.0))


def test_smoothing_of_one_is_refused():
    with pytest.raises(config.InputError, match=r'label_smoothing = 1\.0'):
        config.check(language.LanguageModel(label_smoothing=1.0))
