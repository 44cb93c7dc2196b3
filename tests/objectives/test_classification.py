"""Sigmoid cross-entropy against PyTorch; mixed labels; rows without weight."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax.objectives import classification, objective

ORACLES = pathlib.Path(__file__).parents[1] / 'oracles' / 'classics.npz'
LOGITS_BV = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
BATCH = {'labels': np.array([0, 2, 1, 1]), 'example_weights': np.array([1.0, 1.0, 1.0, 0.0], np.float32)}


def outcome(of, batch, logits_BV=LOGITS_BV):
    def apply(batch, *, train, rngs):
        return {'logits': jnp.asarray(logits_BV)}, objective.Auxiliary({}, {})

    return jax.jit(lambda batch: of(apply, batch, train=True, rngs={}))(batch)


def test_sigmoid_cross_entropy_is_that_of_pytorch():
    with np.load(ORACLES) as arrays, jax.enable_x64(True):
        logits, targets = (arrays[f'bce/{name}'].astype(np.float64) for name in 'xt')
        found = classification.sigmoid_cross_entropy(logits, 1 / (1 + np.exp(-targets)))
        np.testing.assert_allclose(found.mean(), arrays['bce_logits'], rtol=1e-12)
    extreme = np.array([-1e4, 1e4], np.float32)
    np.testing.assert_array_equal(classification.sigmoid_cross_entropy(extreme, np.array([0.0, 1.0])), 0)


def test_each_class_counts_by_itself_and_a_row_without_weight_not_at_all():
    targets_BV = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [np.nan] * 3], np.float32)
    batch = {'targets': targets_BV, 'example_weights': BATCH['example_weights']}
    for smoothing in (0.0, 0.2):
        found = outcome(classification.MultiLabel(label_smoothing=smoothing), batch)
        smooth_BV = targets_BV[:3] * (1 - smoothing) + 0.5 * smoothing
        expected = classification.sigmoid_cross_entropy(LOGITS_BV[:3], smooth_BV).mean()
        np.testing.assert_allclose(found.loss.total / found.loss.count, expected, rtol=1e-6)


def test_a_mixed_label_takes_its_share_of_the_loss():
    of, batch = classification.Classification(label_smoothing=0.1), {**BATCH, 'example_weights': np.ones(4, np.float32)}
    mixed = {**batch, 'mixed_labels': np.array([1, 0, 2, 1]), 'mixed_share': np.full(4, 0.3, np.float32)}
    first, second = (
        outcome(of, {**batch, 'labels': labels}).loss.total for labels in (batch['labels'], mixed['mixed_labels'])
    )
    np.testing.assert_allclose(outcome(of, mixed).loss.total, 0.7 * first + 0.3 * second, rtol=1e-6)
