"""The verb, as it is used."""

import json

import pytest

from bigmodel_jax import __main__ as command_line
from bigmodel_jax.plan import page


def run(*arguments):
    return command_line.main(None, ['plan', 'experiments/gpt2.py', *arguments])


def test_fast_plan_prints_and_writes(tmp_path, capsys):
    assert run('--topology', 'v5e:4x4', '--topology', 'v5p:2x2x1', '--fast', '--out', str(tmp_path)) == 0
    text = capsys.readouterr().out
    assert text.count('fits') == 2
    assert 'dollars' in text
    assert len(json.loads((tmp_path / page.JSON).read_text())) == 2


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (('--topology', 'v5q:4x4x4'), "no chip 'v5q'"),
        (('--topology', 'v5p:4x4x5'), 'v5p:4x4x4'),
        (('--topology', 'v5e:4x4', '--set', 'mesh.tensor=5'), 'nearest that can'),
        (('--topology', 'v5e:4x4', '--prices', 'nowhere.json'), 'no price table'),
    ],
)
def test_impossible_requests_exit_with_a_message(arguments, words, capsys):
    assert run('--fast', *arguments) == 2
    assert words in capsys.readouterr().err
