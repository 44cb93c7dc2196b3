"""What a launch would do, file by file and command by command, against texts that people have read."""

import pathlib
import re
import shlex
import subprocess

import pytest
from launch import launched

from bigmodel_jax import config
from bigmodel_jax.launch import code, launching, worker
from bigmodel_jax.launch.targets import target

SECRET, EARLIER = b'0123456789'[::-1] * 3, b'abcdefghi'[::-1] * 3
CLOUD = "type='v5litepod-16', zone='us-west4-a', project='p'"


@pytest.mark.parametrize('on', launched.TARGETS)
@pytest.mark.parametrize('experiment', launched.EXPERIMENTS)
def test_a_dry_run_is_the_golden_text_and_a_shell_reads_it(experiment: str, on: str) -> None:
    text = launched.rendered(experiment, on)
    assert text == (launched.GOLDEN / f'{experiment}-{on}.sh').read_text(), (
        'python tests/launch/launched.py writes anew'
    )
    subprocess.run(['bash', '-n'], input=text, text=True, check=True)
    place = target.AttemptPlace(launched.job(experiment, on), 1, f'launches/{launched.job(experiment, on).name}')
    for name, script in target.parse(launched.TARGETS[on]).files(place).items():
        assert script.rstrip('\n') in text
        if name.endswith('.sh'):
            subprocess.run(['bash', '-n'], input=script, text=True, check=True)


@pytest.mark.parametrize('on', launched.TARGETS)
def test_crafted_words_reach_the_command_as_they_are(on: str) -> None:
    job = launched.job('pods', on)
    assert shlex.split(job.command)[3:] == job.words
    commands = target.parse(launched.TARGETS[on]).create(target.AttemptPlace(job, 1, 'launches/a b'))
    assert [shlex.split(shlex.join(each)) for each in commands] == commands


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ("CloudTup(type='v5litepod-16')", r"no target 'CloudTup'. Did you mean 'CloudTpu'"),
        ('Lion(b2=0.98)', r"no target 'Lion'. Known: CloudTpu, Gke"),
        ('ThisMachine', r'ThisMachine\(\.\.\.\)'),
        ("CloudTpu(type='v5litepod-16', zone='us-west4-a')", 'needs a value for project'),
        ("CloudTpu(kind='v5litepod-16', zone='us-west4-a', project='p')", "no field 'kind'"),
        ('SimulatedHosts(hosts=0)', 'hosts'),
        ("CloudTpu(type='v9-16', zone='us-west4-a', project='p')", "no chip 'v9'"),
        ("CloudTpu(type='v5litepod-17', zone='us-west4-a', project='p')", 'no slice of that shape'),
        ("CloudTpu(type='h100-8', zone='us-west4-a', project='p')", 'is not a type of TPU slice'),
        ("CloudTpu(type='tpu7x-16', zone='us-central1-c', project='p')", 'rented on GKE'),
        ("CloudTpu(type='v5p-128', zone='us-west4-a', project='p')", 'has no v5p that is known of.*us-east5-a'),
        ("CloudTpu(type='v5litepod-16', zone='us-west4', project='p')", 'is not a zone'),
        ("CloudTpu(type='v5litepod-16', zone='us-west4-a', project='--p')", 'project=.* is not a name'),
        (f'CloudTpu({CLOUD}, spot=True, reserved=True)', 'one or the other'),
        ("SlurmNodes(constraint='a;b')", 'are no names'),
    ],
)  # fmt: skip
def test_a_wrong_target_is_one_message(text: str, said: str) -> None:
    with pytest.raises(config.InputError, match=said):
        target.parse(text).check(launched.job('quickstart', 'cloud_tpu'))


@pytest.mark.parametrize('on', launched.ON_A_CLOUD)
def test_a_cloud_needs_a_bucket(on: str) -> None:
    with pytest.raises(config.InputError, match='hosts of a slice do not see this directory'):
        target.parse(launched.TARGETS[on]).check(launched.job('quickstart', 'slurm'))


def _repository(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    subprocess.run(['git', 'init', '--quiet', str(folder)], check=True)
    (folder / '.gitignore').write_text('secret.txt\n')
    (folder / 'secret.txt').write_bytes(SECRET)
    (folder / 'experiment.py').write_text('print("one")\n')
    (folder / 'launches').mkdir()
    (folder / 'launches' / 'code.tar').write_bytes(EARLIER)
    return folder / 'experiment.py'


def test_the_same_code_has_the_same_hash_and_an_uncommitted_change_another(tmp_path: pathlib.Path) -> None:
    first, second = _repository(tmp_path / 'a'), _repository(tmp_path / 'b')
    one = code.pack(first)
    assert one.archive == code.pack(second).archive
    assert one.framework == code.FRAMEWORK, 'this package is in another repository'
    assert SECRET not in one.archive
    assert EARLIER not in one.archive
    second.write_text('print("two")\n')
    assert code.pack(second).digest != one.digest
    (tmp_path / 'b' / 'out').symlink_to('/etc')
    with pytest.raises(config.InputError, match='leads out'):
        code.pack(second)
    with pytest.raises(config.InputError, match='git init'):
        code.pack(tmp_path / 'experiment.py')


def test_a_host_refuses_other_code_and_runs_what_was_checked(tmp_path: pathlib.Path) -> None:
    _repository(tmp_path / 'a')
    job, packed = launching.prepare(str(tmp_path / 'a' / 'experiment.py'), str(tmp_path / 'run'))
    archive, script = tmp_path / 'code.tar', worker.script(job, shlex.quote(str(tmp_path / 'code.tar')))
    tool = tmp_path / 'bin' / 'python'
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\ncat experiment.py; ls -d bigmodel_jax_source/bigmodel_jax; echo "$@"\n')
    tool.chmod(0o755)

    def start() -> subprocess.CompletedProcess[str]:
        path = {'PATH': f'{tool.parent}:/usr/bin:/bin', 'TMPDIR': str(tmp_path)}
        return subprocess.run(['bash', '-c', script], capture_output=True, text=True, check=False, env=path)

    archive.write_bytes(packed.archive)
    done = start()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ['print("one")', 'bigmodel_jax_source/bigmodel_jax']
    assert done.stdout.splitlines()[2].split() == ['-m', 'bigmodel_jax', *job.words]
    archive.write_bytes(packed.archive.replace(b'print("one")', b'print("two")'))
    refused = start()
    assert (refused.returncode, refused.stdout) == (2, '')
    assert worker.REFUSED in refused.stderr


def test_no_value_of_a_secret_is_taken(tmp_path: pathlib.Path) -> None:
    with pytest.raises(config.InputError, match='Give the name alone'):
        launching.prepare(str(_repository(tmp_path / 'a')), 'gs://b/r', secrets=['HF_TOKEN=hf_abc'])
    text = launched.rendered('vaswani2017', 'cloud_tpu')
    assert re.search(r'HF_TOKEN=\$\(gcloud secrets versions access latest --secret=HF_TOKEN', text)


def test_asking_about_what_was_not_launched(tmp_path: pathlib.Path) -> None:
    folder = launching.folder_of(str(tmp_path / 'run'))
    for ask in (launching.open_launch, launching.logs):
        with pytest.raises(config.InputError, match='Nothing is launched'):
            ask(folder)
    with pytest.raises(config.InputError, match='Nothing is launched'):
        launching.stop(folder, say=print)
