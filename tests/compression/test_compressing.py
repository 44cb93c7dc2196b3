"""A run made smaller: what is stored is what is read, and the report says what it gained and cost."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from bigmodel_jax import __main__, config
from bigmodel_jax.compression import compressing, methods
from bigmodel_jax.optim import pruning
from bigmodel_jax.quantization import formats, operand, quantization, training
from bigmodel_jax.runs import directory
from bigmodel_jax.train import loop


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp('elsewhere'))  # Runs record the repository around them.
        path = tmp_path_factory.mktemp('run')
        loop.train(config.vary(tiny.experiment(), {'steps': 4}), path)
        yield path


@pytest.mark.slow
def test_int8_is_stored_read_and_compared(run, tmp_path, capsys):
    assert __main__.main(argv=['compress', str(run), str(tmp_path / 'int8'), '--weights', 'int8']) == 0
    assert 'the loss of an example changed by' in capsys.readouterr().out
    original, small = directory.open_run(run).restore(), directory.open_run(tmp_path / 'int8').restore()
    dense = quantization.dense(small.params)
    assert any(map(operand.is_operand, jax.tree.leaves(small.params, is_leaf=operand.is_operand)))
    assert jax.tree.structure(dense) == jax.tree.structure(original.params)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=float(jnp.abs(y).max()) / 253), dense, original.params
    )
    report = report_of(tmp_path / 'int8')
    assert report['after']['weights_bytes'] < 0.4 * report['before']['weights_bytes']
    (quality,) = report['quality']
    assert quality['low'] <= quality['after'] - quality['before'] <= quality['high']
    assert list(small.evaluate()) == ['validation']


def report_of(path):
    return json.loads((path / compressing.REPORT).read_text())


@pytest.mark.slow
def test_heads_and_units_are_really_removed(run, tmp_path):
    model = directory.open_run(run).experiment.model
    heads, hidden = model.block.mixer.heads - 1, model.block.ffn.hidden // 2
    found = compressing.compress(run, tmp_path / 'few', methods.PruneStructures(heads=heads, hidden=hidden))
    assert found.after.weights_bytes < found.before.weights_bytes
    small = directory.open_run(tmp_path / 'few').restore()
    assert small.experiment.model.block.mixer.heads == heads
    assert {x.shape[-1] for x in jax.tree.leaves(small.params['blocks']['layers']['ffn']['up'])} == {hidden}
    with pytest.raises(config.InputError, match='exists already'):
        compressing.compress(run, tmp_path / 'few', methods.PruneStructures(heads=heads))
    with pytest.raises(config.InputError, match='fewer are to stay'):
        compressing.compress(run, tmp_path / 'none', methods.PruneStructures(heads=heads + 1))


@pytest.mark.slow
def test_a_pruned_run_has_its_zeros(run, tmp_path):
    found = compressing.compress(run, tmp_path / 'half', methods.PruneBlocks(kept=2, block=4))
    pruned = directory.open_run(tmp_path / 'half')
    assert isinstance(pruned.experiment.optimizer, pruning.Pruned)
    assert 0.45 < found.after.zeros < 0.55


@pytest.mark.parametrize('text', ['1.5', '0', '4:4', 'half', '2:x'])
def test_a_share_must_be_one(run, tmp_path, text, capsys):
    assert __main__.main(argv=['compress', str(run), str(tmp_path / 'x'), '--prune', text]) == 2
    assert not (tmp_path / 'x').exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    'how',
    [
        training.QuantizationAware(weights=formats.Int4()),
        training.LowPrecision(match=('*.ffn.*', '*.attention.*')),
    ],
)
def test_a_run_is_trained_in_few_bits_and_what_was_rounded_in_training_loses_nothing(how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loop.train(config.vary(tiny.experiment(), {'steps': 4, 'quantization': how}), tmp_path / 'run')
    trained = directory.open_run(tmp_path / 'run')
    recorded = trained.metrics('validation/loss')[1][-1]
    assert np.isfinite(recorded)
    if isinstance(how, training.QuantizationAware):
        post = quantization.PostTraining(weights=how.weights)
        found = compressing.compress(tmp_path / 'run', tmp_path / 'small', methods.Quantize(quantization=post))
        # The same numbers, but for the last bit of a scale.
        assert found.after.metrics['validation/loss'] == pytest.approx(float(recorded), rel=1e-5)
