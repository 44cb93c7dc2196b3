"""`verify` finds an honest run bit-identical, and in one that was tampered with the step and the tensor."""

import json
import shutil

import pytest
from etils import epath

import tiny
from bigmodel_jax import __main__, config, experiment
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.reproduce import repeat, verify
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train import loop
from runs import quick

# Checkpoints fall between reports, and are all kept.
CHANGES = {'watch.log_every': 3, 'checkpoints.every_steps': 2, 'checkpoints.keep_last': 9}


@pytest.fixture(scope='module', autouse=True)
def no_repository(tmp_path_factory):
    """Runs record the repository around the working directory; here there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp('elsewhere'))
        yield


@pytest.fixture(scope='module')
def honest(tmp_path_factory):
    path = tmp_path_factory.mktemp('honest')
    loop.train(config.vary(quick.experiment(), CHANGES), path)
    return path


@pytest.fixture
def copy(honest, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(honest, tmp_path / 'run')
    return tmp_path / 'run'


def verified(path, **how):
    return verify.verify(directory.open_run(path), **how)


def rewrite(path, change):
    written = event_log.read_all(path)
    for record in written:
        change(record)
    path.write_text(''.join(event_log.encode(record) + '\n' for record in written))


def content(path):
    return {each.relative_to(path): each.read_bytes() for each in sorted(path.rglob('*')) if each.is_file()}


# ---- honest -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('how', 'steps'),
    [({}, (0, 6)), ({'steps': 4}, (0, 4)), ({'between': (2, 5)}, (2, 5)), ({'between': (4, 6)}, (4, 6))],
    ids=['whole', 'steps', 'between', 'to the end'],
)
def test_an_honest_run_is_bit_identical_and_left_alone(honest, how, steps):
    before = content(honest)
    found = verified(honest, **how)
    assert found.identical, found.first
    assert ((found.after, found.until), found.step) == (steps, None)
    assert content(honest) == before
    compared = {section.title for section in found.sections if section.compared}
    assert compared >= {'data', 'metrics', 'layers', 'checkpoints'}
    assert not any(section.findings for section in found.conditions)


def test_a_run_that_was_resumed_on_another_mesh_is_repeated_on_both(tmp_path):
    changed = config.vary(quick.experiment(), {'mesh.data': 8})
    loop.train(quick.experiment(), tmp_path, stop_after=3)
    loop.train(changed, tmp_path)
    found = verified(tmp_path)
    assert found.identical, found.first
    assert [entry['mesh']['data'] for _, entry in repeat.sessions_of(found.run, 0, 6)] == [1, 8]


def test_a_run_that_rolled_back_is_bit_identical(tmp_path):
    loop.train(quick.rolling_back(), tmp_path)
    found = verified(tmp_path)
    assert found.identical, found.first


# ---- tampered with ----------------------------------------------------------------------------------------------


def test_an_altered_metric(copy):
    def change(record):
        if record['kind'] == 'train' and record['step'] == 6:
            record['metrics']['loss'] += 1e-6

    rewrite(copy / 'metrics.jsonl', change)
    found = verified(copy)
    assert (found.identical, found.step, found.first.what, found.equal_until) == (False, 6, 'step 6 loss', 3)


def test_an_altered_fingerprint_names_the_step_and_the_tensor(copy):
    def change(record):
        if record['kind'] == 'fingerprint' and record['step'] == 4:
            record['checksums'][record['names'].index('mix[1]')] = '0' * 16

    rewrite(copy / durable_files.TRACE, change)
    found = verified(copy)
    assert (found.step, found.first.what) == (4, 'step 4 parameters')
    assert '1 of 3 pieces differ: mix[1]' in found.first.text


def test_an_altered_certificate(copy):
    def change(record):
        if record['kind'] == 'certificates' and record['step'] == 3:
            record['ids'][-1] = '0' * 16

    rewrite(copy / durable_files.TRACE, change)
    found = verified(copy)
    assert (found.step, found.first.what) == (3, 'step 3 ids')


def test_a_flipped_bit_in_the_trace_is_told_as_damage_and_not_as_another_step(copy):
    path = copy / durable_files.TRACE
    content = path.read_bytes()
    at = content.index(b'"ids": ["') + 9
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    found = verified(copy)
    assert not found.identical
    assert 'trace.jsonl, line ' in found.first.text
    assert 'damaged' in found.first.text
    assert not [each for each in found.sections if each.findings and each.title != 'log']


def test_an_altered_checkpoint_names_the_array(copy):
    run = directory.open_run(copy)
    asked = repeat.on_mesh(run.experiment, run.environment[-1])
    state, position = repeat.restore(run, asked, 4)
    state.params['table'] = state.params['table'].at[3, 5].add(1e-7)
    with checkpoints.Checkpointer(epath.Path(copy), experiment.Checkpoints(keep_last=9)) as store:
        store.save(state, position, {})
        assert store.finish() is None
    found = verified(copy, between=(2, 4))
    assert (found.step, found.first.what, found.equal_until) == (4, 'checkpoint 4', 3)
    assert '1 of ' in found.first.text
    assert 'params.table' in found.first.text


def test_a_damaged_checkpoint_is_told(copy):
    data = max((copy / 'checkpoints' / '4').rglob('*'), key=lambda path: path.is_file() and path.stat().st_size)
    flipped = bytearray(data.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    data.write_bytes(flipped)
    found = verified(copy, steps=4)
    assert (found.step, found.first.what) == (4, 'checkpoint 4')
    assert 'damaged' in found.first.text


def test_nothing_is_repeated_from_a_damaged_checkpoint(copy):
    data = max((copy / 'checkpoints' / '4').rglob('*'), key=lambda path: path.is_file() and path.stat().st_size)
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(config.InputError, match='Use another step'):
        verified(copy, between=(4, 6))


def test_where_it_is_repeated_otherwise_it_warns(copy):
    sessions = json.loads((copy / 'environment.json').read_text())
    sessions[0]['versions']['jax'] = '0.1'
    sessions[0]['xla_flags'] += ' --xla_foo=1'
    (copy / durable_files.SUMS).unlink()
    (copy / 'environment.json').write_text(json.dumps(sessions))
    said = []
    found = verified(copy, steps=2, say=said.append)
    assert found.identical
    assert any('jax: 0.1 -> ' in line for line in said)
    assert any('--xla_foo: 1 -> (absent)' in line for line in said)


# ---- wrong input, and the command -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ({'steps': 7}, 'the run recorded steps 1 to 6'),
        ({'between': (3, 5)}, 'there is no checkpoint of step 3; there are: 2, 4, 6'),
        ({'between': (4, 4)}, 'use a second step from 5 to 6'),
        ({'experiment_file': f'{tiny.__file__}:experiment'}, 'is not the experiment of'),
    ],
)
def test_wrong_input(honest, how, message):
    with pytest.raises(config.InputError, match=message):
        verified(honest, **how)


def test_too_few_devices(copy):
    sessions = json.loads((copy / 'environment.json').read_text())
    sessions[0]['mesh']['data'] = 64
    (copy / durable_files.SUMS).unlink()
    (copy / 'environment.json').write_text(json.dumps(sessions))
    with pytest.raises(config.InputError, match=r'worked on 64 devices .* --simulate-devices 64'):
        verified(copy)


def test_the_command(honest, copy, tmp_path, capfd):
    keep = tmp_path / 'kept'
    words = ['verify', str(honest), '--experiment', f'{quick.__file__}', '--steps', '3', '--keep', str(keep)]
    # Classes of an experiment file are known under its name; those of this run, under that of the test's module.
    assert __main__.main(argv=words) == 0
    out = capfd.readouterr().out
    assert out.startswith('bit-identical: steps 1 to 3 of')
    assert (keep / 'metrics.jsonl').exists()
    assert __main__.main(argv=words) == 2
    assert 'is there already' in capfd.readouterr().err
    rewrite(copy / durable_files.TRACE, lambda record: record.update(key='0' * 16) if 'key' in record else None)
    assert __main__.main(argv=['verify', str(copy), '--steps', '2']) == 1
    assert capfd.readouterr().out.startswith('differs: step 1 key')
