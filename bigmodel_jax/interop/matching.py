"""Which tensor of a directory is which parameter: every key of the files is used exactly once, or told."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop import family, fields, rules
from bigmodel_jax.interop.files import folder
from bigmodel_jax.models import model as models

SHOWN = 8  # Problems of one kind in a message.
COUNTED = {'layer': 'layers', 'expert': 'experts in each layer'}  # Other names are stacks: 'encoder layers'.
# Dtypes that are rounded in each.
FINER = {
    'float16': {'bfloat16', 'float32', 'float64'},
    'bfloat16': {'float16', 'float32', 'float64'},
    'float32': {'float64'},
}
ROUNDING = 1e-6  # How far a table in a file may be from its formula: sines in float32.


class Place(NamedTuple):
    """Where one slice of a parameter is in the files."""

    at: tuple[int, ...]  # In the leading axes of the parameter.
    tensor: rules.Tensor
    part: int  # Of those that the tensor holds side by side.


class Match(NamedTuple):
    """A directory whose files were found to be a model of a family."""

    family: family.Family
    model: models.Model
    table: rules.TensorRules
    sizes: dict[str, int]
    tensors: dict[str, rules.Tensor]
    copies: tuple[str, ...]  # Keys that repeat others, and do.
    dropped: tuple[str, ...]  # Keys without a weight.

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Path -> shape of every parameter that is in the files."""
        return self.table.shapes(self.sizes)

    @property
    def places(self) -> dict[str, list[Place]]:
        """Path -> the slices that make up the parameter, in order."""
        found: dict[str, list[Place]] = {path: [] for path in self.shapes}
        for tensor in self.tensors.values():
            for part, slot in enumerate(tensor.slots):
                found[slot.path].append(Place(slot.at, tensor, part))
        return found

    @property
    def notes(self) -> list[str]:
        """What was not used, a sentence each."""
        if not self.dropped:
            return []
        shown = ', '.join(self.dropped[:SHOWN]) + (' ...' if len(self.dropped) > SHOWN else '')
        return [f'{len(self.dropped)} tensors hold no weight, and are left out: {shown}.']


def match(source: folder.Folder, families: tuple[family.Family, ...]) -> Match:
    """The model in a directory.

    Raises:
      InputError: no family knows it, it asks for what is not implemented, or a tensor is missing, too much, or wrong.
    """
    where = str(source.path / folder.CONFIG)
    known = family_of(source.config, families, where)
    model = known.settled(known.describe(source.config, where), source)
    sizes = known.sizes(model)
    table = nearest_table(known.tables(model), set(source.entries))
    _check_counts(table, sizes, source)
    tensors, copies = table.tensors(sizes), table.copied()
    left = source.entries.keys() - tensors.keys()
    dropped = sorted(key for key in left if table.is_buffer(key))
    _check_dtype(source, tensors)
    _check(source, tensors, extra=sorted(left - set(dropped) - copies.keys()))
    for key in sorted(left & copies.keys()):
        _check_copy(source, copies[key], key, sizes)
    return Match(
        known, model, table, sizes, tensors,
        copies=tuple(sorted(left & copies.keys())), dropped=tuple(dropped),
    )  # fmt: skip


def family_of(values: Mapping[str, Any], families: tuple[family.Family, ...], where: str) -> family.Family:
    """The family of a config.json: of those of its model_type the one that has its architecture, or else the first.

    In place of a model_type those of diffusers have _class_name.

    Raises:
      InputError: there is none of its model_type.
    """
    kind, named = values.get('model_type', values.get(fields.CLASS_NAME)), values.get('architectures')
    of_kind = [each for each in families if kind in each.model_types]
    for each in of_kind:
        if isinstance(named, list) and any(name in (*each.architectures, *each.old_architectures) for name in named):
            return each
    if of_kind:
        return of_kind[0]
    names = ', '.join(sorted({name for each in families for name in each.model_types}, key=str.lower))
    raise config.InputError(f'{where}: model_type={kind!r} is not supported; there is {names}.')


def nearest_table(tables: tuple[rules.TensorRules, ...], keys: set[str]) -> rules.TensorRules:
    """The table that names the keys of the files best; the first of equals."""
    return min(tables, key=lambda table: table.named_by(keys).misfits)


def _check_counts(table: rules.TensorRules, sizes: rules.Sizes, source: folder.Folder) -> None:
    """Raises InputError if config.json claims other numbers of layers or experts than the files hold.

    A table written out is as long as config.json says, so this comes before.
    """
    keys = source.entries.keys()
    for name, count in table.named_by(keys).counts.items():
        if sizes[name] == count:
            continue
        what = COUNTED.get(name, f'{name} layers')
        some = f' (there are {", ".join(sorted(keys)[:3])} ...)' if keys and not count else ''
        raise config.InputError(
            f'{source.path / folder.CONFIG} says that the model has {sizes[name]:,} {what}, but the tensors in the '
            f'files are those of {count:,}{some}. Correct {folder.CONFIG}, or use the weights it was written for.'
        )


def _check_dtype(source: folder.Folder, tensors: Mapping[str, rules.Tensor]) -> None:
    """Raises InputError if the reference would round the weights of the files to the dtype that config.json names."""
    named = source.config.get('dtype') or source.config.get('torch_dtype')
    if named not in ('float16', 'bfloat16', 'float32'):
        return
    kinds = {source.entries[key].dtype.name for key in tensors if key in source.entries}
    finer = sorted(kinds & FINER[named])
    if finer:
        raise config.InputError(
            f'{source.path / folder.CONFIG} says dtype={named!r}, but the files hold {finer[0]}, which transformers '
            f'rounds to {named} when it loads them. To use the weights as they are, set dtype to {finer[0]!r}.'
        )


def _check(source: folder.Folder, tensors: Mapping[str, rules.Tensor], *, extra: list[str]) -> None:
    entries = source.entries
    problems = [f'  {key}: missing' for key in tensors if key not in entries]
    problems += [f'  {key}: nothing of the model' for key in extra]
    for key, tensor in tensors.items():
        if key in entries and entries[key].shape != tensor.layout.file:
            shape, wanted = list(entries[key].shape), list(tensor.layout.file)
            problems.append(f'  {key}: {shape} instead of the {wanted} that config.json asks for')
        elif key in entries and entries[key].dtype.kind in 'iub':
            problems.append(f'  {key}: {entries[key].dtype}, where weights are floating-point numbers; quantized?')
    if problems:
        more = f'\n  ... and {len(problems) - SHOWN} more' if len(problems) > SHOWN else ''
        raise config.InputError(
            f'The tensors in {source.path} are not those of its {folder.CONFIG}:\n'
            + '\n'.join(problems[:SHOWN])
            + more
            + '\nUse the files that belong together.'
        )


def _check_copy(source: folder.Folder, copy: rules.Copy, key: str, sizes: rules.Sizes) -> None:
    """Raises InputError if a key that should repeat another, or a formula, does not."""
    tensor = source.read(key)
    if copy.of is not None:
        other = source.read(copy.of)
        same = folder.equal_bits(tensor, other)
        what = f'{copy.of}, to which it is tied'
    else:
        assert copy.formula is not None
        table = copy.formula(sizes)
        same = tensor.shape == table.shape and np.allclose(tensor.astype(np.float32), table, rtol=0, atol=ROUNDING)
        what = 'the fixed table of the model'
    if not same:
        raise config.InputError(f'{source.path}: {key} is not {what}. Use files in which it is, or leave it out.')


def dtypes(found: Match, source: folder.Folder) -> dict[str, np.dtype]:
    """Path -> dtype of every parameter in the files.

    Raises:
      InputError: the parts of one are of several.
    """
    result = {}
    for path, places in found.places.items():
        kinds = {source.entries[place.tensor.key].dtype for place in places}
        if len(kinds) > 1:
            names = ', '.join(sorted(map(str, kinds)))
            raise config.InputError(
                f'{source.path}: the layers of {path} ({places[0].tensor.key} ...) are of {names}; convert them to one.'
            )
        (result[path],) = kinds
    return result


def slices(found: Match, source: folder.Folder, path: str) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """The slices of one parameter, one at a time, mapped from the files."""
    for place in found.places[path]:
        yield place.at, place.tensor.layout.read(source.read(place.tensor.key))[place.part]


def parameters(found: Match, source: folder.Folder) -> dict[str, np.ndarray]:
    """Path -> parameter, as it is in the files."""
    kinds, result = dtypes(found, source), {}
    for path, shape in found.shapes.items():
        result[path] = np.empty(shape, kinds[path])
        for index, part in slices(found, source, path):
            result[path][index] = part
    return result


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{'a.b': x} -> {'a': {'b': x}}."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split('.')
        node = tree
        for each in folders:
            node = node.setdefault(each, {})
        node[name] = value
    return tree


def at(tree: Mapping[str, Any], path: str) -> Any:
    """The leaf at a path of a nested tree."""
    for name in path.split('.'):
        tree = tree[name]
    return tree


def file_tensors(tree: Mapping[str, Any], tensors: Mapping[str, rules.Tensor]) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a file, one at a time, of a tree of parameters (or of their gradients)."""
    for key, tensor in tensors.items():
        yield key, tensor.layout.write([np.asarray(at(tree, slot.path)[slot.at]) for slot in tensor.slots])
