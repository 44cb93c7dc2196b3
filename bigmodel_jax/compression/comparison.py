"""A model before and after it was made smaller: size, speed, and quality on the same examples."""

import math
import statistics
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from bigmodel_jax.evaluate import loss
from bigmodel_jax.parallel import sharding
from bigmodel_jax.quantization import quantization
from bigmodel_jax.runs import restored_model
from bigmodel_jax.storage import durable_files, integrity
from bigmodel_jax.sweeps.statistics import estimates
from bigmodel_jax.train import preparation

CONFIDENCE = 0.95
ITEM = 'model'  # Of a checkpoint.
PASSES = 3  # Whose median is the time of one.


class MeasuredModel(NamedTuple):
    """One model.

    Attributes:
      weights_bytes: of its arrays in memory.
      stored_bytes: of the model's part of the checkpoint on disk.
      zeros: the share of its weights that are zero.
      examples_per_s: of the forward pass with the loss, on this machine; nan without an evaluation of the loss.
      losses: evaluation -> the loss of each example.
      metrics: 'evaluation/metric' -> its value.
    """

    weights_bytes: int
    stored_bytes: int
    zeros: float
    examples_per_s: float
    losses: dict[str, np.ndarray]
    metrics: dict[str, float]


class QualityChange(NamedTuple):
    """What an evaluation's loss became: the mean over its examples, and its change with a paired interval."""

    evaluation: str
    examples: int
    before: float
    after: float
    low: float  # Of the change, at CONFIDENCE.
    high: float

    @property
    def change(self) -> float:
        """The mean of the differences of each example."""
        return self.after - self.before


def measure(trained: restored_model.Trained) -> MeasuredModel:
    """Size, speed and quality of a model, on the data of the run's evaluations of the loss."""
    experiment, place = trained.experiment, trained.place
    evaluators = preparation.evaluators_of(experiment, place, trained.path)
    losses: dict[str, np.ndarray] = {}
    metrics: dict[str, float] = {}
    speeds = []
    with sharding.use(place):
        for each, evaluator in zip(experiment.evaluations, evaluators):
            if not isinstance(evaluator, loss.LossEvaluator):
                continue
            values = evaluator.run(trained.params, trained.model_state).values
            metrics |= {f'{each.name}/{name}': value for name, value in values.items()}
            found = evaluator.per_example(trained.params, trained.model_state)
            if found is not None:
                losses[each.name] = found
                speeds.append(len(found) / _seconds(evaluator, trained))
    zeros = jax.tree.map(lambda x: (x == 0).sum(), quantization.dense(trained.params))
    count = sum(leaf.size for leaf in jax.tree.leaves(zeros_shape(trained.params)))
    return MeasuredModel(
        weights_bytes=quantization.size_bytes(trained.params),
        stored_bytes=stored_bytes(trained.path, trained.step),
        zeros=sum(int(each) for each in jax.tree.leaves(jax.device_get(zeros))) / count,
        examples_per_s=statistics.median(speeds) if speeds else math.nan,
        losses=losses,
        metrics=metrics,
    )


def zeros_shape(params: Any) -> Any:
    """The shapes of the weights, those in few bits as what they stand for."""
    return jax.eval_shape(quantization.dense, params)


def _seconds(evaluator: loss.LossEvaluator, trained: restored_model.Trained) -> float:
    """Of one pass over the data, compiled before."""
    found = []
    for _ in range(PASSES):
        began = time.perf_counter()
        evaluator.run(trained.params, trained.model_state)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def stored_bytes(path: epath.Path, step: int) -> int:
    """Bytes of the files that hold the model of a checkpoint."""
    folder = path / durable_files.CHECKPOINTS / str(step) / ITEM
    return sum(each.stat().length for _, each in integrity.files_of(folder))


def quality(before: MeasuredModel, after: MeasuredModel) -> list[QualityChange]:
    """The change of the loss of each evaluation, example by example: Student's interval of the mean difference."""
    found = []
    for name, old in before.losses.items():
        new = after.losses[name]
        estimate = estimates.paired(new, old)
        low, high = estimate.interval(CONFIDENCE)
        found.append(QualityChange(name, len(old), float(old.mean()), float(new.mean()), float(low), float(high)))
    return found
