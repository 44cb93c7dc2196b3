"""What is computed does not depend on where: every mesh of eight devices gives the loss of one."""

import jax
import numpy as np
import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.layers import blocks, ffn, norms, positions
from bigmodel_jax.layers.variants import attentions, residuals
from bigmodel_jax.optim import gradients
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import preparation
from bigmodel_jax.train import step as steps

STEPS = 20
MESHES = [
    {'data': 2, 'sequence': 2, 'tensor': 2},
    {'fsdp': 4, 'data': 2, 'slices': 2},
]
# Axes that those above have in mixtures; microbatches train on the first of these in every run.
MORE_MESHES = [
    {'data': 2, 'fsdp': 2, 'tensor': 2},
    {'data': 8},
    {'fsdp': 8},
    {'tensor': 8},
    {'sequence': 8},
    {'data': 2, 'fsdp': 4},
    {'data': 4, 'tensor': 2},
    {'fsdp': 2, 'tensor': 4},
    {'fsdp': 4, 'sequence': 2},
    {'data': 2, 'sequence': 4},
]
PIPELINES = [{'pipeline': 2, 'fsdp': 4, 'slices': 2, 'across': 'pipeline', 'pipeline_parts': 2}]
MORE_PIPELINES = [
    {'pipeline': 2, 'sequence': 2, 'tensor': 2},
    {'pipeline': 8},
    {'pipeline': 4, 'data': 2},
    {'pipeline': 2, 'fsdp': 2, 'tensor': 2},
    {'pipeline': 2, 'sequence': 2, 'fsdp': 2},
    {'pipeline': 4, 'data': 2, 'pipeline_rounds': 2},
    {'pipeline': 2, 'fsdp': 2, 'tensor': 2, 'pipeline_rounds': 4},
    {'pipeline': 2, 'fsdp': 4, 'slices': 2, 'across': 'pipeline', 'pipeline_parts': 2, 'pipeline_rounds': 2},
]


def losses(experiment):
    """The loss of each of STEPS steps."""
    run = preparation.build(experiment)
    with sharding.use(run.place):
        state, found = run.spec.init(), []
        step = steps.compile_step(experiment, run.spec, run.place)
        for number in range(STEPS):
            batch = run.place.put_batch(run.data.training(number), run.data.rows)
            state, traced = step(state, batch)
            found.append(traced.metrics['loss'])
    return np.array([float(mean.total) / float(mean.count) for mean in jax.device_get(found)])


def rarely(cases):
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


@pytest.fixture(scope='module')
def one_device():
    return losses(tiny.experiment())


def title(sizes):
    return '-'.join(f'{name}{size}' for name, size in sizes.items())


def check_equal(experiment, sizes, expected):
    found = losses(config.vary(experiment, {'mesh': sharding.MeshShape(**sizes)}))
    # Float32 sums in another order: about 1e-7 a step, amplified over 20 updates.
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found[-1] < found[0] - 0.2  # It learned, so that equality means something.


@pytest.mark.parametrize('sizes', [*MESHES, *rarely(MORE_MESHES)], ids=title)
def test_eight_devices_give_the_loss_of_one(one_device, sizes):
    check_equal(tiny.experiment(), sizes, one_device)


def deep():
    """Layers enough for eight stages; no dropout, whose masks a pipeline draws otherwise."""
    return config.vary(tiny.without_dropout(), {'model.layers': 8})


@pytest.fixture(scope='module')
def deep_on_one_device():
    return losses(deep())


@pytest.mark.parametrize('sizes', [*PIPELINES, *rarely(MORE_PIPELINES)], ids=title)
def test_a_pipeline_gives_the_loss_of_one_device(deep_on_one_device, sizes):
    check_equal(deep(), sizes, deep_on_one_device)


@pytest.mark.slow
def test_microbatches_of_the_gradient_and_of_the_pipeline(deep_on_one_device):
    both = config.vary(deep(), {'gradients': gradients.Microbatches(parts=2)})
    check_equal(both, {'pipeline': 4, 'data': 2, 'pipeline_parts': 2}, deep_on_one_device)


@pytest.mark.slow  # On a mesh, below, they add up in every run.
@pytest.mark.parametrize('microbatches', [2, 4])
def test_microbatches_add_up_to_the_batch(microbatches):
    """Rows have different numbers of weights, so that a mean of means would differ in the second digit."""
    whole = losses(tiny.without_dropout())
    parts = losses(config.vary(tiny.without_dropout(), {'gradients': gradients.Microbatches(parts=microbatches)}))
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_microbatches_on_a_mesh():
    mesh = sharding.MeshShape(data=2, fsdp=2, tensor=2)
    parts = losses(config.vary(tiny.without_dropout(), {'gradients': gradients.Microbatches(parts=2), 'mesh': mesh}))
    np.testing.assert_allclose(parts, losses(tiny.without_dropout()), atol=1e-5)


@pytest.mark.slow
def test_a_llama_on_a_mesh():
    llama = {
        'model.positions': None,
        'model.norm': norms.RmsNorm(),
        'model.block.mixer.rotary': positions.Rotary(),
        'model.block.mixer.kv_heads': 2,
        'model.block.ffn': ffn.Gated(hidden=32),
        'model.block.residual.norm': norms.RmsNorm(),
        'model.embedding.tied': False,
        'model.stack.remat': 'full',
    }
    alone = config.vary(tiny.experiment(), llama)
    mesh = sharding.MeshShape(data=1, fsdp=4, tensor=2)
    np.testing.assert_allclose(losses(config.vary(alone, {'mesh': mesh})), losses(alone), atol=1e-5)


def test_parameters_and_optimizer_state_are_split_over_fsdp_and_tensor():
    experiment = config.vary(tiny.experiment(), {'mesh': sharding.MeshShape(data=1, fsdp=4, tensor=2)})
    run = preparation.build(experiment)
    with sharding.use(run.place):
        state = run.spec.init()
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    here = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert here < 1.2 * whole / 8 + 2_000  # Vectors over heads alone are split less.


def test_initial_weights_do_not_depend_on_the_mesh():
    def first(mesh):
        run = preparation.build(config.vary(tiny.experiment(), {'mesh': mesh}))
        return jax.device_get(run.spec.init().params)

    alone, split = first(sharding.MeshShape(data=1)), first(sharding.MeshShape(data=2, fsdp=2, tensor=2))
    jax.tree.map(np.testing.assert_array_equal, alone, split)


def decorated():
    """What Qwen, Gemma and Phi add to a Llama, and three layers of a pattern of two."""
    norm = norms.OffsetRmsNorm()
    block = blocks.Block(
        mixer=attentions.QkvBiasAttention(
            heads=8, kv_heads=4, head_width=4, rotary=positions.PartialRotary(fraction=0.5), window=5,
            scores=attentions.NormedDotProduct(scale=0.3, norm=norm),
        ),
        ffn=ffn.Gated(hidden=64),
        residual=residuals.SandwichNorm(norm=norm, output_norm=norm),
    )  # fmt: skip
    wide = config.vary(block, {'mixer.window': None, 'mixer.scores.soft_cap': 2.0})
    changes = {'layers': 3, 'block': block, 'interleaved': (wide,), 'positions': None, 'norm': norm}
    return config.vary(
        tiny.experiment(),
        {f'model.{name}': value for name, value in changes.items()}
        | {'model.embedding.scaled': True, 'model.embedding.output_soft_cap': 4.0},
    )


@pytest.mark.slow
def test_what_other_families_add_gives_the_loss_of_one_device():
    expected = losses(decorated())
    for sizes in ({'data': 2, 'fsdp': 2, 'tensor': 2}, {'sequence': 2, 'tensor': 4}):
        check_equal(decorated(), sizes, expected)
