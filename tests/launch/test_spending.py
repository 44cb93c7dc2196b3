"""A budget is handed on in chip-hours at the price of the chips, and is compared with what a step needs."""

import pytest
from launch import launched

import tiny
from bigmodel_jax import config
from bigmodel_jax.launch import spending
from bigmodel_jax.launch.targets import target
from bigmodel_jax.parallel import sharding
from bigmodel_jax.plan.hardware import prices

HERE = {'v5e': prices.Price(dollars=2.0, region='here', date='2026-01-31', source='test')}
MESH = sharding.MeshShape(data=16)
ARMS = {'': config.vary(tiny.experiment(), {'model.layers': 1, 'steps': 100, 'data.batch': 16, 'mesh': MESH})}


def handed_on(text, on='cloud_tpu', **how):
    return spending.hand_on(text, target.parse(launched.TARGETS[on]), how.pop('arms', ARMS), table=HERE, **how)


def test_dollars_become_chip_hours_at_the_price_of_the_chip():
    found = handed_on('1usd')
    assert found.options == ('--budget=0.5chip-hours',)
    assert 'at $2.00: it carries about 100 of 100 steps by the formulas of plan on v5e:4x4' in found.sentence
    assert handed_on('3chip-hours').options == ('--budget=3chip-hours',)
    assert handed_on('3chip-hours', on='slurm').options == ('--budget=3chip-hours',)


def test_a_sweep_is_told_the_slice_as_well():
    one = target.parse("CloudTpu(type='v5litepod-8', zone='us-west4-a', project='p')")
    found = spending.hand_on('2usd', one, ARMS | {'other': ARMS['']}, sweep=True, table=HERE)
    assert found.options == ('--budget=1chip-hours', '--topology=v5e:2x4')


@pytest.mark.parametrize(
    ('text', 'on', 'said'),
    [
        ('1usd', 'slurm', 'no price is known of 2 nodes of a Slurm cluster.*chip-hours'),
        ('1usd', 'cloud_tpu_multislice', r'v5p has no price.*--prices'),
        ('0.000001usd', 'cloud_tpu', 'too small for one step on v5e:4x4'),
        ('1euro', 'cloud_tpu', 'is not a budget'),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_is_rented(text, on, said):
    with pytest.raises(config.InputError, match=said):
        handed_on(text, on=on)
