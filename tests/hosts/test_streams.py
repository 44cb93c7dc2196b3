"""However many processes read it, the stream of examples is one; killed on four, a run goes on on two or three."""

import collections
import json
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest
from etils import epath

import tiny
from bigmodel_jax import config, experiment_file, verbs
from bigmodel_jax.reproduce.chaos import comparison, forks, observer
from bigmodel_jax.run_directory import digest
from bigmodel_jax.runs import restored_model

ROOT = pathlib.Path(__file__).parents[2]
FILE, ROWS, STEPS = str(ROOT / 'tests' / 'hosts' / 'reading.py'), 84, 12
HOSTS = (1, 2, 3, 4, 7)


@pytest.fixture(scope='module')
def zygote():
    with forks.Zygote({'PYTHONPATH': str(ROOT / 'tests')}) as server:
        yield server


def start(zygote, workdir, *, hosts, devices=1):
    arguments = ['train', FILE, '--workdir', str(workdir), '--arg', f'log={workdir.parent / "log"}']
    return zygote.run(arguments, hosts=hosts, devices=devices, output=workdir.parent / f'output{hosts}')


def finish(zygote, workdir, **places):
    children = start(zygote, workdir, **places)
    assert set(forks.wait(children, 200)) == {0}, [child.output.read_text() for child in children]


def batches():
    """The data, as it is without any run."""
    return tiny.Counting(batch=ROWS).build(seed=0)


def expected():
    """Step -> certificate of the ids."""
    built = batches()
    sums = [built.row_hashes(built.ids(step)).sum(axis=0, dtype=np.uint32) for step in range(STEPS)]
    return {f'step {step + 1}': text for step, text in enumerate(digest.texts(sums))}


def certificates(workdir):
    return {step: ids for step, (ids, _) in comparison.certificates(workdir).items()}


def read_by(log, hosts):
    """Step -> row -> the ids that the processes of a session read there."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for path in log.glob(f'{hosts}-*.jsonl'):
        for record in map(json.loads, path.read_text().splitlines()):
            for row, id_ in record['ids'].items():
                found[record['step']][int(row)].append(id_)
    return found


@pytest.mark.slow
@pytest.mark.parametrize('hosts', HOSTS)
def test_the_processes_read_one_stream(zygote, tmp_path, hosts):
    finish(zygote, tmp_path / 'run', hosts=hosts)
    assert certificates(tmp_path / 'run') == expected()
    built, read = batches(), read_by(tmp_path / 'log', hosts)
    assert len(list((tmp_path / 'log').iterdir())) == hosts
    for step in range(STEPS):
        # Every row by one process, and each the example that stands there.
        assert read[step] == {row: [id_] for row, id_ in enumerate(built.ids(step).tolist())}


def parameters(workdir, log):
    experiment = config.vary(experiment_file.load(FILE, [], [f'log={log}']), {'mesh.data': 1})
    return restored_model.restore(epath.Path(workdir), experiment, [STEPS]).params


@pytest.mark.slow
def test_killed_on_four_it_goes_on_on_two_and_on_three(zygote, tmp_path):
    finish(zygote, tmp_path / 'undisturbed', hosts=4)
    children, watch = start(zygote, tmp_path / 'killed', hosts=4), observer.ProcessWatch(tmp_path / 'killed')
    while (watch.reported or 0) < 6 and forks.wait(children[:1], 0.01) == [None]:
        watch.look()
    children[2].kill()
    assert forks.wait(children, 60)[2] == -signal.SIGKILL
    assert watch.committed is not None
    for hosts, devices in ((2, 2), (3, 1)):
        shutil.copytree(tmp_path / 'killed', tmp_path / f'on{hosts}')
        finish(zygote, tmp_path / f'on{hosts}', hosts=hosts, devices=devices)
        assert certificates(tmp_path / f'on{hosts}') == expected()
        sessions = verbs.open_run(tmp_path / f'on{hosts}').environment
        assert [session['processes'] for session in sessions] == [4, hosts]
    # The same four devices: bit for bit.
    assert comparison.digest(tmp_path / 'on2') == comparison.digest(tmp_path / 'undisturbed')
    left, right = (parameters(tmp_path / name, tmp_path / 'log') for name in ('undisturbed', 'on3'))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), left, right)
