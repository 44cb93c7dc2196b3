"""Dollars are chip-hours times a dated price; what has no price is said to have none."""

import json

import pytest

from bigmodel_jax import config
from bigmodel_jax.plan.hardware import prices, slices


def test_cost_is_chip_hours_times_price():
    table = prices.table()
    cost = prices.cost(slices.parse('v5p:4x4x4'), steps=3600, seconds_per_step=2.0, prices=table)
    assert cost.chip_hours == 128
    assert cost.dollars == pytest.approx(128 * table['v5p'].dollars)


def test_a_chip_without_a_price_costs_no_number():
    cost = prices.cost(slices.parse('v5p:4x4x4'), steps=1, seconds_per_step=1.0, prices={})
    assert cost.dollars is None
    assert cost.chip_hours > 0


@pytest.mark.parametrize(
    'text',
    [
        'not json',
        '[]',
        '{"prices": {"v5p": 4.2}}',
        '{"prices": {"v5p": {"dollars": -1, "region": "r", "date": "2026-01", "source": "s"}}}',
        '{"prices": {"v5p": {"dollars": 1, "region": "r", "date": "soon", "source": "s"}}}',
    ],
)
def test_a_wrong_table_is_refused(tmp_path, text):
    path = tmp_path / 'prices.json'
    path.write_text(text)
    with pytest.raises(config.InputError, match=r'prices\.json'):
        prices.table(path)


def test_a_table_of_ones_own_replaces_ours(tmp_path):
    path = tmp_path / 'mine.json'
    mine = {'dollars': 1.0, 'region': 'home', 'date': '2026-01-31', 'source': 'contract'}
    path.write_text(json.dumps({'prices': {'v5p': mine}}))
    assert prices.table(path)['v5p'].dollars == 1.0
