"""A directory of Hugging Face to a run's directory and back, one tensor at a time.

At no time more than two slices are held in memory: one as it is in the file, mapped from the disk, and one as it is
here; a slice is one tensor of one layer (of one expert). What is not yet whole has another name: DST.partial.
"""

import functools
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bigmodel_jax import config, differences, initialization
from bigmodel_jax import experiment as experiments
from bigmodel_jax.interop import converted, exported, family, huggingface, matching, rules
from bigmodel_jax.interop.files import folder, shards, stored_arrays
from bigmodel_jax.interop.model_arrays import ITEM, CheckpointArrays, MergedArrays
from bigmodel_jax.interop.peft import adapter_files, adapter_tensors, base_weights, exporting, importing, merging
from bigmodel_jax.quantization.quantization import PostTraining
from bigmodel_jax.run_directory import workdir
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files, integrity
from bigmodel_jax.train.weights import weight_storage

STEP = 0  # Of the checkpoint of converted weights.
AVERAGE = 'ema.'  # What the paths of moving averages begin with in a checkpoint.
SHARD_BYTES = 5_000_000_000  # As the reference implementation cuts its files.


class Converted(NamedTuple):
    """What was done."""

    path: pathlib.Path
    tensors: int  # Of the Hugging Face files.
    size_bytes: int
    notes: tuple[str, ...]  # What was not used, a sentence each.


def convert(
    source: epath.PathLike,
    destination: epath.PathLike,
    *,
    base: epath.PathLike | None = None,
    merge: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Converted:
    """Converts a directory of Hugging Face to that of a run, or the newest checkpoint of a run to Hugging Face.

    A run with an adapter (adapters/lora.py) becomes an adapter of PEFT, or with `merge` a whole model.

    Args:
      source: holds config.json, or adapter_config.json, or is the directory of a run; it is only read.
      destination: a directory that does not exist yet.
      base: the directory of Hugging Face of the model to which an adapter of PEFT belongs.
      merge: adapters are added to the weights of their model, and a certificate says what rounding changed.
      shard_bytes: a file of tensors is not made larger, unless one tensor is.

    Raises:
      InputError: one is neither, the destination exists, or the weights cannot be converted.
    """
    source, destination = (pathlib.Path(path).expanduser().absolute() for path in (source, destination))
    partial = destination.parent / f'{destination.name}.partial'
    for path in (destination, partial):
        if path.exists():
            raise config.InputError(f'{path} exists already; nothing was changed. Use another DST, or move it away.')
    is_adapter = adapter_files.is_adapter(source)
    if is_adapter != (base is not None):
        raise config.InputError(
            f'{source} holds an adapter of PEFT, which needs the model to which it belongs: pass its directory, with '
            '--base (base=...).'
            if is_adapter
            else f'base={base}: {source} holds no {adapter_files.CONFIG} of an adapter; leave it out.'
        )
    if base is not None:
        adapter, of = adapter_files.read(source), pathlib.Path(base).expanduser().absolute()
        return _into(partial, destination, lambda: _bring(of, partial, destination, adapter))
    if (source / folder.CONFIG).is_file():
        return _into(partial, destination, lambda: _bring(source, partial, destination))
    if (source / durable_files.EXPERIMENT).is_file():
        return _into(
            partial, destination, lambda: _export(source, (partial, destination), merge=merge, shard_bytes=shard_bytes)
        )
    raise config.InputError(
        f'{source} holds neither {folder.CONFIG} of Hugging Face nor {adapter_files.CONFIG} of PEFT nor '
        f'{durable_files.EXPERIMENT} of a run. Pass one of them.'
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


def _bring(
    source: pathlib.Path,
    partial: pathlib.Path,
    destination: pathlib.Path,
    adapter: adapter_files.AdapterFiles | None = None,
) -> Converted:
    opened = folder.Folder(source)
    found = matching.match(opened, huggingface.FAMILIES)
    kinds = matching.dtypes(found, opened)
    shapes, absent = found.shapes, {}
    for path, shape in huggingface.whole(found.model, found.family).items():
        if path not in shapes:
            absent[path] = shape
    experiment = experiments.check(converted.experiment(source.name, found.model))
    added, notes = {}, []
    if adapter is not None:
        experiment, added, notes = _adapted(experiment, adapter, opened, found)
    workdir.create(epath.Path(partial), experiment)
    origin = _origin(opened, found) | ({} if adapter is None else {'adapter': adapter.values})
    durable_files.write_json(epath.Path(partial) / exported.ORIGIN, origin)

    leading = {path: len(each.leading(found.sizes)) for each in found.table.rules for path in each.paths}
    forms = {path: stored_arrays.Form(shape, kinds[path], leading[path]) for path, shape in shapes.items()}
    forms |= {path: stored_arrays.Form(shape, np.dtype(np.float32), 0) for path, shape in absent.items()}
    forms |= {path: stored_arrays.Form(array.shape, array.dtype, 0) for path, array in added.items()}
    forms = {initialization.stored_name(path): form for path, form in forms.items()}
    step = epath.Path(partial) / durable_files.CHECKPOINTS / str(STEP)
    stored_arrays.make(step / ITEM, forms)
    store = stored_arrays.Arrays(step / ITEM, {name: form.shape for name, form in forms.items()})
    for path in shapes:
        for index, part in matching.slices(found, opened, path):
            store.write(initialization.stored_name(path), index, part)
    for path, shape in absent.items():
        store.write(initialization.stored_name(path), (), np.zeros(shape, np.float32))
    for path, array in added.items():
        store.write(initialization.stored_name(path), (), array)
    _seal(step, forms, store, config.to_json(experiment))
    told = exported.bring_tokenizer(source, epath.Path(partial))
    missing = [f'The files hold no {name}; it is zeros.' for name in found.family.absent(found.table)]
    size = sum(entry.size_bytes for entry in opened.entries.values())
    return Converted(destination, len(opened.entries), size, (*found.notes, *missing, *told, *notes))


def _adapted(
    experiment: experiments.Experiment,
    adapter: adapter_files.AdapterFiles,
    opened: folder.Folder,
    found: matching.Match,
) -> tuple[experiments.Experiment, dict[str, np.ndarray], list[str]]:
    """The experiment with an adapter of PEFT, the arrays of the adapter by their path, and the notes."""
    inputs = weight_storage.of_experiment(experiment).inputs
    brought = importing.imported(adapter, adapter_tensors.modules(found.table, found.sizes, inputs))
    shapes = base_weights.shared_shapes(found.family, found.model)
    digest = base_weights.digest(shapes, lambda path: matching.slices(found, opened, path))
    told = base_weights.check(adapter.base, digest, adapter=adapter.path, base=opened.path)
    notes = [f'The adapter has {len(adapter.tensors)} tensors.', *filter(None, [told])]
    return config.vary(experiment, {'adapter': brought.config}), brought.arrays, notes


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
    adapter: dict[str, Any] | None = None  # adapter_config.json, of a run that was converted with an adapter.

    @property
    def task(self) -> str | None:
        """What PEFT calls the task of the model."""
        names = ' '.join(self.values.get('architectures') or ())
        tasks = {'CausalLM': 'CAUSAL_LM', 'LMHead': 'CAUSAL_LM', 'ConditionalGeneration': 'SEQ_2_SEQ_LM'}
        return next((task for part, task in tasks.items() if part in names), None)


def _export(
    source: pathlib.Path, into: tuple[pathlib.Path, pathlib.Path], *, merge: bool, shard_bytes: int
) -> Converted:
    run = directory.open_run(source)
    if not run.checkpoints:
        raise config.InputError(f'{source} holds no checkpoint yet; train it first.')
    model, naming, (partial, destination) = run.experiment.model, _naming(source, run), into
    if run.experiment.adapter is not None and not merge:
        return _export_adapter(run, naming, partial, destination)
    store = MergedArrays(merging.merge(run)) if merge else CheckpointArrays(run)
    stored, sizes = store.stored, naming.family.sizes(model)
    _check_arrays(store.where, stored, huggingface.whole(model, naming.family))
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

    repeated: dict[str, list[str]] = {}
    for key, copy in copied.items():
        repeated.setdefault(copy.of or key, []).append(key)
    partial.mkdir(parents=True)
    with shards.Shards(partial, contents, shard_bytes, naming.family.stem) as files:
        for key, tensor in tensors.items():
            value = tensor.layout.write([store.read(name, slot.at) for name, slot in zip(names[key], tensor.slots)])
            for each in (key, *repeated.get(key, ())):
                files.write(each, value)
        for key, copy in copied.items():
            if copy.formula is not None:
                files.write(key, copy.formula(sizes).astype(naming.copies[key]))
    store.check({name for each in names.values() for name in each})
    dtypes = {kind.name for kind in kinds.values()}
    named = {'dtype': dtypes.pop()} if len(dtypes) == 1 and naming.is_ours and 'model_type' in naming.values else {}
    (partial / folder.CONFIG).write_text(json.dumps(naming.values | named, indent=2) + '\n')
    for name, content in {**exported.tokenizer_files(epath.Path(source)), **store.files}.items():
        (partial / name).write_bytes(content)
    size = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in contents.values())
    absent = [f'{name} is not in such files; left out.' for name in naming.family.absent(naming.table)]
    return Converted(destination, len(contents), size, (*absent, *store.notes))


def _export_adapter(run: directory.Run, naming: Naming, partial: pathlib.Path, destination: pathlib.Path) -> Converted:
    """Writes the adapter of a run as PEFT does, and which weights it belongs to."""
    experiment, store = run.experiment, CheckpointArrays(run)
    storage, sizes = weight_storage.of_experiment(experiment), naming.family.sizes(experiment.model)
    assert storage.adapters is not None
    average = experiment.ema is not None and experiment.ema.evaluate
    read = functools.cache(lambda path: store.read(_name(store.stored, path, average=average), ()))
    shapes = base_weights.shared_shapes(naming.family, experiment.model)
    in_few_bits = isinstance(storage.how, PostTraining)
    if in_few_bits:
        # The weights before they were rounded, to which the adapter is added elsewhere, are not in the run.
        digest = base_weights.recorded(run.environment, shapes)
    else:
        digest = base_weights.digest(shapes, lambda path: [((), read(path))])
    kept = {} if naming.adapter is None else naming.adapter
    said = {name: kept[name] for name in adapter_files.SILENT & kept.keys()} if kept else {'task_type': naming.task}
    count = exporting.export(
        partial,
        experiment.adapter,
        adapter_tensors.modules(naming.table, sizes, storage.inputs),
        targets=storage.adapters.factorizations,
        read=read,
        said=said,
        digest=digest,
    )
    store.check(store.names_read)
    size = (partial / adapter_files.TENSORS).stat().st_size
    notes = ['An adapter of PEFT, without the weights of its model.']
    if digest is None:
        notes.append(
            'Those are stored in few bits, and the run did not begin with weights of the same parameters, so that the '
            'adapter does not say by a digest to which weights it belongs.'
        )
    return Converted(destination, count, size, tuple(notes))


def _naming(source: pathlib.Path, run: directory.Run) -> Naming:
    """As the files were from which the run was converted; else as the family writes them."""
    path, model = epath.Path(source) / exported.ORIGIN, run.experiment.model
    if path.exists():
        kept = durable_files.read_json(path)
        known = matching.family_of(kept['config'], huggingface.FAMILIES, str(path))
        known.check_same(config.from_json(kept['model']), model, str(path))
        table: rules.TensorRules = known.tables(model)[kept['table']]
        return Naming(
            kept['config'],
            known,
            table,
            {key: np.dtype(name) for key, name in kept['copies'].items()},
            is_ours=False,
            adapter=kept.get('adapter'),
        )
    problems = []
    for known in exported.families(run):
        try:
            values = known.config_of(model) | exported.other_fields(run, known)
            return Naming(values, known, known.written(model), {})
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
