"""Makes the directories of sweeps with chosen results, without training."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import tiny
from bigmodel_jax import config
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.sweeps import arms, sweep, sweep_directory, trials

STEPS = (10, 20)
COMMIT = '4f1c9d0b7d0b9c1f7f0a6e2f3f1b8a5c9d7e6f10'


def make(
    root: pathlib.Path,
    changes: Mapping[str, Mapping[str, object]],
    values: Mapping[str, Mapping[int, float]],
    **about: object,
) -> sweep_directory.SweepDirectory:
    """A sweep of variants of tiny.py of which those trials are finished that have a value: of validation/loss."""
    seeds = tuple(sorted({seed for each in values.values() for seed in each}))
    made = sweep.complete(sweep.Sweep(arms=arms.named(tiny.experiment(), changes), seeds=seeds, **about))
    every = trials.trials(made)
    directory = sweep_directory.create(root, made, every, sweep_directory.Invocation('tiny.py'))
    for entry, trial in zip(directory.description.trials, every):
        if entry.seed in values[entry.arm]:
            finish(pathlib.Path(directory.trial(entry)), trial.experiment, values[entry.arm][entry.seed])
    return directory


def finish(path: pathlib.Path, experiment: object, value: float, *, started: float = 0.0, signature: str = '') -> None:
    """The directory of a run that ended with this value."""
    path.mkdir(parents=True, exist_ok=True)
    (path / 'experiment.json').write_text(json.dumps(config.to_json(experiment)))
    session = {
        'started': '2025-01-01T00:00:00+00:00',
        'step': 0,
        'mesh': {},
        'parameters': 1_234,
        'git': {'commit': COMMIT},
    }
    (path / 'environment.json').write_text(json.dumps([session]))
    measured = [
        {
            'kind': 'evaluation',
            'name': 'validation',
            'step': step,
            'metrics': {'loss': value + (20 - step), 'perplexity': 7.5},
            **({'about': {'loss': {'direction': 'lower', 'signature': signature}}} if signature else {}),
        }
        for step in STEPS
    ]
    with event_log.EventWriter(path / event_log.FILE) as writer:
        for record in [
            {'kind': 'start', 'step': 0},
            *measured,
            {'kind': 'end', 'step': STEPS[-1], 'digest': 'c0ffee' * 10},
        ]:
            writer.append({'time': started, **record})


def experiment(directory: sweep_directory.SweepDirectory, entry: sweep_directory.TrialEntry) -> object:
    """That of a trial."""
    return trials.trial(entry.arm, entry.seed, config.from_json(directory.description.arms[entry.arm])).experiment


def renamed(directory: sweep_directory.SweepDirectory, old: str, new: str) -> sweep_directory.SweepDirectory:
    """The sweep with another name for an arm, as a crafted sweep.json could have it."""
    about = directory.description
    changed = dataclasses.replace(
        about,
        arms={new if arm == old else arm: each for arm, each in about.arms.items()},
        trials=tuple(dataclasses.replace(each, arm=new if each.arm == old else each.arm) for each in about.trials),
    )
    return sweep_directory.SweepDirectory(directory.path, changed)
