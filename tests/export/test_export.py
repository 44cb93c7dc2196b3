"""An exported model: the same numbers as the run's, from files that need no code of ours; and what is refused."""

import json

import jax
import numpy as np
import pytest
from interop import published

from bigmodel_jax import config
from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.export import card, exporting, loader, opened, programs
from bigmodel_jax.interop import conversion
from bigmodel_jax.objectives import objective
from bigmodel_jax.requirement import Requirement
from bigmodel_jax.runs import directory
from runs import run_maker

END = 2  # Of the oracle's vocabulary.


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """(run, exported directory) of a small GPT-2 whose logits PyTorch has computed."""
    folder = tmp_path_factory.mktemp('export')
    conversion.convert(published.ORACLES / 'gpt2', folder / 'run')
    run = directory.open_run(folder / 'run')
    done = exporting.export(run, folder / 'exported', exporting.ExportOptions(license='mit'))
    return run, done.path


@pytest.fixture(scope='module')
def reference():
    """What transformers computes with the same weights."""
    return np.load(published.ORACLES / 'gpt2' / 'io.npz')


@pytest.fixture(scope='module')
def loaded(made):
    return loader.load(made[1])


def test_decoding_is_that_of_the_run_and_of_the_reference(made, loaded, reference):
    """The same tokens as our decode() and as transformers' generate(); prompts are padded as decode() pads them."""
    trained, prompts_BT = made[0].restore(), reference['in/input_ids'].astype(np.int32)
    rows, length = prompts_BT.shape
    new = reference['generated'].shape[1] - length
    how = {'tokens': new, 'decoding': decoding.Greedy(), 'end': END}
    best = [each[0] for each in decoding.decode(trained.experiment.model, trained.params, list(prompts_BT), **how)]
    tokens_BT = np.zeros((rows, decoding.PADDED_TO), np.int32)
    tokens_BT[:, :length] = prompts_BT
    inputs = {'inputs': tokens_BT, 'lengths': np.full(rows, length, np.int32)}
    outputs, cache = loaded.programs['prefill'](loaded.weights, inputs, loaded.empty_cache(rows=rows, slots=24))
    found_BT, log_p_BT = np.zeros((rows, new), np.int32), np.zeros((rows, new))
    for step in range(new):
        token_B = np.asarray(outputs['logits'].argmax(-1)).astype(np.int32)
        found_BT[:, step] = token_B
        log_p_BT[:, step] = np.asarray(jax.nn.log_softmax(outputs['logits']))[np.arange(rows), token_B]
        inputs = {'inputs': token_B, 'positions': np.full(rows, length + step, np.int32)}
        outputs, cache = loaded.programs['decode'](loaded.weights, inputs, cache)
    for row, each in enumerate(best):
        count = len(each.tokens)
        np.testing.assert_array_equal(found_BT[row, :count], each.tokens)
        np.testing.assert_array_equal(each.tokens, reference['generated'][row, length : length + count])
        # Summed in float64 here and in float32 there.
        np.testing.assert_allclose(log_p_BT[row, :count].sum(), each.log_p, rtol=1e-5)


def test_forward_is_that_of_the_run_and_of_the_reference(made, loaded, reference):
    trained = made[0].restore()
    tokens_BT = reference['in/input_ids'].astype(np.int32)
    found = np.asarray(loaded.programs['forward'](loaded.weights, {'inputs': tokens_BT})['logits'])
    own = jax.jit(
        lambda params: objective.Apply(trained.experiment.model.build(), params, {})({'inputs': tokens_BT})[0]
    )
    np.testing.assert_array_equal(found, own(trained.params)['logits'])
    # What the reference itself differs from float64 by, in float32 and in another order of sums.
    np.testing.assert_allclose(found, reference['out64/logits'], atol=10 * reference['tolerance/float32'].max())


def test_one_program_is_for_cpu_cuda_and_tpu_and_every_size(made):
    signature = json.loads((made[1] / 'signature.json').read_text())
    for name, each in signature['programs'].items():
        exported = jax.export.deserialize(bytearray((made[1] / each['file']).read_bytes()))
        assert exported.platforms == ('cpu', 'cuda', 'tpu')
        sizes = {str(size) for aval in exported.in_avals for size in aval.shape if not isinstance(size, int)}
        assert sizes == {'forward': {'rows', 'length'}, 'prefill': {'rows', 'length', 'slots'}}.get(
            name, {'rows', 'slots'}
        )
    assert signature['dimensions']['length'] | {'meaning': ''} == {'meaning': '', 'at_least': 1, 'at_most': 24}
    shapes = made[0].restore().params
    assert signature['weights']['parameters'] == sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ('program', 'inputs', 'message'),
    [
        ('forward', {'inputs': np.ones((1, 25), np.int32)}, 'with length from 1 to 24'),
        ('forward', {'inputs': np.ones((0, 4), np.int32)}, 'with rows from 1'),
        ('forward', {'inputs': np.ones(4, np.int32)}, r'should be \['),
        ('forward', {'tokens': np.ones((1, 4), np.int32)}, 'The inputs are inputs; these are tokens'),
        ('prefill', {'inputs': np.ones((2, 4), np.int32), 'lengths': np.ones(3, np.int32)}, "see {'rows': 2"),
    ],
)
def test_arguments_that_do_not_fit_are_named(loaded, program, inputs, message):
    cache = [loaded.empty_cache(rows=2, slots=24)] if program == 'prefill' else []
    with pytest.raises(ValueError, match=message):
        loaded.programs[program](loaded.weights, inputs, *cache)


def test_this_package_opens_it_as_the_model_of_the_run(made):
    found, own = opened.open_export(made[1]), made[0].restore()
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), found.trained.params, own.params))
    assert found.trained.experiment.model == own.experiment.model
    assert found.missed == ()
    assert opened.is_exported(made[1])
    assert not opened.is_exported(made[0].path)
    with pytest.raises(config.InputError, match='not an exported model'):
        opened.open_export(made[0].path)


def test_nothing_is_overwritten(made):
    before = {path: path.stat().st_mtime_ns for path in made[1].rglob('*')}
    with pytest.raises(config.InputError, match='exists already; nothing was changed'):
        exporting.export(made[0], made[1])
    assert {path: path.stat().st_mtime_ns for path in made[1].rglob('*')} == before


@pytest.mark.parametrize('name', ['weights.safetensors', 'programs/forward.jax_export', 'signature.json', 'load.py'])
def test_a_flipped_bit_is_found(made, name):
    path = made[1] / name
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=f'{name} is not as it was written'):
            loader.load(made[1])
        with pytest.raises(config.InputError, match=f'{name} is missing or not as it was written'):
            opened.open_export(made[1])
    finally:
        path.write_bytes(content)


def test_the_card_says_what_is_known_and_no_place_of_this_machine(made):
    text = (made[1] / 'README.md').read_text()
    assert text.startswith('---\nlicense: mit\n')
    assert exporting.sha256(made[1] / 'weights.safetensors') in text
    assert str(made[0].path) not in text


def test_a_crafted_name_is_text():
    assert card.code('a`b\n# <b>|[x](y)') == "`a'b # <b>\\|[x](y)`"
    for name in ('mit\nevil: 1', '', 'a b', '<b>'):
        with pytest.raises(config.InputError, match='SPDX'):
            card.check_license(name)


def test_a_run_that_does_not_meet_its_requirements_is_refused_before_anything_is_read(tmp_path):
    path = run_maker.finished(tmp_path / 'run', every=250)
    stored = json.loads((path / 'experiment.json').read_text())
    stored['requires'] = [config.to_json(Requirement('validation/loss', at_most=0.5))]
    (path / 'experiment.json').write_text(json.dumps(stored))
    run = directory.open_run(path)
    with pytest.raises(config.InputError, match=r'validation/loss <= 0.5 \(.* at step 2,000\).*export it all the same'):
        exporting.export(run, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'dtype': 'int8'}, 'stored in float32, bfloat16, float16'),
        ({'license': '<script>'}, 'SPDX'),
        ({'step': 7}, 'no checkpoint of step 7'),
        ({'weights': 'ema'}, 'no moving average'),
        ({'fixed': exporting.dimensions.FixedSizes(length=25)}, 'reads at most 24 tokens'),
    ],
)
def test_what_cannot_be_is_said_and_leaves_nothing(made, tmp_path, options, message):
    with pytest.raises(config.InputError, match=message):
        exporting.export(made[0], tmp_path / 'out', exporting.ExportOptions(**options))
    assert not list(tmp_path.iterdir())


def test_a_link_in_place_of_the_directory_is_not_followed(made, tmp_path):
    (tmp_path / 'out').symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(config.InputError, match='exists already'):
        exporting.export(made[0], tmp_path / 'out')
    assert not (tmp_path / 'elsewhere').exists()


def test_forced_kernels_are_left_out():
    from bigmodel_jax.kernels import splash
    from bigmodel_jax.models import decoder

    model = decoder.gpt(vocab=8, width=8, layers=1, heads=1, length=8)
    forced = config.vary(model, {'block.mixer.kernel': splash.Splash()})
    assert programs.portable(forced) == (model, True)
    assert programs.portable(model) == (model, False)
