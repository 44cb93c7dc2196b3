"""Texts that the model writes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.evaluate import artifacts, evaluation, metric
from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.models import model as models
from bigmodel_jax.parallel import sharding

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

    def build(self, setting: evaluation.Setting) -> evaluation.Evaluator:
        tokenizer = setting.tokenizer
        if tokenizer is None:
            raise config.InputError(
                f'Evaluation {self.name!r} writes text, but the training data has no tokenizer; leave it out.'
            )
        decoding.check(setting.model, _ids(tokenizer, self.prompts), tokens=self.tokens, end=tokenizer.end)
        return SamplesEvaluator(self, setting, tokenizer)


class SamplesEvaluator(evaluation.Evaluator):
    """Writes the samples of one config."""

    def __init__(self, samples: Samples, setting: evaluation.Setting, tokenizer: tokenizers.Tokenizer):
        self._samples, self._setting, self._tokenizer = samples, setting, tokenizer

    def metrics(self, params: PyTree, model_state: PyTree) -> metric.Definitions:
        return {}

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        samples, setting = self._samples, self._setting
        texts = write(
            setting.model,
            params,
            self._tokenizer,
            samples.prompts,
            tokens=samples.tokens,
            how=samples.decoding,
            seed=setting.seed,
            model_state=model_state,
            place=setting.place,
        )
        shown = [artifacts.Text(prompt=prompt, text=text) for prompt, text in zip(samples.prompts, texts)]
        return evaluation.EvaluationResult(artifacts=shown)


def write(
    model: models.Model,
    params: PyTree,
    tokenizer: tokenizers.Tokenizer,
    prompts: Sequence[str],
    *,
    tokens: int,
    how: decoding.Decoding,
    seed: int = 0,
    model_state: PyTree | None = None,
    place: sharding.ShardingContext | None = None,
) -> list[str]:
    """The text that goes on from each prompt, without the prompt; the best one where there are several.

    Args:
      model: the config that `params` belong to, a decoder.
      prompts: texts; each is taken as the beginning of a document.
      tokens: new tokens at most.
      place: where `params` lie; by default on one device.

    Raises:
      InputError: a prompt is too long, or holds what the tokenizer cannot encode.
    """
    ids = _ids(tokenizer, prompts)
    found = decoding.decode(
        model,
        params,
        ids,
        tokens=tokens,
        decoding=how,
        end=tokenizer.end,
        seed=seed,
        model_state=model_state,
        place=place,
    )
    return [_continuation(tokenizer, prompt, texts[0].tokens) for prompt, texts in zip(ids, found)]


def _ids(tokenizer: tokenizers.Tokenizer, prompts: Sequence[str]) -> list[np.ndarray]:
    """Token ids of each prompt, after the end token that stands before every document."""
    decoding.check_texts(prompts)
    return [tokenizer.encode_prompt(prompt) for prompt in prompts]


def _continuation(tokenizer: tokenizers.Tokenizer, prompt: np.ndarray, new: np.ndarray) -> str:
    """The text of the new tokens as it reads after the prompt, whose last character they may complete."""
    new = new[new < tokenizer.size]  # A vocabulary that was rounded up has ids that stand for nothing.
    before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *new])
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(new)
