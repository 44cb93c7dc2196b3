"""Several processes save as one, fail as one, and use the same checkpoint."""

import subprocess
import sys
import time

import pytest

HOSTS = """
import resource, sys
process, directory = int(sys.argv[-1]), sys.argv[1]
sys.path.insert(0, 'tests')
import jax, tiny
from etils import epath
from bigmodel_jax import config
from bigmodel_jax.parallel import sharding
from bigmodel_jax.hosts import joining
from bigmodel_jax.train import preparation
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.run_directory import digest
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 2)
joining.join(sys.argv[5], 2, process)
run = preparation.prepare(config.vary(tiny.experiment(), {'mesh.fsdp': 4, 'model.vocab': 20_000}))
with sharding.use(run.place), checkpoints.Checkpointer(epath.Path(directory), run.experiment.checkpoints) as store:
    state = run.spec.init()
    wanted = digest.digest(state)
    store.save(state, {'step': 2}, {})
    print(store.finish(), flush=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if process == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    store.save(state, {'step': 4}, {})
    print('host 1' in store.finish(), store.steps, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    store.save(state, {'step': 6}, {})
    print(store.finish(), store.steps, flush=True)
    if process == 0:
        folder = epath.Path(directory) / 'checkpoints' / '6' / 'model' / 'ocdbt.process_1' / 'd'
        path = max(folder.iterdir(), key=lambda path: path.stat().length)
        path.write_bytes(path.read_bytes()[:-1000])
    there, position = store.restore_newest(run.spec.abstract, run.spec.shardings)
    print(position, digest.digest(there) == wanted, store.steps, len(store.damage), flush=True)
"""


@pytest.mark.slow
def test_what_one_host_meets_all_know(tmp_path):
    """A write that fails on one fails on all, at once; and all use the same checkpoint."""
    (tmp_path / 'program.py').write_text(HOSTS)
    run = (
        'import sys\nfrom bigmodel_jax.hosts import simulation\n'
        f'command = [sys.executable, {str(tmp_path / "program.py")!r}, {str(tmp_path / "run")!r}]\n'
        'sys.exit(simulation.run(command, hosts=2, devices=2))'
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, '-c', run], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for host in ('host 0', 'host 1'):
        said = [line.partition(' | ')[2] for line in done.stdout.splitlines() if line.startswith(f'{host} | ')]
        assert [line for line in said if line.startswith(('None', 'True', '{'))] == [
            'None', 'True [2]', 'None [2, 6]', "{'step': 2} True [2] 1",
        ]  # fmt: skip
    assert time.monotonic() - began < 200  # Nobody has waited for anybody's timeout.
