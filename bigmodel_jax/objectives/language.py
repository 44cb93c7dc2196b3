"""Next-token cross-entropy that never holds the float32 logits of the whole batch."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bigmodel_jax import config, precision
from bigmodel_jax.layers import embeddings
from bigmodel_jax.objectives import chunked_loss, objective, requirements
from bigmodel_jax.objectives.objective import Mean
from bigmodel_jax.parallel import sharding


def cross_entropy(
    logits: jax.Array, targets: jax.Array, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Loss and negative log-likelihood of each target, both [...] in nats, float32 or float64.

    The loss is (1 - s) nll + s mean_v(-log p_v) + z log(Z)^2.

    Args:
      logits: [..., V].
      targets: [...] int32.
      label_smoothing: s, spread over all V tokens (Szegedy et al., 2015, section 7). Spread over the V - 1 others,
        as in Tensor2Tensor, e is the same as s = e V / (V - 1).
      z_loss: z; keeps the normaliser Z near 1 (Chowdhery et al., 2022, section 5).
    """
    logits = precision.raised(logits)
    log_normaliser = jax.nn.logsumexp(logits, axis=-1)
    nll = log_normaliser - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    loss = nll
    if label_smoothing:
        loss = (1.0 - label_smoothing) * nll + label_smoothing * (log_normaliser - logits.mean(axis=-1))
    if z_loss:
        loss = loss + z_loss * jnp.square(log_normaliser)
    return loss, nll


def hits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Whether each target is the one that argmax picks, [...] bool: of equal logits the one of the lowest index.

    Not by argmax, which XLA:CPU computes slowly; the loss needs the maximum and the target's logit anyway.

    Args:
      logits: [..., V]. Where they are nan nothing is a hit.
      targets: [...] int32.
    """
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    index = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    is_tied_before = ((index < targets[..., None]) & (logits >= chosen)).any(axis=-1)
    return (chosen[..., 0] >= logits.max(axis=-1)) & ~is_tied_before


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModel(objective.Objective):
    """Mean cross-entropy over the tokens of weight 1.

    Batch: 'targets' [B, T] int32; optionally 'loss_weights' [B, T], and 'bytes' [B], the bytes of text that the
    targets of a row stand for, which gives bits per byte. The model needs the methods features() and head(), as Decoder
    and Seq2Seq have.
    """

    label_smoothing: config.Probability = 0.0
    z_loss: config.Rate = 0.0
    logits_mib: config.Positive = 256  # Float32 logits held at a time on a device; longer batches are cut along T.

    requires = requirements.TARGETS

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        (x_BTD, _), auxiliary = apply(batch, train=train, rngs=rngs, method='features')
        head, _ = apply(method='head')
        arrays = batch['targets'], objective.position_weights(batch)
        rows, length = batch['targets'].shape
        pieces = self.pieces(rows, length, head.matrix_VD.shape[0])
        loss, metrics = chunked_loss.summed(self.piece, head, x_BTD, arrays, pieces=pieces)
        if 'bytes' in batch:
            # A row of padding stands for no text.
            count = objective.counted(batch['bytes'], arrays[1].max(axis=1)).sum(dtype=jnp.float32)
            metrics['bits_per_byte'] = Mean(metrics['nll'].total / jnp.log(2.0), count)
        return objective.Outcome.of(loss, metrics, auxiliary)

    def per_example(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> jax.Array:
        (x_BTD, _), _ = apply(batch, train=train, rngs=rngs, method='features')
        head, _ = apply(method='head')

        def of_one(arrays: tuple[jax.Array, ...]) -> jax.Array:
            loss, _ = self.piece(head, *arrays)
            return loss.total / loss.count

        # One after the other, so that the logits of one are held at a time.
        return jax.lax.map(
            of_one, tuple(x[:, None] for x in (x_BTD, batch['targets'], objective.position_weights(batch)))
        )

    def piece(
        self, head: embeddings.Head, x_BTD: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array
    ) -> tuple[Mean, dict[str, Mean]]:
        """The loss and the metrics of some tokens."""
        logits_BTV = embeddings.unembed(x_BTD, head)
        targets_BT = objective.counted(targets_BT, weights_BT)
        loss_BT, nll_BT = cross_entropy(
            logits_BTV, targets_BT, label_smoothing=self.label_smoothing, z_loss=self.z_loss
        )
        accuracy = Mean.weighted(hits(logits_BTV, targets_BT), weights_BT)
        metrics = {'nll': Mean.weighted(nll_BT, weights_BT), 'accuracy': accuracy}
        return Mean.weighted(loss_BT, weights_BT), metrics

    def pieces(self, rows: int, length: int, vocab: int) -> int:
        """Into how many equal pieces of T the logits are cut so that each stays within `logits_mib` on a device."""
        rows, length = rows // sharding.shards('batch'), length // sharding.shards('length')  # Of one device.
        wanted = rows * length * vocab / sharding.shards('vocab') * 4 / 2**20 / self.logits_mib
        return next(n for n in range(1, length + 1) if length % n == 0 and n >= min(wanted, length))
