"""Modules of plain Flax, which name no axes, train like any other: with every optimizer, on every mesh, bit for bit."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from bigmodel_jax import config, verbs
from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.models import model
from bigmodel_jax.objectives import classification
from bigmodel_jax.optim import gradients, masks, optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.report import describe
from bigmodel_jax.run_directory import event_log, fingerprints
from bigmodel_jax.train import loop, preparation

CLASSES, SIDE = 4, 4
CONSTANT = schedules.Constant(peak=1e-2)
OPTIMIZERS = {
    'adamw': optimizers.AdamW(schedule=CONSTANT, weight_decay=0.1, clip_norm=1.0),
    'adafactor': optimizers.Adafactor(schedule=CONSTANT, weight_decay=0.1, smallest=2),
    'lion': optimizers.Lion(schedule=CONSTANT, weight_decay=0.1),
    'sgd': optimizers.Sgd(schedule=CONSTANT, weight_decay=0.1),
    'muon': optimizers.Muon(schedule=CONSTANT, weight_decay=0.1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images(batches.Data):
    """Noise whose mean tells the class."""

    batch: config.Positive

    @property
    def fields(self):
        return {
            'image': batches.Field((SIDE, SIDE, 3), np.dtype(np.float32), ('height', 'width', 'channels')),
            'labels': batches.Field((), np.dtype(np.int32), (), CLASSES),
        }

    def build(self, seed):
        random = np.random.default_rng(0)
        labels = random.integers(0, CLASSES, 64).astype(np.int32)
        image = labels[:, None, None, None] + random.random((64, SIDE, SIDE, 3), np.float32)
        arrays = {'image': image.astype(np.float32), 'labels': labels}
        examples = batches.ArrayExamples(arrays, self.fields, fingerprint={})
        return batches.Batches(examples, rows=self.batch, seed=seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(model.Model):
    """A convolution, a normalization, a scalar, dropout and a classifier; if `deep`, more than these."""

    normalize: bool = True
    dropout: float = 0.1
    deep: bool = False
    always_training: bool = False

    def build(self, name=None):
        return PlainModule(self, name=name)


class PlainModule(nn.Module):
    config: Plain

    @nn.compact
    def __call__(self, batch):
        evaluates = not self.has_rng('dropout')
        x = nn.Conv(8, (3, 3))(batch['image'])
        if self.config.normalize:
            x = nn.BatchNorm(use_running_average=evaluates and not self.config.always_training)(x)
        x = nn.PReLU()(x).reshape(x.shape[0], -1, 8)
        if self.config.deep:
            x = nn.RNN(nn.LSTMCell(8))(x)
            x = nn.MultiHeadDotProductAttention(num_heads=2)(x)
        self.sow('intermediates', 'seen', x)
        x = nn.Dropout(self.config.dropout, deterministic=evaluates)(x.mean(axis=1))
        return {'logits': nn.Dense(CLASSES)(x)}


def experiment(**changes):
    base = Experiment(
        name='plain',
        steps=4,
        data=Images(batch=8),
        model=Plain(),
        objective=classification.Classification(),
        optimizer=OPTIMIZERS['adamw'],
        mesh=sharding.MeshShape(data=1),
        evaluations=(loss.Loss(data=Images(batch=8), every_steps=2),),
        checkpoints=Checkpoints(every_steps=2),
        watch=Watch(log_every=1, fingerprints_every=2),
    )
    return config.vary(base, changes)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp('plain')
    return loop.train(experiment(), directory)


def losses(result):
    found = event_log.read(result.workdir / 'metrics.jsonl')
    return [each['metrics']['loss'] for each in found if each['kind'] == 'train']


def test_it_resumes_bit_for_bit(trained, tmp_path):
    loop.train(experiment(), tmp_path, stop_after=2)
    assert loop.train(experiment(), tmp_path).digest == trained.digest
    assert np.isfinite(losses(trained)).all()


def test_its_batch_statistics_are_trained_and_used_in_evaluation(trained):
    run = verbs.open_run(trained.workdir).restore()
    mean = run.model_state['batch_stats']['BatchNorm_0']['mean']
    assert np.abs(np.asarray(mean)).max() > 0
    assert run.evaluate()['validation'].values['loss'] == pytest.approx(trained.metrics['validation/loss'])
    assert set(run.model_state) == {'batch_stats'}  # What a module notes of a batch is no state.


def test_it_has_a_fingerprint_of_every_array(trained):
    found = [each for each in event_log.read(trained.workdir / 'trace.jsonl') if 'checksums' in each]
    run = preparation.build(experiment())
    assert found[0]['names'] == fingerprints.pieces(run.spec.abstract.params, (False,) * len(found[0]['names']))


@pytest.mark.slow
@pytest.mark.parametrize(
    'changes',
    [
        {'mesh.data': 1, 'mesh.fsdp': 2},
        {'gradients': gradients.Microbatches(parts=2), 'model.normalize': False, 'model.dropout': 0.0},
    ],
    ids=str,
)
def test_a_mesh_and_microbatches_change_nothing(trained, tmp_path, changes):
    """Sums in another order: the last bits of float32."""
    # Each microbatch has batch statistics and dropout of its own.
    same = {'model.normalize': False, 'model.dropout': 0.0}
    alone = loop.train(experiment(**same), tmp_path / 'alone') if 'gradients' in changes else trained
    result = loop.train(experiment(**changes), tmp_path / 'a')
    assert losses(result) == pytest.approx(losses(alone), rel=1e-4)


@pytest.mark.slow
def test_a_fixed_order_of_sums_gives_the_bits_of_one_device(tmp_path):
    fixed = {'model.normalize': False, 'gradients': gradients.FixedOrder(parts=2)}
    one = loop.train(experiment(**fixed), tmp_path / 'one')
    two = loop.train(experiment(**fixed, **{'mesh.data': 1, 'mesh.fsdp': 2}), tmp_path / 'two')
    assert one.digest == two.digest


@pytest.mark.parametrize('name', [name for name in OPTIMIZERS if name != 'adamw'])
def test_every_optimizer_updates_every_array(name):
    """One update on given gradients, without compiling a whole step."""
    random = np.random.default_rng(0)
    params, grads = (jax.tree.map(lambda x: random.normal(size=x.shape).astype('f'), shapes(False)) for _ in range(2))
    optimizer = OPTIMIZERS[name]
    rule = optimizer.build(4, optimizer.assign(axes_of(params)))
    updates, _ = jax.jit(lambda grads, params: rule.update(grads, rule.init(params), params))(grads, params)
    moved = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(updates)}
    assert all(np.isfinite(x).all() and np.abs(np.asarray(x)).max() > 0 for x in moved.values()), moved


def shapes(deep):
    batch = {'image': np.zeros((2, SIDE, SIDE, 3), np.float32)}
    return jax.eval_shape(Plain(deep=deep).build().init, jax.random.key(0), batch)['params']


def axes_of(params):
    return jax.tree.map(lambda x: (None,) * x.ndim, params)


def test_matrices_decay_and_vectors_do_not():
    params = shapes(True)
    decays = masks.decayed(axes_of(params))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name, node = path[-1].key, decays
        for key in path:
            node = node[key.key]
        assert node == (name == 'kernel'), (path, leaf.shape)


def test_muon_sees_a_convolution_as_a_matrix_on_patches():
    chosen = masks.orthogonalised(axes_of(shapes(True)))
    conv, attention = chosen['Conv_0'], chosen['MultiHeadDotProductAttention_0']
    assert conv['kernel'] == ((0, 1, 2), (3,))
    assert conv['bias'] is None
    assert attention['query']['kernel'] == ((0,), (1, 2))
    assert attention['out']['kernel'] == ((0, 1), (2,))
    assert chosen['PReLU_0']['negative_slope'] is None


def test_describe_says_where_its_arrays_lie():
    groups = verbs.describe(experiment(**{'mesh.data': 2, 'mesh.fsdp': 4}))
    specs = {row.path: row.spec for row in groups['parameters']}
    assert specs['Conv_0.kernel'] == (None, None, None, 'fsdp')  # 3 x 3 x 3 x 8.
    assert specs['Dense_0.kernel'] == ('fsdp', None)  # 8 x 4.
    assert specs['Dense_0.bias'] == (None,)
    assert 'split along the largest one that divides' in describe.render(groups).plain
    moments = {row.path: row.spec for row in groups['optimizer state'] if row.path.endswith('mu.Dense_0.kernel')}
    assert list(moments.values()) == [('fsdp', None)]


def test_a_module_that_changes_its_state_in_evaluation_is_refused_before_it_trains():
    wrong = experiment(**{'model.always_training': True})
    with pytest.raises(
        config.InputError, match=r'changes batch_stats in evaluation.*argument `train: bool`.*not train\.'
    ):
        preparation.build(wrong)
    assert preparation.build(config.vary(wrong, {'evaluations': ()}))  # Without evaluations it may train.
