"""The tasks of a first week, each a short experiment file: valid, short, and its smoke() trains."""

import ast
import pathlib

import pytest

from bigmodel_jax import config, experiment_file, verbs
from bigmodel_jax.train import preparation

FILES = sorted((pathlib.Path(__file__).parents[1] / 'experiments' / 'first_week').glob('*.py'))
MOST_LINES = 15  # Of own code.
# Those whose model and objective other tests train in every run; own_metric is text_folder with another metric, and
# test_docs.py keeps the best checkpoint by a metric of one's own. text_folder is trained by test_readme.py.
SLOW = (
    'own_metric',
    'text_folder',
    'plain_flax',
    'csv_labels',
    'chats',
    'image_arrays',
    'own_feed_forward',
    'own_schedule',
    'other_data',
    'finetune_huggingface',
)
SMOKES = [pytest.param(file, marks=[pytest.mark.slow] if file.stem in SLOW else []) for file in FILES]


def own_lines(text: str) -> int:
    """Lines of code without imports, docstrings and smoke(); blank lines and comments do not count."""
    tree = ast.parse(text)
    imports = (ast.Import, ast.ImportFrom)
    docstrings = {
        id(node.body[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
    }
    counted: set[int] = set()
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            first = min([node.lineno, *(each.lineno for each in getattr(node, 'decorator_list', []))])
            smoke = isinstance(node, ast.FunctionDef) and node.name == 'smoke'
            skipped = isinstance(node, imports) or id(node) in docstrings or smoke
            (left_out if skipped else counted).update(range(first, node.end_lineno + 1))
    lines = text.splitlines()
    return sum(
        bool(lines[number - 1].strip()) and not lines[number - 1].strip().startswith('#')
        for number in counted - left_out
    )


def test_own_lines_are_counted():
    text = '"""Doc."""\nimport a\n\n@b\nclass C:\n    """Doc."""\n\n    x = 1  # One.\n    # Two.\n\ndef smoke(): 3\n'
    assert own_lines(text) == 3


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_a_task_takes_few_lines(file):
    assert own_lines(file.read_text()) <= MOST_LINES


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_the_smoke_is_valid_and_its_data_is_there(file):
    experiment = experiment_file.load(f'{file}:smoke')
    assert config.from_json(config.to_json(experiment)) == experiment
    assert preparation.build(experiment).data.training(0)['example_weights'].all()


@pytest.mark.parametrize('file', SMOKES, ids=lambda file: file.stem)
def test_the_smoke_trains(file, tmp_path):
    experiment = experiment_file.load(f'{file}:smoke')
    result = verbs.train(experiment, tmp_path)
    assert (result.step, verbs.open_run(tmp_path).finished) == (experiment.steps, True)


@pytest.mark.slow
def test_a_run_continues_with_other_data_on_purpose(tmp_path):
    names = (FILES[0].with_name(f'{stem}.py') for stem in ('text_folder', 'other_data'))
    first, second = (experiment_file.load(f'{name}:smoke') for name in names)
    verbs.train(first, tmp_path)
    with pytest.raises(config.InputError, match='--new-segment'):
        verbs.train(second, tmp_path)
    assert verbs.train(second, tmp_path, new_segment=True).step == second.steps
    assert verbs.verify(tmp_path).identical
