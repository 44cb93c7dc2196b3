"""The newest model of a run as a directory that works without this package: programs, weights, tokenizer and card.

  programs/*.jax_export  StableHLO for CPU, CUDA and TPU, see programs.py
  weights*.safetensors   the weights by the paths of the parameters; several files and their index above 5 GB
  signature.json         what the programs take and give
  tokenizer/             the tokenizer of the run, if it has one
  fitted/                what the columns of a table were standardised by, if there are any
  origin.json            the experiment, the step, and the verdicts
  README.md              the model card
  load.py                the loader, which needs jax, numpy and flatbuffers
  SHA256SUMS             the checksums of all of these

What is not yet whole has another name: DIR.partial.
"""

import hashlib
import pathlib
import shutil
from typing import Any, NamedTuple

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.data.tabular import fitting
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.export import card, dimensions, loader, named_arrays, programs, signature
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import identity
from bigmodel_jax.runs import directory, requirements, restored_model
from bigmodel_jax.storage import durable_files

LOADER = 'load.py'
COPIED = (tokenizers.FOLDER, fitting.FOLDER)
SUFFIX = '.partial'


class ExportOptions(NamedTuple):
    """How a model is exported.

    Attributes:
      step: of the checkpoint; None: the newest.
      weights: 'trained' or 'ema'; None: those that evaluations use.
      dtype: in which the weights are stored; None: as they are.
      fixed: sizes for which the programs are made, where a model has none for all of them.
      license: an SPDX identifier, for the card; None: it says that none is named.
      shard_bytes: of a file of weights at most; by default as transformers cuts them.
      anyway: also a run that does not meet what its experiment requires.
    """

    step: int | None = None
    weights: restored_model.Which | None = None
    dtype: str | None = None
    fixed: dimensions.FixedSizes = dimensions.FixedSizes()
    license: str | None = None
    shard_bytes: int = 5 * 10**9
    anyway: bool = False


class ExportedDirectory(NamedTuple):
    """What was written."""

    path: pathlib.Path
    signature: dict[str, Any]
    size_bytes: int


def export(
    run: directory.Run, destination: epath.PathLike, options: ExportOptions | None = None, experiment: Any = None
) -> ExportedDirectory:
    """Writes the model of a run as a portable directory.

    Args:
      destination: a local directory that does not exist yet.
      experiment: the run's own, where its file defines parts of it; by default as it is stored.

    Raises:
      InputError: the destination exists, the run has no such checkpoint, does not meet its requirements, or its model
        has no program for all sizes.
    """
    options = ExportOptions() if options is None else options
    path = pathlib.Path(destination).expanduser().absolute()
    partial = path.with_name(path.name + SUFFIX)
    for each in (path, partial):
        if each.exists() or each.is_symlink():
            raise config.InputError(f'{each} exists already; nothing was changed. Use another DIR, or move it away.')
    flatbuffers_is_there()
    named_arrays.check_dtype(options.dtype)
    card.check_license(options.license)
    experiment = config.vary(run.experiment if experiment is None else experiment, {'mesh': sharding.MeshShape(data=1)})
    newest = run.checkpoints[-1] if run.checkpoints and options.step is None else options.step
    requirements.check(
        str(run.path), [] if newest is None else requirements.unmet(run, newest), verb='export', anyway=options.anyway
    )
    trained = run.restore(options.step, experiment, weights=options.weights)
    if trained.step != newest:
        missed = requirements.unmet(run, trained.step)
        requirements.check(f'{run.path} at step {trained.step}', missed, verb='export', anyway=options.anyway)
    try:
        return _write(run, trained, partial, options)._replace(path=partial.rename(path))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def flatbuffers_is_there() -> None:
    """Raises InputError if the library is missing by which jax writes and reads programs."""
    try:
        import flatbuffers  # noqa: F401 (jax imports it itself.)
    except ImportError as error:
        raise config.InputError('Programs are stored by flatbuffers: pip install flatbuffers.') from error


def _write(
    run: directory.Run, trained: restored_model.Trained, partial: pathlib.Path, options: ExportOptions
) -> ExportedDirectory:
    of, forced = _to_export(trained, options)
    made = programs.make(of)
    partial.mkdir(parents=True)
    (partial / signature.FOLDER).mkdir()
    for name, each in made.items():
        (partial / signature.file_of(name)).write_bytes(each.exported.serialize())
    flat = checkpoints.flatten(trained.params) | checkpoints.flatten(trained.model_state or {})
    files = named_arrays.write(partial, flat, options.dtype, shard_bytes=options.shard_bytes)
    _copy(run, partial)
    found = signature.describe(made, of, dtype=options.dtype, forced=forced, files=files, facts=_facts(run, trained))
    origin = card.origin(run, trained)
    durable_files.write_json(epath.Path(partial / signature.FILE), found)
    durable_files.write_json(epath.Path(partial / card.ORIGIN), origin)
    shutil.copyfile(loader.__file__, partial / LOADER)
    digests = {name: sha256(partial / name) for name in files}
    (partial / card.FILE).write_text(card.render(run, trained, found, license=options.license, digests=digests))
    sums = {path.relative_to(partial).as_posix(): sha256(path) for path in partial.rglob('*') if path.is_file()}
    (partial / durable_files.SUMS).write_text(''.join(f'{each}  {name}\n' for name, each in sorted(sums.items())))
    size = sum(path.stat().st_size for path in partial.rglob('*') if path.is_file())
    return ExportedDirectory(partial, found, size)


def _to_export(trained: restored_model.Trained, options: ExportOptions) -> tuple[programs.ModelToExport, bool]:
    """What the programs are made from, and whether a kernel was left out that the experiment forces."""
    model, forced = programs.portable(trained.experiment.model)
    state = trained.model_state or {}
    flat = checkpoints.flatten(trained.params) | checkpoints.flatten(state)
    return programs.ModelToExport(
        model=model,
        fields=programs.read_fields(model, trained.experiment.data.fields),
        weights={name: _form(leaf, options.dtype) for name, leaf in flat.items()},
        collections=tuple(state),
        fixed=options.fixed,
        longest=programs.longest_input(model),
    ), forced


def _form(leaf: Any, dtype: str | None) -> Any:
    import jax

    return jax.ShapeDtypeStruct(leaf.shape, named_arrays.stored_dtype(leaf, dtype))


def _facts(run: directory.Run, trained: restored_model.Trained) -> dict[str, Any]:
    tokenizer = identity.tokenizer_of(trained.path, trained.path / durable_files.CHECKPOINTS / str(trained.step))
    facts: dict[str, Any] = {
        'name': run.name,
        'model': type(trained.experiment.model).__name__,
        'step': trained.step,
        'trained_or_ema': trained.weights,
    }
    if tokenizer is not None:
        facts['tokenizer'] = {
            'folder': tokenizers.FOLDER,
            'class': type(tokenizer).__name__,
            'size': tokenizer.size,
            'begin': tokenizer.begin,
            'end': tokenizer.end,
        }
    names = getattr(trained.experiment.data, 'labels', ())
    return facts | ({'labels': list(names)} if isinstance(names, tuple) and names else {})


def _copy(run: directory.Run, partial: pathlib.Path) -> None:
    """Copies the files of the tokenizer and the fitted values of a run; the run's own checksums are compared."""
    for name in sorted(durable_files.known_sums(run.path)):
        if name.partition('/')[0] in COPIED:
            target = partial / name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(durable_files.read_checked(run.path, name))


def sha256(path: pathlib.Path) -> str:
    """The checksum of a file, as text."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
