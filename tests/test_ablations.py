"""The shipped ablations: every arm is valid, no two are the same, and the smoke() trains."""

import pathlib

import pytest

from bigmodel_jax import config, experiment_file, verbs
from bigmodel_jax.sweeps import sweep, trials

EXPERIMENTS = pathlib.Path(__file__).parents[1] / 'experiments'
FILES = sorted((EXPERIMENTS / 'ablations').glob('*.py'))


# Its arms are made equal in parameters, which takes several programs of each.
DEAR = 'recurrent_or_attention'


@pytest.mark.parametrize(
    'file', [pytest.param(each, marks=[pytest.mark.slow] if each.stem == DEAR else [], id=each.stem) for each in FILES]
)
def test_every_arm_is_valid_and_no_two_are_the_same(file: pathlib.Path) -> None:
    made = sweep.load(str(file))
    assert all(config.from_json(config.to_json(each)) == each for each in made.values())
    assert len(trials.trials(made)) == len(made) * len(made.seeds)
    assert made.baseline in made


@pytest.mark.slow
@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_the_smoke_trains(file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    experiment = experiment_file.load(f'{file}:smoke')
    result = verbs.train(experiment, tmp_path)
    assert (result.step, verbs.open_run(tmp_path).finished) == (experiment.steps, True)


def test_the_table_of_a_paper_is_a_sweep_with_the_numbers_of_its_columns() -> None:
    made = sweep.load(str(EXPERIMENTS / 'vaswani2017.py'))
    assert len(made) == 20
    assert {heading: cells['big'] for heading, cells in made.columns.items()} == {
        'validation/perplexity': 4.33,
        'dev/bleu': 26.4,
    }
    assert all(set(cells) == set(made) for cells in made.columns.values())
