"""The budget of a run: what earlier sessions spent counts, the end leaves time to save, and another start changes
nothing."""

import dataclasses

import numpy as np
import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.cli import arguments
from bigmodel_jax.hosts import exit_status, preemption
from bigmodel_jax.plan import run_budget
from bigmodel_jax.plan.hardware import prices
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.runs import directory
from bigmodel_jax.train import loop
from bigmodel_jax.train.monitoring import budget, watching

HOUR_S = 3_600.0


class Time:
    """A clock that a test moves."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


NOTHING = budget.Account()


def guard(limit, before=NOTHING, *, devices=4):
    now = Time()
    made = budget.BudgetGuard(limit, before, devices=devices, clock=watching.Clock(now), now=now)
    return made, now


def hours(amount, **fields):
    return budget.RunBudget(budget=budget.parse(f'{amount}chip-hours'), price=1.0, **fields)


def steps_until_the_end(made, now, *, step_s, save_s=0.0):
    """Steps of a session that saves a checkpoint every third step; and the time when it would have ended."""
    interrupt = preemption.Interrupt()
    made.watch(interrupt, lambda number, text: None)
    for number in range(1, 10_000):
        with made.clock.phase('train'):
            now.now_s += step_s
        if number % 3 == 0:
            with made.clock.phase('checkpoint'):
                now.now_s += save_s
        made.clock.step(number)
        made.after_step(number, None, None)
        if interrupt.reason is not None:
            return number, now.now_s + save_s
    raise AssertionError('it does not end')


@pytest.mark.parametrize('save_s', [0.0, 300.0])
def test_a_session_ends_within_the_budget_with_its_checkpoint(save_s):
    made, now = guard(hours(4))
    number, ended_s = steps_until_the_end(made, now, step_s=10.0, save_s=save_s)
    assert 0.9 * HOUR_S < ended_s <= HOUR_S, 'one hour on four devices'
    assert number == int((ended_s - save_s * (number // 3 + 1)) / 10.0)


def test_what_earlier_sessions_spent_counts_and_a_run_that_spent_all_trains_no_step():
    made, now = guard(hours(4), budget.Account(spent=2 * HOUR_S, step=40.0))
    assert made.spent == pytest.approx(2.0)
    assert 'at 10 s a step (measured by an earlier session)' in made.sentence(100, 1_000)
    assert 'carries about 180 of 900 steps' in made.sentence(100, 1_000)
    assert not made.is_spent()
    _, ended_s = steps_until_the_end(made, now, step_s=10.0)
    assert ended_s <= HOUR_S / 2
    made, _ = guard(hours(4), budget.Account(spent=4 * HOUR_S - 30.0, step=40.0))
    assert made.is_spent()
    made.check()  # It is not wrong input: the run did what was asked.


def test_a_budget_too_small_for_a_step_is_refused_before_anything_starts():
    made, _ = guard(hours(1, step=2 * HOUR_S, words='by the formulas'))
    with pytest.raises(config.InputError, match=r'too small for one step, which takes about 2 chip-hours \(by the for'):
        made.check()
    guard(hours(3, step=2 * HOUR_S))[0].check()
    guard(hours(1))[0].check()


def test_chips_without_a_price_and_two_budgets_are_refused():
    experiment = config.vary(tiny.experiment(), {'model.layers': 1})
    with pytest.raises(config.InputError, match=r'cpu has no price.*--prices FILE.*chip-hours'):
        run_budget.of('1usd', experiment)
    table = {'cpu': prices.Price(dollars=0.5, region='here', date='2026-01-31', source='test')}
    made = run_budget.of('1usd', experiment, table)
    assert made.of(HOUR_S) == 0.5
    assert 0 < made.step < HOUR_S
    options = arguments.argparse.Namespace(budget=['1usd', '3chip-hours'])
    with pytest.raises(config.InputError, match='1usd, 3chip-hours'):
        arguments.budget(options)


def test_the_status_of_a_spent_budget_is_neither_of_a_failure_nor_of_a_signal():
    assert preemption.status(preemption.BUDGET) == exit_status.SPENT
    assert len(set(preemption.CODES.values())) == len(preemption.CODES)
    interrupt = preemption.Interrupt()
    interrupt.request_stop(preemption.BUDGET)
    assert interrupt.agree(1, save=False).stop == preemption.BUDGET


@pytest.mark.slow
def test_a_run_that_its_budget_stopped_goes_on_as_if_it_had_not(tmp_path):
    experiment = config.vary(tiny.experiment(), {'evaluations': (), 'steps': 4, 'model.layers': 1})
    plain = loop.train(experiment, tmp_path / 'plain')
    small, large = hours('0.000001'), hours(100)
    first = loop.train(experiment, tmp_path / 'run', budget=small)
    assert (first.step, first.stopped_by) == (1, 'budget')
    before = directory.open_run(tmp_path / 'run').device_hours
    assert before > small.budget.amount
    again = loop.train(experiment, tmp_path / 'run', budget=small)
    assert (again.step, again.stopped_by, again.digest) == (1, 'budget', first.digest)
    done = loop.train(experiment, tmp_path / 'run', budget=large)
    assert (done.stopped_by, done.digest) == (None, plain.digest)
    texts = [each['text'] for each in event_log.read_all(tmp_path / 'run' / event_log.FILE) if each['kind'] == 'budget']
    assert len(texts) == 3
    assert all(np.char.find(texts, 'spent by earlier sessions') > 0)
    fresh = dataclasses.replace(hours(1), step=1e9)
    with pytest.raises(config.InputError, match='too small for one step'):
        loop.train(experiment, tmp_path / 'fresh', budget=fresh)
    assert not (tmp_path / 'fresh').exists()
