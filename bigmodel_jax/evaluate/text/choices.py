"""Zero-, one- and few-shot accuracy on multiple-choice tasks: whether the right completion is the most likely one.

Source: Brown et al. (2020), arXiv:2005.14165, section 2.4.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import records
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.evaluate import evaluation, metric
from bigmodel_jax.evaluate.text import decoding_model, likelihood, task_records, tasks
from bigmodel_jax.objectives import objective, requirements

PyTree = Any

RULES = ('accuracy', 'accuracy_per_token', 'accuracy_unconditional')  # By which a completion is chosen.
METRICS: metric.Definitions = {
    **dict.fromkeys(RULES, metric.Definition('higher')),
    'examples': metric.Definition(),
    'truncated': metric.Definition('lower', 'examples'),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices(evaluation.Evaluation):
    """Accuracy on a task, given `shots` solved examples with each question, drawn anew for each.

      accuracy                log P(completion | context) is largest for the right one.
      accuracy_per_token      The same divided by the tokens of the completion: the paper's choice for most tasks.
      accuracy_unconditional  log P(completion | context) - log P(completion | answer context): for ARC, OpenBookQA,
                              RACE.
      examples                Of which these are means.
      truncated               Of these, how many lost the beginning of their prompt, for which the model had no room.

    Of equal scores the first counts. What is drawn depends on the run's seed and the example alone.
    """

    task: tasks.Task
    shots: config.NonNegative  # K
    every_steps: config.Positive
    name: str
    batch: config.Positive = 16  # Completions in a batch.
    max_examples: config.Positive | None = None  # Only the first so many.

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        return decoding_model.PROMPTED

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        return METRICS

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        tokenizer = setting.need_tokenizer(self.name)
        examples = encoded(self, tokenizer, setting.seed)
        limit = likelihood.longest(setting.model)
        for number, example in enumerate(examples):
            try:
                likelihood.check(setting.model, example.requests, limit)
            except config.InputError as error:
                raise config.InputError(f'Evaluation {self.name!r}, example {number}: {error}') from error
        return ChoicesEvaluator(self, setting, examples)


class Example(NamedTuple):
    """A question as tokens."""

    conditional: tuple[likelihood.Request, ...]  # Each completion after the prompt,
    unconditional: tuple[likelihood.Request, ...]  # and after the answer context.
    answer: int

    @property
    def requests(self) -> tuple[likelihood.Request, ...]:
        return self.conditional + self.unconditional


def encoded(choices: Choices, tokenizer: tokenizers.Tokenizer, seed: int) -> list[Example]:
    """Every question with its prompt. Context and completion are tokenized apart; the end token begins each context.

    Raises:
      InputError: the task's data is missing, or does not fit its templates.
    """
    task, name = choices.task, choices.name
    test = task.test.open()
    count = min(len(test), choices.max_examples or len(test))
    train = task.train.open() if choices.shots else records.RecordList('', (), {})
    examples = []
    for number in range(count):
        question = task.question(task_records.plain(test[number]), f'{name}: test example {number}')
        without = number if task.train == task.test else None
        chosen = (
            tasks.drawn(seed, number, count=choices.shots, available=len(train), without=without)
            if choices.shots
            else []
        )
        solved = [(task_records.plain(train[index]), f'{name}: training example {index}') for index in chosen]
        shown = [task.question(record, where) for record, where in solved]
        prompt = task.prompt(question, shown)
        contexts = [tokenizer.encode_prompt(text) for text in (prompt, task.answer_context)]
        completions = [np.asarray(ids, np.int32) for ids in tokenizer.encode_many(list(question.completions))]
        given, alone = (tuple(likelihood.Request(context, each) for each in completions) for context in contexts)
        examples.append(Example(given, alone, question.answer))
    return examples


class ChoicesEvaluator(evaluation.Evaluator):
    """Computes the log-likelihood of every completion of every question."""

    def __init__(self, choices: Choices, setting: evaluation.EvaluationContext, examples: Sequence[Example]):
        self._choices, self._setting, self._examples = choices, setting, examples
        content = hashlib.sha256()
        for request in (request for example in examples for request in example.requests):
            content.update(str([ids.tolist() for ids in request]).encode())
        self.fingerprint = {'examples': len(examples), 'sha256': content.hexdigest()}

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        setting = self._setting
        scorer = likelihood.Scorer(setting.model, params, model_state, rows=self._choices.batch, place=setting.place)
        scores = scorer([each for example in self._examples for each in example.requests])
        found = metrics(self._examples, scores)
        return evaluation.EvaluationResult({name: METRICS[name].measured(value) for name, value in found.items()})


def metrics(examples: Sequence[Example], scores: Sequence[likelihood.SequenceScore]) -> dict[str, float]:
    """The metrics of Choices; `scores` are those of all requests, in their order."""
    remaining = iter(scores)
    right, truncated = np.zeros(3), 0
    for example in examples:
        given, alone = ([next(remaining) for _ in side] for side in (example.conditional, example.unconditional))
        log_p = np.array([score.log_p for score in given])
        by_rule = (
            log_p,
            log_p / [score.tokens for score in given],
            log_p - [score.log_p for score in alone],
        )
        # Of scores that are not numbers none is the largest.
        right += [np.nan if np.isnan(values).any() else np.argmax(values) == example.answer for values in by_rule]
        truncated += any(score.dropped for score in given)
    means = {name: float(count) / len(examples) for name, count in zip(RULES, right)}
    return {**means, 'examples': float(len(examples)), 'truncated': float(truncated)}
