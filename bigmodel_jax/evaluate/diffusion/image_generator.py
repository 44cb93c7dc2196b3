"""Images from a network that removes noise: each a pure function of (weights, seed, index, class)."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng
from bigmodel_jax.evaluate.diffusion import samplers
from bigmodel_jax.models import model as models
from bigmodel_jax.objectives import objective as objectives
from bigmodel_jax.objectives.diffusion import denoising
from bigmodel_jax.objectives.objective import Apply
from bigmodel_jax.parallel import sharding

PyTree = Any
SAMPLES = 0x73616D70  # Folded into the seed, so that samples share no key with a step of training.
LARGEST_INDEX = 2**32 - 1


class TrainedDenoiser(NamedTuple):
    """A network that removes noise, without its weights, and what it was trained with."""

    model: models.Model
    objective: objectives.Objective
    shape: tuple[int, ...]  # Of an image: [Y, X, Z].


class ImageGenerator:
    """Makes images in batches of one size, compiled once.

    An image follows from the seed, its index and its class, whatever else is asked for. Its bits do too, as long as
    `rows` and the mesh are the same: the last batch is filled up. With other rows or another mesh matrices are
    multiplied in another order, which changes the last digits.

    Args:
      rows: made at a time, rounded up to what the mesh divides.

    Raises:
      InputError: the sampler does not fit the network.
    """

    def __init__(
        self,
        of: TrainedDenoiser,
        sampler: samplers.Sampler,
        *,
        place: sharding.ShardingContext,
        seed: int,
        rows: int = 64,
    ):
        sampler.check(of.objective, of.model)
        assert isinstance(of.objective, denoising.Denoising)
        parts = place.shards('batch')
        self._of, self._objective, self._sampler, self._place = of, of.objective, sampler, place
        self.rows = -(-rows // parts) * parts
        self._key_data = counter_rng.key_data(seed)
        self._module = of.model.build()
        self._step = jax.jit(self._images, out_shardings=place.replicated)

    @property
    def classes(self) -> int | None:
        """How many classes the network knows; None if none."""
        found: int | None = getattr(self._of.model, 'classes', None)
        return found

    def __call__(
        self, params: PyTree, model_state: PyTree, indices: np.ndarray, labels: np.ndarray | None = None
    ) -> np.ndarray:
        """[N, Y, X, Z] float32: images as the network knows them, mostly between -1 and 1.

        Args:
          indices: [N], each at least 0: which images of the seed.
          labels: [N], the class of each; NO_CLASS for none. None: none for all.

        Raises:
          InputError: an index or a class is out of range.
        """
        indices = np.asarray(indices, np.int64)
        labels = np.full(len(indices), denoising.NO_CLASS) if labels is None else np.asarray(labels, np.int64)
        self.check(indices, labels)
        mine, found = self._place.local_rows(self.rows), []
        for start in range(0, len(indices), self.rows):
            chosen = np.minimum(np.arange(start, start + self.rows), len(indices) - 1)[mine]
            rows = {'indices': indices[chosen].astype(np.uint32), 'labels': labels[chosen].astype(np.int32)}
            batch = self._place.put_batch(rows, self.rows)
            found.append(jax.device_get(self._step(params, model_state, batch, self._key_data)))
        return np.concatenate(found)[: len(indices)]

    def check(self, indices: np.ndarray, labels: np.ndarray) -> None:
        """Raises InputError if an index or a class is out of range."""
        if not len(indices):
            raise config.InputError('There is no image to make: no indices.')
        if indices.shape != labels.shape or indices.ndim != 1:
            raise config.InputError(
                f'Each image needs an index and a class: there are {indices.shape} and {labels.shape} of them.'
            )
        if indices.min() < 0 or indices.max() > LARGEST_INDEX:
            raise config.InputError(f'Indices of images are 0 to {LARGEST_INDEX:,}, not {indices.min():,}.')
        guided, classes = self._sampler.guidance is not None, self.classes or 0
        wrong = labels[(labels >= classes) | (labels < denoising.NO_CLASS)]
        if len(wrong):
            known = f'0 to {classes - 1}' if classes else 'none: it was trained without'
            raise config.InputError(f'The model has no class {wrong[0]}; its classes are {known}.')
        if guided and (labels == denoising.NO_CLASS).any():
            raise config.InputError('Guidance needs the class of each image; give the labels, or leave it out.')

    def _images(self, params: PyTree, model_state: PyTree, batch: dict[str, jax.Array], key_data: Any) -> jax.Array:
        of_seed = jax.random.fold_in(jax.random.wrap_key_data(key_data), SAMPLES)
        keys_B = jax.vmap(functools.partial(jax.random.fold_in, of_seed))(batch['indices'])
        with sharding.use(self._place):
            apply = Apply(self._module, params, model_state)
            known = None if self.classes is None else batch['labels']
            predict = predictor(apply, known, self._sampler.guidance, channels=self._of.shape[-1])
            return self._sampler.sample(self._objective, predict, keys_B, self._of.shape)


def predictor(
    apply: Apply, labels_B: jax.Array | None, guidance: samplers.Guidance | None, *, channels: int
) -> denoising.Predict:
    """What the network says of the images of these classes, with guidance if there is one.

    Args:
      labels_B: None of a network without classes.
      channels: of an image.
    """

    def said(image_BYXZ: jax.Array, times_B: jax.Array, labels: jax.Array | None) -> jax.Array:
        of_class = {} if labels is None else {'labels': labels}
        outputs, _ = apply({'image': image_BYXZ, 'times': times_B, **of_class})
        found: jax.Array = outputs['prediction']
        return found

    def guided(image_BYXZ: jax.Array, times_B: jax.Array) -> jax.Array:
        if guidance is None or guidance.scale == 1:
            return said(image_BYXZ, times_B, labels_B)
        # Each row twice, one after the other, so that no row changes device: of its class, and of none.
        assert labels_B is not None
        none_B = jnp.full_like(labels_B, denoising.NO_CLASS)
        both = jnp.stack([labels_B, none_B], axis=1).reshape(-1)
        output = said(image_BYXZ.repeat(2, axis=0), times_B.repeat(2, axis=0), both)
        of_class, of_none = output[0::2], output[1::2]
        moved = of_none + guidance.scale * (of_class - of_none)
        count = channels if guidance.channels is None else guidance.channels
        return jnp.concatenate([moved[..., :count], of_class[..., count:]], axis=-1)

    return guided
