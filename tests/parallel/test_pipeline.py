"""A pipeline gives what the layers give one after another: values, gradients and sown losses."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import drawing
from bigmodel_jax import config
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import attention, blocks, ffn, stacks
from bigmodel_jax.parallel import pipeline, sharding

ROWS, LENGTH, THERE, WIDTH, LAYERS = 8, 6, 5, 8, 4
RNG = np.random.default_rng(0)
X_BTD = RNG.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
MEMORY_BSD = RNG.normal(size=(ROWS, THERE, WIDTH)).astype(np.float32)


class Sowing(nn.Module):
    """An Mlp that sows the mean square of its input, and the mean of each channel."""

    @nn.compact
    def __call__(self, x_BTD):
        self.sow('losses', 'square', jnp.square(x_BTD).mean())
        self.sow('losses', 'channels', x_BTD.mean(axis=(0, 1)))
        return ffn.Mlp(hidden=12).build('mlp')(x_BTD)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SowingFfn(ffn.Ffn):
    def build(self, name=None):
        return Sowing(name=name)


HEADS = attention.Attention(heads=2)
BLOCK = blocks.Block(mixer=HEADS, ffn=SowingFfn(), cross=config.vary(HEADS, {'causal': False}))
STACK = stacks.Stack(remat='full').build((BLOCK,), LAYERS)


def packed(length):
    """Documents and their positions, other ones in every row."""
    starts = RNG.random((ROWS, length)) < 0.3
    segments_BT = 1 + starts.cumsum(axis=1).astype(np.int32)
    return segments_BT, RNG.integers(0, length, (ROWS, length)).astype(np.int32)


def beside():
    """A context and a memory in which some arrays belong to their rows, and others to all."""
    segments_BT, positions_BT = packed(LENGTH)
    segments_BS, _ = packed(THERE)
    bias_BHTS = RNG.normal(size=(1, 2, LENGTH, LENGTH)).astype(np.float32)
    context = contexts.Context(positions_BT, positions_BT, segments_BT, segments_BT, bias_BHTS)
    there_BS = np.arange(THERE)[None]
    cross = contexts.Context(positions_BT, there_BS, segments_BT, segments_BS)
    return context._replace(memory=contexts.EncoderOutput(MEMORY_BSD, cross))


CONTEXT = beside()


@functools.cache
def initial():
    return drawing.variables(STACK, X_BTD, CONTEXT)['params']


def everything(mesh):
    """The stream, what was sowed, and the gradients for weights, stream, bias and memory."""

    def total(params, x_BTD, bias_BHTS, memory_BSD):
        memory = contexts.EncoderOutput(memory_BSD, CONTEXT.memory.context)
        inputs = x_BTD, CONTEXT._replace(bias_BHTS=bias_BHTS, memory=memory)
        (y_BTD, _), sown = STACK.apply({'params': params}, *inputs, mutable=['losses'])
        return jnp.sin(y_BTD).sum() + sown['losses']['layers']['ffn']['square'][0].sum(), (y_BTD, sown)

    with sharding.use(mesh.build(jax.devices()[: 1 if mesh.data == 1 else 8])):
        gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3), has_aux=True))
        return gradient(initial(), X_BTD, CONTEXT.bias_BHTS, MEMORY_BSD)


@pytest.fixture(scope='module')
def one_device():
    return everything(sharding.MeshShape(data=1))


@pytest.mark.parametrize(
    'mesh',
    [
        # The others have the axes of these between them.
        pytest.param(sharding.MeshShape(pipeline=4, data=2), marks=pytest.mark.slow),
        pytest.param(sharding.MeshShape(pipeline=2, data=2, tensor=2, pipeline_parts=2), marks=pytest.mark.slow),
        sharding.MeshShape(pipeline=4, fsdp=2, pipeline_parts=1),
        sharding.MeshShape(pipeline=2, data=2, tensor=2, pipeline_rounds=2),
        pytest.param(sharding.MeshShape(pipeline=2, data=2, fsdp=2, pipeline_rounds=2), marks=pytest.mark.slow),
    ],
    ids=['M=4', 'M=2', 'M=1', 'M=4 in 2 rounds', 'M=2 in 2 rounds'],
)
def test_a_pipeline_is_the_layers_one_after_another(mesh, one_device):
    # Float32 sums in another order. Gradients are of order 1 to 10.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), everything(mesh), one_device)


@pytest.mark.parametrize(('stages', 'rounds'), [(4, 1), (2, 2)])
def test_every_layer_microbatch_and_replica_has_a_dropout_key_of_its_own(stages, rounds):
    mesh = sharding.MeshShape(pipeline=stages, data=2, pipeline_parts=2, pipeline_rounds=rounds)
    place = mesh.build(jax.devices()[: 2 * stages])

    def layer(weights, x, beside, key):
        return x + weights * jax.random.uniform(key), {}

    def run(x):
        return pipeline.run(layer, np.eye(LAYERS), x, None, place=place, key=jax.random.key(0))[0]

    with sharding.use(place):
        drawn = jax.jit(run)(jnp.zeros((ROWS, 1, LAYERS)))[:, 0]  # Of each row: the number of each layer.
    by_part = drawn.reshape(2, -1, 2, LAYERS)  # Replica, row of the microbatch, microbatch.
    np.testing.assert_array_equal(by_part, np.broadcast_to(by_part[:, :1], by_part.shape))
    assert len(np.unique(by_part[:, 0])) == 2 * 2 * LAYERS


def test_the_program_does_not_grow_with_layers_or_microbatches():
    def lines(layers, parts):
        place = sharding.MeshShape(pipeline=2, data=1, pipeline_parts=parts).build(jax.devices()[:2])
        module = stacks.Stack().build((BLOCK,), layers)
        with sharding.use(place):
            params = jax.eval_shape(module.init, jax.random.key(0), X_BTD, CONTEXT)
            return jax.jit(module.apply).lower(nn.meta.unbox(params), X_BTD, CONTEXT).as_text().count('\n')

    assert lines(2, 2) == lines(8, 2) == lines(2, 8)


@pytest.mark.parametrize(('rows', 'parts'), [(64, 16), (48, 12), (24, 12), (2, 1), (3, 3)])
def test_how_many_microbatches(rows, parts):
    """Up to four for each of four stages, so that the rows of each of two devices divide; 3 rows lie on both."""
    assert pipeline.microbatches(sharding.MeshShape(pipeline=4, data=2).build(), rows) == parts


def test_microbatches_that_do_not_divide_are_refused():
    place = sharding.MeshShape(pipeline=4, data=2, pipeline_parts=5).build()
    pipeline.check(place, 40)
    with pytest.raises(config.InputError, match=r'pipeline_parts=5 does not divide the 12 rows .* use 4'):
        pipeline.check(place, 24)


@pytest.mark.parametrize(('stages', 'rounds', 'parts'), [(2, 1, 4), (4, 1, 8), (2, 2, 4), (2, 4, 2), (4, 2, 8)])
def test_the_bubble_of_the_compiled_schedule_is_that_of_the_formula(stages, rounds, parts):
    """(stages - 1) / (rounds M + stages - 1): of the ticks that the compiled loop runs, all but rounds M."""
    mesh = sharding.MeshShape(pipeline=stages, data=1, pipeline_parts=parts, pipeline_rounds=rounds)
    place = mesh.build(jax.devices()[:stages])

    def run(weights):
        return pipeline.run(lambda w, x, *_: (x * w, {}), weights, jnp.ones((8, 1, 4)), None, place=place, key=None)[0]

    with sharding.use(place):
        text = jax.jit(run).lower(jnp.ones((8, 4))).compile().as_text()
    loops = [int(count) for count in re.findall(r'"known_trip_count":\{"n":"(\d+)"', text)]
    total = max(loops)
    assert total == pipeline.ticks(place, parts)
    assert total - rounds * parts == stages - 1


def test_rounds_that_cannot_be_are_refused():
    with pytest.raises(config.InputError, match=r'multiple of 4 microbatches, .* the 6 rows .* do not divide by 4'):
        pipeline.check(sharding.MeshShape(pipeline=4, data=2, pipeline_rounds=2).build(), 12)
    with pytest.raises(config.InputError, match=r'pipeline_parts=2 does not divide .* use 4'):
        pipeline.check(sharding.MeshShape(pipeline=4, data=2, pipeline_rounds=2, pipeline_parts=2).build(), 16)
    with pytest.raises(config.InputError, match='has no effect without stages'):
        pipeline.check(sharding.MeshShape(data=2, pipeline_rounds=2).build(jax.devices()[:2]), 12)
    place = sharding.MeshShape(pipeline=4, data=2, pipeline_rounds=2).build()
    with sharding.use(place), pytest.raises(config.InputError, match='4 layers do not divide into the 8 chunks'):
        jax.eval_shape(STACK.apply, {'params': initial()}, X_BTD, CONTEXT)


def test_layers_that_do_not_divide_are_refused():
    place = sharding.MeshShape(pipeline=4, data=2).build()
    with pytest.raises(config.InputError, match="'layers' of 6 does not divide over pipeline = 4"):
        place.check('weights', (6, 8), ('layers', 'embed'))
