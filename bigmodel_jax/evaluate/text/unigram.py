"""What a model that knows only how often each token occurs would reach: the first thing a language model must beat."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.data.text import text
from bigmodel_jax.evaluate import evaluation, metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unigram(evaluation.Evaluation):
    """The loss on `data` under the token frequencies of the training data; see text.unigram_entropy()."""

    data: text.Text
    every_steps: config.Positive
    name: str = 'unigram'

    def build(self, setting: evaluation.Setting) -> evaluation.Evaluator:
        training = setting.training
        if not isinstance(training, text.TextBatches):
            raise config.InputError(f'Evaluation {self.name!r} needs training data of the kind text.Text.')
        return UnigramEvaluator(text.unigram_entropy(training, setting.open(self.data, self.name)))


class UnigramEvaluator(evaluation.Evaluator):
    """Knows its answer before any training."""

    def __init__(self, entropy: text.UnigramEntropy):
        self._entropy = entropy

    def metrics(self, params: Any, model_state: Any) -> metric.Directions:
        return {'loss': 'lower', 'bits_per_byte': 'lower'}

    def run(self, params: Any, model_state: Any) -> Mapping[str, float]:
        return {'loss': self._entropy.nats_per_token, 'bits_per_byte': self._entropy.bits_per_byte}
