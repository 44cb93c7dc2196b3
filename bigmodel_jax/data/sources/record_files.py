"""Records in files, found by their byte offsets."""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from bigmodel_jax.data import cache, records
from bigmodel_jax.data.sources import files
from bigmodel_jax.data.text import encoding

BLOCK_BYTES = 2**20


class RecordFile(NamedTuple):
    """A file whose records are found by their byte offsets."""

    path: epath.Path  # As it was named.
    plain: epath.Path  # What is read: the same, or its decompressed copy in the cache.
    sha256: str  # Of `path`.
    lines: files.Index  # Of `plain`.


def record_file(path: epath.Path, read: Callable[[epath.Path], files.Index] = files.index) -> RecordFile:
    """The file, decompressed into the cache if it is compressed.

    Args:
      read: files.index, or files.content where lines are not needed.

    Raises:
      InputError: it cannot be read, or is in another encoding.
    """
    index = read(path)
    if index.form is None:
        return RecordFile(path, path, index.sha256, index)
    if index.form.unpack is None:
        raise encoding.refusal(index.form, str(path))

    def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
        with files.unpacked(path) as packed, (directory / 'plain').open('wb') as plain:
            while block := packed.read(BLOCK_BYTES):
                plain.write(block)

    plain = epath.Path(cache.prepared('plain', {'sha256': index.sha256}, make) / 'plain')
    return RecordFile(path, plain, index.sha256, read(plain))


class FileRecords(records.Records):
    """Records of files, found by their byte offsets. Subclasses say how the bytes of a record are read.

    Args:
      starts, ends: of each file, [records] int64: where the bytes of each record begin and end.
    """

    def __init__(
        self, name: str, paths: Sequence[RecordFile], starts: Sequence[np.ndarray], ends: Sequence[np.ndarray]
    ):
        self.name, self._files, self._starts, self._ends = name, list(paths), starts, ends
        self._firsts = np.cumsum([0, *map(len, starts)])

    def parse(self, content: bytes, number: int, starts: np.ndarray, ends: np.ndarray) -> list[records.Record]:
        """Records of file `number`; `content` are its bytes from starts[0] to ends[-1]."""
        raise NotImplementedError

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def read(self, start: int, stop: int) -> list[records.Record]:
        found: list[records.Record] = []
        for number in range(len(self._files)):
            first, last = self._firsts[number : number + 2]
            inside = slice(max(start - first, 0), min(stop - first, last - first))
            if inside.start < inside.stop:
                found += self._read_file(number, self._starts[number][inside], self._ends[number][inside])
        return found

    def _read_file(self, number: int, starts: np.ndarray, ends: np.ndarray) -> list[records.Record]:
        of = self._files[number]
        with files.readable(of.plain) as file:
            file.seek(int(starts[0]))
            content = file.read(int(ends[-1] - starts[0]))
            self._files[number] = of._replace(lines=files.unchanged(of.plain, file, of.lines))
        return self.parse(content, number, starts, ends)

    def where(self, index: int) -> str:
        number = int(np.searchsorted(self._firsts, index, side='right')) - 1
        return self.line(number, int(self._starts[number][index - self._firsts[number]]))

    def line(self, number: int, start: int) -> str:
        """'PATH, line N' for the line of file `number` that begins at byte `start`."""
        of = self._files[number]
        return files.line_at(of.plain, start).replace(str(of.plain), str(of.path), 1)
