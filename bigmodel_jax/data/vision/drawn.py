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


COLORS = {'red': (200, 40, 40), 'green': (40, 160, 60), 'blue': (50, 70, 200), 'yellow': (220, 200, 50)}
PLACES = ('above', 'below', 'left', 'right')
FORMS = ('disc', 'square')


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionedShapes(records.Source):
    """A shape on grey noise: `image` is [Y, X, 3] uint8, `caption` 'a red disc above', and `label` its number.

    Image i shows shape i modulo the 32 shapes. Equal fields give equal images.
    """

    count: config.Positive
    side: config.Positive = 16
    first: config.NonNegative = 0  # Other numbers give other images.

    def open(self) -> records.Records:
        names = captions_of_shapes()
        found = [self._draw(self.first + number, names) for number in range(self.count)]
        return records.RecordList('drawn shapes', found, {'name': 'shapes 1', **config.to_json(self)})

    def _draw(self, number: int, names: tuple[str, ...]) -> records.Record:
        label, side = number % len(names), self.side
        _, color, form, place = names[label].split()
        noise = counter_rng.uniform(number, np.arange(side * side * 3)).reshape(side, side, 3)
        pixels = 100 + 60 * noise
        middle, far = side / 2, {'above': (-1, 0), 'below': (1, 0), 'left': (0, -1), 'right': (0, 1)}[place]
        y, x = (np.mgrid[:side, :side] + 0.5) - middle - np.array(far)[:, None, None] * side / 4
        inside = (np.hypot(y, x) if form == 'disc' else np.maximum(abs(y), abs(x))) < side / 5
        return {
            'image': np.where(inside[..., None], COLORS[color], pixels).astype(np.uint8),
            'caption': names[label],
            'label': label,
        }


def captions_of_shapes() -> tuple[str, ...]:
    """The caption of each shape, by its number."""
    return tuple(f'a {color} {form} {place}' for color in COLORS for form in FORMS for place in PLACES)
