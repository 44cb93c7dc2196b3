"""What the doctor finds without running the experiment: each test plants one mistake, or none."""

import json
import pathlib
import shutil
import subprocess

import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.launch import code, programs
from bigmodel_jax.launch.doctor import doctor, fitting, reachable, results, table, tools, versions
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.targets import target

TINY = str(pathlib.Path(__file__).parents[1] / 'tiny.py')
TARGETS = {
    'ThisMachine()': '/shared/x',
    'SimulatedHosts(hosts=2, devices=4)': '/shared/x',
    "SlurmNodes(nodes=2, gres='gpu:4')": '/shared/x',
    "SlurmNodes(nodes=1, gres='gpu:h100:8')": '/shared/x',
    "CloudTpu(type='v5litepod-8', zone='us-west4-a', project='p')": 'gs://bucket/x',
    "Gke(cluster='c', project='p', zone='us-west4-a', type='v5litepod-8', image='i')": 'gs://bucket/x',
    "SkyPilot(type='v5litepod-8')": 'gs://bucket/x',
}
JOB = Job(experiment='x.py', workdir='gs://bucket/x', digest='0' * 64)
ON_TPU = "CloudTpu(type='v5litepod-8', zone='us-west4-a', project='p')"
SIMULATED = 'SimulatedHosts(hosts=2, devices=4)'
WIDE = 'mesh.data=-1'


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """Programs of these names on the PATH, and no others but git."""

    def put(*names: str) -> None:
        folder = tmp_path / 'bin'
        folder.mkdir()
        (folder / 'git').symlink_to(shutil.which('git'))
        for name in names:
            (folder / name).write_text('#!/bin/sh\n')
            (folder / name).chmod(0o755)
        monkeypatch.setenv('PATH', str(folder))

    return put


def agreeing(command) -> programs.Answer:
    """What a program says when all is well."""
    if command[0].endswith('python'):  # Of the nodes.
        return programs.Answer(0, json.dumps(versions.here()))
    said = {'sinfo': 'main*|infinite', 'gcloud': 'US-WEST4'}
    return programs.Answer(0, said.get(command[0], ''))


def examined(on: str, *settings: str, run=agreeing, workdir: str = '') -> list[results.CheckResult]:
    request = doctor.LaunchRequest(
        experiment=TINY, on=target.parse(on), workdir=workdir or TARGETS[on], settings=settings, fast=True
    )
    return list(doctor.examine(request, run=run))


def found(results_: list[results.CheckResult], check: str) -> results.CheckResult:
    (only,) = (each for each in results_ if each.check == check and each.level.value in ('fault', 'warning'))
    return only


@pytest.mark.parametrize(
    'on',
    [
        each if 'v5' not in each and 'h100' not in each else pytest.param(each, marks=pytest.mark.slow)
        for each in TARGETS
    ],
)
def test_nothing_is_found_in_what_is_right(on, on_path):
    on_path('gcloud', 'kubectl', 'xpk', 'sky', 'sbatch', 'sinfo', 'squeue', 'scancel')
    levels = {each.check: each.level for each in examined(on, WIDE)}
    assert not {results.Level.FAULT, results.Level.WARNING} & set(levels.values()), levels
    assert levels['mesh' if 'This' not in on else 'experiment'] is results.Level.OK


def fitted(on: str, **changes) -> list[results.CheckResult]:
    experiment = config.vary(tiny.experiment(), {name.replace('__', '.'): value for name, value in changes.items()})
    return list(fitting.check(experiment, target.parse(on).machines(), fast=True, say=print))


def test_a_batch_that_does_not_divide_is_found():
    only = found(fitted(ON_TPU, mesh__data=-1, data__batch=12), 'batch')
    assert 'data.batch=12 does not divide over 8 shards' in only.message
    assert 'such as 16' in only.message
    only = found(fitted(SIMULATED, mesh__data=-1, data__batch=12), 'batch')
    assert '--set data.batch=16' in only.advice


def test_a_mesh_for_another_number_of_devices_is_found():
    assert 'multiplies to 1 devices, but v5e:2x4 has 8' in found(fitted(ON_TPU), 'mesh').message
    assert '--set mesh.data=-1' in found(fitted(SIMULATED), 'mesh').advice


@pytest.mark.slow
def test_a_model_that_does_not_fit_is_found():
    only = found(fitted(ON_TPU, mesh__data=-1, model__width=16384, model__block__ffn__hidden=65536), 'memory')
    assert only.level is results.Level.FAULT
    assert 'of the 15.8 GiB of a chip' in only.message
    assert 'mesh.fsdp=' in only.advice


def test_wrong_input_to_the_experiment_is_found():
    assert 'model.widht' in found(examined(ON_TPU, 'model.widht=3'), 'experiment').message


def test_a_missing_program_is_found(on_path):
    on_path('gcloud')
    on = "Gke(cluster='c', project='p', zone='us-west4-a', type='v5litepod-8', image='i')"
    kubectl, xpk, credentials = tools.check(target.parse(on), JOB, tools.Asked(lambda command: programs.Answer(127)))
    assert (kubectl.message, xpk.message) == ('kubectl is not on PATH.', 'xpk is not on PATH.')
    assert all('install' in each.advice and each.level is results.Level.FAULT for each in (kubectl, xpk))
    assert credentials == results.not_checked('credentials', 'kubectl is missing')


@pytest.mark.parametrize(
    ('answer', 'level'),
    [
        (programs.Answer(0, ''), 'fault'),  # gcloud knows no account.
        (programs.Answer(1, err='PERMISSION_DENIED: no role'), 'fault'),
        (programs.Answer(None, err='gcloud gave no answer in 20 seconds'), 'not checked'),
        (programs.Answer(1, err='Unable to find the server at oauth2.googleapis.com'), 'not checked'),
    ],
)
def test_what_nobody_answered_is_not_called_a_fault_or_right(on_path, answer, level):
    on_path('gcloud')
    there, only = tools.check(target.parse(ON_TPU), JOB, tools.Asked(lambda command: answer))
    assert (there.level.value, only.level.value) == ('ok', level)
    assert level == 'fault' or answer.err in only.message


# ---- paths --------------------------------------------------------------------------------------------------------


@pytest.fixture
def packed(tmp_path, monkeypatch) -> code.PackedCode:
    """A repository with a file that is sent and one that git ignores."""
    for name in ('sent.txt', 'left.txt'):
        (tmp_path / 'data').mkdir(exist_ok=True)
        (tmp_path / 'data' / name).write_text('x')
    (tmp_path / '.gitignore').write_text('left.txt\n')
    (tmp_path / 'x.py').write_text('')
    subprocess.run(['git', 'init', '--quiet', str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    return code.pack(tmp_path / 'x.py')


def data_at(path: str, packed: code.PackedCode, on: str = ON_TPU, answer: int = 0) -> results.CheckResult:
    experiment = {'data': {'path': path}}
    (only,) = reachable.check_data(experiment, target.parse(on), packed, lambda command: programs.Answer(answer))
    return only


@pytest.mark.parametrize(
    ('path', 'level', 'words'),
    [
        ('data/sent.txt', 'ok', 'sent with the code'),
        ('data/left.txt', 'fault', 'ignored by git'),
        ('./other.txt', 'fault', 'is not in'),
        ('/no/such/file', 'not checked', 'one of the hosts'),
        ('gs:/', 'ok', 'no path'),
    ],
)
def test_a_path_is_one_that_the_hosts_see(packed, path, level, words):
    only = data_at(path, packed)
    assert (only.level.value, words in only.message) == (level, True), only
    assert level != 'fault' or 'gcloud storage cp' in only.advice


def test_a_path_of_this_machine_is_told_from_one_of_the_hosts(packed):
    here = str(packed.root / 'data/sent.txt')
    assert 'is a path of this machine' in data_at(here, packed).message
    assert data_at(here, packed, 'SimulatedHosts(hosts=2)').level is results.Level.OK
    on_nodes = data_at('/tmp', packed, 'SlurmNodes(nodes=2)')
    assert on_nodes.level is results.Level.WARNING
    assert 'all nodes share' in on_nodes.advice


@pytest.mark.parametrize(('status', 'level'), [(0, 'ok'), (reachable.MISSING, 'fault'), (1, 'not checked')])
def test_a_path_in_a_bucket_is_asked_for(packed, monkeypatch, status, level):
    monkeypatch.setitem(reachable.durable_files.LIBRARIES, 'gs', 'numpy')  # Nothing is read here.
    assert data_at('gs://bucket/x.txt', packed, answer=status).level.value == level


def written(path: pathlib.Path) -> list[results.CheckResult]:
    on = target.parse(SIMULATED)
    return list(reachable.check_directory(tiny.experiment(), str(path), on, lambda _: programs.Answer(0)))


def test_a_work_directory_with_another_run_or_none_to_write_is_found(tmp_path):
    (tmp_path / 'other.txt').write_text('x')
    assert 'holds no run' in found(written(tmp_path), 'work directory').message
    (tmp_path / 'file').write_text('x')
    assert 'is a file' in found(written(tmp_path / 'file/x'), 'work directory').message


# ---- versions -----------------------------------------------------------------------------------------------------


def test_versions_are_those_that_the_markers_choose(tmp_path):
    file = tmp_path / 'constraints.txt'
    lines = ["jax==0.10.2 ; python_full_version < '3.12'", "jax==0.12.0 ; python_full_version >= '3.12'", '# x', '']
    file.write_text('\n'.join([*lines, 'numpy==1.0 ; sys_platform == "win32"', 'flax==1.2']))
    assert versions.pinned(file, '3.11') == {'jax': '0.10.2', 'flax': '1.2'}
    assert versions.pinned(file, '3.12') == {'jax': '0.12.0', 'flax': '1.2'}


def test_other_versions_on_the_hosts_are_found(tmp_path):
    file = tmp_path / 'constraints.txt'
    file.write_text('jax==0.0.1\n')
    loose, other = versions._installed(file)
    assert 'does not pin jaxlib' in loose.message
    assert 'jaxlib==' in loose.advice
    assert f'jax {versions.here()["jax"]} here, 0.0.1 there' in other.message


def test_nodes_whose_python_lacks_the_package_are_found():
    on = "SlurmNodes(nodes=2, gres='gpu:4')"
    lacking = programs.Answer(1, err='PackageNotFoundError: jax')
    (only,) = versions.check(target.parse(on), JOB, None, lambda _: lacking)
    assert only.level is results.Level.FAULT
    assert 'lacks what the package needs' in only.message


def test_the_table_counts():
    rows = [results.fault('a', 'b'), results.fault('a', 'b'), results.warning('a', 'b'), results.ok('a', 'b')]
    assert table.summary(rows) == '2 faults, 1 warning, 1 ok.'


def test_a_slow_program_is_not_waited_for():
    answer = programs.run(['sleep', '60'], timeout_s=0.05)
    assert tools.is_unheard(answer)


def test_faults_say_what_to_do():
    assert results.attempt('x', lambda: 'fine') == results.ok('x', 'fine')

    def wrong() -> str:
        raise config.InputError('a=3: use 4.')

    assert results.attempt('x', wrong) == results.fault('x', 'a=3: use 4.')
