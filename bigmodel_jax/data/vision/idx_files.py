"""Images and labels in the IDX files of MNIST, Fashion-MNIST and their relatives, as records."""

import dataclasses
import gzip
import hashlib
import math
import zlib

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import records, splits
from bigmodel_jax.data.sources import files, npz

BYTES = b'\x00\x00\x08'  # How files of uint8 begin; the number of dimensions follows.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Idx(records.Source):
    """Two IDX files of bytes, plain or compressed by gzip; record i has `image`, [Y, X] uint8, and `label`.

    They are held in memory.

    Source: http://yann.lecun.com/exdb/mnist, 'the IDX file format'.
    """

    images: str  # Path of the file with [n, Y, X] bytes: train-images-idx3-ubyte.gz;
    labels: str  # and of the one with [n]: train-labels-idx1-ubyte.gz.
    part: splits.Subset | None = None

    def open(self) -> npz.ArrayRecords:
        (images, images_hash), (labels, labels_hash) = _read(self.images, rank=3), _read(self.labels, rank=1)
        if len(images) != len(labels) or not len(labels):
            raise config.InputError(
                f'{self.images} has {len(images)} images and {self.labels} {len(labels)} labels; give two files that '
                'belong together.'
            )
        found, fingerprint = {'image': images, 'label': labels}, {'sha256': [images_hash, labels_hash]}
        if self.part is None:
            return npz.ArrayRecords(self.images, found, fingerprint)
        chosen = self.part.select(range(len(labels)), self.images)
        selected = {name: array[chosen] for name, array in found.items()}
        return npz.ArrayRecords(self.images, selected, {**fingerprint, 'part': config.to_json(self.part)})


def _read(name: str, *, rank: int) -> tuple[np.ndarray, str]:
    """The array in a file, and the hash of the file."""
    path = files.path_of(name)
    stored = files.read_bytes(path)
    try:
        content = gzip.decompress(stored) if stored.startswith(b'\x1f\x8b') else stored
    except (OSError, EOFError, zlib.error) as error:
        raise config.InputError(f'{path} is not a whole gzip file: {error}') from error
    start = 4 + 4 * rank
    if content[:4] != BYTES + bytes([rank]) or len(content) < start:
        raise config.InputError(
            f'{path} is not an IDX file of bytes with {rank} dimensions: such a file begins with '
            f'{(BYTES + bytes([rank])).hex(" ")}, but this one with {content[:4].hex(" ") or "nothing"}.'
        )
    shape = tuple(np.frombuffer(content[4:start], '>u4').tolist())
    if math.prod(shape) != len(content) - start:
        raise config.InputError(
            f'{path} says that it holds {" x ".join(map(str, shape))} bytes, but has {len(content) - start}; it is cut '
            'off or damaged.'
        )
    return np.frombuffer(content[start:], np.uint8).reshape(shape), hashlib.sha256(stored).hexdigest()
