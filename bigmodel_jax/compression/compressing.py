"""A trained run made smaller: a run of its own, and a report of what that gained and cost."""

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from bigmodel_jax import config
from bigmodel_jax import experiment as experiments
from bigmodel_jax.checkpoints.checkpoints import Checkpointer
from bigmodel_jax.compression import comparison, methods
from bigmodel_jax.data.tabular import fitting
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.optim import anomaly_policy
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import run_files, workdir
from bigmodel_jax.runs import directory, restored_model
from bigmodel_jax.storage import durable_files, sums
from bigmodel_jax.train import state

PyTree = Any
REPORT = 'compression.json'


@dataclasses.dataclass(frozen=True)
class CompressionReport:
    """What was made of a run, and what it gained and cost."""

    source: str
    path: str
    step: int
    before: comparison.MeasuredModel
    after: comparison.MeasuredModel
    quality: list[comparison.QualityChange]

    def to_json(self) -> dict[str, Any]:
        """As compression.json has it; without the losses of single examples."""

        def facts(of: comparison.MeasuredModel) -> dict[str, Any]:
            return {name: value for name, value in of._asdict().items() if name != 'losses'}

        quality = [{**each._asdict(), 'confidence': comparison.CONFIDENCE} for each in self.quality]
        return {
            'source': self.source,
            'step': self.step,
            'before': facts(self.before),
            'after': facts(self.after),
            'quality': quality,
        }


def compress(
    run: epath.PathLike,
    destination: epath.PathLike,
    method: methods.CompressionMethod,
    *,
    step: int | None = None,
    experiment: Experiment | None = None,
) -> CompressionReport:
    """Writes a smaller model of the run in a directory as a run of its own, which every verb reads.

    The weights are those that evaluations use: the moving average, where the run keeps one for that. The new run keeps
    the experiment with what was changed in it; trained further, it is another experiment that begins with its weights.

    Args:
      destination: a directory that does not exist yet.
      step: of the checkpoint; None: the newest.
      experiment: as of directory.Run.restore().

    Raises:
      InputError: there is no such run or checkpoint, the destination exists, or the method does not fit the model.
    """
    destination = pathlib.Path(destination).expanduser().absolute()
    partial = destination.parent / f'{destination.name}.partial'
    for path in (destination, partial):
        if path.exists():
            raise config.InputError(f'{path} exists already; nothing was changed. Use another DIR, or move it away.')
    trained: restored_model.Trained = directory.open_run(run).restore(step, experiment)
    with sharding.use(trained.place):
        made = method.apply(trained, state.specify(trained.experiment, trained.place))
    smaller = experiments.check(config.vary(made.experiment, {'ema': None}))
    try:
        _write(epath.Path(partial), trained, dataclasses.replace(made, experiment=smaller))
        partial.rename(destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    after = comparison.measure(directory.open_run(destination).restore(experiment=smaller))
    before = comparison.measure(trained)
    source, path = str(trained.path), str(destination)
    report = CompressionReport(source, path, trained.step, before, after, comparison.quality(before, after))
    durable_files.write_json(epath.Path(destination) / REPORT, json.loads(json.dumps(report.to_json())))
    return report


def _write(path: epath.Path, trained: restored_model.Trained, made: methods.Compressed) -> None:
    """The directory of the smaller run."""
    workdir.create(path, made.experiment)
    with sharding.use(trained.place):
        spec = state.specify(made.experiment, trained.place)
        opt_state = jax.jit(spec.optimizer.init, out_shardings=spec.shardings.opt_state)(made.params)
    sessions = run_files.environment(trained.path) if (trained.path / durable_files.ENVIRONMENT).exists() else []
    if sessions:
        session = sessions[-1] | {'parameters': sum(each.size for each in spec.storage.shapes.values())}
        workdir.add_session(path, session | {'compressed_from': {'run': str(trained.path), 'step': trained.step}})
    attachments = _attachments(trained.path)
    sums.write(path, attachments)
    levels = anomaly_policy.RunningStats.initial()
    whole = state.TrainState(jnp.int32(trained.step), made.params, opt_state, trained.model_state, levels)
    with sharding.use(trained.place), Checkpointer(path, Checkpoints()) as checkpoints:
        checkpoints.attachments = attachments
        checkpoints.save(whole, {'step': trained.step}, {})
        problem = checkpoints.finish()
    if problem is not None:
        raise config.InputError(f'{path} could not be written: {problem}')


def _attachments(path: epath.Path) -> dict[str, bytes]:
    """The files of the run's tokenizer and of the fitted values of its table, by name."""
    folders = [path / name for name in (tokenizers.FOLDER, fitting.FOLDER) if (path / name).exists()]
    return {f'{folder.name}/{each.name}': each.read_bytes() for folder in folders for each in folder.iterdir()}
