"""Which tensor of a file is which parameter of ours, and how its axes are laid out: one table, read in both directions.

A Rule says it for one pattern of keys:

  Rule('h.{layer}.attn.c_attn.weight', 'D (3 H K) -> D H K', 'blocks.layers.attention.query', ...key, ...value)

The pattern stands for one key per layer, and our parameter has a leading axis for each name in braces. Left of the
arrow are the axes of the file's tensor, right those of ours; what stands in brackets is one axis, and a number is how
many parameters of ours it holds side by side. Where they are of several sizes, each has axes of its own, with '|'
between them, and they lie one after another along the first axis of the file. Sizes of the letters and of the names
come from the model, but for a letter with a number, such as F64, which says its size itself. Paths that begin with
initialization.STATE are state of the model and no parameters.
"""

import dataclasses
import functools
import itertools
import math
import re
import string
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bigmodel_jax import initialization

Sizes = Mapping[str, int]
Shape = tuple[int, ...]
LAYER = 'layer'  # The name of what counts the layers of a model with one stack.


class Slot(NamedTuple):
    """A place in our parameters: one parameter, and where in its leading axes."""

    path: str
    at: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of the table; see above. Paths are those of our parameters, with dots."""

    key: str
    axes: str
    paths: tuple[str, ...]
    inside: bool = True  # The key stands below the prefix of the base model, where the file has one.
    first: int = 0  # The number with which each name of the key begins to count.
    layers: range | None = None  # The layers that the parameters are of; None: all, from 0 on.

    @property
    def names(self) -> list[str]:
        """What the pattern counts: 'layer', 'expert'."""
        return [name for _, name, _, _ in string.Formatter().parse(self.key) if name]

    def tensors(self, sizes: Sizes) -> Iterator['Tensor']:
        """A Tensor for each key that the pattern stands for."""
        names = self.names
        for numbered in itertools.product(*(enumerate(self._numbers(name, sizes)) for name in names)):
            index, numbers = (tuple(each) for each in zip(*numbered)) if numbered else ((), ())
            slots = tuple(Slot(path, index) for path in self.paths)
            yield Tensor(self.key.format(**dict(zip(names, numbers))), slots, self.layout(sizes))

    def _numbers(self, name: str, sizes: Sizes) -> range:
        """What stands for a name in the keys, in the order of the leading axis of our parameters."""
        if name == LAYER and self.layers is not None:
            return self.layers
        return range(self.first, self.first + sizes[name])

    def layout(self, sizes: Sizes) -> 'TensorLayout | JoinedLayout':
        """How the axes change, with numbers for the letters."""
        known = tuple(sorted(sizes.items()))
        if '|' in self.axes:
            return JoinedLayout(tuple(_layout(each, known, 1) for each in self.axes.split('|')))
        return _layout(self.axes, known, len(self.paths))

    def shapes(self, sizes: Sizes) -> list[Shape]:
        """Of each parameter, without its leading axes."""
        layout = self.layout(sizes)
        return (
            [each.ours for each in layout.layouts]
            if isinstance(layout, JoinedLayout)
            else [layout.ours] * len(self.paths)
        )

    def leading(self, sizes: Sizes) -> Shape:
        """The leading axes of our parameters: layers, experts."""
        return tuple(len(self._numbers(name, sizes)) for name in self.names)


def rule(key: str, axes: str, *paths: str, inside: bool = True, first: int = 0) -> Rule:
    """A Rule, as it is written in a table."""
    return Rule(key, axes, paths, inside, first)


class TensorLayout(NamedTuple):
    """How one tensor of a file is laid out in ours."""

    file: Shape  # The tensor in the file.
    split: Shape  # The same with every axis by itself.
    order: tuple[int, ...]  # The axes of `split` in our order, that of the parts first.
    ours: Shape  # Of each part.

    def read(self, tensor: np.ndarray) -> list[np.ndarray]:
        """Our parameters of the file's tensor: views of it, where that can be."""
        found = tensor.reshape(self.split).transpose(self.order)
        return [part.reshape(self.ours) for part in found]

    def write(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The file's tensor of our parameters."""
        turned = tuple(self.split[axis] for axis in self.order)
        stacked = parts[0][None] if len(parts) == 1 else np.stack(parts)
        return stacked.reshape(turned).transpose(np.argsort(self.order)).reshape(self.file)


class JoinedLayout(NamedTuple):
    """How a tensor of a file is laid out that holds parameters of several sizes one after another."""

    layouts: tuple[TensorLayout, ...]

    @property
    def file(self) -> Shape:
        """The tensor in the file."""
        return (sum(each.file[0] for each in self.layouts), *self.layouts[0].file[1:])

    def read(self, tensor: np.ndarray) -> list[np.ndarray]:
        """Our parameters of the file's tensor: views of it, where that can be."""
        ends = itertools.accumulate(each.file[0] for each in self.layouts)
        return [each.read(tensor[end - each.file[0] : end])[0] for each, end in zip(self.layouts, ends)]

    def write(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The file's tensor of our parameters."""
        return np.concatenate([each.write([part]) for each, part in zip(self.layouts, parts)])


class Tensor(NamedTuple):
    """One tensor of a file: its key, which places of our parameters it holds, and how."""

    key: str
    slots: tuple[Slot, ...]
    layout: TensorLayout | JoinedLayout

    @property
    def is_state(self) -> bool:
        """Whether it holds state of the model, which has no gradient."""
        return self.slots[0].path.startswith(initialization.STATE)


@functools.lru_cache(maxsize=1_024)
def _layout(axes: str, sizes: tuple[tuple[str, int], ...], parts: int) -> TensorLayout:
    size = dict(sizes)
    groups, ours = (_groups(side) for side in axes.split('->'))
    names = [name for group in groups for name in group]
    numbers = [name for name in names if name.isdigit() and name != '1']
    assert [int(name) for name in numbers] == ([] if parts == 1 else [parts]), axes
    known = {name: _axis(name, size) for name in names}
    first = [names.index(name) for name in numbers]
    ones = [i for i, name in enumerate(names) if name == '1']
    order = (*first, *ones, *(names.index(name) for group in ours for name in group))
    split = tuple(known[name] for name in names)
    if not first:  # A part of its own, so that reading and writing need not ask.
        split, order = (1, *split), (0, *(axis + 1 for axis in order))
    file, here = (tuple(math.prod(known[name] for name in group) for group in side) for side in (groups, ours))
    return TensorLayout(file, split, order, here)


def _groups(side: str) -> list[list[str]]:
    """'D (3 H K)' -> [['D'], ['3', 'H', 'K']]."""
    return [(grouped or single).split() for grouped, single in re.findall(r'\(([^)]*)\)|(\S+)', side)]


def _axis(name: str, sizes: Mapping[str, int]) -> int:
    """'H' -> as the model has it; 'F64' -> 64; '3' -> 3."""
    return sizes[name] if name.isalpha() else int(name.lstrip(string.ascii_letters))


class NamedBy(NamedTuple):
    """How well a table names the tensors of a file, without writing the table out."""

    counts: dict[str, int]  # Layers, experts and so on that the keys are numbered for.
    misfits: int  # Keys that no rule names, and rules that name no key.


@dataclasses.dataclass(frozen=True)
class Copy:
    """A key that may stand in a file, and repeats another: a tied matrix, or a table that follows from a formula."""

    key: str
    of: str | None = None  # The key that it equals bit for bit.
    formula: Callable[[Sizes], np.ndarray] | None = None  # What it is up to rounding, in float32.
    inside: bool = True


@dataclasses.dataclass(frozen=True)
class TensorRules:
    """All keys of one family of models, in the names of one kind of file.

    Attributes:
      rules: every parameter of ours stands in exactly one.
      copies: keys that a file may have too.
      buffers: regular expressions of keys that hold no weight: masks and frequencies that old versions stored.
      prefix: what the keys below the base model begin with; a file of the base model alone has none.
      spellings: pairs (as in the table, as in an old file) of parts of keys.
    """

    rules: tuple[Rule, ...]
    copies: tuple[Copy, ...] = ()
    buffers: tuple[str, ...] = ()
    prefix: str = ''
    spellings: tuple[tuple[str, str], ...] = ()

    def tensors(self, sizes: Sizes) -> dict[str, Tensor]:
        """Key -> Tensor, of every tensor that a file must have."""
        found = {}
        for each in self.rules:
            for tensor in each.tensors(sizes):
                key = self.named(tensor.key, each.inside)
                assert key not in found, key
                found[key] = tensor._replace(key=key)
        return found

    def named_by(self, keys: Collection[str]) -> 'NamedBy':
        """What the keys of a file say of it under these names, whatever its sizes are."""
        counts: dict[str, set[int]] = {}
        used, empty = set(), 0
        for each in self.rules:
            pattern = re.escape(self.named(each.key, each.inside))
            for name in each.names:
                counts.setdefault(name, set())
                pattern = pattern.replace(re.escape(f'{{{name}}}'), rf'(?P<{name}>\d{{1,9}})', 1)
            matches = list(filter(None, map(re.compile(pattern).fullmatch, keys)))
            used |= {match.string for match in matches}
            empty += not matches
            for name in each.names:
                counts[name] |= {number for match in matches if (number := int(match[name])) >= each.first}
        return NamedBy({name: len(numbers) for name, numbers in counts.items()}, len(keys) - len(used) + empty)

    def shapes(self, sizes: Sizes) -> dict[str, Shape]:
        """Path -> shape of every parameter of ours."""
        return {
            path: (*each.leading(sizes), *ours)
            for each in self.rules
            for path, ours in zip(each.paths, each.shapes(sizes))
        }

    def copied(self) -> dict[str, Copy]:
        """Key -> Copy, with `of` under the name that it has in the file."""
        inside = {each.key: each.inside for each in self.rules}
        return {
            self.named(each.key, each.inside): dataclasses.replace(
                each, of=None if each.of is None else self.named(each.of, inside[each.of])
            )
            for each in self.copies
        }

    def without_prefix(self) -> 'TensorRules':
        """The same of a file of the base model alone."""
        return dataclasses.replace(self, prefix='')

    def named(self, key: str, inside: bool) -> str:
        """The key as it stands in the file."""
        for ours, its in self.spellings:
            key = key.replace(ours, its)
        return self.prefix + key if inside else key

    def is_buffer(self, key: str) -> bool:
        """Whether a key of a file holds no weight."""
        return any(re.fullmatch(pattern, key.removeprefix(self.prefix)) for pattern in self.buffers)
