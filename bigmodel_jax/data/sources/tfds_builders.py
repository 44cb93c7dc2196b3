"""The one door to TensorFlow Datasets: splits of its data sets as records, read at random without TensorFlow."""

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import requests
import tensorflow_datasets as tfds
from absl import logging

from bigmodel_jax import config
from bigmodel_jax.data import builders, preparation_progress, records  # noqa: F401  `builders` registers ours.

# Without TensorFlow, TFDS registers the data sets of these folders only when they are imported.
TEXT_FOLDERS = ('question_answering', 'structured', 'summarization', 'text', 'text_simplification', 'translate')
FORMAT = 'array_record'  # The format that can be read at random; TFDS's default needs TensorFlow.


def fingerprint_of(builder: Any, found: Any, split: str) -> dict[str, Any]:
    """JSON-ready: which data set, version and split this is, and how large."""
    info = builder.info.splits[split.split('[')[0]] if '+' not in split else None
    return {
        'tfds': builder.info.full_name,
        'split': split,
        'examples': len(found),
        'bytes': int(info.num_bytes if info else builder.info.dataset_size),
        'shards': list(info.shard_lengths) if info else None,
    }


def open_split(name: str, *, split: str, data_dir: str | None) -> 'TfdsRecords':
    """The records of one split; the data set is prepared first if it is not.

    Raises:
      InputError: an unknown name, configuration, version or split; or it cannot be prepared here.
    """
    builder = _builder(name, data_dir or os.environ.get('TFDS_DATA_DIR'))
    with _quiet():
        prepared = builder.is_prepared()
    if not prepared:
        _prepare(builder)
    try:
        found = builder.as_data_source(split=split)
    except NotImplementedError as error:
        raise config.InputError(
            f'{name} was prepared in {builder.data_path} in a format that cannot be read at random. Prepare it again '
            f'elsewhere: tfds build {name} --file_format={FORMAT} --data_dir=DIR, and use Tfds(..., data_dir=DIR).'
        ) from error
    except (ValueError, KeyError, AssertionError) as error:
        known = ', '.join(builder.info.splits)
        raise config.InputError(
            f'{name} cannot give the split {split!r}: {error} Its splits: {known}; parts: train[:10%], train[5000:].'
        ) from error
    if not len(found):
        raise config.InputError(f'The split {split!r} of {name} is empty.')
    return TfdsRecords(builder, found, split)


class TfdsRecords(records.Records):
    """The records of a split. Text is given as the bytes that TFDS stores; records.text() decodes it."""

    def __init__(self, builder: Any, found: Any, split: str):
        self.name, self._records = f'{builder.info.full_name} {split}', found
        self.fingerprint = fingerprint_of(builder, found, split)

    def __len__(self) -> int:
        return len(self._records)

    def read(self, start: int, stop: int) -> list[records.Record]:
        return self.gather(range(start, stop))

    def gather(self, indices: Sequence[int]) -> list[records.Record]:
        # In batches: TFDS reads them several times faster than records one by one.
        return self._records.__getitems__(list(indices))

    def where(self, index: int) -> str:
        return f'Example {index} of {self.name}'


def _builder(name: str, data_dir: str | None) -> Any:  # TFDS hides its signatures from type checkers.
    base = name.split('/')[0].split(':')[0]
    if base not in _names():
        for folder in TEXT_FOLDERS:
            importlib.import_module(f'tensorflow_datasets.{folder}')
    try:
        with _quiet():
            return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = config.nearest(base, _names())
        if not known.startswith(' Did'):
            known = ' The catalogue: https://www.tensorflow.org/datasets/catalog/overview.'
        raise config.InputError(f'TFDS has no data set {name!r}.{known}') from error
    except ImportError as error:
        raise config.InputError(_needs(name, error)) from error
    except (ValueError, AssertionError) as error:  # An unknown configuration or version, or a name that is none.
        raise config.InputError(f'TFDS cannot open {name!r}.{_known_parts(base, name)}') from error


def _names() -> list[str]:
    return tfds.list_builders(with_community_datasets=False)


def _known_parts(base: str, name: str) -> str:
    """The configurations or versions that `name` could have meant."""
    if base not in _names():
        return ' Write it as name, name/configuration, or name/configuration:version.'
    builder = tfds.builder_cls(base)
    configurations = [each.name for each in builder.BUILDER_CONFIGS]
    chosen = name.partition('/')[2].partition(':')[0]
    if chosen and chosen not in configurations:
        return f' {base} has no configuration {chosen!r}.{config.nearest(chosen, configurations)}'
    return f' Its version here: {builder.VERSION}.'


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS warns of every data set that is not prepared yet; we prepare it."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _prepare(builder: tfds.core.DatasetBuilder) -> None:
    name = builder.info.full_name
    preparation_progress.say(f'Preparing {name} in {builder.data_path} (once).')
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    settings = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        # What TFDS prints here says no more than our own line; its progress bars are on stderr.
        with _quiet(), contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=settings, file_format=FORMAT)
    except ImportError as error:
        raise config.InputError(_needs(name, error)) from error
    except requests.RequestException as error:
        raise config.InputError(f'{name} could not be downloaded: {error}') from error
    except OSError as error:
        # Another process may have finished first; TFDS then finds the place taken.
        if not builder.is_prepared():
            raise config.InputError(f'{name} could not be prepared in {builder.data_path}: {error}') from error
        builder.info.read_from_directory(builder.data_path)


def _needs(name: str, error: ImportError) -> str:
    module = (error.name or '').split('.')[0]
    package = {'tensorflow': 'tensorflow-cpu', 'importlib_resources': 'importlib-resources'}.get(module, module)
    advice = f'Install it: pip install {package}.' if package else ''
    return f'Preparing {name} needs a package that is not installed ({error}). {advice}'.strip()
