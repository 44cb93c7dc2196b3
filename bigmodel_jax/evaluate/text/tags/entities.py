"""Named entities: precision, recall and F1 of whole entities, as in the CoNLL shared task."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.data.text.tags import tagged
from bigmodel_jax.evaluate import all_rows, evaluation, metric
from bigmodel_jax.objectives import objective, requirements

PyTree = Any
METRICS = dict.fromkeys(('precision', 'recall', 'f1'), metric.Definition('higher', '%'))
Entity = tuple[int, int, str]  # The first word, the word after the last, and the type.


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities that the tags of a sentence's words stand for: 'B-X' begins one of type X, 'I-X' goes on with it.

    As in the task's script, an 'I-X' that goes on with nothing begins an entity too.

    Source: Tjong Kim Sang and De Meulder (2003), arXiv:cs/0306050, section 2, and their script conlleval.
    """
    found, begin, kind = set(), 0, ''
    for place, tag in enumerate([*tags, 'O']):
        prefix, _, name = tag.partition('-')
        goes_on = prefix == 'I' and name == kind
        if kind and not goes_on:
            found.add((begin, place, kind))
        if not goes_on:
            begin, kind = place, name if prefix in ('B', 'I') else ''
    return found


def scores(predicted: Sequence[Sequence[str]], truth: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of the entities of all sentences together, in percent; 0 where there are none."""
    pairs = [(entities(one), entities(other)) for one, other in zip(predicted, truth)]
    right = sum(len(one & other) for one, other in pairs)
    said, there = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    return {
        'precision': 100 * right / said if said else 0.0,
        'recall': 100 * right / there if there else 0.0,
        'f1': 200 * right / (said + there) if said + there else 0.0,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entities(evaluation.Evaluation):
    """'precision', 'recall' and 'f1' of the entities in every row of `data`, in percent; nan if the model gives nan.

    The model returns 'logits' [B, T, V], V being the tags.
    """

    data: tagged.Tagged
    every_steps: config.Positive
    name: str = 'dev'

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        return requirements.TOKEN_LABELS

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        return METRICS

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        return EntitiesEvaluator(self, setting, setting.open(self.data, self.name))


def _tags(outputs: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
    """The predicted tag of each token, its own, whether it has one, [B, T] each; and whether all are numbers [B]."""
    logits_BTV = outputs['logits']
    has_tag_BT = batch['loss_weights'] * batch[batches.EXAMPLE_WEIGHTS][:, None] > 0
    is_known_B = ~(jnp.isnan(logits_BTV).any(axis=-1) & has_tag_BT).any(axis=-1)
    return jnp.argmax(logits_BTV, axis=-1), batch['labels'], has_tag_BT, is_known_B


class EntitiesEvaluator(evaluation.Evaluator):
    """Predicts the tags of all rows, in order, and scores their entities on the host."""

    def __init__(self, config: Entities, setting: evaluation.EvaluationContext, data: batches.Batches):
        self.fingerprint = data.examples.fingerprint
        self._tags, self._data = config.data.tags, data
        self._predict = all_rows.AllRows(setting, _tags)

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        predicted_NT, labels_NT, has_tag_NT, is_known_N = self._predict(self._data, params, model_state)
        names = np.array(self._tags)
        one, other = (
            [list(names[row[counted]]) for row, counted in zip(array_NT, has_tag_NT)]
            for array_NT in (predicted_NT, labels_NT)
        )
        found = scores(one, other) if is_known_N.all() else dict.fromkeys(METRICS, math.nan)
        return evaluation.EvaluationResult(
            {name: metric.Metric(value, 'higher', '%', 'conlleval') for name, value in found.items()}
        )
