"""Text that the model generates, as an evaluation."""

import dataclasses
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.evaluate import evaluation, metric, predictor
from bigmodel_jax.evaluate.text import decoding, decoding_model, generation
from bigmodel_jax.objectives import objective, requirements

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples(evaluation.Evaluation):
    """Texts that continue each prompt, as Text artifacts.

    The seed is the run's, so that the texts of different steps differ by the weights alone.
    """

    prompts: tuple[str, ...]  # '' begins a document.
    tokens: config.Positive  # New tokens at most.
    decoding: decoding.Decoding
    every_steps: config.Positive
    name: str = 'samples'
    template: bool = True  # A prompt to a model of conversations is a message, written with the template of its data.

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        return decoding_model.PROMPTED

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        return {}

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        tokenizer = setting.need_tokenizer(self.name)
        encode = predictor.prompt_encoder(setting.data, tokenizer, template=self.template)
        prompts = generation.prompt_ids(tokenizer, self.prompts, encode)
        decoding.check(setting.model, prompts, tokens=self.tokens, end=tokenizer.end)
        return SamplesEvaluator(self, setting, tokenizer)


class SamplesEvaluator(evaluation.Evaluator):
    """Generates the samples of one config."""

    def __init__(self, samples: Samples, setting: evaluation.EvaluationContext, tokenizer: tokenizers.Tokenizer):
        self._samples, self._setting, self._tokenizer = samples, setting, tokenizer

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        samples, setting = self._samples, self._setting
        weights = predictor.PredictorWeights(setting.model, params, model_state, setting.place)
        encode = predictor.prompt_encoder(setting.data, self._tokenizer, template=samples.template)
        how, seed = samples.decoding, setting.seed
        predict = predictor.TextPredictor(
            weights, self._tokenizer, decoding=how, tokens=samples.tokens, seed=seed, encode=encode
        )
        shown = predict([{'prompt': prompt} for prompt in samples.prompts])
        return evaluation.EvaluationResult(artifacts=shown)
