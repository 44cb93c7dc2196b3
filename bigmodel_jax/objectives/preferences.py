"""Learning from preferences: the chosen of two answers becomes more likely than the rejected one, beside a reference.

The data are data/text/chats/preferences.py: a row holds both conversations of a pair, as two segments. Dropout is off,
as in TRL: the policy is compared with a reference that has none.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax import config, precision
from bigmodel_jax.data.text.chats import preferences
from bigmodel_jax.initialization import Initialization
from bigmodel_jax.layers import embeddings
from bigmodel_jax.objectives import language, objective, requirements
from bigmodel_jax.objectives.objective import Mean


class PairRatios(NamedTuple):
    """What the policy and the reference say of the two answers of each pair; all [B], float32 or float64."""

    chosen: jax.Array  # log(p / p_reference) of the whole answer: the sum over its tokens.
    rejected: jax.Array
    chosen_tokens: jax.Array
    rejected_tokens: jax.Array


def dpo_losses(chosen_B: jax.Array, rejected_B: jax.Array, *, beta: float, label_smoothing: float = 0.0) -> jax.Array:
    """The loss of each pair, [B]: -(1 - s) log sigmoid(beta d) - s log sigmoid(-beta d), where d = chosen - rejected.

    Args:
      chosen_B, rejected_B: log(p / p_reference) of the two answers.
      label_smoothing: s, the probability that a label is the wrong way round.

    Source: Rafailov et al. (2023), arXiv:2305.18290, equation 7; with s > 0 conservative DPO, Mitchell (2023), A note
    on DPO with noisy preferences, equation 3.
    """
    logits_B = beta * (chosen_B - rejected_B)
    return -(1 - label_smoothing) * jax.nn.log_sigmoid(logits_B) - label_smoothing * jax.nn.log_sigmoid(-logits_B)


def ipo_losses(chosen_B: jax.Array, rejected_B: jax.Array, *, beta: float) -> jax.Array:
    """The loss of each pair, [B]: (chosen - rejected - 1 / (2 beta))^2.

    Args:
      chosen_B, rejected_B: log(p / p_reference) of the two answers, each for the mean token, as in TRL.
      beta: the tau of the paper.

    Source: Azar et al. (2023), arXiv:2310.12036, equation 17.
    """
    return jnp.square(chosen_B - rejected_B - 1 / (2 * beta))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceObjective(objective.Objective):
    """Interface of the objectives that compare the policy with a reference; the data are Preferences.

    The reference log-probabilities are computed once, before the first step, and kept in the cache; see
    train/reference/log_probabilities.py. The metrics are the implicit rewards beta log(p / p_reference) of the chosen
    and the rejected answer, their difference `reward_margin`, and `reward_accuracy`, how often it is positive.
    """

    beta: config.PositiveFloat = 0.1  # How strongly the policy is held to the reference.
    reference: Initialization | None = None  # Where its weights are from; None: they are the run's initial weights.
    logits_mib: config.Positive = 256  # Float32 logits held at a time on a device; longer batches are cut along T.

    directions: ClassVar[Mapping[str, Literal['lower', 'higher']]] = {
        'chosen_reward': 'higher', 'rejected_reward': 'lower', 'reward_margin': 'higher', 'reward_accuracy': 'higher'
    }  # fmt: skip
    requires = requirements.PREFERENCES
    streams: ClassVar[tuple[str, ...]] = ()

    def losses(self, ratios: PairRatios) -> jax.Array:
        """The loss of each pair, [B]."""
        raise NotImplementedError

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        ratios, auxiliary = self._ratios(apply, batch, rngs)
        weights_B = batch['example_weights']
        chosen_B, rejected_B = self.beta * ratios.chosen, self.beta * ratios.rejected
        values = {
            'chosen_reward': chosen_B,
            'rejected_reward': rejected_B,
            'reward_margin': chosen_B - rejected_B,
            'reward_accuracy': (chosen_B > rejected_B).astype(chosen_B.dtype),
        }
        metrics = {name: Mean.weighted(value_B, weights_B) for name, value_B in values.items()}
        return objective.Outcome.of(Mean.weighted(self.losses(ratios), weights_B), metrics, auxiliary)

    def per_example(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> jax.Array:
        return self.losses(self._ratios(apply, batch, rngs)[0])

    def _ratios(
        self, apply: objective.Apply, batch: Mapping[str, jax.Array], rngs: Mapping[str, jax.Array]
    ) -> tuple[PairRatios, objective.Auxiliary]:
        log_p_BT, auxiliary = self.log_probabilities(apply, batch, rngs)
        # Subtracted for each token: where both are nearly equal, the sums of many tokens would drown the difference.
        ratios_BT = log_p_BT - batch[preferences.REFERENCE]
        sides = []
        for segment in (preferences.CHOSEN, preferences.REJECTED):
            weights_BT = batch['loss_weights'] * (batch['segments'] == segment)
            sides.append((objective.counted(ratios_BT, weights_BT) * weights_BT).sum(axis=1))
            sides.append(weights_BT.sum(axis=1).astype(ratios_BT.dtype))
        return PairRatios(sides[0], sides[2], sides[1], sides[3]), auxiliary

    def log_probabilities(
        self, apply: objective.Apply, batch: Mapping[str, jax.Array], rngs: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, objective.Auxiliary]:
        """log p of each target that counts, [B, T] float32 or float64, 0 elsewhere; and the auxiliary outputs."""
        (x_BTD, _), auxiliary = apply(batch, train=False, rngs=rngs, method='features')
        head, _ = apply(method='head')
        weights_BT = batch['loss_weights']
        targets_BT = objective.counted(batch['targets'], weights_BT)
        chunks = language.LanguageModel(logits_mib=self.logits_mib)
        rows, length = targets_BT.shape
        pieces = chunks.pieces(rows, length, head.matrix_VD.shape[0])

        @jax.checkpoint  # The logits of a piece are computed again in the backward pass, not kept.
        def piece(cut: tuple[jax.Array, jax.Array]) -> jax.Array:
            _, nll_BT = language.cross_entropy(embeddings.unembed(cut[0], head), cut[1])
            return -nll_BT

        if pieces == 1:
            log_p_BT = piece((x_BTD, targets_BT))
        else:
            cuts = tuple(
                jnp.moveaxis(x.reshape(x.shape[0], pieces, -1, *x.shape[2:]), 1, 0) for x in (x_BTD, targets_BT)
            )
            log_p_BT = jnp.moveaxis(jax.lax.map(piece, cuts), 0, 1).reshape(targets_BT.shape)
        return precision.raised(objective.counted(log_p_BT, weights_BT)), auxiliary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dpo(PreferenceObjective):
    """Direct preference optimization; see dpo_losses(). The first loss is ln 2: the policy is the reference then."""

    label_smoothing: config.Probability = 0.0  # The probability that a label is the wrong way round (conservative DPO).

    def losses(self, ratios: PairRatios) -> jax.Array:
        return dpo_losses(ratios.chosen, ratios.rejected, beta=self.beta, label_smoothing=self.label_smoothing)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ipo(PreferenceObjective):
    """Identity preference optimization; see ipo_losses(). The first loss is 1 / (4 beta^2)."""

    def losses(self, ratios: PairRatios) -> jax.Array:
        chosen_B, rejected_B = ratios.chosen / ratios.chosen_tokens, ratios.rejected / ratios.rejected_tokens
        return ipo_losses(chosen_B, rejected_B, beta=self.beta)
