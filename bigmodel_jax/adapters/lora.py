"""LoRA: beside each chosen matrix two thin ones are trained, whose product is added to it; all else is frozen."""

import dataclasses
import fnmatch
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel_jax import config
from bigmodel_jax.layers.base import low_rank, weights
from bigmodel_jax.quantization import operand

PyTree = Any
Shapes = Mapping[str, tuple[int, ...]]
Inputs = Mapping[str, tuple[int, ...]]  # Path of each matrix -> its axes that are contracted with its input.
Axes = Mapping[str, tuple[str | None, ...]]  # Path of each parameter -> its logical axes.
CONSTANTS = ('scale', 'rate')  # What an adapter holds beside its factors.
VECTORS = ('bias', 'scale')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters of the matrices whose path matches: W becomes W + alpha / rank * A B.

    W keeps its bits, and has no gradient and no state of the optimizer. A begins uniform in +-1 / sqrt(inputs), as in
    PEFT (Kaiming's with a = sqrt(5)); B begins as 0, so that the first step sees the model as it was. The layers of a
    stack, and experts, have adapters of their own. An adapter of the matrix `query` is stored beside it, as
    `query_lora.a` [inputs, rank] and `query_lora.b` [rank, outputs], with the constants `query_lora.scale` and, where
    there is dropout, `query_lora.rate`; so the parameters alone say what they compute.

    Source: Hu et al. (2021), arXiv:2106.09685, section 4.1.
    """

    rank: config.Positive = 8
    alpha: config.PositiveFloat = 16.0
    # Paths as `describe` prints them, with * and ? as in file names. These two are what the paper adapts (section 5);
    # ('*.attention.*', '*.ffn.*') are all matrices of the layers.
    targets: tuple[str, ...] = ('*.attention.query', '*.attention.value')
    without: tuple[str, ...] = ()  # Patterns of targets that are left out.
    dropout: config.Probability = 0.0  # On the input of A.
    rank_stabilized: bool = False  # alpha / sqrt(rank) instead (Kalajdzievski, 2023, arXiv:2312.03732).
    trained: tuple[str, ...] = ()  # Patterns of other parameters that are trained too, in full: a new head, 'pooler.*'.

    @property
    def scale(self) -> float:
        """What the product A B is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def chosen(self, inputs: Inputs, axes: Axes) -> tuple[str, ...]:
        """The paths of the matrices that get an adapter.

        Raises:
          InputError: a pattern matches none, or none is left.
        """
        matrices = tuple(path for path, each in inputs.items() if _is_matrix(path, each, axes[path]))
        for field in ('targets', 'without'):
            for pattern in getattr(self, field):
                if not fnmatch.filter(matrices, pattern):
                    near = config.nearest(pattern, matrices)
                    raise config.InputError(
                        f'adapter.{field}: no matrix of the model matches {pattern!r}.{near} '
                        f'It has {", ".join(matrices)}.'
                    )
        left_out = {path for pattern in self.without for path in fnmatch.filter(matrices, pattern)}
        within = {path for pattern in self.targets for path in fnmatch.filter(matrices, pattern)}
        found = tuple(path for path in matrices if path in within - left_out)
        if not found:
            raise config.InputError(
                f'adapter: targets={self.targets} without={self.without} leave no matrix; the model has '
                f'{", ".join(matrices)}.'
            )
        return found


@dataclasses.dataclass(frozen=True)
class Attachment:
    """The adapters of one model: what is added to its parameters, and what of them is trained.

    Attributes:
      config: as the experiment has it.
      axes: the logical axes of each parameter of the model without adapters.
      shapes: of each.
      factorizations: path of each target -> how its matrix is split.
    """

    config: Lora
    axes: Axes
    shapes: Shapes
    factorizations: Mapping[str, low_rank.Factorization]

    @classmethod
    def of(cls, adapter: Lora, *, inputs: Inputs, axes: Axes, shapes: Shapes) -> 'Attachment':
        """The adapters of a model whose parameters have these shapes.

        Raises:
          InputError: the targets do not fit the model.
        """
        chosen = adapter.chosen(inputs, axes)
        for pattern in adapter.trained:
            if not fnmatch.filter(shapes, pattern):
                raise config.InputError(
                    f'adapter.trained: no parameter of the model matches {pattern!r}.{config.nearest(pattern, shapes)}'
                )
        both = [path for pattern in adapter.trained for path in fnmatch.filter(chosen, pattern)]
        if both:
            raise config.InputError(
                f'adapter: {both[0]} is among targets, and trained in full by trained={adapter.trained}; leave it out '
                'of one of them, for example with adapter.without.'
            )
        split = {path: low_rank.Factorization.of(axes[path], inputs[path]) for path in chosen}
        return cls(adapter, axes, shapes, split)

    @property
    def frozen(self) -> list[str]:
        """Paths of all that is not trained: the model but for `trained`, and the constants of the adapters."""
        trained = {path for pattern in self.config.trained for path in fnmatch.filter(self.shapes, pattern)}
        constants = [f'{path}{weights.ADAPTER}.{name}' for path in self.factorizations for name in self._constants]
        return [path for path in self.shapes if path not in trained] + constants

    @property
    def _constants(self) -> tuple[str, ...]:
        return CONSTANTS if self.config.dropout else CONSTANTS[:1]

    def added_axes(self) -> dict[str, dict[str, Any]]:
        """Path of each node that is added -> the logical axes of its arrays, by name."""
        found = {}
        for path, split in self.factorizations.items():
            names = self.axes[path]
            stacked = tuple(names[i] for i in split.stacked)
            a, b = split.axes(names)
            found[path + weights.ADAPTER] = {'a': a, 'b': b, **dict.fromkeys(self._constants, stacked)}
        return found

    def initial(self, key: jax.Array) -> dict[str, dict[str, jax.Array]]:
        """Path of each node that is added -> its arrays before training, by name."""
        found = {}
        for path, split in self.factorizations.items():
            shape = self.shapes[path]
            of_a, of_b = split.shapes(shape, self.config.rank)
            limit = math.prod(shape[i] for i in split.inputs) ** -0.5
            # By its name, so that an adapter begins alike whatever others there are.
            own = jax.random.fold_in(key, zlib.crc32(path.encode()))
            stacked = tuple(shape[i] for i in split.stacked)
            constants = {'scale': self.config.scale, 'rate': self.config.dropout}
            found[path + weights.ADAPTER] = {
                'a': jax.random.uniform(own, of_a, jnp.float32, -limit, limit),
                'b': jnp.zeros(of_b, jnp.float32),
                **{name: jnp.full(stacked, constants[name], jnp.float32) for name in self._constants},
            }
        return found


def attached(tree: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """A nested tree with a node at each path of `added`."""
    result = dict(tree)
    for head, rest in _by_head(added).items():
        result[head] = rest[''] if '' in rest else attached(tree[head], rest)
    return result


def _by_head(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path, node in flat.items():
        head, _, rest = path.partition('.')
        found.setdefault(head, {})[rest] = node
    return found


def nodes(params: Mapping[str, Any], path: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The path of each matrix that has an adapter, with the adapter's arrays by name."""
    for name, child in params.items():
        here = config.join(path, name)
        if name.endswith(weights.ADAPTER):
            yield here.removesuffix(weights.ADAPTER), child
        elif isinstance(child, Mapping):
            yield from nodes(child, here)


def _is_matrix(path: str, inputs: tuple[int, ...], axes: tuple[str | None, ...]) -> bool:
    split = low_rank.Factorization.of(axes, inputs)
    return bool(split.inputs and split.outputs) and not path.endswith(VECTORS)


def merged(params: Mapping[str, Any], factorizations: Mapping[str, low_rank.Factorization]) -> dict[str, Any]:
    """The parameters without adapters, each of which is added to its matrix: W + scale A B, rounded to W's dtype.

    A weight of few bits becomes one of float32 where it had an adapter.
    """
    found = dict(params)
    for path, node in list(nodes(params)):
        *folders, name = path.split('.')
        found = _without(found, [*folders, name + weights.ADAPTER])
        weight: Any = params
        for each in (*folders, name):
            weight = weight[each]
        weight = weight.array('float32') if isinstance(weight, operand.WeightOperand) else weight
        # Summed in float32 even where the weight has fewer bits, and rounded once.
        wide = weight.astype(jnp.promote_types(weight.dtype, jnp.float32))
        total = low_rank.merged(wide, node, factorizations[path])
        found = attached(found, {path: total.astype(weight.dtype)})
    return found


def _without(tree: Mapping[str, Any], path: list[str]) -> dict[str, Any]:
    head, *rest = path
    if not rest:
        return {name: child for name, child in tree.items() if name != head}
    return {**tree, head: _without(tree[head], rest)}
