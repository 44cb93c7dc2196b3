"""An experiment of several files: what lies beside the file is imported as by a script, and errors name own lines."""

import pathlib
import sys

import pytest

from bigmodel_jax import __main__, config, experiment_file
from bigmodel_jax.user_code import own_modules

EXPERIMENT = """
import dataclasses
import helpers
from bigmodel_jax import config, experiment_file

def experiment():
    return config.vary(experiment_file.load({tiny!r}), {{'seed': helpers.SEED}})
"""
TINY = str(pathlib.Path(__file__).with_name('tiny.py'))


@pytest.fixture(autouse=True)
def as_before(monkeypatch, tmp_path):
    """Takes back what loading leaves: folders on the path, and modules."""
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(own_modules, '_folders', [])
    monkeypatch.setattr(own_modules, '_aside', {})
    yield
    for name, module in list(sys.modules.items()):
        if (own_modules.file_of(module) or tmp_path.parent).is_relative_to(tmp_path):
            del sys.modules[name]


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f'{name}.py').write_text(text)
    return str(folder / 'mine.py')


def study(folder, seed):
    return write(folder, mine=EXPERIMENT.format(tiny=TINY), helpers=f'SEED = {seed}\n')


def test_a_module_beside_the_file_is_imported_from_any_directory(tmp_path, monkeypatch):
    file = study(tmp_path / 'study', 3)
    monkeypatch.chdir(tmp_path)
    assert experiment_file.load(file).seed == 3
    assert experiment_file.load('study/mine.py').seed == 3


def test_modules_of_equal_names_in_two_folders_are_told_apart(tmp_path):
    one, other = study(tmp_path / 'one', 1), study(tmp_path / 'other', 2)
    assert [experiment_file.load(file).seed for file in (one, other, one)] == [1, 2, 1]


def test_a_module_beside_the_file_is_never_confused_with_one_of_python(tmp_path, capsys):
    file = write(tmp_path, mine='import json\n', json='')
    with pytest.raises(config.InputError, match=r'mine\.py, line 1: `import json` would not import json\.py .* Rename'):
        experiment_file.load(file)
    file = write(tmp_path / 'other', mine='import this\ndef experiment(): return this.X\n', this='X = 1\n')
    with pytest.raises(config.InputError, match='returned a int'):
        experiment_file.load(file)
    assert 'imports' in capsys.readouterr().err


def test_a_relative_import_is_answered_with_what_to_write(tmp_path):
    file = write(tmp_path, mine='import os\nfrom .helpers import SEED\n', helpers='SEED = 1\n')
    with pytest.raises(config.InputError, match=r'mine\.py, line 2: .* Write `from helpers import SEED`'):
        experiment_file.load(file)


@pytest.mark.parametrize('relative', [True, False])
def test_an_error_shows_the_own_lines_that_led_to_it(tmp_path, monkeypatch, relative):
    study = {
        'mine': 'import helpers\n\ndef experiment():\n    return helpers.half(0)\n',
        'helpers': 'def half(x):\n    return 1 / x\n',
    }
    file = write(tmp_path / 'study', **study)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(config.InputError) as found:
        experiment_file.load('study/mine.py' if relative else file)
    mine = 'study/mine.py' if relative else file
    assert str(found.value).splitlines() == [
        'study/helpers.py, line 2: ZeroDivisionError: division by zero',
        f'  {mine}, line 4, in experiment',
        '    return helpers.half(0)',
        '  study/helpers.py, line 2, in half',
        '    return 1 / x',
    ]


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        ({'mine': 'x = (1\n'}, r"mine\.py, line 1: SyntaxError: .*\n    x = \(1"),
        ({'mine': 'import helpers\n', 'helpers': 'x = = 1\n'}, r'helpers\.py, line 1: SyntaxError: .*\n    x = = 1'),
        ({'mine': 'import nothing_of_this_name\n'}, r"line 1: ModuleNotFoundError.*\n.*\n    import nothing_of"),
        ({'mine': 'def experiment(): pass\n'}, r'returned None, not an Experiment. Does it lack a `return`'),
        ({'mine': 'def experiment(*a, **k): return k\n'}, r'experiment\(\) has no arm'),
        ({'mine': 'import sys\nsys.exit(3)\n'}, r'mine\.py, line 2: SystemExit: 3'),
        ({'mine': 'def experiment(x, /): return x\n'}, r'needs --arg x='),
        ({'mine': 'from bigmodel_jax import experiment_file as x\nx.load(__file__)\n'}, 'runs a command while it is'),
        ({'mine': 'from bigmodel_jax import config\nraise config.InputError("no")\n'}, r'mine\.py, line 2: no'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_message(tmp_path, files, message):
    with pytest.raises(config.InputError, match=message):
        experiment_file.load(write(tmp_path, **files))


def test_a_colon_without_a_function_is_told(tmp_path):
    with pytest.raises(config.InputError, match=r'there is no function after the colon'):
        experiment_file.load(f'{TINY}:')


def test_debug_prints_the_whole_traceback_and_names_cannot_write_to_the_terminal(tmp_path, capsys):
    file = write(tmp_path, mine='def experiment():\n    raise ValueError("\\x1b[2J[/x]")\n')
    assert __main__.main(argv=['show', file, '--debug']) == 2
    err = capsys.readouterr().err
    assert 'Traceback' in err
    assert 'bigmodel_jax/experiment_file.py' in err
    assert err.splitlines()[-3] == f'error: {file}, line 2: ValueError: \\x1b[2J[/x]'
    assert __main__.main(argv=['show', file]) == 2
    assert 'Traceback' not in capsys.readouterr().err


def test_a_name_with_marks_of_colour_is_shown_as_it_is(tmp_path, capsys):
    assert __main__.main(argv=['show', TINY, '--set', "name='[/x]\\x1b[31m'"]) == 0
    assert '[/x]\\x1b[31m' in capsys.readouterr().out


def test_no_module_of_the_package_is_a_persons_own():
    """Else every run would store the package among the code of its experiment."""
    package = pathlib.Path(config.__file__).parent
    assert not [path for path in package.rglob('*.py') if own_modules.is_own(str(path))]
    assert own_modules.is_own(TINY)
