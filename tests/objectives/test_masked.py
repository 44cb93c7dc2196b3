"""The loss of pretraining, against the same in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel_jax.objectives import answer_spans, masked, regression
from bigmodel_jax.objectives.objective import Auxiliary

B, N, V = 3, 4, 7
RANDOM = np.random.default_rng(0)
OUTPUTS = {'mlm_logits': RANDOM.normal(size=(B, N, V)), 'nsp_logits': RANDOM.normal(size=(B, 2))}
BATCH = {
    'targets': RANDOM.integers(0, V, (B, N)),
    'loss_weights': np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], np.float32),
    'is_random_next': np.array([0, 1, 1]),
    'example_weights': np.ones(B, np.float32),
}


def outcome(objective, outputs, batch):
    arrays = {name: jnp.asarray(array, jnp.float32) for name, array in outputs.items()}

    def compute(arrays, batch):
        return objective(lambda _, **how: (arrays, Auxiliary({}, {})), batch, train=False, rngs={})

    return jax.jit(compute)(arrays, {name: jnp.asarray(array) for name, array in batch.items()})


def nll(logits, targets):
    log_z = np.log(np.exp(logits).sum(axis=-1))
    return log_z - np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


def value(mean):
    return float(mean.total) / float(mean.count)


@pytest.mark.parametrize('weight', [1.0, 0.5, 0.0])
@pytest.mark.parametrize('rows', [3, 2])
def test_the_loss_is_the_sum_of_two_means(weight, rows):
    alive = np.arange(B) < rows  # The others are padding.
    batch = BATCH | {'example_weights': alive.astype(np.float32)}
    found = outcome(masked.MaskedLanguageModel(next_sentence=weight), OUTPUTS, batch)
    tokens = np.average(nll(OUTPUTS['mlm_logits'], BATCH['targets']), weights=BATCH['loss_weights'] * alive[:, None])
    follows = np.average(nll(OUTPUTS['nsp_logits'], BATCH['is_random_next']), weights=alive)
    np.testing.assert_allclose(value(found.loss), tokens + weight * follows, rtol=1e-6)
    np.testing.assert_allclose(value(found.metrics['nll']), tokens, rtol=1e-6)
    hits = (OUTPUTS['nsp_logits'].argmax(axis=-1) == BATCH['is_random_next'])[alive]
    assert ('nsp_accuracy' in found.metrics) == (weight > 0)
    if weight:
        assert value(found.metrics['nsp_accuracy']) == pytest.approx(hits.mean())


def test_regression_is_the_mean_square():
    batch = {'values': np.array([1.0, 2.0, 3.0]), 'example_weights': np.array([1.0, 1.0, 0.0])}
    found = outcome(regression.Regression(), {'values': np.array([2.0, 4.0, 9.0])}, batch)
    assert value(found.loss) == pytest.approx((1 + 4) / 2)


def test_spans_are_the_mean_of_both_ends():
    outputs = {'start_logits': RANDOM.normal(size=(B, 6)), 'end_logits': RANDOM.normal(size=(B, 6))}
    batch = {'starts': np.array([0, 2, 5]), 'ends': np.array([1, 2, 5]), 'example_weights': np.array([1.0, 1.0, 0.0])}
    each = (nll(outputs['start_logits'], batch['starts']) + nll(outputs['end_logits'], batch['ends'])) / 2
    assert value(outcome(answer_spans.AnswerSpans(), outputs, batch).loss) == pytest.approx(each[:2].mean(), rel=1e-6)
