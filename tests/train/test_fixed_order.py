"""With a fixed order of sums the mesh changes no bit of what training makes."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.models import decoder
from bigmodel_jax.optim import gradients, optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.quantization import formats
from bigmodel_jax.quantization.training import QuantizationAware
from bigmodel_jax.run_directory import digest
from bigmodel_jax.train import preparation
from bigmodel_jax.train import step as steps

ROOT = pathlib.Path(__file__).parents[2]
PARTS, STEPS, ROWS = 8, 20, 16
MESHES = ({'data': 1}, {'data': 2}, {'fsdp': 4}, {'data': 2, 'fsdp': 4})


def llama(width=16):
    return decoder.llama(
        vocab=tiny.VOCAB, width=width, layers=2, heads=8, kv_heads=8, hidden=2 * width, rope_base=10_000.0
    )


def gpt(width):
    return decoder.gpt(vocab=tiny.VOCAB, width=width, layers=2, heads=8, length=tiny.LENGTH)


def experiment(changes):
    base = {'data.batch': ROWS, 'evaluations': (), 'steps': STEPS, 'model.layers': 2}
    return config.vary(config.vary(tiny.experiment(), base), changes)


def train(of, sizes, parts=PARTS):
    """The digest of parameters, optimizer and the rest after STEPS steps, and the loss of each."""
    of = config.vary(of, {'mesh': sharding.MeshShape(**sizes)})
    if parts is not None:
        of = config.vary(of, {'gradients': gradients.FixedOrder(parts=parts, microbatches=of.gradients.microbatches)})
    run = preparation.build(of)
    with sharding.use(run.place):
        state, found = run.spec.init(), []
        step = steps.compile_step(of, run.spec, run.place)
        for number in range(STEPS):
            batch = run.place.put_batch(run.data.training(number), run.data.rows)
            state, trace = step(state, batch)
            found.append(trace.metrics['loss'])
        whole = digest.digest(state)
    return whole, [float(mean.total) / float(mean.count) for mean in jax.device_get(found)]


WITHOUT_DROPOUT = {'model.block.residual.dropout': 0.0}  # Parts draw other masks than a whole batch does.
VARIANTS = {
    'gpt': {},  # With dropout, AdamW and a clipped gradient.
    'llama': {
        'model': llama(),
        'optimizer': optimizers.Muon(schedule=schedules.WarmupCosine(peak=1e-2, warmup_steps=4), clip_norm=1.0),
        'gradients': gradients.Microbatches(parts=2),  # Of each part.
    },
    'bfloat16': {'model.dtype': 'bfloat16'},
}


def check_equal(of, meshes, parts=PARTS):
    (first, losses), *others = [train(of, sizes, parts) for sizes in meshes]
    assert [(first, losses)] * len(others) == others
    assert losses[-1] < losses[0] - 0.2  # It learned, so that equality means something.
    return losses


def test_one_device_and_four_give_the_same_bits_and_the_ordinary_loss():
    of = experiment(WITHOUT_DROPOUT)
    found = check_equal(of, [{'data': 1}, {'data': 2, 'fsdp': 2}], parts=4)
    _, expected = train(of, {'data': 1}, parts=None)
    # Float32 sums in another order: about 1e-7 a step, amplified over 20 updates.
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_weights_are_rounded_as_in_an_ordinary_step():
    of = experiment({**WITHOUT_DROPOUT, 'quantization': QuantizationAware(weights=formats.Int4())})
    _, expected = train(of, {'data': 1}, parts=None)
    _, plain = train(config.vary(of, {'quantization': None}), {'data': 1}, parts=None)
    found = train(of, {'data': 1}, parts=4)[1]
    # A sum in another order may move a weight over the edge of a step, of which there are 15.
    assert np.abs(np.subtract(found, expected)).max() < 0.1 * np.abs(np.subtract(plain, expected)).max()


@pytest.mark.slow
@pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)
def test_every_mesh_gives_the_same_bits(changes):
    check_equal(experiment(changes), MESHES)


@pytest.mark.slow
def test_processes_with_one_device_and_with_eight_give_the_same_bits():
    """As users start them: with all that the compiler can do, and threads enough to share a product among."""
    found = [outcome_of_a_process(devices) for devices in (1, 8)]
    assert found[0] == found[1]


def outcome_of_a_process(devices):
    """What main() prints in a process of its own."""
    flags = {'XLA_FLAGS': '', 'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(devices)}
    environment = os.environ | flags | {'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}'}
    done = subprocess.run(
        [sys.executable, __file__, str(devices)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ('changes', 'sizes', 'words'),
    [
        ({}, {'data': 2, 'tensor': 2}, 'only mesh.data and mesh.fsdp'),
        ({'data.batch': 48, 'gradients': gradients.FixedOrder(parts=6)}, {'data': 1}, 'power of two'),
        ({'gradients': gradients.FixedOrder(parts=4)}, {'data': 8}, 'power of two that the number of devices divides'),
        ({'data.batch': 12}, {'data': 2}, 'multiple of 8'),
        ({'gradients': gradients.FixedOrder(parts=PARTS, microbatches=4)}, {'data': 2}, 'multiple of 32'),
    ],
)
def test_what_it_cannot_do_is_said_before_anything_is_compiled(changes, sizes, words):
    fixed = {'gradients': gradients.FixedOrder(parts=PARTS), 'mesh': sharding.MeshShape(**sizes)}
    with pytest.raises(config.InputError, match=words):
        preparation.build(config.vary(experiment({}), fixed | changes))


def test_a_model_with_a_state_of_its_own_is_refused():
    with pytest.raises(config.InputError, match='batch_stats'):
        gradients.FixedOrder(parts=PARTS).check_model_state({'batch_stats': {'mean_D': np.zeros(4)}})


def main():
    """Prints the outcome on a mesh of as many devices as the first argument says, as JSON."""
    sizes = {'data': 1} if sys.argv[1] == '1' else {'data': 2, 'fsdp': 4}
    width = 128  # Wide enough that products would be shared among threads.
    json.dump(train(experiment({'model': gpt(width)}), sizes), sys.stdout)


if __name__ == '__main__':
    main()
