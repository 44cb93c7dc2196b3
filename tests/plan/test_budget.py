"""Shipped experiments still need what was recorded, by formula; the compiled numbers are checked by check_budgets."""

import pathlib

import pytest

from bigmodel_jax import experiment_file
from bigmodel_jax.plan import analytic, budget
from bigmodel_jax.plan.hardware import slices

EXPERIMENTS = pathlib.Path(__file__).parents[2] / 'experiments'
ENTRIES = budget.read(EXPERIMENTS / 'budget.json')


DEAR = 'pods.py:sweep/mixtral_8x7b_v5p'


@pytest.mark.parametrize(
    'name', [pytest.param(each, marks=[pytest.mark.slow] if each == DEAR else [], id=each) for each in ENTRIES]
)
def test_nothing_drifted(name):
    entry = ENTRIES[name]
    experiment, on = experiment_file.load(str(EXPERIMENTS / name)), slices.parse(entry['topology'])
    found = budget.numbers(analytic.program(experiment, on))
    assert not budget.drifts(name, entry['analytic'], found)


def test_drift_names_the_field():
    recorded = dict.fromkeys(budget.FIELDS, 100.0)
    (drift,) = budget.drifts('x', recorded, recorded | {'flops': 103.0})
    assert str(drift) == 'x: flops was 100, is 103 (+3.0%)'
    assert not budget.drifts('x', recorded, recorded | {'flops': 101.9})
