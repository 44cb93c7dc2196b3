#!/usr/bin/env python
"""How far generated clothes are from real ones, in features of a trained classifier, beside simple references.

python scripts/benchmark/generation_quality.py FOLDER EXTRACTOR              noise, normal distributions, real images
python scripts/benchmark/generation_quality.py FOLDER EXTRACTOR --run RUN    also the images of a run, by its sampler

FOLDER has the four files of Fashion-MNIST, EXTRACTOR is the directory of a run of experiments/fashion_mnist.py, and RUN
one of experiments/fashion_dit.py or of another model of such images that shows samples.
"""

import argparse
import platform

import jax
import numpy as np

from bigmodel_jax import config, verbs
from bigmodel_jax.data.vision import idx_files, images, transforms
from bigmodel_jax.evaluate.diffusion import image_samples
from bigmodel_jax.evaluate.vision.generation import frechet, precision_recall, quality, real_images
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train.weights import trained_extractor

SCALED = transforms.Normalize(mean=(0.5,), deviation=(0.5,))
SHAPE = (28, 28, 1)


def part(folder: str, name: str) -> images.Images:
    """The images that are called 'train' or 't10k'."""
    pictures, labels = (f'{folder}/{name}-{what}-ubyte.gz' for what in ('images-idx3', 'labels-idx1'))
    source = idx_files.Idx(images=pictures, labels=labels)
    return images.Images(source=source, shape=SHAPE, classes=10, batch=100, transforms=(SCALED,))


def references(folder: str, extractor: str, count: int) -> None:
    real, training = (real_images.PlainImages(part(folder, name), name).read() for name in ('t10k', 'train'))
    features = trained_extractor.TrainedExtractor(run=extractor).build(SHAPE, sharding.MeshShape(data=1).build())
    real_ND = features(real.pixels_NYXZ)
    labels_N = real.labels_N[real_images.spread(count, len(real.labels_N))]
    made = {
        'uniform noise': np.random.default_rng(0).integers(0, 256, (count, *SHAPE)).astype(np.uint8),
        'a normal distribution of each class': real_images.of_normal_distributions(training, labels_N, seed=0),
        'training images': training.pixels_NYXZ[real_images.spread(count, len(training.labels_N))],
    }
    shown_ND = real_ND[real_images.spread(min(count, len(real_ND)), len(real_ND))]
    for name, pixels in made.items():
        found_ND = features(pixels)
        found = frechet.estimate(found_ND, frechet.fitted(real_ND))
        both = precision_recall.precision_recall(found_ND[real_images.spread(len(shown_ND), count)], shown_ND)
        print(f'{name}: {found.value:.4g} ({found.low:.4g} to {found.high:.4g}), bias {found.bias:.2g}', *both)


def of_run(folder: str, extractor: str, run: str, count: int) -> None:
    opened = verbs.open_run(run)
    (shown, *_) = [each for each in opened.experiment.evaluations if isinstance(each, image_samples.ImageSamples)]
    measured = quality.GenerationQuality(
        sampler=shown.sampler,
        decoder=shown.decoder,
        extractor=trained_extractor.TrainedExtractor(run=extractor),
        real=part(folder, 't10k'),
        training=part(folder, 'train'),
        every_steps=1,
        count=count,
        batch=250,
    )
    experiment = config.vary(opened.experiment, {'evaluations': (measured,), 'claims': (), 'requires': ()})
    found = opened.restore(experiment=experiment).evaluate()['generation']
    for row in found.artifacts[0].rows:
        print(*row, sep=' | ')
    print(found.metrics['frechet'].signature)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder')
    parser.add_argument('extractor')
    parser.add_argument('--run')
    parser.add_argument('--count', type=int, default=5_000)
    given = parser.parse_args()
    print(f'{given.count:,} images; {platform.processor()}, Python {platform.python_version()}, jax {jax.__version__}')
    if given.run is None:
        references(given.folder, given.extractor, given.count)
    else:
        of_run(given.folder, given.extractor, given.run, given.count)


if __name__ == '__main__':
    main()
