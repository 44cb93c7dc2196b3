"""Launching a run, watching it to its end, and asking about it or ending it later."""

import contextlib
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Sequence

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.launch import code, programs, states
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.states import Launch, LaunchBudget, Record
from bigmodel_jax.launch.targets import target
from bigmodel_jax.storage import durable_files

REMIND_S = 600  # What is being removed for so long is said again.
POLL_S = 30.0
LAUNCHES = 'launches'
Say = Callable[[str], None]


def prepare(
    experiment: str,
    workdir: str,
    *,
    settings: Sequence[str] = (),
    arguments: Sequence[str] = (),
    verb: str = 'train',
    options: Sequence[str] = (),
    secrets: Sequence[str] = (),
) -> tuple[Job, code.PackedCode]:
    """The job of an experiment, and the code packed for it. The experiment itself is not checked here.

    Raises:
      InputError: the code cannot be packed, or a name is wrong.
    """
    from bigmodel_jax import experiment_file  # Imports JAX, which takes seconds.

    path, function, arm = experiment_file.parse(experiment)
    file = pathlib.Path(path).expanduser().resolve()
    if not file.is_file():
        raise config.InputError(f'There is no experiment file {path}.')
    packed = code.pack(file)
    part = f':{function}{f"/{arm}" if arm else ""}' if function else ''
    return Job(
        experiment=f'{code.within(file, packed.root)}{part}',
        workdir=workdir if durable_files.is_remote(workdir) else str(pathlib.Path(workdir).expanduser().absolute()),
        digest=packed.digest,
        settings=tuple(settings),
        arguments=tuple(arguments),
        verb=verb,
        framework=packed.framework,
        options=tuple(options),
        secrets=tuple(secrets),
    ), packed


def folder_of(workdir: str) -> epath.Path:
    """The directory of a launch: beside a local work directory, and launches/NAME here for one in an object store."""
    if durable_files.is_remote(workdir):
        name = Job(experiment='', workdir=workdir, digest='').name
        return epath.Path(pathlib.Path(LAUNCHES, name).absolute())
    return epath.Path(f'{pathlib.Path(workdir).expanduser().absolute()}.launch')


def launch(
    job: Job,
    packed: code.PackedCode,
    on: target.Target,
    *,
    budget: LaunchBudget,
    say: Say,
    run: programs.Run = programs.run,
) -> Record:
    """Launches a run and watches it to its end; one that is launched already goes on being watched.

    Raises:
      InputError: tools or credentials are missing, or another run is launched with this work directory.
    """
    folder = folder_of(job.workdir)
    on.check(job)
    found = states.read(folder)
    if found is None or found[1].state.is_end:
        found = _begin(Launch(job, on, budget, folder), None if found is None else found[1], packed, run=run, say=say)
    about = found[0]
    if (about.on, about.job.command) != (on, job.command):
        raise config.InputError(
            f'{folder}: another command or target is launched with this work directory: '
            f'{config.format_value(about.on)}, `{about.job.command}`. End it first: launch --stop --workdir '
            f'{job.workdir}.'
        )
    if about.job.digest != job.digest:
        say(f'The code has changed since; the run goes on with that of the launch ({about.job.digest[:12]}).')
    return watch(folder, say=say, run=run)


def _begin(
    about: Launch, before: Record | None, packed: code.PackedCode, *, run: programs.Run, say: Say
) -> tuple[Launch, Record]:
    """Writes the directory of a new launch; nothing is asked for yet."""
    for warning in about.on.ready(about.job, run):
        say(f'warning: {warning}')
    about.folder.mkdir(parents=True, exist_ok=True)
    durable_files.write(about.folder / target.ARCHIVE, packed.archive)
    # Later attempts have names of their own, so that nothing is taken for what an earlier launch left.
    first = 1 if before is None else before.attempt + 1
    return about, about.save(Record(attempt=first, first=first))


def watch(folder: epath.Path, *, say: Say, run: programs.Run = programs.run) -> Record:
    """Turns the state machine of a launch until its end; several processes may watch one launch.

    Raises:
      InputError: nothing is launched in this directory.
    """
    told: tuple[object, ...] = ()
    said_s = time.monotonic()
    while True:
        with durable_files.one_at_a_time(folder):
            about, record = open_launch(folder)
            record = states.turn(about, record, run, time.time())
        now = (record.state, record.attempt, record.ending, record.reason)
        waited_s = time.monotonic() - said_s
        if now != told or (record.ending is not None and waited_s > REMIND_S):
            say(describe(record) if now != told else still_there(about, record))
            told, said_s = now, time.monotonic()
        if record.state.is_end:
            return record
        time.sleep(POLL_S)


def open_launch(folder: epath.Path) -> tuple[Launch, Record]:
    """The launch of a directory.

    Raises:
      InputError: there is none, or its record is damaged.
    """
    found = states.read(folder)
    if found is None:
        raise config.InputError(f'Nothing is launched from here with this work directory: there is no {folder}.')
    return found


def stop(folder: epath.Path, *, say: Say, run: programs.Run = programs.run) -> Record:
    """Ends a launch, and returns when nothing of it is left.

    Raises:
      InputError: nothing is launched in this directory.
    """
    with durable_files.one_at_a_time(folder) if folder.exists() else contextlib.nullcontext():
        about, record = open_launch(folder)
        states.stop(about, record, time.time())
    return watch(folder, say=say, run=run)


def logs(folder: epath.Path, run: programs.Run = programs.run) -> str:
    """What the hosts of the newest attempt printed.

    Raises:
      InputError: nothing is launched, or there are no logs yet.
    """
    about, record = open_launch(folder)
    answer = run(about.on.logs(about.place(record)))
    if answer.status != 0:
        raise config.InputError(f'There are no logs of attempt {record.attempt} yet: {answer.problem}.')
    return answer.out


def describe(record: Record) -> str:
    """One sentence on a launch."""
    reason = f': {record.reason}' if record.reason else ''
    spent = f', {record.used_s / 3600:.2f} hours with machines' if record.used_s else ''
    if record.state.is_end:
        return f'{record.state.value}{reason}. Attempt {record.attempt}{spent}; nothing is left running.'
    if record.ending is not None:
        return f'{record.state.value}, ending{reason}. Attempt {record.attempt}{spent}; what it made is being removed.'
    return f'{record.state.value}{reason}. Attempt {record.attempt}{spent}.'


def still_there(about: Launch, record: Record) -> str:
    """What a person can do about machines that are not seen to be gone for long."""
    by_hand = '; '.join(shlex.join(command) for command in about.on.delete(about.place(record)))
    return (
        f'Attempt {record.attempt} is not seen to be gone after {REMIND_S // 60} minutes, and may still cost money. '
        f'It is tried again; to remove it by hand: {by_hand}'
    )


def run_here(job: Job, on: target.Target, root: pathlib.Path) -> None:
    """Becomes the command of a target that needs no other machine; does not return."""
    on.check(job)
    command = on.create(target.AttemptPlace(job, 1, ''))[-1]
    sys.stdout.flush()
    os.chdir(root)
    os.execv(sys.executable, [sys.executable, *command[1:]])


def history(record: Record) -> list[str]:
    """A line for each change of the state, with its time in UTC."""
    return [
        f'{time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))}  attempt {attempt}  {state}{f": {why}" if why else ""}'
        for at, attempt, state, why in record.history
    ]
