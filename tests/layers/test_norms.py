"""Norms against NumPy in float64, and what they leave unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drawing
from bigmodel_jax.layers import norms
from bigmodel_jax.parallel import sharding

X = np.random.default_rng(0).normal(1.0, 3.0, (2, 5, 16)).astype(np.float32)


def layer_norm(x, epsilon):
    x = x.astype(np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def rms_norm(x, epsilon):
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)


# An epsilon of 0.5 shows where it is added.
@pytest.mark.parametrize('epsilon', [1e-5, 0.5])
def test_functions_are_those_of_the_papers(epsilon):
    np.testing.assert_allclose(norms.layer_norm(X, epsilon=epsilon), layer_norm(X, epsilon), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norms.rms_norm(X, epsilon=epsilon), rms_norm(X, epsilon), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('config', [norms.LayerNorm(), norms.LayerNorm(bias=False), norms.RmsNorm()])
def test_module_scales_and_shifts(config):
    module = config.build()
    params = drawing.variables(module, X)['params']
    reference = rms_norm if isinstance(config, norms.RmsNorm) else layer_norm
    expected = params['scale'] * reference(X, config.epsilon) + params.get('bias', 0.0)
    np.testing.assert_allclose(module.apply({'params': params}, X), expected, rtol=1e-5, atol=1e-5)
    assert set(params) == {'scale', 'bias'} if config == norms.LayerNorm() else {'scale'}


def test_statistics_are_taken_in_float32():
    """In bfloat16 the mean of values near 1000 would be off by units."""
    x = jnp.asarray(1_000.0 + X, jnp.bfloat16)
    module = norms.LayerNorm().build()
    params = {'scale': np.ones(16), 'bias': np.zeros(16)}
    y = module.apply({'params': params}, x)
    assert y.dtype == jnp.bfloat16
    expected = layer_norm(np.asarray(x, np.float32), 1e-5)
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, rtol=2**-7, atol=2**-7)  # The output is bfloat16.


def test_layer_norm_ignores_scale_and_shift_and_rms_norm_scale():
    np.testing.assert_allclose(norms.layer_norm(3 * X + 7, epsilon=0), norms.layer_norm(X, epsilon=0), atol=1e-5)
    np.testing.assert_allclose(norms.rms_norm(3 * X, epsilon=0), norms.rms_norm(X, epsilon=0), atol=1e-5)


def test_batch_norm_is_of_the_batch_of_all_devices():
    """On 1 and 8 devices: outputs, gradients and running statistics of training, and evaluation."""
    rng = np.random.default_rng(1)
    batch = {'x': rng.normal(2.0, 3.0, (16, 4, 4, 8)).astype(np.float32), 'weights': (np.arange(16) < 13) * 1.0}
    module = norms.BatchNorm().build()
    variables = drawing.variables(module, batch['x'])

    @jax.jit
    def compute(batch):
        def total(params, x_BYXZ):
            variables_of = {**variables, 'params': params}
            y_BYXZ, after = module.apply(variables_of, x_BYXZ, batch['weights'], mutable=['batch_stats'])
            return (batch['weights'][:, None, None, None] * y_BYXZ**3).sum(), (y_BYXZ, after)

        gradients, (y_BYXZ, after) = jax.grad(total, argnums=(0, 1), has_aux=True)(variables['params'], batch['x'])
        return y_BYXZ, after, gradients, module.apply({**variables, **after}, batch['x'])

    found = []
    for devices in (1, 8):
        place = sharding.MeshShape(data=devices).build(jax.devices()[:devices])
        with sharding.use(place):
            found.append(compute(place.put_batch(batch, 16)))
    for one, eight in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(one, eight, rtol=0, atol=1e-5 * max(np.abs(one).max(), 1))
