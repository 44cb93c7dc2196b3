"""Images that are drawn when they are read, so that an experiment can be tried without data."""

import dataclasses

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng, records


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gratings(records.Source):
    """Noisy stripes whose direction is their `label`; `image` is [Y, X, Z] uint8. Equal fields give equal images."""

    count: config.Positive
    shape: tuple[config.Positive, config.Positive, config.Positive]
    classes: config.Positive
    first: config.NonNegative = 0  # Other numbers give other images.

    def open(self) -> 'GratingRecords':
        return GratingRecords(self)


class GratingRecords(records.Records):
    """Image i shows class i modulo the number of classes."""

    def __init__(self, source: Gratings):
        self.name, self._source = 'gratings', source
        self.fingerprint = {'name': 'gratings 1', **config.to_json(source)}

    def __len__(self) -> int:
        return self._source.count

    def read(self, start: int, stop: int) -> list[records.Record]:
        return [self._draw(self._source.first + number) for number in range(len(self))[start:stop]]

    def _draw(self, number: int) -> records.Record:
        (rows, columns, channels), label = self._source.shape, number % self._source.classes
        phase, contrast = counter_rng.uniform(number, np.arange(2)).tolist()
        y, x = np.mgrid[:rows, :columns]
        angle = np.pi * label / self._source.classes
        waves = np.sin(x * np.cos(angle) + y * np.sin(angle) + 2 * np.pi * phase)
        noise = counter_rng.uniform(number, 2, np.arange(rows * columns * channels)).reshape(rows, columns, channels)
        pixels = 128 + (30 + 40 * contrast) * waves[..., None] + 60 * (noise - 0.5)
        return {'image': np.clip(pixels, 0, 255).astype(np.uint8), 'label': label}
