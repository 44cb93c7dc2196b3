"""The loss of DETR does not depend on the order of the objects, on padding, on microbatches or on the devices."""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel_jax.objectives import objective
from bigmodel_jax.objectives.detection import boxes, detection
from bigmodel_jax.optim import gradients
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import gradients as computing

ORACLE = pathlib.Path(__file__).parents[1] / 'oracles' / 'detr.npz'
B, L, Q, V, O = 8, 2, 5, 4, 3
OBJECTS = (3, 0, 1, 2, 3, 1, 0, 2)


class Outputs(nn.Module):
    """Logits and boxes that are functions of each image and of the parameters."""

    @nn.compact
    def __call__(self, batch):
        x = batch['image'].mean(axis=(1, 2))
        found = nn.Dense(L * Q * (V + 4))(x).reshape(len(x), L, Q, V + 4)
        return {'logits': found[..., :V], 'boxes': jax.nn.sigmoid(found[..., V:])}


@pytest.fixture(scope='module')
def batch():
    random = np.random.default_rng(0)
    mask = (np.arange(O)[None] < np.array(OBJECTS)[:, None]).astype(np.float32)
    return {
        'image': random.normal(size=(B, 2, 2, 3)).astype(np.float32),
        'boxes': (random.uniform(0.2, 0.5, (B, O, 4)) * mask[..., None]).astype(np.float32),
        'labels': (random.integers(0, V - 1, (B, O)) * mask).astype(np.int32),
        'object_mask': mask,
        'example_weights': np.ones(B, np.float32),
    }


@pytest.fixture(scope='module')
def params(batch):
    return Outputs().init(jax.random.key(1), batch)['params']


@functools.partial(jax.jit, static_argnames='parts')
def stepped(params, batch, parts=1):
    """The loss of a step, its gradient, and the metrics."""
    method = gradients.in_parts(parts)
    apply = objective.Apply(Outputs(), params, {})
    of = detection.Detection()
    grads, outcome = computing.compute(method, of, apply, params, batch=of.prepare(batch), key=jax.random.key(0))
    return outcome.loss.total / outcome.loss.count, grads, outcome.metrics


def close(left, right, tolerance=2e-6):  # What sums in another order differ by, of losses near 10.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), left, right)


def test_the_order_of_objects_and_what_stands_in_padding_change_nothing(batch, params):
    found = stepped(params, batch)
    order = np.array([2, 0, 1])
    turned = {name: batch[name][:, order] for name in ('boxes', 'labels', 'object_mask')}
    close(stepped(params, batch | turned), found)
    there = batch['object_mask'] > 0
    filled = {
        'boxes': np.where(there[..., None], batch['boxes'], np.nan).astype(np.float32),
        'labels': np.where(there, batch['labels'], 2).astype(np.int32),
    }
    jax.tree.map(np.testing.assert_array_equal, stepped(params, batch | filled), found)


def test_rows_of_padding_do_not_count(batch, params):
    padded = batch | {'example_weights': np.array([1, 1, 1, 1, 0, 0, 0, 0], np.float32)}
    alone = {name: np.concatenate([values[:4]] * 2) for name, values in batch.items()}  # Twice the same means the same.
    close(stepped(params, padded)[:2], stepped(params, alone)[:2])


def test_microbatches_add_up_although_their_numbers_of_objects_differ(batch, params):
    close(stepped(params, batch, parts=4), stepped(params, batch))


def test_one_and_four_devices_agree(batch, params):
    wanted = stepped(params, batch)
    with sharding.use(sharding.MeshShape(data=4).build(jax.devices()[:4])) as place:
        on_four = {name: jax.device_put(array, place.batch_sharding(1)) for name, array in batch.items()}
        close(jax.jit(stepped.__wrapped__)(params, on_four), wanted)


def test_images_without_objects_teach_that_there_is_none(batch, params):
    empty = batch | {'object_mask': np.zeros((B, O), np.float32)}
    loss, grads, metrics = stepped(params, empty)
    outputs = Outputs().apply({'params': params}, batch)
    logs = jax.nn.log_softmax(outputs['logits'])
    np.testing.assert_allclose(loss, -logs[..., -1].mean(axis=(0, 2)).sum(), rtol=1e-6)
    assert all(np.isfinite(each).all() for each in jax.tree.leaves(grads))
    assert metrics['l1_loss'].count == 0


def test_the_loss_of_each_image_is_that_of_a_batch_of_it(batch, params):
    def losses(params, batch):
        return detection.Detection().per_example(objective.Apply(Outputs(), params, {}), batch, train=False, rngs={})

    found = jax.jit(losses)(params, batch)
    for image in (0, 1):
        alone = batch | {'example_weights': (np.arange(B) == image).astype(np.float32)}
        np.testing.assert_allclose(found[image], stepped(params, alone)[0], rtol=1e-6)


def test_generalised_iou_is_the_references_and_that_of_the_definition():
    with np.load(ORACLE) as arrays:
        left, right, wanted = (arrays[f'ops/giou/{name}'] for name in ('a', 'b', 'out'))
    with jax.enable_x64(True):
        found = jax.jit(boxes.generalized_iou)(jnp.asarray(left)[:, None], jnp.asarray(right))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    same, apart = np.array([0.0, 0, 1, 1]), np.array([1.0, 1, 2, 2])
    np.testing.assert_allclose(jax.jit(boxes.generalized_iou)(same, np.stack([same, apart])), [1, -0.5])
