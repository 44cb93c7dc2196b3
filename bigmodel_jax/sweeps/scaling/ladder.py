"""A ladder of runs: the directories of finished runs of several sizes and lengths, read as observations."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.runs import directory
from bigmodel_jax.sweeps.scaling.observations import Observations

LOSS = 'validation/loss'


def read(workdirs: Sequence[epath.PathLike], *, metric: str = LOSS) -> Observations:
    """The losses of runs along their training; final() of the result has the last one of each.

    Args:
      workdirs: of finished runs of one task. All parameters of a model are counted, those of the embedding too, as
        Hoffmann et al. count them; tokens (or whatever the data counts) are those seen until the loss was measured.
      metric: the loss, in each run under this name.

    Raises:
      InputError: a run is not finished, has no such metric, or a loss that is not finite, or is named twice.
    """
    runs = [directory.open_run(workdir) for workdir in workdirs]
    paths = [str(run.path) for run in runs]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise config.InputError(f'{twice[0]} is named twice; name each run of the ladder once.')
    if not runs:
        raise config.InputError('A ladder needs runs, but none is named.')
    parts = [_of(number, run, metric) for number, run in enumerate(runs)]
    parameters, tokens, losses, numbers = (np.concatenate(each) for each in zip(*parts))
    return Observations(parameters=parameters, tokens=tokens, losses=losses, runs=numbers)


def _of(number: int, run: directory.Run, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The entries of one run: parameters, tokens, losses and its number, [n] each."""
    if not run.finished:
        raise config.InputError(
            f'{run.path} is not finished ({run.state}), so that its loss is not the one its schedule ends with. '
            'Finish it, or leave it out.'
        )
    if run.parameters is None:
        raise config.InputError(f'{run.path}: its environment.json does not say how many parameters the model has.')
    steps, losses = run.metrics(metric)
    steps, losses = steps[steps > 0], losses[steps > 0]
    if not np.isfinite(losses).all():
        step = steps[~np.isfinite(losses)][0]
        raise config.InputError(f'{run.path}: {metric} is {losses[steps == step][0]} at step {step:,}; leave it out.')
    data = run.experiment.data
    tokens = steps * float(data.batch * data.units.per_example)
    return np.full(len(steps), float(run.parameters)), tokens, losses, np.full(len(steps), number)
