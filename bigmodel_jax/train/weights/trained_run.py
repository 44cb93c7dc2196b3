"""The model of a run that was trained before, at one of its checkpoints: a teacher, or what gives features."""

import dataclasses
import functools
import hashlib
from typing import Any, ClassVar

import jax
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.checkpoints.checkpoints import Checkpointer
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.hosts import processes
from bigmodel_jax.optim import parameter_groups
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import lineage, run_files
from bigmodel_jax.storage import durable_files, integrity
from bigmodel_jax.train import state

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """The model of a run at one of its checkpoints: the weights that its evaluations use.

    Attributes:
      field: of the experiment that names it, for messages.
    """

    run: str  # Its work directory.
    step: config.NonNegative | None = None  # None: its newest checkpoint, whose step is recorded.

    field: ClassVar[str]

    def module(self) -> Any:
        """The Flax module of its model."""
        return self.experiment().model.build()

    def weights(self, place: sharding.ShardingContext) -> PyTree:
        """(params, model_state), laid out on `place`."""
        path, step = self._find()
        return _weights(path, step, self.experiment(), place)

    def identity(self) -> dict[str, Any]:
        """The step, and a hash of the weights."""
        path, step = self._find()
        checkpoint = path / durable_files.CHECKPOINTS / str(step)
        try:
            ours = lineage.Lineage.of(path).made
            record = integrity.check(checkpoint, step=step, ours=ours, items=('model',))
        except integrity.DamagedCheckpoint as error:
            raise config.InputError(f'{self.field}: {checkpoint} is damaged: {error}. Use another step.') from error
        arrays = record['arrays']['model']
        text = '\n'.join(f'{name} {arrays[name]["checksum"]}' for name in sorted(arrays))
        return {'step': step, 'digest': hashlib.sha256(text.encode()).hexdigest()}

    def experiment(self) -> Experiment:
        """Of the run."""
        path, _ = self._find()
        try:
            found: Experiment = config.from_json(run_files.experiment(path))
        except config.InputError as error:
            raise config.InputError(f'{self.field}: the experiment of {path} cannot be read: {error}') from None
        return found

    def _find(self) -> tuple[epath.Path, int]:
        return _directory(self.run), processes.from_first(processes.on_first(self._step))

    def _step(self) -> int:
        path = _directory(self.run)
        if not durable_files.exists(path / durable_files.EXPERIMENT):
            raise config.InputError(
                f'{self.field}.run={self.run!r}: {path} holds no run. Train it first, or say where it is.'
            )
        steps = durable_files.saved_steps(path)
        if not steps or self.step not in (None, *steps):
            listed = ', '.join(map(str, steps)) or 'none'
            raise config.InputError(f'{self.field}: {path} has no checkpoint of that step; there are {listed}.')
        return steps[-1] if self.step is None else self.step


def _directory(run: str) -> epath.Path:
    found = durable_files.directory(run)
    return found if durable_files.is_remote(found) else found.resolve()


@functools.lru_cache(maxsize=1)
def _weights(path: epath.Path, step: int, experiment: Experiment, place: sharding.ShardingContext) -> PyTree:
    """(params, model_state), laid out on `place`."""
    with sharding.use(place), Checkpointer(path, None) as checkpoints:
        spec = state.specify(dataclasses.replace(experiment, mesh=sharding.MeshShape()), place)
        found = checkpoints.restore_model(spec.abstract, spec.shardings, step)
    assert found is not None
    averaged = experiment.ema is not None and experiment.ema.evaluate
    params = parameter_groups.merged(found.params, found.ema) if averaged else found.params
    return jax.block_until_ready((params, found.model_state))
