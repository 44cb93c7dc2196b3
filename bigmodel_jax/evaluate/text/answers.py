"""Extractive question answering, with the metrics of SQuAD."""

import collections
import dataclasses
import re
import string
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data.text import questions
from bigmodel_jax.evaluate import artifacts, evaluation, metric
from bigmodel_jax.objectives import objective, requirements
from bigmodel_jax.objectives.objective import Apply
from bigmodel_jax.parallel import sharding

PyTree = Any
SIGNATURE = 'SQuAD 1.1, lower case, without punctuation and articles'
METRICS = dict.fromkeys(('exact_match', 'f1'), metric.Definition('higher', '%'))


def normalize(answer: str) -> str:
    """Lower case, without punctuation, articles and superfluous space.

    Source: Rajpurkar et al. (2016), arXiv:1606.05250, section 6.1, and their script evaluate-v1.1.py.
    """
    answer = ''.join(letter for letter in answer.lower() if letter not in string.punctuation)
    return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', answer).split())


def exact_match(answer: str, truths: Sequence[str]) -> float:
    """1 if an answer is one of `truths`, once normalized, else 0."""
    return float(normalize(answer) in map(normalize, truths))


def f1(answer: str, truths: Sequence[str]) -> float:
    """The best harmonic mean of precision and recall of the words of an answer over `truths`."""
    return max(_f1(normalize(answer).split(), normalize(truth).split()) for truth in truths)


def _f1(words: list[str], truth: list[str]) -> float:
    same = sum((collections.Counter(words) & collections.Counter(truth)).values())
    return 2 * same / (len(words) + len(truth)) if same else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers(evaluation.Evaluation):
    """'exact_match' and 'f1' of the answers to every question of `data`, in percent, and the first `shown` answers.

    An answer is the best span of all windows of its text: the highest sum of the logits of its start and end (Devlin
    et al., 2018, section 4.2), among those of at most `longest` tokens, as in their code.
    """

    data: questions.Questions
    every_steps: config.Positive
    name: str = 'dev'
    longest: config.Positive = 30
    shown: config.NonNegative = 5

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        return requirements.Requirements(
            outputs={'start_logits': ('length',), 'end_logits': ('length',)},
            provided_by='the model bert.QuestionAnswering',
        )

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        return METRICS

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        data = setting.open(self.data, self.name)
        return AnswersEvaluator(self, setting, data)


class AnswersEvaluator(evaluation.Evaluator):
    """Answers all questions, in order, and computes the metrics on the host."""

    def __init__(self, answers: Answers, setting: evaluation.EvaluationContext, data: questions.QuestionBatches):
        self.fingerprint = data.examples.fingerprint
        self._answers, self._setting, self._data = answers, setting, data
        self._step = jax.jit(self._logits, out_shardings=setting.place.replicated)

    def _logits(self, params: PyTree, model_state: PyTree, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        with sharding.use(self._setting.place):
            outputs, _ = Apply(self._setting.module, params, model_state)(batch)
        return outputs['start_logits'], outputs['end_logits']

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        data, place, examples = self._data, self._setting.place, self._data.examples
        best: dict[int, tuple[float, str]] = {}  # Question -> score and text.
        for index in range(data.steps_per_pass):
            batch = place.put_batch(data.eval_batch(index, place.local_rows(data.rows)), data.rows)
            starts, ends = jax.device_get(self._step(params, model_state, batch))
            for row in range(index * data.rows, min((index + 1) * data.rows, len(examples))):
                window, here = examples.windows[row], row - index * data.rows
                inside = slice(window.at, window.at + window.tokens)
                score, first, last = best_span(starts[here][inside], ends[here][inside], longest=self._answers.longest)
                if score > best.get(window.question, (-np.inf, ''))[0]:
                    best[window.question] = score, examples.text(row, first + window.at, last + window.at)
        # Where no score is a number, no span is the best, and there is no answer.
        return self._scored([best.get(number, (-np.inf, ''))[1] for number in range(len(examples.questions))])

    def _scored(self, found: list[str]) -> evaluation.EvaluationResult:
        asked = self._data.examples.questions
        pairs = [(answer, question.answers) for answer, question in zip(found, asked)]
        texts = [
            artifacts.Text(prompt=question.text, text=answer, reference=question.answers[0])
            for question, answer in zip(asked[: self._answers.shown], found)
        ]
        scored = {
            name: metric.Metric(100 * float(np.mean([score(*pair) for pair in pairs])), 'higher', '%', SIGNATURE)
            for name, score in (('exact_match', exact_match), ('f1', f1))
        }
        return evaluation.EvaluationResult(scored, texts)


def best_span(starts: np.ndarray, ends: np.ndarray, *, longest: int) -> tuple[float, int, int]:
    """The highest sum of two logits, and their positions, of spans of at most `longest` tokens.

    Args:
      starts, ends: [n] float32.
    """
    scores = starts[:, None] + ends[None, :]
    place = np.arange(len(starts))
    length = place[None, :] - place[:, None]
    scores = np.where((length >= 0) & (length < longest), scores, -np.inf)
    first, last = np.unravel_index(int(np.argmax(scores)), scores.shape)
    return float(scores[first, last]), int(first), int(last)
