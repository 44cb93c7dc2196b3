"""Slices have the names, shapes and links that Google Cloud documents."""

import math

import pytest

from bigmodel_jax import config
from bigmodel_jax.hosts import chips
from bigmodel_jax.plan.hardware import slices


@pytest.mark.parametrize(
    ('text', 'name', 'devices', 'wrap'),
    [
        ('v5p:4x4x4', 'v5p:4x4x4', 64, (True, True, True)),
        ('v5p:2x2x4', 'v5p:2x2x4', 16, (False, False, False)),
        ('v5p:16x16x24', 'v5p:16x16x24', 6_144, (True, True, True)),
        ('v5e:16x16', 'v5e:16x16', 256, (True, True)),
        ('v5e:8x16', 'v5e:8x16', 128, (False, True)),
        ('v6e:8x8', 'v6e:8x8', 64, (False, False)),
        ('2*v5e:16x16', '2*v5e:16x16', 512, (True, True)),
        ('tpu7x:4x4x4', 'tpu7x:4x4x4', 128, (True, True, True)),  # Two devices a chip.
        ('4*H100:8', '4*h100:8', 32, (False,)),
        # The names of accelerator types: https://cloud.google.com/tpu/docs/v5p#accelerator-type.
        ('v5p-128', 'v5p:4x4x4', 64, (True, True, True)),
        ('v5p-1536', 'v5p:8x8x12', 768, (True, True, True)),
        ('v4-8', 'v4:2x2x1', 4, (False, False, False)),
        ('v5litepod-256', 'v5e:16x16', 256, (True, True)),
    ],
)
def test_a_name_is_understood(text, name, devices, wrap):
    found = slices.parse(text)
    assert (str(found), found.size, found.wrap) == (name, devices, wrap)
    assert slices.parse(str(found)) == found


@pytest.mark.parametrize(
    ('text', 'hints'),
    [
        ('v5p:3x3x3', ('v5p:2x4x4', 'v5p:2x2x4')),
        ('v5p:8x4x4', ('v5p:4x4x8',)),
        ('v5e:16x20', ('v5e:16x16',)),
        ('v5e:4x4x4', ('v5e:8x8',)),
        ('v5p-130', ('v5p:4x4x4',)),
        ('v5q:4x4', ("'v5p'", 'v6e')),
        ('0*v5e:4x4', ('at least one',)),
        ('a pod', ('v5p:4x4x4', '2*v5e:16x16')),
    ],
)
def test_what_cannot_be_rented_is_refused_with_the_nearest(text, hints):
    with pytest.raises(config.InputError) as error:
        slices.parse(text)
    assert all(hint in str(error.value) for hint in hints), str(error.value)


@pytest.mark.parametrize('chip', chips.CHIPS.values(), ids=lambda chip: chip.name)
def test_every_shape_has_a_name_that_leads_back_to_it(chip):
    for shape in slices.shapes(chip):
        assert slices.parse(str(slices.Slice(chip, shape))).shape == shape
        assert math.prod(shape) <= chip.largest
        assert list(shape) == sorted(shape) or math.prod(shape) == 4


def test_gpus_are_not_compiled_for():
    with pytest.raises(config.InputError, match='--fast'):
        slices.parse('h100:8').devices()


def test_the_devices_of_two_slices_know_their_slice():
    pytest.importorskip('libtpu')
    devices = slices.parse('2*v5p:2x2x1').devices()
    assert [device.slice_index for device in devices] == [0] * 4 + [1] * 4
