"""Generated images are compared by an extractor that was trained before; nothing depends on batches and devices."""

import jax
import numpy as np
import pytest

from bigmodel_jax import config, verbs
from bigmodel_jax.data.vision import drawn, images, one_class, transforms
from bigmodel_jax.evaluate import classes
from bigmodel_jax.evaluate.diffusion import samplers
from bigmodel_jax.evaluate.vision.generation import quality, real_images
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.layers import convolution, norms
from bigmodel_jax.models import resnet
from bigmodel_jax.models.diffusion import unet
from bigmodel_jax.objectives import classification
from bigmodel_jax.objectives.diffusion import diffusion
from bigmodel_jax.optim import ema, optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train.weights import trained_extractor

SCALED = transforms.Normalize(mean=(0.5,), deviation=(0.5,))
RATE = schedules.Constant(peak=1e-3)


def gratings(count, first=0, **changes):
    source = drawn.Gratings(count=count, shape=(8, 8, 1), classes=3, first=first)
    base = images.Images(source=source, shape=(8, 8, 1), classes=3, batch=16, transforms=(SCALED,))
    return config.vary(base, changes)


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    """The directory of a run whose classifier gives 6 features."""
    directory = tmp_path_factory.mktemp('classifier')
    augmented = {'transforms': (transforms.RandomFlip(), transforms.Normalize())}
    experiment = Experiment(
        name='classifier',
        steps=8,
        data=gratings(64, **augmented),
        model=resnet.ResNet(
            stem=resnet.Stem(filters=convolution.Convolution(channels=6)),
            block=resnet.Basic(channels=6, norm=norms.GroupNorm(groups=2)),
            depths=(1,),
            channels=(6,),
            classes=3,
        ),
        objective=classification.Classification(),
        optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=1e-2)),
        evaluations=(classes.Classes(data=gratings(16, transforms=(transforms.Normalize(),)), every_steps=8),),
        checkpoints=Checkpoints(every_steps=8),
        mesh=sharding.MeshShape(data=1),
        workers=0,
    )
    verbs.train(experiment, directory)
    return directory


def diffused(classifier, **changes):
    """An experiment whose images are measured at its end."""
    evaluated = quality.GenerationQuality(
        sampler=samplers.Ddim(steps=2),
        extractor=trained_extractor.TrainedExtractor(run=str(classifier), rows=16),
        real=gratings(90, first=500),
        every_steps=2,
        count=60,
        batch=16,
        blocks=4,
    )
    base = Experiment(
        name='diffused',
        steps=2,
        data=gratings(150),
        model=unet.UNet(channels=(4,), blocks=1, norm=norms.GroupNorm(groups=2), image_channels=1, classes=3),
        objective=diffusion.Diffusion(),
        optimizer=optimizers.AdamW(schedule=RATE),
        ema=ema.Ema(decay=0.9),
        evaluations=(evaluated,),
        mesh=sharding.MeshShape(data=1),
        workers=0,
    )
    return config.vary(base, changes)


@pytest.mark.slow
def test_features_are_of_the_image_alone(classifier):
    pixels = real_images.PlainImages(gratings(21), 'real').read().pixels_NYXZ
    found = [
        trained_extractor.TrainedExtractor(run=str(classifier), rows=rows).build((8, 8, 1), shape.build())(pixels)
        for rows, shape in (
            (4, sharding.MeshShape(data=1)),
            (16, sharding.MeshShape(data=1)),
            (16, sharding.MeshShape()),
        )
    ]
    assert found[0].shape == (21, 6)
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, rtol=1e-5, atol=1e-6)  # Sums in another order.
    assert np.abs(found[0] - found[0][::-1]).max() > 1e-2


@pytest.mark.slow
def test_a_run_measures_its_images_beside_both_references(classifier, tmp_path):
    verbs.train(diffused(classifier), tmp_path / 'run')
    run = verbs.open_run(tmp_path / 'run')
    found = {name: run.measured(f'generation/{name}') for name in (*quality.OF_MODEL, *quality.OF_REFERENCES)}
    assert found['frechet_low'].value <= found['frechet'].value <= found['frechet_high'].value
    assert 0 < found['training_frechet'].value < found['frechet'].value  # After two steps it makes nothing like them.
    assert 0 <= found['precision'].value <= 1
    signature = found['frechet'].signature
    assert signature == found['gaussian_frechet'].signature != found['precision'].signature
    (digest,) = {real_images.PlainImages(gratings(90, first=500), 'real').read().digest}
    assert f'real:{digest},90 n:60 seed:0 blocks:4' in signature
    assert signature.startswith('frechet extractor:ResNet@')
    # The batch changes nothing but for rounding, and neither does the mesh.
    other = {'evaluations.0.batch': 8, 'evaluations.0.extractor.rows': 8, 'mesh': sharding.MeshShape()}
    verbs.train(diffused(classifier, **other), tmp_path / 'other')
    again = verbs.open_run(tmp_path / 'other').measured('generation/frechet')
    assert again.value == pytest.approx(found['frechet'].value, rel=1e-3)
    assert again.signature == signature


@pytest.mark.slow
@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'count': 8}, 'are too few: a covariance of 6 features'),
        ({'real': gratings(6)}, '6 real images of the evaluation'),
        ({'blocks': 1}, 'blocks=1; the jackknife needs at least 2'),
        ({'extractor.run': 'nowhere'}, "extractor.run='nowhere'.* holds no run"),
        ({'extractor.step': 3}, 'no checkpoint of that step; there are 8'),
        (
            {'training': gratings(9, transforms=(transforms.Resize(size=(4, 4)), SCALED), shape=(4, 4, 1))},
            'both should be',
        ),
        (
            {'real': gratings(50, transforms=(transforms.Resize(size=(4, 4)), SCALED), shape=(4, 4, 1))},
            r'reads images of \(8, 8, 1\)',
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_computed(changes, message, classifier, tmp_path):
    experiment = diffused(classifier, **{f'evaluations.0.{path}': value for path, value in changes.items()})
    with pytest.raises(config.InputError, match=message):
        verbs.train(experiment, tmp_path / 'run')


def test_samples_of_normal_distributions_have_the_moments_of_their_class():
    real = real_images.PlainImages(gratings(300), 'real').read()
    labels_N = np.arange(600) % 3
    made = real_images.of_normal_distributions(real, labels_N, seed=0)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made[:7], real_images.of_normal_distributions(real, labels_N[:7], seed=0))
    for label in range(3):
        drawn_NP, true_NP = (
            each.reshape(len(each), -1).astype(np.float64)
            for each in (made[labels_N == label], real.pixels_NYXZ[real.labels_N == label])
        )
        # Of 200 samples of a pixel with a deviation of up to 60: 5 standard errors.
        np.testing.assert_allclose(drawn_NP.mean(axis=0), true_NP.mean(axis=0), atol=5 * 60 / 200**0.5)
        assert abs(drawn_NP.var(axis=0).sum() / true_NP.var(axis=0).sum() - 1) < 0.1


def test_real_images_are_read_without_what_training_changes():
    data = gratings(12, transforms=(transforms.RandomFlip(), SCALED))
    found = real_images.PlainImages(data, 'training').read()
    stored = gratings(12).source.open()
    np.testing.assert_array_equal(found.pixels_NYXZ, np.stack([record['image'] for record in stored]))
    assert found.digest != real_images.PlainImages(gratings(12, first=1), 'real').read().digest
    unscaled = gratings(12, transforms=(transforms.Normalize(divisor=127.5, mean=(1.0,)),))
    with pytest.raises(config.InputError, match=r'to 1\.\d+, .* Normalize\(mean=\(0.5,\), deviation=\(0.5,\)\)'):
        real_images.PlainImages(unscaled, 'real').read()
    cropped = gratings(12, shape=(6, 6, 1), transforms=(transforms.RandomCrop(size=(6, 6)), SCALED))
    with pytest.raises(config.InputError, match='without its random transforms'):
        real_images.PlainImages(cropped, 'training')


def test_images_without_labels_are_of_one_class():
    source = one_class.OneClass(source=drawn.Gratings(count=9, shape=(8, 8, 1), classes=3))
    examples = images.ImageExamples(gratings(9, source=source, classes=1))
    assert examples.gather(np.arange(9), np.zeros(9, np.int64), 0)['labels'].tolist() == [0] * 9
    assert jax.tree.leaves(source.open().fingerprint)
