"""LoRA in training: what is trained and what not, on every mesh, interrupted or not; and wrong targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from bigmodel_jax import config, verbs
from bigmodel_jax import experiment as experiments
from bigmodel_jax.adapters import lora
from bigmodel_jax.layers.base import low_rank
from bigmodel_jax.models import decoder
from bigmodel_jax.parallel import sharding
from bigmodel_jax.runs import directory
from bigmodel_jax.train import loop, preparation
from bigmodel_jax.train import step as steps
from bigmodel_jax.train.weights import weight_storage

ALL = ('*.attention.*', '*.ffn.*')


def adapted(adapter, **changes):
    base = {'steps': 6, 'checkpoints.every_steps': 3, 'evaluations': (), 'adapter': adapter}
    return config.vary(tiny.without_dropout(), base | changes)


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='.'): np.asarray(leaf) for path, leaf in leaves}


def start_of(experiment):
    run = preparation.build(experiment)
    with sharding.use(run.place):
        return flat(run.spec.init().params)


def losses(experiment, count=3):
    """The loss of each of the first steps."""
    run = preparation.build(experiment)
    with sharding.use(run.place):
        current, found = run.spec.init(), []
        step = steps.compile_step(experiment, run.spec, run.place)
        for number in range(count):
            current, traced = step(current, run.place.put_batch(run.data.training(number), run.data.rows))
            found.append(traced.metrics['loss'])
    return np.array([float(mean.total) / float(mean.count) for mean in jax.device_get(found)])


@pytest.fixture(scope='module')
def interrupted(tmp_path_factory):
    """A finished run with adapters, dropout and a new norm, which was interrupted."""
    experiment = adapted(lora.Lora(rank=2, alpha=4, targets=ALL, dropout=0.1, trained=('norm.*',)))
    path = tmp_path_factory.mktemp('adapted')
    loop.train(experiment, path, stop_after=4)
    loop.train(experiment, path)
    return experiment, path


def test_only_adapters_are_trained_and_frozen_weights_keep_their_bits(interrupted):
    experiment, path = interrupted
    first, last = start_of(experiment), flat(directory.open_run(path).params())
    trained = {name for name in first if name.endswith(('_lora.a', '_lora.b')) or name.startswith('norm.')}
    changed = {name for name in first if first[name].tobytes() != last[name].tobytes()}
    assert changed == trained
    rows = verbs.describe(experiment)['optimizer state']
    moments = {row.path.partition('.mu.')[2]: row.elements for row in rows if '.mu.' in row.path}
    assert moments == {name: first[name].size for name in trained}


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_bits_of_one_that_was_not(interrupted, tmp_path):
    experiment, path = interrupted
    loop.train(experiment, tmp_path)
    whole, resumed = (flat(directory.open_run(each).params()) for each in (tmp_path, path))
    assert all(whole[name].tobytes() == resumed[name].tobytes() for name in whole)


@pytest.mark.slow
def test_the_model_begins_as_its_base():
    """B is 0, so that adapters change nothing before the first update; the base is drawn as without them."""
    with_adapter, without = adapted(lora.Lora(targets=ALL)), adapted(None)
    first, base = start_of(with_adapter), start_of(without)
    assert all(np.array_equal(first[name], base[name]) for name in base)
    assert losses(with_adapter, count=1) == losses(without, count=1)
    a = first['blocks.layers.ffn.up_lora.a']
    limit = a.shape[1] ** -0.5  # PEFT's: Kaiming's uniform distribution with a = sqrt(5).
    assert 0.95 * limit < np.abs(a).max() <= limit


@pytest.mark.slow
@pytest.mark.parametrize(
    'mesh', [{'data': 2, 'fsdp': 2, 'tensor': 2}, {'fsdp': 8}, {'tensor': 8}, {'pipeline': 2, 'fsdp': 4}]
)
def test_the_mesh_changes_nothing(mesh):
    experiment = adapted(lora.Lora(rank=2, targets=ALL))
    wanted = losses(config.vary(experiment, {'mesh': sharding.MeshShape(data=1)}))
    # Float32 sums in another order.
    np.testing.assert_allclose(losses(config.vary(experiment, {'mesh': sharding.MeshShape(**mesh)})), wanted, rtol=2e-6)


@pytest.mark.slow
def test_scanned_and_unrolled_layers_have_the_same_adapters():
    experiment = adapted(lora.Lora(rank=2, targets=ALL))
    unrolled = config.vary(experiment, {'model.stack.scan': False})
    np.testing.assert_allclose(losses(unrolled), losses(experiment), rtol=2e-6)


def test_factors_lie_with_the_sides_of_their_matrix():
    experiment = adapted(lora.Lora(rank=2, targets=ALL), mesh=sharding.MeshShape(data=2, fsdp=2, tensor=2))
    rows = {row.path: row for row in verbs.describe(experiment)['parameters']}
    up, down = 'blocks.layers.ffn.up', 'blocks.layers.ffn.down'
    assert rows[f'{up}_lora.a'].spec == (*rows[up].spec[:2], None)
    assert rows[f'{up}_lora.b'].spec == (None, None, rows[up].spec[2])
    assert rows[f'{down}_lora.a'].spec == (*rows[down].spec[:2], None)
    assert rows[up].training == 'frozen'


@pytest.mark.slow
def test_any_matrix_can_have_an_adapter():
    """Where a weight is looked up or belongs to an expert, it is the sum W + scale A B that is read."""
    model = decoder.mixtral(vocab=64, width=8, layers=2, heads=2, kv_heads=1, hidden=12, experts=3)
    adapters = weight_storage.of_experiment(adapted(lora.Lora(rank=2, targets=('*',)), model=model)).adapters
    paths = {*adapters.factorizations}
    assert {'embedding.table', 'embedding.output', 'blocks.layers.ffn.up'} <= paths
    batch = {'inputs': jnp.arange(12).reshape(2, 6)}
    params = model.build().init(jax.random.key(0), batch)['params']
    params = lora.attached(jax.tree.map(jnp.asarray, _unboxed(params)), adapters.initial(jax.random.key(1)))
    random = np.random.default_rng(0)
    for path, node in list(lora.nodes(params)):
        b = jnp.asarray(0.1 * random.standard_normal(node['b'].shape), jnp.float32)
        params = lora.attached(params, {f'{path}_lora': {**node, 'b': b}})
    merged = lora.merged(params, adapters.factorizations)
    with_adapter, without = (model.build().apply({'params': each}, batch)['logits'] for each in (params, merged))
    # Float32: about 100 roundings of logits of about 10.
    np.testing.assert_allclose(with_adapter, without, atol=2e-4)
    assert np.abs(with_adapter - model.build().apply({'params': _bare(merged, params)}, batch)['logits']).max() > 0.1


def _unboxed(params):
    return jax.tree.map(lambda leaf: leaf.value, params, is_leaf=lambda leaf: hasattr(leaf, 'names'))


def _bare(merged, params):
    """The parameters without adapters, not merged."""
    return {
        name: _bare(child, params[name]) if isinstance(child, dict) else params[name] for name, child in merged.items()
    }


def test_the_product_is_that_of_the_sum_of_matrices():
    random = np.random.default_rng(0)
    x_BTHK, out_HKD = random.standard_normal((2, 3, 4, 5)), random.standard_normal((4, 5, 6))
    a, b = random.standard_normal((4, 5, 2)), random.standard_normal((2, 6))
    with jax.enable_x64(True):
        split = low_rank.Factorization.of(('heads', 'head', 'embed'), (0, 1))
        weight = low_rank.AdaptedWeight(
            jnp.asarray(out_HKD), {'a': jnp.asarray(a), 'b': jnp.asarray(b), 'scale': jnp.float64(3)}, split
        )
        found_BTD = weight.product('BTHK,HKD->BTD', jnp.asarray(x_BTHK))
        wanted_BTD = np.einsum('BTHK,HKD->BTD', x_BTHK, out_HKD + 3 * np.einsum('HKR,RD->HKD', a, b))
        np.testing.assert_allclose(found_BTD, wanted_BTD, rtol=1e-12)
        np.testing.assert_allclose(weight.array('float64'), out_HKD + 3 * np.einsum('HKR,RD->HKD', a, b), rtol=1e-12)


def test_dropout_is_on_the_input_of_the_adapter_alone():
    x_BD, key = jnp.ones((1, 4_000)), jax.random.key(0)
    split = low_rank.Factorization.of(('embed', 'hidden'), (0,))
    node = {
        'a': jnp.full((4_000, 1), 1 / 4_000),
        'b': jnp.ones((1, 2)),
        'scale': jnp.float32(1),
        'rate': jnp.float32(0.25),
    }
    weight = low_rank.AdaptedWeight(jnp.ones((4_000, 2)), node, split, key)
    added_BF = weight.product('BD,DF->BF', x_BD) - 4_000
    assert 0.95 < added_BF[0, 0] < 1.05  # Its mean is 1, with a standard deviation of 0.01.
    assert added_BF[0, 0] != 1
    with pytest.raises(config.InputError, match='not multiplied by activations'):
        weight.array('float32')


def test_the_scale_of_a_stabilized_rank():
    assert lora.Lora(rank=16, alpha=8).scale == 0.5
    assert lora.Lora(rank=16, alpha=8, rank_stabilized=True).scale == 2.0


@pytest.mark.parametrize(
    ('adapter', 'message'),
    [
        ({'targets': ('*.attention.querry',)}, r'no matrix of the model matches .*querry.*Did you mean'),
        ({'without': ('pooler',)}, 'adapter.without: no matrix'),
        ({'without': ('*',)}, 'leave no matrix'),
        ({'targets': ('norm.scale',)}, 'no matrix of the model matches'),
        ({'trained': ('classifier.*',)}, 'adapter.trained: no parameter'),
        ({'trained': ('*.attention.query',)}, 'trained in full'),
        ({'rank': 0}, 'rank'),
        ({'alpha': 0.0}, 'alpha'),
    ],
)
def test_a_wrong_adapter_is_refused(adapter, message):
    with pytest.raises(config.InputError, match=message):
        verbs.describe(experiments.check(adapted(lora.Lora(**adapter))))
