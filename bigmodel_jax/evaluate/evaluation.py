"""What an evaluation is to the training loop: a config with a name and an interval that builds something to run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bigmodel_jax import sharding
from bigmodel_jax.data import batches
from bigmodel_jax.models import model
from bigmodel_jax.objectives import objective

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Setting:
    """What an evaluation may need of the run it belongs to."""

    model: model.Model
    module: Any  # The Flax module of `model`.
    objective: objective.Objective
    training: batches.Batches
    place: sharding.Place
    seed: int


class Evaluator:
    """An evaluation that is ready to run."""

    def run(self, params: PyTree, model_state: PyTree) -> Mapping[str, Any]:
        """Metrics by name: floats, or lists of JSON-ready records.

        Records of texts are called 'samples' and have 'prompt' and 'text', and 'reference' where there is one. Who
        scores by a library says how in 'signatures': records of 'metric' and 'signature'.
        """
        raise NotImplementedError


class Evaluation:
    """Interface of the evaluation configs."""

    name: str
    every_steps: int

    def build(self, setting: Setting) -> Evaluator:
        """The evaluation, with its data opened and checked, before the first compile.

        Raises:
          InputError: its data is missing or does not fit the model.
        """
        raise NotImplementedError
