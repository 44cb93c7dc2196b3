"""The unigram baseline: the loss of a model that predicts each token by its frequency in the training data."""

import dataclasses
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.data.text import text
from bigmodel_jax.evaluate import evaluation, metric
from bigmodel_jax.objectives import objective

METRICS = {'loss': metric.Definition('lower', 'nats'), 'bits_per_byte': metric.Definition('lower', 'bits')}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unigram(evaluation.Evaluation):
    """The loss on `data` under the token frequencies of the training data; see text.unigram_entropy()."""

    data: text.Text
    every_steps: config.Positive
    name: str = 'unigram'

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        return METRICS

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        training = setting.training
        if not isinstance(training, text.TextBatches):
            raise config.InputError(f'Evaluation {self.name!r} needs training data of the kind text.Text.')
        return UnigramEvaluator(text.unigram_entropy(training, setting.open(self.data, self.name)))


class UnigramEvaluator(evaluation.Evaluator):
    """Gives the same result at every step."""

    def __init__(self, entropy: text.UnigramEntropy):
        self._entropy = entropy

    def run(self, params: Any, model_state: Any) -> evaluation.EvaluationResult:
        values = {'loss': self._entropy.nats_per_token, 'bits_per_byte': self._entropy.bits_per_byte}
        return evaluation.EvaluationResult({name: METRICS[name].measured(value) for name, value in values.items()})
