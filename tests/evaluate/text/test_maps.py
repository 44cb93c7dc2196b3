"""Attention maps of translations: what the evaluation shows of a sentence, and the picture of it."""

import pathlib

import jinja2
import numpy as np
import pytest

import drawing
from bigmodel_jax import config, experiment_file
from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.models import decoder
from bigmodel_jax.report import heatmaps

FILE = pathlib.Path(__file__).parents[3] / 'experiments' / 'chinese_english.py'


@pytest.fixture(scope='module')
def smoke():
    return experiment_file.load(f'{FILE}:smoke')


def setting(experiment, model):
    data = experiment.data.build(0)
    return evaluation.EvaluationContext(
        model=model,
        module=model.build(),
        objective=experiment.objective,
        data=experiment.data,
        open_training=lambda: data,
        tokenizer=data.examples.tokenizer,
        place=experiment.mesh.build(),
        seed=0,
    )


@pytest.fixture(scope='module')
def shown(smoke):
    """What is shown of the sentence, under weights drawn by chance, with two layers so that they can be confused."""
    model = config.vary(smoke.model, {'encoder_layers': 2, 'decoder_layers': 2, 'width': 16, 'stack.scan': True})
    maps = config.vary(smoke.evaluations[2], {'longer_by': 2})
    tokens = np.zeros((1, 4), np.int32)
    params = drawing.variables(model.build(), {'source': tokens, 'inputs': tokens})['params']
    return maps.build(setting(smoke, model)).run(params, {}).artifacts


@pytest.mark.slow
def test_a_sentence_is_shown_as_characters_and_tokens(shown):
    text, characters, figure = shown
    assert text.prompt == '我爱北京天安门'
    assert ''.join(character for character, _ in characters.rows) == text.prompt
    assert characters.rows[0] == ('我', 'U+6211')
    assert [label.rpartition(' ')[0] for label in figure.panels[0].columns] == ['我', '爱', '北京', '天安门', '(end)']


def test_each_row_of_the_attention_sums_to_one(shown):
    figure = shown[-1]
    heads = np.array([panel.values for panel in figure.details])
    assert heads.shape == (4, len(figure.panels[0].rows), 5)
    # Each of five numbers was rounded to four digits.
    np.testing.assert_allclose(heads.sum(-1), 1.0, atol=3e-4)
    assert np.ptp(heads[[0, 2]], axis=0).max() > 0.01


def test_the_picture_has_every_weight_and_label(shown):
    figure = shown[-1]
    heads = np.array([panel.values for panel in figure.details])
    assert figure.details[3].title == 'layer 2, head 2'
    np.testing.assert_allclose(figure.panels[0].values, heads[:2].mean(axis=0), atol=1.1e-4)  # Rounded twice.
    drawing_of = heatmaps.draw(figure.details[3])
    np.testing.assert_allclose([cell.shade for cell in drawing_of.cells], heads[3].ravel(), atol=6e-4)
    folder = pathlib.Path(heatmaps.__file__).parent / 'templates'
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True)
    page = environment.from_string("{% import 'artifacts.html' as a %}{{ a.heatmap(map) }}").render(map=drawing_of)
    assert page.count('<rect') == heads[3].size
    for label in figure.panels[0].columns:
        assert f'>{label}</text>' in page  # With the id, readable without a font for the writing.


def test_a_model_without_an_encoder_is_refused(smoke):
    gpt = decoder.gpt(vocab=400, width=16, layers=1, heads=2, length=64)
    with pytest.raises(config.InputError, match="'attention' needs a model with an encoder, not a Decoder"):
        smoke.evaluations[2].build(setting(smoke, gpt))
