"""What one process of a rehearsal does: loads, compares, trains two steps, and does so again."""

import hashlib
import json
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bigmodel_jax import config, experiment_file
from bigmodel_jax.data import batches
from bigmodel_jax.data.text.chats import preferences
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.hosts import joining, leaving, processes
from bigmodel_jax.launch.doctor.rehearsal import instruments, programs, records, suspects
from bigmodel_jax.train import loop
from bigmodel_jax.user_code import own_errors

STEPS = 2
APART_S = 2.0  # Between two times of loading: what depends on the second is another then.
FRAMES = 40  # Of Python, that each operation of a program remembers.


class HostsDiffer(config.InputError):
    """The hosts are known to differ, so that to go on would show nothing more; on all processes."""


def run(folder: pathlib.Path, host: int, coordinator: str) -> int:
    """Rehearses as one host; returns its exit status. What it finds is in its record."""
    order, recorder = records.RehearsalOrder.read(folder), records.Recorder(folder, host)
    instruments.dump_stacks(folder, host)
    instruments.name_host(host)
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', order.devices)
    jax.config.update('jax_traceback_in_locations_limit', FRAMES)
    recorder.add(records.STAGE, name='finding the other hosts')
    if order.hosts > 1:
        joining.join(coordinator, order.hosts, host)
    instruments.note_writes(recorder)
    try:
        with instruments.refusing_starts(recorder):
            _rehearse(order, folder, recorder)
    except (HostsDiffer, programs.Differs):
        return leaving.leave(0)
    except BaseException as error:  # Code of a person's own can raise anything.
        recorder.add(records.FAILED, **_described(error))
        if order.hosts > 1:
            traceback.print_exc()
        leaving.leave(1)
        raise
    recorder.add(records.DONE)
    processes.exchange('done')
    return leaving.leave(0)


def _described(error: BaseException) -> dict[str, Any]:
    frames = own_errors.own_frames(error)
    cause = error
    while not frames and cause.__cause__ is not None:
        cause = cause.__cause__
        frames = own_errors.own_frames(cause)
    place = None
    if frames:
        last = frames[-1]
        place = records.CodeLine(last.filename, last.lineno or 0, last.name, last.line or '')._asdict()
    text = str(error) if isinstance(error, config.InputError) else f'{type(error).__name__}: {error}'
    return {
        'message': text,
        'place': place,
        'told': isinstance(error, processes.CollectiveError),
        'lost': isinstance(error, jax.errors.JaxRuntimeError),
    }


def _rehearse(order: records.RehearsalOrder, folder: pathlib.Path, recorder: records.Recorder) -> None:
    recorder.add(records.STAGE, name='loading the experiment')
    asked = experiment_file.load(order.asked, order.settings, order.arguments)
    loaded_s = time.monotonic()
    smoke = experiment_file.load(order.smoke)
    recorder.add(records.PROCESSES, count=jax.process_count(), devices=jax.device_count())
    whole = {'asked': config.to_json(asked), 'smoke': config.to_json(smoke)}
    recorder.add(records.CONFIGURATION, **whole, suspects=_suspects(order.asked))
    _same(whole)
    experiment = sized(smoke, devices=order.hosts * order.devices)
    recorder.add(records.STAGE, name='reading two batches')
    read = [_batches(experiment) for _ in range(2)]
    recorder.add(records.BATCHES, read=read, place=_place_of_data(experiment), suspects=_suspects(order.asked))
    _same(read)
    if read[0] != read[1]:
        raise HostsDiffer('The batches differ from one reading to the next.')
    recorder.add(records.STAGE, name='loading the experiment again')
    time.sleep(max(loaded_s + APART_S - time.monotonic(), 0.0))
    again = config.to_json(experiment_file.load(order.asked, order.settings, order.arguments))
    recorder.add(records.AGAIN, asked=again)
    if any(processes.exchange(again != whole['asked'])):
        raise HostsDiffer('The experiment changes.')
    compared = programs.ComparedPrograms(folder, recorder)
    for turn, name in enumerate(('training two steps', 'training the same two steps again')):
        recorder.add(records.STAGE, name=name)
        each = experiment if turn == 0 else without_evaluations(experiment)
        made = loop.train(each, folder / f'run-{turn}', stop_after=STEPS, programs=compared)
        recorder.add(records.STATE, digest=made.digest, suspects=_suspects(order.asked, suspects.CALLBACKS))


def _suspects(file: str, more: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    stem = pathlib.Path(experiment_file.parse(file)[0]).stem
    module = sys.modules.get(f'{config.EXPERIMENTS}.{stem}')
    words = more + suspects.CHANCE + suspects.CLOCK if more else suspects.ALL
    return [] if module is None else [each._asdict() for each in suspects.found([module], words)]


def _same(value: Any) -> None:
    """Raises HostsDiffer on all processes unless each has the same value."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    if len(set(processes.exchange(digest))) > 1:
        raise HostsDiffer('The hosts differ.')


def sized(smoke: Experiment, *, devices: int) -> Experiment:
    """An experiment for two steps on so many devices, with its evaluations after the second."""
    changes: dict[str, Any] = {
        'mesh.data': -1,
        'mesh.slices': 1,
        'checkpoints.every_steps': STEPS,
        'watch.log_every': 1,
    }
    changes |= {f'evaluations.{number}.every_steps': STEPS for number in range(len(smoke.evaluations))}
    made = config.vary(smoke, changes)
    parts = made.mesh.abstract(devices, 'cpu').shards('batch') * made.gradients.microbatches
    rows = -(-made.data.batch // parts) * parts
    return made if rows == made.data.batch else config.vary(made, {'data.batch': rows})


def without_evaluations(experiment: Experiment) -> Experiment:
    """They change no state."""
    changes = {'evaluations': (), 'checkpoints.keep_best': None, 'watch.early_stopping': None}
    return config.vary(experiment, changes)


def _batches(experiment: Experiment) -> list[dict[str, str]]:
    """The digests of the ids and of the content of the first batches, all rows, opened anew."""
    found = processes.first_then_others(lambda: experiment.data.open(experiment.seed))
    return [{'ids': _digest({'ids': found.ids(step)}), **_contents(found, step)} for step in range(STEPS)]


def _contents(found: batches.Batches, step: int) -> dict[str, str]:
    if isinstance(found, preferences.PreferenceBatches):
        rows = found.examples.rows(found.ids(step))  # Their reference is computed when the run is trained.
    else:
        rows = found.training(step)
    return {name: _digest({name: array}) for name, array in sorted(rows.items())}


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name, array in arrays.items():
        total.update(f'{name} {array.dtype} {array.shape}'.encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:16]


def _place_of_data(experiment: Experiment) -> dict[str, Any] | None:
    """The first function of a person's own that makes the batches."""
    found = experiment.data.build(experiment.seed)
    functions = [
        getattr(type(part), name, None)
        for part, names in (
            (found.examples, ('gather',)),
            (found, ('ids', 'ids_at', 'read')),
            (experiment.data, ('build',)),
        )
        for name in names
    ]
    for function in functions:
        code = getattr(function, '__code__', None)
        if code is not None and instruments.own_modules.is_own(code.co_filename):
            return instruments.place(code.co_filename, code.co_firstlineno, code.co_name)._asdict()
    return None


def main() -> None:
    """The command line: FOLDER HOST COORDINATOR."""
    folder, host, coordinator = sys.argv[1:]
    status = run(pathlib.Path(folder), int(host), coordinator)
    sys.stdout.flush()
    os._exit(status)
