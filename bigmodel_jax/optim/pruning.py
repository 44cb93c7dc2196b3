"""Pruning by magnitude: masks of weights that are zero and stay so in training, and the schedule by which they grow."""

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bigmodel_jax import config
from bigmodel_jax.optim import masks as defaults
from bigmodel_jax.optim import optimizers, parameter_groups, schedules

PyTree = Any


# ---- masks ------------------------------------------------------------------------------------------------------


def magnitude_mask(x: jax.Array, sparsity: jax.Array | float, *, in_layers: bool) -> jax.Array:
    """True where |x| is among the largest: of N numbers the round(sparsity * N) smallest are left out.

    Numbers as small as the largest of those left out are left out too, so that zeros never come back.

    Args:
      in_layers: the first axis counts layers, each of which has a mask of its own.
    """
    rows = jnp.abs(x.reshape(x.shape[0] if in_layers else 1, -1))
    size = rows.shape[1]
    count = jnp.round(jnp.asarray(sparsity, jnp.float32) * size).astype(jnp.int32)
    ordered = jnp.sort(rows, axis=1)
    threshold = jnp.where(count > 0, jnp.take(ordered, jnp.clip(count - 1, 0, size - 1), axis=1), -1.0)
    return (rows > threshold[:, None]).reshape(x.shape)


def masks(params: PyTree, axes: PyTree, sparsity: jax.Array | float) -> PyTree:
    """magnitude_mask() of each matrix and table; of a vector True, for all of it.

    Args:
      axes: the logical axes of each.
    """

    def one(x: jax.Array, is_matrix: bool, names: tuple[str | None, ...]) -> jax.Array:
        return magnitude_mask(x, sparsity, in_layers=names[:1] == ('layers',)) if is_matrix else jnp.bool_(True)

    return jax.tree.map(one, params, defaults.decayed(axes), axes)


def block_masks(params: PyTree, inputs: Mapping[str, tuple[int, ...]], *, kept: int, block: int) -> PyTree:
    """True for the `kept` largest of every `block` neighbours along the inputs of each matrix.

    Args:
      inputs: path of each matrix -> its axes that are contracted.
    """

    def one(path: Any, x: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator='.')
        if name not in inputs:
            return jnp.bool_(True)
        axes = inputs[name]
        last = tuple(range(-len(axes), 0))
        moved = jnp.moveaxis(jnp.abs(x), axes, last)
        blocks = moved.reshape(*moved.shape[: -len(axes)], -1, block)
        # Of equal numbers the first stays: the rank of each is how many are larger, or equal and before it.
        rank = jnp.argsort(jnp.argsort(-blocks, axis=-1, stable=True), axis=-1)
        return jnp.moveaxis((rank < kept).reshape(moved.shape), last, axes)

    return jax.tree_util.tree_map_with_path(one, params)


def masked(params: PyTree, chosen: PyTree) -> PyTree:
    """`params` with zeros where the mask is False."""
    return jax.tree.map(lambda x, mask: jnp.where(mask, x, 0), params, chosen)


# ---- in training ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gradual:
    """The share of zeros after t steps: final * (1 - (1 - (t - first) / (last - first))^3), from `first` to `last`.

    The masks are taken anew every `every_steps`. Source: Zhu and Gupta (2017), arXiv:1710.01878, equation 1.
    """

    final: config.Probability
    first_step: config.NonNegative = 0
    last_step: config.Positive
    every_steps: config.Positive = 10

    def __post_init__(self) -> None:
        if self.last_step <= self.first_step:
            raise config.InputError(
                f'{config.format_value(self)}: last_step must be larger than first_step={self.first_step}.'
            )

    def sparsity(self, step: jax.Array | int) -> jax.Array:
        """The share of zeros after so many steps, [] float32."""
        share = jnp.clip((jnp.asarray(step) - self.first_step) / (self.last_step - self.first_step), 0.0, 1.0)
        return self.final * (1.0 - (1.0 - share) ** 3)

    def is_due(self, step: jax.Array) -> jax.Array:
        """Whether the masks are taken anew after so many steps."""
        within = (step >= self.first_step) & (step <= self.last_step)
        return within & (((step - self.first_step) % self.every_steps == 0) | (step == self.last_step))


def _zeros_kept(x: jax.Array, is_matrix: bool) -> jax.Array:
    # A matrix of nothing but zeros was initialized so, and is to learn.
    return (x != 0) | ~(x != 0).any() if is_matrix else jnp.bool_(True)


class PrunedState(NamedTuple):
    """The state of a pruned optimizer."""

    updates: jax.Array  # [] int32: so far.
    kept: PyTree  # The masks: False where a weight is zero, and stays so.
    inner: PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pruned(optimizers.Optimizer):
    """An optimizer whose matrices keep the zeros that they begin with, and get more of them by a schedule.

    A weight that is zero has no gradient, and is not moved. With `gradual`, the smallest weights of each matrix of each
    layer become zero. A matrix of a random initialization begins without zeros.
    """

    optimizer: optimizers.Optimizer
    gradual: Gradual | None = None  # None: the zeros that are there stay, and no more.
    without: tuple[str, ...] = ()  # Patterns of paths that `gradual` leaves alone, such as 'embedding.*'.

    @property
    def schedule(self) -> schedules.Scheduler:  # type: ignore[override]
        return self.optimizer.schedule

    @property
    def clip_norm(self) -> float | None:  # type: ignore[override]
        return self.optimizer.clip_norm

    @property
    def weight_decay(self) -> float:  # type: ignore[override]
        return self.optimizer.weight_decay

    @property
    def groups(self) -> tuple[parameter_groups.Group, ...]:  # type: ignore[override]
        return self.optimizer.groups

    @property
    def decoupled(self) -> bool:  # type: ignore[override]
        return self.optimizer.decoupled

    def build(self, steps: int, assigned: parameter_groups.Assigned) -> optax.GradientTransformation:
        inner = self.optimizer.build(steps, assigned)
        matrices, axes = defaults.decayed(assigned.axes), assigned.axes

        def zeros(params: PyTree) -> PyTree:
            return jax.tree.map(_zeros_kept, assigned.trained(params), matrices)

        def init(params: PyTree) -> PrunedState:
            return PrunedState(jnp.int32(0), zeros(params), inner.init(params))

        def update(grads: PyTree, state: PrunedState, params: PyTree) -> tuple[PyTree, PrunedState]:
            trained = assigned.trained(params)
            updates, moved = inner.update(masked(grads, state.kept), state.inner, params)
            kept, count = state.kept, state.updates + 1
            if self.gradual is not None:
                kept = self._pruned(optax.apply_updates(trained, updates), kept, count, axes)
            updates = jax.tree.map(lambda update, x, mask: jnp.where(mask, update, -x), updates, trained, kept)
            return updates, PrunedState(count, kept, moved)

        return optax.GradientTransformation(init, update)

    def _pruned(self, params: PyTree, kept: PyTree, count: jax.Array, axes: PyTree) -> PyTree:
        """The masks after `count` updates: those that were, or what remains of them by the schedule."""
        assert self.gradual is not None
        sparsity = self.gradual.sparsity(count)

        def anew() -> PyTree:
            found = masks(masked(params, kept), axes, sparsity)
            return jax.tree_util.tree_map_with_path(self._chosen, found, kept)

        return jax.lax.cond(self.gradual.is_due(count), anew, lambda: kept)

    def _chosen(self, path: Any, found: jax.Array, kept: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator='.')
        return kept if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.without) else found & kept
