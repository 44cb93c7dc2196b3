"""Masked language modelling and next-sentence prediction."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bigmodel_jax import config
from bigmodel_jax.objectives import language, objective, requirements
from bigmodel_jax.objectives.objective import Mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLanguageModel(objective.Objective):
    """Mean cross-entropy of the masked tokens, plus that of whether the second sentence follows.

    Batch: that of data/text/sentence_pairs.py; or one of text, whose every token is predicted, with `next_sentence=0`.
    The model returns 'mlm_logits' [B, N, V] and 'nsp_logits' [B, 2], as Bert does.

    The second mean counts in proportion to the tokens of the batch that are predicted, so that with microbatches of
    unequally many it is weighted by these.

    Source: Devlin et al. (2018), arXiv:1810.04805, section A.2.
    """

    next_sentence: config.Rate = 1.0  # How much the second mean counts; 0 for the 'No NSP' of table 5.

    @property
    def requires(self) -> requirements.Requirements:  # type: ignore[override]  # It depends on the loss.
        return requirements.MASKED_AND_NEXT_SENTENCE if self.next_sentence else requirements.MASKED

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        outputs, auxiliary = apply(batch, train=train, rngs=rngs)
        logits_BNV = outputs['mlm_logits']
        weights_B, weights_BN = batch['example_weights'], objective.position_weights(batch)
        targets_BN = objective.counted(batch['targets'], weights_BN)
        _, nll_BN = language.cross_entropy(logits_BNV, targets_BN)
        nll = Mean.weighted(nll_BN, weights_BN)
        metrics = {'nll': nll, 'accuracy': Mean.weighted(language.hits(logits_BNV, targets_BN), weights_BN)}
        loss = nll
        if self.next_sentence:
            nsp_BV, is_random_next_B = outputs['nsp_logits'], objective.counted(batch['is_random_next'], weights_B)
            _, nsp_B = language.cross_entropy(nsp_BV, is_random_next_B)
            follows = Mean.weighted(nsp_B, weights_B)
            share = self.next_sentence * nll.count / jnp.maximum(follows.count, 1)
            loss = Mean(nll.total + share * follows.total, nll.count)
            hits_B = (nsp_BV[:, 1] > nsp_BV[:, 0]) == (is_random_next_B == 1)
            metrics |= {'nsp_nll': follows, 'nsp_accuracy': Mean.weighted(hits_B, weights_B)}
        return objective.Outcome.of(loss, metrics, auxiliary)

    def per_example(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> jax.Array:
        outputs, _ = apply(batch, train=train, rngs=rngs)
        weights_BN = objective.position_weights(batch)
        _, nll_BN = language.cross_entropy(outputs['mlm_logits'], objective.counted(batch['targets'], weights_BN))
        loss_B = jax.vmap(objective.mean)(nll_BN, weights_BN)
        if not self.next_sentence:
            return loss_B
        return loss_B + self.next_sentence * language.cross_entropy(outputs['nsp_logits'], batch['is_random_next'])[0]
