"""Contrastive losses of pairs: each row of a batch is told apart from all others of the same batch.

The B x B matrix of all logits is never held. The rows stay where the batch is, the candidates are gathered as vectors
[B, D], and the logits of a device's rows are computed for some of the candidates at a time; the backward pass computes
them again. So a device holds at most (B / devices) x Q logits, where Q is chosen by `logits_mib`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax import config, precision
from bigmodel_jax.models.multimodal.clip import Temperature
from bigmodel_jax.objectives import objective, requirements
from bigmodel_jax.objectives.objective import Mean
from bigmodel_jax.parallel import sharding

# Finite, not -inf: of a block without any candidate that counts, the logarithm of a sum of zeros has no gradient.
MASKED = -1e9
STANDING = 0.98  # A loss above this share of ln(batch) has learned nothing.
ALIKE = 0.95  # The mean cosine of pairs that do not belong together above which the embeddings are one vector.


# ---- mathematics --------------------------------------------------------------------------------------------------


class BlockOfLogits(NamedTuple):
    """The logits of all rows and some of the candidates."""

    logits_BQ: jax.Array  # float32 or float64
    is_pair_BQ: jax.Array  # bool: the candidate belongs to the row.
    counts_Q: jax.Array  # bool: of candidates that are no padding.


def over_blocks(
    function: Callable[[BlockOfLogits], tuple[jax.Array, ...]],
    rows_BD: jax.Array,
    candidates_BD: jax.Array,
    *,
    temperature: Temperature,
    weights_B: jax.Array,
    blocks: int,
) -> tuple[jax.Array, ...]:
    """What `function` gives for each block of candidates, stacked: arrays [N, B], N being `blocks`.

    Args:
      rows_BD, candidates_BD: unit vectors; row i and candidate i are a pair.
      weights_B: candidates of weight 0 are padding.
      blocks: into how many equal blocks the candidates are cut; a divisor of B.
    """
    B, D = rows_BD.shape
    rows_BD = sharding.constrain(precision.raised(rows_BD), 'batch', None)
    # An all-gather of vectors, whose gradient is scattered back to the devices of the rows.
    gathered_BD = sharding.constrain(precision.raised(candidates_BD), None, None)
    counts_B = sharding.constrain(weights_B != 0, None)
    scale, (_, bias) = jnp.exp(temperature.log_scale).astype(rows_BD.dtype), temperature

    @jax.checkpoint  # The logits of a block are computed again in the backward pass, not kept.
    def block(cut: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        candidates_QD, counts_Q, first = cut
        # In full precision: at a scale of 100 the bfloat16 products of a TPU would be off by a third of a nat.
        cosines_BQ = jnp.einsum('BD,QD->BQ', rows_BD, candidates_QD, precision='highest')
        logits_BQ = sharding.constrain(cosines_BQ * scale, 'batch', None)
        if bias is not None:
            logits_BQ = logits_BQ + bias.astype(logits_BQ.dtype)
        pair_BQ = jnp.arange(B)[:, None] == first + jnp.arange(len(candidates_QD))[None, :]
        return function(BlockOfLogits(logits_BQ, pair_BQ, counts_Q))

    cuts = (gathered_BD.reshape(blocks, -1, D), counts_B.reshape(blocks, -1), jnp.arange(blocks) * (B // blocks))
    if blocks == 1:
        return tuple(found[None] for found in block((gathered_BD, counts_B, cuts[2][0])))
    found: tuple[jax.Array, ...] = jax.lax.map(block, cuts)
    return found


def _nll(block: BlockOfLogits) -> tuple[jax.Array, ...]:
    """Of a block: the logarithm of the sum of exponentials, the logit of the pair, and the largest other logit, [B]."""
    logits_BQ = jnp.where(block.counts_Q, block.logits_BQ, MASKED)
    pair_B = jnp.where(block.is_pair_BQ, block.logits_BQ, 0).sum(axis=1)
    others_B = jax.lax.stop_gradient(jnp.where(block.is_pair_BQ, MASKED, logits_BQ).max(axis=1))
    return jax.nn.logsumexp(logits_BQ, axis=1), pair_B, others_B


class RowLosses(NamedTuple):
    """Of every row of a batch."""

    losses_B: jax.Array  # In nats.
    hits_B: jax.Array  # bool: the logit of its pair is above that of every other candidate.


def info_nce(
    rows_BD: jax.Array, candidates_BD: jax.Array, *, temperature: Temperature, weights_B: jax.Array, blocks: int = 1
) -> RowLosses:
    """-log softmax over the candidates of a batch, at the candidate that belongs to each row.

    Args: see over_blocks().

    Source: van den Oord et al. (2018), arXiv:1807.03748, equation 4; Radford et al. (2021), arXiv:2103.00020, figure 3.
    """
    how: dict[str, Any] = {'temperature': temperature, 'weights_B': weights_B, 'blocks': blocks}
    sums_NB, pairs_NB, others_NB = over_blocks(_nll, rows_BD, candidates_BD, **how)
    pair_B = pairs_NB.sum(axis=0)
    return RowLosses(jax.nn.logsumexp(sums_NB, axis=0) - pair_B, pair_B > others_NB.max(axis=0))


def _sigmoid(block: BlockOfLogits) -> tuple[jax.Array, ...]:
    """Of a block: the sum of the losses, the logit of the pair, and the largest other logit, [B]."""
    signed_BQ = jnp.where(block.is_pair_BQ, block.logits_BQ, -block.logits_BQ)
    losses_BQ = jnp.where(block.counts_Q, -jax.nn.log_sigmoid(signed_BQ), 0)
    _, pair_B, others_B = _nll(block)
    return losses_BQ.sum(axis=1), jax.lax.stop_gradient(pair_B), others_B


def sigmoid_losses(
    rows_BD: jax.Array, candidates_BD: jax.Array, *, temperature: Temperature, weights_B: jax.Array, blocks: int = 1
) -> RowLosses:
    """The sum over all candidates of -log sigmoid(z logit), where z is 1 for the pair of a row and -1 for all others.

    Args: see over_blocks().

    Source: Zhai et al. (2023), arXiv:2303.15343, equation 1 and algorithm 1.
    """
    how: dict[str, Any] = {'temperature': temperature, 'weights_B': weights_B, 'blocks': blocks}
    sums_NB, pairs_NB, others_NB = over_blocks(_sigmoid, rows_BD, candidates_BD, **how)
    return RowLosses(sums_NB.sum(axis=0), pairs_NB.sum(axis=0) > others_NB.max(axis=0))


@jax.custom_vjp
def clipped(log_scale: jax.Array, largest: jax.Array) -> jax.Array:
    """min(log_scale, largest), whose gradient does not push `log_scale` further beyond `largest` but lets it return.

    The released code sets the parameter back after each update; a plain minimum would have no gradient beyond, and the
    parameter could never return. Source: Radford et al. (2021), section 2.5.
    """
    return jnp.minimum(log_scale, largest)


def _clipped_forward(log_scale: jax.Array, largest: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.minimum(log_scale, largest), log_scale >= largest


def _clipped_backward(is_beyond: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    kept = jnp.where(is_beyond & (gradient < 0), 0, gradient)  # Descent on a negative gradient would raise it.
    return kept, jnp.zeros_like(gradient)


clipped.defvjp(_clipped_forward, _clipped_backward)


def cosines(
    image_BD: jax.Array, text_BD: jax.Array, weights_B: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The sum and the count of the cosines of the pairs, and of all others; without a B x B matrix."""
    image_BD, text_BD = (objective.counted(precision.raised(x), weights_B[:, None]) for x in (image_BD, text_BD))
    count = (weights_B != 0).sum(dtype=jnp.float32)
    pairs = (image_BD * text_BD).sum()
    everything = (image_BD.sum(axis=0) * text_BD.sum(axis=0)).sum()
    return (pairs, count), (everything - pairs, count * (count - 1))


# ---- objectives ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(objective.Objective):
    """Interface of the losses of images and their captions: every other pair of the batch is a negative.

    The model returns 'image_embedding' and 'text_embedding' [B, D], unit vectors, and has the method temperature(). The
    loss belongs to a batch as a whole, so that it can be computed neither for one example nor in microbatches.

    Metrics: how often the own caption is the nearest of the batch ('image_to_text_accuracy'); the mean cosine of pairs
    and of all others ('pair_cosine', 'other_cosine'), and the scale of the logits ('logit_scale').
    """

    logits_mib: config.Positive = 64  # Logits held at a time on a device; those of larger batches come in blocks.
    standing_after: config.Positive = 200  # Updates after which a loss that still stands at ln(batch) is told.

    directions: ClassVar = {
        'image_to_text_accuracy': 'higher',
        'text_to_image_accuracy': 'higher',
        'pair_cosine': 'higher',
        'other_cosine': 'lower',
    }
    compares_rows = True
    requires = requirements.PAIRS

    def blocks(self, rows: int, itemsize: int = 4) -> int:
        """Into how many equal blocks the candidates are cut so that logits stay within `logits_mib` on a device."""
        wanted = rows / sharding.shards('batch') * rows * itemsize / 2**20 / self.logits_mib
        return next(n for n in range(1, rows + 1) if rows % n == 0 and n >= min(wanted, rows))

    def losses(
        self, image_BD: jax.Array, text_BD: jax.Array, temperature: Temperature, weights_B: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss of each pair, [B], and which are hits, by the name of their share."""
        raise NotImplementedError

    def scaled(self, temperature: Temperature) -> Temperature:
        """The temperature that is used."""
        return temperature

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        outputs, auxiliary = apply(batch, train=train, rngs=rngs)
        found, _ = apply(method='temperature')
        temperature, weights_B = self.scaled(found), batch['example_weights']
        image_BD, text_BD = outputs['image_embedding'], outputs['text_embedding']
        if image_BD.shape != text_BD.shape:
            raise config.InputError(
                f'objective={type(self).__name__} compares row i of image_embedding with row i of text_embedding, but '
                f'they are {list(image_BD.shape)} and {list(text_BD.shape)}; the model should give one of each for '
                'every pair, of one width.'
            )
        losses_B, hits = self.losses(image_BD, text_BD, temperature, weights_B)
        pairs, others = cosines(*jax.lax.stop_gradient((image_BD, text_BD)), weights_B)
        metrics = {name: Mean.weighted(hits_B, weights_B) for name, hits_B in hits.items()}
        metrics |= {'pair_cosine': Mean(*pairs), 'other_cosine': Mean(*others)}
        metrics['logit_scale'] = Mean.of(jax.lax.stop_gradient(jnp.exp(temperature.log_scale)))
        return objective.Outcome.of(Mean.weighted(losses_B, weights_B), metrics, auxiliary)

    def _both_ways(
        self, image_BD: jax.Array, text_BD: jax.Array, temperature: Temperature, weights_B: jax.Array
    ) -> dict[str, RowLosses]:
        blocks = self.blocks(len(image_BD), precision.sums(image_BD.dtype).itemsize)
        how: dict[str, Any] = {'temperature': temperature, 'weights_B': weights_B, 'blocks': blocks}
        return {
            'image_to_text': info_nce(image_BD, text_BD, **how),
            'text_to_image': info_nce(text_BD, image_BD, **how),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfoNce(Contrastive):
    """CLIP's loss: the mean of info_nce() from images to captions and from captions to images."""

    # Of the logits; the scale is not learned beyond it (Radford et al., 2021, section 2.5). None: no limit.
    max_scale: config.PositiveFloat | None = 100.0

    def scaled(self, temperature: Temperature) -> Temperature:
        if self.max_scale is None:
            return temperature
        largest = jnp.asarray(math.log(self.max_scale), temperature.log_scale.dtype)
        return temperature._replace(log_scale=clipped(temperature.log_scale, largest))

    def losses(
        self, image_BD: jax.Array, text_BD: jax.Array, temperature: Temperature, weights_B: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        found = self._both_ways(image_BD, text_BD, temperature, weights_B)
        losses_B = sum((each.losses_B for each in found.values()), jnp.zeros((), image_BD.dtype)) / 2
        return losses_B, {f'{name}_accuracy': each.hits_B for name, each in found.items()}

    def diagnosis(self, means: Mapping[str, float], *, rows: int, step: int) -> str | None:
        chance = math.log(rows)
        if step < self.standing_after or not means['loss'] >= STANDING * chance:
            return None
        said = f'The loss stands at ln(batch) = ln({rows}) = {chance:.3f}, that of a guess: it is {means["loss"]:.3f}.'
        if means['other_cosine'] >= ALIKE:
            return (
                f'{said} The embeddings are all alike: pairs that do not belong together have a mean cosine of '
                f'{means["other_cosine"]:.3f}. The learning rate is too high or without a warm-up, or a tower sees the '
                'same input in every row.'
            )
        return (
            f'{said} Captions fit their images no better than others (mean cosines {means["pair_cosine"]:.3f} and '
            f'{means["other_cosine"]:.3f}). Check that each image stands with its own caption; that the learning rate '
            f'{means.get("learning_rate", math.nan):.1e} is not too low for this step, as in a long warm-up, nor far '
            f'too high; and the scale of the logits, {means["logit_scale"]:.1f}.'
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigLip(Contrastive):
    """SigLIP's loss: the mean over the images of sigmoid_losses(). The model needs a bias, as Clip(logit_bias=-10)."""

    requires = requirements.BIASED_PAIRS

    def losses(
        self, image_BD: jax.Array, text_BD: jax.Array, temperature: Temperature, weights_B: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        blocks = self.blocks(len(image_BD), precision.sums(image_BD.dtype).itemsize)
        found = sigmoid_losses(image_BD, text_BD, temperature=temperature, weights_B=weights_B, blocks=blocks)
        return found.losses_B, {'image_to_text_accuracy': found.hits_B}
