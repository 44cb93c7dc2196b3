"""Histograms of the weights and gradients of a run, for TensorBoard.

They are computed beside the training step, which is the same program with and without them: the gradient of the step is
computed a second time. So every `watch.histograms_every` steps one step costs about twice its time. With
gradients.FixedOrder it is the gradient of the whole batch at once, with other dropout than that of the parts.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax.experiment import Experiment
from bigmodel_jax.train import metrics, preparation, state, step
from bigmodel_jax.train.monitoring import hooks, watching

BINS = 64

PyTree = Any


class Histogram(NamedTuple):
    """Of the finite values of one array."""

    edges: jax.Array  # [BINS + 1] float32: equally far apart, from the smallest value to the largest.
    counts: jax.Array  # [BINS] uint32
    total: jax.Array  # [] float32: the sum of the values,
    squares: jax.Array  # [] float32: and of their squares.


def histogram(x: jax.Array) -> Histogram:
    """The histogram of an array of any shape; the last bin includes its right edge."""
    x = x.astype(jnp.float32)
    finite = jnp.isfinite(x)
    low = jnp.where(finite, x, jnp.inf).min()
    high = jnp.where(finite, x, -jnp.inf).max()
    none = low > high
    low, high = jnp.where(none, 0.0, low), jnp.where(none, 0.0, high)
    edges = low + (high - low) * jnp.arange(BINS + 1, dtype=jnp.float32) / BINS
    # A sum for each edge instead of a scatter: it needs no memory and is local to each device but for one number.
    below = jax.lax.map(lambda edge: (finite & (x < edge)).sum(dtype=jnp.uint32), edges[1:-1])
    everything = finite.sum(dtype=jnp.uint32)
    counts = jnp.diff(jnp.concatenate([jnp.zeros(1, jnp.uint32), below, everything[None]]))
    values = jnp.where(finite, x, 0.0)
    return Histogram(edges, counts, values.sum(), jnp.square(values).sum())


def named(kind: str, tree: PyTree) -> dict[str, Histogram]:
    """'weights/blocks.layers.ffn.up' -> histogram, of each array of a tree of parameters or gradients."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        f'{kind}/{jax.tree_util.keystr(path, simple=True, separator=".")}': histogram(leaf) for path, leaf in leaves
    }


def take(
    before: state.TrainState, batch: step.Batch, *, spec: state.StateSpec, experiment: Experiment
) -> dict[str, Histogram]:
    """The histograms of the weights before a step, and of its gradient before it is clipped."""
    grads, _ = step.gradient(before, batch, spec=spec, experiment=experiment)
    return named('weights', before.params) | named('gradients', grads)


class Histograms(hooks.Hook):
    """Writes the histograms of a step every `watch.histograms_every` steps and at the end, if they are asked for."""

    def __init__(self, run: preparation.PreparedRun, clock: watching.Clock, writer: metrics.MetricsWriter):
        self._clock, self._writer, self._last = clock, writer, run.experiment.steps
        self._every = run.experiment.watch.histograms_every
        taking = functools.partial(take, spec=run.spec, experiment=run.experiment)
        self._take = jax.jit(taking, out_shardings=run.place.replicated)  # Every process gets all of it.

    def before_step(self, number: int, current: state.TrainState, batch: step.Batch) -> None:
        if self._every is not None and (number % self._every == 0 or number == self._last):
            with self._clock.phase('evaluation'):
                self._writer.histograms(number, self._take(current, batch))
