"""Pipeline parallelism: the layers in stages on different devices, and the batch flowing through them in microbatches.

GPipe (Huang et al., 2018, arXiv:1811.06965), as one program for all devices (Xu et al., 2021, arXiv:2105.04663, section
3.3). Of L layers stage s has those from s L / stages on. A buffer holds what each stage works on, its first axis cut
over the stages. In one tick all stages compute, then the buffer moves on by one stage:

  tick     0    1    2    3    4
  stage 0  m0   m1   m2    .    .
  stage 1   .   m0   m1   m2    .
  stage 2   .    .   m0   m1   m2

M microbatches take M + stages - 1 ticks, so that (stages - 1) / (M + stages - 1) of the work is thrown away.

With `mesh.pipeline_rounds` above 1 the schedule is interleaved (Narayanan et al., 2021, arXiv:2104.04473, section 2.2):
the layers form rounds x stages chunks, of which stage s has every stages-th from s on, and each microbatch goes around
that often. As many microbatches as there are stages go around together, before the next ones enter:

  tick     0     1     2     3     4     5     6     7     8           (2 stages, 2 rounds, M = 4; a, b are the rounds)
  stage 0  m0a   m1a   m0b   m1b   m2a   m3a   m2b   m3b   .
  stage 1  .     m0a   m1a   m0b   m1b   m2a   m3a   m2b   m3b

A tick is a rounds-th as long, and (stages - 1) / (rounds M + stages - 1) of the work is thrown away. In exchange the
stream moves from stage to stage rounds times as often, and the weights, which lie as without rounds so that a
checkpoint does not depend on the schedule, and their gradients go to the stage of their chunk once in a step.
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

    Raises:
      InputError: as check() does.
    """
    shards = place.shards('batch')
    limit = place.pipeline_parts or PARTS_PER_STAGE * place.shards('layers')
    return max(part for part in _legal(place, rows // shards if rows % shards == 0 else rows) if part <= limit)


def _legal(place: sharding.ShardingContext, local: int) -> list[int]:
    """The possible numbers of microbatches for the rows of a shard: with several rounds, multiples of the stages."""
    if place.pipeline_rounds == 1:
        return divisors(local)
    stages, rounds = place.shards('layers'), place.pipeline_rounds
    if stages == 1:
        raise config.InputError(
            f'mesh.pipeline_rounds={rounds} has no effect without stages: set mesh.pipeline, or leave it out.'
        )
    if local % stages:
        raise config.InputError(
            f'mesh.pipeline_rounds={rounds} needs a multiple of {stages} microbatches, one for each stage, but the '
            f'{local} rows of each shard of the batch do not divide by {stages}. Use another batch, or '
            'mesh.pipeline_rounds=1.'
        )
    return [stages * part for part in divisors(local // stages)]


def ticks(place: sharding.ShardingContext, parts: int) -> int:
    """How often every stage computes for a batch of M = `parts` microbatches; rounds x M of them are of use."""
    return place.pipeline_rounds * parts + place.shards('layers') - 1


def check(place: sharding.ShardingContext, rows: int) -> None:
    """Raises InputError if a batch of `rows` does not divide into as many microbatches as the mesh asks for."""
    parts, shards = place.pipeline_parts, place.shards('batch')
    local = rows // shards
    legal = _legal(place, local)
    if parts is not None and parts not in legal:
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
    rows, parts, depth = x.shape[0], microbatches(place, x.shape[0]), len(jax.tree.leaves(weights)[0])
    if depth % (chunks := place.shards('layers') * place.pipeline_rounds):
        raise config.InputError(
            f'{depth} layers do not divide into the {chunks} chunks of mesh.pipeline_rounds={place.pipeline_rounds} '
            f'with mesh.pipeline={place.shards("layers")}; use another number of layers or rounds.'
        )
    if place.pipeline_rounds > 1:  # Before they are gathered, while a device holds its own part of them alone.
        weights = jax.tree.map(lambda leaf: _interleaved(leaf, place), weights)
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
    rows, stages, rounds = x.shape[0], place.shards('layers'), place.pipeline_rounds
    leaves, tree = jax.tree.flatten((x, beside))
    travels = [leaf.shape[0] == rows for leaf in leaves]
    in_axes = (0, 0, 0, [0 if goes else None for goes in travels])
    each_stage = jax.vmap(_stage(layer, tree, key), in_axes=in_axes, spmd_axis_name=place.names('layers'))
    of_stages = jax.tree.map(lambda leaf: _by_stage(leaf, stages, rounds), weights)
    numbers = jnp.arange(len(jax.tree.leaves(weights)[0])).reshape(rounds, stages, -1).swapaxes(0, 1)
    stage = jnp.arange(stages)

    def tick(buffer: list[jax.Array], inputs: tuple[jax.Array, list[jax.Array]]) -> tuple[list[jax.Array], Any]:
        time, entering = inputs
        turn = time - stage  # Of each stage, counted from the first microbatch that it gets.
        lap, part = turn // stages % rounds, turn // (stages * rounds) * stages + turn % stages
        # A choice that each stage makes by itself: to set [0] of an axis that is cut, the compiler may gather it.
        enters = (stage == 0) & (lap == 0)
        buffer = [_lay(jnp.where(_like(enters, old), new, old)) for new, old in zip(entering, buffer)]
        moving = iter(buffer)
        given = [next(moving) if goes else leaf for leaf, goes in zip(leaves, travels)]
        x, sown = each_stage((of_stages, numbers), lap, part, given)
        is_real = (turn >= 0) & (turn < rounds * parts)
        sown = jax.tree.map(lambda leaf: _by_lap(jnp.where(_like(is_real, leaf), leaf, 0), lap, rounds), sown)
        return [_lay(jnp.roll(leaf, 1, axis=0)) for leaf in (x, *buffer[1:])], (x, sown)

    entering = [_schedule(leaf, parts, place) for leaf, goes in zip(leaves, travels) if goes]
    # Stages that have nothing to do yet, or nothing more, compute on some microbatch: whatever is finite for real rows
    # is finite there, which zeros would not promise, and a gradient of 0 x inf would spread.
    start = [jax.lax.stop_gradient(leaf[0]) for leaf in entering]
    _, (after, sown) = jax.lax.scan(tick, start, (jnp.arange(ticks(place, parts)), entering))
    after = after[stages - 1 :]
    if rounds > 1:  # What leaves the last stage in the last round; M is a multiple of the stages.
        after = after.reshape(-1, rounds, stages, *after.shape[1:])[:, -1].reshape(parts, *after.shape[1:])
    # Taken out of the last stage once, not in every tick, as a sum, which all stages receive in one all-reduce.
    after = jnp.where(_like(stage == stages - 1, after[0]), after, 0).sum(axis=1)
    done = jnp.moveaxis(after, 0, 1).reshape(x.shape)
    # [ticks, stages, rounds, L / (stages rounds), ...]
    mean = jax.tree.map(lambda leaf: leaf.sum(axis=0).swapaxes(0, 1).reshape(-1, *leaf.shape[4:]) / parts, sown)
    return sharding.constrain(done, 'batch', 'residual_length', 'embed'), mean


def _stage(layer: Layer, tree: Any, key: jax.Array | None) -> Callable[..., tuple[jax.Array, PyTree]]:
    """A function: the output of one stage for microbatch `part` in round `lap`; `leaves` are of (stream, beside)."""

    def stage(
        chunks: tuple[PyTree, jax.Array], lap: jax.Array, part: jax.Array, leaves: list[jax.Array]
    ) -> tuple[jax.Array, PyTree]:
        x, beside = jax.tree.unflatten(tree, leaves)
        weights, numbers = jax.tree.map(lambda leaf: _of_lap(leaf, lap), chunks)

        def one(x: jax.Array, inputs: tuple[PyTree, jax.Array]) -> tuple[jax.Array, PyTree]:
            weights, number = inputs
            own = None if key is None else jax.random.fold_in(jax.random.fold_in(key, number), part)
            return layer(weights, x, beside, own)

        return jax.lax.scan(one, x, (weights, numbers))

    return stage


def _interleaved(leaf: jax.Array, place: sharding.ShardingContext) -> jax.Array:
    """[L, ...]: the layers in the order in which the stages have them; each stage's chunks beside each other."""
    chunks = leaf.reshape(place.pipeline_rounds, place.shards('layers'), -1, *leaf.shape[1:]).swapaxes(0, 1)
    return sharding.constrain(chunks, 'layers', ...).reshape(leaf.shape)


def _by_stage(leaf: jax.Array, stages: int, rounds: int) -> jax.Array:
    """[L, ...] -> [stages, rounds, L / (stages rounds), ...], which moves nothing."""
    return sharding.constrain(leaf.reshape(stages, rounds, -1, *leaf.shape[1:]), 'layers', ...)


def _of_lap(leaf: jax.Array, lap: jax.Array) -> jax.Array:
    """[rounds, ...] -> [...]"""
    return leaf[0] if leaf.shape[0] == 1 else jax.lax.dynamic_index_in_dim(leaf, lap, keepdims=False)


def _by_lap(leaf: jax.Array, lap: jax.Array, rounds: int) -> jax.Array:
    """[stages, ...] -> [stages, rounds, ...]: each in its round, and 0 in the others."""
    if rounds == 1:
        return leaf[:, None]
    return jnp.stack([jnp.where(_like(lap == each, leaf), leaf, 0) for each in range(rounds)], axis=1)


def _schedule(leaf: jax.Array, parts: int, place: sharding.ShardingContext) -> jax.Array:
    """[B, ...] -> [ticks, stages, B / M, ...]: the input of each tick; the last microbatch is repeated.

    Rows i, i + M, i + 2M ... form microbatch i, so that no row changes device. Only the first stage takes what enters,
    and only in the first round, but every stage has a copy of its own, so that their gradients are added once, and not
    in every tick.
    """
    stages, rounds = place.shards('layers'), place.pipeline_rounds
    split = jnp.moveaxis(leaf.reshape(-1, parts, *leaf.shape[1:]), 1, 0)
    if rounds > 1:
        together = split.reshape(-1, 1, stages, *split.shape[1:])
        laps = jnp.broadcast_to(together, (together.shape[0], rounds, *together.shape[2:]))
        split = laps.reshape(-1, *split.shape[1:])
    last = jnp.broadcast_to(split[-1], (stages - 1, *split.shape[1:]))
    entering = jnp.concatenate([split, last])[:, None]
    copies = jnp.broadcast_to(entering, (entering.shape[0], stages, *entering.shape[2:]))
    return sharding.constrain(copies, None, 'layers', 'batch', ...)


def _like(mask: jax.Array, leaf: jax.Array) -> jax.Array:
    return mask.reshape(-1, *[1] * (leaf.ndim - 1))


def _lay(leaf: jax.Array) -> jax.Array:
    return sharding.constrain(leaf, 'layers', 'batch', ...)
