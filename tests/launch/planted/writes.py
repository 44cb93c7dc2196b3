"""Every host writes one file."""

import dataclasses
import pathlib
import tempfile
from typing import Any

import base

from bigmodel_jax.config import vary
from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.experiment import Experiment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Writing(base.Own):
    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        return WritingEvaluator()


class WritingEvaluator(evaluation.Evaluator):
    def run(self, params: Any, model_state: Any) -> evaluation.EvaluationResult:
        scores = pathlib.Path(tempfile.gettempdir(), 'bigmodel_jax-planted-scores.txt')
        scores.write_text('0.5\n')
        return evaluation.EvaluationResult({})


def experiment() -> Experiment:
    return vary(base.experiment(), {'evaluations': (Writing(),)})


smoke = experiment
