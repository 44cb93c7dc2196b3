"""muP: the same run at the base width, and the scales of table 8 of Yang et al. (2022) at another."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from bigmodel_jax import config, initialization, mup
from bigmodel_jax.data import batches
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import attention, embeddings, ffn
from bigmodel_jax.layers.base import weights
from bigmodel_jax.models import decoder, seq2seq
from bigmodel_jax.optim import anomaly_policy, optimizers, parameter_groups, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import state, step

RATE = schedules.Constant(peak=1e-2)
KINDS = [
    optimizers.AdamW(schedule=RATE, weight_decay=0.1, clip_norm=1.0),
    optimizers.Lion(schedule=RATE, weight_decay=0.1),
    optimizers.Muon(schedule=RATE, weight_decay=0.1),
    optimizers.Sgd(schedule=RATE),
]
BASE, WIDE = 16, 64
M = WIDE / BASE


def gpt(width, **changes):
    """Tied output, biases, learned positions; four heads at every width."""
    return decoder.gpt(vocab=tiny.VOCAB, width=width, layers=2, heads=4, length=tiny.LENGTH, **changes)


def llama(width, **changes):
    """Untied output, grouped key/value heads, a gate, initializers by fan-in; heads of 4 channels at every width."""
    sizes = {'heads': width // 4, 'kv_heads': width // 8, 'hidden': 3 * width}
    return decoder.llama(vocab=tiny.VOCAB, width=width, layers=2, rope_base=1e4, **sizes, **changes)


def experiment(model, optimizer=KINDS[0]):
    return config.vary(tiny.without_dropout(), {'model': model, 'optimizer': optimizer})


def pair(build, optimizer=KINDS[0]):
    """An experiment of the base width, and one in muP."""
    small = experiment(build(BASE), optimizer)
    return small, mup.apply(experiment(build(WIDE), optimizer), base=small)


def specified(of):
    place = of.mesh.build()
    with sharding.use(place):
        return state.specify(of, place), place


@pytest.mark.parametrize(('build', 'optimizer'), [(gpt, KINDS[0]), (llama, KINDS[2]), (llama, KINDS[3])])
def test_step_at_the_base_width_is_the_same_program(build, optimizer):
    def program(of):
        spec, place = specified(of)
        with sharding.use(place):
            fields = batches.batch_fields(of.data.fields)
            batch = {name: jax.ShapeDtypeStruct((8, *each.shape), each.dtype) for name, each in fields.items()}
            return step.compile_step(of, spec, place).lower(spec.abstract, batch).as_text()

    of = experiment(build(BASE), optimizer)
    scaled = mup.apply(of, base=of)
    assert scaled != of
    assert program(scaled) == program(of)


def banded(width):
    """Two kinds of layers in turn."""
    return decoder.banded(gpt(width), 4)


@pytest.mark.parametrize(
    ('build', 'optimizer'), [(gpt, KINDS[0]), (gpt, KINDS[3]), (llama, KINDS[2]), (llama, KINDS[3]), (banded, KINDS[1])]
)
def test_rates_follow_the_axes_that_grow(build, optimizer):
    small, wide = (specified(each)[0] for each in pair(build, optimizer))
    shapes = jax.tree.map(lambda one, other: (one.shape, other.shape), small.abstract.params, wide.abstract.params)
    multiples = jax.tree_util.tree_leaves_with_path(wide.groups.multiples)
    grown = jax.tree.leaves(shapes, is_leaf=lambda node: isinstance(node, tuple))
    assert len(multiples) == len(grown)
    for (path, multiple), (before, after) in zip(multiples, grown):
        factor = np.prod(after) / np.prod(before)
        sgd, muon = isinstance(optimizer, optimizers.Sgd), isinstance(optimizer, optimizers.Muon)
        # A matrix grows along both its sides, a table or a vector along one.
        hidden, vector = (1.0, M) if sgd else (M**-0.5, 1.0) if muon else (1 / M, 1.0)
        assert multiple == {M * M: hidden, M: vector}[factor], path


@pytest.mark.parametrize('build', [gpt, pytest.param(llama, marks=pytest.mark.slow)])
def test_initial_values_have_the_scale_of_the_base(build):
    small, wide = (specified(each)[0].init().params for each in pair(build))
    before = dict(jax.tree_util.tree_leaves_with_path(small))
    for path, values in jax.tree_util.tree_leaves_with_path(wide):
        ratio = float(jnp.std(values) / jnp.std(before[path])) if jnp.std(values) > 0 else 1.0
        matrix = values.size / before[path].size == M * M
        # The deviation of 384 numbers, the fewest of a matrix here, is known to 4%; three of those, at both widths.
        np.testing.assert_allclose(ratio, M**-0.5 if matrix else 1.0, rtol=0.16, err_msg=str(path))


def test_initial_deviations_are_those_that_are_drawn():
    for init in (weights.Normal(stddev=0.3), weights.FanIn(scale=2.0), weights.Xavier()):
        for each in (init, weights.Times(init=init, factor=0.5)):
            drawn = each.draw(jax.random.key(0), (200, 300), 200, 300)
            # 60,000 numbers: their deviation is known to 0.3%.
            np.testing.assert_allclose(drawn.std(), each.deviation(200, 300), rtol=0.01)


def grown(params, abstract):
    """The same function at a larger width: every unit is there several times, and its inputs weigh as much less."""

    def copies(values, wider):
        factor = wider.size // values.size
        tiled = np.tile(values, [large // small for large, small in zip(wider.shape, values.shape)])
        # A matrix grows along both its sides: each unit then reads every copy of its inputs.
        return tiled / (M if factor == M * M else 1)

    return jax.tree.map(copies, params, abstract)


def losses(of, start):
    """The losses of four steps in float64; start(shapes) gives the first parameters."""
    spec, place = specified(of)
    with sharding.use(place):
        params = jax.tree.map(jnp.asarray, start(spec.abstract.params))
        current = state.TrainState(
            jnp.int32(0), params, spec.optimizer.init(params), {}, anomaly_policy.RunningStats.initial()
        )
        train_step = step.compile_step(of, spec, place)
        found = []
        for number in range(4):
            current, trace = train_step(current, of.data.build(0).training(number))
            found.append(float(trace.metrics['loss'].total / trace.metrics['loss'].count))
    return np.array(found)


# Values so large that they matter: eps beside the gradients, and the bound on their entries.
TRAJECTORIES = [
    (gpt, optimizers.AdamW(schedule=RATE, weight_decay=0.1, eps=1e-3, clip_value=2e-3), 1e-9),
    (llama, optimizers.Lion(schedule=RATE, weight_decay=0.1), 1e-9),
    # Newton and Schulz's iteration is computed in bfloat16 or float32, and its eps is not scaled.
    (llama, optimizers.Muon(schedule=RATE, weight_decay=0.1), 1e-3),
    (gpt, optimizers.Sgd(schedule=RATE), 1e-9),
]


@pytest.mark.slow
@pytest.mark.parametrize(('build', 'optimizer', 'rtol'), TRAJECTORIES)
def test_a_wide_model_of_copied_units_trains_as_the_narrow_one(build, optimizer, rtol):
    """All of muP but the initial values in one law: each unit of the wide model has the gradient of the narrow one's.

    With m copies of every unit, whose incoming weights are divided by m, the wide model is the same function. It stays
    so in training if and only if rates, multiples, scales, decay and eps are those of muP: this needs no table.
    """
    small, wide = (config.vary(each, {'model.dtype': 'float64'}) for each in pair(build, optimizer))
    drawn = {}

    def draw(abstract):
        rng = np.random.default_rng(0)
        drawn['params'] = jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape), abstract)
        return drawn['params']

    with jax.enable_x64(True):
        before = losses(small, draw)
        after = losses(wide, lambda abstract: grown(drawn['params'], abstract))
    assert before[-1] < before[0]
    np.testing.assert_allclose(after, before, rtol=rtol)


# Of a transformer of width 64 on base shapes of width 16, as set_base_shapes, MuAdamW and MuSGD of the package mup
# 1.0.0 (PyTorch 2.14.1) set it: the initial deviation over that of the base, the rates of AdamW and SGD, and the decay
# of AdamW, over those asked for. The readout's multiple there is 1/4, and its weights are as in the first line.
PACKAGE = {
    'embedding.table': (1, 1, 4, 1),
    'positions.table': (1, 1, 4, 1),
    'blocks.layers.attention.query': (0.5, 0.25, 1, 4),
    'blocks.layers.attention.query_bias': (None, 1, 4, 1),
    'blocks.layers.attention_norm.scale': (None, 1, 4, 1),
    'blocks.layers.ffn.up': (0.5, 0.25, 1, 4),
    'blocks.layers.ffn.up_bias': (None, 1, 4, 1),
    'blocks.layers.ffn.down': (0.5, 0.25, 1, 4),
    'norm.bias': (None, 1, 4, 1),
}


def test_multiples_are_those_of_the_package_of_the_paper():
    (small, wide), (_, by_sgd) = pair(gpt), pair(gpt, KINDS[3])
    groups, sgd = specified(wide)[0].groups, specified(by_sgd)[0].groups
    found = [
        {jax.tree_util.keystr(path, simple=True, separator='.'): value for path, value in leaves}
        for leaves in map(
            jax.tree_util.tree_leaves_with_path, (groups.multiples, sgd.multiples, groups.decay_multiples)
        )
    ]
    deviations = {
        'embedding.table': [each.model.embedding.init for each in (small, wide)],
        'positions.table': [each.model.positions.init for each in (small, wide)],
        'blocks.layers.attention.query': [each.model.block.mixer.init for each in (small, wide)],
        'blocks.layers.ffn.up': [each.model.block.ffn.init for each in (small, wide)],
        'blocks.layers.ffn.down': [each.model.block.ffn.out_init for each in (small, wide)],
    }
    for name, (deviation, *others) in PACKAGE.items():
        assert [each[name] for each in found] == others, name
        if deviation is not None:
            before, after = (each.deviation(1, 1) for each in deviations[name])
            # A product of roots, which are rounded.
            np.testing.assert_allclose(after / before, deviation, rtol=1e-12, err_msg=name)
    assert wide.model.embedding.output_multiple == 0.25


def test_what_gradients_are_compared_with_falls_as_they_do():
    _, wide = pair(gpt, optimizers.AdamW(schedule=RATE, eps=1e-6, clip_value=0.5, clip_norm=1.0))
    # Dividing by 4 is exact.
    assert (wide.optimizer.eps, wide.optimizer.clip_value, wide.optimizer.clip_norm) == (1e-6 / 4, 0.125, 1.0)


def test_a_matrix_that_starts_at_zero_does_so_at_every_width():
    zero = {'model.embedding.tied': False, 'model.embedding.output_init': weights.Normal(stddev=0.0)}
    small, wide = (config.vary(experiment(gpt(width)), zero) for width in (BASE, WIDE))
    assert mup.apply(wide, base=small).model.embedding.output_init == weights.Normal(stddev=0.0)
    with pytest.raises(config.InputError, match=r'output_init is 0 here, but has a deviation of 0\.02 at the base'):
        mup.apply(wide, base=config.vary(small, {'model.embedding.output_init': weights.Normal(stddev=0.02)}))


def test_logits_and_scores_are_divided_by_the_width():
    _, wide = pair(gpt)
    assert wide.model.embedding.output_multiple == 1 / M
    # From heads of 4 channels to 16: 1/sqrt(4) at the base, and falling as 1/K from there.
    assert wide.model.block.mixer.scores.scale_for(16) == 0.5 / 4
    assert wide.model.block.mixer.scores.scale_for(4) is None
    # Heads that are as wide as those of the base keep 1/sqrt(K).
    assert pair(llama)[1].model.block.mixer.scores.scale_for(4) is None


def test_attention_multiplies_by_the_scale_of_the_width():
    x_BTD = jax.random.normal(jax.random.key(0), (1, 5, 32))
    context = contexts.Context(jnp.arange(5)[None], jnp.arange(5)[None], None, None, None, None)
    kinds = (attention.InverseWidth(base_head_width=4), attention.DotProduct(), attention.DotProduct(scale=0.125))
    outputs = [
        attention.Attention(heads=2, scores=scores).build().init_with_output(jax.random.key(1), x_BTD, context)[0][0]
        for scores in kinds
    ]
    assert not np.array_equal(outputs[0], outputs[1])
    # DotProduct(scale=...) enlarges the queries for its scale, InverseWidth does not: that would undo it.
    assert not np.allclose(outputs[0], outputs[2], atol=1e-4)


def updates_of(optimizer, shape, grad):
    """The parameters and the first updates of a hidden matrix and its bias, with an optimizer of an experiment."""
    axes = {'up': ('embed', 'hidden'), 'down_bias': ('embed',), 'heads': ('embed', 'heads', 'head')}
    shapes = {'up': shape, 'down_bias': shape[:1], 'heads': (*shape, 1)}
    params = {name: jax.random.normal(jax.random.key(len(name)), shapes[name]) for name in axes}
    rule = optimizer.build(10, optimizer.assign(axes))
    grads = {name: grad * jax.random.normal(jax.random.key(1), each.shape) for name, each in params.items()}
    return params, rule.update(grads, rule.init(params), params)[0]


def test_updates_of_muon_have_a_spectral_norm_that_does_not_grow():
    norms = [
        float(jnp.linalg.norm(updates_of(of.optimizer, (of.model.width, 3 * of.model.width), 1.0)[1]['up'], 2))
        for of in pair(llama, optimizers.Muon(schedule=RATE))
    ]
    # Five Newton-Schulz iterations leave singular values between 0.7 and 1.2; without the multiple the ratio is 2.
    assert 0.7 < norms[1] / norms[0] < 1.4


@pytest.mark.parametrize('optimizer', KINDS[:3], ids=lambda each: type(each).__name__)
def test_weights_decay_as_much_at_every_width(optimizer):
    for of in pair(gpt, optimizer):
        params, found = updates_of(of.optimizer, (of.model.width, 4 * of.model.width), 0.0)
        for name in ('up', 'heads'):
            # Float32: a product of four factors, each rounded. RATE x weight_decay is 1e-3.
            np.testing.assert_allclose(found[name], -1e-3 * params[name], rtol=1e-6)
        np.testing.assert_array_equal(found['down_bias'], 0)


def test_result_is_an_ordinary_experiment():
    small, wide = pair(gpt)
    assert config.from_json(config.to_json(wide)) == wide
    changed = {each.path for each in config.difference(experiment(gpt(WIDE)), wide)}
    assert {'model.embedding.output_multiple', 'model.block.mixer.scores', 'optimizer.groups.0'} <= changed
    assert config.origin_of(wide, 'optimizer.groups') == 'mup.apply'
    # Groups of one's own are kept.
    frozen = parameter_groups.Group(match='positions.*', frozen=True)
    own = config.vary(experiment(gpt(WIDE)), {'optimizer.groups': (frozen,)})
    assert mup.apply(own, base=small).optimizer.groups[0] == frozen


def test_seq2seq_is_scaled_like_a_decoder():
    def model(width):
        base = seq2seq.transformer(vocab=64, width=width, layers=1, heads=4, hidden=4 * width, dropout=0.0)
        return config.vary(base, {'embedding.scaled': False, 'embedding.init': weights.Normal(stddev=0.5)})

    # Its data is another; the configs are what is compared.
    scaled = mup.apply(experiment(model(WIDE)), base=experiment(model(BASE)))
    assert scaled.model.embedding.output_multiple == 1 / M
    # Xavier's deviation falls as muP asks by itself.
    assert scaled.model.block.mixer.init == weights.Xavier()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start(initialization.Initialization):
    """Weights from elsewhere."""


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'optimizer': optimizers.Adafactor(schedule=RATE)}, 'Adafactor, but only AdamW, Lion, Muon, Sgd'),
        ({'optimizer': optimizers.Sgd(schedule=RATE, weight_decay=0.1)}, 'optimizer.weight_decay of Sgd'),
        ({'model.layers': 4}, 'model.layers: 2 -> 4, which is not a width'),
        ({'model.vocab': 128}, 'model.vocab: 64 -> 128, which is not a width'),
        ({'model.block.ffn': ffn.Gated(hidden=256)}, 'model.block.ffn: .* which is not a width'),
        ({'model.block.ffn.hidden': 128}, '64 x 128, and at the base width of 16 x 64; both sides must grow'),
        ({'model.embedding.scaled': True}, 'model.embedding is scaled with the width'),
        ({'model.block.mixer.scores': attention.DotProduct(scale=1.0)}, r'scores|no width'),
        ({'initialization': Start()}, 'takes the weights of another run'),
    ],
)
def test_what_muP_is_not_defined_for_is_refused(changes, message):
    with pytest.raises(config.InputError, match=message):
        mup.apply(config.vary(experiment(gpt(WIDE)), changes), base=experiment(gpt(BASE)))


def test_applying_twice_is_refused():
    small, wide = pair(gpt)
    with pytest.raises(config.InputError, match='apply it once'):
        mup.apply(wide, base=small)
    with pytest.raises(config.InputError, match='the scale follows from base_head_width'):
        attention.InverseWidth(base_head_width=4, scale=1.0)


def test_output_multiple_scales_a_tied_matrix_without_changing_the_table():
    table = embeddings.Embedding(output_multiple=0.5).build(8, 4, 'float32')
    tokens = jnp.arange(8)[None]
    x_BTD, variables = table.init_with_output(jax.random.key(0), tokens)
    head = table.apply(variables, method='head')
    np.testing.assert_array_equal(head.matrix_VD, 0.5 * x_BTD[0])
