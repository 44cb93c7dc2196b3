"""Spans: where in a row an answer begins and where it ends."""

import dataclasses
from collections.abc import Mapping

import jax

from bigmodel_jax.objectives import language, objective, requirements
from bigmodel_jax.objectives.objective import Mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerSpans(objective.Objective):
    """The mean of the cross-entropies of the first and the last token of the answer, over the rows of weight 1.

    Batch: 'starts' and 'ends' [B] int32, positions in the row. The model returns 'start_logits' and
    'end_logits' [B, T].

    Source: Devlin et al. (2018), arXiv:1810.04805, section 4.2; halved, as in the released code.
    """

    requires = requirements.SPANS

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        outputs, auxiliary = apply(batch, train=train, rngs=rngs)
        starts_B, ends_B = (objective.counted(batch[name], batch['example_weights']) for name in ('starts', 'ends'))
        start_B, _ = language.cross_entropy(outputs['start_logits'], starts_B)
        end_B, _ = language.cross_entropy(outputs['end_logits'], ends_B)
        return objective.Outcome.of(Mean.weighted((start_B + end_B) / 2, batch['example_weights']), {}, auxiliary)

    def per_example(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> jax.Array:
        outputs, _ = apply(batch, train=train, rngs=rngs)
        start_B, _ = language.cross_entropy(outputs['start_logits'], batch['starts'])
        end_B, _ = language.cross_entropy(outputs['end_logits'], batch['ends'])
        return (start_B + end_B) / 2
