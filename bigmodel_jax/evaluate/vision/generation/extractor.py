"""What gives the features of images, by which generated ones are compared with real ones."""

import numpy as np

from bigmodel_jax.parallel import sharding


class FeatureExtractor:
    """An extractor that is ready.

    Attributes:
      identity: which one it is, with a hash of its weights: features of two identities must not be compared.
      width: how many features an image has.
    """

    identity: str
    width: int

    def __call__(self, pixels_NYXZ: np.ndarray) -> np.ndarray:
        """[N, D] float32 of images [N, Y, X, Z] of bytes."""
        raise NotImplementedError


class Extractor:
    """Interface of the configs of extractors."""

    def build(self, shape: tuple[int, ...], place: sharding.ShardingContext) -> FeatureExtractor:
        """The extractor, for images of this shape.

        Raises:
          InputError: there is none, or it does not read such images.
        """
        raise NotImplementedError
