"""What an installation offers besides the package: the command, its completion, types, and the shipped experiments."""

import configparser
import pathlib
import re
import subprocess
import sys

import pytest

import style_rules
from bigmodel_jax import __main__ as command_line
from bigmodel_jax import cli, config, experiment_file
from bigmodel_jax.cli import completion

SETUP = configparser.ConfigParser()
SETUP.read(style_rules.ROOT / 'setup.cfg')


def test_every_shipped_experiment_is_installed():
    (pattern,) = SETUP['options.data_files']['share/bigmodel_jax/experiments'].split()
    files = set(style_rules.ROOT.glob(pattern))
    assert files == set((style_rules.ROOT / 'experiments').glob('*.py'))
    assert len(files) > 10


def test_an_installed_experiment_is_found_by_its_name_from_anywhere(tmp_path, monkeypatch):
    shared = tmp_path / 'share/bigmodel_jax/experiments'
    shared.mkdir(parents=True)
    (shared / 'installed.py').write_text('A = 1\n')
    (tmp_path / 'share/bigmodel_jax/other.py').write_text('A = 2\n')
    monkeypatch.setattr(sys, 'prefix', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert experiment_file.load_module('experiments/installed.py').A == 1
    (tmp_path / 'experiments').mkdir()
    (tmp_path / 'experiments/installed.py').write_text('A = 3\n')
    assert experiment_file.load_module('experiments/installed.py').A == 3  # One's own file comes first.
    for name in ('experiments/../other.py', 'other.py', 'experiments/missing.py'):
        with pytest.raises(config.InputError, match='There is no experiment file'):
            experiment_file.load_module(name)


@pytest.mark.parametrize('shell', completion.SHELLS)
def test_a_shell_completes_every_verb(shell):
    script = completion.script(command_line.parser(), shell)
    assert all(verb in script for verb in cli.VERBS)
    assert re.search(r'(complete|compdef).*bigmodel_jax', script)
    if shell == 'bash':
        subprocess.run(['bash', '-n'], input=script, text=True, check=True)


def test_advice_on_what_to_install_does_not_name_a_package_that_no_index_has():
    """`pip install 'bigmodel_jax[extra]'` fails as long as the package is on no index."""
    roots = [style_rules.ROOT / name for name in ('bigmodel_jax', 'experiments', 'scripts')]
    files = [path for root in roots for path in root.rglob('*') if path.is_file() and '__pycache__' not in path.parts]
    texts = {path: path.read_text(errors='replace') for path in [*files, style_rules.ROOT / 'README.md']}
    assert len(texts) > 100
    assert not [path for path, text in texts.items() if re.search(r'install [^\n]*bigmodel_jax\[', text)]


def test_the_package_says_that_it_is_typed():
    assert (pathlib.Path(command_line.__file__).parent / 'py.typed').exists()
    assert 'py.typed' in SETUP['options.package_data']['*']
