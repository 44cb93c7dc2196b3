"""The definition of a sweep: arms, baseline, metric, seeds, and the names of its trials."""

import pathlib
import textwrap

import pytest

import tiny
from bigmodel_jax import config, experiment_file
from bigmodel_jax.experiment import Experiment, Watch
from bigmodel_jax.sweeps import arms, summaries, sweep, sweep_directory, trials, worker

BASE = tiny.experiment()


def two(**fields: object) -> sweep.Sweep:
    made = arms.named(BASE, {'baseline': {}, 'deep': {'model.layers': 3}})
    return sweep.complete(sweep.Sweep(arms=made, **fields))


def test_a_grid_has_an_arm_for_each_combination_named_by_the_shortest_ends_of_its_paths() -> None:
    made = arms.grid(BASE, {'model.layers': [1, 2], 'optimizer.schedule.peak': [1e-3, 1e-2]})
    assert list(made) == ['layers=1,peak=0.001', 'layers=1,peak=0.01', 'layers=2,peak=0.001', 'layers=2,peak=0.01']
    assert made['layers=2,peak=0.01'].model.layers == 2
    assert made['layers=2,peak=0.01'].optimizer.schedule.peak == 1e-2


def test_one_at_a_time_changes_one_field_of_the_baseline_and_does_not_repeat_the_baseline() -> None:
    peak = BASE.optimizer.schedule.peak
    made = arms.one_at_a_time(BASE, {'optimizer.schedule.peak': [peak, 2 * peak], 'model.layers': [5]})
    assert list(made) == ['baseline', f'peak={2 * peak}', 'layers=5']
    found = [str(each) for each in config.difference(made['baseline'], made['layers=5'])]
    assert found == ["name: 'baseline' -> 'layers=5'", f'model.layers: {BASE.model.layers} -> 5']


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: sweep.complete(sweep.Sweep(arms={})), 'no arms'),
        (lambda: sweep.complete(sweep.Sweep(arms={'a': BASE, 'b': BASE})), 'which arm is the baseline.* a, b'),
        (lambda: two(baseline='dep'), "no arm 'dep'.*deep"),
        (lambda: two(metric='validatoin/loss'), "arm baseline: metric='validatoin/loss'.*validation"),
        (lambda: two(metric='validation/unheard'), "the evaluation 'validation' has no metric 'unheard'.*loss"),
        (lambda: two(seeds=(1, 2, 1)), 'seeds: 1 is there 2 times'),
        (lambda: two(seeds=()), 'no seeds'),
        (lambda: two(factors=('model.layer',)), 'model.layer: there is no such field.*layers'),
        (lambda: two(columns={'BLEU': {'dep': 1.0}}), "names an arm 'dep'.*deep"),
        (lambda: sweep.complete(sweep.Sweep(arms={'../up': BASE})), "'../up' cannot be the name of an arm"),
        (lambda: arms.grid(BASE, {'model.layer': [1]}), 'no field .layer.*layers'),
        (lambda: arms.grid(BASE, {'model.layers': [1, 1]}), "both be named '1'"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said_before_anything_starts(make, message: str) -> None:
    with pytest.raises(config.InputError, match=message):
        make()


def test_arms_with_different_metrics_are_refused() -> None:
    renamed = config.vary(BASE, {'evaluations.0.name': 'test'})
    with pytest.raises(config.InputError, match=r'share the evaluations \(none\)'):
        sweep.complete(sweep.Sweep(arms={'baseline': BASE, 'other': renamed}))
    with pytest.raises(config.InputError, match='arm other: metric='):
        sweep.complete(sweep.Sweep(arms={'baseline': BASE, 'other': renamed}, metric='validation/loss'))


def test_two_arms_that_are_the_same_experiment_are_refused() -> None:
    same = arms.named(BASE, {'baseline': {}, 'often': {'checkpoints.every_steps': 7}})
    with pytest.raises(config.InputError, match='baseline and often are the same experiment'):
        trials.trials(sweep.complete(sweep.Sweep(arms=same)))


def test_the_address_of_a_trial_follows_from_what_it_computes_alone() -> None:
    here = trials.address(BASE)
    same = {'name': 'x', 'mesh.data': 4, 'checkpoints.every_steps': 9, 'watch.log_every': 3, 'watch': Watch()}
    for path, value in same.items():
        assert trials.address(config.vary(BASE, {path: value})) == here, path
    for path, value in {'seed': 5, 'steps': 7, 'model.layers': 3, 'evaluations': ()}.items():
        assert trials.address(config.vary(BASE, {path: value})) != here, path


OWN = """
    '''An experiment with a part of its own.'''
    import dataclasses, tiny
    from bigmodel_jax import config
    from bigmodel_jax.sweeps import sweep as sweeps
    {constant}

    def scale(count):
        return count * FACTOR

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Scaled(tiny.Counting):
        '''Counts.'''
        def build(self, seed):
            return super().build(scale(seed))

    def experiment():
        return config.vary(tiny.experiment(), {{'data': Scaled(batch=8)}})

    def sweep():
        found = {{'baseline': experiment(), 'deep': config.vary(experiment(), {{'model.layers': 3}})}}
        {more}
        return found
"""


def own(folder: pathlib.Path, *, constant: str = 'FACTOR = 1', more: str = '') -> list[trials.Trial]:
    file = folder / 'own.py'
    file.write_text(textwrap.dedent(OWN).format(constant=constant, more=more))
    return trials.trials(sweep.load(str(file)))


def test_the_code_of_own_parts_belongs_to_a_trial_and_the_rest_of_the_file_does_not(tmp_path: pathlib.Path) -> None:
    before = [each.name for each in own(tmp_path)]
    more = "found['wide'] = config.vary(experiment(), {'model.width': 48})"
    assert [each.name for each in own(tmp_path, constant='FACTOR = 1  # As it was.')] == before
    assert set(before) < {each.name for each in own(tmp_path, more=more)}
    assert not set(before) & {each.name for each in own(tmp_path, constant='FACTOR = 2')}


def test_a_sweep_is_read_back_as_it_was_written_and_its_trials_are_those_that_were_checked(
    tmp_path: pathlib.Path,
) -> None:
    found = own(tmp_path)
    made = sweep.load(f'{tmp_path}/own.py')
    source = sweep_directory.Invocation(f'{tmp_path}/own.py')
    written = sweep_directory.create(tmp_path / 'sweep', made, found, source)
    again = sweep_directory.open_sweep(tmp_path / 'sweep')
    assert again.description == written.description
    loaded = worker.Worker(again).experiment(again.description.trials[0])
    assert config.to_json(loaded) == config.to_json(found[0].experiment)
    assert again.values() == {'baseline': {}, 'deep': {}}
    own(tmp_path, constant='FACTOR = 2')
    with pytest.raises(config.InputError, match='has changed since the sweep was started'):
        worker.Worker(again).experiment(again.description.trials[0])


def test_a_trial_keeps_its_directory_where_its_arm_has_another_name(tmp_path: pathlib.Path) -> None:
    made = two(seeds=(0,))
    source = sweep_directory.Invocation('tiny.py')
    first = sweep_directory.create(tmp_path / 's', made, trials.trials(made), source)
    first.trial(first.description.trials[1]).mkdir()
    renamed = sweep.complete(sweep.Sweep(arms={'base': made['baseline'], 'three': made['deep']}, seeds=(0,)))
    second = sweep_directory.create(tmp_path / 's', renamed, trials.trials(renamed), source)
    assert second.description.trials[1].arm == 'three'
    assert second.description.trials[1].name == first.description.trials[1].name


def test_a_crafted_sweep_cannot_lead_out_of_its_directory(tmp_path: pathlib.Path) -> None:
    made = two(seeds=(0,))
    written = sweep_directory.create(tmp_path / 's', made, trials.trials(made), sweep_directory.Invocation('tiny.py'))
    file = written.path / sweep_directory.FILE
    file.write_text(file.read_text().replace(written.description.trials[0].name, '../../elsewhere'))
    with pytest.raises(config.InputError, match='damaged'):
        sweep_directory.open_sweep(written.path)


def test_a_directory_of_something_else_is_not_made_a_sweep(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'thesis.tex').write_text('')
    made = two(seeds=(0,))
    with pytest.raises(config.InputError, match=r'It holds thesis\.tex'):
        sweep_directory.create(tmp_path, made, trials.trials(made), sweep_directory.Invocation('tiny.py'))


def test_the_arms_of_a_sweep_are_experiments_of_the_file_like_those_of_a_dict(tmp_path: pathlib.Path) -> None:
    own(tmp_path)
    loaded: Experiment = experiment_file.load(f'{tmp_path}/own.py:sweep/deep')
    assert loaded.model.layers == 3
    assert list(sweep.load(f'{tmp_path}/own.py:sweep/deep', ['steps=7'])) == ['baseline', 'deep']


CURVE = {1: 3.0, 2: 1.0, 3: 2.0}


@pytest.mark.parametrize(
    ('summary', 'direction', 'value'),
    [
        (summaries.Final(), 'lower', 2.0),
        (summaries.Best(), 'lower', 1.0),
        (summaries.Best(), 'higher', 3.0),
        (summaries.TailMean(count=2), 'lower', 1.5),
    ],
)
def test_a_curve_is_reduced_to_the_number_that_its_summary_names(summary, direction, value: float) -> None:
    assert summary.of(CURVE, direction) == value
