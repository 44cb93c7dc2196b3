"""QLoRA: adapters of weights that are stored in few bits, which no step changes."""

import json

import jax
import numpy as np
import pytest

import tiny
from bigmodel_jax import config, verbs
from bigmodel_jax.adapters import lora
from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.interop import huggingface, matching
from bigmodel_jax.interop.files import folder
from bigmodel_jax.interop.peft import adapter_files, base_weights, merging
from bigmodel_jax.optim import schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.quantization import formats, operand, quantization
from bigmodel_jax.report import describe
from bigmodel_jax.runs import directory
from bigmodel_jax.train import initial_state, loop, preparation
from bigmodel_jax.train import step as steps
from bigmodel_jax.train.weights import weight_storage

ADAPTER = lora.Lora(rank=4, alpha=8, targets=('*.attention.*', '*.ffn.*'))
FACTORS = ('_lora.a', '_lora.b')


def adapted(weights, **changes):
    base = {
        'steps': 12, 'checkpoints.every_steps': 6, 'evaluations': (), 'adapter': ADAPTER,
        'optimizer.schedule': schedules.WarmupCosine(peak=3e-2, warmup_steps=1),
        'quantization': quantization.PostTraining(weights=weights, group=8),
    }  # fmt: skip
    return config.vary(tiny.without_dropout(), base | changes)


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='.'): np.asarray(leaf) for path, leaf in leaves}


def same(left, right, names):
    return [name for name in names if left[name].tobytes() != right[name].tobytes()] == []


def at(tree, path):
    for name in path.split('.'):
        tree = tree[name]
    return tree


def check_merged(params, experiment):
    """Each merged matrix is that of few bits plus scale A B, in float64, within float32."""
    adapters = weight_storage.of_experiment(experiment).adapters
    merged = merging.merged_parameters(params, adapters)
    for path, node in lora.nodes(params):
        weight = at(params, path)
        assert isinstance(weight, operand.WeightOperand)
        split = adapters.factorizations[path]
        layers, inputs = weight.shape[0], np.prod([weight.shape[i] for i in split.inputs])
        a, b = (np.asarray(node[name], np.float64) for name in 'ab')
        added = a.reshape(layers, inputs, ADAPTER.rank) @ b.reshape(layers, ADAPTER.rank, -1)
        wanted = np.asarray(weight.array('float32'), np.float64) + ADAPTER.scale * added.reshape(weight.shape)
        np.testing.assert_allclose(at(merged, path), wanted, atol=1e-6, err_msg=path)
    assert not any(map(operand.is_operand, jax.tree.leaves(merged, is_leaf=operand.is_operand)))


def check_described(spec, trained):
    rows = describe.rows(spec.abstract.params, spec.axes, spec.shardings.params, training=spec.groups.described())
    assert {row.path for row in rows if row.training != 'frozen'} == trained
    counts = {kind: sum(row.elements for row in rows if (row.training == 'frozen') == kind) for kind in (True, False)}
    assert spec.trained_parameters == counts[False]
    title = f'{counts[False]:,} trained, {counts[True]:,} frozen'
    assert title in str(describe.render({'parameters': rows}))


@pytest.mark.slow
def test_adapters_learn_and_the_few_bits_stay():
    two = config.vary(ADAPTER, {'targets': ('*.attention.query', '*.ffn.down')})  # Few, to compile quickly.
    experiment = adapted(formats.Int4(), adapter=two, steps=20)
    run = preparation.build(experiment)
    with sharding.use(run.place):
        current, losses = run.spec.init(), []
        first = flat(current.params)
        step = steps.compile_step(experiment, run.spec, run.place)
        for _ in range(experiment.steps):  # Always of the same batch.
            current, traced = step(current, run.place.put_batch(run.data.training(0), run.data.rows))
            losses.append(traced.metrics['loss'])
    losses = [float(mean.total) / float(mean.count) for mean in jax.device_get(losses)]
    assert losses[-1] < losses[0] - 0.1
    last = flat(current.params)
    trained = {name for name in first if name.endswith(FACTORS)}
    assert {name for name in first if first[name].tobytes() != last[name].tobytes()} == trained
    assert first['blocks.layers.ffn.up.values'].dtype == np.uint8  # Two numbers in a byte.
    moments = {name.partition('.mu.')[2] for name in flat(current.opt_state) if '.mu.' in name}
    assert moments == trained
    check_merged(current.params, experiment)
    check_described(run.spec, trained)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """A trained model, and its directory of Hugging Face."""
    path = tmp_path_factory.mktemp('base')
    loop.train(config.vary(tiny.without_dropout(), {'evaluations': ()}), path / 'run')
    verbs.convert(path / 'run', path / 'files')
    return path


def base_digest(files):
    """The digest of the weights before they were rounded, of the files."""
    opened = folder.Folder(files)
    found = matching.match(opened, huggingface.FAMILIES)
    shapes = base_weights.shared_shapes(found.family, found.model)
    return base_weights.digest(shapes, lambda path: matching.slices(found, opened, path))


@pytest.mark.slow
@pytest.mark.parametrize('weights', [formats.Int8(), formats.Int4()])
def test_a_run_in_few_bits_from_a_base_to_a_file_of_peft(weights, base, tmp_path):
    experiment = adapted(weights, initialization=initial_state.FromRun(run=str(base / 'run')))
    loop.train(experiment, tmp_path / 'run', stop_after=7)
    loop.train(experiment, tmp_path / 'run')
    loop.train(experiment, tmp_path / 'whole')
    run = directory.open_run(tmp_path / 'run')
    assert run.digest == directory.open_run(tmp_path / 'whole').digest
    params, dense = run.params(), directory.open_run(base / 'run').params()
    stored = flat(params)
    frozen = flat(experiment.quantization.store(dense, weight_storage.of_experiment(experiment).inputs))
    assert same(stored, frozen, frozen)
    check_merged(params, experiment)

    done = verbs.convert(tmp_path / 'run', tmp_path / 'adapter')
    assert not any('in few bits' in note for note in done.notes)
    assert json.loads((tmp_path / 'adapter' / adapter_files.BASE).read_text())['digest'] == base_digest(base / 'files')
    back = verbs.convert(tmp_path / 'adapter', tmp_path / 'back', base=base / 'files')
    assert not any('does not say to which weights' in note for note in back.notes)
    assert run.parameters == sum(leaf.size for leaf in jax.tree.leaves(dense)) + sum(
        stored[name].size for name in stored if '_lora.' in name
    )
    restored = run.restore()
    prompt, how = np.arange(1, 4), decoding.Greedy()
    texts = decoding.decode(experiment.model, restored.params, [prompt], tokens=2, decoding=how, end=0)
    assert len(texts[0][0].tokens) > 0
    factors = flat(directory.open_run(tmp_path / 'back').params())
    assert same(stored, factors, [name for name in stored if name.endswith(FACTORS)])

    done = verbs.convert(tmp_path / 'run', tmp_path / 'merged', merge=True)
    assert 'merged = unmerged within float32' in done.notes[-1]
