"""Samplers: the reference's steps, the exact flow of a normal distribution, and images that depend on nothing else."""

import pathlib

import denoiser
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.evaluate.diffusion import image_generator, image_samples, samplers
from bigmodel_jax.models.diffusion import dit
from bigmodel_jax.objectives import classification
from bigmodel_jax.objectives.diffusion import diffusion, edm, noise_schedules, predictions, variances
from bigmodel_jax.parallel import sharding

RECORDED = np.load(pathlib.Path(__file__).parents[2] / 'oracles' / 'diffusion.npz')  # Made with diffusers 0.42.1.
NAMES = {
    'epsilon': predictions.NoisePrediction(),
    'sample': predictions.ImagePrediction(),
    'v_prediction': predictions.VelocityPrediction(),
}
VARIANCES = {
    'fixed_small': variances.PosteriorVariance(),
    'fixed_large': variances.BetaVariance(),
    'learned_range': variances.PredictedVariance(),
}
LEADING = noise_schedules.Leading()


def made(name):
    return np.moveaxis(RECORDED[f'made/{name}'], 1, -1)


def stepped(sampler, of, t):
    tables = of.schedule.tables(LEADING.choose(1_000, 50))
    output = made('output')
    if of.predicts_variance:
        output = np.concatenate([output, made('variance')], axis=-1)
    seen = jnp.asarray(made('noised')), jnp.asarray(output)
    return sampler.step(of, tables, t // 20, seen, noise_BYXZ=made('noise'))


@pytest.mark.parametrize(
    'said', [pytest.param(name, marks=[] if name == 'v_prediction' else pytest.mark.slow) for name in NAMES]
)
@pytest.mark.parametrize('t', [980, 500, 0])
def test_each_step_is_that_of_the_reference(said, t):
    with jax.enable_x64(True):
        for name, variance in VARIANCES.items():
            of = diffusion.Diffusion(prediction=NAMES[said], variance=variance)
            found = stepped(samplers.Ddpm(steps=50, spacing=LEADING), of, t)
            np.testing.assert_allclose(found, made(f'ddpm/{said}/{name}/{t}'), atol=1e-6)
        for eta in (0.0, 0.5):
            of = diffusion.Diffusion(prediction=NAMES[said])
            found = stepped(samplers.Ddim(steps=50, spacing=LEADING, eta=eta), of, t)
            np.testing.assert_allclose(found, made(f'ddim/{said}/{eta}/{t}'), atol=1e-9)


def test_recorded_steps_without_clipping():
    xt, eps = (jnp.moveaxis(jnp.asarray(RECORDED[f'ddpm/{name}']), 1, -1) for name in ('xt', 'eps'))
    of = diffusion.Diffusion(variance=variances.PosteriorVariance())
    sampler = samplers.Ddpm(steps=1_000, clip=None)
    found = sampler.step(of, of.schedule.tables(), 0, (xt, eps), noise_BYXZ=jnp.ones_like(xt))
    np.testing.assert_allclose(jnp.moveaxis(found, -1, 1), RECORDED['ddpm/step_t0'], atol=1e-6)
    sampler = samplers.Ddim(steps=50, spacing=LEADING, clip=None)
    found = sampler.step(of, of.schedule.tables(LEADING.choose(1_000, 50)), 25, (xt, eps), noise_BYXZ=jnp.ones_like(xt))
    np.testing.assert_allclose(jnp.moveaxis(found, -1, 1), RECORDED['ddim/step_t500_eta0'], atol=2e-6)


# ---- images of which every number is drawn from a normal distribution ------------------------------------------------

MEAN, DEVIATION = 0.3, 0.4
SHAPE = (8, 8, 1)


def ideal(of):
    """What a perfect network says where the numbers of images have that mean and deviation."""

    def of_steps(x, times):
        tables = of.schedule.tables()
        signal = jnp.interp(times, jnp.asarray(tables.steps), jnp.asarray(tables.signal))[:, None, None, None]
        variance = signal * DEVIATION**2 + 1 - signal
        image = MEAN + jnp.sqrt(signal) * DEVIATION**2 * (x - jnp.sqrt(signal) * MEAN) / variance
        return of.prediction.target(image, (x - jnp.sqrt(signal) * image) / jnp.sqrt(1 - signal), *roots(signal))

    def of_edm(x, times):
        sigma = jnp.exp(4 * times)[:, None, None, None]
        how = of.preconditioning(sigma)
        noised = x / how.scale
        image = (DEVIATION**2 * noised + sigma**2 * MEAN) / (DEVIATION**2 + sigma**2)
        return (image - how.skip * noised) / how.out

    return of_edm if isinstance(of, edm.Edm) else of_steps


def roots(signal):
    return jnp.sqrt(signal), jnp.sqrt(1 - signal)


def keys(count):
    return jax.vmap(lambda index: jax.random.fold_in(jax.random.key(0), index))(jnp.arange(count))


V = diffusion.Diffusion(schedule=noise_schedules.Cosine(), prediction=predictions.VelocityPrediction())


def test_without_noise_samplers_follow_the_exact_flow():
    """Which is x_0 = mean + (x_T - mean) s / sqrt(s^2 + sigma_T^2), s being the deviation of the images."""

    def error(sampler, of):
        found, start = sampler.sample(of, ideal(of), keys(2), SHAPE), samplers.normal(keys(2), 0, SHAPE)
        if isinstance(sampler, samplers.Heun):
            sigma = sampler.sigmas(of)[0]
            exact = MEAN + (sigma * start - MEAN) * DEVIATION / np.sqrt(DEVIATION**2 + sigma**2)
        else:  # From nothing but noise.
            exact = MEAN + start * DEVIATION
        return float(np.abs(found - exact).max())

    assert error(samplers.Ddim(steps=400, clip=None), V) < 0.02
    assert error(samplers.Heun(steps=80, sigma_min=0.01, sigma_max=80.0), V) < 4e-3
    coarse, fine = (error(samplers.Heun(steps=steps), edm.Edm()) for steps in (40, 80))
    assert fine < 4e-3
    assert fine < coarse / 3  # Of second order: half the step has a quarter of the error.


@pytest.mark.slow
def test_with_noise_samplers_give_the_distribution():
    cases = [
        (samplers.Ddpm(steps=250, clip=None), V),
        (samplers.Ddim(steps=100, eta=1.0, clip=None), V),
        (samplers.Heun(steps=40, churn=20.0), edm.Edm()),
    ]
    for sampler, of in cases:
        found = np.asarray(sampler.sample(of, ideal(of), keys(128), SHAPE))
        error = DEVIATION / found.size**0.5
        assert found.mean() == pytest.approx(MEAN, abs=4 * error + 0.005)
        assert found.std() == pytest.approx(DEVIATION, abs=4 * error + 0.01)  # Steps of finite length.


# ---- the generator --------------------------------------------------------------------------------------------------

MODEL = dit.dit(patch=2, width=16, layers=2, heads=2, image=(4, 4, 1), classes=3, variance=False)
GUIDED = samplers.Heun(steps=3, guidance=samplers.Guidance(scale=2.0))


def params_of(of):
    batch = {'image': jnp.zeros((1, 4, 4, 1)), 'labels': jnp.zeros(1, int)}
    shapes = jax.eval_shape(of.build().init, jax.random.key(0), batch)['params']
    drawn = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: drawn.normal(scale=0.3, size=leaf.shape).astype(np.float32), shapes)


NETWORK = denoiser.TwoMatrices()


def generator(rows, *, devices=1, sampler=GUIDED, of=NETWORK):
    place = sharding.MeshShape(data=devices).build(jax.devices()[:devices])
    trained = image_generator.TrainedDenoiser(of, edm.Edm(label_dropout=0.1), denoiser.SHAPE)
    return image_generator.ImageGenerator(trained, sampler, place=place, seed=3, rows=rows)


def check_independence(of):
    params, indices = params_of(of), np.arange(9)
    labels = indices % 3
    of_eight = generator(8, of=of)
    whole = of_eight(params, {}, indices, labels)
    assert whole.shape == (9, 4, 4, 1)
    # In batches of one size to the bit, whatever else is made; otherwise but for the order of sums.
    np.testing.assert_array_equal(of_eight(params, {}, [5, 6], [2, 0]), whole[5:7])
    np.testing.assert_allclose(generator(1, of=of)(params, {}, [7], [1]), whole[7:8], atol=1e-5)
    np.testing.assert_allclose(generator(8, devices=8, of=of)(params, {}, indices, labels), whole, atol=1e-5)
    assert np.abs(of_eight(params, {}, [7], [2]) - whole[7]).max() > 1e-2
    assert np.abs(whole[0] - whole[3]).max() > 1e-2


def test_an_image_depends_on_its_seed_index_and_class_alone():
    check_independence(denoiser.TwoMatrices())


@pytest.mark.slow
def test_an_image_of_dit_depends_on_nothing_else():
    check_independence(MODEL)


def test_guidance_moves_away_from_what_is_said_of_no_class():
    labels = jnp.asarray([0, 2])

    def apply(batch, **_):
        return {'prediction': batch['image'] * 0 + batch['labels'][:, None, None, None]}, None

    image = jnp.zeros((2, 2, 2, 2))
    said = image_generator.predictor(apply, labels, samplers.Guidance(scale=3.0, channels=1), channels=2)
    found = said(image, jnp.zeros(2))
    # Of no class -1: -1 + 3 (c + 1) in the channel that is guided, c in the other.
    np.testing.assert_array_equal(found[:, 0, 0], [[2.0, 0.0], [8.0, 2.0]])


@pytest.mark.parametrize(
    ('sampler', 'of', 'network', 'said'),
    [
        (GUIDED, edm.Edm(), MODEL, 'never trained without one: objective.label_dropout=0'),
        (GUIDED, edm.Edm(), config.vary(MODEL, {'classes': None}), 'the model has classes=None'),
        (samplers.Ddim(), edm.Edm(), MODEL, 'has none. Use Heun'),
        (samplers.Ddpm(steps=1_001), diffusion.Diffusion(), MODEL, 'more than the 1000 steps'),
        (samplers.Heun(sigma_min=90.0), edm.Edm(), MODEL, 'sigma_min=90 is not below sigma_max=80'),
        (samplers.Heun(), classification.Classification(), MODEL, 'objective=Classification'),
    ],
)
def test_a_sampler_that_does_not_fit_is_refused(sampler, of, network, said):
    with pytest.raises(config.InputError, match=said):
        sampler.check(of, network)


@pytest.mark.parametrize(
    ('indices', 'labels', 'said'),
    [
        ([], [], 'no image to make'),
        ([-1], [0], 'Indices of images are 0'),
        ([0], [3], 'no class 3; its classes are 0 to 2'),
        ([0], None, 'Guidance needs the class'),
        ([0, 1], [0], 'an index and a class'),
    ],
)
def test_images_that_cannot_be_made_are_refused(indices, labels, said):
    with pytest.raises(config.InputError, match=said):
        generator(4)({}, {}, np.array(indices, int), labels)


def test_a_grid_has_a_row_for_each_class():
    images = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1) / 10 * np.ones((1, 56, 56, 1), np.float32)
    found = image_samples.grid(images, 3)
    assert found.shape == (2 * 57, 3 * 57, 1)
    np.testing.assert_allclose(found[10::57, 10::57, 0], [[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]])
    assert image_samples.evenly(1_000, 3).tolist() == [0, 500, 999]
