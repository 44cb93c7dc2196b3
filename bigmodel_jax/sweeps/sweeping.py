"""A whole sweep in one call: its directory is written, its trials run, and what is measured can be read from there."""

from collections.abc import Sequence

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.sweeps import live_table, running, stopping, sweep_directory, trials
from bigmodel_jax.sweeps import sweep as sweeps
from bigmodel_jax.sweeps.engines import engine, local
from bigmodel_jax.sweeps.planning import recorded_costs

HERE = local.Local()


def sweep(
    described: sweeps.Sweep,
    workdir: epath.PathLike,
    *,
    engine: engine.Engine = HERE,
    source: sweep_directory.Invocation | None = None,
    retry: bool = False,
    limits: Sequence[running.Limit] = (),
) -> running.SweepEnd:
    """Trains every arm with every seed, or continues that; a trial that is finished is never run again.

    Args:
      workdir: the directory of the sweep; new, empty, or that of this sweep or of another with arms in common.
      engine: where the trials run.
      source: the experiment file, which the processes of the trials load for the parts that it defines; by default the
        file that the experiments were loaded from, if any.
      retry: also run the trials that failed before.
      limits: what may keep trials from starting, or stop them, such as a budget.

    Raises:
      InputError: the sweep, the directory, the engine or a limit is wrong; nothing was written.
    """
    found = sweeps.complete(described)
    if source is None:
        source = sweep_directory.Invocation(getattr(found.arms[found.baseline], config.FILE, ''))
    directory = sweep_directory.described(workdir, found, trials.trials(found), source)
    if found.halving is not None:
        limits = [*limits, stopping.limit(found, directory)]
    running.check(directory, engine, limits)
    directory.write()
    with live_table.shown(directory) as view:
        end = running.run(directory, engine, view, retry=retry, limits=limits)
    if end.stopped_by is None:
        recorded_costs.write(directory, found)
    return end
