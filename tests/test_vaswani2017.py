"""experiments/vaswani2017.py: rows (B) of table 3, whose queries and keys are narrower than the values."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel_jax import config, experiment_file
from bigmodel_jax.kernels import context
from bigmodel_jax.papers import checks

FILE = pathlib.Path(__file__).parents[1] / 'experiments' / 'vaswani2017.py'


@pytest.fixture(scope='module')
def arms():
    names = ('base', 'B_keys16', 'big')
    return {name: experiment_file.load(f'{FILE}:sweep/{name}') for name in names}


def test_narrow_keys_are_the_attention_of_equation_1(arms):
    """Against NumPy in float64: scores are divided by the square root of the width of the keys."""
    B, T, D, H, K, V = 2, 5, 12, 2, 3, 6
    narrow = config.vary(arms['B_keys16'].model.block.mixer, {'heads': H, 'key_width': K, 'causal': False})
    rng = np.random.default_rng(0)
    shapes = {'query': (D, H, K), 'key': (D, H, K), 'value': (D, H, V), 'out': (H, V, D)}
    drawn = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    x_BTD, places_BT = rng.normal(size=(B, T, D)), np.arange(T)[None]
    here = context.Context(jnp.asarray(places_BT), jnp.asarray(places_BT))
    variables = {'params': jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), drawn)}
    found, _ = narrow.build().apply(variables, jnp.asarray(x_BTD, jnp.float32), here)
    query, key, value = (np.tensordot(x_BTD, drawn[name], 1) for name in ('query', 'key', 'value'))
    scores = np.exp(np.einsum('bthk,bshk->bhts', query, key) / np.sqrt(K))
    mixed = np.einsum('bhts,bshv->bthv', scores / scores.sum(-1, keepdims=True), value)
    np.testing.assert_allclose(found, np.einsum('bthv,hvd->btd', mixed, drawn['out']), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('arm', 'count'), [('base', 63_045_632), ('B_keys16', 55_967_744), ('big', 214_171_648)])
def test_the_published_counts(arms, arm, count):
    assert checks.ExperimentFacts(arms[arm]).parameters() == count
