"""Diffusion in the latents of an autoencoder that was trained before: its data, and the way back to pixels."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.data.vision import images as labelled
from bigmodel_jax.evaluate.diffusion import image_samples
from bigmodel_jax.models.diffusion import autoencoder
from bigmodel_jax.objectives.objective import Apply
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train.weights import trained_run

ROWS = 128  # Images, or latents, at a time.
LATENT_AXES = ('height', 'width', 'channels')


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedAutoencoder(trained_run.TrainedRun):
    """The autoencoder of a run at one of its checkpoints; it is not trained further."""

    field: ClassVar[str] = 'autoencoder'

    def model(self) -> autoencoder.Autoencoder:
        """Its model.

        Raises:
          InputError: the run is of another.
        """
        found = self.experiment().model
        if not isinstance(found, autoencoder.Autoencoder):
            raise config.InputError(
                f'autoencoder.run={self.run!r} is a run of {type(found).__name__}; use one of an Autoencoder.'
            )
        return found

    def method(self, name: str) -> Callable[[np.ndarray], np.ndarray]:
        """A method of the module, 'encode' (its means) or 'decode', of [N, ...] on one device of this host."""
        place = sharding.MeshShape(data=1).build(jax.local_devices()[:1])
        module, weights = self.module(), self.weights(place)

        @jax.jit
        def step(weights: Any, part: jax.Array) -> Any:
            with sharding.use(place):
                outputs, _ = Apply(module, *weights)({'image': part} if name == 'encode' else part, method=name)
            return outputs.mean if name == 'encode' else outputs

        def applied(inputs: np.ndarray) -> np.ndarray:
            found = []
            for start in range(0, len(inputs), ROWS):
                chosen = np.minimum(np.arange(start, start + ROWS), len(inputs) - 1)
                found.append(np.asarray(jax.device_get(step(weights, inputs[chosen])), np.float32))
            return np.concatenate(found)[: len(inputs)]

        return applied


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latents(batches.Data):
    """The latents of images, as 'image', with their labels: the means that the encoder gives, times a scale.

    The scale is 1 / the standard deviation of all latents of `training`, so that the noise of a schedule that was made
    for pixels fits; data for evaluation names the same `training`. All images are encoded when the data is opened, by
    every host, and held in memory. Random transforms are refused: an image has one latent.

    Source: Rombach et al. (2022), arXiv:2112.10752, appendix G, who measure it on the first batch.
    """

    images: labelled.Images
    autoencoder: TrainedAutoencoder
    training: labelled.Images  # Of whose latents the scale is measured.
    shape: tuple[config.Positive, config.Positive, config.Positive]  # Of the latents: rows, columns, channels.
    batch: config.Positive

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return {
            'image': batches.Field(self.shape, np.dtype(np.float32), LATENT_AXES),
            'labels': self.images.fields['labels'],
        }

    @property
    def units(self) -> batches.Units:
        return batches.Units('images', 1)

    @property
    def scale(self) -> float:
        """What the encoder's means are multiplied by."""
        return 1 / float(self._encoded(self.training)[0].std(dtype=np.float64))

    def _encoded(self, data: labelled.Images) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        return _encoded(self.autoencoder, self.autoencoder.identity()['digest'], data)

    def build(self, seed: int) -> batches.Batches:
        made = self.autoencoder.model().latent_shape(self.images.shape)
        if made != self.shape:
            raise config.InputError(
                f'data.shape={self.shape}, but the autoencoder makes {made} of images of {self.images.shape}; use '
                f'data.shape={made}.'
            )
        latents, labels, fingerprint = self._encoded(self.images)
        scale = self.scale
        found = {'image': latents * np.float32(scale), 'labels': labels}
        told = {'images': fingerprint, 'autoencoder': self.autoencoder.identity(), 'scale': scale}
        examples = batches.ArrayExamples(found, self.fields, fingerprint=told)
        return batches.Batches(examples, rows=self.batch, seed=seed)


@functools.lru_cache(maxsize=4)
def _encoded(
    by: TrainedAutoencoder, digest: str, data: labelled.Images
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The latents of all images before they are scaled, their labels, and what the images are.

    Args:
      digest: of the weights, for the cache.
    """
    random = [each for each in data.transforms if each.random]
    if random or data.mixing is not None or data.views is not None:
        what = config.format_value(random[0]) if random else 'mixing or views'
        raise config.InputError(f'Latents are of images as they are; leave {what} out of their images.')
    examples = labelled.ImageExamples(data)
    latents, labels, encode = [], [], by.method('encode')
    for start in range(0, len(examples), 8 * ROWS):
        indices = np.arange(start, min(start + 8 * ROWS, len(examples)))
        batch = examples.gather(indices, np.zeros_like(indices), 0)
        latents.append(encode(batch['image']))
        labels.append(batch['labels'])
    return np.concatenate(latents), np.concatenate(labels), dict(examples.fingerprint)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentDecoder(image_samples.ImageDecoder):
    """The pixels of generated latents, by the decoder of the autoencoder that made those of the data."""

    def build(self, data: batches.Data) -> image_samples.PixelDecoder:
        if not isinstance(data, Latents):
            raise config.InputError(
                f'LatentDecoder makes pixels of Latents, but the data is {type(data).__name__}; leave it out.'
            )
        return LatentPixels(data)


class LatentPixels(image_samples.PixelDecoder):
    """Divides by the scale, decodes, and undoes the last Normalize of the images."""

    def __init__(self, data: Latents):
        self._decode, self._scale = data.autoencoder.method('decode'), data.scale
        self._pixels = image_samples.Denormalize().build(data.images)

    def __call__(self, made_NYXZ: np.ndarray) -> np.ndarray:
        return self._pixels(self._decode(made_NYXZ / np.float32(self._scale)))
