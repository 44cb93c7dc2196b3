"""The UNet refuses images and sizes that do not fit; its two ways hand over what they should."""

import pathlib

import jax
import numpy as np
import pytest

from bigmodel_jax import config, experiment_file
from bigmodel_jax.data import batches
from bigmodel_jax.models.diffusion import unet
from bigmodel_jax.plan import analytic
from bigmodel_jax.plan.hardware import slices

EXPERIMENTS = pathlib.Path(__file__).parents[2] / 'experiments'


def fields(*shape):
    return {
        'image': batches.Field(shape, np.dtype(np.float32), ('height', 'width', 'channels')),
    }


@pytest.mark.parametrize(
    ('changes', 'shape', 'message'),
    [
        ({}, (28, 32, 3), 'multiples of 8; they are 28 and 32'),
        ({}, (32, 32, 1), 'model.image_channels=3, but the images have 1'),
        ({'channels': (128, 200, 256, 256)}, (32, 32, 3), 'groups=32 does not divide the 200 channels'),
        ({'channels': ()}, (32, 32, 3), 'even number of channels'),
        ({'attending': (4,)}, (32, 32, 3), 'level 4, but the levels of model.channels are 0 to 3'),
        ({'attention.heads': 3}, (32, 32, 3), 'heads=3 does not divide the model width 256'),
    ],
)
def test_what_does_not_fit_is_refused(changes, shape, message):
    with pytest.raises(config.InputError, match=message):
        config.vary(unet.UNET_CIFAR10, changes).check(fields(*shape))


def test_the_published_sizes_fit_their_images():
    unet.UNET_CIFAR10.check(fields(32, 32, 3))
    unet.UNET_256.check(fields(256, 256, 3))


def test_every_output_of_the_way_down_is_read_once():
    model = unet.UNET_CIFAR10
    read = [
        inputs - before
        for before, (_, inputs, _) in zip((256, *[each[2] for each in model.sizes_up()]), model.sizes_up())
    ]
    assert read == model.kept()[::-1]


def test_classes_and_a_variance_change_the_shapes():
    model = config.vary(unet.UNET_CIFAR10, {'classes': 10, 'variance': True})
    assert model.outputs(fields(32, 32, 3))['prediction'].shape == (32, 32, 6)
    batch = {
        'image': jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32),
        'labels': jax.ShapeDtypeStruct((2,), np.int32),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    found, variables = jax.eval_shape(model.build().init_with_output, key, batch)
    assert found['prediction'].shape == (2, 32, 32, 6)
    assert variables['params']['time']['classes'].unbox().shape == (11, 512)  # The last is that of no class.
    with pytest.raises(config.InputError, match="reads 'labels', but the data gives image"):
        model.check(fields(32, 32, 3))


@pytest.mark.slow
def test_the_work_of_a_step_is_that_of_a_count_by_hand():
    experiment = experiment_file.load(str(EXPERIMENTS / 'ddpm2020.py'))
    work = analytic.trace(experiment, slices.parse('v5e:2x2')).work
    forward, first = flops(unet.UNET_CIFAR10, 32)
    # Twice the forward pass backwards, but that the first convolution hands no gradient on.
    assert work.model == pytest.approx(128 * (3 * forward + 2 * first), rel=0.02)


def flops(model, side):
    """Of the forward pass of an image but for the first convolution, and of that."""
    first, before, wide = model.channels[0], model.channels[0], 4 * model.channels[0]
    total = 2 * first * wide + 2 * wide * wide

    def convolution(inputs, outputs, window=3):
        return 2 * window**2 * inputs * outputs * side**2

    def block(inputs, outputs, level):
        found = convolution(inputs, outputs) + convolution(outputs, outputs) + 2 * wide * outputs
        found += convolution(inputs, outputs, 1) if inputs != outputs else 0
        return found + (attention(outputs) if level in model.attending else 0)

    def attention(channels):
        return 8 * channels**2 * side**2 + 4 * side**4 * channels

    stem = convolution(model.image_channels, first)
    for level, channels in enumerate(model.channels):
        for inputs in (before, *[channels] * (model.blocks - 1)):
            total += block(inputs, channels, level)
        before = channels
        if level < len(model.channels) - 1:
            side //= 2
            total += convolution(channels, channels)
    total += 2 * block(before, before, None) + attention(before)
    for count, (level, inputs, outputs) in enumerate(model.sizes_up(), 1):
        total += block(inputs, outputs, level)
        if level and count % (model.blocks + 1) == 0:
            side *= 2
            total += convolution(outputs, outputs)
    return total + convolution(first, model.image_channels), stem


def test_timesteps_are_embedded_as_in_the_released_code():
    found = unet.timestep_embedding(np.array([0.0, 7.0, 999.0]), width=6, dtype=np.dtype(np.float32))
    angles = np.array([[0.0], [7.0], [999.0]]) * 10_000.0 ** -np.array([0, 0.5, 1])
    # Rounding of an angle of up to 999 in float32.
    np.testing.assert_allclose(found, np.concatenate([np.sin(angles), np.cos(angles)], axis=1), atol=1e-4)
