"""Image models through the whole of a run: batch statistics on any mesh, and fine-tuning at another resolution."""

import pathlib

import jax
import numpy as np
import pytest

from bigmodel_jax import config, experiment_file, verbs
from bigmodel_jax.data.vision import drawn
from bigmodel_jax.models import vit
from bigmodel_jax.train import initial_state

EXPERIMENTS = pathlib.Path(__file__).parents[2] / 'experiments'


@pytest.mark.slow
def test_a_residual_network_trains_alike_on_one_device_and_on_eight(tmp_path):
    """Batch norm included; float32 sums in another order, through 4 steps with a rate of 0.1."""
    found = []
    for devices in (1, 8):
        changes = {
            'mesh.data': devices,
            'steps': 4,
            'optimizer.schedule.boundaries': (3,),
            'checkpoints.every_steps': 4,
        }
        changes |= {'evaluations.0.every_steps': 4, 'evaluations.1.every_steps': 4}
        experiment = config.vary(experiment_file.load(str(EXPERIMENTS / 'resnet2015.py:smoke')), changes)
        verbs.train(experiment, tmp_path / str(devices))
        found.append(verbs.open_run(tmp_path / str(devices)).restore())
    one, eight = ((each.params, each.model_state) for each in found)
    assert jax.tree.leaves(one[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * max(np.abs(a).max(), 1)), one, eight)


@pytest.mark.slow
def test_fine_tuning_at_a_higher_resolution_interpolates_the_positions(tmp_path):
    pretraining = experiment_file.load(str(EXPERIMENTS / 'vit2020.py:smoke'))
    verbs.train(pretraining, tmp_path / 'first')
    before = verbs.open_run(tmp_path / 'first').restore().params
    larger = drawn.Gratings(count=64, shape=(28, 28, 3), classes=6)
    changes = {
        'data.source': larger,
        'data.shape': (24, 24, 3),
        'data.transforms.0.size': (24, 24),
        'evaluations': (),
        'model': vit.vit(patch=4, width=16, layers=2, heads=2, image=24, classes=6),
        'initialization': initial_state.FromOtherResolution(
            run=str(tmp_path / 'first'), without=('classes.*',), before=(4, 4), after=(6, 6)
        ),
        'steps': 1,
        'optimizer.schedule.warmup_steps': 1,
        'optimizer.schedule.peak': 0.0,
    }
    experiment = config.vary(pretraining, changes)
    verbs.train(experiment, tmp_path / 'second')
    after = verbs.open_run(tmp_path / 'second').restore().params
    np.testing.assert_array_equal(after['blocks']['layers']['ffn']['up'], before['blocks']['layers']['ffn']['up'])
    np.testing.assert_array_equal(after['positions']['table'][0], before['positions']['table'][0])
    assert after['positions']['table'].shape == (37, 16)
    assert not np.any(after['classes']['weight'])
    wrong = config.vary(experiment, {'initialization.after': (5, 6)})
    with pytest.raises(config.InputError, match=r'\(5, 6\) makes 31 positions, with extra=1, but the model has 37'):
        verbs.train(wrong, tmp_path / 'third')
