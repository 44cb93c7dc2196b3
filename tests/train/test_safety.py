"""What must never happen to a run: an overwritten directory, a cast checkpoint, a saved nan, a lost signal."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import tiny
from bigmodel_jax import config
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import digest, workdir
from bigmodel_jax.train import loop, metrics, preparation


def test_another_experiment_is_not_overwritten(tmp_path):
    loop.train(tiny.experiment(), tmp_path, stop_after=2)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob('*')) if path.is_file()}
    other = config.vary(tiny.experiment(), {'optimizer.b2': 0.9, 'data.batch': 16})
    with pytest.raises(config.InputError) as error:
        loop.train(other, tmp_path)
    assert 'data.batch: 8 -> 16' in str(error.value)
    assert 'optimizer.b2: 0.999 -> 0.9' in str(error.value)
    assert before == {path: path.read_bytes() for path in sorted(tmp_path.rglob('*')) if path.is_file()}


def test_a_directory_with_other_files_is_not_used(tmp_path):
    (tmp_path / 'thesis.tex').write_text('x')
    with pytest.raises(config.InputError, match=r'holds no run .* thesis\.tex'):
        loop.train(tiny.experiment(), tmp_path)


def test_wrong_input_leaves_no_directory_behind(tmp_path):
    too_large = config.vary(tiny.experiment(), {'mesh.data': 64})
    with pytest.raises(config.InputError, match='needs 64 devices, but there are 8'):
        loop.train(too_large, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_damaged_experiment_file_is_named(tmp_path):
    (tmp_path / 'experiment.json').write_text('{"name": ')
    with pytest.raises(config.InputError, match=r'experiment\.json is damaged'):
        workdir.check(tmp_path, tiny.experiment())


@pytest.mark.parametrize('name', ['shape', 'dtype', 'missing'])
def test_a_checkpoint_of_another_model_is_refused(tmp_path, name):
    run = preparation.build(tiny.experiment())
    with sharding.use(run.place):
        state = run.spec.init()
    with checkpoints.Checkpointer(epath.Path(tmp_path), tiny.experiment().checkpoints) as store:
        store.save(state, {'step': 1}, {})
        assert store.finish() is None
    abstract, shardings = run.spec.abstract, run.spec.shardings
    norm = abstract.params['norm']
    if name == 'missing':
        norm = norm | {'third': norm['scale']}
        places = shardings.params['norm'] | {'third': run.place.replicated}
        shardings = shardings._replace(params=shardings.params | {'norm': places})
    else:
        shape, dtype = ((99,), jnp.float32) if name == 'shape' else (norm['scale'].shape, jnp.bfloat16)
        norm = norm | {'scale': jax.ShapeDtypeStruct(shape, dtype)}
    abstract = abstract._replace(params=abstract.params | {'norm': norm})
    with checkpoints.Checkpointer(epath.Path(tmp_path), None) as store, pytest.raises(config.InputError) as error:
        store.restore(abstract, shardings, 1)
    wanted = 'params.norm.third' if name == 'missing' else 'params.norm.scale: float32[16] in the checkpoint'
    assert wanted in str(error.value)


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(tmp_path):
    experiment = config.vary(tiny.experiment(), {'data.poisoned': True})
    with pytest.raises(metrics.Anomalous, match=r'step 1: not finite: loss nan, .*\. There is no checkpoint yet'):
        loop.train(experiment, tmp_path)
    assert not [path for path in (tmp_path / 'checkpoints').iterdir() if path.name.isdigit()]


def test_the_digest_sees_every_bit_and_not_the_mesh():
    numbers = jnp.arange(64, dtype=jnp.float32).reshape(8, 8)
    tree = {'a': numbers, 'b': jnp.ones(3, jnp.bfloat16), 'c': jnp.array([True])}
    place = sharding.MeshShape(data=2, fsdp=4).build()
    split = tree | {'a': jax.device_put(tree['a'], place.sharding(('batch', 'embed')))}
    assert digest.digest(tree) == digest.digest(split)
    a = np.array(tree['a'])
    a[3, 4] = np.nextafter(a[3, 4], np.inf)
    swapped = tree['a'].at[0, 1].set(tree['a'][0, 2]).at[0, 2].set(tree['a'][0, 1])
    others = [tree | {'a': jnp.array(a)}, tree | {'a': swapped}, tree | {'a': tree['a'].T}, {'x': tree['a'], **tree}]
    assert len({digest.digest(each) for each in [tree, *others]}) == 5


def endless(tmp_path, *more: str, **how):
    """A run that has begun, and would go on for hours; and its log."""
    file = str(epath.Path(tiny.__file__))
    command = [sys.executable, '-m', 'bigmodel_jax', 'train', file, '--workdir', str(tmp_path / 'run'), *more]
    settings = ['--set', 'steps=1000000', '--set', 'evaluations=()']
    process = subprocess.Popen(command + settings, stderr=subprocess.STDOUT, text=True, **how)
    log, deadline = tmp_path / 'run' / 'metrics.jsonl', time.monotonic() + 120
    while not (log.exists() and '"train"' in log.read_text()):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process, log


NUMBERS = [
    signal.SIGINT,
    *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)),
]


@pytest.mark.parametrize('number', NUMBERS)
def test_a_signal_saves_and_ends_cleanly_and_the_run_goes_on(tmp_path, number):
    process, log = endless(tmp_path, stdout=subprocess.PIPE)
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output  # A loop in a shell stops, and a scheduler starts it again.
    assert 'Traceback' not in output
    name = signal.Signals(number).name
    last = json.loads(log.read_text().splitlines()[-1])
    assert (last['kind'], last['reason']) == ('stop', name)
    assert f'{name}: stopping after step {last["step"]}, saving a checkpoint' in output
    assert f'stopped by {name} at step {last["step"]} of 1000000; the same command resumes it' in output
    assert (tmp_path / 'run' / 'checkpoints' / str(last['step'])).is_dir()


def test_a_second_ctrl_c_stops_at_once_also_while_the_main_thread_is_busy(tmp_path):
    """The main thread is in C, as when it compiles: no handler in Python runs before it returns."""
    program = (
        'import hashlib\n'
        'from bigmodel_jax.hosts import preemption\n'
        'from bigmodel_jax.parallel import sharding\n'
        'with preemption.listen(sharding.MeshShape(data=1).build()):\n'
        '    print("ready", flush=True)\n'
        '    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)\n'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == 'ready\n'
    os.kill(process.pid, signal.SIGINT)
    assert process.stderr.readline().startswith('SIGINT: stopping after the next step, saving a checkpoint')
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(20) == 128 + signal.SIGINT
    assert process.stderr.read() == 'SIGINT again: stopped at once\n'


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_end_the_training(tmp_path):
    read, write = os.pipe()
    process, log = endless(tmp_path, '--set', 'watch.log_every=1', stdout=write)
    os.close(write)
    os.close(read)
    before, deadline = log.stat().st_size, time.monotonic() + 120
    while log.stat().st_size < before + 100_000 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert json.loads(log.read_text().splitlines()[-1])['reason'] == 'SIGTERM'
