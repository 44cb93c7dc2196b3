"""The loss of an autoencoder whose latents are drawn from a normal distribution."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from bigmodel_jax import config
from bigmodel_jax.objectives import objective, requirements
from bigmodel_jax.objectives import rngs as random_streams


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoding(objective.Objective):
    """The squared error of the reconstruction, and how far the latents are from a standard normal distribution.

    loss = mse + kl_weight KL / n, for an image of n numbers: `mse` is the mean over them, and `kl` the KL divergence of
    the latents in nats, summed over the latents and divided by n. With a weight of 1 it is the evidence lower bound
    under a normal distribution of variance 1/2, but for a constant. Latents are drawn in training, and are their means
    in evaluation. What is drawn follows from the seed, the step and the example.

    Source: Kingma and Welling (2013), arXiv:1312.6114, equation 10; the small weight: Rombach et al. (2022).
    """

    kl_weight: config.Rate = 1e-3

    streams = ('dropout', 'noise')
    directions: ClassVar[Mapping[str, Literal['lower', 'higher']]] = {'mse': 'lower', 'kl': 'lower'}
    requires: ClassVar[requirements.Requirements] = requirements.Requirements(
        outputs={'reconstruction': ('height', 'width', 'channels')},
        fields={'image': requirements.FieldRequirement(axes=('height', 'width', 'channels'), integer=False)},
        methods=('encode', 'decode'),
        provided_by="data with 'image' and the model autoencoder.Autoencoder",
    )

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        found, auxiliary = self._losses(apply, batch, train=train, rngs=rngs)
        means = {name: objective.Mean.weighted(each_B, batch['example_weights']) for name, each_B in found.items()}
        return objective.Outcome.of(means.pop('loss'), means, auxiliary)

    def per_example(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> jax.Array:
        return self._losses(apply, batch, train=train, rngs=rngs)[0]['loss']

    def _losses(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, Any]
    ) -> tuple[dict[str, jax.Array], objective.Auxiliary]:
        (mean, log_variance), _ = apply(batch, train=train, rngs=rngs, method='encode')
        latent_BYXZ = mean
        if train:
            assert isinstance(rngs, random_streams.Rngs), rngs
            noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))
            latent_BYXZ = mean + jnp.exp(log_variance / 2) * noise(rngs.of_rows('noise', len(mean)))
        image_BYXZ, auxiliary = apply(latent_BYXZ, train=train, rngs=rngs, method='decode')
        mse_B = jnp.square(image_BYXZ - batch['image']).mean(axis=(1, 2, 3))
        divergence = 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - log_variance - 1)
        kl_B = divergence.sum(axis=(1, 2, 3)) / batch['image'][0].size
        return {'loss': mse_B + self.kl_weight * kl_B, 'mse': mse_B, 'kl': kl_B}, auxiliary
