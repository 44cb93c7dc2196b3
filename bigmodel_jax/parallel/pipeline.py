"""Pipeline parallelism: the layers in stages on different devices, and the batch flowing through them in microbatches.

GPipe (Huang et al., 2018, arXiv:1811.06965), as one program for all devices (Xu et al., 2021, arXiv:2105.04663, section
3.3). Of L layers stage s has those from s L / stages on. A buffer holds what each stage works on, its first axis cut
over the stages. In one tick all stages compute, then the buffer moves on by one stage:

  tick     0    1    2    3    4
  stage 0  m0   m1   m2    .    .
  stage 1   .   m0   m1   m2    .
  stage 2   .    .   m0   m1   m2

M microbatches take M + stages - 1 ticks, so that (stages - 1) / (M + stages - 1) of the work is thrown away.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel_jax import config
from bigmodel_jax.parallel import per_device, sharding

PyTree = Any
# (weights of the layer, residual stream [B, ...], its other inputs, dropout key) -> the stream after it, what it sowed.
Layer = Callable[[PyTree, jax.Array, PyTree, jax.Array | None], tuple[jax.Array, PyTree]]

PARTS_PER_STAGE = 4  # Unless the mesh says otherwise: less than a fifth of the work is thrown away.


def divisors(number: int) -> list[int]:
    return [part for part in range(1, number + 1) if number % part == 0]


def microbatches(place: sharding.ShardingContext, rows: int) -> int:
    """M, the number of microbatches of a batch of `rows`: as the mesh says, or 4 for each stage; fewer if necessary.

    Each device's rows divide by M, so that a microbatch is spread over the devices as the batch is.
    """
    shards = place.shards('batch')
    local = rows // shards if rows % shards == 0 else rows
    limit = place.pipeline_parts or PARTS_PER_STAGE * place.shards('layers')
    return max(part for part in divisors(local) if part <= limit)


def check(place: sharding.ShardingContext, rows: int) -> None:
    """Raises InputError if a batch of `rows` does not divide into as many microbatches as the mesh asks for."""
    parts, shards = place.pipeline_parts, place.shards('batch')
    local = rows // shards
    if parts is not None and local % parts:
        legal = divisors(local)
        nearest = min(legal, key=lambda part: abs(part - parts))
        raise config.InputError(
            f'mesh.pipeline_parts={parts} does not divide the {local} rows that each of {shards} shards of the batch '
            f'({rows} rows) has; use {nearest}, or leave it out. Possible: {", ".join(map(str, legal))}.'
        )


def run(
    layer: Layer,
    weights: PyTree,
    x: jax.Array,
    beside: PyTree,
    *,
    place: sharding.ShardingContext,
    key: jax.Array | None,
) -> tuple[jax.Array, PyTree]:
    """The residual stream after all layers, and what they sowed, [L, ...] each: the mean over the microbatches.

    Args:
      weights: of all layers, [L, ...] each.
      x: the residual stream, [B, T, D].
      beside: the other inputs of every layer. Arrays with a first axis of B are split into microbatches and
        travel with them; the others are the same for all rows.
      key: of dropout; each layer, microbatch and replica gets its own. Other masks than without a pipeline.

    Where the rules have 'replica', the devices along its mesh axes work side by side: the weights of a stage are
    gathered once in a step, and their gradients, which add up in float32, summed once. Left to the compiler, both
    happen in every tick, which costs less memory: the gradients and weights of a stage lie split.
    """
    rows, parts = x.shape[0], microbatches(place, x.shape[0])
    leaves, tree = jax.tree.flatten((x, beside))
    of_rows = [('replica',) if leaf.shape[0] == rows else () for leaf in leaves]
    of_weights = [()] * len(jax.tree.leaves(weights))

    def local(key: jax.Array | None, *arrays: jax.Array) -> tuple[jax.Array, PyTree]:
        weights_here = jax.tree.unflatten(jax.tree.structure(weights), arrays[: len(of_weights)])
        x, beside = jax.tree.unflatten(tree, arrays[len(of_weights) :])
        names = place.names('replica')
        own = jax.random.fold_in(key, jax.lax.axis_index(names)) if names and key is not None else key
        x, sown = _flow(layer, weights_here, x, beside, place=place, parts=parts, key=own)
        return x, jax.lax.pmean(sown, names) if names else sown

    inputs = (None if key is None else (), *of_weights, *of_rows)
    together = per_device.shard_map(local, inputs=inputs, outputs=(('replica',), ()), over=('replica',))
    return together(key, *jax.tree.leaves(weights), *leaves)


def _flow(
    layer: Layer,
    weights: PyTree,
    x: jax.Array,
    beside: PyTree,
    *,
    place: sharding.ShardingContext,
    parts: int,
    key: jax.Array | None,
) -> tuple[jax.Array, PyTree]:
    """run() on the rows of a replica."""
    rows, stages = x.shape[0], place.shards('layers')
    leaves, tree = jax.tree.flatten((x, beside))
    travels = [leaf.shape[0] == rows for leaf in leaves]
    in_axes = (0, 0, 0, [0 if goes else None for goes in travels])
    each_stage = jax.vmap(_stage(layer, tree, key), in_axes=in_axes, spmd_axis_name=place.names('layers'))
    of_stages = jax.tree.map(lambda leaf: _by_stage(leaf, stages), weights)
    numbers = jnp.arange(len(jax.tree.leaves(weights)[0])).reshape(stages, -1)
    stage = jnp.arange(stages)

    def tick(buffer: list[jax.Array], inputs: tuple[jax.Array, list[jax.Array]]) -> tuple[list[jax.Array], Any]:
        time, entering = inputs
        # A choice that each stage makes by itself: to set [0] of an axis that is cut, the compiler may gather it.
        buffer = [_lay(jnp.where(_like(stage == 0, old), new, old)) for new, old in zip(entering, buffer)]
        moving, part = iter(buffer), time - stage
        given = [next(moving) if goes else leaf for leaf, goes in zip(leaves, travels)]
        x, sown = each_stage(of_stages, numbers, part, given)
        is_real = (part >= 0) & (part < parts)
        sown = jax.tree.map(lambda leaf: jnp.where(_like(is_real, leaf), leaf, 0), sown)
        return [_lay(jnp.roll(leaf, 1, axis=0)) for leaf in (x, *buffer[1:])], (x, sown)

    entering = [_schedule(leaf, parts, stages) for leaf, goes in zip(leaves, travels) if goes]
    # Stages that have nothing to do yet, or nothing more, compute on some microbatch: whatever is finite for real rows
    # is finite there, which zeros would not promise, and a gradient of 0 x inf would spread.
    start = [jax.lax.stop_gradient(leaf[0]) for leaf in entering]
    _, (after, sown) = jax.lax.scan(tick, start, (jnp.arange(parts + stages - 1), entering))
    # Taken out of the last stage once, not in every tick, as a sum, which all stages receive in one all-reduce.
    after = jnp.where(_like(stage == stages - 1, after[0]), after[stages - 1 :], 0).sum(axis=1)
    done = jnp.moveaxis(after, 0, 1).reshape(x.shape)
    mean = jax.tree.map(lambda leaf: leaf.sum(axis=0).reshape(-1, *leaf.shape[3:]) / parts, sown)
    return sharding.constrain(done, 'batch', 'residual_length', 'embed'), mean


def _stage(layer: Layer, tree: Any, key: jax.Array | None) -> Callable[..., tuple[jax.Array, PyTree]]:
    """A function: the output of one stage for microbatch `part`; `leaves` are those of (stream, beside)."""

    def stage(
        weights: PyTree, numbers: jax.Array, part: jax.Array, leaves: list[jax.Array]
    ) -> tuple[jax.Array, PyTree]:
        x, beside = jax.tree.unflatten(tree, leaves)

        def one(x: jax.Array, inputs: tuple[PyTree, jax.Array]) -> tuple[jax.Array, PyTree]:
            weights, number = inputs
            own = None if key is None else jax.random.fold_in(jax.random.fold_in(key, number), part)
            return layer(weights, x, beside, own)

        return jax.lax.scan(one, x, (weights, numbers))

    return stage


def _by_stage(leaf: jax.Array, stages: int) -> jax.Array:
    """[L, ...] -> [stages, L / stages, ...], which moves nothing."""
    return sharding.constrain(leaf.reshape(stages, -1, *leaf.shape[1:]), 'layers', ...)


def _schedule(leaf: jax.Array, parts: int, stages: int) -> jax.Array:
    """[B, ...] -> [ticks, stages, B / M, ...]: the input of each tick; the last microbatch is repeated.

    Rows i, i + M, i + 2M ... form microbatch i, so that no row changes device. Only the first stage takes what enters,
    but every stage has a copy of its own, so that their gradients are added once, and not in every tick.
    """
    split = jnp.moveaxis(leaf.reshape(-1, parts, *leaf.shape[1:]), 1, 0)
    last = jnp.broadcast_to(split[-1], (stages - 1, *split.shape[1:]))
    ticks = jnp.concatenate([split, last])[:, None]
    copies = jnp.broadcast_to(ticks, (ticks.shape[0], stages, *ticks.shape[2:]))
    return sharding.constrain(copies, None, 'layers', 'batch', ...)


def _like(mask: jax.Array, leaf: jax.Array) -> jax.Array:
    return mask.reshape(-1, *[1] * (leaf.ndim - 1))


def _lay(leaf: jax.Array) -> jax.Array:
    return sharding.constrain(leaf, 'layers', 'batch', ...)
