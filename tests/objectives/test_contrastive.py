"""Contrastive losses against NumPy in float64, on every mesh; and what is told of a training that learns nothing."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from bigmodel_jax import config, experiment
from bigmodel_jax.models.multimodal.clip import Temperature
from bigmodel_jax.objectives import contrastive
from bigmodel_jax.optim import gradients as methods
from bigmodel_jax.parallel import sharding

ORACLES = pathlib.Path(__file__).parents[1] / 'oracles' / 'clip.npz'
FACTORS = [(data, fsdp) for devices in (1, 2, 4, 8) for data in (1, 2, 4, 8) for fsdp in (1, 2, 4, 8)
           if data * fsdp == devices]  # fmt: skip
ROWS, WIDTH = 16, 5


def drawn(rows=ROWS):
    generator = np.random.default_rng(0)
    image_BD, text_BD = (generator.normal(size=(rows, WIDTH)) for _ in range(2))
    return tuple(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image_BD, image_BD + text_BD))


def numpy_losses(image_BD, text_BD, scale, bias=0.0):
    """The mean of both directions of InfoNCE, and SigLIP's loss, of whole matrices."""
    logits_BB = scale * image_BD @ text_BD.T + bias
    diagonal = np.diag(logits_BB)
    nce = [(np.log(np.exp(x_BB).sum(axis=1)) - diagonal).mean() for x_BB in (logits_BB, logits_BB.T)]
    signs_BB = 2 * np.eye(len(image_BD)) - 1
    return np.mean(nce), np.log1p(np.exp(-signs_BB * logits_BB)).sum(axis=1).mean()


@functools.partial(jax.jit, static_argnums=0)
def loss(of, pairs, log_scale, bias):
    weights_B = jnp.ones(len(pairs[0]))
    temperature = of.scaled(Temperature(log_scale, bias))
    return of.losses(*pairs, temperature, weights_B)[0].mean()


def test_the_loss_is_that_of_pytorch_and_numpy():
    with np.load(ORACLES) as arrays, jax.enable_x64(True):
        x_BD, t_BD = (arrays[f'ops/{name}'].astype(np.float64) for name in 'xt')
        units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (x_BD, t_BD)]
        found = loss(contrastive.InfoNce(), tuple(map(jnp.asarray, units)), jnp.float64(2.6592), None)
        np.testing.assert_allclose(found, arrays['ops/infonce_sym'], rtol=1e-12)
        pairs = tuple(map(jnp.asarray, drawn()))
        for of, wanted in zip((contrastive.InfoNce(), contrastive.SigLip()), numpy_losses(*drawn(), 3.0, -1.0)):
            found = loss(of, pairs, jnp.log(jnp.float64(3.0)), jnp.float64(-1.0))
            np.testing.assert_allclose(found, wanted, rtol=1e-12)


def nce(image_BD, text_BD, how):
    both = contrastive.info_nce(image_BD, text_BD, **how), contrastive.info_nce(text_BD, image_BD, **how)
    return sum(each.losses_B.mean() for each in both) / 2


def sigmoid(image_BD, text_BD, how):
    return contrastive.sigmoid_losses(image_BD, text_BD, **how).losses_B.mean()


def gradients(of, *, mesh=(1, 1), blocks=1):
    """A loss in float64 and its gradients by embeddings, scale and bias, on a mesh of data x fsdp."""
    with jax.enable_x64(True):
        place = sharding.MeshShape(data=mesh[0], fsdp=mesh[1]).build(jax.devices()[: mesh[0] * mesh[1]])

        def run(image_BD, text_BD, log_scale, bias):
            with sharding.use(place):
                rows = [sharding.constrain(x_BD, 'batch', None) for x_BD in (image_BD, text_BD)]
                temperature, weights_B = Temperature(log_scale, bias), jnp.ones(ROWS)
                return of(*rows, {'temperature': temperature, 'weights_B': weights_B, 'blocks': blocks})

        arguments = (*map(jnp.asarray, drawn()), jnp.float64(1.1), jnp.float64(-0.5))
        value, found = jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2, 3)))(*arguments)
        return [np.asarray(each) for each in (value, *found)]


def check_same(found, wanted):
    for left, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-15)  # Sums in another order, in float64.


alone = functools.cache(gradients)


@pytest.mark.parametrize('of', [nce, sigmoid])
def test_blocks_change_no_gradient_on_eight_devices(of):
    check_same(gradients(of, mesh=(2, 4), blocks=4), alone(of))


@pytest.mark.slow
@pytest.mark.parametrize('of', [nce, sigmoid])
@pytest.mark.parametrize('mesh', FACTORS)
def test_every_mesh_gives_the_same_gradients(of, mesh):
    for blocks in (1, 2):
        check_same(gradients(of, mesh=mesh, blocks=blocks), alone(of))


def test_rows_of_padding_are_no_candidates():
    image_BD, text_BD = map(jnp.asarray, drawn())
    weights_B = jnp.ones(ROWS).at[10:].set(0)
    for of in (contrastive.InfoNce(), contrastive.SigLip()):
        temperature = Temperature(jnp.float32(1.0), jnp.float32(0.0))
        losses = jax.jit(of.losses)
        padded, _ = losses(image_BD, text_BD, temperature, weights_B)
        short, _ = losses(image_BD[:10], text_BD[:10], temperature, jnp.ones(10))
        np.testing.assert_allclose(padded[:10], short, rtol=1e-5)


def test_blocks_hold_logits_on_a_device_within_the_limit():
    of = contrastive.InfoNce(logits_mib=64)
    assert of.blocks(4_096) == 1  # 64 MiB.
    assert of.blocks(32_768) == 64
    place = sharding.MeshShape(data=256).abstract(256, 'tpu')
    with sharding.use(place):
        assert of.blocks(32_768) == 1  # 128 rows of each device: 16 MiB.


@pytest.mark.parametrize(('start', 'gradient', 'kept'), [(4.0, -1.0, -1.0), (5.0, -1.0, 0.0), (5.0, 1.0, 1.0)])
def test_the_scale_is_clipped_at_100_and_can_return(start, gradient, kept):
    of = contrastive.InfoNce()

    def scaled(log_scale):
        return gradient * of.scaled(Temperature(log_scale)).log_scale

    assert jax.grad(scaled)(start) == kept
    assert float(jnp.exp(of.scaled(Temperature(jnp.float32(5.0))).log_scale)) == pytest.approx(100, rel=1e-6)


def test_embeddings_that_are_all_alike_are_no_hits():
    same_BD = jnp.ones((ROWS, 4)) / 2
    temperature, weights_B = Temperature(jnp.float32(0.0)), jnp.ones(ROWS)
    losses_B, hits = jax.jit(contrastive.InfoNce().losses)(same_BD, same_BD, temperature, weights_B)
    np.testing.assert_allclose(losses_B, math.log(ROWS), rtol=1e-6)
    assert not any(bool(each.any()) for each in hits.values())


STANDING = {'loss': 5.54, 'pair_cosine': 0.31, 'other_cosine': 0.3, 'logit_scale': 14.3, 'learning_rate': 1e-3}


def test_a_loss_that_stands_at_the_logarithm_of_the_batch_is_diagnosed():
    of = contrastive.InfoNce()
    said = of.diagnosis(STANDING, rows=256, step=200)
    assert said is not None
    assert 'stands at ln(batch) = ln(256) = 5.545' in said
    assert 'own caption' in said
    alike = of.diagnosis({**STANDING, 'pair_cosine': 0.99, 'other_cosine': 0.99}, rows=256, step=200)
    assert alike is not None
    assert 'all alike' in alike
    assert of.diagnosis(STANDING, rows=256, step=100) is None  # A warm-up.
    assert of.diagnosis({**STANDING, 'loss': 5.0}, rows=256, step=200) is None


def test_cosines_without_a_matrix_are_those_of_the_matrix():
    image_BD, text_BD = drawn()
    weights_B = np.ones(ROWS, np.float32)
    weights_B[12:] = 0
    matrix_BB = image_BD[:12] @ text_BD[:12].T
    (pairs, count), (others, rest) = contrastive.cosines(*map(jnp.asarray, (image_BD, text_BD)), jnp.asarray(weights_B))
    np.testing.assert_allclose([pairs / count, others / rest], [
        np.diag(matrix_BB).mean(), matrix_BB[~np.eye(12, dtype=bool)].mean()], rtol=1e-5)  # fmt: skip


def test_the_captions_of_a_microbatch_are_not_all_negatives():
    one = config.vary(tiny.experiment(), {'objective': contrastive.InfoNce()})
    for method in (methods.Microbatches(parts=2), methods.FixedOrder(parts=2)):
        with pytest.raises(config.InputError, match='compares the rows of a batch'):
            experiment.check(config.vary(one, {'gradients': method}))
