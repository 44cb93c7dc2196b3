"""A small convolutional network on images that are cropped and flipped at random when they are read, by four workers.

Question: does a crop of 32 x 32 after padding by 4, and a flip, in each epoch anew, help a network with little data?
          And are the batches the same, bit for bit, whatever the number of workers that read them?
Source:   the augmentation is that of He et al. (2015), arXiv:1512.03385, section 4.2, for CIFAR-10. The images are
          drawn by this file, as functions of their numbers: a disk, a ring, a square or a cross somewhere on a noisy
          background.
Target:   none is published. The second command gives the run of the first with one worker; `diff` of the two finds
          no difference but the number of workers.
Run:      python -m bigmodel_jax train experiments/augmented_images.py --workdir runs/augmented
          python -m bigmodel_jax train experiments/augmented_images.py --set workers=1 --workdir runs/one_worker
"""

import dataclasses

import numpy as np
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.config import vary
from bigmodel_jax.data import counter_rng, records
from bigmodel_jax.data.vision import images, transforms
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.models import model
from bigmodel_jax.objectives import classification
from bigmodel_jax.optim import optimizers, schedules

SIDE = 32
KINDS = ('disk', 'ring', 'square', 'cross')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes(records.Source):
    """Images of shapes: `image`, [32, 32, 3] uint8, and `label`, which says what is on it."""

    count: config.Positive
    first: config.NonNegative = 0  # Other numbers give other images.

    def open(self) -> 'ShapeRecords':
        return ShapeRecords(self)


class ShapeRecords(records.Records):
    """Images, each drawn when it is read."""

    def __init__(self, source: Shapes):
        self.name, self._source = 'shapes', source
        self.fingerprint = {'name': 'shapes 1', 'first': source.first, 'count': source.count}

    def __len__(self) -> int:
        return self._source.count

    def read(self, start: int, stop: int) -> list[records.Record]:
        return [self._draw(self._source.first + number) for number in range(len(self))[start:stop]]

    def _draw(self, number: int) -> records.Record:
        label = int(counter_rng.integers(len(KINDS), number, 0))
        row, column = 8 + counter_rng.integers(SIDE - 16, number, 1, np.arange(2))
        size = 4 + 3 * counter_rng.uniform(number, 2)
        rows, columns = np.mgrid[:SIDE, :SIDE] - np.array([row, column])[:, None, None]
        distance, largest = np.hypot(rows, columns), np.maximum(abs(rows), abs(columns))
        inside = (
            distance < size,
            abs(distance - size + 1) < 1,
            largest < size,
            (np.minimum(abs(rows), abs(columns)) < 1.5) & (largest < size),
        )[label]
        colors = 100 + 120 * counter_rng.uniform(number, 3, np.arange(6)).reshape(2, 3) * [[0.3], [1.0]]
        noise = 160 * (counter_rng.uniform(number, 4, np.arange(SIDE * SIDE * 3)) - 0.5).reshape(SIDE, SIDE, 3)
        pixels = np.where(inside[..., None], colors[1], colors[0]) + noise
        return {'image': np.clip(pixels, 0, 255).astype(np.uint8), 'label': label}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNet(model.Model):
    """Three layers of convolutions, each with half as many rows and columns, and the mean of what they give."""

    channels: config.Positive

    def build(self, name: str | None = None) -> nn.Module:
        return ConvNetModule(self, name=name)


class ConvNetModule(nn.Module):
    config: ConvNet

    @nn.compact
    def __call__(self, batch):
        x_BYXZ = batch['image']
        for power in range(3):
            x_BYXZ = nn.relu(nn.Conv(self.config.channels * 2**power, (3, 3), strides=2)(x_BYXZ))
        return {'logits': nn.Dense(len(KINDS))(x_BYXZ.mean(axis=(1, 2)))}


NORMALIZE = transforms.Normalize(mean=(0.5,), deviation=(0.25,))
AUGMENT = (transforms.RandomCrop(padding=4), transforms.RandomFlip())


def experiment() -> Experiment:
    shape, classes = (SIDE, SIDE, 3), len(KINDS)
    validation = images.Images(
        source=Shapes(count=2_000, first=1_000_000), shape=shape, classes=classes, batch=64, transforms=(NORMALIZE,)
    )
    return Experiment(
        name='augmented_images',
        steps=1_000,
        data=vary(validation, {'source': Shapes(count=1_000), 'transforms': (*AUGMENT, NORMALIZE)}),
        model=ConvNet(channels=16),
        objective=classification.Classification(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=3e-3, warmup_steps=50), weight_decay=0.01),
        checkpoints=Checkpoints(every_steps=500),
        evaluations=(loss.Loss(data=validation, every_steps=250),),
        workers=4,
    )


def without_augmentation() -> Experiment:
    return vary(experiment(), {'name': 'plain_images', 'data.transforms': (NORMALIZE,)})


def smoke() -> Experiment:
    """Seconds: two epochs of few images."""
    few = {
        'data.source.count': 64,
        'data.batch': 16,
        'model.channels': 4,
        'steps': 8,
        'optimizer.schedule.warmup_steps': 2,
    }
    evaluation = {'evaluations.0.every_steps': 4, 'evaluations.0.data.source.count': 32, 'evaluations.0.data.batch': 16}
    return vary(experiment(), few | evaluation)
