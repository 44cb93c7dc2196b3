import xml.etree.ElementTree

import numpy as np
import pytest

import tiny
from bigmodel_jax import config, mup
from bigmodel_jax.models import decoder
from bigmodel_jax.sweeps import coordinate_check

WIDTHS = np.array([16, 32, 64])


def made(exponent, size_exponent=0.0):
    """A check whose changes grow as width^exponent, and sizes as width^size_exponent."""
    changes = (WIDTHS[:, None, None] ** exponent) * np.array([0.1, 3.0])
    sizes = (WIDTHS[:, None, None] ** size_exponent) * np.ones((1, 3, 2))
    return coordinate_check.CoordinateCheck(
        names=('blocks, input', 'logits'), widths=WIDTHS, sizes=sizes, changes=np.repeat(changes, 2, axis=1)
    )


def test_slope_is_the_exponent_of_the_width():
    np.testing.assert_allclose([*made(0.7).slopes.values()], 0.7, rtol=1e-12)
    assert made(0.1).steep() == {}
    assert set(made(0.5).steep()) == {'blocks, input', 'logits'}
    # Updates that vanish with the width are as wrong as those that explode.
    assert set(made(-0.5).steep()) == {'blocks, input', 'logits'}
    # Logits that shrink are what muP begins with; activations that grow are not.
    assert made(0.0, size_exponent=-0.5).steep() == {}
    assert set(made(0.0, size_exponent=0.5).steep()) == {'blocks, input', 'logits'}
    assert 'not flat: blocks, input, logits' in made(0.5).text()
    assert 'widths 16 to 64: flat' in made(0.1).text()


def test_picture_has_two_panels_for_each_check():
    text = coordinate_check.picture({'muP': made(0.0), 'a < b': made(1.0)})
    assert text.count('<g transform') == 4
    assert 'a < b: change after 2 steps' in ' '.join(xml.etree.ElementTree.fromstring(text).itertext())


def experiment(width):
    model = decoder.gpt(vocab=tiny.VOCAB, width=width, layers=1, heads=4, length=tiny.LENGTH)
    return config.vary(tiny.without_dropout(), {'model': model, 'optimizer.schedule.warmup_steps': 0})


def test_too_few_widths_or_steps_are_refused():
    with pytest.raises(config.InputError, match='compares widths, but it was given 1'):
        coordinate_check.coordinate_check({16: experiment(16)})
    with pytest.raises(config.InputError, match='at least one step'):
        coordinate_check.coordinate_check({16: experiment(16), 32: experiment(32)}, steps=0)


@pytest.mark.slow
def test_mup_is_flat_and_the_standard_parametrization_is_not():
    widths = (32, 64, 128)
    standard = {width: experiment(width) for width in widths}
    scaled = {width: mup.apply(each, base=standard[32]) for width, each in standard.items()}
    assert coordinate_check.coordinate_check(scaled, steps=4).steep() == {}
    assert coordinate_check.coordinate_check(standard, steps=4).steep() != {}
