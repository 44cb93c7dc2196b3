"""A step whose bits do not depend on the mesh: every sum is taken in one order, on 1, 2, 4 ... devices alike.

The sum of floating-point numbers depends on the order of its terms, and their rounding on how the compiler joins
operations. So another mesh gives other last bits, and some hundred steps later another loss. Here it changes neither:

  * The rows of a batch are cut into as many parts as the largest mesh has devices. The gradient of each part comes from
    one and the same program, which is compiled for a single device and knows of no mesh; a device runs it for its
    parts one after the other. (Within a program for several devices the compiler joins operations in another way than
    in one for a single device, even where these are the same.)
  * The parts are added as a binary tree over their numbers: the lower levels by the device that has them, the upper
    ones by pairs of devices at twice, four times ... the distance. As a + b = b + a, both of a pair get the same bits.
  * Each device computes the whole update, again by a program for a single device, and keeps what it is to store.
  * Programs for several devices only move numbers and add pairs of them, which has one result.

It costs memory: while a step lasts every device holds the whole state and gradient, as in plain data parallelism, and
log2(parts of a device) more gradients. It costs time: small parts keep a device less busy than large ones, and every
device computes the whole update, and compiles for itself. What layers or losses compute from a whole batch, such as the
balance of routed experts, is of each part.

Same bits still need the same compiler, compiler flags and kind of device; where that is a CPU also as many cores, by
which the compiler cuts its loops. How many devices a CPU simulates does not matter.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel_jax.parallel import per_device, sharding

PyTree = Any
Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Programs:
    """What a step consists of.

    Attributes:
      part: (state, number of the part, its rows) -> summands: gradient, loss, metrics.
      finish: (state, their sums, mark) -> the state after the step, and what else is to be known of it.
      mark: (whole batch) -> what finish() needs of it. Nothing that rounds: the compiler lays it over the mesh.
    """

    part: Callable[[Any, jax.Array, Batch], PyTree]
    finish: Callable[[Any, PyTree, PyTree], tuple[Any, PyTree]]
    mark: Callable[[Batch], PyTree]


class FixedOrderStep:
    """step(state, batch) -> what Programs.finish returns; it takes the state's memory.

    Args:
      programs: traced at the first call.
      parts: of the batch, as optim.gradients.FixedOrder checks them.
      shardings: of the state.
    """

    def __init__(self, programs: Programs, *, parts: int, place: sharding.ShardingContext, shardings: PyTree):
        self._place, self._shardings = place, shardings
        self._mark = jax.jit(programs.mark, out_shardings=place.replicated)
        self._cut = jax.jit(functools.partial(_cut, parts, parts // place.mesh.size))
        self._add = jax.jit(functools.partial(jax.tree.map, jnp.add), donate_argnums=0)
        self._join = jax.jit(functools.partial(_join, place), out_shardings=place.replicated)
        self._part = _OnEach(_stacked(programs.part), place, place.batch_sharding(1))
        self._finish = _OnEach(programs.finish, place, place.replicated, donate=(0,))

    def __call__(self, state: Any, batch: Batch) -> tuple[Any, PyTree]:
        with sharding.use(self._place):
            whole = _moved(state, jax.tree.map(lambda _: self._place.replicated, self._shardings))
            sums = self._join(self._sums(whole, self._cut(batch)))
            after, known = self._finish(whole, sums, self._mark(batch))
            return _moved(after, self._shardings), known

    @property
    def compiled(self) -> dict[str, jax.stages.Compiled]:
        """The programs of one device, once it was called."""
        return {'part': self._part.compiled[0], 'finish': self._finish.compiled[0]}

    def _sums(self, state: Any, cuts: Sequence[tuple[jax.Array, Batch]]) -> PyTree:
        """Of each device the sum over its parts; as in binary counting, two of one level make one of the next."""
        levels: list[tuple[int, PyTree]] = []
        for number_1, rows in cuts:
            level, sums = 0, self._part(state, number_1, rows)
            while levels and levels[-1][0] == level:
                level, sums = level + 1, self._add(levels.pop()[1], sums)
            levels.append((level, sums))
        return levels[0][1]


def _moved(tree: PyTree, shardings: PyTree) -> PyTree:
    """`tree` with other shardings; takes the memory of the arrays that move."""
    structure: Any
    leaves, structure = jax.tree.flatten(tree)
    targets = structure.flatten_up_to(shardings)
    move = [i for i, leaf in enumerate(leaves) if not leaf.sharding.is_equivalent_to(targets[i], leaf.ndim)]
    moved = jax.jit(_same, out_shardings=[targets[i] for i in move])([leaves[i] for i in move])
    for i, leaf in zip(move, moved):
        leaves[i].delete()
        leaves[i] = leaf
    return structure.unflatten(leaves)


def _same(leaves: list[jax.Array]) -> list[jax.Array]:
    return leaves


class _OnEach:
    """A function compiled for single devices, and run on each device of this process on what it has of the arguments.

    Simulated devices are one CPU, so the first of them runs it for all, and it is compiled once.

    Args:
      result: the sharding of the results, of which each device makes one shard.
      donate: the arguments whose memory it takes.
    """

    def __init__(
        self,
        function: Callable[..., PyTree],
        place: sharding.ShardingContext,
        result: Any,
        *,
        donate: tuple[int, ...] = (),
    ):
        # It knows of no mesh, only of the kind of device.
        alone = sharding.MeshShape(data=1, rules=place.rules).abstract(1, place.platform)

        def traced(*arguments: Any) -> PyTree:
            with sharding.use(alone):
                return function(*arguments)

        self._jitted = jax.jit(traced, donate_argnums=donate)
        self._simulated, self._result = place.platform == 'cpu', result
        self.compiled: list[jax.stages.Compiled] = []

    def __call__(self, *arguments: PyTree) -> PyTree:
        tree: Any
        leaves, tree = jax.tree.flatten(arguments)
        shards = [leaf.addressable_shards for leaf in leaves]
        owners = [shard.device for shard in shards[0]]
        runners = owners[:1] * len(owners) if self._simulated else owners
        inputs = [
            jax.device_put(tree.unflatten([shard.data for shard in each]), runner)
            for runner, each in zip(runners, zip(*shards))
        ]
        programs = self._programs(inputs[: len(set(runners))])
        outputs = [program(*each) for program, each in zip(programs, inputs)]
        outputs = [jax.device_put(output, owner) for output, owner in zip(outputs, owners)]
        return jax.tree.map(lambda *shards: self._array(shards), *outputs)

    def _programs(self, inputs: list[PyTree]) -> Iterator[jax.stages.Compiled]:
        """The programs for the devices where `inputs` are, over and over."""
        if not self.compiled:
            lowered = [self._jitted.lower(*each) for each in inputs]
            with concurrent.futures.ThreadPoolExecutor(thread_name_prefix='compile') as pool:
                self.compiled = list(pool.map(jax.stages.Lowered.compile, lowered))
        return itertools.cycle(self.compiled)

    def _array(self, shards: Sequence[jax.Array]) -> jax.Array:
        shape = shards[0].shape
        if not self._result.is_fully_replicated:
            shape = (self._result.mesh.size, *shape[1:])
        return jax.make_array_from_single_device_arrays(shape, self._result, list(shards))


def _stacked(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Programs.part with one more axis, of size 1, before each result: those of all devices are a stack."""
    return lambda state, number_1, rows: jax.tree.map(lambda x: x[None], function(state, number_1[0], rows))


def _cut(parts: int, here: int, batch: Batch) -> list[tuple[jax.Array, Batch]]:
    """The numbers of the parts and their rows; the j-th item has the j-th part of every device, of `here` each."""

    def local(number_n: jax.Array, batch: Batch) -> list[tuple[jax.Array, Batch]]:
        split = jax.tree.map(lambda x: x.reshape(here, -1, *x.shape[1:]), (number_n, batch))
        return [jax.tree.map(lambda x, j=j: x[j], split) for j in range(here)]

    cut = per_device.shard_map(local, inputs=(('batch',), ('batch',)), outputs=('batch',))
    return cut(jnp.arange(parts), batch)


def _join(place: sharding.ShardingContext, stack: PyTree) -> PyTree:
    """The sum over all devices, on each: the upper levels of the tree, along the innermost mesh axis first."""

    def local(tree: PyTree) -> PyTree:
        tree = jax.tree.map(lambda x: x[0], tree)
        for axis in reversed(place.names('batch')):
            for level in range(place.sizes[axis].bit_length() - 1):
                pairs = [(i, i ^ 2**level) for i in range(place.sizes[axis])]
                theirs = jax.lax.ppermute(tree, axis, pairs)
                tree = jax.tree.map(jnp.add, tree, theirs)
        return tree

    return per_device.shard_map(local, inputs=(('batch',),), outputs=())(stack)
