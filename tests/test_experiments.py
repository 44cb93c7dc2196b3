"""Every experiment file: its experiments are valid, and its smoke() trains."""

import pathlib
import subprocess
import sys

import pytest

from bigmodel_jax import config, experiment_file, verbs

FILES = sorted((pathlib.Path(__file__).parents[1] / 'experiments').glob('*.py'))


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_the_experiment_is_valid_and_survives_json(file):
    experiment = experiment_file.load(str(file))
    assert config.from_json(config.to_json(experiment)) == experiment
    assert verbs.parameters(experiment) > 0


# Whose parts others train too: test_recurrent_lm.py and test_readme.py train recurrent_lm and first_transformer,
# test_translation.py the encoder and decoder of multi30k, test_first_week.py the decoder of quickstart, and
# augmented_images and breast_cancer the data and the evaluation of the experiments with images; test_labelled.py and
# test_convolution.py have the parts of imdb, test_prognosis.py those of survival, and
# test_log_probabilities.py those of preferences, adapters/test_lora.py those of lora.
RARELY = (
    'multi30k',
    'gpt2',
    'quickstart',
    'shakespeare_char',
    'gpt3',
    'vaswani2017',
    'chinese_english',
    'bert2018',
    't5',
    'llama',
    'mixtral',
    'pods',
    'recurrent_lm',
    'first_transformer',
    'alexnet2012',
    'resnet2015',
    'vit2020',
    'zaremba2014',
    'digits',
    'imdb',
    'survival',
    'preferences',
    'fashion_mnist',
    'cifar10',
    'lora',
    'ddpm2020',
    'dit2022',
    'latent_fashion',
    'clip2021',
    'emoji_clip',
    'detr2020',
    'digit_scenes',
)
SMOKES = [pytest.param(file, marks=[pytest.mark.slow] if file.stem in RARELY else []) for file in FILES]


@pytest.mark.parametrize('file', SMOKES, ids=lambda file: file.stem)
def test_smoke_trains(file, tmp_path):
    result = verbs.train(experiment_file.load(f'{file}:smoke'), tmp_path)
    run = verbs.open_run(tmp_path)
    assert (run.finished, run.step, run.digest) == (True, result.step, result.digest)
    assert (tmp_path / 'report.html').stat().st_size > 5_000


def test_a_file_runs_by_itself():
    done = subprocess.run(
        [sys.executable, FILES[0].parent / 'gpt2.py', 'show', ':smoke'], capture_output=True, text=True, check=True
    )
    assert 'parameters' in done.stdout


def test_gpt2_is_the_published_model():
    experiment = experiment_file.load(str(FILES[0].parent / 'gpt2.py'))
    # The 47 rows that round the vocabulary up to 50,304 are not GPT-2's.
    assert verbs.parameters(experiment) - 47 * 768 == 124_439_808
