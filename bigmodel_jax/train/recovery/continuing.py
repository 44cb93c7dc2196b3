"""Continuing a run with another experiment: what may change, what needs consent, and what can never change.

Mesh, checkpoints, watch and claims change nothing that is computed. Evaluations, the name, and the number of steps if
the learning rates stay the same do not change the coming training steps: a new segment begins without consent. What
changes the coming steps needs consent. What the past steps depend on cannot change.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bigmodel_jax import config, differences
from bigmodel_jax.checkpoints import checkpoints, partial_state
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.run_directory import identity, segments
from bigmodel_jax.run_directory import workdir as directories
from bigmodel_jax.storage import durable_files, integrity
from bigmodel_jax.train import state

FREE = ('name', 'steps', 'evaluations')
NEVER = {
    'seed': 'the order of the data and the random numbers of the past steps follow from it',
    'initialization': 'it says where the first weights came from',
}
RATES = 1_000  # Steps at which two schedules are compared.


def check(workdir: epath.Path, changes: Sequence[config.Difference], *, consent: bool) -> None:
    """Refuses changes from the experiment of a run that cannot be made, or not without consent.

    Raises:
      InputError: there is one.
    """
    never = [each for each in changes if _field(each) in NEVER]
    if never:
        lines = '\n'.join(f'  {each} ({NEVER[_field(each)]})' for each in never)
        raise config.InputError(
            f'{workdir} holds another experiment; nothing was changed. There -> here:\n{lines}\n'
            'This cannot change within a run. Undo it, or use another --workdir.'
        )
    asking = [each for each in changes if _field(each) not in (*FREE, *differences.CIRCUMSTANCES)]
    if asking and not consent:
        raise config.InputError(_refusal(workdir, asking))


def check_prepared(
    workdir: epath.Path, experiment: Experiment, spec: state.StateSpec, *, consent: bool
) -> tuple[str, ...]:
    """check(), as far as it takes a model and a schedule; returns the differences but for circumstances, a line each.

    Raises:
      InputError: the weights of the run are of another shape, or the learning rates change without consent.
    """
    if not durable_files.exists(workdir / durable_files.EXPERIMENT):
        return ()
    stored = config.normalized(durable_files.read_json(workdir / durable_files.EXPERIMENT))
    changes = [
        each
        for each in differences.between(stored, config.to_json(experiment))
        if _field(each) not in differences.CIRCUMSTANCES
    ]
    step = newest(workdir)
    if any(_field(each) == 'model' for each in changes) and step is not None:
        _check_weights(workdir, step, spec)
    longer = [each for each in changes if each.path == 'steps']
    if longer and not consent and not _same_rates(stored, experiment, step or 0):
        raise config.InputError(
            _refusal(workdir, longer)
            + '\nThe schedule of the learning rate depends on the number of steps, so the coming rates change.'
        )
    return tuple(map(str, changes))


def newest(workdir: epath.Path) -> int | None:
    """The step of the newest checkpoint of a run."""
    return max(durable_files.saved_steps(workdir), default=None)


def _field(change: config.Difference) -> str:
    return change.path.partition('.')[0]


def _refusal(workdir: epath.Path, changes: Sequence[config.Difference]) -> str:
    lines = '\n'.join(f'  {each}' for each in changes)
    step = newest(workdir)
    since = '' if step is None else f' after step {step}'
    return (
        f'{workdir} holds another experiment; nothing was changed. There -> here:\n{lines}\n'
        f'To continue the run with this as a new segment{since}, give `train` the flag {identity.CONTINUE}. Otherwise '
        'undo it, or use another --workdir.'
    )


def _check_weights(workdir: epath.Path, step: int, spec: state.StateSpec) -> None:
    path = workdir / durable_files.CHECKPOINTS / str(step)
    try:
        stored = integrity.record_of(path)['arrays']['model']
    except integrity.DamagedCheckpoint:
        return  # An older one is used then, and restoring it compares the same.
    there = {name: (tuple(facts['shape']), facts['dtype']) for name, facts in stored.items()}
    wanted = checkpoints.flatten({'params': spec.abstract.params, 'model_state': spec.abstract.model_state})
    here = {name: (tuple(each.shape), str(each.dtype)) for name, each in wanted.items()}
    partial_state.check_same(here, there, f'Checkpoint {path}')


def _same_rates(stored: dict, experiment: Experiment, after: int) -> bool:
    """Whether the learning rates after step `after` are those that the run would have had."""
    before, now = stored['steps'], experiment.steps
    points = np.unique(np.linspace(after, max(min(before, now), after), RATES).astype(np.int64))
    schedules = [experiment.optimizer.schedule.build(steps) for steps in (before, now)]
    one, other = (jax.jit(jax.vmap(schedule))(jnp.asarray(points, jnp.int32)) for schedule in schedules)
    return bool((np.asarray(one) == np.asarray(other)).all())


def record(workdir: epath.Path, experiment: Experiment, start: int, changes: Sequence[str]) -> None:
    """Begins a new segment after step `start` if there are changes; or an earlier one again, if it is done again."""
    known = segments.read(workdir)
    if changes:
        new = segments.begun(known, start, config.to_json(experiment), changes)
    elif known and start < known[-1].after:
        new = segments.begun(known, start, known[-1].experiment, known[-1].changes)
    else:
        return
    # Not put off if it fails: the checkpoints to come are known by it.
    directories.at_once(workdir / durable_files.EXPERIMENT, lambda: segments.write(workdir, new))
