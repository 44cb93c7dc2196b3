"""The teacher of a distillation: the model of a run that was trained before."""

import dataclasses
from typing import ClassVar

from bigmodel_jax.objectives import distillation
from bigmodel_jax.train.weights import trained_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedTeacher(trained_run.TrainedRun, distillation.Teacher):
    """The model of a run at one of its checkpoints: the weights that its evaluations use."""

    field: ClassVar[str] = 'objective.teacher'
