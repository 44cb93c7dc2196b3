"""What is known of a sweep before it runs (cost, budget, equality of arms), and of its pairing afterwards."""

import pathlib
import re

import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.plan.hardware import slices
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.storage import durable_files
from bigmodel_jax.sweeps import arms, pairing, standings, sweep, trials
from bigmodel_jax.sweeps.planning import budgets, costs, equal, preview
from bigmodel_jax.train.monitoring import budget
from sweeps import made_sweeps

CHANGES = {'baseline': {}, 'deep': {'model.layers': 3}}
STARTED = 1_735_689_600.0  # What made_sweeps says of the start of a session, in seconds since 1970.
VALUES = {'baseline': {0: 1.0, 1: 1.1}, 'deep': {0: 0.9}}


def described() -> sweep.Sweep:
    return sweep.complete(sweep.Sweep(arms=arms.named(tiny.experiment(), CHANGES), seeds=(0, 1)))


def test_a_budget_is_read_as_it_is_written_and_nothing_else_is_one() -> None:
    assert budget.parse('2.5usd') == budget.Budget(2.5, 'usd')
    assert budget.parse('3chip-hours') == budget.Budget(3.0, 'chip-hours')
    for wrong in ('3', '0usd', '-1usd', 'usd', '3 euros', 'nanusd'):
        with pytest.raises(config.InputError, match='is not a budget'):
            budget.parse(wrong)


def limit(amount: float, each: float = 1.0) -> budgets.BudgetLimit:
    made = budget.Budget(amount, 'chip-hours')
    return budgets.BudgetLimit(made, {'baseline': each, 'deep': each}, 1.0, 'as the test says')


def hours(root: pathlib.Path) -> standings.Standings:
    """Of a sweep whose two trials of the baseline took an hour each; those of the other arm have not begun."""
    directory = made_sweeps.make(root / 's', CHANGES, {'baseline': {0: 1.0, 1: 1.0}, 'deep': {}})
    for entry in directory.description.trials:
        if entry.arm == 'baseline':
            path = pathlib.Path(directory.trial(entry))
            (path / event_log.FILE).unlink()
            made_sweeps.finish(path, tiny.experiment(), 1.0, started=STARTED + 3_600)
    return standings.Standings(directory)


def test_a_budget_that_is_too_small_for_one_trial_is_refused_with_what_is_needed(tmp_path: pathlib.Path) -> None:
    there = hours(tmp_path)
    with pytest.raises(config.InputError, match=r'too small for one trial.*deep-seed0.*1 chip-hours.*as the test says'):
        limit(2.9).check(there)
    limit(3.0).check(there)


def test_a_budget_counts_what_is_spent_and_what_those_that_run_will_need(tmp_path: pathlib.Path) -> None:
    there = hours(tmp_path)
    first, second = (each.entry for each in there.of('deep'))
    assert limit(1.0).spent(there) == 2.0
    assert limit(1.0, 5.0).expected(there, 'deep') == 1.0, 'what was measured corrects the estimate'
    assert limit(4.0).allows(there, second, [first]) is None
    assert limit(3.0).allows(there, first, []) is None
    why = limit(3.0).allows(there, second, [first])
    spent = 'of the budget of 3 chip-hours, 2 chip-hours are spent, and the next trial needs about 1 chip-hours'
    assert why == spent + budgets.MORE
    assert not limit(2.1).stops(there, [first])
    assert limit(2.0).stops(there, [first]) == {first: f'the budget of 2 chip-hours is spent{budgets.MORE}'}


def test_dollars_need_a_slice_with_a_price() -> None:
    with pytest.raises(config.InputError, match='name the chips with --topology'):
        budgets.limit(budget.parse('1usd'), described())


def test_flops_and_parameters_of_a_trial_are_those_of_its_layers() -> None:
    two, three, four = (costs.cost(config.vary(tiny.experiment(), {'model.layers': count})) for count in (2, 3, 4))
    assert four.parameters - three.parameters == three.parameters - two.parameters > 0
    assert four.flops_per_step - three.flops_per_step == three.flops_per_step - two.flops_per_step > 0
    assert two.units == 20 * 8 * tiny.LENGTH


@pytest.mark.slow
def test_arms_are_made_equal_in_parameters_by_a_whole_number_and_the_remainder_is_told() -> None:
    made = arms.named(tiny.experiment(), CHANGES)
    found = equal.equal_parameters(made, 'baseline', by='model.block.ffn.hidden')
    assert found.arms['baseline'] == made['baseline']
    wanted = costs.cost(made['baseline']).parameters
    chosen = found.arms['deep'].model.block.ffn.hidden
    sizes = [
        costs.cost(config.vary(made['deep'], {'model.block.ffn.hidden': hidden})).parameters
        for hidden in (chosen - 1, chosen, chosen + 1)
    ]
    assert min(sizes, key=lambda size: abs(size - wanted)) == sizes[1], 'no neighbour is nearer'
    assert found.remainders == {'baseline': 0.0, 'deep': sizes[1] / wanted - 1}


def test_steps_make_arms_equal_in_data_and_in_flops() -> None:
    made = arms.named(tiny.experiment(), {'baseline': {}, 'large': {'data.batch': 16}})
    by_data = equal.steps_for_equal_data(made, 'baseline')
    assert by_data.arms['large'].steps == 10
    assert by_data.remainders == {'baseline': 0.0, 'large': 0.0}
    by_flops = equal.steps_for_equal_flops(made, 'baseline')
    assert by_flops.arms['large'].steps == 10
    with pytest.raises(config.InputError, match='not a whole number'):
        equal.equal_flops(made, 'baseline', by='optimizer.schedule.peak')


def test_what_a_sweep_would_do_is_shown_without_a_directory_being_made(tmp_path: pathlib.Path) -> None:
    made = described()
    found = preview.preview(made, trials.trials(made), tmp_path / 'none', on=slices.parse('v5e:1x1'))
    assert not (tmp_path / 'none').exists()
    assert [str(change) for change in found.arms['deep'].changes] == ['model.layers: 2 -> 3']
    assert found.arms['deep'].against['parameters'] == pytest.approx(11_152 / 7_872 - 1)
    assert found.trials == 4
    assert not found.states
    assert found.groups == [('baseline',), ('deep',)]
    made_sweeps.make(tmp_path / 's', CHANGES, VALUES)
    later = preview.preview(made, trials.trials(made), tmp_path / 's')
    assert later.states == {standings.State.FINISHED: 3, standings.State.WAITING: 1}


def traced(root: pathlib.Path, batches: list[str], checksums: list[str]) -> None:
    names = ['embed', 'head']
    with event_log.EventWriter(root / durable_files.TRACE) as writer:
        writer.append({'kind': 'start', 'step': 0, 'fields': ['inputs']})
        content = [f'{batch:0>16}' for batch in batches]
        ids = ['0' * 16] * len(batches)
        writer.append({'kind': 'certificates', 'step': len(ids), 'skipped': 0, 'ids': ids, 'content': content})
        sums = [f'{each:0>16}' for each in checksums]
        about = {'kind': 'fingerprint', 'step': 0, 'key': '0' * 16, 'names': names, 'checksums': sums, 'norms': None}
        writer.append({**about, 'optimizer': '0' * 16})


def test_pairing_is_proved_by_the_traces_and_the_first_difference_is_named(tmp_path: pathlib.Path) -> None:
    directory = made_sweeps.make(tmp_path / 's', CHANGES, {'baseline': {0: 1.0, 1: 1.0}, 'deep': {0: 1.0, 1: 1.0}})
    batches = {('baseline', 0): 'abc', ('deep', 0): 'abc', ('baseline', 1): 'abc', ('deep', 1): 'abd'}
    for entry in directory.description.trials:
        weights = ['1', '2'] if entry.arm == 'baseline' else ['1', '3']
        traced(pathlib.Path(directory.trial(entry)), list(batches[entry.arm, entry.seed]), weights)
    found = pairing.pairing(directory)
    assert found.equal_seeds == [0]
    assert found.steps == {0: 3, 1: 3}
    assert found.divergences == (pairing.Divergence('deep', 1, 3, True),)
    assert found.equal_arrays == {'deep': 0.5}
    assert re.search(r'equal in 1 of 2 seeds \(3 steps each\)\. deep differs .* step 3 of seed 1', str(found))
    assert str(found).endswith('50% of the arrays of initial weights were equal.')
