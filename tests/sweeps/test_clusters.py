"""What the engines for clusters check before anything starts, and what a job of Slurm does; no cluster is needed."""

import json
import os
import pathlib
import shutil
import signal
import sys
import threading

import pytest
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.sweeps.engines import choosing, slurm, slurm_job
from bigmodel_jax.sweeps.sweep_directory import SweepDirectory

XPK = ['cluster=c', 'project=123456', 'zone=z', 'tpu_type=v5litepod-16', 'image=i']


def test_fields_of_an_engine_are_read_by_their_types() -> None:
    made = choosing.cluster('slurm', ['partition=123', 'gres=gpu:a100:8', 'nodes=2', 'memory_gb=64'])
    assert made == slurm.Slurm(partition='123', gres='gpu:a100:8', nodes=2, memory_gb=64)
    assert choosing.cluster('xpk', [*XPK, 'slices=4']).project == '123456'


@pytest.mark.parametrize(
    ('name', 'values', 'message'),
    [
        ('slurm', ['partitoin=main'], "no field 'partitoin'.*partition"),
        ('slurm', ['main'], "--engine-set 'main' is not of the form field=value"),
        ('slurm', ['nodes=0'], 'nodes'),
        ('slurm', ['minutes=two'], 'minutes'),
        ('xpk', XPK[1:], 'needs a value for cluster'),
        ('xpk', [*XPK, 'priority=highest'], 'priority'),
    ],
)
def test_wrong_fields_are_told(name: str, values: list[str], message: str) -> None:
    with pytest.raises(config.InputError, match=message):
        choosing.cluster(name, values)


def test_a_machine_without_slurm_is_told_and_so_is_a_directory_that_nodes_cannot_share(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('PATH', str(tmp_path))
    here, remote = (SweepDirectory(epath.Path(path), None) for path in (tmp_path, 'gs://bucket/sweep'))
    with pytest.raises(config.InputError, match=r'needs sbatch, srun, squeue, scancel, sinfo, which this machine'):
        slurm.Slurm().check(here)
    with pytest.raises(config.InputError, match=r'gres=.*Slurm has no such names'):
        slurm.Slurm(gres='gpu:1\nrm x').check(here)
    with pytest.raises(config.InputError, match='one that all nodes share'):
        slurm.Slurm().check(remote)


@pytest.mark.slow  # sinfo tries for 9 seconds.
@pytest.mark.skipif(shutil.which('sinfo') is None, reason='needs the commands of Slurm: apt-get install slurm-client')
def test_a_slurm_that_does_not_answer_is_told(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('submitit')
    conf = tmp_path / 'slurm.conf'
    conf.write_text('ClusterName=none\nSlurmctldHost=here(127.0.0.1)\nSlurmctldPort=1\nAuthType=auth/none\n')
    monkeypatch.setenv('SLURM_CONF', str(conf))
    with pytest.raises(config.InputError, match=r'Slurm cannot be reached from here: .*See whether `sinfo` works'):
        slurm.Slurm().check(SweepDirectory(epath.Path(tmp_path), None))


def job(folder: pathlib.Path, code: str) -> slurm_job.SlurmTrial:
    return slurm_job.SlurmTrial([sys.executable, '-c', code], log=str(folder / 'log'), ended=str(folder / 'ended.json'))


def test_a_job_appends_to_the_log_of_its_trial_and_notes_how_it_ended(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'log').write_text('before\n')
    job(tmp_path, "print('done')")()
    assert (tmp_path / 'log').read_text() == 'before\ndone\n'
    assert json.loads((tmp_path / 'ended.json').read_text())['status'] == 0
    for code, status, noted in (('raise SystemExit(3)', 3, 3), ('import os; os.kill(os.getpid(), 9)', 137, -9)):
        with pytest.raises(SystemExit) as ended:
            job(tmp_path, code)()
        assert ended.value.code == status
        assert json.loads((tmp_path / 'ended.json').read_text())['status'] == noted


def test_only_the_first_node_writes_the_log_and_the_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('SLURM_PROCID', '1')
    job(tmp_path, "print('second')")()
    assert os.listdir(tmp_path) == []


SAVES = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3)
    pathlib.Path({saved!r}).touch()
    sys.exit(140)
signal.signal(signal.SIGUSR2, save)
pathlib.Path({ready!r}).touch()
time.sleep(60)
"""


def test_before_a_job_is_queued_again_its_trial_has_saved_a_checkpoint(tmp_path: pathlib.Path) -> None:
    pytest.importorskip('submitit')
    saved, ready = tmp_path / 'saved', tmp_path / 'ready'
    trial = job(tmp_path, SAVES.format(saved=str(saved), ready=str(ready)))

    def at_the_time_limit(*_: object) -> None:  # As submitit does, which then asks Slurm for the requeue and leaves.
        again = trial.checkpoint()
        assert saved.exists()
        assert isinstance(again.function, slurm_job.SlurmTrial)
        raise SystemExit(-1)

    def send() -> None:
        while not ready.exists():
            pass
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, at_the_time_limit)
    try:
        threading.Thread(target=send).start()
        with pytest.raises(SystemExit, match='-1'):
            trial()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert not (tmp_path / 'ended.json').exists()
