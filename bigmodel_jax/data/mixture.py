"""Mixtures: several kinds of data in one stream, each with its share of every batch.

Which part gives the example at position k follows from k and the weights alone: of any k examples from the first on,
each part has its weight's share, to within one example for each part before it and itself. Each part goes through its
own data in an order of its own, pass after pass, however long the others take.
"""

import dataclasses
import fractions
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import annotated_types
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One kind of data of a mixture."""

    data: batches.Data  # Its own `batch` counts for nothing.
    weight: config.PositiveFloat  # Its share of the examples, relative to the other parts' weights.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture(batches.Data):
    """Several kinds of data by weight, as in `Mixture(batch=64, parts=(Part(data=web, weight=0.7), ...))`.

    Each batch has the parts' shares as exactly as whole rows allow. The fields of all parts must be the same, and so
    their tokenizer. In evaluation, where each example comes once, the parts come one after another.
    """

    batch: config.Positive
    parts: Annotated[tuple[Part, ...], annotated_types.MinLen(1)]

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return _agreed([(_name(self.parts, i), part.data.fields) for i, part in enumerate(self.parts)])

    @property
    def units(self) -> batches.Units:
        found = {_name(self.parts, i): part.data.units for i, part in enumerate(self.parts)}
        (first, units), *others = found.items()
        for name, theirs in others:
            if theirs != units:
                raise config.InputError(
                    f'A mixture counts one kind of units: an example of {name} has {theirs.per_example:g} '
                    f'{theirs.name}, one of {first} {units.per_example:g} {units.name}.'
                )
        return units

    def build(self, seed: int) -> 'MixedBatches':
        resized = [dataclasses.replace(part.data, batch=self.batch) for part in self.parts]  # type: ignore[type-var]
        built = [data.open(part_seed(seed, i)) for i, data in enumerate(resized)]
        names = [_name(self.parts, i) for i in range(len(self.parts))]
        examples = MixedExamples(dict(zip(names, built)), [part.weight for part in self.parts])
        return MixedBatches(examples, rows=self.batch, seed=seed)


def part_seed(seed: int, part: int) -> int:
    """The seed of part number `part` of a mixture, in [0, 2^32): equal data in two parts comes in two orders."""
    # A hash rather than a NumPy generator, whose numbers may change from one version to the next.
    return int.from_bytes(hashlib.sha256(f'{seed} part {part}'.encode()).digest()[:4], 'big')


def shares(weights: Iterable[float]) -> list[int]:
    """Whole numbers in the proportions of `weights`, which count as they are written in decimal: 0.7 is 7/10."""
    exact = [fractions.Fraction(repr(float(weight))) for weight in weights]
    scale = math.lcm(*(each.denominator for each in exact))
    whole = [int(each * scale) for each in exact]
    return [each // math.gcd(*whole) for each in whole]


def turn(position: int, shares: Sequence[int]) -> tuple[int, int]:
    """Which part gives the example at `position` of the stream, and how many examples it gave before.

    Of the first k examples the first part gives its share, rounded up; the others share what is left in the same way.

    Source: Grain's MapDataset.mix, which first rounds the weights to whole percents of the smallest.
    """
    before, after, rest = position, position + 1, sum(shares)
    for part, share in enumerate(shares):
        others_before, others_after = before * (rest - share) // rest, after * (rest - share) // rest
        if others_before == others_after:
            return part, before - others_before
        before, after, rest = others_before, others_after, rest - share
    raise AssertionError('the last part gives what the others do not')


class MixedExamples(batches.Examples):
    """The examples of all parts; the id of one is its id in its part plus the number of examples of earlier parts.

    Args:
      parts: by what a message calls them; each built with the part_seed() of its number.
      weights: of the parts.

    Raises:
      InputError: the parts do not fit together.
    """

    def __init__(self, parts: Mapping[str, batches.Batches], weights: Sequence[float]):
        self.parts = tuple(parts.values())
        self.fields = _agreed([(name, part.examples.fields) for name, part in parts.items()])
        self.tokenizer = _shared_tokenizer(parts)
        self.starts = np.cumsum([0, *[len(part.examples) for part in self.parts]])  # [parts + 1] int64.
        self.shares = shares(weights)
        described = zip(weights, self.parts)
        self.fingerprint = {'parts': [{'weight': weight, **part.examples.fingerprint} for weight, part in described]}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def owners(self, indices: np.ndarray) -> np.ndarray:
        """[n] int64: the number of the part that each of `indices` [n] belongs to."""
        return np.searchsorted(self.starts, indices, side='right') - 1

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> batches.Batch:
        owners, pieces = self.owners(indices), []
        for number in np.unique(owners).tolist():
            rows, examples = np.flatnonzero(owners == number), self.parts[number].examples
            own = indices[rows] - self.starts[number]
            pieces.append((rows, examples.gather(own, epochs[rows], part_seed(seed, number))))
        return _joined(pieces, len(indices))


class MixedBatches(batches.Batches):
    """The batches of a mixture."""

    examples: MixedExamples

    def ids_at(self, positions: np.ndarray) -> np.ndarray:
        owners, turns = self._turns(positions)
        ids = self.examples.starts[owners]
        for number, part in enumerate(self.examples.parts):
            ids[owners == number] += part.ids_at(turns[owners == number])
        return ids

    def epochs_at(self, positions: np.ndarray) -> np.ndarray:
        owners, turns = self._turns(positions)
        epochs = np.zeros_like(positions)
        for number, part in enumerate(self.examples.parts):
            epochs[owners == number] = part.epochs_at(turns[owners == number])
        return epochs

    def _turns(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both [n] int64: the part at each position, and how many examples it gave before."""
        pairs = [turn(position, self.examples.shares) for position in positions.tolist()]
        owners, turns = np.array(pairs, np.int64).reshape(-1, 2).T
        return owners, turns

    def eval_batch(self, index: int, rows: batches.Rows | None = None) -> batches.Batch:
        # Each part knows best what padding is in its rows; those past the end are the last part's.
        positions = self._positions(index, rows)
        owners = self.examples.owners(np.minimum(positions, len(self.examples) - 1))
        own = positions - self.examples.starts[owners]
        pieces = []
        for number, batch in sorted(set(zip(owners.tolist(), (own // self.rows).tolist()))):
            here = np.flatnonzero((owners == number) & (own // self.rows == batch))
            pieces.append((here, self.examples.parts[number].eval_batch(batch, own[here] % self.rows)))
        return _joined(pieces, len(positions))


def _joined(pieces: Sequence[tuple[np.ndarray, batches.Batch]], count: int) -> batches.Batch:
    """A batch of `count` rows from pieces that say which rows they are."""
    result = {name: np.empty((count, *array.shape[1:]), array.dtype) for name, array in pieces[0][1].items()}
    for rows, piece in pieces:
        for name, array in piece.items():
            result[name][rows] = array
    return result


def _name(parts: Sequence[Part], number: int) -> str:
    return f'parts.{number} ({type(parts[number].data).__name__})'


def _agreed(parts: Sequence[tuple[str, Mapping[str, batches.Field]]]) -> dict[str, batches.Field]:
    """The fields that all parts have.

    Raises:
      InputError: they have different ones; names the first part that differs from parts.0, and the field.
    """
    (first, fields), *others = parts
    for name, theirs in others:
        odd = sorted(fields.keys() ^ theirs.keys())
        if odd:
            has, lacks = (name, first) if odd[0] in theirs else (first, name)
            raise config.InputError(
                f'A mixture needs the same fields in all parts: {has} gives {odd[0]!r} and {lacks} does not.'
            )
        for field in fields:
            if _shown(fields[field]) != _shown(theirs[field]):
                raise config.InputError(
                    f'A mixture needs the same fields in all parts: {field!r} of {name} is '
                    f'{_shown(theirs[field])}, that of {first} {_shown(fields[field])}.'
                )
    return {name: dataclasses.replace(field, upper_bound=_bound(name, parts)) for name, field in fields.items()}


def _bound(field: str, parts: Sequence[tuple[str, Mapping[str, batches.Field]]]) -> int | None:
    """The upper bound of the integers of a field in every part; None if it is not known of one."""
    bounds = [theirs[field].upper_bound for _, theirs in parts]
    known = [bound for bound in bounds if bound is not None]
    return max(known) if len(known) == len(bounds) else None


def _shown(field: batches.Field) -> str:
    sizes = ', '.join(f'{axis}={size}' for axis, size in zip(field.axes, field.shape))
    return f'{field.dtype.name}[{sizes}]'


def _shared_tokenizer(parts: Mapping[str, batches.Batches]) -> Any:
    """The tokenizer of all parts, or None if they have none.

    Raises:
      InputError: they have different ones; names the first part that differs from parts.0.
    """
    (first, tokenizer), *others = [(name, part.examples.tokenizer) for name, part in parts.items()]
    known = None if tokenizer is None else tokenizer.fingerprint
    for name, other in others:
        if (None if other is None else other.fingerprint) != known:
            raise config.InputError(
                f'A mixture needs one tokenizer: that of {name} is not that of {first}, so that equal numbers would '
                'stand for different text. Give both parts the same `tokenizer`.'
            )
    return tokenizer
