"""Several processes compute what one computes, stop as one, fail as one, and write what is written once, once."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

import tiny
from bigmodel_jax import config, experiment_file, verbs
from bigmodel_jax.hosts import __main__ as launcher_command
from bigmodel_jax.hosts import joining, simulation
from bigmodel_jax.reproduce.chaos import forks
from bigmodel_jax.train import loop

ROOT = pathlib.Path(__file__).parents[2]
TINY = ROOT / 'tests' / 'tiny.py'
SMALL = ROOT / 'tests' / 'reproduce' / 'chaos' / 'small.py'
OF_LIBRARIES = re.compile(r'\[Gloo\]|[IWE]\d{4} ')  # Lines that they print, as of XLA's partitioner.
STEPS = 100  # Enough that a signal sent after the first step arrives before the last.
SETTINGS = {'mesh.data': 2, 'mesh.fsdp': 2, 'watch.log_every': 1, 'steps': STEPS, 'data.batch': 4}
SETTINGS |= {'checkpoints.every_steps': STEPS}


def flags(settings):
    return [part for path, value in settings.items() for part in ('--set', f'{path}={value}')]


def command(number: int, devices: int, workdir: pathlib.Path) -> list[str]:
    train = ['train', str(SMALL), '--workdir', str(workdir), *flags(SETTINGS)]
    return [sys.executable, '-m', 'bigmodel_jax.hosts', str(number), str(devices), '--', *train]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def signal_host(launcher: subprocess.Popen[str], host: int, number: int) -> None:
    """Sends a signal to one of the processes that the launcher started, in the order of their start."""
    children = pathlib.Path(f'/proc/{launcher.pid}/task/{launcher.pid}/children').read_text().split()
    os.kill(int(children[host]), number)


def after(launcher: subprocess.Popen[str], text: str) -> Iterator[str]:
    """Waits for a line with `text`, and then yields what follows."""
    for line in launcher.stdout:
        if text in line:
            yield line
            break
    yield from launcher.stdout


def losses(workdir: pathlib.Path) -> np.ndarray:
    return verbs.open_run(workdir).metrics('loss')[1]


@pytest.fixture(scope='module')
def zygote():
    with forks.Zygote() as server:
        yield server


def train(zygote, workdir, *, file=SMALL, settings=SETTINGS, own=()):
    """Trains on two hosts of two devices; returns how each ended, and what each said."""
    arguments = ['train', str(file), '--workdir', str(workdir), *flags(settings)]
    children = zygote.run(arguments, hosts=2, devices=2, output=workdir.parent / 'output', own=own)
    return forks.wait(children, 300), [child.output.read_text() for child in children]


@pytest.fixture(scope='module')
def undisturbed(zygote, tmp_path_factory):
    """Two hosts of two devices, from the first step to the last."""
    workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
    statuses, said = train(zygote, workdir)
    assert statuses == [0, 0], said
    return workdir


def test_two_hosts_give_the_losses_of_one(undisturbed, tmp_path):
    loop.train(config.vary(experiment_file.load(str(SMALL)), SETTINGS), tmp_path / 'one')
    # Sums over devices in another order: about 1e-7 a step.
    np.testing.assert_allclose(losses(undisturbed), losses(tmp_path / 'one'), atol=1e-5)
    assert len(losses(undisturbed)) == STEPS


@pytest.mark.slow
def test_two_hosts_give_the_losses_and_evaluations_of_one(zygote, tmp_path):
    """A model with attention, dropout and an optimizer that has a state."""
    settings = SETTINGS | {'steps': 20, 'data.batch': 8, 'model.layers': 1}
    statuses, said = train(zygote, tmp_path / 'two', file=TINY, settings=settings)
    assert statuses == [0, 0], said
    loop.train(config.vary(tiny.experiment(), settings), tmp_path / 'one')
    for name in ('loss', 'validation/loss'):
        one, two = (verbs.open_run(tmp_path / workdir).metrics(name)[1] for workdir in ('one', 'two'))
        # Sums over devices in another order: about 1e-7 a step, amplified over 20 updates.
        np.testing.assert_allclose(one, two, atol=1e-5)
        assert one[-1] < one[0]


def test_what_is_written_once_is_written_once(undisturbed):
    run = verbs.open_run(undisturbed)
    assert [session['processes'] for session in run.environment] == [2]
    assert [entry['count'] for entry in run.environment[0]['devices']] == [4]
    kinds = [record['kind'] for record in run.records]
    assert kinds.count('start') == kinds.count('end') == 1
    assert kinds.count('train') == STEPS
    assert len(list((undisturbed / 'tensorboard').iterdir())) == 1
    assert (undisturbed / 'report.html').exists()


@pytest.mark.parametrize('number', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_signal_to_one_stops_all_at_one_step_and_two_go_on(zygote, undisturbed, tmp_path, number):
    arguments = ['train', str(SMALL), '--workdir', str(tmp_path / 'run'), *flags(SETTINGS)]
    children = zygote.run(arguments, hosts=number, devices=4 // number, output=tmp_path / 'output')
    while f'step 1/{STEPS} ' not in children[0].output.read_text():
        assert forks.wait(children[:1], 0.01) == [None], children[0].output.read_text()
    os.kill(children[-1].pid, signal.SIGTERM)
    assert forks.wait(children, 60) == [128 + signal.SIGTERM] * number
    first, *others = [child.output.read_text() for child in children]
    stopped = verbs.open_run(tmp_path / 'run')
    assert stopped.state == 'stopped by SIGTERM'
    assert stopped.checkpoints == [stopped.step]
    assert f'stopped by SIGTERM at step {stopped.step} of {STEPS}' in first
    # The one that was asked says so; the others have nothing to say.
    *silent, asked = ([line for line in text.splitlines() if not OF_LIBRARIES.match(line)] for text in others)
    assert not any(silent)
    assert [line.partition(' after ')[0] for line in asked] == ['SIGTERM: stopping']
    assert stopped.step < STEPS
    statuses, said = train(zygote, tmp_path / 'run')
    assert statuses == [0, 0], said
    went_on = verbs.open_run(tmp_path / 'run')
    assert [session['processes'] for session in went_on.environment] == [number, 2]
    # Gloo adds up in the order of the devices, whichever process holds them: equal to the last bit.
    np.testing.assert_array_equal(losses(tmp_path / 'run'), losses(undisturbed))
    assert went_on.digest == verbs.open_run(undisturbed).digest


@pytest.mark.slow  # scripts/chaos kills more of them.
def test_when_one_is_killed_the_others_end(tmp_path):
    launcher = start(command(2, 2, tmp_path / 'run'))
    with launcher:
        said = after(launcher, f'step 1/{STEPS} ')
        next(said)
        signal_host(launcher, 1, signal.SIGKILL)
        killed = time.monotonic()
        text = ''.join(said)
    assert launcher.returncode == 128 + signal.SIGKILL, text
    assert 'simulate_hosts: host 1 ended first, killed by SIGKILL' in text
    # Else the last of its output could not have been read before, for its pipe would have stayed open.
    assert time.monotonic() - killed < simulation.GRACE_S + 10


def test_hosts_with_different_experiments_say_so(zygote, tmp_path):
    own = [('--set', f'optimizer.momentum={0.1 * host}') for host in range(2)]
    statuses, said = train(zygote, tmp_path / 'run', own=own)
    assert statuses == [2, 2], said
    assert said[1] == ''
    assert said[0].count('error: ') == 1
    assert 'error: host 1: differs from host 0' in said[0]
    assert 'experiment.optimizer.momentum: 0.0 -> 0.1' in said[0]
    assert not (tmp_path / 'run').exists()


FAILING = """
import errno, os
from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.hosts import processes
import small

class Failing(small.Poisoned):
    def gather(self, indices, epochs, seed):
        if processes.index() == {host}:
            raise {error}
        return super().gather(indices, epochs, seed)

class Pairs(small.Pairs):
    def build(self, seed):
        built = super().build(seed)
        built.examples.__class__ = Failing
        return built

def experiment():
    return config.vary(small.experiment(), {{'data': Pairs(batch=6)}})
"""
EIO = "OSError(errno.EIO, os.strerror(errno.EIO), '/there')"
IS_SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ('hosts', 'host', 'error', 'said'),
    [
        (2, 0, EIO, "[Errno 5] Input/output error: '/there'"),  # The first serves the store by which all are told.
        pytest.param(3, 1, EIO, "[Errno 5] Input/output error: '/there'", marks=IS_SLOW),
        pytest.param(3, 2, "KeyError('absent')", "KeyError: 'absent'", marks=IS_SLOW),
        pytest.param(2, 0, "KeyError('absent')", "KeyError: 'absent'", marks=IS_SLOW),
    ],
)
def test_a_host_that_fails_tells_the_others_why(zygote, tmp_path, hosts, host, error, said):
    """All end soon, each with one message that names the host and the cause; none is aborted by JAX."""
    shutil.copy(SMALL, tmp_path)
    (tmp_path / 'failing.py').write_text(FAILING.format(host=host, error=error))
    arguments = ['train', str(tmp_path / 'failing.py'), '--workdir', str(tmp_path / 'run')]
    children = zygote.run(arguments, hosts=hosts, devices=1, output=tmp_path / 'output')
    # Less than the heartbeat's limit, after which JAX would abort them.
    statuses = forks.wait(children, joining.HEARTBEAT_TIMEOUT_S / 2)
    texts = [child.output.read_text() for child in children]
    assert statuses == [1] * hosts, texts
    failed, others = texts[host], texts[:host] + texts[host + 1 :]
    assert f'error: host {host}: ' in failed
    assert all(text.count(f'stopped: host {host} failed: {said}') == 1 for text in others), others
    assert not any(word in text for text in others for word in ('error: host', 'Traceback', 'Check fail')), others


# ---- who is told what ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (('10.0.0.1:8476', None, None), '--coordinator needs --processes and --process too'),
        ((None, 2, 1), '--processes, --process needs --coordinator too'),
        (('10.0.0.1', 2, 1), 'use HOST:PORT'),
        (('10.0.0.1:99999', 2, 1), 'use HOST:PORT'),
        (('10.0.0.1:8476', 0, 0), 'at least 1'),
        (('10.0.0.1:8476', 2, 2), 'of 2 use 0 to 1'),
    ],
)
def test_flags_that_make_no_sense(given, message):
    with pytest.raises(config.InputError, match=message):
        joining.join(*given)


SLURM = {'SLURM_STEP_NUM_TASKS': '8', 'SLURM_STEP_NUM_NODES': '8'}


@pytest.mark.parametrize(
    ('environment', 'found'),
    [
        ({}, None),
        ({'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '8'}, None),  # A batch script, or a shell, outside of srun.
        (SLURM | {'SLURM_STEP_NUM_TASKS': '1'}, None),
        (SLURM, {'cluster_detection_method': 'slurm', 'local_device_ids': []}),
        (SLURM | {'SLURM_STEP_NUM_NODES': '2'}, {'cluster_detection_method': 'slurm'}),
        ({'TPU_WORKER_HOSTNAMES': 'a,b'}, None),  # This machine has no chips.
    ],
)
def test_clusters_are_found(environment, found):
    assert joining.cluster(environment) == found


# ---- the launcher -------------------------------------------------------------------------------------------------


def test_help_of_the_launcher(capsys):
    with pytest.raises(SystemExit) as ended:
        launcher_command.main(['--help'])
    assert ended.value.code == 0
    assert 'HOSTS [DEVICES] -- train|evaluate' in capsys.readouterr().out


@pytest.mark.parametrize(
    'arguments', [(), ('2',), ('2', '--', 'sample'), ('0', '--', 'train'), ('2', 'x', '--', 'train')]
)
def test_wrong_arguments_of_the_launcher(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        launcher_command.main(arguments)
    assert ended.value.code == 2
    assert 'error: ' in capsys.readouterr().err


def simulate(tmp_path: pathlib.Path, text: str, *, number: int, devices: int) -> subprocess.CompletedProcess[str]:
    """Runs a program as so many hosts; it finds its own number in `process`, and all its arguments in sys.argv."""
    path = tmp_path / 'program.py'
    path.write_text('import json, sys, time\nprocess = int(sys.argv[-1])\n' + text)
    run = (
        'import sys\nfrom bigmodel_jax.hosts import simulation\nsimulation.GRACE_S = 0.5\n'
        f'sys.exit(simulation.run([sys.executable, {str(path)!r}], hosts={number}, devices={devices}))'
    )
    return subprocess.run([sys.executable, '-c', run], cwd=ROOT, capture_output=True, text=True)


def test_the_launcher_tells_each_host_who_it_is(tmp_path):
    done = simulate(tmp_path, 'print(json.dumps(sys.argv[1:]))', number=3, devices=2)
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    told = [json.loads(line.partition(' | ')[2]) for line in lines]
    assert [line.partition(' | ')[0] for line in lines] == ['host 0', 'host 1', 'host 2']
    assert [each[-1] for each in told] == ['0', '1', '2']
    assert {tuple(each[:-1]) for each in told} == {
        ('--simulate-devices', '2', '--coordinator', told[0][3], '--processes', '3', '--process')
    }


def test_the_launcher_gives_the_status_of_the_first_that_fails(tmp_path):
    done = simulate(tmp_path, 'sys.exit(3) if process == 1 else time.sleep(60)', number=2, devices=1)
    assert done.returncode == 3
    assert 'host 1 ended first, with exit status 3; killing host 0' in done.stderr


# ---- the rows of a batch ------------------------------------------------------------------------------------------

ROWS = """
import jax, numpy as np
from bigmodel_jax.parallel import sharding
from bigmodel_jax.reproduce.chaos import forks
from bigmodel_jax.hosts import joining
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 2)
joining.join(sys.argv[4], 3, process)
place = sharding.MeshShape(pipeline=2, data=3).build()
whole = np.arange(12, dtype=np.int32).reshape(6, 2)
mine = place.local_rows(6)
array = place.put_batch({'x': whole[mine]}, 6)['x']
right = all((np.asarray(shard.data) == whole[shard.index]).all() for shard in array.addressable_shards)
total = int(jax.jit(lambda x: (x * x).sum(), out_shardings=place.replicated)(array))
print(json.dumps([mine.tolist(), right, total]))
"""


def test_each_host_reads_the_rows_of_its_own_devices(tmp_path):
    """Two stages of three data shards on three hosts of two devices: the middle host's rows do not follow one another,
    and every row is read by two hosts."""
    done = simulate(tmp_path, ROWS, number=3, devices=2)
    assert done.returncode == 0, done.stderr
    said = sorted(line for line in done.stdout.splitlines() if ' | [[' in line)  # Gloo may say something in between.
    found = [json.loads(line.partition(' | ')[2]) for line in said]
    assert [rows for rows, _, _ in found] == [[0, 1, 2, 3], [0, 1, 4, 5], [2, 3, 4, 5]]
    assert all(right for _, right, _ in found)
    assert {total for _, _, total in found} == {sum(i * i for i in range(12))}


LISTENING = """
import sys
from bigmodel_jax.hosts import joining
port = sys.argv[1]
joining.join(f'127.0.0.2:{port}', 1, 0)
lines = [line.split() for name in ('tcp', 'tcp6') for line in open(f'/proc/self/net/{name}')]
print([fields[1] for fields in lines if fields[3] == '0A' and fields[1].endswith(f':{int(port):04X}')])
"""


def test_the_coordinator_listens_on_the_address_that_it_was_given_alone():
    """127.0.0.2 stands for the address of one network of several: it is another than that of `localhost`."""
    port = simulation.free_port()
    done = subprocess.run([sys.executable, '-c', LISTENING, str(port)], cwd=ROOT, capture_output=True, text=True)
    # As the kernel writes 127.0.0.2, or ::ffff:127.0.0.2 where it serves IPv4 through a socket of IPv6.
    address = f'0200007F:{port:04X}'
    assert done.stdout.strip() in (f"['{address}']", f"['{'0' * 16}FFFF0000{address}']"), done.stderr


def test_a_coordinator_that_is_no_address_of_this_machine_is_refused():
    with pytest.raises(config.InputError, match=r'--coordinator 192\.0\.2\.1:80: process 0 cannot listen there'):
        joining.told('192.0.2.1:80', 2, 0)  # RFC 5737: of no machine.
    assert joining.told('192.0.2.1:80', 2, 1)['coordinator_bind_address'] is None
