"""Optimizers: PyTorch's trajectories and the papers' formulas in float64; all descend, and decay only matrices."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigmodel_jax.optim import anomaly_policy, optimizers, schedules

ORACLES = pathlib.Path(__file__).parents[1] / 'oracles' / 'operations.npz'
AXES = {'matrix': ('embed', 'hidden')}


def constant(peak):
    return schedules.Constant(peak=peak)


def trajectory(optimizer, params, grads, axes=AXES):
    """Parameters after each update; `grads` is a tree whose leaves have one gradient for each update."""
    rule = optimizer.build(1_000, optimizer.assign(axes))

    def step(carry, grad):
        params, state = carry
        updates, state = rule.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda params, grads: jax.lax.scan(step, (params, rule.init(params)), grads)[1])(params, grads)


def oracle(*names):
    with np.load(ORACLES) as oracles:
        return [oracles[name] for name in names]


def run(optimizer):
    """The trajectory on the oracle's 12 gradients."""
    start, grads = (jnp.asarray(x, jnp.float32) for x in oracle('opt_w0', 'opt_grads'))
    return trajectory(optimizer, {'matrix': start}, {'matrix': grads})['matrix']


@pytest.mark.parametrize(
    ('optimizer', 'name'),
    [
        (optimizers.Sgd(schedule=constant(0.1), momentum=0.0), 'opt_sgd'),
        (optimizers.Sgd(schedule=constant(0.1), momentum=0.9, weight_decay=5e-4), 'opt_sgd_mom'),
        (optimizers.Sgd(schedule=constant(0.1), momentum=0.9, nesterov=True), 'opt_sgd_nesterov'),
        (optimizers.AdamW(schedule=constant(0.01)), 'opt_adam'),
        (optimizers.AdamW(schedule=constant(0.01), b2=0.98, eps=1e-9), 'opt_adam_vaswani'),
        (optimizers.AdamW(schedule=constant(0.01), weight_decay=0.1), 'opt_adamw'),
        (optimizers.AdamW(schedule=constant(0.01), b2=0.95, weight_decay=0.1), 'opt_adamw_gpt3'),
    ],
)
def test_trajectory_is_that_of_pytorch(optimizer, name):
    np.testing.assert_allclose(run(optimizer), oracle(name)[0], rtol=1e-5, atol=2e-6)  # Float32, 12 updates.


@pytest.mark.parametrize(('relative', 'name'), [(False, 'opt_adafactor_hf'), (True, 'opt_adafactor_hf_rel')])
def test_adafactor_is_that_of_transformers(relative, name):
    """Theirs keeps rows and columns of every matrix; its own rate, min(0.01, 1 / sqrt(step)), is 0.01 for so long."""
    optimizer = optimizers.Adafactor(schedule=constant(0.01), relative=relative, smallest=1)
    np.testing.assert_allclose(run(optimizer), oracle(name)[0], rtol=1e-5, atol=2e-6)


def adafactor(w, grads, rate):
    """Shazeer and Stern (2018), algorithm 4 without factors, as matrices narrower than 128 have none."""
    v, path = np.zeros_like(w), []
    for step, grad in enumerate(grads, 1):
        b2 = 1 - step**-0.8
        v = b2 * v + (1 - b2) * (grad**2 + 1e-30)
        update = grad / np.sqrt(v)
        update /= max(1.0, np.sqrt((update**2).mean()))
        w = w - rate * max(1e-3, np.sqrt((w**2).mean())) * update
        path.append(w)
    return path


def lion(w, grads, rate, decay):
    """Chen et al. (2023), program 1."""
    m, path = np.zeros_like(w), []
    for grad in grads:
        update = np.sign(0.9 * m + 0.1 * grad)
        m = 0.99 * m + 0.01 * grad
        w = w - rate * (update + decay * w)
        path.append(w)
    return path


def test_adafactor_and_lion_are_those_of_the_papers():
    start, grads = oracle('opt_w0', 'opt_grads')
    found = run(optimizers.Adafactor(schedule=constant(0.01)))
    np.testing.assert_allclose(found, adafactor(start, grads, 0.01), rtol=1e-5, atol=2e-6)
    found = run(optimizers.Lion(schedule=constant(0.01), weight_decay=0.1))
    np.testing.assert_allclose(found, lion(start, grads, 0.01, 0.1), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize('clip_norm', [None, 1.0])
def test_clipping_by_value_limits_each_element_before_the_norm_is_clipped(clip_norm):
    start, grads = oracle('opt_w0', 'opt_grads')
    limit = float(np.median(np.abs(grads[0])))
    optimizer = optimizers.Sgd(schedule=constant(1.0), momentum=0.0, clip_value=limit, clip_norm=clip_norm)
    first = {'matrix': jnp.asarray(grads[:1], jnp.float32)}
    found = trajectory(optimizer, {'matrix': jnp.asarray(start, jnp.float32)}, first)['matrix'][0]
    wanted = np.minimum(np.maximum(grads[0].astype(np.float64), -limit), limit)
    if clip_norm is not None:
        wanted *= min(1.0, clip_norm / np.sqrt((wanted**2).sum()))
    np.testing.assert_allclose(start - found, wanted, atol=2e-6)  # Float32: start is of order 1.


def test_clipping_is_by_the_norm_of_the_whole_gradient():
    start, grads, clipped, norm = oracle('opt_w0', 'opt_grads', 'clip_grad_after', 'clip_norm_before')
    one = {'matrix': jnp.asarray(10 * grads[:1], jnp.float32)}
    np.testing.assert_allclose(np.sqrt((one['matrix'] ** 2).sum()), norm, rtol=1e-6)
    plain = optimizers.Sgd(schedule=constant(1.0), momentum=0.0, clip_norm=1.0)
    found = trajectory(plain, {'matrix': jnp.asarray(start, jnp.float32)}, one)['matrix'][0]
    np.testing.assert_allclose(start - found, clipped, atol=2e-6)


def test_a_bfloat16_momentum_is_stored_so_and_changes_little():
    start, grads = (jnp.asarray(x, jnp.float32) for x in oracle('opt_w0', 'opt_grads'))
    half = optimizers.AdamW(schedule=constant(0.01), momentum_dtype='bfloat16')
    moments = half.build(1_000, half.assign(AXES)).init({'matrix': start})[0]
    assert (moments.mu['matrix'].dtype, moments.nu['matrix'].dtype) == (jnp.bfloat16, jnp.float32)
    found = trajectory(half, {'matrix': start}, {'matrix': grads})['matrix']
    moved = np.abs(found - start).max()
    # Each update is rounded to 8 bits.
    np.testing.assert_allclose(found, run(optimizers.AdamW(schedule=constant(0.01))), atol=2**-8 * moved)


EVERY = [
    optimizers.AdamW(schedule=constant(0.05), weight_decay=0.1),
    optimizers.Adafactor(schedule=constant(0.05), weight_decay=0.1),
    optimizers.Lion(schedule=constant(0.02), weight_decay=0.1),
    optimizers.Sgd(schedule=constant(0.05), weight_decay=0.1),
    optimizers.Muon(schedule=constant(0.05), weight_decay=0.1),
]
NAMES = [type(each).__name__ for each in EVERY]
SHAPES = {'matrix': (4, 6), 'matrix_bias': (6,), 'scale': (4,), 'embedding': (5, 4)}
TREE_AXES = {
    'matrix': ('embed', 'hidden'), 'matrix_bias': ('hidden',), 'scale': ('embed',), 'embedding': ('vocab', 'embed'),
}  # fmt: skip


def tree(seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


@pytest.mark.parametrize('optimizer', EVERY, ids=NAMES)
def test_a_quadratic_falls_and_only_matrices_decay(optimizer):
    rule = optimizer.build(100, optimizer.assign(TREE_AXES))
    target = tree(1)

    def loss(params):
        parts = jax.tree.map(lambda a, b: jnp.square(a - b).sum(), params, target)
        return sum(parts.values())

    def step(carry, _):
        params, state = carry
        updates, state = rule.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), loss(params)

    @jax.jit
    def both(params):
        losses = jax.lax.scan(step, (params, rule.init(params)), None, length=60)[1]
        zero = jax.tree.map(jnp.zeros_like, params)
        return losses, rule.update(zero, rule.init(params), params)[0]

    start = tree(0)
    losses, still = both(start)
    assert losses[-1] < 0.5 * losses[0]
    for name, update in still.items():
        if name in ('matrix', 'embedding'):
            shrunk = update / start[name]
            np.testing.assert_allclose(shrunk, shrunk.mean(), rtol=1e-3)  # In proportion.
            np.testing.assert_allclose(shrunk.mean(), -optimizer.schedule.peak * 0.1, rtol=1e-4)
        else:
            np.testing.assert_array_equal(update, np.zeros_like(update))


@pytest.mark.parametrize(
    ('axes', 'shape', 'matrix'),
    [
        (('embed', 'hidden'), (6, 10), (6, 10)),
        (('hidden', 'embed'), (10, 6), (10, 6)),
        (('embed', 'heads', 'head'), (12, 2, 4), (12, 8)),
        (('heads', 'head', 'embed'), (2, 4, 12), (8, 12)),
        (('layers', 'embed', 'heads', 'head'), (3, 12, 2, 4), (12, 8)),
        (('layers', 'hidden', 'embed'), (3, 10, 6), (10, 6)),
    ],
)
def test_muon_makes_each_matrix_orthogonal(axes, shape, matrix):
    """All singular values near 1, times what gives updates a root mean square of 0.2 times the rate."""
    muon = optimizers.Muon(schedule=constant(0.1))
    grads = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    zero = jnp.zeros(shape)
    update = trajectory(muon, {'blocks': {'w': zero}}, {'blocks': {'w': grads}}, {'blocks': {'w': axes}})
    update = np.array(update['blocks']['w'][0]).reshape(-1, *matrix)
    values = np.linalg.svd(update / (0.1 * 0.2 * np.sqrt(max(matrix))), compute_uv=False)
    # Five Newton-Schulz iterations, whose polynomial ends between 0.7 and 1.2.
    assert values.min() > 0.6
    assert values.max() < 1.3
    np.testing.assert_allclose(np.sqrt((update**2).mean()), 0.02, rtol=0.2)


@pytest.mark.parametrize('optimizer', EVERY, ids=NAMES)
def test_after_skipped_steps_the_rate_is_that_of_the_step(optimizer):
    """And the moments are those of a run that begins here: they have not seen what was skipped."""
    skipped, steps, guard = 5, 40, anomaly_policy.Skip()
    schedule = schedules.WarmupCosine(peak=0.05, warmup_steps=10)
    params, grads = tree(0), tree(1)

    def state_after(built, verdicts):
        state = built.init(params)
        for verdict in verdicts:
            updates, new = built.update(grads, state, params)
            state = guard.settle(jnp.int32(verdict), state, new)
        return updates

    groups = optimizer.assign(TREE_AXES)
    late = dataclasses.replace(optimizer, schedule=schedule).build(steps, groups)
    found = jax.jit(lambda: state_after(late, [anomaly_policy.NOT_FINITE] * skipped + [anomaly_policy.OK]))()
    rate = float(schedule.build(steps)(jnp.int32(skipped)))
    first = dataclasses.replace(optimizer, schedule=constant(rate)).build(steps, groups)
    wanted = jax.jit(lambda: state_after(first, [anomaly_policy.OK]))()
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7), found, wanted)
