"""A directory of Hugging Face to a run's directory and back, one tensor at a time.

At no time more than two slices are held in memory: one as it is in the file, mapped from the disk, and one as it is
here; a slice is one tensor of one layer (of one expert). What is not yet whole has another name: DST.partial.
"""

import json
import pathlib
import shutil
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bigmodel_jax import config, differences, initialization
from bigmodel_jax import experiment as experiments
from bigmodel_jax.interop import converted, exported, family, huggingface, matching, rules
from bigmodel_jax.interop.files import folder, stored_arrays, tensor_file
from bigmodel_jax.run_directory import lineage, workdir
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files, integrity

STEP = 0  # Of the checkpoint of converted weights.
ITEM, AVERAGE = 'model', 'ema.'
SHARD_BYTES = 5_000_000_000  # As the reference implementation cuts its files.


class Converted(NamedTuple):
    """What was done."""

    path: pathlib.Path
    tensors: int  # Of the Hugging Face files.
    size_bytes: int
    notes: tuple[str, ...]  # What was not used, a sentence each.


def convert(source: epath.PathLike, destination: epath.PathLike, *, shard_bytes: int = SHARD_BYTES) -> Converted:
    """Converts a directory of Hugging Face to that of a run, or the newest checkpoint of a run to Hugging Face.

    Args:
      source: holds config.json, or is the directory of a run; it is only read.
      destination: a directory that does not exist yet.
      shard_bytes: a file of tensors is not made larger, unless one tensor is.

    Raises:
      InputError: one is neither, the destination exists, or the weights cannot be converted.
    """
    source, destination = (pathlib.Path(path).expanduser().absolute() for path in (source, destination))
    partial = destination.parent / f'{destination.name}.partial'
    for path in (destination, partial):
        if path.exists():
            raise config.InputError(f'{path} exists already; nothing was changed. Use another DST, or move it away.')
    if (source / folder.CONFIG).is_file():
        return _into(partial, destination, lambda: _bring(source, partial, destination))
    if (source / durable_files.EXPERIMENT).is_file():
        return _into(partial, destination, lambda: _export(source, partial, destination, shard_bytes))
    raise config.InputError(
        f'{source} holds neither {folder.CONFIG} of Hugging Face nor {durable_files.EXPERIMENT} of a run. '
        'Pass one of the two.'
    )


def _into(partial: pathlib.Path, destination: pathlib.Path, action: Callable[[], Converted]) -> Converted:
    try:
        result = action()
        partial.rename(destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return result


# ---- from Hugging Face ------------------------------------------------------------------------------------------


def _bring(source: pathlib.Path, partial: pathlib.Path, destination: pathlib.Path) -> Converted:
    opened = folder.Folder(source)
    found = matching.match(opened, huggingface.FAMILIES)
    kinds = matching.dtypes(found, opened)
    shapes, absent = found.shapes, {}
    for path, shape in huggingface.whole(found.model, found.family).items():
        if path not in shapes:
            absent[path] = shape
    experiment = experiments.check(converted.experiment(source.name, found.model))
    workdir.create(epath.Path(partial), experiment)
    durable_files.write_json(epath.Path(partial) / exported.ORIGIN, _origin(opened, found))

    leading = {path: len(each.leading(found.sizes)) for each in found.table.rules for path in each.paths}
    forms = {path: stored_arrays.Form(shape, kinds[path], leading[path]) for path, shape in shapes.items()}
    forms |= {path: stored_arrays.Form(shape, np.dtype(np.float32), 0) for path, shape in absent.items()}
    forms = {initialization.stored_name(path): form for path, form in forms.items()}
    step = epath.Path(partial) / durable_files.CHECKPOINTS / str(STEP)
    stored_arrays.make(step / ITEM, forms)
    store = stored_arrays.Arrays(step / ITEM, {name: form.shape for name, form in forms.items()})
    for path in shapes:
        for index, part in matching.slices(found, opened, path):
            store.write(initialization.stored_name(path), index, part)
    for path, shape in absent.items():
        store.write(initialization.stored_name(path), (), np.zeros(shape, np.float32))
    _seal(step, forms, store, config.to_json(experiment))
    told = exported.bring_tokenizer(source, epath.Path(partial))
    missing = [f'The files hold no {name}; it is zeros.' for name in found.family.absent(found.table)]
    size = sum(entry.size_bytes for entry in opened.entries.values())
    return Converted(destination, len(opened.entries), size, (*found.notes, *missing, *told))


def _origin(opened: folder.Folder, found: matching.Match) -> dict[str, Any]:
    entries = opened.entries
    return {
        'config': opened.config,
        'model': config.to_json(found.model),
        'table': found.family.tables(found.model).index(found.table),
        'copies': {key: entries[key].dtype.name for key in found.copies},
    }


def _seal(
    step: epath.Path,
    forms: Mapping[str, stored_arrays.Form],
    store: stored_arrays.Arrays,
    experiment: Mapping[str, Any],
) -> None:
    """Writes the record that makes a directory a checkpoint."""
    described = {
        name: {'shape': list(form.shape), 'dtype': form.dtype.name, 'checksum': store.sums[name].text}
        for name, form in forms.items()
    }
    record = {
        'format': integrity.FORMAT,
        'step': STEP,
        'experiment': integrity.fingerprint(experiment, differences.CIRCUMSTANCES),
        'position': {'step': STEP},
        'metrics': {},
        'arrays': {ITEM: described},
        'files': integrity.describe_files(step),
    }
    (step / integrity.RECORD).write_text(integrity.seal(record))


# ---- to Hugging Face --------------------------------------------------------------------------------------------


class Naming(NamedTuple):
    """How the files of a model are to look."""

    values: dict[str, Any]  # config.json
    family: family.Family
    table: rules.TensorRules
    copies: dict[str, np.dtype]
    is_ours: bool = True  # Whether config.json is written by us, and not as it was once converted.


def _export(source: pathlib.Path, partial: pathlib.Path, destination: pathlib.Path, shard_bytes: int) -> Converted:
    run = directory.open_run(source)
    if not run.checkpoints:
        raise config.InputError(f'{source} holds no checkpoint yet; train it first.')
    model, step = run.experiment.model, epath.Path(source) / durable_files.CHECKPOINTS / str(run.checkpoints[-1])
    naming = _naming(source, run)
    try:
        record = integrity.check(step, step=int(step.name), ours=lineage.Lineage.of(run.path).made, items=(ITEM,))
    except integrity.DamagedCheckpoint as error:
        raise config.InputError(f'Checkpoint {step} is damaged: {error}. Move it away to use the one before.') from None
    stored = record['arrays'][ITEM]
    sizes = naming.family.sizes(model)
    _check_arrays(step, stored, huggingface.whole(model, naming.family))
    tensors = naming.table.tensors(sizes)
    average = run.experiment.ema is not None and run.experiment.ema.evaluate
    names = {
        key: [_name(stored, slot.path, average=average) for slot in tensor.slots] for key, tensor in tensors.items()
    }
    kinds = {key: np.dtype(_dtype(stored, tensor)) for key, tensor in tensors.items()}
    contents = {key: (tensor.layout.file, kinds[key]) for key, tensor in tensors.items()}
    copied = {key: naming.table.copied()[key] for key in naming.copies}
    for key, copy in copied.items():
        assert copy.of is not None or copy.formula is not None
        shape = contents[copy.of][0] if copy.of is not None else copy.formula(sizes).shape  # type: ignore[misc]
        contents[key] = (shape, naming.copies[key])

    store = stored_arrays.Arrays(step / ITEM, {name: tuple(facts['shape']) for name, facts in stored.items()})
    repeated: dict[str, list[str]] = {}
    for key, copy in copied.items():
        repeated.setdefault(copy.of or key, []).append(key)
    partial.mkdir(parents=True)
    with Shards(partial, contents, shard_bytes) as shards:
        for key, tensor in tensors.items():
            value = tensor.layout.write([store.read(name, slot.at) for name, slot in zip(names[key], tensor.slots)])
            for each in (key, *repeated.get(key, ())):
                shards.write(each, value)
        for key, copy in copied.items():
            if copy.formula is not None:
                shards.write(key, copy.formula(sizes).astype(naming.copies[key]))
    _check_sums(step, store, stored, {name for each in names.values() for name in each})
    dtypes = {kind.name for kind in kinds.values()}
    named = {'dtype': dtypes.pop()} if len(dtypes) == 1 and naming.is_ours else {}
    (partial / folder.CONFIG).write_text(json.dumps(naming.values | named, indent=2) + '\n')
    for name, content in exported.tokenizer_files(epath.Path(source)).items():
        (partial / name).write_bytes(content)
    size = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in contents.values())
    absent = [f'{name} is not in such files; left out.' for name in naming.family.absent(naming.table)]
    return Converted(destination, len(contents), size, tuple(absent))


def _naming(source: pathlib.Path, run: directory.Run) -> Naming:
    """As the files were from which the run was converted; else as the family writes them."""
    path, model = epath.Path(source) / exported.ORIGIN, run.experiment.model
    if path.exists():
        kept = durable_files.read_json(path)
        known = matching.family_of(kept['config'], huggingface.FAMILIES, str(path))
        known.check_same(config.from_json(kept['model']), model, str(path))
        table: rules.TensorRules = known.tables(model)[kept['table']]
        return Naming(
            kept['config'], known, table, {key: np.dtype(name) for key, name in kept['copies'].items()}, is_ours=False
        )
    problems = []
    for known in exported.families(run):
        try:
            values = known.config_of(model) | exported.other_fields(run, known)
            return Naming(values, known, known.tables(model)[0], {})
        except config.InputError as error:
            problems.append(f'{known.model_types[0]}: {error}')
    if not problems:
        raise config.InputError(f'{source}: Hugging Face has no model like a {type(model).__name__} of ours.')
    raise config.InputError(f'{source}: the model is of no family that is supported.\n' + '\n'.join(problems))


def _dtype(stored: Mapping[str, Any], tensor: rules.Tensor) -> str:
    kinds = {stored[initialization.stored_name(slot.path)]['dtype'] for slot in tensor.slots}
    if len(kinds) > 1:
        raise config.InputError(f'{tensor.key} holds parameters of {", ".join(sorted(kinds))}; convert them to one.')
    return kinds.pop()


def _check_arrays(step: epath.Path, stored: Mapping[str, Any], shapes: Mapping[str, rules.Shape]) -> None:
    there = {name: tuple(facts['shape']) for name, facts in stored.items() if not name.startswith(AVERAGE)}
    wanted = {initialization.stored_name(path): shape for path, shape in shapes.items()}
    wrong = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
    if wrong:
        name = wrong[0]
        raise config.InputError(
            f'{step}: {name} is {there.get(name)}, but a file of this family holds {wanted.get(name)} '
            f'({len(wrong)} such arrays).'
        )


def _name(stored: Mapping[str, Any], path: str, *, average: bool) -> str:
    """The array that is written for a parameter: its moving average, if that is asked for and there is one."""
    return AVERAGE + path if average and AVERAGE + path in stored else initialization.stored_name(path)


def _check_sums(
    step: epath.Path, store: stored_arrays.Arrays, stored: Mapping[str, Any], read: Collection[str]
) -> None:
    names = sorted(read)
    try:
        integrity.check_sums(names, [store.sums[name].text for name in names], stored)
    except integrity.DamagedCheckpoint as error:
        raise config.InputError(f'Checkpoint {step} is damaged: {error}.') from None


class Shards:
    """One file of tensors, or several and their index, written tensor by tensor; a context manager."""

    def __init__(self, path: pathlib.Path, contents: Mapping[str, tuple[rules.Shape, np.dtype]], shard_bytes: int):
        groups: list[dict[str, tuple[rules.Shape, np.dtype]]] = [{}]
        filled = total = 0
        for key, (shape, dtype) in contents.items():
            size = int(np.prod(shape)) * dtype.itemsize
            if groups[-1] and filled + size > shard_bytes:
                groups.append({})
                filled = 0
            groups[-1][key] = (shape, dtype)
            filled, total = filled + size, total + size
        names = [folder.SINGLE]
        if len(groups) > 1:
            names = [f'model-{i:05d}-of-{len(groups):05d}.safetensors' for i in range(1, len(groups) + 1)]
            index = {key: name for name, group in zip(names, groups) for key in group}
            text = json.dumps({'metadata': {'total_size': total}, 'weight_map': index}, indent=2)
            (path / folder.INDEX).write_text(text + '\n')
        self._writers = [tensor_file.TensorWriter(path / name, group) for name, group in zip(names, groups)]
        self._of = {key: writer for writer, group in zip(self._writers, groups) for key in group}

    def write(self, key: str, tensor: np.ndarray) -> None:
        """Writes one tensor."""
        self._of[key].write(key, tensor)

    def __enter__(self) -> 'Shards':
        return self

    def __exit__(self, *error: Any) -> None:
        for writer in self._writers:
            writer.__exit__(*error)
