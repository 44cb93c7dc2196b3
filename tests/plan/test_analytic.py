"""The analytic answer agrees with counting by hand, and impossible requests fail before anything is traced."""

import pathlib

import planned
import pytest

from bigmodel_jax import config, experiment_file
from bigmodel_jax.plan import analytic
from bigmodel_jax.plan import plan as planning
from bigmodel_jax.plan.hardware import slices

EXPERIMENTS = pathlib.Path(__file__).parents[2] / 'experiments'
WEIGHTS = 4 * (4 * 512 * 512 + 3 * 512 * 1_536) + 512 * 1_024  # Of matrix products.
PARAMETERS = WEIGHTS + 512 * 1_024 + (2 * 4 + 1) * 512


def program(name='v5p:4x4x4', **changes):
    return analytic.program(planned.experiment(**changes), slices.parse(name))


def test_state_is_twelve_bytes_per_parameter_and_shared_by_fsdp():
    memory = program(mesh__fsdp=64).memory
    assert memory.parameters == pytest.approx(4 * PARAMETERS / 64, rel=1e-2)
    assert memory.optimizer == pytest.approx(8 * PARAMETERS / 64, rel=1e-2)
    parts = memory.parameters + memory.optimizer + memory.other_state + memory.batch + memory.gradients
    assert parts + memory.saved + memory.temporaries == memory.peak


@pytest.mark.parametrize('length', [100, 256, 640, 2_048])
def test_model_flops_are_six_per_weight_and_token_and_half_of_the_attention(length):
    """At every length, whether a kernel skips blocks of the mask (multiples of 128) or all scores are computed."""
    counts = program('v5p:2x2x1', data__length=length, data__batch=4).counts
    attention = 12 * 4 * 512 * length / 2
    # The rest are sums within the blocks of a kernel.
    assert counts.model_flops == pytest.approx((6 * WEIGHTS + attention) * length, rel=1e-4)


@pytest.mark.parametrize('length', [96, 512])
def test_a_window_counts_the_scores_that_it_leaves(length):
    counts = program('v5p:2x2x1', data__length=length, data__batch=4, model__block__mixer__window=64).counts
    pairs = 64 * length - 64**2 / 2
    assert counts.model_flops == pytest.approx(6 * WEIGHTS * length + 12 * 4 * 512 * pairs, rel=1e-4)


def test_full_remat_computes_more_and_keeps_less():
    full, none = (program(mesh__fsdp=64, model__stack__remat=remat) for remat in ('full', 'none'))
    assert full.counts.flops > 1.2 * none.counts.flops
    assert full.memory.saved < 0.2 * none.memory.saved
    assert full.counts.model_flops == pytest.approx(none.counts.model_flops, rel=0.1)


def test_each_weight_is_gathered_twice_and_its_gradient_reduced_once():
    found = {each.kind: 0.0 for each in program(mesh__fsdp=64).counts.collectives}
    for each in program(mesh__fsdp=64).counts.collectives:
        found[each.kind] += each.bytes * each.times
    assert found['all-gather'] == pytest.approx(2 * 2 * PARAMETERS, rel=0.02)
    assert found['all-reduce'] == pytest.approx(2 * PARAMETERS, rel=0.02)


def test_slices_speak_over_the_network_once_per_gradient():
    found = [each for each in program('2*v5e:4x4', mesh__fsdp=16).counts.collectives if each.over_dcn]
    assert {each.kind for each in found} == {'all-reduce'}
    assert {each.group for each in found} == {2}


def test_as_many_rows_as_positions_are_told_apart():
    """Saved activations are cut over the batch and, where tensor parallelism is, along the positions."""
    whole, cut = (program(mesh__fsdp=fsdp, mesh__tensor=64 // fsdp, data__batch=256) for fsdp in (64, 16))
    assert cut.memory.saved <= 1.1 * whole.memory.saved


def test_what_is_too_large_is_told_what_would_be_enough():
    made = planning.make(planned.experiment(data__batch=4_096), slices.parse('v5e:2x2'), fast=True)
    assert not made.fits
    assert any(
        line.startswith('model.stack.remat=full gradients=Microbatches(parts=8) ') and 'enough' in line
        for line in made.advice
    )


@pytest.mark.parametrize(
    ('name', 'changes', 'words'),
    [
        ('v5p:4x4x4', {'mesh__data': 1, 'mesh__fsdp': 64, 'mesh__tensor': 3}, '192 devices.*nearest that can: fsdp 64'),
        ('v5e:4x4', {'mesh__tensor': 8}, 'product of whole dimensions.*nearest that can'),
        ('v5e:4x4', {'mesh__tensor': 16}, 'heads=8 does not divide over mesh.tensor=16.*8'),
        ('v5p:4x4x4', {'data__batch': 65}, 'batch=65.*multiple of 64'),
        ('v5e:4x4', {'data__length': 250, 'mesh__sequence': 4}, '250 positions do not divide.*252'),
    ],
)
def test_impossible_requests_name_a_choice_that_works(name, changes, words):
    with pytest.raises(config.InputError, match=words):
        program(name, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'path', 'value', 'expected'),
    [
        ('resnet2015', 'model.block.stride_first', False, 24.299e9),
        ('vit2020', 'model.head', None, 105.152e9),
    ],
)
def test_image_models_have_the_flops_of_the_hand_count_for_each_image(name, path, value, expected):
    """ResNet-50 and ViT-B/16: three forward passes but for the images' gradient; test_count.py counts them by hand."""
    experiment = config.vary(experiment_file.load(str(EXPERIMENTS / f'{name}.py')), {path: value})
    found = analytic.program(experiment, slices.parse('v5e-64'))
    assert experiment.data.units.name == 'images'
    images = experiment.data.batch / 64  # Of a chip.
    assert found.counts.model_flops == pytest.approx(expected * images, rel=1e-4)
