"""Features of images by a classifier that was trained before: what its last matrix reads."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import transforms
from bigmodel_jax.data.vision import images
from bigmodel_jax.evaluate.vision.generation import extractor
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.models import classifiers
from bigmodel_jax.objectives.objective import Apply
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train.weights import trained_run

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedExtractor(trained_run.TrainedRun, extractor.Extractor):
    """The features that the last matrix of a run's classifier reads.

    Images are given to it as to the run's first evaluation of Images, whose transforms are not random.
    """

    rows: config.Positive = 256  # Images at a time; changes no feature but for rounding.

    field: ClassVar[str] = 'extractor'

    def build(self, shape: tuple[int, ...], place: sharding.ShardingContext) -> extractor.FeatureExtractor:
        data = _data(self.experiment(), self.run)
        made = data.made_of(shape)
        if made != data.shape:
            raise config.InputError(
                f'extractor.run={self.run!r} reads images of {data.shape}; its transforms make {made} of those of '
                f'{tuple(shape)} that are compared. Use images as it was trained on, or an extractor of theirs.'
            )
        return TrainedFeatures(self, data, place)


def _data(of: Experiment, run: str) -> images.Images:
    """How the classifier reads images, outside of training."""
    known = [getattr(each, 'data', None) for each in of.evaluations]
    found = [
        each
        for each in (*known, of.data)
        if isinstance(each, images.Images) and not any(t.random for t in each.transforms)
    ]
    if not found:
        raise config.InputError(
            f'extractor.run={run!r} has neither an evaluation nor training data of Images whose transforms are not '
            'random, so that it does not say how it reads an image; use a run that has.'
        )
    return dataclasses.replace(found[0], views=None, mixing=None)


class TrainedFeatures(extractor.FeatureExtractor):
    """Transforms images on the host and computes their features, compiled once."""

    def __init__(self, of: TrainedExtractor, data: images.Images, place: sharding.ShardingContext):
        who, self._model = of.identity(), of.experiment().model
        self.identity = f'extractor:{type(self._model).__name__}@{who["digest"][:12]}'
        parts = place.shards('batch')
        self._data, self._place, self._rows = data, place, -(-of.rows // parts) * parts
        self._module, self._weights = of.module(), of.weights(place)
        self._step = jax.jit(self._features, out_shardings=place.replicated)
        image = jax.ShapeDtypeStruct((self._rows, *data.shape), jnp.float32)
        self.width: int = jax.eval_shape(self._features, self._weights, image).shape[-1]

    def __call__(self, pixels_NYXZ: np.ndarray) -> np.ndarray:
        found, count = [], len(pixels_NYXZ)
        for start in range(0, count, self._rows):
            chosen = np.minimum(np.arange(start, start + self._rows), count - 1)[self._place.local_rows(self._rows)]
            batch = self._place.put_batch({'image': np.stack([self._read(pixels_NYXZ[i]) for i in chosen])}, self._rows)
            found.append(jax.device_get(self._step(self._weights, batch['image'])))
        return np.concatenate(found)[:count]

    def _read(self, pixels_YXZ: np.ndarray) -> np.ndarray:
        """An image as the classifier reads it."""
        given = {'image': pixels_YXZ}
        made: np.ndarray = transforms.apply(self._data.transforms, given, seed=0, epoch=0, example=0)['image']
        return made

    def _features(self, weights: PyTree, image_BYXZ: jax.Array) -> jax.Array:
        with sharding.use(self._place):
            apply = Apply(self._module, *weights)
            found = classifiers.penultimate(lambda: apply({'image': image_BYXZ}), type(self._model).__name__)
        return found.reshape(len(found), -1).astype(jnp.float32)
