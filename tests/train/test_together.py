"""Runs that are trained together end as if each had been trained alone, and only what can be together is."""

import json

import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.objectives import distillation
from bigmodel_jax.optim import gradients, optimizers, schedules
from bigmodel_jax.quantization.training import QuantizationAware
from bigmodel_jax.train import loop
from bigmodel_jax.train.together import grouping, training
from bigmodel_jax.train.weights.teacher import TrainedTeacher

SCHEDULES = (schedules.Constant(peak=3e-3), schedules.WarmupCosine(peak=1e-2, warmup_steps=3, final=1e-3))


class Trial:
    def __init__(self, experiment):
        self.experiment = experiment


def experiment(**changes):
    short = {'steps': 6, 'evaluations.0.every_steps': 6, 'watch.fingerprints_every': 2, 'checkpoints.every_steps': 4}
    return config.vary(tiny.experiment(), {**short, **changes})


def of(path, name):
    """The records of a log without what depends on the clock."""
    records = map(json.loads, (path / name).read_text().splitlines())
    clock = ('time', 'crc32', 'seconds_per_step')
    return [
        {key: each[key] for key in each if key not in clock}
        for each in records
        if each['kind'] not in ('speed', 'time')
    ]


def test_what_never_enters_a_program_may_differ_and_all_else_is_named():
    base = experiment()
    same = ('seed', 5), ('name', 'other'), ('data.rows_seed', 3), ('evaluations', ()), ('optimizer.weight_decay', 0.3)
    for path, value in (*same, ('watch.log_every', 2), ('optimizer.schedule', SCHEDULES[0]), ('workers', 0)):
        assert not grouping.apart(base, config.vary(base, {path: value})), path
    different = (
        ('model.width', 32),
        ('optimizer.b2', 0.95),
        ('optimizer.clip_norm', 0.5),
        ('steps', 7),
        ('data.batch', 4),
    )
    for path, value in (*different, ('watch.anomalies.spikes', None), ('gradients', gradients.Microbatches(parts=2))):
        other = config.vary(base, {path: value})
        if other == base:
            continue
        with pytest.raises(config.InputError, match=path.partition('.')[0]):
            grouping.check([base, config.vary(base, {'seed': 1}), other])
    muon = config.vary(base, {'optimizer': optimizers.Muon(schedule=SCHEDULES[0])})
    assert not grouping.apart(muon, config.vary(muon, {'seed': 1}))
    assert grouping.apart(muon, config.vary(muon, {'optimizer.schedule': SCHEDULES[1]}))
    fixed = config.vary(base, {'gradients': gradients.FixedOrder(parts=2)})
    assert grouping.apart(fixed, config.vary(fixed, {'seed': 1}))
    rounded = config.vary(base, {'quantization': QuantizationAware()})
    assert 'rounds weights in each step' in grouping.apart(rounded, config.vary(rounded, {'seed': 1}))[0]
    taught = config.vary(base, {'objective': distillation.Distillation(teacher=TrainedTeacher(run='elsewhere'))})
    assert 'weights of a teacher' in grouping.apart(taught, config.vary(taught, {'seed': 1}))[0]


def test_groups_keep_every_trial_once_and_in_order():
    wide = {'model.width': 32}
    trials = [Trial(experiment(seed=seed, **arm)) for seed in range(3) for arm in ({}, wide)]
    narrow, other = grouping.groups(trials)
    assert (narrow, other) == (trials[::2], trials[1::2])


def test_a_group_without_directories_or_with_one_twice_is_refused(tmp_path):
    runs = [experiment(), experiment(seed=1)]
    for directories in ([tmp_path / 'a'], [tmp_path / 'a', tmp_path / 'a']):
        with pytest.raises(config.InputError, match='director'):
            training.train_together(runs, directories)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_runs_together_end_as_if_each_were_alone_and_resume_either_way(tmp_path):
    runs = [
        experiment(
            seed=2**40 * number + number,
            optimizer=optimizers.AdamW(schedule=SCHEDULES[number % 2], weight_decay=number / 10, clip_norm=1.0),
        )
        for number in range(3)
    ]
    together, alone = ([tmp_path / f'{kind}{number}' for number in range(3)] for kind in ('together', 'alone'))
    loop.train(runs[1], together[1], stop_after=4)  # Was begun alone, and is continued together.
    ended = training.train_together(runs, together)
    for run, other, result in zip(runs, alone, ended):
        expected = loop.train(run, other)
        assert (result.digest, result.metrics) == (expected.digest, expected.metrics)
    for name in ('metrics.jsonl', 'trace.jsonl'):
        assert of(together[2], name) == of(alone[2], name)
    (session,) = json.loads((together[2] / 'environment.json').read_text())
    assert session['together']['runs'] == 3
    assert 'together' not in json.loads((alone[2] / 'environment.json').read_text())[0]
    again = training.train_together(runs, together)
    assert [each.digest for each in again] == [each.digest for each in ended]


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(tmp_path):
    poisoned = config.vary(experiment(), {'data.poisoned': True})
    failed, other = training.train_together([poisoned, experiment()], [tmp_path / 'poisoned', tmp_path / 'other'])
    assert isinstance(failed, training.FailedRun)
    assert other.digest == loop.train(experiment(), tmp_path / 'alone').digest
