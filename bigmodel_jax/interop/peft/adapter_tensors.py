"""Which tensors of PEFT are which factors of ours: lora_A [rank, in] and lora_B [out, rank] of a module.

A module of transformers may hold several matrices of ours side by side: `c_attn` of GPT-2 is query, key and value. PEFT
has one A for all of them, ours each have their own. One A for all, as PEFT trains it, is read into each and written as
one again, byte for byte. Different ones are written as one adapter of as many times the rank, A above one another and B
in blocks: it computes the same.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop import rules

PREFIX = 'base_model.model.'
A, B = '.lora_A.weight', '.lora_B.weight'
LOOKED_UP = ('table', 'types')  # Last names of weights that are no matrices of a linear layer.
WEIGHT = '.weight'
LAYER = re.compile(r'.*?\.\d+\.')  # Of the name of a module: up to the number of its layer.


class AdapterFactors(NamedTuple):
    """The adapter of one matrix of ours: A [*inputs, rank], B [rank, *outputs], of one layer."""

    a: np.ndarray
    b: np.ndarray


class AdaptedModule(NamedTuple):
    """A linear module of transformers, and where its matrices are among our parameters."""

    name: str  # Within the model: 'transformer.h.0.attn.c_attn'.
    slots: tuple[rules.Slot, ...]
    axes_a: str  # As in a rules.Rule; R is the rank.
    axes_b: str
    sizes: rules.Sizes

    @property
    def suffix(self) -> str:
        """The name within a layer, by which PEFT knows its targets: 'attn.c_attn'."""
        return LAYER.sub('', self.name, count=1)

    def read(self, a: np.ndarray, b: np.ndarray) -> list[AdapterFactors]:
        """Our factors of each slot, of the two tensors of PEFT.

        Raises:
          InputError: they are not of this module's shape.
        """
        rank = a.shape[0] if a.ndim == 2 else 0
        of_a, of_b = self._layouts(rank)
        for name, tensor, wanted in ((A, a, of_a.file), (B, b, of_b.file)):
            if tensor.shape != wanted:
                raise config.InputError(
                    f'{PREFIX}{self.name}{name} is {list(tensor.shape)}, but the base model needs {list(wanted)} '
                    'there; the adapter is of another base.'
                )
        (ours,) = of_a.read(a)
        return [AdapterFactors(ours, part) for part in of_b.read(b)]

    def write(self, factors: Sequence[AdapterFactors | None], *, shared: bool) -> tuple[np.ndarray, np.ndarray]:
        """The two tensors of PEFT.

        Args:
          factors: of each slot; None: it has no adapter.
          shared: whether one A serves all; then all have one. Otherwise the ranks add up.
        """
        there = [each for each in factors if each is not None]
        rank = there[0].a.shape[-1]
        if shared:
            of_a, of_b = self._layouts(rank)
            return of_a.write([there[0].a]), of_b.write([each.b for each in there])
        of_a, of_b = self._layouts(rank * len(there))
        blocks, place = [], 0
        for each in factors:
            block = np.zeros((rank * len(there), *of_b.ours[1:]), there[0].b.dtype)
            if each is not None:
                block[place : place + rank] = each.b
                place += rank
            blocks.append(block)
        return of_a.write([np.concatenate([each.a for each in there], axis=-1)]), of_b.write(blocks)

    def _layouts(self, rank: int) -> tuple[rules.TensorLayout, rules.TensorLayout]:
        sizes = {**self.sizes, 'R': rank}
        paths = tuple(slot.path for slot in self.slots)
        of_a, of_b = (
            rules.Rule('', self.axes_a, paths[:1]).layout(sizes),
            rules.Rule('', self.axes_b, paths).layout(sizes),
        )
        assert isinstance(of_a, rules.TensorLayout)
        assert isinstance(of_b, rules.TensorLayout)  # See _axes().
        return of_a, of_b


def apart(factors: Sequence[AdapterFactors], rank: int) -> list[AdapterFactors] | None:
    """Our factors, of an adapter that was written as blocks of this rank; None if it was not.

    Args:
      factors: of each matrix that has one, all with the A of the whole.
    """
    if factors[0].a.shape[-1] != rank * len(factors):
        return None
    found = []
    for number, (a, b) in enumerate(factors):
        mine = slice(number * rank, (number + 1) * rank)
        if np.delete(b, mine, axis=0).any():
            return None
        found.append(AdapterFactors(np.ascontiguousarray(a[..., mine]), np.ascontiguousarray(b[mine])))
    return found


def modules(
    table: rules.TensorRules, sizes: rules.Sizes, inputs: Mapping[str, tuple[int, ...]]
) -> dict[str, AdaptedModule]:
    """Name -> AdaptedModule of every linear module of a model.

    Args:
      table: of the files of the model.
      inputs: path of each of our matrices -> its axes that are contracted with its input.
    """
    found = {}
    for each in table.rules:
        axes = _axes(each, inputs)
        if axes is None:
            continue
        for tensor in each.tensors(sizes):
            name = table.named(tensor.key, each.inside).removesuffix(WEIGHT)
            found[name] = AdaptedModule(name, tensor.slots, *axes, sizes)
    return found


def _axes(each: rules.Rule, inputs: Mapping[str, tuple[int, ...]]) -> tuple[str, str] | None:
    """How lora_A and lora_B of a rule's modules are laid out; None if these are no linear modules."""
    if '|' in each.axes:  # Parameters of several sizes in one tensor: the fused projections of Phi-3.
        return None
    if not each.key.endswith(WEIGHT) or any(path.rpartition('.')[2] in LOOKED_UP for path in each.paths):
        return None
    left, right = (side.strip() for side in each.axes.split('->'))
    ours, leading = right.split(), len(each.names)
    if any(path not in inputs for path in each.paths):
        return None
    contracted = [ours[axis - leading] for axis in inputs[each.paths[0]] if axis >= leading]
    groups = re.findall(r'\(([^)]*)\)|(\S+)', left)
    groups = [grouped or single for grouped, single in groups]
    reading = [group for group in groups if set(group.split()) == set(contracted)]
    if len(groups) != 2 or len(reading) != 1:
        return None
    (writing,) = [group for group in groups if group is not reading[0]]
    kept = [letter for letter in ours if letter not in contracted]
    return f'R ({reading[0]}) -> {" ".join(contracted)} R', f'({writing}) R -> R {" ".join(kept)}'
