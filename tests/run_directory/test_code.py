"""The code of a run is recorded: what its own files held, which package ran them, and what changed since."""

import json
import pathlib
import subprocess
import sys

import pytest

from bigmodel_jax import experiment_file, settings
from bigmodel_jax.reproduce import diff, verify
from bigmodel_jax.run_directory import code, environment, git
from bigmodel_jax.runs import directory
from bigmodel_jax.train import loop

QUICK = pathlib.Path(__file__).parents[1] / 'runs' / 'quick.py'
MINE = """
import helpers
from bigmodel_jax import config
from runs import quick

def experiment():
    return config.vary(quick.experiment(), {'name': 'mine', 'steps': 4})
"""


def write(folder, helpers, **more):
    folder.mkdir(exist_ok=True)
    for name, text in {'mine': MINE, 'helpers': helpers, **more}.items():
        (folder / f'{name}.py').write_text(text)
    return str(folder / 'mine.py')


def train(file, workdir, **options):
    """Trains in this process as a new one would."""
    sys.modules.pop('helpers', None)
    return loop.train(experiment_file.load(file), workdir, **options)


def session(workdir):
    return json.loads((workdir / 'environment.json').read_text())[-1]


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """A study of two files, a run of it, and one that went on after a change of the second file."""
    root = tmp_path_factory.mktemp('study')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, 'path', list(sys.path))
        file = write(root / 'own', 'A = 1\nB = 2\n')
        train(file, root / 'before')
        train(file, root / 'changed', stop_after=2)
        write(root / 'own', 'A = 1\nB = 3\n')
        train(file, root / 'changed')
        yield root
        sys.modules.pop('helpers', None)


def test_a_run_holds_what_its_own_files_held(study):
    entry = session(study / 'before')['code']
    assert (entry['experiment_file'], entry['unknown']) == ('mine.py', [])
    assert {'mine.py', 'helpers.py', 'runs/quick.py', 'tiny.py'} <= entry['files'].keys()
    stored = study / 'before' / 'code' / entry['files']['helpers.py']
    assert stored.read_text() == 'A = 1\nB = 2\n'
    assert code.read(study / 'before', entry['package']['sha256']).count(b'run_directory/code.py') == 1


def test_a_change_between_sessions_is_said_and_recorded(study):
    texts = [each['text'] for each in directory.open_run(study / 'changed').records if each['kind'] == 'code']
    (text,) = texts
    assert 'The code changed since the last session: helpers.py (2 lines changed).' in text


def test_diff_names_the_file_and_the_lines_from_the_step_on_where_they_differ(study):
    found = diff.compare(*(directory.open_run(study / name) for name in ('before', 'changed')))
    (finding,) = found.section('code').findings
    assert (finding.what, finding.text) == ('helpers.py', '2 lines changed from step 3 on')
    assert {'-B = 2', '+B = 3'} <= set(finding.lines)
    assert 'helpers.py: 2 lines changed' in diff.about(found.runs[1])


def test_verify_warns_of_a_file_that_changed_since(study):
    said = []
    run = directory.open_run(study / 'before')
    assert verify.verify(run, steps=2, say=said.append).identical
    assert 'warning: recorded -> here: code: helpers.py: 2 lines changed' in said
    assert 'warning: recorded -> here:   +B = 3' in said


def test_nothing_that_a_run_holds_is_believed_without_its_checksum(study, tmp_path):
    digest = session(study / 'before')['code']['files']['helpers.py']
    (tmp_path / 'code').mkdir()
    (tmp_path / 'code' / digest).write_text('another text')
    assert code.read(tmp_path, digest) is None
    assert code.read(tmp_path, '../code/' + digest) is None


def test_code_that_was_not_recorded_is_unknown_and_not_equal(study, tmp_path):
    import shutil

    shutil.copytree(study / 'before', tmp_path / 'old')
    entry = session(study / 'before')
    del entry['code']
    (tmp_path / 'old' / 'SHA256SUMS').unlink()
    (tmp_path / 'old' / 'environment.json').write_text(json.dumps([entry]))
    section = diff.compare(*(directory.open_run(tmp_path / 'old') for _ in range(2))).section('code')
    assert not section.compared
    assert section.otherwise.startswith('unknown')


# ---- git --------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path):
    def run(*arguments):
        subprocess.run(['git', '-C', str(tmp_path), *arguments], check=True, capture_output=True)

    run('init', '-q', '.')
    (tmp_path / 'a.py').write_text('x = 1\n')
    run('add', '-A')
    run('-c', 'user.email=a@b', '-c', 'user.name=x', 'commit', '-qm', 'x')
    return tmp_path, run


def test_what_the_configuration_of_git_names_is_neither_run_nor_believed(repository):
    folder, run = repository
    program = folder / 'evil'
    program.write_text(f'#!/bin/sh\ntouch {folder}/ran\ncat\n')
    program.chmod(0o755)
    for name in ('diff.external', 'diff.d.textconv', 'filter.f.clean', 'core.fsmonitor', 'core.pager', 'pager.diff'):
        run('config', name, str(program))
    run('config', 'color.ui', 'always')
    (folder / '.git' / 'info' / 'attributes').write_text('*.py diff=d filter=f\n')
    (folder / 'a.py').write_text('x = 2\n')
    found = git.describe(folder)
    assert not (folder / 'ran').exists()
    assert '\n-x = 1\n+x = 2' in found['diff']
    assert found['dirty']


def test_a_file_that_git_does_not_know_is_counted_and_hashed(repository):
    folder, _ = repository
    assert git.describe(folder)['untracked'] == {'count': 0, 'code': {}}
    (folder / 'new.py').write_text('y = 1\n')
    found = git.describe(folder)
    assert (found['dirty'], found['untracked']['count'], list(found['untracked']['code'])) == (False, 1, ['new.py'])


def test_where_there_is_no_repository_nothing_is_claimed(tmp_path):
    assert git.describe(tmp_path) is None


# ---- secrets ----------------------------------------------------------------------------------------------------


def test_a_secret_of_the_command_is_not_recorded(monkeypatch, capsys):
    command = ['x', 'train', '--arg', 'hf_token=abc', '--set', 'source.password=p', '--arg', 'key=8', '--arg=api-key=z']
    monkeypatch.setattr(sys, 'argv', [*command, '--set', 'd.tokens=x'])
    said = environment.describe()['command']
    assert said[3:] == [
        'hf_token=***', '--set', 'source.password=***', '--arg', 'key=8', '--arg=api-key=***', '--set', 'd.tokens=x'
    ]  # fmt: skip
    assert 'the value of hf_token is not recorded' in capsys.readouterr().err


def test_a_field_that_is_called_key_or_token_is_none():
    words = [
        'data.text_key=body',
        'begin_token=<s>',
        'tokens=a1b2c3d4e5f6a7b8',
        'password=None',
        'x',
        '--wandb=project',
    ]
    assert settings.without_secrets(words) == words
    assert settings.without_secrets(['token=ghp_0123456789abcdefgh']) == ['token=***']
