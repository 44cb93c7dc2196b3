"""Doing again what a run did, in a directory of its own and on the mesh on which the run did it."""

import contextlib
import hashlib
import math
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from bigmodel_jax import config, differences, experiment_file
from bigmodel_jax.checkpoints.checkpoints import Checkpointer
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.parallel import sharding
from bigmodel_jax.reproduce import conditions
from bigmodel_jax.run_directory import code, environment, event_log, identity, segments, workdir
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train import loop, metrics, state


def experiment_of(run: directory.Run, named: str | None) -> Experiment:
    """The experiment of a run as it is stored.

    Args:
      named: FILE[:FUNCTION[/ARM]] of an experiment file that defines parts of it. With a function, what that makes must
        be the run's.

    Raises:
      InputError: it has parts that only its experiment file defines, or the function makes another.
    """
    file, function, _ = experiment_file.parse(named) if named else ('', '', '')
    if function:
        different = workdir.stored_differences(run.path, experiment_file.load(str(named)))
        fields = [str(each) for each in different if each.path.partition('.')[0] not in differences.CIRCUMSTANCES]
        if fields:
            lines = '\n'.join(f'  {each}' for each in fields)
            raise config.InputError(
                f'--experiment {named} is not the experiment of {run.path}. There -> here:\n{lines}'
            )
    elif file:
        experiment_file.load_module(file)
    try:
        return run.experiment
    except config.InputError as error:
        raise config.InputError(f'{error}' if file else f'{error}\nHere: --experiment FILE.py') from None


def made(run: directory.Run, step: int) -> Experiment:
    """The experiment of the segment of a run that made step `step`; its classes are loaded."""
    return config.from_json(segments.at(run.segments, step).experiment)


def on_mesh(experiment: Experiment, session: Mapping[str, Any]) -> Experiment:
    """`experiment` on the mesh of a session.

    Raises:
      InputError: there are too few devices for it.
    """
    sizes = session['mesh']
    needed, there = math.prod(sizes.values()), len(jax.devices())
    if needed > there:
        shape = ' x '.join(f'{axis}={size}' for axis, size in sizes.items() if size > 1)
        raise config.InputError(
            f'The run worked on {needed} devices (mesh {shape}), and here {"is 1" if there == 1 else f"are {there}"}. '
            f'Use a machine with as many, or --simulate-devices {needed} to split the CPU.'
        )
    return with_mesh(experiment, session)


def with_mesh(experiment: Experiment, session: Mapping[str, Any]) -> Experiment:
    """As on_mesh(), whether or not there are so many devices."""
    sizes = session['mesh']
    return config.vary(experiment, {f'mesh.{axis}': sizes[axis] for axis in sharding.AXES if axis in sizes})


def here(experiment: Experiment, session: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The conditions of this process, as a session records them, on the mesh of `session`; and what its files hold.

    An experiment file that the repetition need not load is looked for where it was.
    """
    own = code.describe(experiment, program=False)
    then = session.get('code')
    if then is not None and then['path'] is not None:
        for name, content in code.still_there(then, besides=own.entry['files']).items():
            digest = hashlib.sha256(content).hexdigest()
            own.entry['files'][name] = digest
            own.contents[digest] = content
        own.entry['experiment_file'] = then['experiment_file']
    return environment.describe() | {'mesh': dict(session['mesh']), 'code': own.entry}, own.contents


def sessions_of(run: directory.Run, after: int, until: int) -> list[tuple[int, conditions.Entry]]:
    """The sessions that made the steps after `after` to `until`, each with the step after which it did.

    Raises:
      InputError: the run did not record them.
    """
    force = conditions.in_force(run.environment, until)
    if not force:
        damage = ' '.join(each for each in run.damage if durable_files.ENVIRONMENT in each)
        raise config.InputError(
            f'{damage or f"{run.path} has no {durable_files.ENVIRONMENT}."} '
            'On which devices the run worked is not known.'
        )
    last = max(i for i, (step, _) in enumerate(force) if step <= after or i == 0)
    return [(max(step, after), entry) for step, entry in force[last:]]


@contextlib.contextmanager
def folder(keep: str | None) -> Iterator[epath.Path]:
    """A directory to repeat in: a temporary one that is deleted, or the new one `keep`.

    Raises:
      InputError: `keep` is there already.
    """
    if keep is None:
        with tempfile.TemporaryDirectory(prefix='bigmodel_jax-repeat-') as name:
            yield epath.Path(name) / 'run'
        return
    path = epath.Path(keep).expanduser()
    if path.exists() and any(path.iterdir()):
        raise config.InputError(f'--keep {keep} is there already, and is not empty. Use a new directory.')
    yield path


def train(
    run: directory.Run, sessions: Sequence[tuple[int, conditions.Entry]], into: epath.Path, until: int
) -> str | None:
    """Trains in `into` to step `until`, each part on the mesh of its session and with the experiment of its segment.

    Args:
      sessions: as sessions_of() gives them.

    Returns:
      What ended it before, if anything did.
    """
    ends = [step for step, _ in sessions[1:]] + [until]
    for (start, session), end in zip(sessions, ends):
        try:
            # It ends where the run did, also where early stopping was added or changed on the way.
            same = config.vary(on_mesh(made(run, start + 1), session), {'watch.early_stopping': None})
            result = loop.train(same, into, stop_after=end, new_segment=True)
        except metrics.Anomalous as error:
            return str(error)
        if result.step < end:
            return f'stopped by {result.stopped_by}'
    return None


def begin_at(run: directory.Run, experiment: Experiment, into: epath.Path, step: int) -> None:
    """Makes `into` the directory of a run that has come to `step`: with a copy of the checkpoint, the tokenizer and the
    fitted values of `run`.

    Args:
      step: of a checkpoint, or 0.

    Raises:
      InputError: that checkpoint is damaged.
    """
    tokenizer = identity.tokenizer_of(run.path)
    if step:
        restore(run, experiment, step)  # The loop would go on from an older one without a word.
    into.mkdir(parents=True, exist_ok=True)
    # As they are there: so its checkpoints are known by them.
    segments.write(into, [each for each in run.segments if each.after < max(step, 1)])
    workdir.create(into, experiment)
    identity.store_tokenizer(tokenizer, into)
    identity.store_fitted(identity.fitted_of(run.path), into)
    if not step:
        return
    # To a regular one it may have to roll back.
    regular = [saved for saved in run.checkpoints if saved <= step and saved % experiment.checkpoints.every_steps == 0]
    for saved in {step, max(regular, default=step)}:
        source = run.path / durable_files.CHECKPOINTS / str(saved)
        copy_folder(source, into / durable_files.CHECKPOINTS / str(saved))
    # A report after it may be of an interval that began before it.
    with event_log.EventWriter(into / event_log.FILE) as log:
        for record in run.records:
            if record['kind'] == 'train' and record['step'] <= step:
                log.append(record)


def restore(run: directory.Run, experiment: Experiment, step: int) -> tuple[state.TrainState, dict[str, Any]]:
    """The state of a checkpoint, on the mesh of `experiment`, and its position.

    Raises:
      InputError: it is damaged, or of another experiment.
    """
    place = experiment.mesh.build()
    with sharding.use(place), Checkpointer(run.path, None) as checkpoints:
        spec = state.specify(experiment, place)
        return checkpoints.restore(spec.abstract, spec.shardings, step)


def copy_folder(source: epath.Path, target: epath.Path) -> None:
    """Copies all that is in a folder, local or remote, into another one, which is made."""
    target.mkdir(parents=True, exist_ok=True)
    for child in source.iterdir():
        if child.is_dir():
            copy_folder(child, target / child.name)
        else:
            child.copy(target / pathlib.PurePath(child.name), overwrite=True)
