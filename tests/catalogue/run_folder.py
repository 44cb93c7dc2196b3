"""Makes many run directories in a moment: the files of one, with other values in some fields."""

import copy
import functools
import json
import os
import pathlib
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.run_directory import event_log
from runs import run_maker

STEPS = 20


@functools.cache
def _experiment() -> dict[str, Any]:
    return config.to_json(run_maker.example(STEPS))


def experiment(**changes: Any) -> dict[str, Any]:
    """An experiment as JSON; `changes` has __ for the dots of a path."""
    stored = copy.deepcopy(_experiment())
    for path, value in changes.items():
        *above, last = path.split('__')
        node = functools.reduce(lambda inner, name: inner[name], above, stored)
        node[last] = value
    return stored


def history(loss: float, *, until: int = STEPS, end: bool = True) -> list[dict[str, Any]]:
    """The records of a run whose validation loss falls to `loss` and rises once in between."""
    found: list[dict[str, Any]] = [{'kind': 'start', 'step': 0, 'time': run_maker.START_S}]
    for step in range(5, until + 1, 5):
        base = {'step': step, 'time': run_maker.START_S + step}
        value = loss + (STEPS - step) / 10
        found.append({**base, 'kind': 'train', 'metrics': {'loss': value, 'grad_norm': 1.0}})
        about = {'accuracy': {'direction': 'higher'}, 'loss': {'direction': 'lower', 'unit': 'nats'}}
        metrics = {'loss': value + 1, 'accuracy': 0.5 - value / 100}
        found.append({**base, 'kind': 'evaluation', 'name': 'validation', 'metrics': metrics, 'about': about})
    if end:
        found.append({'kind': 'end', 'step': until, 'time': run_maker.START_S + 100, 'digest': 'ab' * 32})
    return found


def write(
    folder: pathlib.Path, loss: float = 1.0, *, records: list[dict[str, Any]] | None = None, **changes: Any
) -> pathlib.Path:
    """A run's directory, last changed an hour ago."""
    folder.mkdir(parents=True)
    (folder / 'experiment.json').write_text(json.dumps(experiment(**changes)))
    session = run_maker.session(0, run_maker.START_S)
    (folder / 'environment.json').write_text(json.dumps([session]))
    with event_log.EventWriter(folder / event_log.FILE) as writer:
        for record in history(loss) if records is None else records:
            writer.append(record)
    return settle(folder)


def settle(folder: pathlib.Path) -> pathlib.Path:
    """Makes the files of a directory an hour old; what was changed a moment ago is read again each time."""
    for path in folder.iterdir():
        if path.is_file():
            os.utime(path, (run_maker.START_S, run_maker.START_S))
    return folder


def ffn(kind: str, hidden: int) -> dict[str, Any]:
    """A feed-forward layer as JSON."""
    return {'class': f'bigmodel_jax.layers.ffn:{kind}', 'hidden': hidden}


def twenty(root: pathlib.Path) -> pathlib.Path:
    """Twenty runs: five seeds of two widths and two learning rates, of which the wider ones are better by 0.1."""
    for number in range(20):
        seed, width, peak = number % 5, (64, 128)[number // 5 % 2], (1e-3, 3e-3)[number // 10]
        changes = {'seed': seed, 'model__width': width, 'optimizer__schedule__peak': peak}
        loss = 1.0 + 0.01 * seed - 0.1 * (width == 128)
        write(root / f'w{width}' / f'run{number:02d}', loss, **changes)
    return root
