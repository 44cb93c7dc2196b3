"""Only the first host comes to a barrier, where it waits for the others for ever."""

import dataclasses
from typing import Any

import base
import jax
from jax.experimental import multihost_utils

from bigmodel_jax.config import vary
from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.experiment import Experiment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Waiting(base.Own):
    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        return WaitingEvaluator()


class WaitingEvaluator(evaluation.Evaluator):
    def run(self, params: Any, model_state: Any) -> evaluation.EvaluationResult:
        if jax.process_index() == 0:
            multihost_utils.sync_global_devices('the first host is here')
        return evaluation.EvaluationResult({})


def experiment() -> Experiment:
    return vary(base.experiment(), {'evaluations': (Waiting(),)})


smoke = experiment
