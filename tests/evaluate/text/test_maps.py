"""Sentences followed from characters to attention: the evaluation's records, and the picture of them."""

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
    return evaluation.Setting(
        model, model.build(), experiment.objective, lambda: data, data.examples.tokenizer, experiment.mesh.build(), 0
    )


@pytest.fixture(scope='module')
def record(smoke):
    """What is recorded of the sentence, under weights drawn by chance, with two layers so that they can be confused."""
    model = config.vary(smoke.model, {'encoder_layers': 2, 'decoder_layers': 2, 'width': 16, 'stack.scan': True})
    maps = config.vary(smoke.evaluations[2], {'longer_by': 2})
    tokens = np.zeros((1, 4), np.int32)
    params = drawing.variables(model.build(), {'source': tokens, 'inputs': tokens})['params']
    (found,) = maps.build(setting(smoke, model)).run(params, {}).records['maps']
    return found


def test_a_sentence_is_followed_from_characters_to_tokens(record):
    assert record['prompt'] == '我爱北京天安门'
    assert ''.join(token['piece'] for token in record['source']) == record['prompt']
    assert [token['piece'] for token in record['source']] == ['我', '爱', '北京', '天安门', '']
    # Pieces of no whole character are shown as U+FFFD, each by itself.
    assert ''.join(token['piece'] for token in record['target']).count('\ufffd') >= record['text'].count('\ufffd')


def test_each_token_spreads_one_look_over_the_source(record):
    weights_LHTS = np.array(record['weights'])
    assert weights_LHTS.shape == (2, 2, len(record['target']), len(record['source']))
    # Each of five numbers was rounded to four digits.
    np.testing.assert_allclose(weights_LHTS.sum(-1), 1.0, atol=3e-4)
    assert np.ptp(weights_LHTS, axis=0).max() > 0.01


def test_the_picture_has_every_weight_and_label(record):
    (followed,) = heatmaps.followed([record])
    assert (len(followed.layers), len(followed.heads)) == (2, 4)
    first, weights_TS = followed.heads[3], np.array(record['weights'])[1, 1]
    assert first.title == 'layer 2, head 2'
    np.testing.assert_allclose([cell.shade for cell in first.cells], weights_TS.ravel(), atol=6e-4)
    mean_TS = np.array(record['weights']).mean(axis=1)[0]
    np.testing.assert_allclose([cell.shade for cell in followed.layers[0].cells], mean_TS.ravel(), atol=6e-4)
    folder = pathlib.Path(heatmaps.__file__).parent / 'templates'
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True)
    drawn = environment.from_string("{% import 'maps.html' as maps %}{{ maps.draw(followed) }}")
    page = drawn.render(followed=followed)
    assert page.count('<rect') == weights_TS.size * 6
    for token in record['source']:
        assert f'>{token["id"]}</tspan>' in page  # Readable without a font for the writing.
    assert '天安门' in page
    assert '<code>U+6211</code>' in page


def test_spaces_are_seen():
    assert [heatmaps.shown(piece) for piece in (' the', 'a ', ' ', '', 'x y')] == ['␣the', 'a␣', '␣', '(end)', 'x y']


def test_a_model_without_an_encoder_is_refused(smoke):
    gpt = decoder.gpt(vocab=400, width=16, layers=1, heads=2, length=64)
    with pytest.raises(config.InputError, match="'attention' needs a model with an encoder, not a Decoder"):
        smoke.evaluations[2].build(setting(smoke, gpt))
