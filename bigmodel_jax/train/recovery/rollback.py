"""Where a run goes back to when a step went wrong.

That is the last multiple of `checkpoints.every_steps` before the step: it follows from the experiment alone, so that
a run that was interrupted takes the same way as one that was not. Checkpoints of time, of a stop or of a second try to
save have no part in it. Where the checkpoint of that step is missing or damaged, the step is computed again from the
newest good one before it, which gives the same state bit for bit.
"""

from collections.abc import Callable, Collection
from typing import Any

from bigmodel_jax import config, experiment
from bigmodel_jax.checkpoints.checkpoints import Checkpointer
from bigmodel_jax.optim import anomaly_policy
from bigmodel_jax.run_directory import segments
from bigmodel_jax.train import metrics, state
from bigmodel_jax.train.route import Route

ADVICE = 'Set checkpoints.every_steps to the number of steps that a roll-back may cost.'

Start = tuple[state.TrainState, dict[str, Any]]  # A state and its position.


def is_chosen(experiment: experiment.Experiment) -> bool:
    """Whether the experiment's guard rolls back."""
    return isinstance(experiment.watch.anomalies, anomaly_policy.RollBack)


def target(bad: int, every: int) -> int:
    """The step to which a run goes back when step `bad` went wrong."""
    return (bad - 1) // every * every


def earliest(checkpoints: Checkpointer) -> int:
    """The first step of the current segment of a run: those before it were made by another experiment."""
    known = segments.read(checkpoints.workdir)
    return known[-1].after if known else 0


def check(experiment: experiment.Experiment) -> None:
    """Raises InputError if the only checkpoints before the end are ones of time, to which no roll-back goes."""
    saves = experiment.checkpoints
    if is_chosen(experiment) and saves.every_minutes is not None and saves.every_steps >= experiment.steps:
        raise config.InputError(
            'watch.anomalies=RollBack goes back to checkpoints of every_steps, since the steps of '
            f'checkpoints.every_minutes={saves.every_minutes} depend on the clock; but no multiple of '
            f'checkpoints.every_steps={saves.every_steps} comes before the last step, {experiment.steps}, so that '
            f'every roll-back would begin again at step 0. {ADVICE}'
        )


def warning(experiment: experiment.Experiment, start: int) -> str | None:
    """What a person should know of roll-backs when a session begins at step `start`; None if there is nothing to say.

    A run that has just begun loses little by beginning again.
    """
    every = experiment.checkpoints.every_steps
    if not is_chosen(experiment) or every <= start or (start == 0 and every < experiment.steps):
        return None
    return (
        f'warning: until step {every} (checkpoints.every_steps), a roll-back (watch.anomalies) begins again at step 0. '
        f'{ADVICE}'
    )


def find(
    checkpoints: Checkpointer, route: Route, to: int, start: Callable[[Collection[int]], Start], *, why: str
) -> Start:
    """The newest good state on the route, at step `to` or before it.

    Args:
      start: gives the newest good checkpoint of those steps, or a new state if there are none.
      why: the sentence that says what went wrong.

    Raises:
      Anomalous: there is none, and `to` is not the beginning.
    """
    among = [saved for saved in checkpoints.steps if earliest(checkpoints) <= saved <= to]
    while among or to == 0:
        found = start(among)
        step = found[1]['step']
        if route.agrees(Route.of(found[1]), step):
            return found
        among = [saved for saved in among if saved < step]
    listed = ', '.join(map(str, checkpoints.steps)) or 'none'
    raise metrics.Anomalous(
        f'{why} RollBack goes back to step {to}, but no checkpoint of that step or an earlier one is left (there are: '
        f'{listed}). Nothing was deleted. To resume from the newest checkpoint, choose another policy, such as '
        '--set "watch.anomalies=Skip()"; or start again in another directory.'
    )


def sentence(why: str, number: int, to: int, *, left_out: tuple[Route, Route]) -> str:
    """What is said of a roll-back to step `to`, for which the state of step `number` was restored.

    Args:
      left_out: the route before and after it.
    """
    again = '' if number == to else f', which is computed again from the checkpoint of step {number}'
    first, next_one = (route.batch(to + 1) for route in left_out)
    return f'{why} Back to step {to}{again}, and on without batches {first} to {next_one - 1}.'
