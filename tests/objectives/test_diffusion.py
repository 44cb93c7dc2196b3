"""Diffusion objectives: tables and steps of the reference, equal parametrisations, and what is drawn for an example."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import stats

from bigmodel_jax import compatibility, config
from bigmodel_jax.data import batches
from bigmodel_jax.models.diffusion import dit
from bigmodel_jax.objectives import objective, rngs
from bigmodel_jax.objectives.diffusion import denoising, diffusion, edm, noise_schedules, predictions, variances
from bigmodel_jax.train import gradients

RECORDED = np.load(pathlib.Path(__file__).parents[1] / 'oracles' / 'diffusion.npz')  # Made with diffusers 0.42.1.
SCHEDULES = {
    'linear': noise_schedules.Linear(),
    'cosine': noise_schedules.Cosine(),
    'scaled_linear': noise_schedules.ScaledLinear(),
}
PREDICTIONS = (predictions.NoisePrediction(), predictions.ImagePrediction(), predictions.VelocityPrediction())


class Echo(nn.Module):
    """Returns the image times a weight, moved by the time and the label."""

    channels: int = 1
    classes: int = 10

    @nn.compact
    def __call__(self, batch):
        scale = self.param('scale', nn.initializers.zeros_init(), ())
        x = batch['image'] * scale
        if 'times' in batch:
            x = x + scale * (batch['times'] * 1e-3 + batch['labels'])[:, None, None, None]
        return {'prediction': jnp.tile(x, self.channels)}


def batch_of(rows, seed=0):
    image = np.random.default_rng(seed).normal(size=(rows, 4, 4, 2)).astype(np.float32)
    hashes = np.random.default_rng(seed + 1).integers(0, 2**32, (rows, 2), np.uint32)
    return {
        'image': image,
        'labels': np.arange(rows, dtype=np.int32) % 10,
        'example_weights': np.ones(rows, np.float32),
        batches.ROW_HASH: hashes,
    }


def apply_of(scale, channels=1):
    return objective.Apply(Echo(channels), {'scale': jnp.float32(scale)}, {})


@pytest.mark.parametrize('name', SCHEDULES)
def test_tables_are_the_published_ones(name):
    tables = SCHEDULES[name].tables()
    # The reference's are products of a thousand float32 numbers.
    np.testing.assert_allclose(tables.betas[::37], RECORDED[f'ddpm/{name}/betas'], rtol=2e-5)
    np.testing.assert_allclose(tables.signal[::37], RECORDED[f'ddpm/{name}/alphas_cumprod'], rtol=2e-4, atol=1e-9)


def test_noising_and_the_variance_of_the_posterior_are_the_published_ones():
    tables = noise_schedules.Linear().tables()
    alpha, sigma = np.sqrt(tables.signal[500]), np.sqrt(1 - tables.signal[500])
    made = alpha * RECORDED['ddpm/xt'] + sigma * RECORDED['ddpm/eps']
    np.testing.assert_allclose(made, RECORDED['ddpm/add_noise_t500'], atol=2e-6)
    for t in (1, 500, 999):
        assert tables.posterior_variance[t] == pytest.approx(RECORDED[f'ddpm/posterior_var_t{t}'].item(), rel=1e-4)


def test_of_fewer_steps_each_adds_the_noise_of_those_that_it_leaps_over():
    schedule = noise_schedules.Cosine(steps=40)
    kept = noise_schedules.EvenlySpaced().choose(40, 7)
    assert (kept[0], kept[-1]) == (0, 39)
    whole, few = schedule.tables(), schedule.tables(kept)
    np.testing.assert_array_equal(few.signal, whole.signal[kept])
    np.testing.assert_allclose(np.cumprod(1 - few.betas), few.signal, rtol=1e-10)
    every = schedule.tables(np.arange(40))
    np.testing.assert_allclose(every.betas, whole.betas, rtol=1e-12)
    assert (noise_schedules.Leading().choose(1_000, 50)[::-1] == RECORDED['ddim/timesteps']).all()


@pytest.mark.parametrize('prediction', PREDICTIONS, ids=lambda each: type(each).__name__)
def test_the_image_follows_from_each_target(prediction):
    image, noise = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 1))
    alpha, sigma = np.float64(0.6), np.float64(0.8)
    target = prediction.target(image, noise, alpha, sigma)
    np.testing.assert_allclose(prediction.image(target, alpha * image + sigma * noise, alpha, sigma), image, atol=1e-12)
    # The weight of an error of the image in that of the target, by moving the target.
    moved = prediction.image(target + 1e-3, alpha * image + sigma * noise, alpha, sigma) - image
    ratio = (alpha / sigma) ** 2
    np.testing.assert_allclose(1e-6 / moved**2, prediction.weight_of_image(ratio), rtol=1e-6)


def test_min_snr_weighs_the_image_alike_whatever_is_predicted():
    ratio = jnp.asarray([0.1, 4.0, 5.0, 90.0])
    for prediction in PREDICTIONS:
        of_image = predictions.MinSnr().weight(prediction, ratio) * prediction.weight_of_image(ratio)
        np.testing.assert_allclose(of_image, [0.1, 4.0, 5.0, 5.0], rtol=1e-6)


def test_the_bound_of_a_step_is_the_divergence_and_in_the_first_the_likelihood_of_a_level():
    image = jnp.asarray([-1.0, -0.5, 0.25, 1.0])
    first, second = variances.Gaussian(image, jnp.float32(-3.0)), variances.Gaussian(image + 0.1, jnp.float32(-2.5))
    drawn = np.random.default_rng(0).normal(size=400_000)
    for mean, found in zip(np.asarray(image), np.asarray(variances.kl_divergence(first, second))):
        x = mean + np.exp(-1.5) * drawn
        ratio = stats.norm.logpdf(x, mean, np.exp(-1.5)) - stats.norm.logpdf(x, mean + 0.1, np.exp(-1.25))
        assert found == pytest.approx(ratio.mean(), abs=5 * ratio.std() / len(drawn) ** 0.5)
    likelihood = variances.level_log_likelihood(image, second)
    edges = np.clip(np.array([-1.0, -0.5, 0.25, 1.0])[:, None] + np.array([-1, 1]) / 255, -1, 1)
    edges[0, 0], edges[-1, 1] = -np.inf, np.inf
    cdf = stats.norm.cdf(edges, np.asarray(second.mean)[:, None], np.exp(-1.25))
    # The reference approximates the distribution by tanh: within 4e-4 of it.
    np.testing.assert_allclose(np.exp(likelihood), cdf[:, 1] - cdf[:, 0], atol=4e-4)
    found = variances.bound_bits(image, first, second, first=jnp.asarray([True, False, False, True]))
    wanted = np.where([1, 0, 0, 1], -likelihood, variances.kl_divergence(first, second)) / np.log(2)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def outcome(of, batch, apply, *, parts=1, key=None):
    """The metrics of one step in so many microbatches."""
    key = jax.random.key(3) if key is None else key
    _, found = gradients.total(of, apply, apply.params, batch=batch, key=key, microbatches=parts)
    return {name: float(each.total / each.count) for name, each in found.metrics.items()}


@pytest.mark.slow
def test_at_the_beginning_the_loss_is_that_of_the_target():
    batch, zero = batch_of(512), apply_of(0.0)
    assert outcome(diffusion.Diffusion(), batch, zero)['loss'] == pytest.approx(1, abs=0.03)  # Of 16,384 numbers.
    of_v = diffusion.Diffusion(prediction=predictions.VelocityPrediction())
    assert outcome(of_v, batch, zero)['loss'] == pytest.approx(1, abs=0.03)
    assert outcome(edm.Edm(data_deviation=1.0), batch, zero)['loss'] == pytest.approx(1, abs=0.03)
    learned = outcome(diffusion.Diffusion(variance=variances.PredictedVariance()), batch, apply_of(0.0, 2))
    assert learned['loss'] == pytest.approx(learned['mse'] + learned['vlb'], rel=1e-6)


@pytest.mark.parametrize('of', [diffusion.Diffusion(label_dropout=0.5), edm.Edm(label_dropout=0.5)], ids=['t', 'edm'])
def test_what_is_drawn_for_an_example_depends_on_no_microbatch_and_no_other_row(of):
    batch, apply = batch_of(8), apply_of(0.3)
    whole = outcome(of, batch, apply)
    # The order of the sums alone.
    assert outcome(of, batch, apply, parts=4) == pytest.approx(whole, rel=1e-6)
    alone, streams = rngs.of_training(batch, jax.random.key(3), jax.random.key(3), of.streams)
    losses = of.per_example(apply, alone, train=True, rngs=streams)
    np.testing.assert_allclose(losses.mean(), whole['loss'], rtol=1e-6)
    turned = {name: value[::-1] for name, value in batch.items()}
    own, streams = rngs.of_training(turned, jax.random.key(5), jax.random.key(3), of.streams)
    np.testing.assert_allclose(of.per_example(apply, own, train=True, rngs=streams)[::-1], losses, rtol=1e-6)
    assert outcome(of, batch, apply, key=jax.random.key(4))['loss'] != pytest.approx(whole['loss'], rel=1e-3)


def test_an_evaluation_draws_by_the_number_of_the_example_whatever_the_size_of_its_batches():
    of, batch, apply = diffusion.Diffusion(label_dropout=0.9), batch_of(8), apply_of(0.3)

    def losses(rows):
        found = []
        for number in range(8 // rows):
            part = {name: value[number * rows : (number + 1) * rows] for name, value in batch.items()}
            streams = rngs.of_evaluation(7, number, of.streams, rows)
            found.append(of.per_example(apply, part, train=False, rngs=streams))
        return np.concatenate(found)

    np.testing.assert_allclose(losses(2), losses(8), rtol=1e-6)
    told = dataclasses.replace(of, label_dropout=0.0)  # In evaluation every class is told.
    streams = rngs.of_evaluation(7, 0, of.streams, 8)
    np.testing.assert_array_equal(losses(8), told.per_example(apply, batch, train=False, rngs=streams))


def test_dropped_labels_are_no_class():
    of, batch = diffusion.Diffusion(label_dropout=0.25), batch_of(4_000)
    seen = []

    def apply(inputs, **_):
        seen.append(inputs['labels'])
        return {'prediction': inputs['image']}, objective.Auxiliary({}, {})

    own, streams = rngs.of_training(batch, jax.random.key(0), jax.random.key(0), of.streams)
    of(apply, own, train=True, rngs=streams)
    dropped = np.asarray(seen[0]) == denoising.NO_CLASS
    assert dropped.mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4_000) ** 0.5)
    np.testing.assert_array_equal(np.asarray(seen[0])[~dropped], batch['labels'][~dropped])


IMAGE = batches.Field((4, 4, 1), np.dtype(np.float32), ('height', 'width', 'channels'))
LABELS = batches.Field((), np.dtype(np.int32), (), 10)
TINY = dit.dit(patch=2, width=8, layers=1, heads=2, image=(4, 4, 1), classes=10, variance=False)


def check(of, model, fields):
    model.check(fields)
    compatibility._check_objective(of, of.requires, compatibility.Given(model, fields, model.outputs(fields)))


@pytest.mark.parametrize(
    ('of', 'model', 'fields', 'said'),
    [
        (diffusion.Diffusion(variance=variances.PredictedVariance()), TINY, {}, r'\[4, 4, 2\], the variance'),
        (edm.Edm(), config.vary(TINY, {'variance': True}), {}, r'an output \[4, 4, 1\]; the model gives \[4, 4, 2\]'),
        (edm.Edm(label_dropout=0.1), config.vary(TINY, {'classes': None}), {}, 'label_dropout=0.1'),
        (edm.Edm(), TINY, {'labels': None}, "Dit with classes reads 'labels'"),
        (edm.Edm(), config.vary(TINY, {'classes': 9}), {}, 'use model.classes=10'),
        (edm.Edm(), config.vary(TINY, {'patch': 3}), {}, 'patch=3 does not divide the 4 x 4'),
        (edm.Edm(), config.vary(TINY, {'width': 6}), {}, 'no multiple of 4'),
        (
            edm.Edm(),
            TINY,
            {'image': batches.Field((4, 4), np.dtype(np.float32), ('height', 'width'))},
            'last axis of 1',
        ),
    ],
)
def test_what_does_not_fit_is_said(of, model, fields, said):
    given = {'image': IMAGE, 'labels': LABELS} | fields
    fields = {name: field for name, field in given.items() if field is not None}
    with pytest.raises(config.InputError, match=said):
        check(of, model, fields)
