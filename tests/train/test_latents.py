"""Diffusion in the latents of a trained autoencoder: their scale, the way back, and what does not fit."""

import numpy as np
import pytest

from bigmodel_jax import config, experiment_file, verbs
from bigmodel_jax.data import batches
from bigmodel_jax.data.vision import transforms
from bigmodel_jax.models.diffusion import autoencoder
from bigmodel_jax.train.weights import latents
from style_rules import ROOT

FILE = str(ROOT / 'experiments' / 'latent_fashion.py')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp('autoencoder')
    smoke = experiment_file.load(f'{FILE}:smoke')
    verbs.train(smoke, directory)
    return directory, smoke.data


def made(trained, **changes):
    directory, data = trained
    by = latents.TrainedAutoencoder(run=str(directory))
    base = latents.Latents(images=data, autoencoder=by, training=data, shape=(4, 4, 4), batch=16)
    return config.vary(base, changes)


@pytest.mark.slow
def test_latents_of_the_training_images_have_a_deviation_of_one_and_others_the_same_scale(trained):
    data = made(trained)
    stored = data.open(0).examples.gather(np.arange(64), np.zeros(64, np.int64), 0)
    np.testing.assert_allclose(stored['image'].std(dtype=np.float64), 1, rtol=1e-5)
    other = made(trained, **{'images.source.first': 700})
    assert other.scale == data.scale
    found = other.open(0).examples
    assert found.fingerprint['scale'] == data.scale
    assert abs(found.gather(np.arange(64), np.zeros(64, np.int64), 0)['image'].std() - 1) > 1e-3


@pytest.mark.slow
def test_pixels_come_back_as_the_autoencoder_reconstructs_them(trained):
    data = made(trained)
    some = np.arange(20), np.zeros(20, np.int64), 0
    shown = latents.LatentDecoder().build(data)(data.open(0).examples.gather(*some)['image'])
    run = verbs.open_run(trained[0]).restore()
    image = trained[1].open(0).examples.gather(*some)['image']
    wanted = run.experiment.model.build().apply({'params': run.params}, {'image': image})['reconstruction']
    np.testing.assert_allclose(shown, np.clip(np.asarray(wanted) * 0.5 + 0.5, 0, 1), atol=1e-5)


@pytest.mark.slow
def test_a_unet_learns_latents_and_its_samples_are_shown(trained, tmp_path):
    data = made(trained)
    of_fashion = experiment_file.load(f'{FILE}:latent', arguments=[f'autoencoder={trained[0]}'])
    tiny = {
        'data': data,
        'evaluations.0.data': data,
        'evaluations.0.every_steps': 2,
        'evaluations.1.every_steps': 2,
        'evaluations.1.sampler.steps': 2,
        'evaluations.1.columns': 2,
        'model.channels': (8,),
        'model.blocks': 1,
        'model.classes': 3,
        'steps': 2,
        'optimizer.schedule.warmup_steps': 1,
    }
    verbs.train(config.vary(of_fashion, tiny), tmp_path / 'run')
    run = verbs.open_run(tmp_path / 'run')
    assert run.finished
    (shown,) = [each for group in run.artifacts for each in group.entries]
    assert shown['type'] == 'image'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'shape': (2, 2, 4)}, r'the autoencoder makes \(4, 4, 4\) of images'),
        ({'images.transforms': (transforms.RandomFlip(), transforms.Normalize())}, 'leave RandomFlip.* out'),
        ({'autoencoder.run': 'nowhere'}, "autoencoder.run='nowhere'.* holds no run"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message, trained):
    with pytest.raises(config.InputError, match=message):
        made(trained, **changes).open(0)


def test_images_that_do_not_fit_the_levels_are_refused():
    model = autoencoder.Autoencoder(
        channels=(32, 64), norm=config.vary(autoencoder.Autoencoder(channels=(32,)).norm, {'groups': 16})
    )

    def fields(*shape):
        return {'image': batches.Field(shape, np.dtype(np.float32), ('height', 'width', 'channels'))}

    model.check(fields(8, 10, 3))
    assert model.latent_shape((8, 10, 3)) == (4, 5, 4)
    with pytest.raises(config.InputError, match='multiples of 2; they are 8 and 9'):
        model.check(fields(8, 9, 3))
    with pytest.raises(config.InputError, match='groups=16 does not divide the 24 channels'):
        config.vary(model, {'channels': (24,)}).check(fields(8, 8, 3))
    with pytest.raises(config.InputError, match='the images have 1 channels'):
        model.check(fields(8, 8, 1))
